"""Start a process of HCE-FS that has something wrong with it: ``python -m benchmarks.hurt``.

``python -m benchmarks.hurt HOW[,HOW] node start --config FILE``.  What cannot be done to a
process from outside is done to its parts before it starts:

* ``clock=S``: its clock is S seconds off.
* ``slow-disk=S``: each fsync of a shard takes S seconds more.
* ``broken-disk``: each fsync of a shard fails with EIO.
* ``no-anchors``: its receipts find no way to the ledger.
* ``no-copies``: seats that it is to take over are not filled.
* ``version=V``: it says that it is another version.
* ``late-clock=S``: the alarm of overdue reviews looks at a clock that is S seconds ahead.

Only for benchmarks and tests: no code of HCE-FS knows of it.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from typing import Any

from hcefs.cli.process import prepare


def _clock(text: str) -> None:
    from hcefs.runtime import SystemRuntime

    now_ms, off = SystemRuntime.now_ms, int(float(text) * 1000)
    SystemRuntime.now_ms = lambda self: now_ms(self) + off  # type: ignore[method-assign]


def _slow_disk(text: str) -> None:
    from hcefs.store.disk import Disk

    sync, seconds = Disk.sync, float(text)

    def slow(self: Disk, fd: int) -> None:
        time.sleep(seconds)
        sync(self, fd)

    Disk.sync = slow  # type: ignore[method-assign]


def _broken_disk(_: str) -> None:
    from hcefs.store.disk import Disk

    def broken(self: Disk, fd: int) -> None:
        raise OSError(errno.EIO, "a fault of the benchmark")

    Disk.sync = broken  # type: ignore[method-assign]


def _no_anchors(_: str) -> None:
    from hcefs.errors import Unavailable
    from hcefs.upkeep.anchor import ReceiptAnchorer

    async def refused(self: ReceiptAnchorer, *_: Any) -> Any:
        raise Unavailable("a fault of the benchmark", reason="ledger-unreachable")

    ReceiptAnchorer._anchor = refused  # type: ignore[assignment,method-assign]


def _no_copies(_: str) -> None:
    from hcefs.errors import Unavailable
    from hcefs.upkeep.fill import SeatFiller

    async def refused(self: SeatFiller, *_: Any, **__: Any) -> Any:
        raise Unavailable("a fault of the benchmark", reason="holders-away")

    SeatFiller.fill = refused  # type: ignore[method-assign]


def _version(text: str) -> None:
    import hcefs

    hcefs.__version__ = text


def _late_clock(text: str) -> None:
    from hcefs.ledger.state_emergency import Emergencies

    overdue, off = Emergencies.overdue, int(float(text) * 1000)
    Emergencies.overdue = lambda self, now_ms, most: overdue(  # type: ignore[method-assign]
        self, now_ms + off, most
    )


HOW: dict[str, Callable[[str], None]] = {
    "clock": _clock,
    "slow-disk": _slow_disk,
    "broken-disk": _broken_disk,
    "no-anchors": _no_anchors,
    "no-copies": _no_copies,
    "version": _version,
    "late-clock": _late_clock,
}


def main() -> None:
    """Hurt this process, then be what the rest of the command line says."""
    prepare()
    for each in sys.argv[1].split(","):
        name, _, value = each.partition("=")
        HOW[name](value)
    del sys.argv[1]
    from hcefs.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
