"""Whom a writer turns to when a holder is away: who stands in, and who failed lately.

A writer that cannot reach a holder, or is refused by it for its own sake (it may not serve
now, its disk is full or read-only), stores at the next stand-in of the row
(:mod:`hcefs.placement.stand_ins`).  A refusal that concerns the request leads nowhere: every
other holder would refuse it too.

A dead holder may cost a whole connection attempt, so who failed is remembered for
``AWAY_SECONDS``: puts that begin meanwhile begin at the stand-in at once.  It is a memory of
this process, of at most ``AWAY_MAX`` nodes, and no verdict: whoever has nobody else to turn
to asks the holder all the same.

Source: docs/decisions/0021-stand-ins.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import AccountId
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.placement.stand_ins import choice
from hcefs.runtime import Runtime
from hcefs.stripes.reseat import MOVED

AWAY_SECONDS = 10.0
AWAY_MAX = 1024
HOLDER_SECONDS = 5.0
"""A holder that has not answered by then is not waited for where another can take its place."""

StandInNodes = Callable[[str, bytes], Sequence[Node]]
"""Of a profile and a base, or without a profile of a record: who stands in for its seats."""


def is_own_fault(error: HcefsError) -> bool:
    """Whether a holder failed or refused for its own sake, so that another may do better."""
    if error.reason in MOVED:
        return False  # the map says who does better
    return error.kind in ("unavailable", "exhausted", "internal")


class Standby:
    """For one process.  ``nodes`` may raise ``Unavailable``: then nobody stands in."""

    def __init__(self, runtime: Runtime, nodes: StandInNodes) -> None:
        self._runtime = runtime
        self._nodes = nodes
        self._away: OrderedDict[AccountId, float] = OrderedDict()

    def is_away(self, node: Node) -> bool:
        """Whether a node has failed lately."""
        until = self._away.get(node.account)
        return until is not None and self._runtime.monotonic() < until

    def note(self, node: Node, error: HcefsError) -> None:
        """Remember a failure.  A holder that is only busy is asked again by the next put."""
        if error.kind == "exhausted" and error.reason != "disk-full":
            return
        self._away[node.account] = self._runtime.monotonic() + AWAY_SECONDS
        self._away.move_to_end(node.account)
        if len(self._away) > AWAY_MAX:
            self._away.popitem(last=False)

    def heard(self, node: Node) -> None:
        """Forget a failure: the node has answered."""
        self._away.pop(node.account, None)

    def nodes(self, profile: str, name: bytes) -> Sequence[Node]:
        """Who stands in for the seats of a base, or of a record without a profile."""
        try:
            return self._nodes(profile, name)
        except Unavailable:
            return ()

    def seat(
        self, profile: str, name: bytes, seat: Seat, taken: Collection[AccountId]
    ) -> Seat | None:
        """The same seat with the node that stands in for its holder; None when none is left.

        ``taken`` are nodes that have, or are to have, something of that name.
        """
        missing = seat.absent or seat.node
        free = [node for node in self.nodes(profile, name) if not self.is_away(node)]
        node = choice(free, missing, taken)
        return None if node is None else replace(seat, node=node, source=None, absent=missing)
