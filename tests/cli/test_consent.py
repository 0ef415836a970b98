"""``request consent``: shows wishes and what was left out, and gives nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.unit.client.test_consent import document, permit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "consent.json"
    path.write_text(json.dumps(document(permit(code=[{"text": "only this"}]))), "utf-8")
    return path


def read(invoke: Invoke, *arguments: Any) -> dict[str, Any]:
    result = invoke("request", "consent", *arguments, "--json")
    data: dict[str, Any] = json.loads(result.output)
    assert ("error" in data) == (result.exit_code != 0)
    return data


def test_wishes_and_what_no_grant_can_say(invoke: Invoke, file: Path) -> None:
    found = read(invoke, file, "--patient", "Patient/f001", "--until", "30d")
    (wish,) = found["wishes"]
    assert (wish["grantee"], wish["actions"]) == ("Practitioner/a", ["read"])
    assert (wish["purposes"], wish["max_confidentiality"]) == (["ETREAT", "TREAT"], "R")
    assert 0 < wish["not_after_ms"] - wish["not_before_ms"] <= 30 * 86_400_000
    (left,) = found["unexpressed"]
    assert left["path"].startswith("provision.provision[0]")
    shown = invoke("request", "consent", file, "--patient", "Patient/f001").output
    assert "Practitioner/a" in shown
    assert "left out: provision.provision[0]" in shown
    assert "nothing is given yet" in shown


def test_the_consent_of_somebody_else_is_no_wish(invoke: Invoke, file: Path) -> None:
    found = read(invoke, file, "--patient", "Patient/other")
    assert found["wishes"] == []
    assert found["unexpressed"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no-file"),
        (b"", "bad-consent"),
        (b"[" * 100_000, "bad-consent"),
        (b"[]", "bad-consent"),
        (b'{"resourceType": "Patient"}', "bad-consent"),
        (b" " * ((1 << 20) + 1), "bad-consent"),
        (b"\xff\xfe\x00", "bad-consent"),
    ],
)
def test_files_that_are_none(
    invoke: Invoke, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert read(invoke, path, "--patient", "Patient/f001")["error"]["reason"] == reason
