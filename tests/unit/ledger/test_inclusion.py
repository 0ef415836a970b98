"""What is looked for in a block by its bytes is all that is there."""

from __future__ import annotations

from collections.abc import Callable

from hcefs.access.emergency import grant_of
from hcefs.ledger import inclusion
from hcefs.ledger.block import Block
from hcefs.ledger.transactions import Transaction
from tests.unit.ledger.certificates import NODES, CertificateWorld
from tests.unit.ledger.scenario import grant_id, record_id
from tests.vectors import generate_emergency, generate_erasure

Wanted = Callable[[Transaction], bool]


def found(blocks: list[Block], wanted: Wanted, *holding: bytes) -> list[tuple[int, int]]:
    return [
        (block.header.height, index)
        for block in blocks
        for index, each in inclusion.transactions_of(block, *holding)
        if wanted(each)
    ]


def same(blocks: list[Block], wanted: Wanted, *holding: bytes) -> int:
    """How many there are, as found with the bytes and without."""
    all_of_them = found(blocks, wanted)
    assert found(blocks, wanted, *holding) == all_of_them
    return len(all_of_them)


def test_nothing_is_missed_by_looking_at_bytes_first() -> None:
    ward = generate_emergency.chain()
    opened = grant_of(grant_id("opening"), record_id("r"))
    record = record_id("r")
    # Opened and closed.
    assert (
        same(
            ward.blocks,
            lambda each: inclusion.is_about_grant(each, opened, record),
            opened,
            inclusion.EMERGENCIES,
        )
        == 2
    )
    assert same(ward.blocks, lambda each: inclusion.opens_record(each, record), record) == 1
    world = CertificateWorld()
    world.change_keys("n1")
    cluster = world.world.genesis.cluster
    for name in NODES:
        account = world.world.account(name)
        assert same(
            list(world.blocks),
            lambda each, account=account: inclusion.is_about_account(each, cluster, account),  # type: ignore[misc]
            account,
            inclusion.REGISTERS,
        ) == (2 if name == "n1" else 1)
    grant = grant_id("g")
    assert (
        same(
            list(world.blocks),
            lambda each: inclusion.is_about_grant(each, grant, record),
            grant,
            inclusion.EMERGENCIES,
        )
        == 2
    )
    erased = generate_erasure.world()
    assert same(erased.blocks, lambda each: inclusion.erases(each, record), record) == 1
    commitment = erased.entry("c").commitment
    assert (
        same(erased.blocks, lambda each: inclusion.appends(each, record, commitment), commitment)
        == 1
    )


def test_what_cannot_be_meant_is_not_read() -> None:
    block = generate_emergency.chain().blocks[-1]
    assert list(inclusion.transactions_of(block, bytes(range(16)))) == []
