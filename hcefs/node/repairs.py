"""What a storage node repairs itself with, put together."""

from __future__ import annotations

from collections.abc import Callable

from hcefs.ids import AccountId, BlobBase
from hcefs.ledger.log import LedgerLog
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.runtime import Runtime
from hcefs.services.repair_answers import RepairAnswers
from hcefs.store.interface import Stores
from hcefs.stripes.audit import Auditor
from hcefs.transport.upkeep import UpkeepPeers
from hcefs.upkeep.damage import DamageLog
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.hints import HintListener, HintTeller
from hcefs.upkeep.named import NamedBlobs
from hcefs.upkeep.repair import Repairer
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import Worker


class Repairs:
    """The queue of damage, who fills it, and who works it off."""

    def __init__(
        self,
        runtime: Runtime,
        log: LedgerLog,
        stores: Stores,
        filler: SeatFiller,
        aside: SettingAside,
        throttle: Throttle,
        peers: UpkeepPeers,
        metrics: Metrics,
        me: AccountId,
        require_fresh: Callable[[], None],
        round_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._filler = filler
        self._throttle = throttle
        self._me = me
        self.damage = DamageLog(stores.rows, runtime.now_ms)
        self.auditor = Auditor(runtime, stores, log, throttle.spend)
        self.repairer = Repairer(
            runtime,
            log,
            stores,
            log,
            filler,
            self.auditor,
            self.damage,
            aside,
            throttle,
            metrics,
            me,
            require_fresh,
            round_seconds,
        )
        self.listener = HintListener(
            runtime, log.cluster_map, filler, self.auditor, self.damage, metrics, me
        )
        self._teller = HintTeller(runtime, log.cluster_map, peers, self.listener, metrics, me)

    def answers(self, stores: Stores, view: Callable[[], ClusterMap]) -> RepairAnswers:
        """What operators are told."""
        return RepairAnswers(
            self._runtime,
            stores,
            view,
            self.damage,
            self.repairer,
            self.listener,
            self.auditor,
            self._throttle,
            lambda: NamedBlobs(self._runtime, stores, self._log, self._filler.surveyor),
            self._me,
        )

    @property
    def workers(self) -> list[Worker]:
        """What is to run."""
        return [self.repairer, self.listener, self._teller]

    def suspect(self, node: Node, base: BlobBase, index: int, profile: str) -> None:
        """See :data:`hcefs.stripes.suspects.Suspect`."""
        self._teller.suspect(node, base, index, profile)
