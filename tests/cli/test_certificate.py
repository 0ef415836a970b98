"""``verify-certificate``: offline, exact about what it proves, and refusing what was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.evidence.revocation import RevocationCertificate
from tests.cli.conftest import Invoke

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "revocation.json").read_text("utf-8")
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("complete", "lapsed", "incomplete"):
        (tmp_path / name).write_bytes(bytes.fromhex(VECTORS[name]))
    complete = RevocationCertificate.decode(bytes.fromhex(VECTORS["complete"]))
    (tmp_path / "genesis").write_bytes(complete.genesis)
    return tmp_path


def test_a_complete_certificate(invoke: Invoke, files: Path) -> None:
    result = invoke("verify-certificate", files / "complete", "--genesis", files / "genesis")
    assert result.exit_code == 0, result.output
    for words in (
        "the revocation is in force everywhere",
        "confirmed",
        "What it proves:",
        "What it does not:",
        "does not recall what was fetched",
    ):
        assert words in result.output


def test_one_that_waited_for_leases(invoke: Invoke, files: Path) -> None:
    result = invoke("verify-certificate", files / "lapsed", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["complete"]
    assert data["lapsed"] == [3, 4, 5, 6]
    assert [each["node"] for each in data["confirmed"]] == [1, 2]
    assert data["lapsed_ms"] <= data["made_ms"]


def test_one_that_proves_too_little(invoke: Invoke, files: Path) -> None:
    result = invoke("verify-certificate", files / "incomplete", "--json")
    assert result.exit_code == 1
    data = json.loads(result.output)
    assert not data["complete"]
    assert data["silent"] == [3, 4, 5, 6]
    assert (data["gap"]["indexes"], data["gap"]["k"]) == (4, 4)
    people = invoke("verify-certificate", files / "incomplete")
    assert people.exit_code == 1
    assert "not proved everywhere" in people.output
    assert "ask again after that" in people.output


def test_changed_missing_or_foreign(invoke: Invoke, files: Path) -> None:
    data = bytearray((files / "complete").read_bytes())
    data[len(data) // 2] ^= 1
    (files / "changed").write_bytes(data)
    (files / "cut").write_bytes(data[:100])
    for name in ("changed", "cut"):
        result = invoke("verify-certificate", files / name, "--json")
        assert result.exit_code == 7
        assert json.loads(result.output)["error"]["reason"] == "bad-certificate"
    assert invoke("verify-certificate", files / "absent").exit_code == 3
    other = "clu-" + "0" * 31 + "1"
    foreign = invoke("verify-certificate", files / "complete", "--cluster", other, "--json")
    assert foreign.exit_code == 7, foreign.output
    assert json.loads(foreign.output)["error"]["reason"] == "wrong-cluster"


def test_options_that_go_with_wait(invoke: Invoke, tmp_path: Path) -> None:
    grant = "grt-" + "0" * 31 + "1"
    result = invoke("grant", "revoke", grant, "--as", "patient", "--out", tmp_path / "x", "--json")
    assert result.exit_code in (2, 3)
