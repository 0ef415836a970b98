"""Free ports of the loopback interface for a new cluster's processes.

They are chosen outside the range from which the system gives ports to outgoing
connections: otherwise a process that is restarted could find its own port taken
by somebody's connection.  A reservation holds each port, bound and not listening,
until the processes have it: with SO_REUSEADDR set after the bind, a listener that
sets it too (gRPC and ``socketserver`` do) may bind, and nobody else.

Not guaranteed: that a port which was released is still free later.
Source: socket(7), ip(7).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from hcefs.errors import Exhausted

HOST = "127.0.0.1"
LOWEST = 10_240
HIGHEST = 65_535
TRIES = 50
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LINUX_RANGE = (32_768, 60_999)


@contextlib.contextmanager
def reserved_ports(count: int, random: Callable[[int], bytes]) -> Iterator[list[int]]:
    """``count`` different free ports, held while the context lasts.

    Raises:
        Exhausted: no free ones were found.
    """
    candidates = _candidates()
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for _ in range(count):
            holder = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            ports.append(_bind(holder, candidates, random))
        yield ports


def _bind(holder: socket.socket, candidates: range, random: Callable[[int], bytes]) -> int:
    for attempt in range(TRIES):
        chosen = candidates[int.from_bytes(random(4), "big") % len(candidates)]
        try:
            # The system's own choice is the last resort.
            holder.bind((HOST, chosen if attempt < TRIES - 1 else 0))
        except OSError:
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return int(holder.getsockname()[1])
    raise Exhausted(f"no free port was found on {HOST}", reason="no-port")


def _candidates() -> range:
    """The larger range of ports below or above those of outgoing connections."""
    try:
        low, high = (int(text) for text in _RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        low, high = _LINUX_RANGE
    below, above = range(LOWEST, low), range(high + 1, HIGHEST + 1)
    best = max(below, above, key=len)
    return best if len(best) >= TRIES else range(LOWEST, HIGHEST + 1)
