"""The log of `sqlsched run`: one line for each event, on stderr."""

import json
import logging
import sys

from sqlsched.instants import format_us

_BUILT_IN = frozenset(vars(logging.makeLogRecord({})))


class JsonFormatter(logging.Formatter):
    """One JSON object for each line, with whatever the event carries."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {key: value for key, value in vars(record).items() if key not in _BUILT_IN}
        line = {
            "time": format_us(round(record.created * 1e6)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        time = format_us(round(record.created * 1e3) * 1000).replace("000+", "+")
        text = f"{time} {record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure_logging(level: str, log_format: str) -> None:
    """Send the program's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
