"""Operators come and go, and accounts are ended, by the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hcefs.access.facts import AccountKind
from hcefs.cli.cluster_files import ENDED_SUFFIX, ClusterFolder
from hcefs.cli.main import app
from hcefs.crypto.accounts import AccountKeys
from hcefs.ledger.cluster_facts import OUT_AFTER_MS_MIN, UpkeepPolicy
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_map import SetUpkeepPolicy
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


class Machine:
    """A folder with the keys of some accounts, and the commands that are typed there."""

    def __init__(self, rig: Rig, root: Path, keys: dict[str, AccountKeys]) -> None:
        self.layout = layout = ClusterFolder(root)
        layout.accounts.mkdir(parents=True)
        layout.authority.parent.mkdir(parents=True, exist_ok=True)
        layout.authority.write_bytes(rig.authority)
        layout.genesis_file.write_bytes(rig.genesis.encode())
        for name, each in keys.items():
            each.save(layout.account_file(name))
        nodes = [node.config.client_address for node in rig.nodes]
        layout.save_connection(rig.cluster, rig.ledger_address, nodes)

    async def __call__(self, *arguments: object, fails: str = "") -> Any:
        words = [*map(str, arguments), "--dir", str(self.layout.root), "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, words, input="n\n")
        # What was typed to a question stands before the answer.
        said = json.loads(result.stdout[result.stdout.index("{") :])
        assert said.get("error", {}).get("reason", "") == fails, said
        return said


def founders(rig: Rig) -> dict[str, AccountKeys]:
    return {f"operator-{number}": each for number, each in enumerate(rig.operator_keys, 1)}


async def third_operator(rig: Rig) -> AccountKeys:
    """One more than the threshold, so that one can go."""
    keys = rig.account_keys()
    signed = await rig.operators[0].register(keys, AccountKind.OPERATOR)
    await rig.operators[0].admit(rig.operators[1].cosign(signed))
    return keys


async def test_operators_are_replaced_and_ended(rig: Rig, tmp_path: Path) -> None:
    third = await third_operator(rig)
    here = Machine(rig, tmp_path / "here", {**founders(rig), "operator-3": third})
    listed = await here("operators", "list")
    assert (listed["threshold"], listed["active"], listed["founders_left"]) == (2, 3, 2)
    by_name = {row["name"]: row for row in listed["operators"]}
    assert by_name["operator-3"]["account"] == third.account.text
    assert not by_name["operator-3"]["founder"]
    assert len({row["fingerprint"] for row in listed["operators"]}) == 3

    # What cannot be meant, and what is only looked at, changes nothing.
    await here("operators", "replace", "operator-3", "anna", "--yes", fails="bad-name")
    await here("operators", "replace", "operator-3", "operator-3", "--yes", fails="bad-name")
    await here("operators", "replace", rig.patient.account, "operator-9", fails="not-an-operator")
    here.layout.account_file("operator-9").unlink()
    await here("operators", "replace", "operator-3", "operator-4", "--dry-run")
    assert not here.layout.account_file("operator-4").exists()
    await here("operators", "replace", "operator-3", "operator-4", fails="not-confirmed")
    assert (await here("operators", "list"))["active"] == 3

    # One comes and one goes; a repeat finds nothing left to do.
    done = await here("operators", "replace", "operator-3", "operator-4", "--yes")
    assert done["done"]
    assert "operator-3" not in done["signers"]
    assert here.layout.operator_names() == ["operator-1", "operator-2", "operator-4"]
    kept = here.layout.account_file("operator-3")
    assert kept.with_name(kept.name + ENDED_SUFFIX).exists()
    again = await here("operators", "replace", third.account, "operator-4", "--yes")
    assert again["new"] == done["new"]
    after = await here("operators", "list")
    assert {row["name"]: row["state"] for row in after["operators"]} == {
        "operator-1": "active", "operator-2": "active", "operator-4": "active",
    }  # fmt: skip

    # On different machines, and the keys of the one that goes are lost.
    one, two = (
        Machine(rig, tmp_path / name, {name: founders(rig)[name]})
        for name in ("operator-1", "operator-2")
    )
    going, papers = done["new"], tmp_path / "papers"
    await one("operators", "replace", going, "operator-5", "--yes", fails="below-threshold")
    made = await one("operators", "replace", going, "operator-5", "--prepare", papers)
    files = made["statements"]
    await one("operators", "submit", *files, fails="below-threshold")
    await two("operators", "sign", *files, "--as", "operator-2", fails="not-confirmed")
    signed = await two("operators", "sign", *files, "--as", "operator-2", "--yes")
    # The new operator proves its keys itself, beside the threshold.
    assert signed["signatures"] == {files[0]: 3, files[1]: 2}
    await two("operators", "submit", *files)
    assert (await one("operators", "list"))["active"] == 3
    fact = await rig.operators[0].fresh_account(here.layout.load_keys("operator-4").account)
    assert not fact.active

    # The third goes, and after it nobody may.
    await one("account", "end", "operator-5", "--prepare", tmp_path / "end.cbor")
    await two("operators", "sign", tmp_path / "end.cbor", "--as", "operator-2", "--yes")
    await one("operators", "submit", tmp_path / "end.cbor")
    assert one.layout.operator_names() == ["operator-1"]
    here.layout.account_file("operator-4").unlink()
    await here("account", "end", "operator-2", "--yes", fails="too-few-operators")
    assert (await here("operators", "list"))["active"] == 2


async def test_accounts_are_ended_by_whoever_admitted_them(rig: Rig, tmp_path: Path) -> None:
    leaver, clerk = rig.client(rig.account_keys()), rig.client(rig.account_keys())
    for client in (leaver, clerk):
        keys = rig.keys_of(client)
        await rig.hospital.admit(await client.register(keys, AccountKind.PRACTITIONER))
    staff = {"leaver": rig.keys_of(leaver), "clerk": rig.keys_of(clerk)}
    office = Machine(rig, tmp_path / "office", {"hospital": rig.hospital_keys, **staff})
    board = Machine(rig, tmp_path / "board", founders(rig))
    seen = await office("account", "end", "leaver", "--dry-run")
    assert (seen["signers"], seen["ended"]) == (["hospital"], False)
    await office("account", "end", "leaver", fails="not-confirmed")
    assert (await rig.hospital.fresh_account(leaver.account)).active
    # Operators end nobody whom an institution admitted.
    await board("account", "end", leaver.account, "--yes", fails="unknown-account")
    assert (await office("account", "end", "leaver", "--yes"))["ended"]
    assert not (await rig.operators[0].fresh_account(leaver.account)).active
    await office("account", "end", "clerk", "--yes")
    await board("account", "end", leaver.account, "--yes", fails="already-inactive")
    # An institution is the operators' to end; its office has not their keys.
    other = rig.client(rig.account_keys())
    signed = await other.register(rig.keys_of(other), AccountKind.INSTITUTION)
    await rig.operators[0].admit(rig.operators[1].cosign(signed))
    await office("account", "end", other.account, "--yes", fails="below-threshold")
    assert (await board("account", "end", other.account, "--yes"))["by"] == "operators"
    # A node that the map counts on is not ended, however many sign.
    await board("account", "end", rig.nodes[0].account, "--yes", fails="still-in-map")


async def test_only_admissions_and_ends_are_signed_as_files(rig: Rig, tmp_path: Path) -> None:
    """A file that asks for anything else is no statement, whoever sends it."""
    here = Machine(rig, tmp_path / "here", founders(rig))
    path = tmp_path / "statement"
    path.write_bytes(b"no statement")
    sign = ("operators", "sign", path, "--as", "operator-1", "--yes")
    await here(*sign, fails="malformed-encoding")
    policy = SetUpkeepPolicy(0, UpkeepPolicy(1, OUT_AFTER_MS_MIN, 1))
    path.write_bytes(SignedTransaction(policy.encode(), ()).encode())
    await here(*sign, fails="bad-statement")
    await here("operators", "submit", path, fails="bad-statement")
    await here("operators", "sign", tmp_path / "missing", *sign[3:], fails="no-statement")
