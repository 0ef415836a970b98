"""Who may have a node take another layout: nodes of the row, over the peer port, by policy."""

from __future__ import annotations

from typing import Any

import pytest

from hcefs.errors import HcefsError
from hcefs.ids import BlobBase
from hcefs.placement.ring import partition_of
from hcefs.store.interface import Table
from hcefs.wire.v1 import upkeep_pb2
from tests.services.rig import Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

METHOD = "/hcefs.v1.Upkeep/TakeLayout"


def place_of(rig: Rig, base: BlobBase, profile: str) -> upkeep_pb2.Place:
    partition = partition_of(bytes(base), rig.map.table(profile).bits)
    return upkeep_pb2.Place(epoch=rig.map.epoch, profile=profile, partition=partition)


async def request(rig: Rig, profile: str = "copy-3", **fields: Any) -> bytes:
    """A request to take the layout that is in force, under another profile's place."""
    base = rig.receipt.ref.blob.base
    asked = upkeep_pb2.LoadRowsRequest(place=place_of(rig, base, "ec-4-2"), base=bytes(base))
    one, other = rig.nodes[:2]
    rows = await rig.unary(
        one.config.peer_address, "/hcefs.v1.Upkeep/LoadRows", asked, other.identity
    )
    honest: dict[str, Any] = {
        "place": place_of(rig, base, profile),
        "base": bytes(base),
        "step": upkeep_pb2.LAYOUT_STEP_STAGE,
        "rows": upkeep_pb2.LoadRowsResponse.FromString(rows),
    }
    return upkeep_pb2.TakeLayoutRequest(**(honest | fields)).SerializeToString()


def others(rig: Rig, profile: str, *, seated: bool) -> list[Running]:
    """The nodes that have, or have not, a seat of the rig's blob under a profile."""
    held = {seat.node.node_id for seat in rig.seats(rig.receipt.ref.blob.base, profile)}
    return [node for node in rig.nodes if (node.number in held) is seated]


async def test_only_on_the_peer_port(rig: Rig) -> None:
    node = rig.nodes[1]
    with pytest.raises(HcefsError) as caught:
        await rig.unary(node.config.client_address, METHOD, await request(rig))
    assert caught.value.kind in ("internal", "invalid", "unavailable")


async def test_only_nodes_of_the_map(rig: Rig) -> None:
    await rig.refused(
        rig.unary(
            rig.nodes[1].config.peer_address, METHOD, await request(rig), rig.stranger.identity
        ),
        "unauthenticated",
        "unknown-node",
    )


async def test_only_who_has_a_seat_of_the_row(rig: Rig) -> None:
    """Without a policy the seats of other profiles count for nothing."""
    caller = others(rig, "copy-3", seated=False)[0]
    asked = others(rig, "copy-3", seated=True)[0]
    await rig.refused(
        rig.unary(asked.config.peer_address, METHOD, await request(rig), caller.identity),
        "denied",
        "not-a-seat",
    )


async def test_no_row_of_another_partition(rig: Rig) -> None:
    caller, asked = others(rig, "copy-3", seated=True)[:2]
    bits = rig.map.table("copy-3").bits
    mine = partition_of(bytes(rig.receipt.ref.blob.base), bits)
    other = next(each for n in range(256) if partition_of(each := bytes([n]) * 16, bits) != mine)
    await rig.refused(
        rig.unary(
            asked.config.peer_address, METHOD, await request(rig, base=other), caller.identity
        ),
        "denied",
        "wrong-partition",
    )


@pytest.mark.parametrize("step", [0, 9])
async def test_no_unknown_step(rig: Rig, step: int) -> None:
    caller, asked = others(rig, "copy-3", seated=True)[:2]
    await rig.refused(
        rig.unary(
            asked.config.peer_address, METHOD, await request(rig, step=step), caller.identity
        ),
        "invalid",
        "bad-message",
    )


async def test_the_layout_in_force_is_no_new_one(rig: Rig) -> None:
    caller, asked = others(rig, "copy-3", seated=True)[:2]
    await rig.refused(
        rig.unary(asked.config.peer_address, METHOD, await request(rig), caller.identity),
        "invalid",
        "rows-disagree",
    )
    assert not asked.process.stores.rows.scan(Table.STAGED)
