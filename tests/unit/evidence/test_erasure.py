"""What an erasure certificate proves, and every way in which it proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hcefs.client.erasure_check import check_certificate
from hcefs.crypto.signing import SigningKey, account_id
from hcefs.errors import Corrupt, HcefsError, Invalid, Unauthenticated
from hcefs.evidence.erasure import (
    ErasureCertificate,
    ErasureStatement,
    MissingNode,
    exposure_of,
    read_certificate,
)
from hcefs.ids import ClusterId, RecordId
from hcefs.ledger.inclusion import TransactionProof
from hcefs.placement.cluster_map import NodeState
from tests.unit.ledger.scenario import signing_key
from tests.vectors.generate_erasure import (
    RECORD,
    certificate,
    changed_certificate,
    first_form,
    statement_of,
    world,
)

HEIGHT = TransactionProof.decode(certificate().proof).header.height
NAMES = ("n1", "n2", "n3", "n4")


def with_statements(*statements: ErasureStatement) -> ErasureCertificate:
    return replace(certificate(), statements=statements)


def signed_again(statement: ErasureStatement, name: str, **changes: object) -> ErasureStatement:
    """The same with other fields, signed by that node's key all the same."""
    key = world().party(name).signing
    return replace(statement, signature=b"", **changes).signed(key)  # type: ignore[arg-type]


def test_a_whole_certificate() -> None:
    checked = check_certificate(certificate(), world().genesis.cluster)
    assert checked.height == HEIGHT
    assert checked.exposure.complete
    assert checked.by_order == b""
    assert checked.transaction == world().view.erasure(RECORD).transaction  # type: ignore[union-attr]
    assert ErasureCertificate.decode(certificate().encode()) == certificate()


@pytest.mark.parametrize("absent", [("n4",), ("n1", "n3"), NAMES])
def test_who_has_not_signed_is_named(absent: tuple[str, ...]) -> None:
    whole = certificate()
    accounts = {world().account(name) for name in absent}
    short = replace(
        whole, statements=tuple(each for each in whole.statements if each.node not in accounts)
    )
    exposure = check_certificate(short).exposure
    assert not exposure.complete
    assert {each.account for each in exposure.missing} == accounts
    # Under a profile of copies one disk has all that there is.
    assert exposure.shards
    assert exposure.openers == whole.openers


def test_a_node_that_was_removed_still_has_a_disk() -> None:
    whole = certificate()
    gone = replace(whole.cluster_map.nodes[0], state=NodeState.REMOVED)
    current = replace(whole.cluster_map, nodes=(gone, *whole.cluster_map.nodes[1:]))
    rest = tuple(each for each in whole.statements if each.node != gone.account)
    exposure = exposure_of(replace(whole, cluster_map=current, statements=rest), HEIGHT)
    assert exposure.missing == (MissingNode(gone.node_id, gone.account, NodeState.REMOVED),)


def test_too_few_shards_for_ciphertext() -> None:
    whole = certificate()
    wide = tuple(replace(table, k=3, m=1) for table in whole.cluster_map.tables)
    current = replace(whole.cluster_map, tables=wide)
    for absent, readable in ((2, False), (3, True)):
        some = replace(whole, cluster_map=current, statements=whole.statements[absent:])
        assert exposure_of(some, HEIGHT).shards is readable


FIRST = certificate().statements[0]
BAD: dict[str, Callable[[], ErasureCertificate]] = {
    "signed by another node": lambda: with_statements(signed_again(FIRST, "n2")),
    "a count changed": lambda: with_statements(replace(FIRST, shards=FIRST.shards + 1)),
    "another record": lambda: with_statements(
        signed_again(FIRST, "n1", record=RecordId(b"another record!!"))
    ),
    "another cluster": lambda: with_statements(
        signed_again(FIRST, "n1", cluster=ClusterId(b"another cluster!"))
    ),
    "another height": lambda: with_statements(signed_again(FIRST, "n1", erased_height=HEIGHT - 1)),
    "something is left": lambda: with_statements(signed_again(FIRST, "n1", left=1)),
    "signed before the block": lambda: with_statements(
        signed_again(FIRST, "n1", applied_height=HEIGHT - 1)
    ),
    "twice": lambda: with_statements(FIRST, FIRST),
    "no node of the map": lambda: with_statements(statement_of(world(), "n5", HEIGHT)),
    "a key of somebody else": lambda: with_statements(
        signed_again(FIRST, "n2", signing_key=world().party("n2").signing.public_key)
    ),
    "the header's writer": lambda: replace(
        certificate(), proof=replaced(lambda proof: replace(proof, signature=bytes(64)))
    ),
    "the header's height": lambda: replace(
        certificate(),
        proof=replaced(
            lambda proof: replace(proof, header=replace(proof.header, height=HEIGHT + 1))
        ),
    ),
    "the transaction's place": lambda: replace(
        certificate(), proof=replaced(lambda proof: replace(proof, index=1, count=2))
    ),
    "a proof of something else": lambda: replace(certificate(), proof=b"\x80"),
    "another record in front": lambda: replace(
        certificate(), record=RecordId(b"another record!!"), statements=()
    ),
    "another genesis": lambda: replace(
        certificate(),
        genesis=replace(world().genesis, name="another cluster").encode(),
    ),
    "no genesis": lambda: replace(certificate(), genesis=b""),
}


def replaced(change: Callable[[TransactionProof], TransactionProof]) -> bytes:
    return change(TransactionProof.decode(certificate().proof)).encode()


@pytest.mark.parametrize("name", BAD)
def test_what_proves_nothing(name: str) -> None:
    with pytest.raises(Corrupt) as caught:
        check_certificate(BAD[name]())
    assert caught.value.reason in ("bad-certificate", "bad-transaction-proof")


def test_a_node_that_changed_its_keys_signs_with_the_new_ones() -> None:
    checked = check_certificate(changed_certificate())
    assert checked.exposure.complete
    assert [each.key_version for each in checked.certificate.statements] == [2, 1, 1, 1]


def first_again(**changes: object) -> ErasureCertificate:
    """The statement of the node that changed its keys, changed and signed with those."""
    whole = changed_certificate()
    first = replace(whole.statements[0], signature=b"", **changes)  # type: ignore[arg-type]
    signed = first.signed(signing_key("n1-again"))
    return replace(whole, statements=(signed, *whole.statements[1:]))


BAD_CHANGES: dict[str, Callable[[], ErasureCertificate]] = {
    "no proof": lambda: replace(changed_certificate(), key_changes=()),
    "the new key under the first version": lambda: first_again(key_version=1),
    "the new key under a later version": lambda: first_again(key_version=3),
    "the new key of another node": lambda: first_again(node=world().account("n2")),
    "a proof of something else": lambda: replace(
        changed_certificate(), key_changes=(changed_certificate().proof,)
    ),
    "a proof twice": lambda: replace(
        changed_certificate(), key_changes=changed_certificate().key_changes * 2
    ),
    "a proof that nothing needs": lambda: replace(
        changed_certificate(), statements=changed_certificate().statements[1:]
    ),
    "no proof at all": lambda: replace(changed_certificate(), key_changes=(b"\x80",)),
    "a proof that the writer did not sign": lambda: replace(
        changed_certificate(),
        key_changes=(
            replace(
                TransactionProof.decode(changed_certificate().key_changes[0]),
                signature=bytes(64),
            ).encode(),
        ),
    ),
}


@pytest.mark.parametrize("name", BAD_CHANGES)
def test_changes_of_keys_that_prove_nothing(name: str) -> None:
    with pytest.raises(Corrupt) as caught:
        check_certificate(BAD_CHANGES[name]())
    assert caught.value.reason in ("bad-certificate", "bad-transaction-proof")


def test_certificates_of_both_versions_are_read() -> None:
    assert read_certificate(first_form().encode()) == certificate()
    assert read_certificate(certificate().encode()) == certificate()
    with pytest.raises(Invalid):
        read_certificate(b"\x80")


def test_a_certificate_of_another_cluster() -> None:
    with pytest.raises(Corrupt):
        check_certificate(certificate(), ClusterId(b"another cluster!"))


def test_any_flipped_byte_is_found() -> None:
    data = bytearray(FIRST.encode())
    for position in range(len(data)):
        data[position] ^= 1
        try:
            changed = ErasureStatement.decode(bytes(data))
            changed.check()
        except HcefsError:
            pass
        else:
            pytest.fail(f"byte {position} is not covered")
        data[position] ^= 1


def test_statements_out_of_range() -> None:
    for changes in ({"boxes": -1}, {"erased_height": 0}, {"key_version": 0}, {"done_ms": 0}):
        with pytest.raises(Invalid):
            replace(FIRST, **changes).check()  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        replace(FIRST, boxes=FIRST.boxes + 1).check()
    key = SigningKey.from_seed(bytes(32))
    with pytest.raises(Corrupt) as caught:
        replace(FIRST, signing_key=key.public_key).check()
    assert caught.value.reason == "wrong-key"
    assert account_id(FIRST.cluster, key.public_key) != FIRST.node
