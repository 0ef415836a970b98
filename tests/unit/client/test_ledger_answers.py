"""Answers about leaves: asked in pages, and believed only when they are about what was asked."""

from __future__ import annotations

from typing import Any

import pytest

import hcefs
from hcefs.client import ledger as ledger_module
from hcefs.client.connection import Connection
from hcefs.errors import Corrupt, HcefsError
from hcefs.ids import AccountId
from hcefs.ledger.outcome import Leaf
from hcefs.transport.tls import new_authority
from hcefs.wire.v1 import ledger_pb2
from tests.unit.client.world import CLUSTER, DOCTOR, NOW_MS, OWNER, RECORD, FakeRuntime

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
