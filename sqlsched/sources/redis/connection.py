"""The connection to Redis: our scripts, our keys, and errors in one line without secrets."""

import asyncio
import re
from typing import Any, cast

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import RedisError, ResponseError
except ImportError as error:
    raise ImportError(
        "sqlsched.sources.redis needs redis: pip install 'sqlsched[redis]'"
    ) from error

from sqlsched.exceptions import StorageError
from sqlsched.serialization import shorten
from sqlsched.sources.redis import claim_scripts, schedule_scripts
from sqlsched.sources.redis.prelude import KEY_TYPES, PRELUDE

LEASE_MS = 30_000
"""How long a claim, and a process, is believed in without being heard of; milliseconds."""
MAX_CONNECTIONS = 16
WAIT_SECONDS = 30
"""How long a call waits for one of them, when many are under way."""

_SCRIPTS = {
    name.lower(): PRELUDE + text
    for module in (claim_scripts, schedule_scripts)
    for name, text in vars(module).items()
    if name.isupper() and isinstance(text, str)
}
_PREFIX = re.compile(r"[\w.:-]{1,100}", re.ASCII)


class Connection:
    """One Redis, and in it the keys of one prefix.

    `owner` and `member` are who asks: a ledger, and this process of it.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.shown = _without_secrets(url)
        self.owner = self.member = ""
        self._url = url
        self._base = f"{{{_checked_prefix(prefix)}}}"
        self._client: Redis | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scripts: dict[str, Any] = {}
        try:
            parse_url(url)
        except ValueError:
            raise StorageError(
                f"{self.shown} is no Redis URL; give one like redis://host:6379/0"
            ) from None

    async def open(self) -> None:
        """Connect; StorageError if there is no Redis, or the keys are somebody else's."""
        loop = asyncio.get_running_loop()
        if self._client is not None and self._loop is loop:
            return
        # A client of a loop that has ended cannot even be closed any more.
        self._client, self._loop = None, loop
        client = Redis.from_pool(self._pool())
        try:
            await self._check_keys(client)
        except (RedisError, OSError) as error:
            await client.aclose()
            raise self._trouble(error) from error
        except BaseException:
            await client.aclose()
            raise
        self._scripts = {name: client.register_script(text) for name, text in _SCRIPTS.items()}
        self._client = client

    def _pool(self) -> BlockingConnectionPool:
        return BlockingConnectionPool.from_url(
            self._url,
            max_connections=MAX_CONNECTIONS,
            timeout=WAIT_SECONDS,
            decode_responses=True,
            encoding_errors="surrogateescape",  # whatever others wrote is to be read, not to fail
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), 3),
            socket_timeout=10,
            socket_connect_timeout=5,
            health_check_interval=30,
        )

    async def close(self) -> None:
        """Disconnect; `open` may follow."""
        client, self._client = self._client, None
        # One of a loop that has ended cannot even be closed any more.
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def run(self, name: str, *arguments: str) -> Any:
        """What a script answers. A script may run twice, if an answer to it was lost."""
        await self.open()
        everything = [self.owner, self.member, str(LEASE_MS), *arguments]
        try:
            return await self._scripts[name](keys=[self._base], args=everything)
        except (RedisError, OSError) as error:
            if "WRONGTYPE" in str(error) and self._client is not None:
                await self._check_keys(self._client)
            raise self._trouble(error) from error

    async def _check_keys(self, client: Redis) -> None:
        """StorageError if one of our keys is of another type than we give it."""
        for name, expected in KEY_TYPES.items():
            key = f"{self._base}:{name}"
            found = await cast("Any", client.type(key))
            if found not in (expected, "none"):
                raise StorageError(
                    f"{self.shown}: the key {key} is a {found} and not a {expected}, so it is "
                    "not ours; give another prefix"
                )

    def _trouble(self, error: Exception) -> StorageError:
        line = " ".join(str(error).split()) or type(error).__name__
        what = "refuses" if isinstance(error, ResponseError) else "cannot be reached"
        return StorageError(f"{self.shown} {what}: {line}")


def _checked_prefix(prefix: str) -> str:
    if _PREFIX.fullmatch(prefix):
        return prefix
    raise StorageError(
        f"prefix {shorten(prefix)}: give up to 100 letters, digits, dots, colons, underscores or "
        "hyphens"
    )


def _without_secrets(url: str) -> str:
    """The URL without user, password and options, for messages."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if rest else "the given text"
