"""Which fault comes next, decided by a seed and a budget.  Pure.

Invariants of the budget, for rows of k + m seats on different nodes (the one with the
smallest m counts):

* at most m nodes are stopped, cut off, full, lost or damaged at one time;
* what a node has lost (its disk, a shard, a database) must be whole again before the next
  node loses anything, and before a planned change begins;
* killing everything at once is allowed at any time: it takes nothing off the disks.

So whatever the seed, the promise "acknowledged means durable" must hold, and the run may
demand it.  A blob that was acknowledged as degraded has fewer shards to lose; that is why a
loss waits for wholeness, not only for the last fault's end.

The same seed draws the same choices as long as the answers of the cluster come in the same
order.  Real processes do not promise that: a run is no replay of another.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hcefs.integrity import blake3_digest

T = TypeVar("T")

HOLD_SECONDS = (1.0, 4.0)
"""How long a fault that is not an instant lasts."""

DOMAIN = b"hcefs/chaos/v1"


class Draws:
    """Choices that follow from a seed and a label alone."""

    def __init__(self, seed: int, label: str) -> None:
        self._prefix = DOMAIN + b"%d" % seed + b"|" + label.encode() + b"|"
        self._count = 0

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound - 1``."""
        self._count += 1
        digest = blake3_digest(self._prefix + b"%d" % self._count)
        return int.from_bytes(digest[:16], "big") % bound

    def unit(self) -> float:
        """A number from 0 to below 1."""
        return self.below(1 << 53) / (1 << 53)

    def between(self, low: float, high: float) -> float:
        """A number of a range."""
        return low + (high - low) * self.unit()

    def pick(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """``count`` different ones, in order."""
        left = list(enumerate(options))
        chosen = [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]
        return [option for _, option in sorted(chosen, key=lambda pair: pair[0])]


class Kind(enum.Enum):
    """What can be done to a cluster."""

    KILL = "kill -9 of nodes"
    KILL_LEDGER = "kill -9 of the ledger"
    KILL_ALL = "kill -9 of every process at once"
    PAUSE = "nodes stopped (SIGSTOP)"
    PAUSE_LEDGER = "ledger stopped (SIGSTOP)"
    RESTART = "node restarted in good order"
    REFUSE = "node unreachable for its peers: connections are refused"
    STALL = "node half open: connections are taken and nothing passes"
    CUT_LEDGER = "node cut off from the ledger"
    FULL = "node's disk full"
    CORRUPT_SHARDS = "shard files damaged"
    CORRUPT_DATABASE = "database files damaged"
    WIPE = "disk lost"
    ADD = "node added"
    DRAIN = "node drained and removed"


DAMAGE = frozenset({Kind.CORRUPT_SHARDS, Kind.CORRUPT_DATABASE, Kind.WIPE})
PLANNED = frozenset({Kind.ADD, Kind.DRAIN})
OF_NODES = frozenset(
    {Kind.KILL, Kind.PAUSE, Kind.RESTART, Kind.REFUSE, Kind.STALL, Kind.CUT_LEDGER, Kind.FULL}
)
SEVERAL = frozenset({Kind.KILL, Kind.PAUSE})
"""These may hit as many nodes at once as the budget leaves."""


@dataclass(frozen=True)
class Fault:
    """One fault: whom it hits, how long it lasts."""

    kind: Kind
    nodes: tuple[int, ...] = ()
    seconds: float = 0.0

    def text(self) -> str:
        """For people."""
        who = f" {', '.join(map(str, self.nodes))}" if self.nodes else ""
        lasts = f", {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind.value}{':' if who else ''}{who}{lasts}"


@dataclass(frozen=True)
class Budget:
    """What the cluster can bear now.

    ``wounded`` are the nodes that have lost something which was not seen whole again;
    ``whole``: every acknowledged blob was seen with all its shards since the last fault
    under which a put may have left one out; ``changing``: a plan is being carried out.
    """

    nodes: tuple[int, ...]
    m: int
    wounded: frozenset[int] = frozenset()
    whole: bool = True
    changing: bool = False
    can_drain: bool = False

    def hurtable(self) -> int:
        """How many nodes more may be hit at one time."""
        return max(0, self.m - len(self.wounded))

    def allows(self, kind: Kind) -> bool:
        """Whether a kind of fault may come now."""
        if kind in DAMAGE:
            return not self.wounded and self.whole and not self.changing
        if kind in PLANNED:
            quiet = not self.wounded and self.whole and not self.changing
            return quiet and (kind is Kind.ADD or self.can_drain)
        if kind in OF_NODES:
            return self.hurtable() > 0
        return True


def next_fault(draws: Draws, budget: Budget, kinds: Collection[Kind]) -> Fault | None:
    """The next fault; None when nothing is allowed but to wait."""
    options = [kind for kind in Kind if kind in kinds and budget.allows(kind)]
    if not options:
        return None
    kind = draws.pick(options)
    unhurt = [node for node in budget.nodes if node not in budget.wounded]
    if kind in DAMAGE or kind is Kind.DRAIN:
        return Fault(kind, (draws.pick(unhurt),))
    if kind in OF_NODES:
        most = budget.hurtable() if kind in SEVERAL else 1
        chosen = draws.some(unhurt, 1 + draws.below(most))
        return Fault(kind, tuple(chosen), draws.between(*HOLD_SECONDS))
    if kind is Kind.ADD:
        return Fault(kind)
    return Fault(kind, (), draws.between(*HOLD_SECONDS))
