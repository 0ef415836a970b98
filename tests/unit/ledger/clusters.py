"""A ledger under protocol version 2 with nodes, a first map and plans for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from hcefs.access.facts import AccountKind
from hcefs.ledger.cluster_facts import ArrivedSeat, UpkeepPolicy
from hcefs.ledger.outcome import Outcome
from hcefs.ledger.transactions import SetClusterMap, Upgrade
from hcefs.ledger.transactions_map import NodeReport, SeatsArrived, SetUpkeepPolicy
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import first_map, plan
from hcefs.placement.waves import SeatName, apply_plan, in_flight
from tests.unit.ledger.scenario import Scenario, seed

PROFILES = (("copy-3", 1, 2), ("narrow", 1, 1))
MINUTE_MS = 60_000
OPERATORS = ("o1", "o2")


def node_of(world: Scenario, number: int) -> Node:
    """Node ``number``, of the account ``n<number>``, in one of three zones."""
    return Node(
        node_id=number,
        account=world.account(f"n{number}"),
        address=f"10.0.0.{number}:7000",
        peer_address=f"10.0.0.{number}:7001",
        zone=f"z{number % 3}",
        rack="",
        host=f"h{number}",
        weight=1,
        state=NodeState.UP,
    )


class Cluster(Scenario):
    """Version 2 in force, ``registered`` node accounts, a map of the first ``nodes`` of them."""

    def __init__(
        self,
        nodes: int = 4,
        registered: int = 6,
        profiles: Sequence[tuple[str, int, int]] = PROFILES[:1],
        *,
        upgraded: bool = True,
    ) -> None:
        super().__init__()
        if upgraded:
            self.submit(Upgrade(2, 2), *OPERATORS)
        for number in range(1, registered + 1):
            self.register(f"n{number}", AccountKind.NODE, *OPERATORS)
        given = [node_of(self, number) for number in range(1, nodes + 1)]
        self.set_map(first_map(given, profiles, seed("map"), profiles[0][0]))

    @property
    def map(self) -> ClusterMap:
        found = self.view.cluster_map()
        assert found is not None
        return found

    def setting(self, new: ClusterMap) -> SetClusterMap:
        return SetClusterMap(new.epoch - 1, new.encode())

    def set_map(self, new: ClusterMap, *names: str) -> Outcome:
        return self.submit(self.setting(new), *(names or OPERATORS))

    def planned(self, nodes: Sequence[Node], done: Collection[SeatName] = ()) -> ClusterMap:
        """The first wave of the plan that leads to these nodes."""
        return apply_plan(plan(self.map, nodes, weaker_caps=True), self.map, done)

    def grow(self, *numbers: int) -> ClusterMap:
        """Set the first wave of adding nodes, and return its map."""
        added = changes.add(self.map, [node_of(self, number) for number in numbers])
        new = self.planned(added)
        self.set_map(new)
        return new

    def flying(self) -> dict[str, list[SeatName]]:
        """The seats in flight that have not arrived, in order, by their destination's account."""
        current, arrived = self.map, self.view.arrived()
        found: dict[str, list[SeatName]] = {}
        for name in sorted(in_flight(current)):
            if name not in arrived:
                holder = current.table(name.profile).node_rows[name.partition][name.seat]
                found.setdefault(f"n{holder}", []).append(name)
        return found

    def arrival(self, names: Collection[SeatName], epoch: int = 0) -> SeatsArrived:
        return SeatsArrived(epoch or self.map.epoch, tuple(map(ArrivedSeat.of, names)))

    def arrive(self) -> list[Outcome]:
        """All that is in flight arrives, a transaction for each destination."""
        return [self.submit(self.arrival(names), name) for name, names in self.flying().items()]

    def set_policy(self, **fields: object) -> UpkeepPolicy:
        current = self.view.policy()
        new = replace(current, number=current.number + 1, **fields)  # type: ignore[arg-type]
        self.submit(SetUpkeepPolicy(current.number, new), *OPERATORS)
        return new

    def report_of(
        self, number: int, unreachable: Sequence[int] = (), endorses: bytes = b""
    ) -> NodeReport:
        """The next report of a node."""
        before = self.view.report(number)
        return NodeReport(
            node_id=number,
            number=1 if before is None else before.number + 1,
            epoch=self.map.epoch,
            unreachable=tuple(unreachable),
            endorses=endorses,
        )

    def report(
        self, number: int, unreachable: Sequence[int] = (), endorses: bytes = b""
    ) -> Outcome:
        return self.submit(self.report_of(number, unreachable, endorses), f"n{number}")
