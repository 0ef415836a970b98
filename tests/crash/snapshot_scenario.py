"""A replica makes the snapshot of its ledger, and a new one begins with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import ClassVar

from hcefs.crashpoints import CrashPoint
from hcefs.errors import Corrupt, NotFound
from hcefs.ledger.block import Block
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import append_blocks
from hcefs.ledger.snapshot import SnapshotOffer
from hcefs.ledger.snapshot_join import JOINING, join
from hcefs.ledger.snapshot_maker import SnapshotMaker
from hcefs.runtime import SystemRuntime
from tests.crash.scenarios import Points, Scenario
from tests.unit.ledger.scenario import Scenario as Facts
from tests.vectors.generate_snapshots import RULE, chain_blocks

P = CrashPoint
HEIGHT = 8


class LogSource:
    """Serves the snapshot of a log in the same process."""

    def __init__(self, log: LedgerLog) -> None:
        self._log = log

    async def offer(self) -> SnapshotOffer | None:
        return self._log.offer()

    async def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        offer = self._log.offer()
        assert offer is not None
        for index in range(len(offer.manifest.parts)):
            yield self._log.snapshots.part(height, index)


class SnapshotJoins(Scenario):
    """The old replica stands at the block whose snapshot is due; the new one has nothing."""

    name = "snapshot"
    points: ClassVar[Points] = {
        P.SNAPSHOT_PART_KEPT: (1,),
        P.SNAPSHOT_MADE: (1,),
        P.SNAPSHOT_PART_WRITTEN: (1,),
        P.SNAPSHOT_BUILT: (1,),
        P.SNAPSHOT_RENAMED: (1,),
    }

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        super().__init__(folder, runtime)
        self.facts = Facts()
        # Always the same: the scenario's keys and times are fixed.
        self.blocks = chain_blocks(self.facts)
        self.old = LedgerLog.open(folder / "old", self.facts.genesis, snapshots=RULE)
        self.joined = folder / "joined"

    def close(self) -> None:
        self.old.close()

    async def prepare(self) -> None:
        append_blocks(self.old, [block.encode() for block in self.blocks[:HEIGHT]])

    async def act(self) -> None:
        await self._make()
        append_blocks(self.old, [block.encode() for block in self.blocks[HEIGHT:]])
        await join(self.joined, self.facts.genesis, LogSource(self.old), self.runtime)

    async def _make(self) -> None:
        told: list[Corrupt] = []
        maker = SnapshotMaker(self.old, self.runtime, told.append)
        self.old.snapshots.sweep_parts()
        await maker.make()
        if told:
            raise told[0]

    async def check(self) -> list[str]:
        found = self._faults()
        # What was due when it died is due still: no block came since.
        await self._make()
        if self.old.snapshots.height != HEIGHT:
            found.append("the snapshot that was due is not made after the restart")
        rest = [block.encode() for block in self.blocks[self.old.height :]]
        if rest:
            append_blocks(self.old, rest)
        if self.old.offer() is None:
            found.append("the signed header names another snapshot than the one made here")
        await join(self.joined, self.facts.genesis, LogSource(self.old), self.runtime)
        return found + self._faults(joined=True)

    def _faults(self, *, joined: bool = False) -> list[str]:
        """The whole log or none; and one that is there verifies, and follows on."""
        found = []
        if self.old.verify_chain() != self.old.height:
            found.append("the old replica does not verify")
        if not self.joined.exists():
            return [*found, "the new replica is not there"] if joined else found
        if self.joined.with_name(self.joined.name + JOINING).exists():
            found.append("the new replica is at its place, and half of it beside it")
        new = LedgerLog.open(self.joined, self.facts.genesis, snapshots=RULE)
        try:
            if new.base_height != HEIGHT or new.verify_chain() != new.height:
                found.append("the new replica is not whole")
            self._follow(new)
            if list(new.scan(b"")) != list(self.old.scan(b"")) or new.offer() != self.old.offer():
                found.append("the new replica has another state than the old one")
        except NotFound as error:
            found.append(error.message)
        finally:
            new.close()
        return found

    def _follow(self, new: LedgerLog) -> None:
        missing: list[Block] = [
            self.old.block(at) for at in range(new.height + 1, self.old.height + 1)
        ]
        if missing:
            append_blocks(new, [block.encode() for block in missing])
