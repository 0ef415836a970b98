"""The command line without a cluster: helps, bad arguments, exit codes, forms of errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hcefs import __version__
from hcefs.cli.cluster_files import ClusterFolder
from tests.cli.conftest import Invoke

RECORD = "rec-" + "11" * 16
BLOB = "blob-" + "22" * 18
ASK = "ask-" + "44" * 16
GRANT = "grt-" + "33" * 16

COMMANDS = [
    ["up"],
    ["doctor"],
    ["found"],
    ["ca", "init"],
    ["ledger", "init"],
    ["node", "init"],
    ["status"],
    ["down"],
    ["put"],
    ["get"],
    ["put-many"],
    ["get-many"],
    ["stat"],
    ["ls"],
    ["account", "create"],
    ["account", "list"],
    ["account", "show"],
    ["record", "open"],
    ["record", "list"],
    ["record", "show"],
    ["record", "rotate"],
    ["grant", "give"],
    ["grant", "list"],
    ["grant", "revoke"],
    ["request", "make"],
    ["request", "list"],
    ["request", "approve"],
    ["request", "refuse"],
    ["grant", "deliver"],
    ["keys", "rotate"],
    ["keys", "verify"],
    ["keys", "passphrase"],
    ["keys", "guard"],
    ["keys", "open-share"],
    ["keys", "recover"],
    ["cap", "mint"],
    ["cap", "narrow"],
    ["cap", "show"],
    ["cap", "bundle"],
    ["cap", "redeem"],
    ["ledger", "verify"],
    ["ledger", "upgrade"],
    ["node", "list"],
    ["node", "add"],
    ["node", "drain"],
    ["node", "replace"],
    ["node", "remove"],
    ["node", "reweight"],
    ["node", "out"],
    ["layout", "plan"],
    ["layout", "apply"],
    ["layout", "status"],
    ["layout", "history"],
    ["layout", "revert-staged"],
    ["layout", "add-profile"],
    ["layout", "split"],
    ["layout", "automatic"],
    ["layout", "reprofile"],
    ["ok-to-stop"],
    ["safe-to-remove"],
]

NEEDS_A_CLUSTER = [
    ["status"],
    ["down"],
    ["put", RECORD, "file", "--as", "anna"],
    ["get", RECORD, BLOB, "--as", "anna", "-o", "out"],
    ["put-many", RECORD, "file", "--as", "anna"],
    ["get-many", RECORD, "--as", "anna", "--into", "out"],
    ["stat", RECORD, BLOB, "--as", "anna"],
    ["ls", RECORD, "--as", "anna"],
    ["account", "create", "anna", "--kind", "patient"],
    ["account", "list"],
    ["account", "show", "anna"],
    ["record", "open", "--as", "anna"],
    ["record", "list", "--as", "anna"],
    ["record", "show", RECORD, "--as", "anna"],
    ["grant", "give", RECORD, "--as", "anna", "--to", "bob"],
    ["grant", "list", "--as", "anna"],
    ["grant", "revoke", GRANT, "--as", "anna"],
    ["request", "make", "--as", "anna", "--patient", "bob"],
    ["request", "list", "--as", "anna"],
    ["request", "approve", ASK, "--as", "anna"],
    ["request", "refuse", ASK, "--as", "anna"],
    ["cap", "mint", "--as", "anna"],
    ["cap", "bundle", RECORD, BLOB, "--as", "anna", "--to", "bob", "-o", "out"],
    ["cap", "redeem", "bundle", "--as", "anna", "-o", "out"],
    ["ledger", "verify"],
    ["ledger", "upgrade", "--to", "2"],
    ["node", "list"],
    ["node", "add"],
    ["node", "drain", "3"],
    ["node", "replace", "3"],
    ["node", "remove", "3"],
    ["node", "reweight", "3", "10"],
    ["node", "out", "3", "--lost"],
    ["layout", "plan"],
    ["layout", "apply"],
    ["layout", "status"],
    ["layout", "history"],
    ["layout", "revert-staged"],
    ["layout", "add-profile", "ec-8-3"],
    ["layout", "split", "ec-4-2"],
    ["layout", "automatic"],
    ["layout", "reprofile"],
    ["ok-to-stop", "3"],
    ["safe-to-remove", "3"],
    ["erase", "rec-1"],
    ["record", "retention", "rec-1"],
    ["hold", "place", "rec-1", "--case", "file"],
    ["hold", "lift", "rec-1", "hold-1"],
    ["hold", "list", "rec-1"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(invoke: Invoke, command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert "--dir" in result.stdout
    assert "--json" in result.stdout


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"hcefs {__version__}\n"


@pytest.mark.parametrize("command", NEEDS_A_CLUSTER, ids=lambda command: " ".join(command[:2]))
def test_without_a_cluster_is_not_found(invoke: Invoke, command: list[str]) -> None:
    result = invoke(*command, "--dir", "nowhere")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is no cluster in ")
    assert result.stderr.endswith(" (no-cluster)\n")
    assert result.stderr.count("\n") == 1


def test_an_error_as_json_is_the_one_document(invoke: Invoke) -> None:
    result = invoke("status", "--dir", "nowhere", "--json")
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"kind", "reason", "message"}
    assert (error["kind"], error["reason"]) == ("not-found", "no-cluster")
    assert result.stderr == ""


def test_the_folder_may_come_from_the_environment(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCEFS_DIR", "elsewhere")
    assert "elsewhere" in invoke("status").stderr


@pytest.mark.parametrize(
    "command",
    [
        ["up", "--nodes", "many"],
        ["put", RECORD],
        ["get", RECORD, BLOB, "--as", "anna"],
        ["ls", RECORD],
        ["account", "create", "anna"],
        ["account", "create", "anna", "--kind", "king"],
        ["put", RECORD, "file", "--as", "anna", "--seal", "nobody"],
        ["node", "start"],
        ["no-such-verb"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_invalid(invoke: Invoke, command: list[str]) -> None:
    result = invoke(*command)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["ls", "rec-12", "--as", "operator-1"], "bad-id"),
        (["stat", RECORD, "blob", "--as", "operator-1"], "bad-id"),
        (["grant", "revoke", RECORD, "--as", "operator-1"], "bad-id"),
        (["get", RECORD, BLOB, "--as", "operator-1", "-o", "x", "--start", "-1"], "bad-size"),
        (["get", RECORD, BLOB, "--as", "operator-1", "-o", "x", "--purpose", "FUN"],
         "unknown-purpose"),
        (["get", RECORD, BLOB, "--as", "operator-1", "-o", "."], "bad-file"),
        (["get", RECORD, BLOB, "--as", "operator-1", "-o", "no/x"], "bad-file"),
        (["put", RECORD, "missing.dcm", "--as", "operator-1"], "no-file"),
        (["grant", "give", RECORD, "--as", "operator-1", "--to", "operator-2",
          "--actions", "rule"], "unknown-action"),
        (["grant", "give", RECORD, "--as", "operator-1", "--to", "operator-2",
          "--until", "soon"], "bad-time"),
        (["grant", "give", RECORD, "--as", "operator-1", "--to", "operator-2",
          "--until", "1999-12-31"], "bad-time"),
        (["grant", "give", "--as", "operator-1", "--to", "operator-2"], "bad-choice"),
        (["grant", "give", "--all", "--as", "operator-1", "--to", "operator-2"], "bad-choice"),
        (["grant", "give", "--all", RECORD, "--as", "operator-1", "--to", "operator-2",
          "--max-confidentiality", "N"], "bad-choice"),
        (["grant", "give", RECORD, "--as", "operator-1", "--to", "operator-2",
          "--exclude", "HIV"], "bad-choice"),
        (["grant", "give", "--all", "--as", "operator-1", "--to", "operator-2",
          "--max-confidentiality", "X"], "unknown-confidentiality"),
        (["grant", "give", "--all", "--as", "operator-1", "--to", "operator-2",
          "--max-confidentiality", "N", "--exclude", "HVI"], "unknown-sensitivity"),
        (["record", "open", "--as", "operator-1", "--sensitivity", "HIV"], "bad-class"),
        (["request", "refuse", ASK, "--as", "operator-1", "--reason", "because"],
         "unknown-reason"),
        (["request", "approve", ASK, "--as", "operator-1", "--exclude", "HIV"], "bad-choice"),
        (["request", "approve", RECORD, "--as", "operator-1"], "bad-id"),
        (["account", "create", "../anna", "--kind", "institution"], "bad-name"),
        (["ledger", "verify", "--process", "node-0"], "unknown-process"),
        (["up", "--nodes", "4"], "wrong-node-count"),
    ],
)  # fmt: skip
def test_bad_values_are_invalid_before_anything_is_asked(
    invoke: Invoke, prepared: ClusterFolder, command: list[str], reason: str
) -> None:
    result = invoke(*command, "--dir", prepared.root)
    assert (result.exit_code, result.stderr[-len(reason) - 3 :]) == (2, f"({reason})\n")
    assert not (prepared.accounts / "anna.keys").exists()


def test_an_unknown_account_names_those_that_are_here(
    invoke: Invoke, prepared: ClusterFolder
) -> None:
    result = invoke("record", "list", "--as", "anna", "--dir", prepared.root)
    assert result.exit_code == 3
    assert "operator-1, operator-2, operator-3" in result.stderr


@pytest.mark.parametrize("nodes", [1, 2, 1000])
def test_up_refuses_numbers_of_nodes_that_no_profile_fits(invoke: Invoke, nodes: int) -> None:
    result = invoke("up", "--nodes", nodes, "--dir", "new")
    assert result.exit_code == 2
    assert "(wrong-node-count)" in result.stderr
    assert not Path("new").exists()


def test_up_leaves_a_folder_with_other_things_alone(invoke: Invoke) -> None:
    Path("photos").mkdir()
    Path("photos/cat.jpg").touch()
    result = invoke("up", "--dir", "photos")
    assert result.exit_code == 5
    assert "(not-empty)" in result.stderr
    assert [path.name for path in Path("photos").iterdir()] == ["cat.jpg"]


def test_down_and_status_of_a_cluster_that_does_not_run(
    invoke: Invoke, prepared: ClusterFolder
) -> None:
    assert invoke("down", "--dir", prepared.root).stdout == "nothing runs here\n"
    data = json.loads(invoke("status", "--dir", prepared.root, "--json").stdout)
    assert [process["state"] for process in data["processes"]] == ["stopped"] * 4
    assert data["warnings"] == ["ledger, node-1, node-2, node-3: stopped"]
    table = invoke("status", "--dir", prepared.root).stdout.splitlines()
    assert table[0].split()[:3] == ["PROCESS", "STATE", "VERSION"]
    assert table[1].split() == ["ledger", "stopped", *["-"] * 8, "127.0.0.1:20001"]


def test_verify_needs_a_log(invoke: Invoke, prepared: ClusterFolder) -> None:
    result = invoke("ledger", "verify", "--dir", prepared.root)
    assert result.exit_code == 3
    assert "(no-log)" in result.stderr


@pytest.mark.parametrize("role", ["node", "ledger"])
def test_a_process_with_a_bad_configuration_says_which_line(invoke: Invoke, role: str) -> None:
    Path("config.toml").write_text('dat = "here"\n')
    result = invoke(role, "start", "--config", "config.toml")
    assert result.exit_code == 2
    assert "config.toml, line 1: dat is unknown: did you mean data?" in result.stderr
