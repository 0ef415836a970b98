"""A revocation certificate proves what it says, and nothing of it can be changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.evidence.revocation import RevocationCertificate
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import sign_block, sign_head, transaction_root
from hcefs.ledger.inclusion import prove_transaction
from hcefs.ledger.revocation_proof import verify_certificate
from hcefs.ledger.transactions import (
    GiveGrant,
    RegisterAccount,
    SetClusterMap,
)
from tests.unit.ledger.certificates import NODES, CertificateWorld
from tests.unit.ledger.scenario import grant_id, signing_key

WORLD = CertificateWorld()
COPIES = CertificateWorld((("ec-4-2", 4, 2), ("copy-3", 1, 2)))


def test_all_nodes_confirm() -> None:
    verdict = verify_certificate(WORLD.certificate())
    assert verdict.complete
    assert [each.node_id for each in verdict.confirmed] == [1, 2, 3, 4, 5, 6]
    assert (verdict.lapsed, verdict.silent, verdict.gap) == ((), (), None)
    assert verdict.block.height == WORLD.height
    assert verdict.given.grant == grant_id("g")


@pytest.mark.parametrize(("confirming", "complete"), [(3, True), (2, False), (1, False)])
def test_fewer_than_k_silent_nodes_can_serve_nothing(confirming: int, complete: bool) -> None:
    verdict = verify_certificate(WORLD.certificate(NODES[:confirming]))
    assert verdict.complete is complete
    assert verdict.silent == tuple(range(confirming + 1, 7))
    if verdict.gap is not None:
        assert (verdict.gap.indexes, verdict.gap.k) == (6 - confirming, 4)


def test_one_silent_node_may_hold_a_whole_copy() -> None:
    verdict = verify_certificate(COPIES.certificate(NODES[:5]))
    assert not verdict.complete
    assert verdict.gap is not None
    assert (verdict.gap.profile, verdict.gap.indexes, verdict.gap.k) == ("copy-3", 1, 1)


def test_a_silent_node_counts_when_its_lease_is_over_and_not_before() -> None:
    for early_ms, complete in ((1, False), (0, True)):
        last = COPIES.head(COPIES.over_ms - early_ms).encode()
        verdict = verify_certificate(COPIES.certificate(NODES[:5], last_head=last))
        assert verdict.complete is complete
        assert verdict.lapsed == ((6,) if complete else ())
        assert verdict.lapsed_ms == COPIES.over_ms


def test_a_node_that_changed_its_keys_confirms_with_the_new_ones() -> None:
    world = CertificateWorld()
    changed = world.change_keys("n1")
    now = {"applied_height": world.world.height}
    others = [world.signed(name, **now).encode() for name in NODES[1:]]
    registered = [world.proof(RegisterAccount, name).encode() for name in NODES]
    shown = (registered[0], changed, *registered[1:])

    def certificate(version: int, registrations: tuple[bytes, ...]) -> RevocationCertificate:
        said = world.signed("n1", key_version=version, **now).encode()
        return world.certificate(statements=(said, *others), registrations=registrations)

    assert verify_certificate(certificate(2, shown)).complete
    for version, registrations in (
        (1, shown),
        (2, tuple(registered)),
        (2, (changed, *registered)),
        (2, (*shown, changed)),
    ):
        with pytest.raises(Corrupt) as caught:
            verify_certificate(certificate(version, registrations))
        assert caught.value.reason == "bad-certificate"


def test_every_changed_byte_is_found() -> None:
    """One bit of each byte; of the map's rows, which one digest covers, every 16th."""
    data = WORLD.certificate(NODES[:1]).encode()
    rows = data.find(WORLD.map.tables[0].rows)
    places = [at for at in range(len(data)) if not rows <= at < rows + 3072 or not at % 16]
    for at, bit in zip(places, itertools.cycle(range(8)), strict=False):
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        with pytest.raises(HcefsError):
            verify_certificate(RevocationCertificate.decode(bytes(changed)))
    for cut in (data[:-1], data + b"\x00", b""):
        with pytest.raises(Invalid):
            RevocationCertificate.decode(cut)


def test_every_changed_byte_is_found_without_the_digest() -> None:
    """Somebody who makes the digest anew still cannot say anything else.

    What remains free is the shape of Merkle paths, which decides nothing.
    """
    honest = WORLD.certificate(NODES[:1])
    for field in ("genesis", "given", "revoked", "cluster_map", "first_head", "last_head"):
        data = getattr(honest, field)
        for at in range(0, len(data), max(1, len(data) // 40)):
            changed = bytearray(data)
            changed[at] ^= 1
            fields: dict[str, Any] = {field: bytes(changed)}
            forged = replace(honest, **fields).sealed()
            try:
                verdict = verify_certificate(forged)
            except Corrupt:
                continue
            assert verdict == verify_certificate(honest)


def _statement(**changes: Any) -> Callable[[], RevocationCertificate]:
    def make() -> RevocationCertificate:
        others = tuple(WORLD.signed(name).encode() for name in NODES[:5])
        return WORLD.certificate(statements=(*others, WORLD.signed("n6", **changes).encode()))

    return make


def _with(**changes: Callable[[], Any]) -> Callable[[], RevocationCertificate]:
    return lambda: WORLD.certificate(**{name: make() for name, make in changes.items()})


def _forged_registration() -> tuple[bytes, ...]:
    """A node of the forger's own, in a block that no writer signed."""
    world = WORLD.world
    data = world.sign(WORLD.world.registration("n6", NODE_KIND), "n6", "o1", "o2").encode()
    header = replace(WORLD.blocks[5].header, transaction_root=transaction_root([data]))
    block = sign_block(header, [data], signing_key("forger"))
    honest = [WORLD.proof(RegisterAccount, name).encode() for name in NODES[:5]]
    return (*honest, prove_transaction(block, 0).encode())


NODE_KIND = WORLD.world.party("n6").kind
FORGERIES: dict[str, Callable[[], RevocationCertificate]] = {
    "other grant": _statement(grant=grant_id("h")),
    "other height": _statement(revoked_height=WORLD.height - 1),
    "not applied": _statement(applied_height=WORLD.height - 1),
    "other history": _statement(applied_hash=bytes(32)),
    "other map": _statement(map_digest=bytes(32)),
    "other epoch": _statement(epoch=2),
    "other cluster": _statement(cluster=type(WORLD.world.genesis.cluster)(b"c" * 16)),
    "later key": _statement(key_version=2),
    "said by another": _with(
        statements=lambda: tuple(
            WORLD.statement(name).signed(WORLD.world.party("n1").signing).encode() for name in NODES
        )
    ),
    "said twice": _with(statements=lambda: (WORLD.signed("n1").encode(),) * 6),
    "out of order": _with(
        statements=lambda: tuple(WORLD.signed(name).encode() for name in reversed(NODES))
    ),
    "nobody": lambda: WORLD.certificate(()),
    "a registration too many": lambda: replace(
        WORLD.certificate(NODES[:5]),
        registrations=tuple(WORLD.proof(RegisterAccount, name).encode() for name in NODES),
    ).sealed(),
    "a patient as node": lambda: replace(
        WORLD.certificate(NODES[:5]),
        registrations=(
            *WORLD.certificate(NODES[:5]).registrations,
            WORLD.proof(RegisterAccount, "pat").encode(),
        ),
    ).sealed(),
    "forged registration": _with(registrations=_forged_registration),
    "no revocation": _with(revoked=lambda: WORLD.proof(GiveGrant).encode()),
    "no grant": _with(given=lambda: WORLD.proof(SetClusterMap).encode()),
    "heads in disorder": _with(
        first_head=lambda: WORLD.head(WORLD.over_ms).encode(),
        last_head=lambda: WORLD.first.encode(),
    ),
    "head before the revocation": _with(
        first_head=lambda: sign_head(
            WORLD.world.genesis,
            WORLD.blocks[-2].header,
            WORLD.blocks[-2].header.app_hash,
            WORLD.world.time_ms,
            WORLD.world.writer,
            term=1,
        ).encode()
    ),
    "unsigned head": _with(last_head=lambda: replace(WORLD.first, time_ms=WORLD.over_ms).encode()),
    "head of no term": _with(last_head=lambda: replace(WORLD.first, term=2).encode()),
    "a term of nobody": _with(terms=lambda: (b"\x80",)),
    "smaller map": _with(cluster_map=lambda: replace(WORLD.map, seed=b"x").encode()),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused(name: str) -> None:
    with pytest.raises(Corrupt) as caught:
        verify_certificate(FORGERIES[name]())
    assert caught.value.reason == "bad-certificate"


def test_the_digest_covers_every_field() -> None:
    honest = WORLD.certificate()
    assert honest.digest == blake3_digest(replace(honest, digest=b"").encode())
