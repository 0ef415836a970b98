"""A manifest is believed only when its rows, its commitment and its leaf agree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.client.keys import BlobKey
from hcefs.client.stat import Manifest, check_manifest, digests_fit, metadata_of
from hcefs.errors import Corrupt, HcefsError, NotFound
from hcefs.formats.keybox import RangeSecrets
from hcefs.ids import RecordId
from hcefs.ledger.outcome import Leaf
from hcefs.wire.v1 import blob_pb2
from tests.unit.client.world import BLOB, DOCTOR, OWNER, RECORD, PutBlob

PUT = PutBlob(b"plaintext")
LEAF = Leaf(PUT.opening.commitment(), OWNER.account, 0, 1)


def answer(**rows: bytes) -> blob_pb2.StatResponse:
    fields = {
        "core": PUT.core.encode(),
        "layout": PUT.layout.encode(),
        "key_row": PUT.key_row.encode(),
        "opening": PUT.opening.encode(),
    }
    return blob_pb2.StatResponse(**(fields | rows))


def manifest(put: PutBlob = PUT) -> Manifest:
    return Manifest(put.core, put.layout, put.key_row, put.opening)


def test_rows_that_fit() -> None:
    assert check_manifest(RECORD, BLOB, answer()) == manifest()
    assert check_manifest(RECORD, BLOB, answer(key_row=b"")).key_row is None
    assert manifest().check_leaf(LEAF) == LEAF


OTHER = PutBlob(b"another", blob=type(BLOB).of(b"o" * 16))
BAD_ROWS = {
    "core of another blob": {"core": OTHER.core.encode()},
    "core altered": {"core": replace(PUT.core, plaintext_length=8).encode()},
    "layout of another blob": {"layout": OTHER.layout.encode()},
    "opening of another blob": {"opening": OTHER.opening.encode()},
    "key row of another blob": {"key_row": OTHER.key_row.encode()},
    "other digests": {
        "layout": replace(PUT.layout, shard_digests=(bytes(32),) * 6).encode(),
    },
    "too few digests": {
        "layout": replace(PUT.layout, shard_digests=PUT.layout.shard_digests[:4]).encode(),
    },
    "malformed": {"core": b"junk"},
    "everything of another blob": {
        "core": OTHER.core.encode(),
        "layout": OTHER.layout.encode(),
        "opening": OTHER.opening.encode(),
        "key_row": OTHER.key_row.encode(),
    },
}


@pytest.mark.parametrize("rows", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_rows_that_do_not_fit(rows: dict[str, bytes]) -> None:
    with pytest.raises(HcefsError):
        check_manifest(RECORD, BLOB, answer(**rows))


def test_rows_of_another_record_are_refused() -> None:
    with pytest.raises(Corrupt):
        check_manifest(RecordId(b"x" * 16), BLOB, answer())


def test_after_re_profiling_only_the_data_can_tell() -> None:
    copies = replace(PUT.layout, profile="copy-3", shard_digests=(bytes(32),) * 3)
    assert digests_fit(PUT.core, copies)
    assert not digests_fit(PUT.core, replace(copies, shard_digests=(bytes(32),) * 4))


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (None, "not-committed"),
        (replace(LEAF, signer=DOCTOR.account), "wrong-signer"),
        (replace(LEAF, generation=1), "wrong-leaf"),
        (replace(LEAF, commitment=bytes(32)), "wrong-leaf"),
    ],
)
def test_a_leaf_that_is_not_the_writers(leaf: Leaf | None, reason: str) -> None:
    with pytest.raises((Corrupt, NotFound)) as caught:
        manifest().check_leaf(leaf)
    assert caught.value.reason == reason


def test_metadata_opens_with_the_dek_only() -> None:
    assert metadata_of(PUT.core, BlobKey(dek=PUT.dek)) == PUT.metadata
    assert metadata_of(PUT.core, BlobKey(ranged=RangeSecrets(0, bytes(32)))) is None
    bare = replace(PUT.core, sealed_metadata=b"")
    assert metadata_of(bare, BlobKey(dek=PUT.dek)) is None
    with pytest.raises(Corrupt):
        metadata_of(PUT.core, BlobKey(dek=bytes(32)))
