"""A device is lost: keys come back from guardians, are changed, and the lost ones are dead.

The command line runs against the real servers of the rig, each device in a folder of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hcefs.access.facts import AccountKind, Action
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.main import app
from hcefs.client.client import Client
from hcefs.client.erasure_check import check_certificate
from hcefs.crypto import accounts
from hcefs.crypto.accounts import AccountKeys, is_sealed, load_account
from hcefs.crypto.passphrase import Argon2Cost
from hcefs.errors import HcefsError, Unauthenticated
from hcefs.evidence.erasure import read_certificate
from hcefs.ids import AccountId, BlobId, RecordId
from tests.services.rig import HOUR_MS, MARK, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

TINY = Argon2Cost(memory_kib=8, iterations=1, lanes=1)
PASSPHRASE = "a passphrase for tests"


class Device:
    """A folder of the cluster's files with some accounts, and the command line on it."""

    def __init__(self, rig: Rig, root: Path, **accounts: AccountKeys) -> None:
        root.mkdir()
        self.folder = ClusterFolder(root)
        self.folder.authority.parent.mkdir()
        self.folder.authority.write_bytes(rig.authority)
        self.folder.save_connection(rig.cluster, rig.ledger_address, [])
        self.folder.accounts.mkdir(mode=0o700)
        for name, keys in accounts.items():
            keys.save(self.folder.account_file(name))
        self.passphrase = root / "passphrase"
        self.passphrase.touch(mode=0o600)
        self.passphrase.write_text(PASSPHRASE + "\n")

    async def run(self, *arguments: object, code: int = 0) -> Any:
        """The answer of a command, which runs with an event loop of its own."""
        line = [
            "--passphrase-file",
            str(self.passphrase),
            *map(str, arguments),
            "--dir",
            str(self.folder.root),
            "--json",
        ]
        result = await asyncio.to_thread(CliRunner().invoke, app, line)
        assert result.exit_code == code, (line, result.output, result.exception)
        return json.loads(result.stdout) if result.stdout.strip() else None

    def keys(self, name: str) -> AccountKeys:
        return load_account(self.folder.account_file(name), lambda _: PASSPHRASE)


async def registered(rig: Rig, kind: AccountKind) -> AccountKeys:
    keys = rig.account_keys()
    client = rig.client(keys)
    await rig.hospital.admit(await client.register(keys, kind))
    return keys


async def refused(client: Client, record: RecordId, blob: BlobId) -> None:
    """Neither the ledger nor any node does anything for these keys."""
    with pytest.raises(Unauthenticated):
        await client.fresh_account(client.account)
    with pytest.raises(HcefsError) as opening:
        await client.open_record()
    assert opening.value.reason in ("wrong-key-version", "old-key", "bad-proof")
    # What the client still remembers of the map leads it to the nodes, and no further.
    with pytest.raises(Unauthenticated):
        await (await client.get(record, blob, purpose="PATRQT")).read()


async def read(client: Client, record: RecordId, blob: BlobId, **right: Any) -> bytes:
    stream = await client.get(record, blob, **right)
    data = await stream.read()
    assert stream.signed
    return data


async def test_a_lost_device_is_shut_out_and_nothing_is_lost(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "DEFAULT_COST", TINY)
    keys = await registered(rig, AccountKind.PATIENT)
    guardian_keys = {f"g{n}": await registered(rig, AccountKind.PRACTITIONER) for n in range(3)}
    doctor_keys = await registered(rig, AccountKind.PRACTITIONER)
    old, circle, clinic, new = (
        Device(rig, tmp_path / "old", pat=keys),
        Device(rig, tmp_path / "circle", **guardian_keys),
        Device(rig, tmp_path / "clinic", doc=doctor_keys),
        Device(rig, tmp_path / "new"),
    )

    # Before: a record with two generations, a blob in each, and a reader.
    lost = rig.client(keys)
    record = (await lost.open_record()).record
    grant = await lost.give(
        record,
        doctor_keys.account,
        Action.READ,
        ("TREAT",),
        not_after_ms=rig.runtime.now_ms() + HOUR_MS,
    )
    first = (await lost.put(record, MARK + b"first", purpose="PATRQT")).ref.blob
    assert (await old.run("record", "rotate", record, "--as", "pat"))["generation"] == 1
    lost = rig.client(keys)  # the other one remembers the generation for a while
    second = (await lost.put(record, MARK + b"second", purpose="PATRQT")).ref.blob
    assert await read(lost, record, first, purpose="PATRQT") == MARK + b"first"

    # The guardians have their shares; two of them open theirs for a new device.
    names = ",".join(keys.account.text for keys in guardian_keys.values())
    made = await old.run(
        "keys", "guard", "--as", "pat", "--guardians", names, "--threshold", 2,
        "--out", tmp_path / "shares",
    )  # fmt: skip
    assert [share["guardian"] for share in made["shares"]] == [
        keys.account.text for keys in guardian_keys.values()
    ]
    shares = [share["file"] for share in made["shares"]]
    opened = tmp_path / "g0.opened"
    await circle.run("keys", "open-share", shares[0], "--as", "g0", "--out", opened)
    await circle.run("keys", "open-share", shares[0], "--as", "g1", code=2)
    words = tmp_path / "g2.txt"
    words.write_text((await circle.run("keys", "open-share", shares[2], "--as", "g2"))["words"])
    await new.run("keys", "recover", "pat", "--share", opened, code=2)
    back = await new.run(
        "keys", "recover", "pat", "--share", opened, "--share", words, "--passphrase"
    )
    assert (back["account"], back["current"]) == (keys.account.text, True)
    assert new.keys("pat") == keys
    assert keys.signing_seed not in new.folder.account_file("pat").read_bytes()

    # The new device changes the keys: from that block on the lost one can do nothing.
    changed = await new.run("keys", "rotate", "--records", "--as", "pat")
    assert (changed["key_version"], changed["records"]) == (2, [record.text])
    current = new.keys("pat")
    rig._hide(current)
    assert current.account == keys.account
    rig.height = max(rig.height, (await rig.hospital.fresh_account(keys.account)).height)
    owner = rig.client(current)
    assert (await owner.record(record)).generation == 2
    lost.height = owner.height  # nodes answer it from the block of the change on
    await refused(lost, record, first)
    await old.run("keys", "verify", "--as", "pat", code=4)

    # It reads what the lost device wrote, signed and sealed with keys that are gone.
    for blob, text in ((first, b"first"), (second, b"second")):
        assert await read(owner, record, blob, purpose="PATRQT") == MARK + text
    third = (await owner.put(record, MARK + b"third", purpose="PATRQT")).ref.blob
    drill = await new.run("keys", "verify", "--as", "pat")
    assert drill["good"]
    assert [(check["generations"], check["blobs"]) for check in drill["records"]] == [(3, 3)]

    # The thief has the old master: the generation that came after does not follow from it.
    newest = (await owner.generation(record, 2)).public_key
    assert newest not in [keys.record_key(record, n).public_key for n in range(5)]

    # A reader follows: boxes and links by the old keys and by the new ones.
    await check_reader(rig, clinic, doctor_keys, record, {first: b"first", third: b"third"})
    await check_giving_anew(new, clinic, rig, doctor_keys.account, record, third)
    assert (await owner.grant(grant.grant)).revoked_height == 0


async def check_reader(
    rig: Rig, clinic: Device, keys: AccountKeys, record: RecordId, texts: dict[BlobId, bytes]
) -> None:
    doctor = rig.client(keys)
    (grant,) = await doctor.key_givers()
    for blob, text in texts.items():
        assert await read(doctor, record, blob, grant=grant.grant) == MARK + text
    drill = await clinic.run("keys", "verify", "--as", "doc")
    assert [check["good"] for check in drill["records"]] == [True]
    wrong = dataclasses.replace(keys, receiving_seed=bytes(32))
    wrong.save(clinic.folder.account_file("wrong"))
    drill = await clinic.run("keys", "verify", "--as", "wrong", code=7)
    assert not drill["good"]
    assert drill["records"][0]["generations"] == 0
    assert drill["records"][0]["problems"]


async def check_giving_anew(
    new: Device, clinic: Device, rig: Rig, grantee: AccountId, record: RecordId, blob: BlobId
) -> None:
    """The reader changes its keys, too: old boxes open, and new ones come on request."""
    changed = await clinic.run("keys", "rotate", "--as", "doc")
    assert [giver["record"] for giver in changed["givers"]] == [record.text]
    keys = clinic.keys("doc")
    rig._hide(keys)
    doctor = rig.client(keys)
    (grant,) = await doctor.key_givers()
    right = grant.grant
    assert await read(doctor, record, blob, grant=right) == MARK + b"third"
    forgetful = dataclasses.replace(keys, past=())
    with pytest.raises(HcefsError) as caught:
        await read(rig.client(forgetful), record, blob, grant=right)
    assert caught.value.reason == "no-key-box"
    delivered = await new.run("grant", "deliver", "--to", grantee.text, "--as", "pat")
    assert [each["grant"] for each in delivered["delivered"]] == [right.text]
    assert await read(rig.client(forgetful), record, blob, grant=right) == MARK + b"third"


async def test_a_change_that_was_cut_off_goes_on(rig: Rig, tmp_path: Path) -> None:
    keys = await registered(rig, AccountKind.PATIENT)
    device = Device(rig, tmp_path / "device", pat=keys)
    path = device.folder.account_file("pat")
    pending = path.with_name("pat.keys.next")
    # Cut off before the ledger heard of it, and, the second time, after.
    keys.renewed(rig.runtime.random(128)).save(pending)
    kept = load_account(pending)
    assert (await device.run("keys", "rotate", "--as", "pat"))["key_version"] == 2
    assert device.keys("pat") == kept
    assert not pending.exists()
    third = kept.renewed(rig.runtime.random(128))
    third.save(pending)
    await rig.client(kept).change_keys(third)
    assert (await device.run("keys", "rotate", "--as", "pat"))["key_version"] == 3
    assert device.keys("pat") == third
    for each in (kept, third):
        rig._hide(each)
    # What is left of somebody else's change is not taken for this one.
    keys.renewed(rig.runtime.random(128)).save(pending)
    await device.run("keys", "rotate", "--as", "pat", code=5)
    assert device.keys("pat") == third


async def test_an_account_is_made_under_a_passphrase(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "DEFAULT_COST", TINY)
    device = Device(rig, tmp_path / "device", hospital=rig.hospital_keys)
    made = await device.run(
        "account", "create", "pat", "--kind", "patient", "--by", "hospital", "--passphrase"
    )
    assert is_sealed(device.folder.account_file("pat"))
    keys = device.keys("pat")
    rig._hide(keys)
    assert made["account"] == keys.account.text
    record = await device.run("record", "open", "--as", "pat")
    # A stream that began before the keys changed ends with them.
    client = rig.client(keys)
    blob = (
        await client.put(RecordId.parse(record["record"]), bytes(20 << 20), purpose="PATRQT")
    ).ref.blob
    stream = await client.get(RecordId.parse(record["record"]), blob, purpose="PATRQT")
    async with stream:
        first = await anext(aiter(stream))
        assert first
        changed = await client.change_keys(keys.renewed(bytes(range(128))))
        for node in rig.nodes:
            await node.process.follower.require(changed.height)
        with pytest.raises(HcefsError) as caught:
            async for _ in stream:
                pass
    assert caught.value.reason in ("old-key", "bad-proof")


async def test_a_node_changes_its_keys_and_its_layouts_stay_good(rig: Rig) -> None:
    """Its TLS key stays; it is restarted with the new file, and signs with the new keys."""
    node = rig.nodes[5]
    gateway = node.config.client_address
    right = rig.append_grant.grant
    before = await rig.hospital.put(rig.record, MARK * 40_000, grant=right, node=gateway)
    new = node.keys.renewed(rig.runtime.random(128))
    rig._hide(new)
    done = await rig.client(node.keys).change_keys(new)
    new.save(node.config.account, replace=True)
    async with rig.restarted(node):
        node.keys = new
        for other in rig.nodes:
            await other.process.follower.require(done.height)
        after = await rig.hospital.put(rig.record, MARK * 40_000, grant=right, node=gateway)
        assert after.durable_shards == after.total_shards
        for receipt in (before, after):
            blob = receipt.ref.blob
            stream = await rig.doctor.get(rig.record, blob, grant=rig.read_grant.grant)
            assert await stream.read() == MARK * 40_000

    # Its word that an erased record is gone counts, under the keys that it has now.
    record = (await rig.patient.open_record()).record
    await rig.patient.erase(record)
    certificate = await rig.patient.erasure_certificate(record, wait_seconds=20)
    versions = {each.node: each.key_version for each in certificate.statements}
    assert versions[node.account] == 2
    assert len(certificate.key_changes) == 1
    checked = check_certificate(read_certificate(certificate.encode()), rig.cluster)
    assert checked.exposure.complete
    states = await rig.patient.erasure_states(record)
    assert [state.problem for state in states] == [""] * len(rig.nodes)
