"""Sealing and opening of segments: AES-256-GCM that commits to its key.

Owns the bytes of a sealed segment: commitment (32), ciphertext, tag (16).

Invariants, and what each is for:

* The index is in the key, so a reordered segment fails its commitment.
* The last-segment flag is in the nonce, so that a blob cut at a segment's end,
  or continued behind its last segment, fails its tag.
* A segment that is not the last is full; sealing anything else is refused.
* The nonce cannot repeat under a key: the key serves one segment, which is
  sealed once, because every attempt of a put draws a new DEK.
* The commitment is checked first.  AES-GCM alone does not commit to its key:
  two recipients could be given keys that open one ciphertext to two images.

The kernels keep no state between calls and release the GIL, so any thread may
call them.  On failure an output buffer holds zeros, never unverified plaintext.

Not guaranteed: the number of segments; the core's length says it, and whoever
reads to the end opens the last segment to prove it.

Source: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015) as age
uses it; docs/ARCHITECTURE.md, "Encryption of a segment".
"""

from __future__ import annotations

import hmac
import struct
import threading
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from hcefs.crypto.keys import hkdf_expand
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import BlobId, RecordId

Buffer = bytes | bytearray | memoryview

FORMAT_VERSION = 1

SEGMENT_SIZE = 1 << 20
"""Plaintext bytes of a full segment."""

COMMITMENT_SIZE = 32
TAG_SIZE = 16

SEAL_OVERHEAD = COMMITMENT_SIZE + TAG_SIZE
"""Bytes that sealing adds."""

_SEGMENT_INFO = b"hcefs/v1/seg"
_KEY_INFO = b"hcefs/v1/key"
_COMMITMENT_INFO = b"hcefs/v1/com"

_NONCES = (bytes(12), bytes(11) + b"\x01")
"""By the last-segment flag."""

_ZEROS = memoryview(bytes(SEGMENT_SIZE))


def segment_secret(dek: bytes, index: int) -> bytes:
    """The secret of one segment: what is handed out for a range.

    Raises:
        Invalid: ``bad-key``: the DEK has not 32 bytes; ``bad-segment``: the
            index is outside 64 bits.
    """
    if not 0 <= index < 1 << 64:
        raise Invalid(f"segment index {index} is outside 64 bits", reason="bad-segment")
    return hkdf_expand(dek, _SEGMENT_INFO + index.to_bytes(8, "big"))


def _aad(blob: BlobId, record: RecordId) -> bytes:
    return struct.pack(">H18s16sI", FORMAT_VERSION, blob, record, SEGMENT_SIZE)


def _wrong_key() -> Corrupt:
    return Corrupt(
        "the segment was not sealed under this key: check the blob id, the segment's index "
        "and the generation of the key",
        reason="wrong-key",
    )


def _bad_seal() -> Corrupt:
    return Corrupt(
        "the sealed segment is damaged, cut, extended or of another blob or record: "
        "check the digests and rebuild it from other shards",
        reason="bad-seal",
    )


def _plaintext_length(sealed_length: int, last: bool) -> int:
    """The length that a sealed segment of that length opens to."""
    length = sealed_length - SEAL_OVERHEAD
    if not 0 <= length <= SEGMENT_SIZE or (not last and length != SEGMENT_SIZE):
        raise _bad_seal()
    return length


def _check_plaintext(plaintext: Buffer, last: bool) -> int:
    length = memoryview(plaintext).nbytes
    if length > SEGMENT_SIZE or (not last and length != SEGMENT_SIZE):
        raise Invalid(
            f"a segment of {length} bytes: every one but the last has {SEGMENT_SIZE}",
            reason="bad-segment",
        )
    return length


def _check_room(needed: int, out: memoryview) -> None:
    if out.readonly or out.nbytes < needed:
        raise Invalid(
            f"the output buffer must be writable and hold {needed} bytes", reason="bad-buffer"
        )


def seal_segment_into(
    secret: bytes, blob: BlobId, record: RecordId, last: bool, plaintext: Buffer, out: memoryview
) -> int:
    """Seal a segment into ``out`` and return the length: the plaintext's plus 48.

    ``out`` may be longer than needed and must not overlap the plaintext.

    Raises:
        Invalid: ``bad-segment``: longer than a segment, or shorter and not the
            last; ``bad-buffer``: ``out`` is too short or read-only; ``bad-key``.
    """
    sealed_length = _check_plaintext(plaintext, last) + SEAL_OVERHEAD
    _check_room(sealed_length, out)
    out[:COMMITMENT_SIZE] = hkdf_expand(secret, _COMMITMENT_INFO)
    AESGCM(hkdf_expand(secret, _KEY_INFO)).encrypt_into(
        _NONCES[last], plaintext, _aad(blob, record), out[COMMITMENT_SIZE:sealed_length]
    )
    return sealed_length


def seal_segment_pieces_into(
    secret: bytes,
    blob: BlobId,
    record: RecordId,
    last: bool,
    plaintext: Buffer,
    pieces: Sequence[memoryview],
) -> int:
    """Seal a segment into pieces that lie anywhere, laid end to end; returns the length.

    The pieces may be longer than needed and must not overlap the plaintext.

    Raises:
        Invalid: as :func:`seal_segment_into`.
    """
    sealed_length = _check_plaintext(plaintext, last) + SEAL_OVERHEAD
    for piece in pieces:
        _check_room(0, piece)
    if sum(map(len, pieces)) < sealed_length:
        raise Invalid(f"the output pieces must hold {sealed_length} bytes", reason="bad-buffer")
    scatter(hkdf_expand(secret, _COMMITMENT_INFO), pieces, 0)
    encryptor = Cipher(AES256(hkdf_expand(secret, _KEY_INFO)), GCM(_NONCES[last])).encryptor()
    encryptor.authenticate_additional_data(_aad(blob, record))
    view, done, tag_start = memoryview(plaintext).cast("B"), 0, sealed_length - TAG_SIZE
    for part in _span(pieces, COMMITMENT_SIZE, tag_start):
        done += encryptor.update_into(view[done : done + len(part)], part)
    encryptor.finalize()
    scatter(encryptor.tag, pieces, tag_start)
    return sealed_length


def scatter(data: Buffer, pieces: Sequence[memoryview], start: int) -> None:
    """Copy ``data`` to position ``start`` of the pieces laid end to end."""
    view = memoryview(data).cast("B")
    for part in _span(pieces, start, start + len(view)):
        part[:] = view[: len(part)]
        view = view[len(part) :]


def seal_segment(
    secret: bytes, blob: BlobId, record: RecordId, last: bool, plaintext: Buffer
) -> bytes:
    """The sealed segment; with a buffer to reuse, :func:`seal_segment_into` is cheaper.

    Raises:
        Invalid: ``bad-segment``, ``bad-key``: as :func:`seal_segment_into`.
    """
    _check_plaintext(plaintext, last)
    cipher = AESGCM(hkdf_expand(secret, _KEY_INFO))
    return hkdf_expand(secret, _COMMITMENT_INFO) + cipher.encrypt(
        _NONCES[last], plaintext, _aad(blob, record)
    )


def open_segment(
    secret: bytes, blob: BlobId, record: RecordId, last: bool, sealed: Buffer
) -> bytes:
    """The plaintext of a sealed segment.

    Raises:
        Corrupt: ``wrong-key``: sealed under another secret (another blob's key,
            or another index); ``bad-seal``: damaged, cut, extended, of another
            blob or record, or not the last one where ``last`` says so.
        Invalid: ``bad-key``: the secret has not 32 bytes.
    """
    view = memoryview(sealed)
    _plaintext_length(view.nbytes, last)
    if not hmac.compare_digest(view[:COMMITMENT_SIZE], hkdf_expand(secret, _COMMITMENT_INFO)):
        raise _wrong_key()
    try:
        return AESGCM(hkdf_expand(secret, _KEY_INFO)).decrypt(
            _NONCES[last], view[COMMITMENT_SIZE:], _aad(blob, record)
        )
    except InvalidTag:
        raise _bad_seal() from None


def open_segment_into(
    secret: bytes, blob: BlobId, record: RecordId, last: bool, sealed: Buffer, out: memoryview
) -> int:
    """Open a segment into ``out`` and return the plaintext's length.

    ``out`` may be longer than needed and must not overlap ``sealed``.

    Raises:
        Corrupt: as :func:`open_segment`.
        Invalid: ``bad-buffer``: ``out`` is too short or read-only; ``bad-key``.
    """
    view = memoryview(sealed)
    length = _plaintext_length(view.nbytes, last)
    _check_room(length, out)
    if not hmac.compare_digest(view[:COMMITMENT_SIZE], hkdf_expand(secret, _COMMITMENT_INFO)):
        raise _wrong_key()
    try:
        AESGCM(hkdf_expand(secret, _KEY_INFO)).decrypt_into(
            _NONCES[last], view[COMMITMENT_SIZE:], _aad(blob, record), out[:length]
        )
    except InvalidTag:
        out[:length] = _ZEROS[:length]
        raise _bad_seal() from None
    return length


def _span(pieces: Sequence[memoryview], start: int, end: int) -> Iterator[memoryview]:
    """Views of bytes ``start .. end`` of the pieces laid end to end."""
    for piece in pieces:
        if start < len(piece) and end > 0:
            yield piece[max(start, 0) : end]
        start -= len(piece)
        end -= len(piece)


def open_segment_pieces_into(
    secret: bytes,
    blob: BlobId,
    record: RecordId,
    last: bool,
    pieces: Sequence[Buffer],
    sealed_length: int,
    out: memoryview,
) -> int:
    """Open a segment from its data pieces, without joining them, into ``out``.

    ``pieces`` are all k data pieces in the order of their indexes; the padding
    behind ``sealed_length`` is not looked at.  Returns the plaintext's length.

    Raises:
        Corrupt: as :func:`open_segment`; ``bad-seal`` also when the pieces are
            shorter than ``sealed_length``.
        Invalid: ``bad-buffer``: ``out`` is too short or read-only; ``bad-key``.
    """
    length = _plaintext_length(sealed_length, last)
    _check_room(length, out)
    views = [memoryview(piece).cast("B") for piece in pieces]
    if sum(map(len, views)) < sealed_length:
        raise _bad_seal()
    tag_start = COMMITMENT_SIZE + length
    # Commitment and tag may lie across two pieces; joining so few bytes costs nothing.
    commitment = b"".join(_span(views, 0, COMMITMENT_SIZE))
    if not hmac.compare_digest(commitment, hkdf_expand(secret, _COMMITMENT_INFO)):
        raise _wrong_key()
    tag = b"".join(_span(views, tag_start, sealed_length))
    decryptor = Cipher(AES256(hkdf_expand(secret, _KEY_INFO)), GCM(_NONCES[last])).decryptor()
    decryptor.authenticate_additional_data(_aad(blob, record))
    done = 0
    try:
        for part in _span(views, COMMITMENT_SIZE, tag_start):
            done += decryptor.update_into(part, out[done:length])
        decryptor.finalize_with_tag(tag)
    except BaseException as error:
        # Whatever happened, nobody may see what the tag did not vouch for.
        out[:length] = _ZEROS[:length]
        if isinstance(error, InvalidTag):
            raise _bad_seal() from None
        raise
    return length


class _Scratch(threading.local):
    """One segment of working memory a thread; it holds zeros between calls.

    A fresh buffer for every segment costs more in page faults than the cipher.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SEGMENT_SIZE))


_scratch = _Scratch()


def open_segment_pieces(
    secret: bytes,
    blob: BlobId,
    record: RecordId,
    last: bool,
    pieces: Sequence[Buffer],
    sealed_length: int,
) -> bytes:
    """The plaintext of a segment, from its data pieces, without joining them.

    Raises:
        Corrupt: as :func:`open_segment_pieces_into`.
        Invalid: ``bad-key``: the secret has not 32 bytes.
    """
    out = _scratch.view
    length = open_segment_pieces_into(secret, blob, record, last, pieces, sealed_length, out)
    try:
        return bytes(out[:length])
    finally:
        # Plaintext must not outlive its request.
        out[:length] = _ZEROS[:length]
