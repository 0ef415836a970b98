"""What a patient and a doctor do with classes and requests, by commands on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.live import LiveCluster
from tests.cluster.test_operator_verbs import Shell

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


def key_file(folder: Path, cluster: LiveCluster, name: str) -> str:
    """The keys of one of the cluster's people, in a file for commands."""
    path = folder / f"{name}.keys"
    path.touch(mode=0o600)
    path.write_bytes(cluster.accounts[name].encode())
    return str(path)


async def test_classes_and_requests_by_commands(cluster: LiveCluster, tmp_path: Path) -> None:
    shell = Shell(cluster)
    anna, bob = (key_file(tmp_path, cluster, name) for name in ("patient", "doctor"))
    patient, doctor = ("--as", anna), ("--as", bob)
    opened = {
        name: (await shell.run("record", "open", *patient, *words))["record"]
        for name, words in {
            "normal": ("--confidentiality", "N"),
            "psychiatry": ("--confidentiality", "N", "--sensitivity", "psy"),
            "restricted": ("--confidentiality", "R"),
        }.items()
    }
    listed = await shell.run("record", "list", *patient)
    classes = {each["record"]: each["class"] for each in listed["owned"]}
    assert classes[opened["psychiatry"]] == {"confidentiality": "N", "sensitivities": ["PSY"]}
    assert classes[cluster.record.text] is None

    given = await shell.run(
        "grant", "give", "--all", *patient, "--to", bob, "--max-confidentiality", "N",
        "--exclude", "HIV,PSY",
    )  # fmt: skip
    assert [each["record"] for each in given["grants"]] == [opened["normal"]]
    left = {each["record"]: each["reason"] for each in given["left_out"]}
    assert left[opened["psychiatry"]] == "excluded:PSY"
    assert left[opened["restricted"]] == "above-ceiling:R"
    assert left[cluster.record.text] == "no-class"
    assert given["later_records_included"] is False

    asked = await shell.run("request", "make", *doctor, "--patient", anna, "--until", "1d")
    (open_one,) = await shell.run("request", "list", *patient)
    assert (open_one["request"], open_one["state"]) == (asked["request"], "open")
    await shell.refused("no-records", "request", "approve", asked["request"], *patient)
    approved = await shell.run(
        "request", "approve", asked["request"], *patient, "--max-confidentiality", "N",
        "--exclude", "PSY",
    )  # fmt: skip
    assert [each["record"] for each in approved["grants"]] == [opened["normal"]]
    named = await shell.run(
        "request", "make", *doctor, "--patient", anna, "--record", opened["restricted"]
    )
    await shell.run("request", "refuse", named["request"], *patient, "--reason", "too-wide")
    mine = {each["request"]: each["state"] for each in await shell.run("request", "list", *doctor)}
    assert mine == {asked["request"]: "approved", named["request"]: "too-wide"}
    assert await shell.run("request", "list", *patient) == []
