"""The frozen bytes of revocation certificates, and what they prove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.evidence.revocation import RevocationCertificate, RevocationStatement, SignedStatement
from hcefs.ledger.revocation_proof import verify_certificate
from tests.vectors.generate_revocation import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("revocation.json").read_text("utf-8"))


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


def test_the_parts_are_read() -> None:
    statement = RevocationStatement.decode(bytes.fromhex(FROZEN["statement"]))
    signed = SignedStatement.decode(bytes.fromhex(FROZEN["signed"]))
    assert signed.statement == statement


@pytest.mark.parametrize(
    ("name", "complete", "confirmed", "lapsed"),
    [("complete", True, 6, 0), ("lapsed", True, 2, 4), ("incomplete", False, 2, 0)],
)
def test_what_they_prove(name: str, complete: bool, confirmed: int, lapsed: int) -> None:
    certificate = RevocationCertificate.decode(bytes.fromhex(FROZEN[name]))
    verdict = verify_certificate(certificate)
    assert verdict.complete is complete
    assert (len(verdict.confirmed), len(verdict.lapsed)) == (confirmed, lapsed)
