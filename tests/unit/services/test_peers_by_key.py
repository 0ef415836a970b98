"""Nodes are told apart by the TLS keys that the ledger has for them now."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hcefs.access.facts import Account
from hcefs.errors import Unauthenticated
from hcefs.ids import AccountId
from hcefs.placement.cluster_map import ClusterMap
from hcefs.services import desk as desk_module
from hcefs.services.desk import Desk
from tests.unit.ledger.clusters import Cluster
from tests.unit.ledger.scenario import seed


class Replica:
    """A replica whose accounts a test changes."""

    def __init__(self, world: Cluster) -> None:
        self.height = 1
        self.map = world.map
        self.looks = 0
        self.accounts: dict[AccountId, Account] = {}
        for name in ("n1", "n2", "n3"):
            known = world.view.account(world.account(name))
            assert known is not None
            self.accounts[known.account] = known

    def cluster_map(self) -> ClusterMap:
        return self.map

    def account(self, account: AccountId) -> Account | None:
        self.looks += 1
        return self.accounts.get(account)


def test_a_changed_tls_key_is_known_from_its_block_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Cluster(3, 3)
    replica = Replica(world)
    nothing: Any = None
    runtime: Any = SimpleNamespace()
    follower: Any = SimpleNamespace(view=replica)
    desk = Desk(runtime, follower, nothing, nothing, world.account("n1"), nothing, nothing)
    monkeypatch.setattr(desk_module, "peer_spki", lambda context: context)
    node = world.account("n2")
    old, new = replica.accounts[node].spki, seed("another TLS key")
    assert desk.peer_of(old) == node
    with pytest.raises(Unauthenticated):
        desk.peer_of(new)
    replica.accounts[node] = replace(replica.accounts[node], spki=new)
    replica.height += 1
    assert desk.peer_of(new) == node
    with pytest.raises(Unauthenticated):
        desk.peer_of(old)
    # Whoever comes with unknown keys costs no look at all nodes within one height.
    replica.looks = 0
    for number in range(50):
        with pytest.raises(Unauthenticated):
            desk.peer_of(seed(f"unknown {number}"))
    assert replica.looks == 0
