"""`RedisSeen`: records in Redis, for workers on any number of machines."""

import os
from datetime import timedelta

from sqlsched.durations import duration_seconds
from sqlsched.exactly_once import RETENTION, Seen

try:
    import redis
except ImportError as error:
    raise ImportError(
        "sqlsched.exactly_once.redis needs redis: pip install 'sqlsched[redis]'"
    ) from error


class RedisSeen(Seen):
    """One key for each task id, which Redis forgets after `retention` (int seconds, timedelta).

    As durable as Redis' append-only file. Use a Redis that evicts nothing (`noeviction`).
    """

    def __init__(
        self, url: str, *, prefix: str = "sqlsched:seen:", retention: int | timedelta = RETENTION
    ) -> None:
        self._redis = redis.Redis.from_url(url)
        self._prefix = prefix
        self._retention_s = duration_seconds(retention, "retention")

    def begin(self, key: str) -> bool:
        # The client sends again when an answer was lost: then the record is there, and our own.
        name, token = f"{self._prefix}{key}", os.urandom(16).hex()
        recorded = self._redis.set(name, token, nx=True, ex=self._retention_s)
        return bool(recorded) or self._redis.get(name) in (token, token.encode())

    def take_back(self, key: str) -> None:
        self._redis.delete(f"{self._prefix}{key}")

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._redis.close()
