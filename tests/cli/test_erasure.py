"""What the verbs of erasure show, refuse, and check offline."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hcefs.access.erasure_facts import Hold
from hcefs.cli import erasure
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.client.erasure import UNKNOWN, ErasureState, RecordEnd
from hcefs.client.erasure_check import check_certificate
from hcefs.errors import Conflict
from hcefs.ids import ClusterId, HoldId, RecordId
from tests.cli.conftest import Invoke
from tests.vectors.generate_erasure import RECORD, certificate, world

RECORD_TEXT = RECORD.text


def written(folder: Path, data: bytes) -> Path:
    path = folder / "erased.cert"
    path.write_bytes(data)
    return path


def test_a_complete_certificate_is_checked_offline(invoke: Invoke, tmp_path: Path) -> None:
    path = written(tmp_path, certificate().encode())
    result = invoke("verify-erasure", path, "--cluster", world().genesis.cluster.text)
    assert result.exit_code == 0, result.output
    for word in ("complete: 4 nodes", RECORD_TEXT, "12 key rows, 8 boxes", "12 shards"):
        assert word in result.stdout
    data = json.loads(invoke("verify-erasure", path, "--json").stdout)
    assert data["complete"]
    assert data["missing"] == []
    assert len(data["signed"]) == 4
    assert data["erased_height"] == world().height


def test_an_incomplete_one_names_who_is_missing_and_who_could_open(
    invoke: Invoke, tmp_path: Path
) -> None:
    whole = certificate()
    path = written(tmp_path, replace(whole, statements=whole.statements[1:]).encode())
    result = invoke("verify-erasure", path)
    assert result.exit_code == 1
    owner = world().account("pat").text
    for word in ("NOT complete", "missing: node 1 (up", "enough shards for ciphertext", owner):
        assert word in result.stdout
    result = invoke("verify-erasure", path, "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert [each["node"] for each in data["missing"]] == [1]
    assert data["missing_may_have_shards"]
    assert owner in data["could_open"]


def test_a_forged_one_proves_nothing(invoke: Invoke, tmp_path: Path) -> None:
    whole = certificate()
    first = replace(whole.statements[0], shards=0)
    forged = replace(whole, statements=(first, *whole.statements[1:]))
    result = invoke("verify-erasure", written(tmp_path, forged.encode()), "--json")
    assert result.exit_code == 7
    assert json.loads(result.stdout)["error"]["reason"] == "bad-certificate"
    path = written(tmp_path, whole.encode())
    other = ClusterId(b"another cluster!").text
    assert invoke("verify-erasure", path, "--cluster", other).exit_code == 7
    assert invoke("verify-erasure", written(tmp_path, b"nothing")).exit_code == 2
    assert invoke("verify-erasure", tmp_path / "none").exit_code == 3


@pytest.mark.parametrize(
    "command",
    [
        ["erase", RECORD_TEXT],
        ["erase", RECORD_TEXT, "--as", "patient", "--order", "order.pdf"],
        ["erase", "rec-1", "--as", "patient"],
        ["record", "retention", RECORD_TEXT, "--until", "10d"],
        ["record", "retention", RECORD_TEXT, "--law", "DE"],
        ["hold", "lift", RECORD_TEXT, "rec-00"],
        ["hold", "place", RECORD_TEXT],
    ],
    ids=" ".join,
)
def test_usage_errors_are_invalid(
    invoke: Invoke, prepared: ClusterFolder, command: list[str]
) -> None:
    assert invoke(*command, "--dir", prepared.root).exit_code == 2


def test_a_document_that_is_not_there(invoke: Invoke, prepared: ClusterFolder) -> None:
    command = ["hold", "place", RECORD_TEXT, "--case", "none.pdf", "--dir", str(prepared.root)]
    assert invoke(*command).exit_code == 3


def test_only_the_digest_of_a_document_is_used(tmp_path: Path) -> None:
    path = tmp_path / "case.pdf"
    path.write_bytes(b"the people against")
    assert len(erasure._digest_of(path)) == 32
    assert b"people" not in erasure._digest_of(path)


def test_the_end_of_a_record(prepared: ClusterFolder, capsys: pytest.CaptureFixture[str]) -> None:
    view = world().view
    hold = Hold(RECORD, HoldId(b"h" * 16), bytes(32), world().account("clinic"), 5, 6, 0)
    end = RecordEnd(view.retention(RECORD), (hold, replace(hold, lifted_height=9)), None)
    assert end.standing == (hold,)
    erasure._show_end(prepared, RECORD, end, as_json=False)
    shown = capsys.readouterr().out
    for word in ("law of DE-BY", "holds", "1", world().account("clinic").text):
        assert word in shown
    done = RecordEnd(None, (), view.erasure(RECORD))
    erasure._show_end(prepared, RECORD, done, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["erased_height"] == world().height
    assert data["retain_until_ms"] is None
    erasure._show_end(prepared, RecordId(b"r" * 16), RecordEnd(None, (), None), as_json=False)
    shown = capsys.readouterr().out
    assert "no date is set" in shown
    assert "possible now for operators" in shown


def test_what_stands_in_the_way_of_an_erasure() -> None:
    view = world().view
    hold = Hold(RECORD, HoldId(b"h" * 16), bytes(32), world().account("clinic"), 5, 6, 0)
    kept = view.retention(RECORD)
    assert kept is not None
    date = kept.retain_until_ms
    assert RecordEnd(kept, (hold,), None).obstacles(date - 1) == ("on-hold", "retained")
    assert RecordEnd(kept, (replace(hold, lifted_height=9),), None).obstacles(date) == ()
    assert RecordEnd(kept, (), view.erasure(RECORD)).obstacles(date) == ("erased",)
    assert RecordEnd(None, (), None).obstacles(date) == ("no-retention",)
    later = replace(kept, retain_until_ms=4_102_444_800_000)
    with pytest.raises(Conflict, match="until 2100-01-01") as refused:
        erasure._require_time(RecordEnd(later, (), None))
    assert refused.value.reason == "retained"
    erasure._require_time(RecordEnd(replace(kept, retain_until_ms=1), (), None))


def test_who_is_waited_for_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = world().map.nodes[:2]
    silent = ErasureState(first, UNKNOWN, None, "wrong-key: signed by another key")
    watch = erasure._Watch(quiet=False)
    watch([silent, ErasureState(second, "rows", None)])
    watch([silent, ErasureState(second, "rows", None)])
    said = capsys.readouterr().err
    assert said.count("not confirmed by") == 1
    assert f"node {first.node_id} (wrong-key: signed by another key)" in said
    assert f"node {second.node_id} (rows)" in said


def test_who_may_not_know_the_readers_is_told_whom_to_ask() -> None:
    whole = certificate()
    checked = check_certificate(replace(whole, statements=(), openers=()))
    out = io.StringIO()
    for line in erasure._missing_lines(None, checked):
        Console(file=out, width=160).print(line)
    assert "ask as the owner" in out.getvalue()
