"""Verification of a stopped cluster's disks by someone who has no key.

Works on copies of what is disclosed: the genesis, and the data folders of the
ledger and of nodes.  Nothing here takes an account, a TLS key or a connection.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import rocksdict

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt
from hcefs.formats.manifest import Core, Layout, Opening
from hcefs.formats.pack import PACK_SEGMENT_SIZE, PackLayout, PackOpening, Span
from hcefs.formats.shard import (
    HEADER_SIZE,
    ShardFooter,
    ShardHeader,
    decode_file,
    piece_in,
)
from hcefs.ids import BlobBase, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.rows import block_row, leaf_row, seal, unseal
from hcefs.ledger.state import record_key
from hcefs.store.interface import Table
from hcefs.store.rows import RocksRowStore
from tests.cluster.live import refused


@dataclass(frozen=True)
class Disclosed:
    """The folder with the copies."""

    root: Path

    @classmethod
    def copy_of(cls, folder: ClusterFolder, root: Path, numbers: Sequence[int] = ()) -> Disclosed:
        """Copy what may be disclosed of a stopped cluster (or of some nodes), and no more."""
        for number in numbers or folder.node_numbers():
            for part in ("shards", "rows", "ledger"):
                source = folder.node(number) / "data" / part
                shutil.copytree(source, root / "nodes" / str(number) / part)
        shutil.copytree(folder.ledger / "data", root / "ledger")
        shutil.copy(folder.genesis_file, root / "genesis.cbor")
        return cls(root)

    @property
    def genesis(self) -> Genesis:
        return Genesis.decode((self.root / "genesis.cbor").read_bytes())

    @property
    def ledgers(self) -> list[Path]:
        """The ledger's own copy of the chain, then every node's."""
        return [self.root / "ledger", *(node / "ledger" for node in self.nodes)]

    @property
    def nodes(self) -> list[Path]:
        return sorted((self.root / "nodes").iterdir())

    @contextmanager
    def ledger(self, path: Path) -> Iterator[LedgerLog]:
        log = LedgerLog.open(path, self.genesis)
        try:
            yield log
        finally:
            log.close()

    @contextmanager
    def rows(self, node: Path) -> Iterator[RocksRowStore]:
        store = RocksRowStore(node / "rows")
        try:
            yield store
        finally:
            store.close()


@dataclass(frozen=True)
class ShardFile:
    """One shard, its pieces compared with their digests.

    ``payloads`` of a pack's shard are the cores that the ledger binds, and where they lie.
    """

    header: ShardHeader
    footer: ShardFooter
    pieces: list[bytes]
    payloads: tuple[tuple[Core, list[Span]], ...] = ()

    @classmethod
    def read(cls, path: Path) -> ShardFile:
        """Parse and check a file.

        Raises:
            Corrupt: something in it is damaged.
        """
        data = path.read_bytes()
        header, footer, geometry = decode_file(data)
        pieces = []
        for segment in range(geometry.segments):
            pieces.append(piece_in(data, geometry, segment))
            if blake3_digest(pieces[-1]) != footer.digest_of(segment):
                raise Corrupt(f"piece {segment} of {path.name} is damaged", reason="damaged-piece")
        return cls(header, footer, pieces)


def check_shard(log: LedgerLog, rows: RocksRowStore, path: Path) -> ShardFile | None:
    """Compare a shard with its manifest, and that with the ledger; None if it is pending.

    Raises:
        Corrupt: they do not fit together.
        Unauthenticated: the layout is not signed by a node of the ledger.
    """
    shard = ShardFile.read(path)
    index, base = shard.header.index, bytes(shard.header.base)
    if path.name != f"{base.hex()}.{index}":
        raise Corrupt(f"{path} holds another shard", reason="wrong-name")
    if shard.header.segment_size == PACK_SEGMENT_SIZE:
        return check_packed(log, rows, shard, path)
    core_row, layout_row, opening_row = (
        rows.get(table, base) for table in (Table.CORES, Table.LAYOUTS, Table.OPENINGS)
    )
    if core_row is layout_row is opening_row is None:
        return None  # killed between file and rows: nobody was told of it, and nobody sees it
    if core_row is None or layout_row is None or opening_row is None:
        raise Corrupt(f"{path} has no manifest", reason="no-manifest")
    core, layout = Core.decode(core_row), Layout.decode(layout_row)
    opening = Opening.decode(opening_row)
    node = log.account(layout.node)
    if node is None:
        raise Corrupt("the layout is of an unknown node", reason="unknown-node")
    layout.check(node.signing_key)
    fits = (
        core.blob.base == layout.base == shard.header.base
        and (core.segment_size, core.k) == (shard.header.segment_size, shard.header.k)
        and layout.profile == shard.header.profile
        and core.plaintext_length == shard.footer.plaintext_length
        and layout.shard_digests[index] == shard.footer.shard_digest
        and layout.shard_digests[: core.k] == core.data_digests
        and opening.core_digest == core.digest()
        and (opening.record, opening.blob) == (core.record, core.blob)
    )
    if not fits:
        raise Corrupt(f"{path} is not the shard of its manifest", reason="wrong-shard")
    leaf = log.leaf_of(core.record, opening.commitment())
    if leaf is None:
        return None
    if leaf[1].signer != core.writer:
        raise Corrupt("its entry is by another account than its writer", reason="wrong-signer")
    return shard


def check_packed(
    log: LedgerLog, rows: RocksRowStore, shard: ShardFile, path: Path
) -> ShardFile | None:
    """The same for a shard of a pack: every payload that an entry binds; None if none does.

    Raises:
        Corrupt: they do not fit together.
        Unauthenticated: the layout is not signed by a node of the ledger.
    """
    index, base = shard.header.index, bytes(shard.header.base)
    layout_row = rows.get(Table.LAYOUTS, base)
    if layout_row is None:
        return None  # killed between file and rows: nobody was told of it, and nobody sees it
    layout = PackLayout.decode(layout_row)
    node = log.account(layout.node)
    if node is None:
        raise Corrupt("the layout is of an unknown node", reason="unknown-node")
    layout.check(node.signing_key)
    if (
        layout.base != shard.header.base
        or layout.profile != shard.header.profile
        or layout.geometry.plaintext_length != shard.footer.plaintext_length
        or layout.shard_digests[index] != shard.footer.shard_digest
    ):
        raise Corrupt(f"{path} is not the shard of its manifest", reason="wrong-shard")
    payloads = []
    for _, row in rows.scan(Table.OPENINGS, prefix=base):
        opening = PackOpening.decode(row)
        opening.check()
        leaf = log.leaf_of(opening.record, opening.commitment())
        if leaf is None:
            continue
        for blob, digest in opening.entries():
            data = rows.get(Table.CORES, bytes(blob)) or b""
            if blake3_digest(data) != digest:
                raise Corrupt(f"the core of {blob} is not its entry's", reason="wrong-core")
            core = Core.decode(data)
            core.check()
            if (core.blob, core.record) != (blob, opening.record) or leaf[1].signer != core.writer:
                raise Corrupt(f"the core of {blob} is another's", reason="wrong-core")
            payloads.append((core, layout.spans(blob.slot)))
    return replace(shard, payloads=tuple(payloads)) if payloads else None


def check_payloads(shards: dict[int, ShardFile]) -> None:
    """Compare every packed payload's ciphertext, in the data pieces, with its core.

    Raises:
        Corrupt: one differs.
    """
    some = next(iter(shards.values()))
    profile = profile_named(some.header.profile)
    pieces = {index: shard.pieces[0] for index, shard in shards.items()}
    # A node may have been down when the pack was put.
    data = codec_for(profile).rebuild(pieces, range(profile.k)) if some.payloads else {}
    for core, spans in some.payloads:
        sealed = b"".join(
            data[span.index][span.offset : span.offset + span.length] for span in spans
        )
        if (blake3_digest(sealed),) != core.data_digests:
            raise Corrupt(f"{core.blob} is not what its core says", reason="wrong-digest")


def check_stripes(shards: dict[int, ShardFile]) -> None:
    """Compute all pieces anew from those of any k shards, data where there is data.

    Raises:
        Corrupt: one differs.
        Unavailable: fewer than k shards are here.
    """
    some = next(iter(shards.values()))
    profile = profile_named(some.header.profile)
    codec = codec_for(profile)
    basis, others = sorted(shards)[: profile.k], sorted(shards)[profile.k :]
    for segment in range(some.footer.pieces):
        available = {index: shards[index].pieces[segment] for index in basis}
        made = codec.rebuild(available, others)
        if made != {index: shards[index].pieces[segment] for index in others}:
            raise Corrupt(f"the pieces of segment {segment} are no stripe", reason="bad-parity")


def check_disks(disclosed: Disclosed) -> dict[BlobBase, dict[int, ShardFile]]:
    """Every shard of a committed blob on every node, checked; by blob and index.

    Raises:
        HcefsError: what does not verify.
    """
    found: dict[BlobBase, dict[int, ShardFile]] = {}
    with disclosed.ledger(disclosed.ledgers[0]) as log:
        for node in disclosed.nodes:
            with disclosed.rows(node) as rows:
                for path in sorted(node.glob("shards/??/*")):
                    shard = check_shard(log, rows, path)
                    if shard is not None:
                        found.setdefault(shard.header.base, {})[shard.header.index] = shard
    for shards in found.values():
        check_stripes(shards)
        check_payloads(shards)
    return found


def forge_row(folder: Path, key: bytes) -> None:
    """Flip a bit in a row of a ledger's database, and make its checksum fit."""
    database = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True))
    try:
        row = database[key]
        assert row is not None
        value = bytearray(unseal(key, row))
        value[len(value) // 2] ^= 1
        database[key] = seal(key, bytes(value))
    finally:
        database.close()


def tamper_and_find(disclosed: Disclosed, base: BlobBase, record: RecordId) -> None:
    """Change one thing at a time, as someone who can compute every checksum; each is found."""
    path = next(disclosed.nodes[2].glob(f"shards/??/{base.hex()}.*"))
    genuine = path.read_bytes()
    damaged = bytearray(genuine)
    damaged[HEADER_SIZE + 1000] ^= 1
    path.write_bytes(damaged)
    with refused(Corrupt, "damaged-piece"):
        check_disks(disclosed)
    path.write_bytes(genuine)
    shard = ShardFile.read(path)
    first = bytes(damaged[HEADER_SIZE : HEADER_SIZE + len(shard.pieces[0])])
    digests = blake3_digest(first) + shard.footer.piece_digests[32:]
    footer = ShardFooter.of(shard.footer.plaintext_length, digests).encode(shard.header)
    path.write_bytes(bytes(damaged[: -len(footer)]) + footer)
    with refused(Corrupt, "wrong-shard"):
        check_disks(disclosed)
    path.write_bytes(genuine)
    check_disks(disclosed)
    for number, key in enumerate((block_row(3), leaf_row(record, 0), b"s" + record_key(record))):
        # The binding lets go of a database only when nothing refers to a failed reading.
        forged = disclosed.root / f"forged-{number}"
        shutil.copytree(disclosed.ledgers[0], forged)
        forge_row(forged, key)
        with refused(Corrupt, "bad-chain"), disclosed.ledger(forged) as log:
            log.verify_chain()
