"""Answers about leaves: asked in pages, and believed only when they are about what was asked."""

from __future__ import annotations

from typing import Any

import pytest

import hcefs
from hcefs.access.facts import PastKeys
from hcefs.client import ledger as ledger_module
from hcefs.client.connection import Connection
from hcefs.errors import Corrupt, HcefsError, NotFound
from hcefs.ids import AccountId
from hcefs.ledger.outcome import Leaf
from hcefs.transport.tls import new_authority
from hcefs.wire.v1 import ledger_pb2
from tests.unit.client.world import (
    CLUSTER,
    DOCTOR,
    NOW_MS,
    OWNER,
    RECORD,
    FakeRuntime,
    account_of,
)

CONNECTION = Connection(
    CLUSTER, new_authority("test", now_ms=NOW_MS)[0], "127.0.0.1:1", ("127.0.0.1:7002",)
)


def leaf(number: int, signer: AccountId = OWNER.account) -> Leaf:
    return Leaf(number.to_bytes(32, "big"), signer, 0, NOW_MS)


class Answering(hcefs.Client):
    """A client whose ledger answers what a test says."""

    def __init__(self) -> None:
        super().__init__(CONNECTION, OWNER, FakeRuntime())
        self.asked: list[ledger_pb2.HasLeavesRequest] = []
        self.leaves_there: dict[bytes, Leaf] = {}
        self.lie: list[bytes] | None = None

    async def _ledger(self, name: str, make: Any, answer: Any, **_: Any) -> Any:
        assert name == "HasLeaves"
        request = make()
        self.asked.append(request)
        found = [self.leaves_there.get(each) for each in request.commitments]
        encoded = [each.encode() if each is not None else b"" for each in found]
        return answer(leaves=encoded if self.lie is None else self.lie)


async def test_long_lists_are_asked_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LEAVES_PAGE", 3)
    async with Answering() as client:
        client.leaves_there = {leaf(n).commitment: leaf(n) for n in (0, 2, 3, 6)}
        asked = [(leaf(n).commitment, OWNER.account if n % 2 else None) for n in range(7)]
        found = await client.has_leaves(RECORD, asked)
        assert found == [leaf(n) if n in (0, 2, 3, 6) else None for n in range(7)]
        assert [len(each.commitments) for each in client.asked] == [3, 3, 1]
        assert list(client.asked[0].signers) == [b"", bytes(OWNER.account), b""]
        assert len({each.proof for each in client.asked}) == 3


@pytest.mark.parametrize(
    "lie",
    [
        [],
        [leaf(1).encode()] * 2,
        [leaf(2).encode()],
        [leaf(1, DOCTOR.account).encode()],
    ],
)
async def test_answers_about_something_else_are_refused(lie: list[bytes]) -> None:
    async with Answering() as client:
        client.lie = lie
        with pytest.raises(Corrupt) as caught:
            await client.has_leaves(RECORD, [(leaf(1).commitment, OWNER.account)])
        assert caught.value.reason == "wrong-fact"


async def test_answers_that_are_no_leaves_are_refused() -> None:
    async with Answering() as client:
        client.lie = [b"\x80"]
        with pytest.raises(HcefsError):
            await client.has_leaves(RECORD, [(leaf(1).commitment, None)])


class Aging(hcefs.Client):
    """A client whose ledger knows an account with three versions of its keys."""

    def __init__(self) -> None:
        super().__init__(CONNECTION, OWNER, FakeRuntime())
        keys = [DOCTOR, DOCTOR.renewed(bytes(128))]
        keys.append(keys[1].renewed(bytes([1]) * 128))
        self.accounts = [account_of(each) for each in keys]
        self.known = 3
        self.questions: list[str] = []

    async def _ledger(self, name: str, make: Any, answer: Any, **_: Any) -> Any:
        if name == "GetGenesis":
            raise AssertionError("nothing here needs a genesis")
        request = make()
        asked = request.WhichOneof("question")
        self.questions.append(asked)
        if asked == "account":
            return ledger_pb2.QueryResponse(facts=[self.accounts[self.known - 1].encode()])
        version = request.past_keys.key_version
        if not 1 <= version < self.known:
            raise NotFound("not here", reason="not-found")
        then = self.accounts[version - 1]
        past = PastKeys(
            then.account, version, then.signing_key, then.token_key, then.receiving_key,
            version, NOW_MS + 1000 * version,
        )  # fmt: skip
        return ledger_pb2.QueryResponse(facts=[past.encode()])

    async def genesis(self) -> Any:
        return None


async def test_an_account_is_known_as_of_every_version_of_its_keys() -> None:
    client = Aging()
    for version in (1, 2, 3, 2):
        found = await client.signed_with(DOCTOR.account, version)
        assert (found.key_version, found.signing_key) == (
            version,
            client.accounts[version - 1].signing_key,
        )
    assert client.questions == ["account", "past_keys", "past_keys"]
    with pytest.raises(NotFound):
        await client.signed_with(DOCTOR.account, 4)
    with pytest.raises(NotFound):
        await client.signed_with(DOCTOR.account, 0)


async def test_a_version_that_came_since_the_account_was_remembered_is_found() -> None:
    client = Aging()
    client.known = 1
    assert (await client.fetch_account(DOCTOR.account)).key_version == 1
    client.known = 2
    found = await client.signed_with(DOCTOR.account, 2)
    assert found.signing_key == client.accounts[1].signing_key


@pytest.mark.parametrize(
    ("after_ms", "version"),
    [(0, 1), (1000, 1), (1001, 2), (2000, 2), (2001, 3), (99_000, 3)],
)
async def test_an_account_is_known_as_of_a_block(after_ms: int, version: int) -> None:
    client = Aging()
    found = await client.signed_at(DOCTOR.account, NOW_MS + after_ms)
    assert found.signing_key == client.accounts[version - 1].signing_key
    assert found.key_version == version
