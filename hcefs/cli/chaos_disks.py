"""What is on the disks of a chaos run: damage done to it, and whether all of it is there.

Everything here works on the files alone: no key, no process.  While nodes run only shard
files are looked at (a database belongs to its process); :func:`audit` also reads the rows
of a stopped cluster.

Invariant: a shard counts as intact only when its header, its lengths, its footer and every
piece's BLAKE3 digest agree, and its name is the header's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hcefs.cli.chaos_plan import Draws
from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, HcefsError
from hcefs.formats.manifest import Layout
from hcefs.formats.pack import PACK_SEGMENT_SIZE, PackLayout
from hcefs.formats.shard import (
    HEADER_SIZE,
    TRAILER_SIZE,
    ShardFooter,
    ShardHeader,
    decode_file,
    piece_in,
)
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.store.interface import Table
from hcefs.store.rows import RocksRowStore

DAMAGED_SHARDS_MAX = 6
DAMAGED_SPOTS = 4
SHARDS = "shards/??/*"


@dataclass(frozen=True)
class Shard:
    """One intact shard file."""

    header: ShardHeader
    footer: ShardFooter
    pieces: tuple[bytes, ...]


def read_shard(path: Path) -> Shard:
    """Parse and check a file.

    Raises:
        Corrupt, Invalid: something in it is damaged.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if len(data) < HEADER_SIZE + TRAILER_SIZE:
        raise Corrupt("a shard file is shorter than its frame", reason="truncated")
    header, footer, geometry = decode_file(data)
    if path.name != f"{bytes(header.base).hex()}.{header.index}":
        raise Corrupt("a shard file holds another shard", reason="wrong-name")
    pieces = []
    for segment in range(geometry.segments):
        pieces.append(piece_in(data, geometry, segment))
        if blake3_digest(pieces[-1]) != footer.digest_of(segment):
            raise Corrupt(f"piece {segment} is damaged", reason="damaged-piece")
    return Shard(header, footer, tuple(pieces))


# --- damage -------------------------------------------------------------------------


def damage_shards(data: Path, draws: Draws) -> list[Path]:
    """Flip, cut or blank some shard files of a node; which."""
    paths = draws.some(sorted(data.glob(SHARDS)), 1 + draws.below(DAMAGED_SHARDS_MAX))
    for path in paths:
        size = path.stat().st_size
        how = draws.below(3)
        with path.open("r+b") as file:
            if how == 0:
                _flip(file, draws.below(size))
            elif how == 1:
                file.truncate(draws.below(size))
            else:
                file.seek(draws.below(size))
                file.write(bytes(min(4096, size - file.tell())))
    return paths


def damage_database(data: Path, draws: Draws) -> list[Path]:
    """Flip bits in the files of a stopped node's rows; which files."""
    files = [path for path in sorted((data / "rows").rglob("*")) if path.suffix in (".sst", ".log")]
    paths = draws.some([path for path in files if path.stat().st_size], 2)
    for path in paths:
        with path.open("r+b") as file:
            for _ in range(DAMAGED_SPOTS):
                _flip(file, draws.below(path.stat().st_size))
    return paths


def _flip(file: BinaryIO, offset: int) -> None:
    file.seek(offset)
    found = file.read(1)
    file.seek(offset)
    file.write(bytes([found[0] ^ 0x40]))


# --- wholeness ----------------------------------------------------------------------


@dataclass(frozen=True)
class Lack:
    """A seat without its intact shard; ``path`` is there when the file is, damaged."""

    base: BlobBase
    index: int
    node: int
    why: str
    path: Path | None = None

    def text(self) -> str:
        """For people."""
        return f"{self.base} index {self.index} on node {self.node}: {self.why}"


class Disks:
    """Looks over shard files; those that have not changed since they were good are not reread."""

    def __init__(self) -> None:
        self._good: dict[Path, tuple[tuple[int, int, int], ShardHeader]] = {}

    def lacks(
        self, current: ClusterMap, folders: Mapping[int, Path], bases: Collection[BlobBase]
    ) -> list[Lack]:
        """Which seats of these blobs have not their intact shard."""
        by_base: dict[bytes, list[tuple[int, Path]]] = {}
        for node, folder in folders.items():
            for path in folder.glob(SHARDS):
                by_base.setdefault(bytes.fromhex(path.name[:32]), []).append((node, path))
        found: list[Lack] = []
        for base in sorted(bases):
            found += self._lacks_of(current, folders, base, by_base.get(bytes(base), []))
        return found

    def _lacks_of(
        self,
        current: ClusterMap,
        folders: Mapping[int, Path],
        base: BlobBase,
        paths: Sequence[tuple[int, Path]],
    ) -> list[Lack]:
        headers, why = {}, {}
        for node, path in paths:
            try:
                headers[node, path.name] = self._check(path)
            except (HcefsError, OSError) as error:
                why[node, path.name] = (
                    error.reason if isinstance(error, HcefsError) else type(error).__name__
                )
        profile = next((header.profile for header in headers.values()), None)
        if profile is None:
            return [Lack(base, 0, 0, "no intact shard of it on any disk")]
        found = []
        for seat in seats(current, profile, bytes(base)):
            node, name = seat.node.node_id, f"{bytes(base).hex()}.{seat.index}"
            if (node, name) in headers:
                continue
            reason = why.get((node, name), "missing")
            path = folders.get(node, Path()) / "shards" / name[:2] / name
            found.append(
                Lack(base, seat.index, node, reason, path if (node, name) in why else None)
            )
        return found

    def _check(self, path: Path) -> ShardHeader:
        stat = path.stat()
        version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._good.get(path)
        if known is not None and known[0] == version:
            return known[1]
        header = read_shard(path).header
        self._good[path] = (version, header)
        return header


# --- the audit at the end -----------------------------------------------------------


def audit(
    current: ClusterMap, folders: Mapping[int, Path], bases: Collection[BlobBase]
) -> tuple[int, list[str]]:
    """Every shard of these blobs against its stripe and its layout; all processes have ended.

    Returns how many shards were verified, and what is wrong.
    """
    rows: dict[int, RocksRowStore] = {}
    problems: list[str] = []
    verified = 0
    try:
        for node, folder in folders.items():
            try:
                rows[node] = RocksRowStore(folder / "rows")
            except HcefsError as error:
                problems.append(f"node {node}: its rows cannot be opened ({error.reason})")
        for base in sorted(bases):
            count, found = _audit_one(current, folders, rows, base)
            verified += count
            problems += found
    finally:
        for store in rows.values():
            store.close()
    return verified, problems


def _audit_one(
    current: ClusterMap,
    folders: Mapping[int, Path],
    rows: Mapping[int, RocksRowStore],
    base: BlobBase,
) -> tuple[int, list[str]]:
    name = bytes(base).hex()
    some = next((path for f in folders.values() for path in f.glob(f"shards/??/{name}.*")), None)
    if some is None:
        return 0, [f"{base}: no shard on any disk"]
    shards: dict[int, Shard] = {}
    problems = []
    try:
        profile = read_shard(some).header.profile
        for seat in seats(current, profile, bytes(base)):
            node = seat.node.node_id
            path = folders[node] / "shards" / name[:2] / f"{name}.{seat.index}"
            shard = shards[seat.index] = read_shard(path)
            row = rows[node].get(Table.LAYOUTS, bytes(base)) if node in rows else None
            if row is None:
                problems.append(f"{base} index {seat.index} on node {node}: no layout")
            elif _digests(shard, row)[seat.index] != shard.footer.shard_digest:
                problems.append(f"{base} index {seat.index} on node {node}: not its layout's")
        problems += _stripe_problems(base, profile, shards)
    except (HcefsError, OSError) as error:
        reason = error.reason if isinstance(error, HcefsError) else type(error).__name__
        problems.append(f"{base}: {reason}")
    return len(shards), problems


def _digests(shard: Shard, row: bytes) -> Sequence[bytes]:
    packed = shard.header.segment_size == PACK_SEGMENT_SIZE
    return (PackLayout.decode(row) if packed else Layout.decode(row)).shard_digests


def _stripe_problems(base: BlobBase, profile_name: str, shards: Mapping[int, Shard]) -> list[str]:
    """Whether all pieces follow from those of the first k shards."""
    profile = profile_named(profile_name)
    codec = codec_for(profile)
    basis, others = sorted(shards)[: profile.k], sorted(shards)[profile.k :]
    for segment in range(next(iter(shards.values())).footer.pieces):
        made = codec.rebuild({index: shards[index].pieces[segment] for index in basis}, others)
        if any(bytes(made[index]) != shards[index].pieces[segment] for index in others):
            return [f"{base}: the pieces of segment {segment} are no stripe"]
    return []
