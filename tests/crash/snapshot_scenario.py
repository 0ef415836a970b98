"""A replica makes a snapshot, and a new one begins with it: all of it or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hcefs.crashpoints import CrashPoint
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.snapshot_join import JOINING, join
from hcefs.ledger.snapshot_maker import SnapshotMaker
from hcefs.runtime import SystemRuntime
from tests.crash.scenarios import Points, Scenario
from tests.unit.ledger.replicas import make_block
from tests.unit.ledger.scenario import Scenario as Facts
from tests.unit.ledger.test_snapshot import (
    Source,
    chain,
    naming,
    opened,
    parts_of,
)

P = CrashPoint
DUE, NAMED = 8, 10


class SnapshotJoins(Scenario):
    """The eighth block's snapshot, which the tenth names."""

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
        self.blocks = chain(self.facts, NAMED - 1)
        self.log = opened(folder / "log", self.facts)
        self.new = folder / "new"

    def close(self) -> None:
        self.log.close()

    async def _makes(self, log: LedgerLog) -> None:
        def never(error: Exception) -> None:
            raise error

        await SnapshotMaker(log, self.runtime, never).make()

    async def _joins(self) -> int:
        offer = self.log.offer()
        assert offer is not None
        source = Source(self.log, offer, parts_of(self.log, offer))
        return await join(self.new, self.facts.genesis, source, self.runtime)

    async def act(self) -> None:
        self.log.append(self.blocks)
        await self._makes(self.log)
        root = self.log.root_to_name(NAMED)
        self.log.append([naming(self.facts, make_block(self.facts, []), root)])
        await self._joins()

    async def check(self) -> list[str]:
        found = []
        if self.log.verify_chain() != self.log.height:
            found.append("the log does not verify")
        self.log.sweep_parts()
        offer = self.log.offer()
        if self.log.height == NAMED and offer is None:
            found.append("a header names a snapshot that its writer has not")
        if offer is None:
            return found
        if [len(part) for part in parts_of(self.log, offer)] != [offer.manifest.size]:
            found.append("a part of the snapshot is gone")
        if not self.new.exists():
            await self._joins()
        joined = opened(self.new, self.facts)
        if (joined.height, joined.base_height) != (DUE, DUE):
            found.append("a log that is there is not the whole snapshot")
        if joined.tip_hash != self.log.block_hash(DUE):
            found.append("it is the snapshot of another block")
        if (mine := joined.offer()) is None or parts_of(joined, mine) != parts_of(self.log, offer):
            found.append("it cannot give what it began with")
        joined.close()
        if self.new.with_name(self.new.name + JOINING).exists():
            found.append("what was half built is still there")
        return found
