"""One ledger and seven storage nodes in this process: real gRPC, TLS and disks, on loopback.

Six nodes are in the cluster map; the seventh (:attr:`Rig.stranger`) is registered
and runs, but the map does not name it.  Everything is what ``hcefs node`` and
``hcefs ledger`` run, except that no process is started and no signal is waited for.

Owns also what tests ask of it: raw calls with any bytes, authorizations with any
field wrong, a clock for each node, what is left in the stores, and the list of
secrets that no error and no log line may show.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from hcefs.access.facts import AccountKind, Action, Grant
from hcefs.access.token import Narrowing, mint
from hcefs.cli.bringup import upgrade_protocol
from hcefs.cli.ports import reserved_ports
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.config import LedgerConfig, LimitsConfig, NodeConfig, TlsConfig, UpkeepConfig
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.signing import RequestProof
from hcefs.durable_files import write_private
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.ledger.genesis import Genesis, OperatorKey
from hcefs.ledger.snapshot import SnapshotRule
from hcefs.ledger.transactions import SetClusterMap, sign_transaction
from hcefs.node.ledger_process import LedgerProcess
from hcefs.node.storage_process import StorageProcess, join_ledger
from hcefs.placement.cluster_map import Node, NodeState
from hcefs.placement.planner import first_map
from hcefs.placement.ring import Seat, seats
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Table
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS, Ending
from hcefs.transport.status import from_rpc_error
from hcefs.transport.tls import (
    Identity,
    client_credentials,
    issue,
    new_authority,
    spki_hash,
)
from hcefs.wire.v1 import blob_pb2
from tests.services.parts import Secrets, ShiftedRuntime, reissue

HOUR_MS = 3_600_000
LEASE_MS = 20_000
"""Longer than any pause of a machine on which other tests run as well."""

SKEW_MS = 5_000
CALL_SECONDS = 60.0
HANGS_SECONDS = CALL_SECONDS + 5
CONNECT_MS = 15_000
UNTIL_SECONDS = 60.0
"""Much more than anything takes, for slow and busy machines."""

MARK = b"PLAINTEXT-OF-A-PATIENT:"
"""Begins every payload, so that a leak of one is recognised."""

DENIALS = 1e5
"""What these tests mostly do is be refused."""

SMALL_STREAMS = 3
"""Streams of node 4, few enough for a test to take all."""


@dataclass
class Running:
    """One node: what it was started with, and its process."""

    number: int
    config: NodeConfig
    keys: AccountKeys
    identity: Identity
    runtime: ShiftedRuntime
    process: StorageProcess

    @property
    def account(self) -> AccountId:
        return self.keys.account


def free_port() -> int:
    """A port that nobody has now, and that no outgoing connection is given."""
    with reserved_ports(1, os.urandom) as (port,):
        return port


class Rig:
    """Use :func:`running`; see the module."""

    lease_ms = LEASE_MS
    put_deadline_s = 20.0
    """So long that no slow machine makes a put degraded when all nodes are there."""

    upkeep = UpkeepConfig(anchor_s=0.5)
    snapshots = SnapshotRule(every=16, delay=2)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._system = SystemRuntime()
        self.runtime = ShiftedRuntime(self._system)
        """Of the ledger and the clients; each node has one of its own on top of it."""
        self.secrets = Secrets()
        self.authority, self.authority_key = new_authority("services")
        self.nodes: list[Running] = []
        self.clients: list[Client] = []
        self._channels: dict[tuple[str, Identity | None], Any] = {}
        self._ports = ExitStack()
        """Holds the ports of all processes until the end, for those that are restarted."""

    # -- set-up

    async def start(self) -> None:
        self._make_genesis()
        await self._start_ledger()
        self.operators = [self.client(keys) for keys in self.operator_keys]
        await upgrade_protocol(self.operators[0], self.operator_keys, PROTOCOL_NEWEST)
        for number in range(1, 8):
            await self._start_node(number)
        self.stranger = self.nodes.pop()
        await self._set_map()
        for node in [*self.nodes, self.stranger]:
            await self.until(partial(self._follows, node))
        await self._people()

    def tidy(self, node: Running) -> bool:
        """Whether no unfinished shard lies on a node."""
        return not self.temporaries(node)

    def _keys(self, cluster: ClusterId) -> AccountKeys:
        keys = AccountKeys.generate(cluster, self.runtime.random(128))
        self._hide(keys)
        return keys

    def _hide(self, keys: AccountKeys) -> None:
        self.secrets.add(
            keys.signing_seed, keys.token_seed, keys.receiving_seed, keys.record_master
        )

    def account_keys(self) -> AccountKeys:
        """Keys of an account that nobody has registered."""
        return self._keys(self.cluster)

    def _make_genesis(self) -> None:
        operators = [self._keys(ClusterId.zero()) for _ in range(2)]
        self._writer = self._keys(ClusterId.zero())
        self.genesis = Genesis(
            "services",
            self.runtime.now_ms(),
            tuple(
                OperatorKey(
                    keys.signing_key.public_key,
                    keys.token_key.public_key,
                    keys.receiving_key.public_key,
                )
                for keys in operators
            ),
            2,
            self._writer.signing_key.public_key,
            self.lease_ms,
            SKEW_MS,
            self.runtime.random(16),
        )
        self.genesis.check()
        self.cluster = self.genesis.cluster
        self.operator_keys = [dataclasses.replace(keys, cluster=self.cluster) for keys in operators]
        (self.folder / "genesis.cbor").write_bytes(self.genesis.encode())
        (self.folder / "ca.crt").write_bytes(self.authority)

    def issue(self, name: str) -> Identity:
        """A certificate of the cluster's authority, with a new key."""
        certificate, key = issue(
            self.authority, self.authority_key, name, ["127.0.0.1", "localhost"]
        )
        return Identity(self.authority, certificate, key)

    def renewed(self, identity: Identity, name: str) -> Identity:
        """Another certificate of the cluster's authority for the same key."""
        certificate = reissue(self.authority, self.authority_key, identity, name)
        return Identity(self.authority, certificate, identity.key)

    def write_tls(self, folder: Path, identity: Identity) -> TlsConfig:
        """An identity as the files that a configuration names."""
        folder.mkdir(exist_ok=True)
        (folder / "tls.crt").write_bytes(identity.certificate)
        write_private(folder / "tls.key", identity.key, replace=True)
        return TlsConfig(folder / "tls.crt", folder / "tls.key", self.folder / "ca.crt")

    def _addresses(self) -> tuple[str, str, str]:
        """Client, peer and metrics address of one process."""
        client, peer = self._ports.enter_context(reserved_ports(2, self.runtime.random))
        return f"127.0.0.1:{client}", f"127.0.0.1:{peer}", "127.0.0.1:0"

    async def _start_ledger(self) -> None:
        folder = self.folder / "ledger"
        tls = self.write_tls(folder, self.issue("ledger"))
        self._writer.save(folder / "writer.key")
        client, peer, metrics = self._addresses()
        config = LedgerConfig(
            folder / "data", self.folder / "genesis.cbor", folder / "writer.key", client, peer,
            metrics, tls,
        )  # fmt: skip
        self.ledger_address, self.ledger_peer_address = client, peer
        self.connection = Connection(self.cluster, self.authority, client)
        self.ledger = LedgerProcess(config, self.runtime, snapshots=self.snapshots)
        await self.ledger.start()

    async def _start_node(self, number: int) -> None:
        folder = self.folder / f"node-{number}"
        identity = self.issue(f"node-{number}")
        tls = self.write_tls(folder, identity)
        keys = self.account_keys()
        keys.save(folder / "account.keys")
        spki = spki_hash(identity.certificate)
        signed = await self.operators[0].register(keys, AccountKind.NODE, spki=spki)
        await self.operators[0].admit(self.operators[1].cosign(signed))
        client, peer, metrics = self._addresses()
        limits = LimitsConfig(
            streams=SMALL_STREAMS if number == 4 else 64,
            put_deadline_s=self.put_deadline_s,
            reserve_mib=0,
            account_denials=DENIALS,
        )
        config = NodeConfig(
            folder / "data", self.folder / "genesis.cbor", folder / "account.keys", client, peer,
            metrics, self.ledger_peer_address, tls, limits, self.upkeep,
        )  # fmt: skip
        runtime = ShiftedRuntime(self.runtime)
        await join_ledger(config, runtime, self.snapshots)
        process = StorageProcess(config, runtime, self.snapshots)
        self.nodes.append(Running(number, config, keys, identity, runtime, process))
        await process.start()

    async def _set_map(self) -> None:
        nodes = [
            Node(
                node.number,
                node.account,
                node.config.client_address,
                self.reached_at(node),
                f"zone-{node.number % 3}",
                "",
                f"host-{node.number}",
                100,
                NodeState.UP,
            )
            for node in self.nodes
        ]
        self.map = first_map(
            nodes, [("ec-4-2", 4, 2), ("copy-3", 1, 2)], self.runtime.random(32), "ec-4-2"
        )
        signers = [(keys.account, 1, keys.signing_key) for keys in self.operator_keys]
        change = SetClusterMap(0, self.map.encode())
        await self.operators[0].submit(sign_transaction(change, self.cluster, signers))

    def reached_at(self, node: Running) -> str:
        """Where the other nodes reach a node."""
        return node.config.peer_address

    def _follows(self, node: Running) -> bool:
        return node.process.follower.view.height >= self.operators[0].height and (
            node is self.stranger or node.process.able()
        )

    async def _people(self) -> None:
        self.hospital = self.client(self.account_keys())
        self.doctor = self.client(self.account_keys())
        self.outsider = self.client(self.account_keys())
        self.patient = self.client(self.account_keys())
        admission = await self.hospital.register(self.hospital_keys, AccountKind.INSTITUTION)
        await self.operators[0].admit(self.operators[1].cosign(admission))
        for client, kind in (
            (self.doctor, AccountKind.PRACTITIONER),
            (self.outsider, AccountKind.PRACTITIONER),
            (self.patient, AccountKind.PATIENT),
        ):
            await self.hospital.admit(await client.register(self.keys_of(client), kind))
        self.record = (await self.patient.open_record()).record
        self.other_record = (await self.patient.open_record()).record
        self.append_grant = await self.give(self.hospital, Action.APPEND)
        self.read_grant = await self.give(self.doctor, Action.READ | Action.SHARE)
        now = self.runtime.now_ms()
        self.future_grant = await self.give(self.doctor, Action.READ, not_before_ms=now + HOUR_MS)
        self.height = max(client.height for client in self.clients)
        self.payload = MARK + self.runtime.random(3_000_000)
        self.receipt = await self.hospital.put(
            self.record, self.payload, grant=self.append_grant.grant, name="scan"
        )

    async def give(
        self,
        grantee: Client,
        actions: Action,
        *,
        record: RecordId | None = None,
        not_before_ms: int | None = None,
    ) -> Grant:
        """A grant on a record of the patient, or on the rig's own, for two hours."""
        end = self.runtime.now_ms() + 2 * HOUR_MS
        return await self.patient.give(
            self.record if record is None else record,
            grantee.account,
            actions,
            ("TREAT",),
            not_before_ms=not_before_ms,
            not_after_ms=end,
        )

    def client(self, keys: AccountKeys) -> Client:
        """An SDK client for some keys; closed with the rig."""
        client = Client(self.connection, keys, self.runtime)
        self.clients.append(client)
        return client

    @staticmethod
    def keys_of(client: Client) -> AccountKeys:
        return client._keys

    @property
    def hospital_keys(self) -> AccountKeys:
        return self.keys_of(self.hospital)

    async def stop(self) -> None:
        for client in self.clients:
            await client.close()
        for channel in self._channels.values():
            await channel.close()
        for node in [*self.nodes, self.stranger]:
            await node.process.stop()
        await self.ledger.stop()
        self._ports.close()
        self._system.close()

    # -- nodes

    @asynccontextmanager
    async def restarted(
        self, node: Running, *, reached: bool = True, **changes: Any
    ) -> AsyncIterator[StorageProcess]:
        """A node that runs with another configuration for a while; its peers do not.

        ``reached`` is whether the other nodes and the ledger can connect to it then: a node
        that does not hear the ledger's newest head serves nobody.
        """
        await self._restart(node, dataclasses.replace(node.config, **changes), reached)
        try:
            yield node.process
        finally:
            await self._restart(node, node.config, True)

    async def _restart(self, node: Running, config: NodeConfig, reached: bool) -> None:
        await node.process.stop()
        node.process = StorageProcess(config, node.runtime, self.snapshots)
        await node.process.start()
        if reached:
            await self.until(node.process.able)
            others = [other.process for other in self.nodes if other is not node]
            await asyncio.gather(*(self.connected(other, node) for other in others))

    async def connected(self, process: StorageProcess, node: Running) -> None:
        """Wait until a node's channel to another is up."""
        address = node.config.peer_address
        async with asyncio.timeout(UNTIL_SECONDS):
            while True:
                channel = await process.channels.get(node.account, address)
                if channel.get_state(True) is grpc.ChannelConnectivity.READY:
                    return
                await self.runtime.sleep(0.02)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something is so; most of it is so at once."""
        async with asyncio.timeout(UNTIL_SECONDS):
            while not holds():
                await self.runtime.sleep(0.01)

    def seats(self, base: bytes, profile: str = "ec-4-2") -> tuple[Seat, ...]:
        return seats(self.map, profile, base)

    def node_of_index(self, blob: BlobId, index: int, profile: str = "ec-4-2") -> Running:
        """The node that holds one index of a blob."""
        for seat in self.seats(blob.base, profile):
            if seat.index == index:
                return self.nodes[seat.node.node_id - 1]
        raise LookupError(index)

    def index_of(self, blob: BlobId, node: Running) -> int:
        """The index of a blob that a node holds under the default profile."""
        for seat in self.seats(blob.base):
            if seat.node.account == node.account:
                return seat.index
        raise LookupError(node.number)

    # -- what is left

    def kept(self, node: Running, blob: BlobId) -> list[str]:
        """Everything that a node has under a blob's id, but for receipts; empty when nothing."""
        stores = node.process.stores
        found = [f"shard {index}" for base, index in stores.shards.inventory() if base == blob.base]
        # Receipts stay, whatever becomes of what was asked for.
        for table in set(Table) - {Table.RECEIPTS}:
            for key, value in stores.rows.scan(table):
                if bytes(blob.base) in key or bytes(blob.base) in value:
                    found.append(f"row of {table.name}")
        for key, _ in stores.keys.scan(KeyTable.KEY_ROWS):
            if bytes(blob.base) in key:
                found.append("key row")
        return found

    def temporaries(self, node: Running, blob: BlobId | None = None) -> list[str]:
        """Shards in the making on a node: all, or those of one blob."""
        incoming = node.config.data / "shards" / "incoming"
        start = bytes(blob.base).hex() if blob is not None else ""
        return [path.name for path in incoming.iterdir() if path.name.startswith(start)]

    async def nothing_left(self, blob: BlobId) -> None:
        """No trace of a blob on any node, no temporary, no stream open."""
        await self.until(
            lambda: all(
                not self.temporaries(node, blob) and not node.process.gate.held
                for node in self.nodes
            )
        )
        for node in self.nodes:
            assert self.kept(node, blob) == []

    # -- calls with any bytes

    def channel(self, address: str, identity: Identity | None = None) -> Any:
        """A channel to a port: with a client certificate, or without."""
        key = (address, identity)
        if key not in self._channels:
            credentials = (
                client_credentials(identity.authority, identity.certificate, identity.key)
                if identity
                else client_credentials(self.authority)
            )
            # Calls made by hand are not repeated, so they give a busy machine time to connect.
            options = [(k, v) for k, v in CHANNEL_OPTIONS if k != "grpc.min_reconnect_backoff_ms"]
            options.append(("grpc.min_reconnect_backoff_ms", CONNECT_MS))
            self._channels[key] = grpc.aio.secure_channel(address, credentials, options=options)
        return self._channels[key]

    async def unary(
        self, address: str, method: str, request: Any, identity: Identity | None = None
    ) -> bytes:
        """One message in, one out; ``request`` is a message, or any bytes."""
        call = self.channel(address, identity).unary_unary(method)
        return bytes(await typed(call(_bytes(request), timeout=CALL_SECONDS)))

    async def upload(
        self,
        address: str,
        method: str,
        requests: Sequence[Any],
        identity: Identity | None = None,
    ) -> bytes:
        """Many messages in, one out; sends on until the other side has refused."""
        call = self.channel(address, identity).stream_unary(method)(timeout=CALL_SECONDS)
        ending = Ending(self.runtime, call)
        try:
            for request in requests:
                await call.write(_bytes(request))
            await call.done_writing()
            return bytes(await typed(call))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await ending.error() from None
        finally:
            call.cancel()

    async def download(
        self, address: str, method: str, request: Any, identity: Identity | None = None
    ) -> list[bytes]:
        """One message in, many out."""
        call = self.channel(address, identity).unary_stream(method)
        answers: list[bytes] = await typed(_all(call(_bytes(request), timeout=CALL_SECONDS)))
        return answers

    async def converse(
        self,
        address: str,
        method: str,
        requests: Sequence[Any],
        identity: Identity | None = None,
    ) -> list[bytes]:
        """Many messages in, many out."""
        call = self.channel(address, identity).stream_stream(method)

        async def messages() -> AsyncIterator[bytes]:
            for request in requests:
                yield _bytes(request)

        answers: list[bytes] = await typed(_all(call(messages(), timeout=CALL_SECONDS)))
        return answers

    async def refused(self, call: Awaitable[Any], kind: str, reason: str) -> HcefsError:
        """Await a call that must fail so; the text must say something and show no secret."""
        with pytest.raises(HcefsError) as caught:
            await call
        error = caught.value
        assert (error.kind, error.reason) == (kind, reason), error.message
        assert len(error.message.split()) >= 4
        self.secrets.check(error.message)
        self.secrets.shown.append(error.message)
        return error

    # -- authorizations with any field wrong

    def token(self, keys: AccountKeys, grant: GrantId, **narrowing: Any) -> bytes:
        """A token for a right of an account."""
        made = mint(keys.token_key, self.cluster, keys.account, grant, Narrowing(**narrowing))
        self.secrets.add_token(made)
        return made

    def proof(
        self,
        keys: AccountKeys,
        named_method: str,
        token: bytes = b"",
        **fields: Any,
    ) -> bytes:
        """A signed proof; ``fields`` replace what an honest one says."""
        honest: dict[str, Any] = {
            "cluster": self.cluster,
            "token_hash": blake3_digest(token) if token else bytes(32),
            "method": named_method,
            "record": RecordId.zero(),
            "blob": BlobId.zero(),
            "range_start": 0,
            "range_length": 0,
            "purpose": "TREAT",
            "gateway": AccountId.zero(),
            "nonce": self.runtime.random(16),
            "time_ms": self.runtime.now_ms(),
            "presenter": keys.account,
            "key_version": keys.key_version,
        }
        return RequestProof(**(honest | fields)).signed(keys.token_key).encode()

    def authorization(
        self,
        client: Client,
        method: str,
        gateway: Running,
        grant: Grant | None,
        *,
        blob: BlobId | None = None,
        token: bytes = b"",
        says: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> blob_pb2.Authorization:
        """An honest authorization for the record, except for ``fields`` of the proof.

        ``says`` is the same, for fields that have the names of parameters.
        """
        keys = self.keys_of(client)
        token = token or self.token(keys, grant.grant if grant else GrantId.zero())
        honest: dict[str, Any] = {
            "record": self.record,
            "blob": blob or BlobId.zero(),
            "gateway": gateway.account,
            "purpose": "TREAT" if grant else "PATRQT",
        }
        proof = self.proof(keys, method, token, **(honest | fields | dict(says or {})))
        return blob_pb2.Authorization(token=token, proof=proof)

    def new_blob(self) -> BlobId:
        return BlobId.of(self.runtime.random(16))

    def new_request(self) -> bytes:
        return self.runtime.random(16)


async def typed(call: Any) -> Any:
    """Await a call; its failure is a typed error, as SDK and peers see it."""
    try:
        async with asyncio.timeout(HANGS_SECONDS):
            return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    except TimeoutError:
        raise Unavailable("the call hangs, which no call may", reason="hangs") from None


async def _all(call: Any) -> list[bytes]:
    return [bytes(message) async for message in call]


def _bytes(request: Any) -> bytes:
    return request if isinstance(request, bytes) else bytes(request.SerializeToString())
