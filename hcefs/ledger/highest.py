"""Copy the highest replica: what every recovery of the ledger begins with.

Replicas are asked, and copied from in the order of what they claim, the newest term and the
most blocks first; each block is replayed and verified on the way, so a claim costs time at
most.  A replica that began with a snapshot lacks the blocks before it: the next one gives
those, and then the first is asked again for what it has more.

Invariants: the log only grows, by blocks that verify; of one that lacks older blocks
nothing is taken that does not follow what is here.

Not guaranteed: that the highest replica answered (:func:`hcefs.ledger.recovery.plan_recovery`
judges whether enough did).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hcefs.errors import HcefsError, NotFound
from hcefs.ids import AccountId
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import ReplicaAnswer, Replicas, copy_blocks
from hcefs.runtime import Runtime

ASK_SECONDS = 5.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Copied:
    """What came of it."""

    source: AccountId | None
    """Whose blocks came last; None when the log had everything already."""

    beyond: str = ""
    """The highest replica whose older blocks nobody gave: it began with a snapshot that lies
    beyond the log.  Empty for none."""


async def ask_all(
    replicas: Replicas, addresses: Iterable[str], runtime: Runtime
) -> dict[str, ReplicaAnswer]:
    """What the nodes at these addresses say; those that say nothing are left out."""
    asked = list(addresses)

    async def ask(address: str) -> ReplicaAnswer | None:
        try:
            async with runtime.timeout(ASK_SECONDS):
                return await replicas.describe(None, address)
        except (HcefsError, TimeoutError):
            return None

    answers = await asyncio.gather(*(ask(address) for address in asked))
    return {
        address: answer
        for address, answer in zip(asked, answers, strict=True)
        if answer is not None
    }


async def copy_highest(
    log: LedgerLog,
    replicas: Replicas,
    answers: Mapping[str, ReplicaAnswer],
    runtime: Runtime,
    report: Report = lambda _: None,
) -> Copied:
    """Copy all that the replicas at some addresses have more than a log, and verify it.

    Raises:
        Corrupt: what a replica gave is not what the writers signed.
        HcefsError: one cannot be reached any more; what came before stays.
    """
    left = {at: each for at, each in answers.items() if not each.superseded}
    lacking: dict[str, ReplicaAnswer] = {}
    source: AccountId | None = None
    while left:
        best = max(left, key=lambda at: _claim(left[at]))
        answer = left.pop(best)
        if not _has_more(log, answer):
            continue
        report(f"copying {answer.height} blocks from {best}, verifying each")
        feed = replicas.blocks(answer.account, best, log.height + 1, answer.height)
        try:
            await copy_blocks(log, feed, runtime)
        except NotFound as error:
            if error.reason != "before-snapshot":
                raise
            lacking[best] = answer
            continue
        source = answer.account
        # What is here now may reach to where those begin.
        left |= lacking
        lacking.clear()
    beyond = [at for at, answer in lacking.items() if _has_more(log, answer)]
    return Copied(source, max(beyond, key=lambda at: _claim(lacking[at]), default=""))


def _claim(answer: ReplicaAnswer) -> tuple[int, int]:
    return len(answer.terms), answer.height


def _has_more(log: LedgerLog, answer: ReplicaAnswer) -> bool:
    return answer.height > log.height or len(answer.terms) > len(log.terms.changes)
