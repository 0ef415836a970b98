"""What a storage node does about its seats, put together: it fills them, moves what lies under a
profile that is left, and gives what it keeps outside of them to where it belongs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hcefs.ids import AccountId
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.transactions import Transaction
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.exports import Exporter, record_digest
from hcefs.stripes.holder import Holder
from hcefs.stripes.pack_holder import PackHolder
from hcefs.stripes.relayout import LayoutTaker
from hcefs.stripes.uploads import Uploads
from hcefs.transport.upkeep import UpkeepPeers
from hcefs.upkeep.bring_home import HomeBringer
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.own_peer import PeersWithOwn
from hcefs.upkeep.rebalance import Rebalancer
from hcefs.upkeep.replaced import ReplacedSweeper
from hcefs.upkeep.reprofile import LayoutSigner, Reprofiler
from hcefs.upkeep.retire import Retirer
from hcefs.upkeep.stand_in import StandInKeeper
from hcefs.upkeep.stray_keys import StrayKeys
from hcefs.upkeep.superseded import SupersededShards
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.witness import Witness
from hcefs.upkeep.worker import Worker


class SeatCare:
    """The parts that look after one node's seats."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        log: LedgerLog,
        holder: Holder,
        pack_holder: PackHolder,
        uploads: Uploads,
        exporter: Exporter,
        adopter: Adopter,
        peers: UpkeepPeers,
        throttle: Throttle,
        metrics: Metrics,
        me: AccountId,
        signer: LayoutSigner,
        lease_seconds: float,
        grace_seconds: float,
        submit: Callable[[Transaction], Awaitable[SubmitResult]],
        is_restoring: Callable[[], bool],
    ) -> None:
        """``lease_seconds`` is how long a node that is silent may still take puts."""
        pending, forget = holder.pending, pack_holder.forget
        self.taker = taker = LayoutTaker(
            runtime,
            stores,
            adopter,
            pending,
            uploads,
            peers,
            me,
            log.policy,
            log.cluster_map,
            lambda: log.time_ms,
            throttle.spend,
            forget,
        )
        self.filler = SeatFiller(
            runtime,
            peers,
            adopter,
            metrics,
            throttle,
            me,
            lambda record: runtime.disk(record_digest, stores, record),
        )
        witness = Witness(runtime, stores, exporter, peers, throttle, me)
        superseded = SupersededShards(
            runtime,
            log.cluster_map,
            stores.rows,
            adopter,
            PeersWithOwn(peers, me, exporter, taker),
            witness,
            metrics,
            me,
        )
        self.bringer = HomeBringer(runtime, self.filler, superseded, metrics, me)
        self.rebalancer = Rebalancer(runtime, log, self.filler, metrics, me, lease_seconds, submit)
        retirer = Retirer(runtime, log, stores, peers, pending, metrics, me, grace_seconds, forget)
        self.workers: list[Worker] = [
            self.rebalancer,
            retirer,
            StrayKeys(
                runtime, log, stores, peers, pending, metrics, me, grace_seconds, is_restoring
            ),
            self.bringer,
            StandInKeeper(
                runtime, log, stores, peers, pending, metrics, me, lambda: log.height, forget
            ),
            Reprofiler(
                runtime,
                log,
                stores,
                exporter,
                adopter,
                taker,
                pending,
                peers,
                metrics,
                throttle,
                me,
                signer,
                retirer.idle_seconds,
            ),
            ReplacedSweeper(
                runtime, log, stores, peers, pending, metrics, me, grace_seconds, witness
            ),
        ]
        """What is to run."""
