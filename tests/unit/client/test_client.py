"""The client as an object: whose it is, what it refuses, which node it asks first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

import hcefs
from hcefs.access.facts import AccountKind
from hcefs.client.authorize import Scope
from hcefs.client.bundle import Bundle, load_bundle
from hcefs.client.connection import Connection
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from hcefs.ids import AccountId, ClusterId, GrantId
from hcefs.ledger.transactions import decode_transaction
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.transport.tls import new_authority
from tests.unit.client.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    NOW_MS,
    OWNER,
    RECORD,
    FakeRuntime,
    keys_of,
)

AUTHORITY = new_authority("test", now_ms=NOW_MS)[0]
CONNECTION = Connection(CLUSTER, AUTHORITY, "127.0.0.1:1", ("127.0.0.1:7002",))


@pytest.fixture
async def client() -> AsyncIterator[hcefs.Client]:
    async with hcefs.Client(CONNECTION, OWNER, FakeRuntime()) as made:
        yield made


def test_importing_errors_does_not_load_grpc() -> None:
    code = "import sys, hcefs.errors; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        _ = hcefs.Nothing


async def test_keys_of_another_cluster_are_refused() -> None:
    other = replace(OWNER, cluster=ClusterId(b"d" * 16))
    with pytest.raises(Invalid):
        hcefs.Client(CONNECTION, other, FakeRuntime())


async def test_keys_from_before_genesis_become_those_of_the_cluster() -> None:
    early = replace(OWNER, cluster=ClusterId.zero())
    async with hcefs.Client(CONNECTION, early, FakeRuntime()) as client:
        assert client.account == OWNER.account


async def test_nothing_secret_is_printed(client: hcefs.Client) -> None:
    assert repr(client) == f"Client({OWNER.account}, {CLUSTER})"


async def test_registration_is_signed_by_the_account_and_by_who_admits(
    client: hcefs.Client,
) -> None:
    signed = await client.register(DOCTOR, AccountKind.PRACTITIONER)
    assert [signature.signer for signature in signed.signatures] == [DOCTOR.account]
    admitted = client.cosign(signed)
    assert [signature.signer for signature in admitted.signatures] == [
        DOCTOR.account,
        OWNER.account,
    ]
    assert decode_transaction(signed.body).KIND == "register-account"
    with pytest.raises(Invalid):
        client.cosign(admitted)
    stray = replace(keys_of("stray"), cluster=ClusterId(b"d" * 16))
    with pytest.raises(Invalid):
        await client.register(stray, AccountKind.PRACTITIONER)


def node(number: int, state: NodeState = NodeState.UP) -> Node:
    return Node(
        node_id=number,
        account=AccountId(bytes([number]) * 16),
        address=f"127.0.0.1:{7000 + number}",
        peer_address=f"127.0.0.1:{8000 + number}",
        zone="z",
        rack="",
        host=f"h{number}",
        weight=1,
        state=state,
    )


async def test_which_node_is_asked_first(
    client: hcefs.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object) -> None:
        raise Unavailable("the ledger is away")

    monkeypatch.setattr(client, "_query", away)
    nodes = (node(1), node(2), node(3, NodeState.DOWN), node(4, NodeState.OUT))
    client._maps.put("", ClusterMap(1, b"", b"s", "ec-4-2", nodes, ()))
    scope = Scope(RECORD, BLOB)
    ordered = await client._candidates(None, scope)
    assert [each.node_id for each in ordered] == [2, 1, 3]
    client._note(nodes[1], Unavailable("down"))
    ordered = await client._candidates(None, scope)
    assert [each.node_id for each in ordered] == [1, 3, 2]
    assert (await client._target(None, scope, {nodes[0].account})).node_id == 3
    for name in ("127.0.0.1:7001", nodes[0].account.text, "1"):
        assert await client._candidates(name, scope) == [nodes[0]]
    for name in ("127.0.0.1:9999", "4"):
        with pytest.raises(Invalid):
            await client._candidates(name, scope)
        assert client._maps.get("") is not None, "the map is kept while there is no newer one"


async def test_a_wrong_gateway_means_a_stale_map(client: hcefs.Client) -> None:
    client._maps.put("", ClusterMap(1, b"", b"s", "ec-4-2", (node(1),), ()))
    error = client._note(node(1), Denied("no", reason="wrong-gateway"))
    assert error.retryable
    assert client._maps.get("") is None
    assert client._note(node(1), Denied("no", reason="revoked")).reason == "revoked"


async def test_a_closed_client_says_so() -> None:
    client = hcefs.Client(CONNECTION, OWNER, FakeRuntime())
    await client.close()
    await client.close()
    with pytest.raises(Invalid, match="closed"):
        await client.genesis()


async def test_an_owners_right_is_not_lent(client: hcefs.Client) -> None:
    with pytest.raises(Denied):
        await client.bundle(RECORD, BLOB, DOCTOR.account, grant=GrantId.zero())


BUNDLE = Bundle(
    CLUSTER, RECORD, BLOB, 0, 0, 0, "TREAT", DOCTOR.account, b"token", Envelope(SUITE_XWING, b"c")
)


def test_a_bundle_is_a_file_for_one(tmp_path: Path) -> None:
    path = tmp_path / "scan.bundle"
    BUNDLE.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_bundle(path) == BUNDLE
    assert "token" not in repr(BUNDLE)
    with pytest.raises(Conflict):
        BUNDLE.save(path)
    with pytest.raises(NotFound):
        load_bundle(tmp_path / "none")


async def test_a_bundle_for_another_account_is_refused(client: hcefs.Client) -> None:
    with pytest.raises(Invalid):
        await client.get_bundle(BUNDLE)


def test_the_blocking_client_has_the_same_methods() -> None:
    public = {name for name in dir(hcefs.Client) if not name.startswith("_")}
    assert public <= {name for name in dir(hcefs.SyncClient) if not name.startswith("_")}


def test_the_blocking_client_opens_and_closes() -> None:
    with hcefs.SyncClient(CONNECTION, OWNER) as client:
        assert client.account == OWNER.account
        assert repr(client) == f"SyncClient({OWNER.account}, {CLUSTER})"
        with pytest.raises(Denied):
            client.bundle(RECORD, BLOB, DOCTOR.account, grant=GrantId.zero())
    client.close()
    with pytest.raises(Invalid):
        client.genesis()


def test_the_blocking_client_refuses_what_the_client_refuses() -> None:
    with pytest.raises(Invalid):
        hcefs.SyncClient(CONNECTION, replace(OWNER, cluster=ClusterId(b"d" * 16)))
