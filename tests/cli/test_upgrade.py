"""``hcefs ledger upgrade``: which height it asks for, when it asks again, what it prints."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hcefs.cli import ledger as ledger_verbs
from hcefs.cli.bringup import UPGRADE_ATTEMPTS, upgrade_protocol
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.client.ledger import LedgerClient
from hcefs.errors import Conflict, Unavailable
from hcefs.ids import ClusterId
from hcefs.ledger.cluster_facts import ProtocolStatus
from hcefs.ledger.transactions import SignedTransaction, Upgrade, decode_transaction
from tests.cli.conftest import Invoke

CLUSTER = ClusterId(b"c" * 16)


class Ledger:
    """A ledger at version 1 that grows by ``others`` blocks before each submission."""

    def __init__(self, height: int = 10, others: tuple[int, ...] = ()) -> None:
        self.connection = SimpleNamespace(cluster=CLUSTER)
        self.status = ProtocolStatus(height, 1, 0, 0)
        self.others = list(others)
        self.asked: list[Upgrade] = []
        self.replicates = True

    async def protocol_version(self) -> ProtocolStatus:
        return self.status

    async def submit(self, signed: SignedTransaction) -> None:
        upgrade = decode_transaction(signed.body)
        assert isinstance(upgrade, Upgrade)
        self.asked.append(upgrade)
        height = self.status.height + (self.others.pop(0) if self.others else 0)
        self.status = ProtocolStatus(height, 1, 0, 0)
        if upgrade.height <= height + 1:
            raise Conflict("it has passed", reason="bad-upgrade-height")
        self.status = ProtocolStatus(height + 1, 1, upgrade.version, upgrade.height)
        if not self.replicates:
            raise Unavailable("too few followers", reason="not-replicated")


async def upgrade(ledger: Ledger, version: int, height: int | None = None) -> ProtocolStatus:
    return await upgrade_protocol(cast(LedgerClient, ledger), [], version, height)


async def test_the_next_block_but_one() -> None:
    ledger = Ledger()
    assert await upgrade(ledger, 2) == ProtocolStatus(11, 1, 2, 12)
    assert await upgrade(ledger, 2) == ProtocolStatus(11, 1, 2, 12)
    assert ledger.asked == [Upgrade(2, 12)]


async def test_others_were_quicker() -> None:
    ledger = Ledger(others=(1, 4))
    assert (await upgrade(ledger, 2)).next_height == 17
    assert ledger.asked == [Upgrade(2, 12), Upgrade(2, 13), Upgrade(2, 17)]


async def test_it_gives_up_when_others_are_always_quicker() -> None:
    ledger = Ledger(others=(9,) * 99)
    with pytest.raises(Conflict):
        await upgrade(ledger, 2)
    assert len(ledger.asked) == UPGRADE_ATTEMPTS


async def test_a_height_that_was_named_is_not_changed() -> None:
    ledger = Ledger(others=(9,))
    with pytest.raises(Conflict):
        await upgrade(ledger, 2, 12)
    assert (await upgrade(ledger, 2, 500)).next_height == 500
    assert ledger.asked == [Upgrade(2, 12), Upgrade(2, 500)]


async def test_too_few_followers_yet_is_fine() -> None:
    ledger = Ledger()
    ledger.replicates = False
    assert (await upgrade(ledger, 2)).next_version == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (ProtocolStatus(11, 1, 2, 12), "from block 12 on"),
        (ProtocolStatus(40, 2, 0, 0), "protocol version 2"),
    ],
)
def test_what_it_prints(
    prepared: ClusterFolder,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    status: ProtocolStatus,
    said: str,
) -> None:
    async def done(client: Any, operators: list[Any], to: int, at: int | None) -> ProtocolStatus:
        assert (len(operators), to, at) == (2, 2, 12)
        return status

    monkeypatch.setattr(ledger_verbs, "upgrade_protocol", done)
    arguments = ["ledger", "upgrade", "--to", "2", "--at", "12", "--dir", prepared.root]
    assert said in invoke(*arguments).stdout
    facts = json.loads(invoke(*arguments, "--json").stdout)
    assert facts["next_height"] == status.next_height
