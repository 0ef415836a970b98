"""What was set aside goes only when it is whole again, or nobody needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from hcefs.errors import Unavailable
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.waves import SeatName
from hcefs.store.interface import Table
from hcefs.testing.local_cluster import LocalCluster
from hcefs.transport.upkeep import Place, ShardName
from hcefs.upkeep.quarantine import Quarantine
from hcefs.upkeep.scrub_state import AsideNote, ScrubLog
from tests.unit.upkeep.giving import ClockRuntime
from tests.unit.upkeep.scrubbing import ScrubbedNode, put_blob

KEEP_SECONDS = 100.0


class Others:
    """The other nodes: how many have theirs, how many do not answer."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.have = 0
        self.silent = 0
        self._asked = 0

    def cluster_map(self) -> ClusterMap:
        return self._cluster.map

    def arrived(self) -> frozenset[SeatName]:
        return frozenset()

    def upkeep_peer(self, node: Node) -> Others:
        return self

    async def has_shards(self, place: Place, shards: Sequence[ShardName]) -> list[bool]:
        self._asked += 1
        if self._asked <= self.silent:
            raise Unavailable("away", reason="unreachable")
        return [self._asked <= self.silent + self.have]

    def begin(self, have: int, silent: int) -> None:
        self.have, self.silent, self._asked = have, silent, 0


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[ScrubbedNode]:
    runtime = ClockRuntime()
    cluster = LocalCluster(runtime)
    await put_blob(cluster, b"some bytes" * 1000)
    made = ScrubbedNode(cluster, runtime, tmp_path / "data")
    yield made
    made.close()
    runtime.close()


class Kept:
    """A quarantine with one damaged shard, set aside a while ago."""

    def __init__(self, node: ScrubbedNode, age: float, *, suspended: bool = False) -> None:
        self.node, self.shard = node, node.shard()
        self.copy = node.path(self.shard).read_bytes()
        self.log = ScrubLog(node.stores.rows, node.runtime.now_ms)
        at = node.runtime.now_ms() - int(age * 1000)
        self.log.set_aside(
            AsideNote(self.shard.base, self.shard.index, "", "ec-4-2", "damaged-piece", at)
        )
        node.stores.shards.quarantine(self.shard.base, self.shard.index)
        self.others = Others(node.cluster)
        self.quarantine = Quarantine(
            node.runtime, node.stores, self.log, self.others, self.others,  # type: ignore[arg-type]
            node.metrics, node.account, KEEP_SECONDS, lambda: suspended,
        )  # fmt: skip

    def there(self) -> int:
        return len(list(self.node.stores.shards.quarantined()))


CASES = {
    "too young": (1.0, 5, 0, False),
    "k others have theirs": (200.0, 4, 0, True),
    "k have theirs, one is away": (200.0, 4, 1, True),
    "fewer than k": (200.0, 3, 0, False),
    "fewer than k, others away": (200.0, 3, 2, False),
    "nobody answers": (200.0, 0, 5, False),
    "nobody has it, rows here name it": (200.0, 0, 0, False),
}


@pytest.mark.parametrize("case", CASES)
async def test_when_it_goes(node: ScrubbedNode, case: str) -> None:
    age, have, silent, goes = CASES[case]
    kept = Kept(node, age)
    kept.others.begin(have, silent)
    planned = await kept.quarantine.collect(dry_run=True)
    assert [each.deleted for each in planned] == [goes]
    assert kept.there() == 1, "a dry run deletes nothing"
    kept.others.begin(have, silent)
    await kept.quarantine.work()
    assert kept.there() == (0 if goes else 1)


async def test_what_is_whole_again_goes(node: ScrubbedNode) -> None:
    kept = Kept(node, 200.0)
    writer = node.stores.shards.begin(kept.shard.base, kept.shard.index)
    writer.write(kept.copy)
    writer.finish(b"")
    kept.others.begin(0, 5)
    await kept.quarantine.work()
    assert kept.there() == 0


async def test_what_nobody_knows_goes(node: ScrubbedNode) -> None:
    kept = Kept(node, 200.0)
    for table in (Table.LAYOUTS, Table.OPENINGS, Table.CORES, Table.PLACED):
        node.stores.rows.delete([(table, key) for key, _ in node.stores.rows.scan(table)])
    kept.others.begin(0, 1)
    await kept.quarantine.work()
    assert kept.there() == 1, "who is away may know it"
    kept.others.begin(0, 0)
    await kept.quarantine.work()
    assert kept.there() == 0


async def test_nothing_goes_while_rows_are_restored(node: ScrubbedNode) -> None:
    kept = Kept(node, 200.0, suspended=True)
    kept.others.begin(5, 0)
    await kept.quarantine.work()
    assert kept.there() == 1
