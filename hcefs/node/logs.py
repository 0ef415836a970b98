"""Logging of a process: human lines or one JSON object a line, on standard error.

Messages name ids, kinds and reasons; keys, tokens, plaintext and labels are never
passed to a logger anywhere, so nothing has to be filtered here.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from hcefs.config import LogConfig


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(config: LogConfig) -> None:
    """Set up the root logger of this process."""
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
