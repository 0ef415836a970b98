"""What the chaos run takes for an intact shard, and that every damage it does is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.placement import make_map
from hcefs.cli.chaos_disks import Disks, damage_shards, read_shard
from hcefs.cli.chaos_plan import Draws
from hcefs.erasure.scheme import SEGMENT_SIZE
from hcefs.errors import HcefsError
from hcefs.formats.shard import ShardFooter, ShardHeader
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats

BASE = BlobBase(bytes(range(16)))
LENGTH = 5_000


@pytest.fixture
def current() -> ClusterMap:
    return make_map(6, "ec-4-2")


@pytest.fixture
def folders(tmp_path: Path, current: ClusterMap) -> dict[int, Path]:
    """Six disks with one blob, whole."""
    for seat in seats(current, "ec-4-2", bytes(BASE)):
        header = ShardHeader(BASE, seat.index, "ec-4-2", 4, 2, SEGMENT_SIZE)
        geometry = header.geometry(LENGTH)
        piece = blake3_digest(b"%d" % seat.index) * (geometry.piece_of(0) // 32)
        footer = ShardFooter.of(LENGTH, blake3_digest(piece))
        name = bytes(BASE).hex()
        path = tmp_path / str(seat.node.node_id) / "shards" / name[:2] / f"{name}.{seat.index}"
        path.parent.mkdir(parents=True)
        path.write_bytes(header.encode() + piece + footer.encode())
    return {node: tmp_path / str(node) for node in range(1, 7)}


def _files(folders: dict[int, Path]) -> list[Path]:
    return [path for folder in folders.values() for path in folder.glob("shards/??/*")]


def test_a_whole_blob_lacks_nothing(current: ClusterMap, folders: dict[int, Path]) -> None:
    assert Disks().lacks(current, folders, [BASE]) == []


def test_a_missing_shard_is_named_with_its_node(
    current: ClusterMap, folders: dict[int, Path]
) -> None:
    disks = Disks()
    assert disks.lacks(current, folders, [BASE]) == []
    path = _files(folders)[2]
    path.unlink()
    (lack,) = disks.lacks(current, folders, [BASE])
    assert (lack.node, lack.index, lack.why, lack.path) == (
        3,
        int(path.suffix[1:]),
        "missing",
        None,
    )


@pytest.mark.parametrize("seed", range(12))
def test_every_damage_is_seen(current: ClusterMap, folders: dict[int, Path], seed: int) -> None:
    disks = Disks()
    assert disks.lacks(current, folders, [BASE]) == []  # they are known as good
    before = {path: path.read_bytes() for path in _files(folders)}
    damaged = damage_shards(folders[4], Draws(seed, "test"))
    assert damaged
    changed = [path for path, data in before.items() if path.read_bytes() != data]
    found = disks.lacks(current, folders, [BASE])
    assert [lack.path for lack in found] == changed
    for path in changed:
        with pytest.raises(HcefsError):
            read_shard(path)


def test_a_blob_that_is_nowhere_is_lacking(current: ClusterMap, folders: dict[int, Path]) -> None:
    for path in _files(folders):
        path.unlink()
    (lack,) = Disks().lacks(current, folders, [BASE])
    assert lack.node == 0
