"""A record is erased on every node, killed in the middle.  See :mod:`.scenarios`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

from hcefs.access.erasure_facts import Erasure
from hcefs.crashpoints import CrashPoint
from hcefs.formats.erasure import ErasureStage
from hcefs.ids import BlobId
from hcefs.store.interface import KeyTable, Table
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import LocalPacks
from tests.crash.scenarios import SIZE, ClusterScenario, Points
from tests.unit.upkeep.erasing import OTHER, SEALED, Erasing
from tests.unit.upkeep.giving import ClockRuntime

P = CrashPoint


class Erases(ClusterScenario):
    """A record with blobs, a part in a pack, boxes and links is erased."""

    name = "erases"
    points: ClassVar[Points] = {
        P.ERASURE_NOTED: (1, 4),
        P.ERASE_TOMBSTONES: (1,),
        P.ERASE_COMPACTED: (2,),
        P.ERASURE_KEYS: (1, 3),
        P.ERASURE_KEYS_GONE: (1, 5),
        P.ERASURE_MARKED: (1, 3),
        P.ERASURE_ROWS: (1, 2, 4),
        P.SHARD_UNLINKED: (1,),
        P.ERASURE_SHARDS: (1, 3),
        P.ERASURE_NAMES: (1, 2),
        P.ERASURE_UNMARKED: (1, 3),
        P.ERASURE_INDEX: (1, 2),
        P.ERASURE_PURGED: (1, 6),
        P.ERASURE_DONE: (1, 7),
    }
    nodes: Erasing

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        self.nodes = Erasing(ClockRuntime())
        return self.nodes.cluster, self.nodes.packs

    def close(self) -> None:
        super().close()
        self.nodes.runtime.close()

    @property
    def _kept(self) -> Path:
        return self.folder / "erasure"

    async def prepare(self) -> None:
        nodes, world = self.nodes, self.world
        await nodes.keep_boxes()
        notes = [await world.put(SIZE, 1, "ec-4-2"), await world.put(SIZE, 2, "copy-3")]
        pack = await nodes.put_mixed()
        secrets = [*nodes.secrets([BlobId.of(note.base) for note in notes], [pack]), SEALED]
        erasure = world.cluster.ledger.erase(world.cluster.record)
        kept = (erasure, sorted(set(secrets)), bytes(pack.base))
        self._kept.write_bytes(pickle.dumps(kept))
        world.keep_ledger()
        if not raw_found(self.folder, secrets):
            raise AssertionError("the search would find nothing even now")

    def _again(self) -> tuple[list[bytes], bytes]:
        """What the ledger says, in a new process; the secrets and the pack."""
        erasure, secrets, base = pickle.loads(self._kept.read_bytes())  # noqa: S301 - our own
        assert isinstance(erasure, Erasure)
        self.world.cluster.ledger.erasures[erasure.record] = erasure
        return secrets, base

    async def act(self) -> None:
        self._again()
        await self.nodes.erase()

    async def check(self) -> list[str]:
        """Keys gone before rows on each node; in the end nothing is left, the other part is."""
        secrets, base = self._again()
        nodes, record = self.nodes, self.world.cluster.record
        found: list[str] = []
        for number, (account, stores) in enumerate(self.world.cluster.stores.items(), 1):
            progress = nodes.erasers[account].progress(record)
            keys_gone = progress is not None and progress.stage is not ErasureStage.KEYS
            if keys_gone and stores.keys.scan(KeyTable.BOXES):
                found.append(f"node {number} says that its keys are gone, and has a box")
        await nodes.erase()
        found += nodes.left(record)
        for number, (account, stores) in enumerate(self.world.cluster.stores.items(), 1):
            progress = nodes.erasers[account].progress(record)
            if progress is None or progress.stage is not ErasureStage.DONE:
                found.append(f"node {number} is not done")
            if stores.rows.scan(Table.META, b"erasing/"):
                found.append(f"node {number} has a mark left")
            if any(bytes(each[0]) != base for each in stores.shards.inventory()):
                found.append(f"node {number} has a shard left")
        others = [
            key
            for stores in self.world.cluster.stores.values()
            for key, _ in stores.rows.scan(Table.OPENINGS)
        ]
        if {key[16:] for key in others} != {bytes(OTHER)} or len(others) != 3:
            found.append("the other record's part of the pack is not whole")
        for stores in self.world.cluster.stores.values():
            stores.close()  # the search is for what a thief of the disk would read
        found += raw_found(self.folder, secrets)
        return found


def raw_found(folder: Path, secrets: list[bytes]) -> list[str]:
    """In which files of the nodes' databases any of these bytes are."""
    found = []
    for path in sorted(folder.glob("node-*/*/*")):
        if path.is_file() and path.parent.name in ("keys", "rows"):
            data = path.read_bytes()
            found += [f"{path.relative_to(folder)} has erased bytes" for s in secrets if s in data]
    return found
