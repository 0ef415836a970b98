"""Logging of a process: human lines or one JSON object a line, on standard error.

Each line that is written while a request is served, or a unit of upkeep done, has its request
id and trace id (:mod:`hcefs.tracing`).  Messages name ids, kinds and reasons; keys, tokens,
plaintext and labels are never passed to a logger anywhere, so nothing has to be filtered here.

The fields of a JSON line are stable: ``time`` (RFC 3339, UTC), ``level``, ``logger``,
``message``; ``request`` and ``trace`` (32 hexadecimal digits) where there are any; ``stack``
where an exception is logged; of a line of ``hcefs.requests`` also ``method``, ``outcome``,
``reason``, ``milliseconds``, ``bytes``, ``received``, ``peer``, and ``left_out`` where lines
before it were.  Others may come.

Invariant: at most ``FAILURES_A_SECOND`` lines of failed requests are written in a second,
because strangers can make requests fail.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from hcefs import tracing
from hcefs.config import LogConfig

REQUEST_LEVELS: Final = {
    "none": logging.CRITICAL,
    "failures": logging.INFO,
    "all": logging.DEBUG,
}
"""From which level on the lines of requests are written."""


FAILURES_A_SECOND: Final = 100


class Bounded(logging.Filter):
    """Lets some lines of failed requests through in a second; the next says how many it held."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._count = 0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """See :class:`logging.Filter`."""
        if record.levelno < logging.INFO:
            return True  # of all requests, which an operator asked for
        second = int(record.created)
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count > FAILURES_A_SECOND:
            self._left_out += 1
            return False
        if self._left_out:
            record.facts = {**getattr(record, "facts", {}), "left_out": self._left_out}
            record.msg = f"{record.getMessage()}; {self._left_out} lines before it were left out"
            record.args = ()
            self._left_out = 0
        return True


def _ids() -> dict[str, str]:
    context = tracing.current()
    if context is None:
        return {}
    ids = {"request": context.request.hex()} if context.request else {}
    return ids | {"trace": context.trace.hex()}


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["stack"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class HumanFormatter(logging.Formatter):
    """One line for people, the ids at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base's name
        ids = "".join(f" {name}={value}" for name, value in _ids().items())
        return super().formatMessage(record) + ids


def configure(config: LogConfig) -> None:
    """Set up the root logger of this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    # Whoever asks for the lines of all requests gets them, whatever the level of the rest is.
    requests = logging.getLogger("hcefs.requests")
    requests.setLevel(REQUEST_LEVELS[config.requests])
    requests.filters[:] = [Bounded()]
