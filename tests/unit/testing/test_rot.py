"""The aimed fault: what rots is a piece that is read, and nothing that says where pieces lie."""

from __future__ import annotations

from hcefs.formats.shard import HEADER_SIZE, decode_file, piece_in
from hcefs.integrity import blake3_digest
from hcefs.runtime import SystemRuntime
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.simulator.rot import LINE, rotted
from tests.unit.upkeep.scrubbing import put_blob


async def test_only_the_first_piece_rots_and_all_of_its_lines_do() -> None:
    runtime = SystemRuntime()
    try:
        cluster = LocalCluster(runtime)
        blob = await put_blob(cluster, bytes((1 << 20) + 5000))
        stores = cluster.stores[cluster.keys[0].account]
        ((base, index),) = stores.shards.inventory()
        assert base == blob.base
        reader = stores.shards.open(base, index)
        whole = reader.read_at(0, reader.size)
        reader.close()
    finally:
        runtime.close()
    _, footer, geometry = decode_file(whole)
    changed = rotted(whole)
    assert decode_file(changed) == decode_file(whole)
    assert piece_in(changed, geometry, 1) == piece_in(whole, geometry, 1)
    piece = piece_in(changed, geometry, 0)
    assert blake3_digest(piece) != footer.piece_digests[:32]
    differing = [at for at, byte in enumerate(changed) if byte != whole[at]]
    first, last = HEADER_SIZE, HEADER_SIZE + geometry.piece_of(0)
    assert differing == list(range(first, last, LINE))
