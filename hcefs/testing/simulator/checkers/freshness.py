"""No node serves by a view of the ledger that is older than lease and skew, whatever its clock.

But for a process that began with a clock beyond the skew: while the ledger is silent it
has nothing to compare it with.
"""

from __future__ import annotations

from hcefs.testing.simulator.history import Violation
from hcefs.testing.simulator.machine import START_MS
from hcefs.testing.simulator.world import LEASE_MS, SKEW_MS, World

NAME = "freshness"


def check(world: World) -> None:
    """Raises Violation: a node would serve that has not heard of the ledger for too long."""
    now_ms = START_MS + int(world.loop.time() * 1000) + world.ledger.machine.offset_ms
    for node in world.nodes:
        made = node.node
        if node.life is None or not node.is_up or made is None or not made.able():
            continue
        if abs(node.life.offset_ms) > SKEW_MS:
            continue
        head = made.follower._heads.applied
        age = now_ms - head.time_ms if head is not None else LEASE_MS + SKEW_MS + 1
        if age > LEASE_MS + SKEW_MS:
            raise Violation(NAME, f"{node.name} serves by a head that is {age} ms old")
