"""The file of a backup: sealed to recipients' keys, written whole or not at all, read checked.

Owns the bytes of the file.  ::

    "hcefsbak"  u16 version  u32 length  header (canonical CBOR)  BLAKE3 of all before
    sealed segments as of a blob, each with its commitment and its tag

The plaintext of the segments is entries end to end, each with its length in four bytes
before it (:mod:`hcefs.formats.backup`).

Invariants: nothing is believed before its digest or its tag was checked; the digest of the
header is in the data that every tag covers, so segments of another backup, cut, swapped or
added ones do not open; memory is one segment and one entry.  The file has mode 0600, and
its name appears when all of it is on the disk.

Not guaranteed: who wrote it.  Whoever knows the recipients' public keys can make a backup;
what is restored from one is checked against the ledger by the nodes, and the ledger by its
writers' signatures.  Source: docs/decisions/0042-backups.md.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.keys import SECRET_SIZE, HybridKey, open_envelope, seal_envelope
from hcefs.crypto.stream import (
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    open_segment,
    seal_segment,
    segment_secret,
)
from hcefs.durable_files import sync_folder
from hcefs.errors import Conflict, Corrupt, Denied, Invalid, NotFound
from hcefs.formats.backup import (
    DIGEST_SIZE,
    ENTRY_BYTES_MAX,
    FORMAT_VERSION,
    HEADER_BYTES_MAX,
    MAGIC,
    BackupHeader,
    BackupRecipient,
    Entry,
    check_header,
    decode_entry,
    fingerprint,
)
from hcefs.ids import BlobBase, BlobId, ClusterId, RecordId
from hcefs.integrity import blake3_digest

_PREFIX = struct.Struct(">8sHI")
_LENGTH = struct.Struct(">I")
_SEALED_SIZE = SEGMENT_SIZE + SEAL_OVERHEAD

Random = Callable[[int], bytes]


def _context(cluster: ClusterId, backup: BlobBase, recipient: bytes) -> EnvelopeContext:
    return EnvelopeContext(
        tag="backup",
        suite=SUITE_XWING,
        cluster=cluster,
        record=RecordId.zero(),
        generation=0,
        subject=bytes(backup),
        recipient=recipient,
    )


def _places(header: BackupHeader, digest: bytes) -> tuple[BlobId, RecordId]:
    """What takes the places of blob and record in the segments' data."""
    return BlobId.of(header.backup), RecordId(digest[: RecordId.SIZE])


def sealed_header(
    cluster: ClusterId, time_ms: int, recipients: Iterable[bytes], dek: bytes, backup: BlobBase
) -> BackupHeader:
    """A header with the key of a backup, sealed to each of these receiving keys.

    Raises:
        Invalid: no recipient, or a malformed key.
    """
    sealed = []
    for key in dict.fromkeys(recipients):
        name = fingerprint(key)
        envelope = seal_envelope(key, dek, _context(cluster, backup, name))
        sealed.append(BackupRecipient(name, envelope.suite, envelope.ciphertext))
    header = BackupHeader(cluster, backup, time_ms, SEGMENT_SIZE, tuple(sealed))
    check_header(header, SEGMENT_SIZE)
    return header


class BackupWriter:
    """Seals entries into an open file; memory is one segment."""

    def __init__(self, file: IO[bytes], header: BackupHeader, dek: bytes) -> None:
        encoded = header.encode()
        start = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(encoded)) + encoded
        digest = blake3_digest(start)
        file.write(start + digest)
        self._file = file
        self._dek = dek
        self._blob, self._record = _places(header, digest)
        self._held = bytearray()
        self._index = 0
        self.entries = 0

    def add(self, entry: Entry) -> bytes:
        """Seal one entry; its bytes.

        Raises:
            Invalid: it is too long.
        """
        data = entry.encode()
        if len(data) > ENTRY_BYTES_MAX:
            raise Invalid("an entry of a backup is too long", reason="too-large")
        self._held += _LENGTH.pack(len(data)) + data
        self.entries += 1
        # One byte more than a segment: the last one must be known as the last.
        while len(self._held) > SEGMENT_SIZE:
            self._seal(SEGMENT_SIZE, last=False)
        return data

    def finish(self) -> None:
        """Seal what is left as the last segment."""
        self._seal(len(self._held), last=True)

    def _seal(self, length: int, *, last: bool) -> None:
        secret = segment_secret(self._dek, self._index)
        with memoryview(self._held) as view:
            sealed = seal_segment(secret, self._blob, self._record, last, view[:length])
        self._file.write(sealed)
        del self._held[:length]
        self._index += 1


@contextlib.contextmanager
def new_backup(
    path: Path,
    cluster: ClusterId,
    time_ms: int,
    recipients: Iterable[bytes],
    random: Random,
    *,
    replace: bool = False,
) -> Iterator[BackupWriter]:
    """A backup that is at ``path``, durably, when the block ends well; else nothing is.

    Raises:
        Conflict: ``file-exists``: something is there, and ``replace`` is false.
        Invalid: no recipient, or a malformed key.
        OSError: it cannot be written.
    """
    if not replace and path.exists():
        raise _exists(path)
    dek = random(SECRET_SIZE)
    header = sealed_header(cluster, time_ms, recipients, dek, BlobBase(random(BlobBase.SIZE)))
    # mkstemp creates with mode 0600 whatever the umask says.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            writer = BackupWriter(file, header, dek)
            yield writer
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            # A link, unlike a rename, refuses an existing name.
            os.link(temporary, path)
        sync_folder(path.parent)
    except FileExistsError:
        raise _exists(path) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _exists(path: Path) -> Conflict:
    return Conflict(
        f"{path} exists already: choose another name, or say --force to replace it",
        reason="file-exists",
    )


class BackupReader:
    """Opens a backup with the keys of one recipient, entry by entry.

    Raises (constructor):
        Corrupt: ``bad-backup``: its header is damaged or none.
        Invalid: ``unknown-version``.
        Denied: ``not-a-recipient``: it is sealed to others.
    """

    def __init__(self, file: IO[bytes], keys: AccountKeys) -> None:
        self._file = file
        self.header, digest = _read_header(file)
        self._blob, self._record = _places(self.header, digest)
        self._dek = _opened_key(self.header, keys)

    def entries(self) -> Iterator[Entry]:
        """All entries in order; the file is read once, a segment at a time.

        Raises:
            Corrupt: ``wrong-key``, ``bad-seal``: damaged, cut, extended or reordered;
                ``bad-backup``: what was sealed is no entry.
        """
        held = bytearray()
        for segment in self._segments():
            held += segment
            while len(held) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(held)
                if not 0 < length <= ENTRY_BYTES_MAX:
                    raise _bad_backup("an entry has an impossible length")
                end = _LENGTH.size + length
                if len(held) < end:
                    break
                entry = decode_entry(bytes(held[_LENGTH.size : end]))
                del held[:end]
                yield entry
        if held:
            raise _bad_backup("it ends within an entry")

    def _segments(self) -> Iterator[bytes]:
        index, sealed = 0, self._file.read(_SEALED_SIZE)
        while True:
            following = self._file.read(_SEALED_SIZE)
            secret = segment_secret(self._dek, index)
            yield open_segment(secret, self._blob, self._record, not following, sealed)
            if not following:
                return
            index, sealed = index + 1, following


def read_header(path: Path) -> BackupHeader:
    """What anybody may read of a backup.

    Raises:
        NotFound: there is no such file.
        Corrupt, Invalid: as :class:`BackupReader`.
    """
    with opened(path) as file:
        return _read_header(file)[0]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A backup's file, to be read.

    Raises:
        NotFound: ``no-backup``.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"there is no backup {path}", reason="no-backup") from None
    with file:
        yield file


def _read_header(file: IO[bytes]) -> tuple[BackupHeader, bytes]:
    prefix = file.read(_PREFIX.size)
    if len(prefix) != _PREFIX.size or prefix[: len(MAGIC)] != MAGIC:
        raise _bad_backup("it does not begin as one")
    _, version, length = _PREFIX.unpack(prefix)
    if version != FORMAT_VERSION:
        raise Invalid(
            f"this backup has format {version}, this software reads {FORMAT_VERSION}: use the "
            "version that wrote it",
            reason="unknown-version",
        )
    if not 0 < length <= HEADER_BYTES_MAX:
        raise _bad_backup("its header has an impossible length")
    encoded, digest = file.read(length), file.read(DIGEST_SIZE)
    if len(encoded) != length or digest != blake3_digest(prefix + encoded):
        raise _bad_backup("its header differs from its digest")
    try:
        header = BackupHeader.decode(encoded)
        check_header(header, SEGMENT_SIZE)
    except Invalid as error:
        if error.reason == "unknown-version":
            raise
        raise _bad_backup("its header cannot be read") from None
    return header, digest


def _opened_key(header: BackupHeader, keys: AccountKeys) -> bytes:
    known: Mapping[bytes, HybridKey] = {
        fingerprint(key.public_key): key
        for key in (keys.receiving_key, *keys.past_receiving_keys().values())
    }
    for each in header.recipients:
        key = known.get(each.fingerprint)
        if key is not None:
            context = _context(header.cluster, header.backup, each.fingerprint)
            return open_envelope(key, Envelope(each.suite, each.ciphertext), context)
    raise Denied(
        f"this backup is sealed to {len(header.recipients)} other keys: open it as an operator "
        "whom it was made for, with --as",
        reason="not-a-recipient",
    )


def _bad_backup(what: str) -> Corrupt:
    return Corrupt(f"this is no whole backup: {what}; use another copy", reason="bad-backup")
