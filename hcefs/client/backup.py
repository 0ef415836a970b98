"""Taking a backup over the network: nodes' rows first, then the ledger that they rest on.

Invariants: the ledger comes last, so it knows every entry of the rows before it, and every
erasure of what is in them; memory is a page, whatever a node holds; a stream that ends early
is an error, never a shorter backup.

Not guaranteed: nodes that are away.  Each row is on all holders of its partition, so a backup
without a node has what that one holds, up to what was stored degraded.
Source: docs/decisions/0042-backups.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from hcefs.client.authorize import Authorizer
from hcefs.client.backup_file import BackupWriter
from hcefs.client.replicas import GrpcReplicas
from hcefs.errors import Corrupt, NotFound, Unavailable
from hcefs.formats.backup import (
    BackupBlock,
    BackupContents,
    BackupEnd,
    BackupNode,
    BackupNodeEnd,
    BackupPart,
    BackupRows,
    BackupSnapshot,
    BackupTerm,
)
from hcefs.ids import AccountId
from hcefs.integrity import blake3_digest
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.highest import ask_all
from hcefs.ledger.link import BlockBytes
from hcefs.ledger.recovery import ReplicaAnswer
from hcefs.runtime import Runtime
from hcefs.transport.replica_calls import ReplicaCalls
from hcefs.transport.server_calls import answers
from hcefs.wire.v1 import backup_pb2

STALL_SECONDS = 60.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """What a backup has."""

    nodes: int
    rows: int
    height: int


class BackupTaker:
    """Copies a cluster as one operator; use it from one event loop."""

    def __init__(
        self,
        runtime: Runtime,
        calls: ReplicaCalls,
        authorizer: Authorizer,
        replicas: GrpcReplicas,
        report: Report,
    ) -> None:
        self._runtime = runtime
        self._calls = calls
        self._authorizer = authorizer
        self._replicas = replicas
        self._report = report

    async def take(
        self,
        writer: BackupWriter,
        genesis: Genesis,
        contents: BackupContents,
        addresses: dict[AccountId, str],
        ledger_addresses: Sequence[str],
    ) -> Taken:
        """Write a whole backup; ``addresses`` are those of the nodes in ``contents``.

        Raises:
            HcefsError: a node or every replica failed; nothing is a backup then.
        """
        writer.add(contents)
        rows = 0
        for account in contents.nodes:
            rows += await self._node(writer, account, addresses[account])
        height, block_hash = await self._ledger(writer, genesis, ledger_addresses)
        nodes = len(contents.nodes)
        writer.add(BackupEnd(nodes, rows, height, block_hash, writer.entries))
        return Taken(nodes, rows, height)

    # -- rows

    async def _node(self, writer: BackupWriter, account: AccountId, address: str) -> int:
        request = backup_pb2.ReadRowsRequest(proof=self._authorizer.plain("backup"))

        def begin() -> Any:
            return self._calls.channel(address).unary_stream(
                "/hcefs.v1.Backups/ReadRows",
                request_serializer=backup_pb2.ReadRowsRequest.SerializeToString,
                response_deserializer=backup_pb2.ReadRowsResponse.FromString,
            )(request)

        def stalled() -> Unavailable:
            return Unavailable(f"{address} sends no more rows: begin again", reason="stalled")

        rows = pages = 0
        digest = b""
        end: backup_pb2.RowsEnd | None = None
        started = False
        feed = answers(self._runtime, begin, backup_pb2.ReadRowsResponse, STALL_SECONDS, stalled)
        async with aclosing(feed):
            async for message in feed:
                what = message.WhichOneof("message")
                if what == "start" and not started:
                    started = True
                    if message.start.account != bytes(account):
                        raise _other_node(address)
                    writer.add(BackupNode(account, message.start.height))
                elif what == "page" and started and end is None:
                    page = BackupRows.decode(message.page)
                    digest = blake3_digest(digest + writer.add(page))
                    rows += len(page.rows)
                    pages += 1
                elif what == "end" and started and end is None:
                    end = message.end
                else:
                    raise _cut_short(address)
        if end is None or (end.rows, end.pages) != (rows, pages):
            raise _cut_short(address)
        writer.add(BackupNodeEnd(account, rows, pages, digest))
        self._report(f"{address}: {rows} rows")
        return rows

    # -- the ledger

    async def _ledger(
        self, writer: BackupWriter, genesis: Genesis, addresses: Sequence[str]
    ) -> tuple[int, bytes]:
        """Copy the highest replica: all of its blocks, or a snapshot and those after it."""
        found = await ask_all(self._replicas, addresses, self._runtime)
        healthy = {at: each for at, each in found.items() if not each.superseded}
        ranked = sorted(healthy, key=lambda at: _rank(healthy[at]), reverse=True)
        if not ranked:
            raise Unavailable(
                "no node answers with a replica of the ledger that counts: start the nodes",
                reason="no-replica",
            )
        best = healthy[ranked[0]]
        if best.height == 0:
            return 0, genesis.digest
        # Of those that are as high, one may have the old blocks too.
        for address in ranked:
            if _rank(healthy[address]) != _rank(best):
                break
            try:
                await self._blocks(writer, address, healthy[address], 1, best.height)
            except NotFound as error:
                if error.reason != "before-snapshot":
                    raise
                continue
            return best.height, best.block_hash
        await self._snapshot(writer, ranked[0], best)
        return best.height, best.block_hash

    async def _blocks(
        self, writer: BackupWriter, address: str, answer: ReplicaAnswer, first: int, last: int
    ) -> None:
        feed = self._replicas.blocks(answer.account, address, first, last)
        count = 0
        async with aclosing(feed):
            async for message in feed:
                if isinstance(message, BlockBytes):
                    writer.add(BackupBlock(message.data))
                    count += 1
                else:
                    writer.add(BackupTerm(message.data))
        if count != last - first + 1:
            raise _cut_short(address)
        self._report(f"{address}: {count} blocks of the ledger")

    async def _snapshot(self, writer: BackupWriter, address: str, answer: ReplicaAnswer) -> None:
        source = self._replicas.snapshot(answer.account, address, self._runtime)
        offer = await source.offer()
        if offer is None:
            raise NotFound(
                f"{address} has neither the ledger's first blocks nor a snapshot: ask again later",
                reason="no-snapshot",
            )
        parts = len(offer.manifest.parts)
        writer.add(
            BackupSnapshot(
                offer.manifest.encode(),
                offer.base.encode(),
                offer.carrier.encode(),
                tuple(offer.terms),
                parts,
            )
        )
        count = 0
        async with aclosing(source.parts(offer.manifest.height)) as feed:
            async for part in feed:
                writer.add(BackupPart(part))
                count += 1
        if count != parts:
            raise _cut_short(address)
        self._report(f"{address}: the ledger's snapshot of block {offer.manifest.height}")
        if answer.height > offer.manifest.height:
            await self._blocks(writer, address, answer, offer.manifest.height + 1, answer.height)


def _rank(answer: ReplicaAnswer) -> tuple[int, int]:
    return len(answer.terms), answer.height


def _cut_short(address: str) -> Corrupt:
    return Corrupt(f"{address} sent less or other than it said: begin again", reason="cut-short")


def _other_node(address: str) -> Corrupt:
    return Corrupt(
        f"another node answers at {address} than the cluster map says", reason="wrong-node"
    )
