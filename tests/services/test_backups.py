"""Who may copy a node's rows, and what comes: all of them, sealed as they lie there."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest

from hcefs.client.authorize import Authorizer
from hcefs.client.backup import BackupTaker
from hcefs.client.backup_check import Found, checked
from hcefs.client.backup_file import BackupReader, BackupWriter, sealed_header
from hcefs.client.replicas import GrpcReplicas, operator_asker
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Corrupt, Denied, Unavailable
from hcefs.formats.backup import BackupContents, BackupRows, RowSource
from hcefs.ids import AccountId, BlobBase
from hcefs.store.interface import KeyTable
from hcefs.transport.dial import AuthorityDialer
from hcefs.transport.replica_calls import ReplicaCalls
from tests.services.rig import MARK, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

DEK = bytes(range(32))


@pytest.fixture
async def calls(rig: Rig) -> AsyncIterator[ReplicaCalls]:
    made = ReplicaCalls(rig.runtime, AuthorityDialer(rig.authority))
    yield made
    await made.close()


def _silent(_: str) -> None:
    """Nobody reads the report."""


async def taken(
    rig: Rig, calls: ReplicaCalls, keys: AccountKeys, *, other: bool = False
) -> tuple[Found, list[BackupRows]]:
    """A backup of one node, as this account takes it, and read again."""
    node, genesis = rig.nodes[0], rig.ledger.log.genesis
    account = AccountId(bytes(range(16))) if other else node.process.account
    address = node.config.client_address
    authorizer = Authorizer(rig.cluster, keys, rig.runtime)
    replicas = GrpcReplicas(calls, operator_asker(authorizer))
    file = io.BytesIO()
    backup = BlobBase(rig.runtime.random(BlobBase.SIZE))
    header = sealed_header(rig.cluster, 1, [keys.receiving_key.public_key], DEK, backup)
    writer = BackupWriter(file, header, DEK)
    taker = BackupTaker(rig.runtime, calls, authorizer, replicas, _silent)
    contents = BackupContents(genesis.encode(), 1, (account,), (), ())
    await taker.take(writer, genesis, contents, {account: address}, [address])
    writer.finish()
    file.seek(0)
    found = Found()
    entries = checked(BackupReader(file, keys), found)
    return found, [entry for entry in entries if isinstance(entry, BackupRows)]


async def test_an_operator_copies_all_rows_and_reads_nothing(rig: Rig, calls: ReplicaCalls) -> None:
    record = (await rig.patient.open_record()).record
    await rig.patient.put(record, MARK + rig.runtime.random(3_000), name="scan")
    found, pages = await taken(rig, calls, rig.keys_of(rig.operators[0]))
    assert found.end is not None
    assert found.end.height >= 1
    node = rig.nodes[0].process
    keys = {
        row.key: row.value
        for page in pages
        for row in page.rows
        if (page.source, page.table) == (RowSource.KEYS, KeyTable.KEY_ROWS)
    }
    stored = dict(node.stores.keys.scan(KeyTable.KEY_ROWS, limit=10_000))
    assert keys
    assert keys.items() <= stored.items()
    for page in pages:
        for row in page.rows:
            rig.secrets.check(row.value.hex())
            assert MARK not in row.value


async def test_others_get_nothing(rig: Rig, calls: ReplicaCalls) -> None:
    for client in (rig.patient, rig.doctor):
        with pytest.raises(Denied) as caught:
            await taken(rig, calls, rig.keys_of(client))
        assert caught.value.reason == "not-an-operator"


async def test_another_node_at_the_address_is_noticed(rig: Rig, calls: ReplicaCalls) -> None:
    with pytest.raises(Corrupt) as caught:
        await taken(rig, calls, rig.keys_of(rig.operators[0]), other=True)
    assert caught.value.reason == "wrong-node"


async def test_a_node_that_restores_gives_no_backup(
    rig: Rig, calls: ReplicaCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    care = rig.nodes[0].process.node.care
    monkeypatch.setattr(care, "is_restoring", lambda: True)
    with pytest.raises(Unavailable) as caught:
        await taken(rig, calls, rig.keys_of(rig.operators[0]))
    assert caught.value.reason == "restoring"
