"""Schedules in Redis, shared by any number of schedulers on any number of machines."""

from sqlsched.sources.redis.source import RedisScheduleSource

__all__ = ["RedisScheduleSource"]
