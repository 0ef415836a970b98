"""What a recovery begins with: never a term twice, and a snapshot where no old blocks are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.recovery import new_data, propose, require_unused
from hcefs.client.replicas import GrpcReplicas
from hcefs.config import LedgerConfig, TlsConfig, render_ledger_config
from hcefs.errors import Conflict, NotFound
from hcefs.ids import AccountId
from hcefs.ledger.link import BlockBytes, TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import ReplicaAnswer, take_term
from hcefs.ledger.snapshot import SnapshotOffer
from hcefs.runtime import SystemRuntime
from tests.unit.ledger.scenario import Scenario, signing_key
from tests.unit.ledger.test_snapshot import NoWaiting, Source, parts_of, served


def test_a_log_that_the_configuration_names_is_not_made_anew(tmp_path: Path) -> None:
    layout = ClusterFolder(tmp_path)
    layout.ledger.mkdir(parents=True)
    require_unused(layout, new_data(layout, 2))  # the configuration is lost, too
    named = TlsConfig(*(layout.ledger / name for name in ("tls.crt", "tls.key", "ca.crt")))
    config = LedgerConfig(
        new_data(layout, 2), tmp_path / "genesis.cbor", layout.ledger / "writer.key",
        "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", named,
    )  # fmt: skip
    text = render_ledger_config(config, relative_to=layout.ledger)
    (layout.ledger / "config.toml").write_text(text)
    require_unused(layout, new_data(layout, 3))
    with pytest.raises(Conflict) as caught:
        require_unused(layout, new_data(layout, 2))
    assert caught.value.reason == "already-recovered"


class Holders:
    """Replicas that began with a snapshot: they have blocks 9 and 10, and what they keep."""

    def __init__(self, log: LedgerLog, offer: SnapshotOffer) -> None:
        self.log = log
        self.source = Source(log, offer, parts_of(log, offer))

    async def describe(self, account: AccountId | None, address: str) -> ReplicaAnswer:
        return ReplicaAnswer(
            AccountId.zero(), self.log.height, self.log.tip_hash, b"", (), "following", ""
        )

    async def blocks(
        self, account: AccountId | None, address: str, from_height: int, last_height: int
    ) -> AsyncGenerator[BlockBytes | TermBytes, None]:
        if from_height <= 8:
            raise NotFound("begins after block 8", reason="before-snapshot")
        for height in range(from_height, last_height + 1):
            yield BlockBytes(self.log.block(height).encode())

    def snapshot(self, account: AccountId | None, address: str, runtime: SystemRuntime) -> Source:
        return self.source


async def test_a_replica_that_began_with_a_snapshot_is_recovered_from(tmp_path: Path) -> None:
    runtime = NoWaiting()
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    layout = ClusterFolder(tmp_path / "cluster")
    layout.ledger.mkdir(parents=True)
    layout.genesis_file.write_bytes(world.genesis.encode())
    told: list[str] = []
    holders = cast(GrpcReplicas, Holders(log, offer))
    try:
        proposal = await propose(
            layout, holders, ["node:1"], runtime, forced=True, report=told.append
        )
        assert proposal.statement.change.height == 10
        assert proposal.statement.change.block_hash == log.tip_hash
        copied = LedgerLog.open(proposal.data, world.genesis)
        assert (copied.base_height, copied.height) == (8, 10)
        assert copied.verify_chain() == 10
        assert list(copied.scan(b"")) == list(log.scan(b""))
        # The promoted log begins the term, and says what it cannot give.
        signed = proposal.statement
        for name in ("o1", "o2"):
            account = world.account(name)
            signed = signed.signed(account, 1, signing_key(name))
        take_term(copied, signed.encode())
        assert copied.terms.term == 2
        with pytest.raises(NotFound) as caught:
            copied.block(8)
        assert caught.value.reason == "before-snapshot"
        copied.close()
        assert any("began with a snapshot" in line for line in told)
    finally:
        log.close()
        runtime.close()
