"""Direct mode: the SDK runs the data path itself and talks to the shard holders.

The same code as on a gateway (:mod:`hcefs.blobs`, :mod:`hcefs.stripes`) with
other peers: each call carries a proof of its own that names the holder it is for
and the method ``direct-put`` or ``direct-get``.  Every holder checks it against
the ledger, and no node sees plaintext or a key.  It saves the hop through a
gateway, and costs this process the sealing and the erasure code.

Source: docs/decisions/0009-direct-proofs-name-the-holder.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from hcefs.blobs.get import BlobReader, GetPlan, Secrets
from hcefs.blobs.put import NodeIdentity, PutDone, PutPlan, PutSession
from hcefs.client.authorize import Authorizer, Right, Scope
from hcefs.client.channels import Channels
from hcefs.client.connection import Connection
from hcefs.client.direct_hints import DirectHints
from hcefs.client.stat import Manifest, StatClient
from hcefs.client.streams import ReadPlan
from hcefs.crypto.accounts import AccountKeys
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.formats.pack import PackedKey, PackLayout, PackProof
from hcefs.ids import AccountId, BlobId, GrantId, RecordId, RequestId
from hcefs.integrity import Hasher
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, seats
from hcefs.placement.stand_ins import record_stand_ins, stand_ins
from hcefs.runtime import Runtime
from hcefs.stripes.fanout import Fanout
from hcefs.stripes.fanout import Manifest as StoredManifest
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.reseat import other_epoch
from hcefs.stripes.standby import Standby
from hcefs.transport.dial import ServerDialer
from hcefs.transport.grpc_peers import GrpcPeer
from hcefs.transport.peers import Call, ManifestRows

DEADLINE_SECONDS = 15.0
MAP_SECONDS = 3.0
MAP_POLL_SECONDS = 0.05
_NO_ROWS = ManifestRows(b"", b"", b"", b"")


class _NoHeads:
    """A client does not relay ledger heads."""

    def current(self) -> bytes:
        return b""

    def observe(self, head: bytes) -> None:
        return


class DirectPeers:
    """The holders as this client sees them, for one right."""

    def __init__(
        self, runtime: Runtime, channels: Channels, authorizer: Authorizer, right: Right
    ) -> None:
        self._runtime = runtime
        self._channels = channels
        self._authorizer = authorizer
        self._right = right

    def peer(self, node: Node) -> GrpcPeer:
        """The holder at that node's client port."""

        async def connect() -> Any:
            return self._channels.get(node.address)

        def authorize(call: Call) -> Call:
            method = f"direct-{call.method}"
            scope = Scope(call.record, call.blob, call.range_start, call.range_length)
            signed = self._authorizer.authorize(
                method, scope, self._right, node.account, stream=True
            )
            return replace(call, token=signed.token, proof=signed.proof, method=method)

        return GrpcPeer(self._runtime, connect, _NoHeads(), authorize)


class DirectClient(StatClient):
    """The part of a client that runs the data path itself."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._direct_metrics = Metrics()
        self._direct_hedge = HedgeTimer()
        self._direct_hints = DirectHints(self.runtime)
        self._direct_map: ClusterMap | None = None
        self._standby = Standby(self.runtime, self._stand_ins)
        self._layout_signer = NodeIdentity(keys.account, keys.key_version, keys.signing_key)

    async def close(self) -> None:
        """Close what :meth:`StatClient.close` does, and give up hints on their way."""
        await self._direct_hints.close()
        await super().close()

    def _direct_call(self, method: str, scope: Scope, epoch: int) -> Call:
        """What every holder of one request is asked; each gets its own proof.

        ``epoch`` is that of the map by which the holders were chosen.
        """
        return Call(
            b"",
            b"",
            method,
            scope.record,
            scope.blob,
            scope.range_start,
            scope.range_length,
            self.height,
            epoch,
            RequestId(self._request_id()),
            AccountId(self.account),
            GrantId.zero(),
        )

    async def _direct_session(
        self,
        right: Right,
        blob: BlobId,
        record: RecordId,
        generation: int,
        public_key: bytes,
        profile: str,
        commit_by_ms: int,
        salt: bytes,
        previous_leaf: bytes,
        expected_length: int,
        content: Hasher | None,
    ) -> PutSession:
        """A put session whose lanes end at the holders."""
        cluster_map = await self.cluster_map()
        chosen = profile_named(profile or cluster_map.default_profile)
        default = profile_named(cluster_map.default_profile)
        peers = DirectPeers(self.runtime, self._channels, self._authorizer, right)
        self._direct_map = cluster_map
        plan = PutPlan(
            call=self._direct_call("put", Scope(record, blob), cluster_map.epoch),
            cluster=self.connection.cluster,
            blob=blob,
            record=record,
            generation=generation,
            record_public_key=public_key,
            profile=chosen,
            seats=seats(cluster_map, chosen.name, blob.base),
            record_seats=seats(cluster_map, default.name, bytes(record)),
            record_profile=default,
            writer=AccountId(self.account),
            commit_by_ms=commit_by_ms,
            salt=salt,
            previous_leaf=previous_leaf,
            client_seal=None,
            expected_length=expected_length,
        )
        return PutSession(
            self.runtime,
            peers,
            Fanout(self.runtime, peers, None, self._reseat, self._standby),
            self._layout_signer,
            self._direct_metrics,
            plan,
            DEADLINE_SECONDS,
            content,
        )

    def _stand_ins(self, profile: str, name: bytes) -> tuple[Node, ...]:
        """By the map that the last put began with: a holder with another one refuses."""
        if self._direct_map is None:
            return ()
        if not profile:
            return record_stand_ins(self._direct_map, name)
        return stand_ins(self._direct_map, profile, name)

    async def _reseat(self, profile: str, name: bytes, epoch: int) -> tuple[int, tuple[Seat, ...]]:
        """See :data:`hcefs.stripes.reseat.Reseat`."""
        until = self.runtime.monotonic() + MAP_SECONDS
        while True:
            self._maps.forget("")
            current = await self.cluster_map()
            if current.epoch > epoch:
                self._direct_map = current
                return current.epoch, seats(current, profile or current.default_profile, name)
            if self.runtime.monotonic() > until:
                raise other_epoch(current.epoch, epoch + 1)
            # The ledger's writer may tell of a map a moment after its followers have it.
            await self.runtime.sleep(MAP_POLL_SECONDS)

    async def _direct_finish(
        self,
        session: PutSession,
        right: Right,
        record: RecordId,
        blob: BlobId,
        length: int,
        metadata: bytes,
    ) -> PutDone:
        cluster_map = await self.cluster_map()
        call = self._direct_call("put", Scope(record, blob), cluster_map.epoch)
        done = await session.finish(length, metadata, b"", call)
        if done.stored.degraded:
            peers = DirectPeers(self.runtime, self._channels, self._authorizer, right)
            suspect = self._direct_hints.of(call, peers.peer)
            for seat in seats(cluster_map, done.layout.profile, blob.base):
                if seat.index not in done.stored.durable:
                    suspect(seat.node, blob.base, seat.index, done.layout.profile)
        return done

    async def _direct_part(
        self, plan: ReadPlan, offset: int, stop: int, node: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The plaintext from ``offset`` to ``stop``, straight from the holders.

        After a failure the manifest is asked for again: the layout may have been replaced.
        """
        manifest = await self._known_manifest(plan.scope, plan.right, node)
        if manifest.core != plan.core:
            raise Corrupt("a node gave another core for this blob", reason="rows-disagree")
        try:
            async with aclosing(self._direct_pieces(plan, manifest, offset, stop)) as pieces:
                async for piece in pieces:
                    yield piece
        except HcefsError:
            self._manifests.forget((plan.core.record, plan.core.blob))
            raise

    async def _direct_pieces(
        self, plan: ReadPlan, manifest: Manifest, offset: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        cluster_map = await self.cluster_map()
        asked = plan.request(offset, stop)
        secrets = (
            Secrets(dek=asked.dek)
            if asked.WhichOneof("opening") == "dek"
            else Secrets(first=asked.secrets.first, joined=asked.secrets.secrets)
        )
        scope = replace(plan.scope, range_start=asked.range_start, range_length=asked.range_length)
        core, layout = manifest.core, manifest.layout
        row, opening = manifest.key_row, manifest.opening
        if (
            isinstance(layout, PackLayout)
            or isinstance(row, PackedKey)
            or isinstance(opening, PackProof)
        ):
            raise Invalid("packed blobs are read through a node", reason="packed")
        peers = DirectPeers(self.runtime, self._channels, self._authorizer, plan.right)
        call = self._direct_call("get", scope, cluster_map.epoch)
        reader = BlobReader(
            self.runtime,
            peers,
            self._direct_metrics,
            self._direct_hedge,
            GetPlan(
                call,
                StoredManifest(core, layout, row, opening, _NO_ROWS),
                seats(cluster_map, layout.profile, core.blob.base),
                offset,
                stop - offset,
                secrets,
                stand_ins(cluster_map, layout.profile, core.blob.base),
            ),
            suspect=self._direct_hints.of(call, peers.peer),
        )
        try:
            async with aclosing(reader.messages(_always)) as data:
                async for message in data:
                    yield message
        except HcefsError as error:
            if error.kind != "denied" and await self._has_moved(cluster_map):
                # Under the map in force others have what these holders lack: it may well read.
                raise other_epoch(cluster_map.epoch, cluster_map.epoch + 1) from error
            raise

    async def _has_moved(self, used: ClusterMap) -> bool:
        """Whether seats may have moved since a map was fetched."""
        self._maps.forget("")
        try:
            return (await self.cluster_map()).epoch > used.epoch
        except HcefsError:
            return False  # what went wrong before is the better news


def _always() -> None:
    """The holders decide, at every message."""
