"""From boxes and links to a blob's key, with every key checked against the ledger's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.client.bundle import opened_by_any
from hcefs.client.keys import (
    RANGE_SEGMENTS_MAX,
    BlobKey,
    blob_key,
    bundle_context,
    checked_key,
    client_seals,
    decoded_rows,
    follow_links,
    genuine_links,
    open_key_row,
    own_key,
)
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import HybridKey, seal_envelope
from hcefs.crypto.stream import SEGMENT_SIZE, segment_secret
from hcefs.errors import Corrupt, Denied, Invalid, NotFound, Unauthenticated
from hcefs.formats.keybox import RangeSecrets
from tests.unit.client.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    OWNER,
    RECORD,
    STRANGER,
    PutBlob,
    account_of,
    generation,
    grant,
    receiver,
    sealer,
)

OWNER_ACCOUNT = account_of(OWNER)
NEWEST = 3
GENERATIONS = {number: generation(number) for number in range(NEWEST + 1)}
SEEDS = {number: OWNER.record_key(RECORD, number) for number in GENERATIONS}
LINKS = {
    number: sealer().link(RECORD, number, SEEDS[number], SEEDS[number + 1].public_key)
    for number in range(NEWEST)
}


def walk(wanted: int = 0, **changes: object) -> dict[int, HybridKey]:
    generations = {n: g for n, g in GENERATIONS.items() if n >= wanted}
    arguments: dict[str, object] = {
        "start": (NEWEST, SEEDS[NEWEST]),
        "links": LINKS,
        "generations": generations,
        "owners": {1: OWNER_ACCOUNT},
    }
    return follow_links(CLUSTER, **(arguments | changes))  # type: ignore[arg-type]


def test_a_box_opens_for_its_grantee_alone() -> None:
    box = sealer().box(grant(), account_of(DOCTOR), 3, SEEDS[3].seed)
    assert receiver().fitting([box], grant()) == [box]
    assert receiver().secret(box, OWNER_ACCOUNT) == SEEDS[3].seed
    assert receiver(STRANGER).fitting([box], grant()) == []
    with pytest.raises(Corrupt, match="does not open"):
        receiver(STRANGER).secret(box, OWNER_ACCOUNT)


@pytest.mark.parametrize(
    "change", [{"generation": 2}, {"grantee_key_version": 2}, {"blob": BLOB}, {"record": None}]
)
def test_a_box_is_bound_to_what_it_says(change: dict[str, object]) -> None:
    box = sealer().box(grant(), account_of(DOCTOR), 3, SEEDS[3].seed)
    if change.get("record", "") is None:
        change = {"record": type(RECORD)(b"x" * 16)}
    with pytest.raises(Unauthenticated):
        receiver().secret(replace(box, **change), OWNER_ACCOUNT)  # type: ignore[arg-type]
    resigned = replace(box, **change).signed(OWNER.signing_key)  # type: ignore[arg-type]
    if change not in ({"grantee_key_version": 2}, {"blob": BLOB}):  # not part of the context
        with pytest.raises(Corrupt):
            receiver().secret(resigned, OWNER_ACCOUNT)
    else:
        assert receiver().fitting([resigned], grant()) == []


def test_a_box_by_somebody_else_is_refused() -> None:
    box = sealer(STRANGER).box(grant(), account_of(DOCTOR), 3, SEEDS[3].seed)
    with pytest.raises(Corrupt):
        receiver().secret(box, OWNER_ACCOUNT)
    forged = replace(box, granter=OWNER.account)
    with pytest.raises(Unauthenticated):
        receiver().secret(forged, OWNER_ACCOUNT)


def test_boxes_come_oldest_first() -> None:
    boxes = [sealer().box(grant(), account_of(DOCTOR), n, SEEDS[n].seed) for n in (2, 0, 1)]
    assert [box.generation for box in receiver().fitting(boxes, grant())] == [0, 1, 2]


def test_links_lead_down_to_every_older_generation() -> None:
    found = walk()
    assert {n: key.public_key for n, key in found.items()} == {
        n: g.public_key for n, g in GENERATIONS.items()
    }
    assert sorted(walk(wanted=2)) == [2, 3]
    assert sorted(walk(wanted=NEWEST)) == [NEWEST]


def test_a_gap_in_the_links_is_named() -> None:
    with pytest.raises(NotFound, match="generation 1") as caught:
        walk(links={n: link for n, link in LINKS.items() if n != 1})
    assert caught.value.reason == "no-key-link"


def test_a_link_by_somebody_else_is_refused() -> None:
    forged = sealer(STRANGER).link(RECORD, 2, SEEDS[2], SEEDS[3].public_key)
    with pytest.raises(Corrupt):
        walk(links=LINKS | {2: forged})
    with pytest.raises(Unauthenticated):
        walk(links=LINKS | {2: replace(forged, owner=OWNER.account)})
    assert genuine_links({2: [forged, LINKS[2]]}, {1: OWNER_ACCOUNT}) == {2: LINKS[2]}


def test_a_link_to_a_key_that_is_not_the_ledgers_is_refused() -> None:
    planted = sealer().link(RECORD, 2, STRANGER.record_key(RECORD, 2), SEEDS[3].public_key)
    with pytest.raises(Corrupt) as caught:
        walk(links=LINKS | {2: planted})
    assert caught.value.reason == "wrong-record-key"


@pytest.mark.parametrize("seed", [b"", bytes(32), STRANGER.record_key(RECORD, 0).seed])
def test_a_planted_record_key_is_refused(seed: bytes) -> None:
    with pytest.raises(Corrupt):
        checked_key(seed, GENERATIONS[0])
    assert checked_key(SEEDS[0].seed, GENERATIONS[0]).seed == SEEDS[0].seed


def test_the_owner_finds_a_key_that_was_registered_under_a_later_number() -> None:
    assert own_key(OWNER, GENERATIONS[2]).seed == SEEDS[2].seed
    assert own_key(OWNER, generation(2, made_as=1)).seed == SEEDS[1].seed
    with pytest.raises(Corrupt):
        own_key(STRANGER, GENERATIONS[2])


def test_the_key_row_gives_the_dek_that_the_core_commits_to() -> None:
    put = PutBlob(b"plaintext")
    assert open_key_row(CLUSTER, SEEDS[0], put.key_row, put.core) == BlobKey(dek=put.dek)
    other = PutBlob(b"plaintext", blob=type(BLOB).of(b"o" * 16))
    with pytest.raises(Corrupt):
        open_key_row(CLUSTER, SEEDS[0], other.key_row, put.core)
    core = replace(put.core, dek_commitment=bytes(32))
    with pytest.raises(Corrupt) as caught:
        open_key_row(CLUSTER, SEEDS[0], put.key_row, core)
    assert caught.value.reason == "wrong-key"


def test_a_range_gets_the_secrets_of_its_segments_and_no_others() -> None:
    put = PutBlob(bytes(5 * SEGMENT_SIZE))
    whole = BlobKey(dek=put.dek)
    secrets = whole.secrets_of(put.geometry.covering(SEGMENT_SIZE + 1, 2 * SEGMENT_SIZE))
    assert secrets == RangeSecrets(1, b"".join(segment_secret(put.dek, n) for n in (1, 2, 3)))
    ranged = blob_key(BlobKey(ranged=secrets).sealed_form(), ranged=True)
    assert ranged.secrets_of(range(2, 3)).secrets == segment_secret(put.dek, 2)
    assert not ranged.dek
    for beyond in (range(2), range(3, 5), range(4, 5)):
        with pytest.raises(Denied):
            ranged.secrets_of(beyond)
    with pytest.raises(Invalid):
        whole.secrets_of(range(RANGE_SEGMENTS_MAX + 1))


def test_malformed_secrets_in_a_box_are_refused() -> None:
    with pytest.raises(Corrupt):
        blob_key(b"short", ranged=False)
    with pytest.raises(Invalid):
        blob_key(RangeSecrets(0, b"x" * 33).encode(), ranged=True)
    with pytest.raises(Invalid):
        blob_key(b"not cbor", ranged=True)
    with pytest.raises(NotFound):
        BlobKey().secrets_of(range(1))


def test_no_secret_is_printed() -> None:
    dek = b"\xab" * 32
    for shown in (repr(BlobKey(dek=dek)), repr(BlobKey(ranged=RangeSecrets(0, dek)))):
        assert "ab" * 4 not in shown.replace("\\x", "")


def test_rows_that_cannot_be_read_are_left_out() -> None:
    box = sealer().box(grant(), account_of(DOCTOR), 0, SEEDS[0].seed)
    other = sealer().link(type(RECORD)(b"x" * 16), 0, SEEDS[0], SEEDS[1].public_key)
    boxes, links = decoded_rows(
        [b"junk", box.encode()], [LINKS[0].encode(), b"", other.encode()], RECORD
    )
    assert boxes == [box]
    assert links == {0: [LINKS[0]]}


def test_the_choice_of_who_seals() -> None:
    assert client_seals("client")
    assert not client_seals("node")
    with pytest.raises(Invalid):
        client_seals("both")


def renewed(keys: AccountKeys, number: int = 1) -> AccountKeys:
    return keys.renewed(bytes([number]) * 128)


def test_a_box_to_older_keys_opens_while_they_are_kept() -> None:
    box = sealer().box(grant(), account_of(DOCTOR), 3, SEEDS[3].seed)
    newer = renewed(DOCTOR)
    remembering = replace(receiver(newer), past=newer.past_receiving_keys())
    assert remembering.fitting([box], grant()) == [box]
    assert remembering.secret(box, OWNER_ACCOUNT) == SEEDS[3].seed
    assert remembering.keys[0].public_key == newer.receiving_key.public_key
    # A box to the current keys comes first among those of one generation.
    again = sealer().box(grant(), account_of(newer), 3, SEEDS[3].seed)
    assert remembering.fitting([box, again], grant()) == [again, box]
    assert remembering.secret(again, OWNER_ACCOUNT) == SEEDS[3].seed
    forgetful = receiver(newer)
    assert forgetful.fitting([box], grant()) == []
    with pytest.raises(Corrupt) as caught:
        forgetful.secret(box, OWNER_ACCOUNT)
    assert caught.value.reason == "old-key"


def test_boxes_and_links_are_checked_with_the_version_that_they_name() -> None:
    newer = renewed(OWNER)
    after = account_of(newer)
    box = sealer().box(grant(), account_of(DOCTOR), 3, SEEDS[3].seed)
    with pytest.raises(Corrupt) as caught:  # the caller brings the account as of the version
        receiver().secret(box, after)
    assert caught.value.reason == "wrong-granter"
    owners = {1: OWNER_ACCOUNT, 2: after}
    late = sealer(newer).link(RECORD, 2, SEEDS[2], SEEDS[3].public_key)
    links = LINKS | {2: late}
    assert genuine_links({n: [link] for n, link in links.items()}, owners) == links
    assert sorted(walk(links=links, owners=owners)) == [0, 1, 2, 3]
    # The old key does not pass for the new one, nor does a version that nobody asked about.
    posing = replace(LINKS[2], owner_key_version=2).signed(OWNER.signing_key)
    assert genuine_links({2: [posing]}, owners) == {}
    with pytest.raises(Unauthenticated):
        walk(links=LINKS | {2: posing}, owners=owners)
    assert genuine_links({2: [late]}, {1: OWNER_ACCOUNT}) == {}
    with pytest.raises(Corrupt):
        walk(links=links)


def test_an_owner_finds_generations_of_every_master() -> None:
    newer = renewed(OWNER)
    newest = renewed(newer, 2)
    for number, maker in ((0, OWNER), (1, newer), (2, newest)):
        found = own_key(newest, generation(number, maker))
        assert found.public_key == maker.record_key(RECORD, number).public_key
    with pytest.raises(Corrupt):
        own_key(OWNER, generation(1, newer))


def test_a_bundle_to_older_keys_opens() -> None:
    newer = renewed(DOCTOR)
    remembering = replace(receiver(newer), past=newer.past_receiving_keys())
    context = bundle_context(CLUSTER, RECORD, 0, BLOB, DOCTOR.account)
    for key in (DOCTOR.receiving_key, newer.receiving_key):
        envelope = seal_envelope(key.public_key, b"secret", context)
        assert opened_by_any(remembering.keys, envelope, context) == b"secret"
    other = seal_envelope(STRANGER.receiving_key.public_key, b"secret", context)
    with pytest.raises(Corrupt):
        opened_by_any(remembering.keys, other, context)
