"""A listing is complete and genuine, or says that it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import Record
from hcefs.client.listing import Listing, check_leaves, check_listing
from hcefs.errors import Corrupt
from hcefs.formats.manifest import Opening
from hcefs.ids import BlobId, RecordId
from hcefs.integrity import append_peak, blake3_digest
from hcefs.ledger.outcome import Leaf
from tests.unit.client.world import DOCTOR, OWNER, RECORD


def opening(number: int, **changes: object) -> Opening:
    made = Opening(
        salt=blake3_digest(b"salt %d" % number),
        record=RECORD,
        blob=BlobId.of(blake3_digest(b"blob %d" % number)[:16]),
        core_digest=blake3_digest(b"core %d" % number),
        previous_leaf=b"",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def leaf_of(entry: Opening, number: int) -> Leaf:
    signer = OWNER.account if number % 2 else DOCTOR.account
    return Leaf(entry.commitment(), signer, 0, 1000 + number)


def record_of(leaves: list[Leaf]) -> Record:
    peaks: tuple[bytes, ...] = ()
    for count, leaf in enumerate(leaves):
        peaks = append_peak(count, peaks, leaf.hash())
    return Record(RECORD, OWNER.account, 0, len(leaves), peaks, 1)


OPENINGS = [opening(number) for number in range(7)]
LEAVES = [leaf_of(entry, number) for number, entry in enumerate(OPENINGS)]
FACT = record_of(LEAVES)
FOUND = OPENINGS


def test_a_complete_listing_in_the_order_of_the_leaves() -> None:
    listing = check_listing(FACT, LEAVES, FOUND[::-1])
    assert listing.complete
    assert [entry.opening for entry in listing] == OPENINGS
    assert [entry.leaf_index for entry in listing] == list(range(7))
    assert [entry.leaf for entry in listing] == [leaf.hash() for leaf in LEAVES]
    assert listing[1].signer == OWNER.account
    assert listing[1].time_ms == 1001
    assert listing[-1].blob == OPENINGS[-1].blob
    assert len(listing) == 7


def test_an_empty_record() -> None:
    assert check_listing(record_of([]), [], []) == Listing(record_of([]), (), 0)


def test_a_withheld_entry_is_counted() -> None:
    listing = check_listing(FACT, LEAVES, [FOUND[0], FOUND[5]])
    assert (listing.missing, listing.complete, len(listing)) == (5, False, 2)


def test_entries_that_are_newer_than_the_record_are_left_out() -> None:
    listing = check_listing(FACT, LEAVES, [*FOUND, opening(7)])
    assert listing.complete
    assert len(listing) == 7


@pytest.mark.parametrize(
    "leaves",
    [
        LEAVES[:-1],
        [*LEAVES, LEAVES[0]],
        [LEAVES[1], LEAVES[0], *LEAVES[2:]],
        [replace(LEAVES[0], signer=OWNER.account), *LEAVES[1:]],
        [replace(LEAVES[0], time_ms=1), *LEAVES[1:]],
    ],
    ids=["cut", "extended", "reordered", "another signer", "another time"],
)
def test_leaves_that_do_not_lead_to_the_peaks(leaves: list[Leaf]) -> None:
    with pytest.raises(Corrupt) as caught:
        check_leaves(FACT, leaves)
    assert caught.value.reason == "wrong-leaves"


@pytest.mark.parametrize(
    "changes",
    [
        {"salt": bytes(32)},
        {"blob": OPENINGS[1].blob},
        {"core_digest": bytes(32)},
        {"previous_leaf": bytes(32)},
        {"record": RecordId(b"x" * 16)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_tampered_opening_proves_nothing(changes: dict[str, object]) -> None:
    listing = check_listing(FACT, LEAVES, [opening(0, **changes), *FOUND[1:]])
    assert (listing.missing, listing.complete) == (1, False)
    assert [entry.opening for entry in listing] == FOUND[1:]
    # ... and does no harm beside the right one.
    assert check_listing(FACT, LEAVES, [opening(0, **changes), *FOUND]).complete


def test_a_blob_that_two_entries_bind_counts_once() -> None:
    twin = opening(9, blob=OPENINGS[0].blob)
    leaves = [*LEAVES, leaf_of(twin, 7)]
    listing = check_listing(record_of(leaves), leaves, [twin, *FOUND])
    assert listing.complete
    assert listing.rejected == (7,)
    assert [entry.opening for entry in listing] == FOUND


def test_an_entry_that_somebody_copied_does_not_spoil_the_record() -> None:
    copied = replace(LEAVES[0], signer=OWNER.account, time_ms=2000)
    leaves = [*LEAVES, copied]
    listing = check_listing(record_of(leaves), leaves, FOUND)
    assert listing.complete
    assert listing.rejected == (7,)
    assert listing[0].signer == LEAVES[0].signer
