"""Key boxes and links: what their signatures cover."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Unauthenticated
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.ids import AccountId, BlobId, GrantId, RecordId

KEY = SigningKey.from_seed(bytes(range(32)))
OTHER = SigningKey.from_seed(bytes(32))
RECORD = RecordId(b"\x22" * 16)
BLOB = BlobId.of(b"\x11" * 16)
ENVELOPE = Envelope(SUITE_XWING, b"\x77" * 1168)
BOX = KeyBox(
    record=RECORD,
    generation=3,
    blob=None,
    grant=GrantId(b"\x44" * 16),
    grantee=AccountId(b"\x55" * 16),
    grantee_key_version=1,
    granter=AccountId(b"\x66" * 16),
    granter_key_version=2,
    envelope=ENVELOPE,
    signature=b"",
)
LINK = KeyLink(RECORD, 3, AccountId(b"\x66" * 16), 2, ENVELOPE, b"")


@pytest.mark.parametrize("blob", [None, BLOB])
def test_box_round_trip(blob: BlobId | None) -> None:
    box = replace(BOX, blob=blob).signed(KEY)
    assert KeyBox.decode(box.encode()) == box
    box.check(KEY.public_key)
    assert box.message() == replace(BOX, blob=blob).encode()


def test_a_box_signature_covers_every_field() -> None:
    box = BOX.signed(KEY)
    for changed in (
        replace(box, record=RecordId(bytes(16))),
        replace(box, generation=4),
        replace(box, blob=BLOB),
        replace(box, grant=GrantId(bytes(16))),
        replace(box, grantee=AccountId(bytes(16))),
        replace(box, grantee_key_version=2),
        replace(box, granter=AccountId(bytes(16))),
        replace(box, granter_key_version=1),
        replace(box, envelope=Envelope(SUITE_XWING, b"\x78" * 1168)),
        replace(box, envelope=Envelope(2, b"\x77" * 1168)),
        replace(box, signature=b""),
    ):
        with pytest.raises(Unauthenticated):
            changed.check(KEY.public_key)
    with pytest.raises(Unauthenticated):
        box.check(OTHER.public_key)


def test_link_round_trip_and_signature() -> None:
    link = LINK.signed(KEY)
    assert KeyLink.decode(link.encode()) == link
    link.check(KEY.public_key)
    for changed in (
        replace(link, record=RecordId(bytes(16))),
        replace(link, generation=2),
        replace(link, owner=AccountId(bytes(16))),
        replace(link, owner_key_version=1),
        replace(link, envelope=Envelope(SUITE_XWING, b"")),
    ):
        with pytest.raises(Unauthenticated):
            changed.check(KEY.public_key)


def test_a_box_signature_is_not_a_link_signature() -> None:
    crossed = replace(LINK, signature=KEY.sign(b"key-box", LINK.message()))
    with pytest.raises(Unauthenticated):
        crossed.check(KEY.public_key)
