"""Only the desks turn a proof into a call, and they write a receipt first."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import hcefs
from hcefs.errors import HcefsError, Unavailable
from hcefs.evidence.receipt import ReceiptDraft, ReceiptKind
from hcefs.ids import AccountId, RequestId
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime
from hcefs.services.evidence import Evidence
from tests.vectors.generate_receipts import PEER, draft

PACKAGE = Path(hcefs.__file__).parent
RELEASE = draft(ReceiptKind.RELEASE, peer=PEER)


def test_nobody_but_the_desks_establishes_who_presents_a_token() -> None:
    callers = {
        path.name
        for folder in ("services", "node")
        for path in (PACKAGE / folder).glob("*.py")
        if re.search(r"\.present\(|present_batch\(|\.authorize(_owner)?\(", path.read_text("utf-8"))
    }
    assert callers == {"desk.py", "batch_desk.py"}


@pytest.mark.parametrize("name", ["desk.py", "batch_desk.py"])
def test_a_call_is_made_after_the_receipt(name: str) -> None:
    text = (PACKAGE / "services" / name).read_text("utf-8")
    written = text.index("evidence.record(")
    made = re.search(r" call = (Batch)?Call\(", text)
    assert made is not None
    assert written < made.start()


class Log:
    """A receipt log that writes when it is told to."""

    def __init__(self) -> None:
        self.written: list[ReceiptDraft] = []
        self.go = asyncio.Event()
        self.failure: HcefsError | None = None

    async def write(self, drafts: list[ReceiptDraft]) -> None:
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.written += drafts


def evidence(log: Log) -> Evidence:
    return Evidence(SystemRuntime(), log, Metrics())  # type: ignore[arg-type]


async def test_the_calls_of_one_signed_request_wait_for_one_release() -> None:
    log = Log()
    made = evidence(log)
    calls = [asyncio.create_task(made.record(b"proof", [RELEASE])) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    log.go.set()
    await asyncio.gather(*calls)
    await made.record(b"proof", [RELEASE])
    assert log.written == [RELEASE]


async def test_another_proof_gateway_or_request_is_another_release() -> None:
    log = Log()
    log.go.set()
    made = evidence(log)
    others = [
        draft(ReceiptKind.RELEASE, peer=AccountId(bytes([9] * 16))),
        draft(ReceiptKind.RELEASE, peer=PEER, request=RequestId(bytes([9] * 16))),
    ]
    for proof, each in ((b"proof", RELEASE), (b"other", RELEASE), *((b"proof", o) for o in others)):
        await made.record(proof, [each])
    assert log.written == [RELEASE, RELEASE, *others]


async def test_accesses_are_never_taken_together() -> None:
    log = Log()
    log.go.set()
    made = evidence(log)
    for _ in range(3):
        await made.record(b"proof", [draft()])
    assert len(log.written) == 3


async def test_whoever_waits_for_a_release_that_fails_is_refused_too() -> None:
    log = Log()
    made = evidence(log)
    calls = [asyncio.create_task(made.record(b"proof", [RELEASE])) for _ in range(3)]
    await asyncio.sleep(0)
    log.failure = Unavailable("the disk", reason="receipt-failed")
    log.go.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(each, "reason", None) for each in outcomes] == ["receipt-failed"] * 3
    log.failure = None
    await made.record(b"proof", [RELEASE])
    assert log.written == [RELEASE]


async def test_a_caller_that_goes_away_takes_no_release_with_it() -> None:
    log = Log()
    made = evidence(log)
    first = asyncio.create_task(made.record(b"proof", [RELEASE]))
    await asyncio.sleep(0)
    second = asyncio.create_task(made.record(b"proof", [RELEASE]))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    log.go.set()
    await second
    assert log.written == [RELEASE]
