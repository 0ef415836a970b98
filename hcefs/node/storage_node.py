"""What a storage node is made of: replica, data path, services and upkeep, from given parts.

Owns the composition and what it reports.  It opens no port, reads no file and knows
no TLS: :mod:`hcefs.node.storage_process` does, and the simulator gives other parts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from hcefs import __version__
from hcefs.access.token import TokenCache
from hcefs.access.verifier import NonceMemory, Verifier
from hcefs.blobs.put import NodeIdentity
from hcefs.config import LimitsConfig, UpkeepConfig
from hcefs.crypto.accounts import AccountKeys
from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import DEFAULT_PROFILE, profile_named
from hcefs.errors import HcefsError, Unavailable
from hcefs.evidence.receipt import ChainHead
from hcefs.evidence.upkeep_tally import UpkeepTally
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.ledger.follower import Follower, FollowerStatus
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.link import LedgerLink
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.snapshot_maker import SnapshotMaker
from hcefs.ledger.transactions import SignedTransaction, Transaction, sign_transaction
from hcefs.metrics import Metrics
from hcefs.node.disk_care import DiskCare
from hcefs.node.emergency_gauges import emergency_gauges
from hcefs.node.own_facts import OwnFacts
from hcefs.node.process_gauges import clock_gauges, map_gauges
from hcefs.node.repairs import Repairs
from hcefs.node.seat_care import SeatCare
from hcefs.node.store_format import ShardFormat
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, seats
from hcefs.placement.waves import SeatName
from hcefs.runtime import Runtime
from hcefs.services.admin_service import AdminService
from hcefs.services.audit_service import AuditService
from hcefs.services.backup_service import BackupService
from hcefs.services.batch_desk import BatchDesk
from hcefs.services.blob_service import BlobService
from hcefs.services.desk import Desk
from hcefs.services.erasure_answers import ErasureAnswers
from hcefs.services.evidence import Evidence
from hcefs.services.handlers import (
    admin_handlers,
    audit_handlers,
    backup_handlers,
    blob_handlers,
    replica_handlers,
    revocation_handlers,
    shard_handlers,
    snapshot_handlers,
    upkeep_handlers,
)
from hcefs.services.pack_service import PackService
from hcefs.services.pack_shard_service import PackShardService
from hcefs.services.rates import Rates
from hcefs.services.replica_service import ReplicaService
from hcefs.services.revocation_service import RevocationService
from hcefs.services.revocations import Revocations
from hcefs.services.shard_service import ShardService
from hcefs.services.snapshot_service import SnapshotService, admit_nodes
from hcefs.services.upkeep_service import UpkeepService
from hcefs.store.health import DiskHealth
from hcefs.store.interface import Stores
from hcefs.store.receipt_log import ReceiptLog
from hcefs.store.receipts import ReceiptStore
from hcefs.store.recovery import Restoring
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.exports import Exporter
from hcefs.stripes.fanout import Fanout
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.holder import Holder
from hcefs.stripes.inventory import elsewhere, partition_inventory
from hcefs.stripes.pack_holder import PackHolder
from hcefs.stripes.pack_read import PackReader
from hcefs.stripes.pack_rows import RowReader
from hcefs.stripes.pack_write import PackWriter
from hcefs.stripes.placed import ensure_placed
from hcefs.stripes.standby import Standby
from hcefs.stripes.uploads import Uploads
from hcefs.transport.dial import Dialer
from hcefs.transport.grpc_packs import GrpcPackPeers
from hcefs.transport.grpc_peers import GrpcPeers
from hcefs.transport.grpc_upkeep import GrpcUpkeepPeers
from hcefs.transport.limit import ByteGate, Gate
from hcefs.transport.pinned_channels import Channels
from hcefs.transport.versions import PeerVersions, versions_message
from hcefs.upkeep.anchor import ReceiptAnchorer
from hcefs.upkeep.collect import Collector
from hcefs.upkeep.erase import Eraser
from hcefs.upkeep.latency import LatencyMeter
from hcefs.upkeep.reprofile import LayoutSigner
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.watch import Watcher
from hcefs.upkeep.worker import Runner, Worker
from hcefs.wire.v1 import admin_pb2

PEER_CALLS_FACTOR = 16
UPKEEP_CALLS = 64
BACKUP_CALLS = 2
"""Backups that are copied at once."""
AUDIT_CALLS = 8
DIRECT_CALLS_FACTOR = 4
log = logging.getLogger(__name__)


class Submitter(Protocol):
    """The way of the node's own transactions to the ledger's writer."""

    async def submit(self, signed: SignedTransaction) -> SubmitResult:
        """See :class:`hcefs.node.ledger_submit.LedgerSubmitter`."""

    async def close(self) -> None:
        """End it; a submission that is under way fails as ``Unavailable``."""


@dataclass(frozen=True)
class NodeParts:
    """What a storage node is given; it closes the stores, the log and the submitter."""

    runtime: Runtime
    genesis: Genesis
    keys: AccountKeys
    stores: Stores
    log: LedgerLog
    link: LedgerLink
    submitter: Submitter
    dialer: Dialer
    limits: LimitsConfig
    upkeep: UpkeepConfig
    restoring: Restoring | None = None
    health: DiskHealth | None = None
    metrics: Metrics | None = None


class FollowerHeads:
    """Heads exchanged with peers: the follower's newest one, and what it makes of theirs."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def current(self) -> bytes:
        head = self._follower.view.head
        return head.encode() if head is not None else b""

    def observe(self, head: bytes) -> None:
        try:
            self._follower.observe_head(head)
        except HcefsError as error:
            log.warning("a peer passed on a bad head: %s (%s)", error.kind, error.reason)


class StorageNode:
    """Everything a storage node runs.

    ``client_handlers`` answer the calls on its client port, ``peer_handlers`` those on
    its peer port: generic handlers of gRPC.
    """

    def __init__(self, parts: NodeParts) -> None:
        self._runtime = runtime = parts.runtime
        self.metrics = metrics = parts.metrics if parts.metrics is not None else Metrics()
        self._limits = limits = parts.limits
        genesis, keys, upkeep_config = parts.genesis, parts.keys, parts.upkeep
        self._genesis = genesis
        self.account = keys.account
        self.stores = parts.stores
        ensure_placed(self.stores)
        self._log = parts.log
        self._format = ShardFormat(self._log, self.stores.rows)
        self.stores.shards.shard_version = self._format.written
        self.follower = Follower(self._log, genesis, runtime, parts.link)
        self._snapshots = SnapshotMaker(self._log, runtime, self.follower.distrust)
        heads = FollowerHeads(self.follower)
        uploads = Uploads(self._epoch)
        holder = Holder(runtime, self.stores, self._log, metrics, self._lists, uploads)
        self.channels = Channels(runtime, parts.dialer, self._spki_of, heads)
        self.peers = peers = GrpcPeers(runtime, self.channels, self.account, holder)
        tokens = TokenCache()
        verifier = Verifier(genesis.cluster, self._log, self.account, tokens, NonceMemory())
        standby = Standby(runtime, self._stand_ins)
        fanout = Fanout(runtime, peers, self._log, self._reseat, standby)
        rates = Rates(runtime, metrics, limits)
        self.receipts = ReceiptLog(
            runtime,
            ReceiptStore(self.stores.rows, genesis.cluster, self.account),
            self._anchored,
            metrics,
        )
        evidence = Evidence(runtime, self.receipts, metrics)
        desk = Desk(runtime, self.follower, verifier, fanout, self.account, rates, evidence)
        self.desk = desk
        self.versions = PeerVersions(metrics, self._protocol)
        desk.versions = self.versions
        revocations = Revocations(
            runtime, self.follower, desk.standing, tokens, genesis.cluster, keys
        )
        batches = BatchDesk(desk)
        pack_holder = PackHolder(
            runtime,
            self.stores,
            self._log,
            metrics,
            holder.pending,
            desk.is_record_seat,
            uploads,
        )
        pack_peers = GrpcPackPeers(self.channels, self.account, pack_holder)
        streams = limits.streams
        self.gate = Gate("streams", streams, runtime)
        self._memory = ByteGate("memory", limits.memory_mib << 20, runtime)
        packs = PackService(
            runtime,
            desk,
            batches,
            PackWriter(
                runtime,
                pack_peers,
                metrics,
                self.account,
                keys.key_version,
                keys.signing_key,
                limits.put_deadline_s,
                self._reseat,
                standby,
            ),
            PackReader(
                runtime,
                pack_peers,
                RowReader(
                    runtime,
                    pack_peers,
                    self._log,
                    self.account,
                    lambda base: desk.seats_of_any(BlobId.of(base)),
                    desk.stand_ins_of_any,
                ),
                metrics,
                HedgeTimer(),
                self.account,
                lambda profile, base: desk.blob_seats(profile, BlobId.of(base)),
                desk.stand_ins,
                self._suspect,
            ),
            metrics,
            self.gate,
            self._memory,
            self._suspect,
        )
        blobs = BlobService(
            runtime,
            desk,
            peers,
            metrics,
            self.gate,
            NodeIdentity(self.account, keys.key_version, keys.signing_key),
            genesis.cluster,
            limits.put_deadline_s,
            self._memory,
            packs,
            self._suspect,
        )
        peer_gate = Gate("peer-calls", streams * PEER_CALLS_FACTOR, runtime)
        shards = ShardService(
            runtime,
            desk,
            holder,
            heads,
            metrics,
            peer_gate,
            restoring=lambda: self.care.is_restoring(),
        )
        pack_shards = PackShardService(
            runtime,
            desk,
            batches,
            shards,
            pack_holder,
            heads,
            metrics,
            peer_gate,
            ByteGate("pack memory", limits.memory_mib << 20, runtime),
        )
        direct_gate = Gate("direct-calls", streams * DIRECT_CALLS_FACTOR, runtime)
        direct = ShardService(
            runtime,
            desk,
            holder,
            heads,
            metrics,
            direct_gate,
            direct=True,
            restoring=lambda: self.care.is_restoring(),
            hints=lambda giver, profile, shards: self.repairs.listener.take(giver, profile, shards),
        )
        self._collector = Collector(runtime, self.stores, self._log, metrics, holder.pending)
        self.eraser = eraser = Eraser(
            runtime,
            self._log,
            self.stores,
            holder.pending,
            metrics,
            pack_holder.forget,
            lambda: self.follower.caught_up,
            parts.restoring.set_aside if parts.restoring is not None else list,
        )
        desk.settled = eraser.require_settled
        exporter = Exporter(runtime, self.stores, self._log, metrics, holder.pending, uploads)
        others = GrpcUpkeepPeers(runtime, self.channels)
        self._throttle = Throttle(
            runtime,
            upkeep_config.rate_min_mib * (1 << 20),
            upkeep_config.rate_max_mib * (1 << 20),
            lambda: self.gate.held > 0 or peer_gate.held > 0,
            LatencyMeter(),
        )
        for gate in (self.gate, peer_gate, direct_gate):
            gate.timed = self._throttle.observe
        adopter = Adopter(runtime, self.stores, self._log, holder.pending, pack_holder.forget)
        self._submitter = parts.submitter
        self._signer = (keys.account, keys.key_version, keys.signing_key)
        self._cluster = genesis.cluster
        self.seat_care = seat_care = SeatCare(
            runtime,
            self.stores,
            self._log,
            holder,
            pack_holder,
            uploads,
            exporter,
            adopter,
            others,
            self._throttle,
            metrics,
            self.account,
            LayoutSigner(keys.account, keys.key_version, keys.signing_key),
            (genesis.lease_ms + genesis.skew_ms) / 1000,
            upkeep_config.grace_s,
            self._submit,
            lambda: self.care.is_restoring(),
        )
        tally = UpkeepTally()
        upkeep = UpkeepService(
            runtime,
            desk,
            exporter,
            heads,
            metrics,
            Gate("upkeep-calls", UPKEEP_CALLS, runtime),
            seat_care.taker,
            self._log.policy,
            lambda giver, profile, shards: self.repairs.listener.take(giver, profile, shards),
            seat_care.bringer,
            tally,
            lambda: self.care.is_mute(),
            lambda: self.facts.latest,
        )
        scrub_log = ScrubLog(self.stores.rows, runtime.now_ms)
        aside = SettingAside(
            self.stores, holder.pending, scrub_log, runtime.now_ms, pack_holder.forget
        )
        self.repairs = Repairs(
            runtime,
            self._log,
            self.stores,
            seat_care.filler,
            aside,
            self._throttle,
            others,
            metrics,
            self.account,
            self.follower.require_fresh,
            upkeep_config.round_s,
        )
        admin = AdminService(
            runtime,
            verifier,
            self._log,
            self.report,
            metrics,
            Gate("admin-calls", streams, runtime),
            self._inventory,
            self.repairs.answers(self.stores, desk.cluster_map),
            lambda now: self.care.scrub(now),
            lambda dry_run: self.care.collect(dry_run),
            ErasureAnswers(self._log, eraser, keys),
            rates,
        )
        self.care = DiskCare(
            runtime,
            self.stores,
            self._log,
            holder.pending,
            exporter,
            adopter,
            seat_care.taker,
            seat_care.filler,
            self._collector,
            scrub_log,
            aside,
            self.repairs.damage,
            self._throttle,
            others,
            metrics,
            self.account,
            upkeep_config,
            limits.reserve_mib << 20,
            self.follower.require_fresh,
            parts.restoring,
            parts.health,
        )
        self.watcher = Watcher(
            runtime,
            self._log,
            others,
            metrics,
            self.account,
            self.follower.require_fresh,
            self._submit,
            self.versions,
        )
        self.facts = OwnFacts(
            runtime,
            self._log,
            self.follower,
            self.stores,
            metrics,
            self.care,
            self.repairs,
            lambda: len(self.seat_care.rebalancer.waiting()),
        )
        self.anchorer = ReceiptAnchorer(
            runtime,
            self.receipts,
            self._log,
            tally,
            metrics,
            self.account,
            self.follower.require_fresh,
            self._submit,
            upkeep_config.anchor_s,
        )
        workers: list[Worker] = [
            eraser,
            self._collector,
            *seat_care.workers,
            *self.repairs.workers,
            *self.care.workers,
            self.watcher,
            self.anchorer,
            self.facts,
        ]
        self._upkeep = Runner(runtime, workers)
        calls = Gate("replica-calls", UPKEEP_CALLS, runtime)
        confirming = RevocationService(
            runtime,
            verifier,
            self._log,
            metrics,
            Gate("revocation-calls", UPKEEP_CALLS, runtime),
            rates,
            revocations,
        )
        replica = ReplicaService(runtime, self.follower, verifier, self.account, metrics, calls)
        self.client_handlers: tuple[Any, ...] = (
            blob_handlers(blobs, packs),
            shard_handlers(direct),
            admin_handlers(admin),
            revocation_handlers(confirming),
            audit_handlers(
                AuditService(
                    runtime,
                    desk,
                    self.receipts.store,
                    metrics,
                    Gate("audit-calls", AUDIT_CALLS, runtime),
                    self.anchorer.hasten,
                )
            ),
            replica_handlers(replica),
            snapshot_handlers(
                SnapshotService(
                    runtime, self._log, metrics, calls, lambda asker, _: replica.admit(asker)
                )
            ),
            backup_handlers(
                BackupService(
                    runtime,
                    verifier,
                    self._log,
                    self.stores,
                    self.account,
                    metrics,
                    Gate("backup-calls", BACKUP_CALLS, runtime),
                    lambda: self._log.height,
                    lambda: self.care.is_restoring(),
                )
            ),
        )
        self.peer_handlers: tuple[Any, ...] = (
            shard_handlers(shards, pack_shards),
            upkeep_handlers(upkeep),
            snapshot_handlers(
                SnapshotService(runtime, self._log, metrics, calls, admit_nodes(self._log))
            ),
        )

    def _anchored(self) -> ChainHead | None:
        """The last receipt of this node that its replica of the ledger has."""
        anchor = self._log.receipt_anchor(self.account)
        if anchor is None:
            return None
        batch = anchor.batch
        return ChainHead(batch.last, batch.chain, batch.until_ms)

    async def _submit(self, transaction: Transaction) -> SubmitResult:
        """Have the ledger commit a transaction of this node's own account."""
        signed = sign_transaction(transaction, self._cluster, [self._signer])
        return await self._submitter.submit(signed)

    def _spki_of(self, account: AccountId) -> bytes:
        known = self._log.account(account)
        if known is None or not known.active or not known.spki:
            raise Unavailable("that node is not active on the ledger", reason="unknown-node")
        return known.spki

    def registered_spki(self) -> bytes:
        """SHA-256 of the TLS key that the ledger names for this node; empty: it names none."""
        known = self._log.account(self.account)
        return known.spki if known is not None else b""

    def _lists(self, record: RecordId) -> bool:
        """Whether this node is a seat of a record's partition."""
        current = self._log.cluster_map()
        if current is None:
            return False
        held = seats(current, current.default_profile, bytes(record))
        return any(seat.node.account == self.account for seat in held)

    async def _reseat(self, profile: str, name: bytes, epoch: int) -> tuple[int, tuple[Seat, ...]]:
        return await self.desk.reseat(profile, name, epoch)

    def _suspect(self, node: Node, base: BlobBase, index: int, profile: str) -> None:
        self.repairs.suspect(node, base, index, profile)

    def _stand_ins(self, profile: str, name: bytes) -> tuple[Node, ...]:
        return self.desk.stand_ins(profile, name)

    def _epoch(self) -> int:
        """The epoch of this node's map; 0 without one."""
        current = self._log.cluster_map()
        return current.epoch if current is not None else 0

    def _protocol(self) -> int:
        """The rules that the next block follows, as this node knows it."""
        return self._log.protocol().at(self._log.height + 1)

    def _lease_age(self) -> float:
        """Seconds; infinite before the first head."""
        age = self.follower.lease_age_ms()
        return float("inf") if age is None else age / 1000

    def _lag(self) -> int:
        """Blocks that this node knows of by a signed head and has not applied."""
        head = self._log.head
        return 0 if head is None else max(0, head.height - self._log.height)

    def height(self) -> int:
        """The height of this node's replica."""
        return self._log.height

    def warnings(self) -> list[str]:
        """What an operator should know."""
        current = self._log.cluster_map()
        return [
            *(current.warnings() if current is not None else ()),
            *self.unready(),
            *self.care.warnings(),
            *self.seat_care.rebalancer.warnings(),
            *self.watcher.warnings(),
            *self.anchorer.warnings(),
        ]

    async def report(self) -> admin_pb2.StatusResponse:
        usage = await self._runtime.disk(self.stores.shards.usage)
        pending = await self._runtime.disk(self._collector.pending)
        current = self._log.cluster_map()
        node = current.node_of_account(self.account) if current is not None else None
        return admin_pb2.StatusResponse(
            account=bytes(self.account),
            node_id=node.node_id if node is not None else 0,
            version=__version__,
            height=self._log.height,
            app_hash=self._log.app_hash,
            lease_age_ms=self.follower.lease_age_ms() or 0,
            epoch=current.epoch if current is not None else 0,
            shards=usage.shards,
            shard_bytes=usage.shard_bytes,
            free_bytes=usage.free_bytes,
            pending_blobs=pending,
            warnings=self.warnings(),
            erasure_kernel=codec_for(profile_named(DEFAULT_PROFILE)).kernel,
            moving_seats=len(self.seat_care.rebalancer.waiting()),
            rebalanced_bytes=self.seat_care.filler.bytes,
            versions=versions_message(),
            protocol=self._protocol(),
            shard_version=self._format.named(),
            facts=self.facts.latest.message() if self.facts.latest is not None else None,
        )

    async def _inventory(self, profile: str, first: int, count: int) -> admin_pb2.InventoryResponse:
        """What is here of those of some partitions in which this node has a seat."""
        current = self.desk.cluster_map()
        node = current.node_of_account(self.account)
        node_id = node.node_id if node is not None else 0
        rows = current.table(profile).node_rows[first : first + count]

        def job() -> admin_pb2.InventoryResponse:
            found = [
                partition_inventory(
                    self.stores, self._log, current, profile, first + at, row.index(node_id)
                )
                for at, row in enumerate(rows)
                if node_id in row
            ]
            return admin_pb2.InventoryResponse(
                epoch=current.epoch,
                partitions=[
                    admin_pb2.PartitionInventory(
                        partition=each.partition, shards=each.shards, digest=each.digest
                    )
                    for each in found
                ],
                elsewhere=0 if first else elsewhere(self.stores, current, node_id),
            )

        return await self._runtime.disk(job)

    def _gauges(self) -> None:
        metrics, shards = self.metrics, self.stores.shards
        metrics.set("build_info", 1, version=__version__)
        metrics.set(
            "erasure_kernel_info", 1, kernel=codec_for(profile_named(DEFAULT_PROFILE)).kernel
        )
        metrics.set("stream_memory_bytes", lambda: self._memory.held)
        metrics.set("open_streams", lambda: self.gate.held)
        metrics.set("shards", lambda: shards.usage().shards)
        metrics.set("shard_bytes", lambda: shards.usage().shard_bytes)
        metrics.set("disk_free_bytes", lambda: shards.usage().free_bytes)
        metrics.set("disk_total_bytes", lambda: shards.usage().total_bytes)
        metrics.set("ledger_height", lambda: self._log.height)
        metrics.set("ledger_term", lambda: self._log.terms.term)
        metrics.set("ledger_fork_proofs", lambda: len(self._log.fork_proofs()))
        metrics.set("ledger_lease_age_seconds", self._lease_age)
        metrics.set("outdated", lambda: float(self.follower.status is FollowerStatus.OUTDATED))
        metrics.set("ledger_lag_blocks", self._lag)
        self._snapshots.gauges(metrics)
        emergency_gauges(metrics, self._log, self._runtime)
        metrics.set("pending_blobs", self._collector.pending)

        metrics.set("serving", lambda: float(self.able()))
        clock_gauges(metrics, self._genesis, self._runtime)
        map_gauges(metrics, self._log, self.account)
        metrics.set("moving_seats", lambda: len(self.seat_care.rebalancer.waiting()))
        metrics.set("upkeep_rate_bytes", lambda: self._throttle.rate)
        self.repairs.repairer.gauges()
        self.anchorer.gauges()

    def unready(self) -> list[str]:
        """Why this node may not answer now, each with what to do; nothing when it may."""
        found = []
        for check in (self.follower.require_fresh, self.desk.cluster_map):
            try:
                check()
            except HcefsError as error:
                found.append(error.message)
        return found

    def able(self) -> bool:
        """Whether this node may answer now: fresh lease, and named by the map."""
        return not self.unready()

    def map(self) -> ClusterMap | None:
        """The map in this node's replica; None before the first."""
        return self._log.cluster_map()

    def lease_max_ms(self) -> int:
        """The age of a lease at which nodes refuse, by the genesis."""
        return self._genesis.lease_ms

    def protocol(self) -> int:
        """The version of the ledger's protocol in force."""
        return self._log.protocol().at(self._log.height + 1)

    def arrived(self) -> frozenset[SeatName]:
        """The seats in flight that have arrived, by this node's replica."""
        return self._log.arrived()

    async def start(self) -> None:
        """Follow the ledger and keep up; whatever comes of it, :meth:`stop` is to follow."""
        self._gauges()
        await self.follower.start()
        self._snapshots.start()
        self._upkeep.start()

    async def stop(self) -> None:
        """End what :meth:`start` began, and close the parts; nothing may call it any more."""
        await self._upkeep.stop()
        await self._snapshots.stop()
        await self.desk.standing.close()
        await self.follower.stop()
        await self.channels.close()
        await self._submitter.close()
        await self.receipts.close()
        self._log.close()
        self.stores.close()
