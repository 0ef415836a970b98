"""Step 6 of the demo: revoked, expired, stolen and forged rights."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hcefs.access.facts import Action, Grant
from hcefs.access.token import Narrowing, mint, sign_block
from hcefs.cli.demo_report import Broken, Notes, require
from hcefs.cli.demo_stage import ENTRY, PURPOSE, Stage, Stored, refused
from hcefs.cli.demo_wire import Wire
from hcefs.client.client import Client
from hcefs.errors import Denied, HcefsError
from hcefs.ids import GrantId
from hcefs.placement.cluster_map import Node
from hcefs.runtime import end_tasks

SHORT_GRANT_MS = 4_000
"""Long enough to be given, delivered and used once on a slow machine."""

PROBE_SECONDS = 0.02
DENIAL_SECONDS = 10.0


@dataclass(frozen=True)
class Cut:
    """When a node began to deny: milliseconds after the block, reads served before, reason."""

    node: int
    after_ms: int
    served: int
    reason: str


async def end_rights(stage: Stage, notes: Notes) -> None:
    """A right ends at once, at its time, and is of no use to anyone else."""
    short = await _give_short(stage)
    async with Wire(stage) as wire:
        await _steal(stage, notes, wire)
        await _forge(stage, notes, wire)
        await _revoke(stage, notes, wire)
    await _expire(stage, notes, short)
    await _go_on(stage, notes)


# -- expiry


async def _give_short(stage: Stage) -> Grant:
    stage.say("the patient gives the second doctor a few seconds")
    grant = await stage.clients["patient"].give(
        stage.record,
        stage.clients["second-doctor"].account,
        Action.READ,
        (PURPOSE,),
        not_after_ms=stage.runtime.now_ms() + SHORT_GRANT_MS,
    )
    stage.grants["second-doctor"] = grant.grant
    await stage.read("second-doctor", stage.stored["ct"])
    return grant


async def _expire(stage: Stage, notes: Notes, grant: Grant) -> None:
    stage.say("waiting for the short grant to expire")
    left_ms = grant.not_after_ms - stage.runtime.now_ms()
    await stage.runtime.sleep(max(0, left_ms + 1) / 1000)
    late_ms = stage.runtime.now_ms() - grant.not_after_ms
    reason = await refused(stage.read("second-doctor", stage.stored["ct"]), "expired")
    notes.check(
        f"a grant of {SHORT_GRANT_MS // 1000} s let the second doctor read, but no longer "
        f"{late_ms} ms after its end ({reason})",
        expired=reason,
    )


# -- theft


async def _steal(stage: Stage, notes: Notes, wire: Wire) -> None:
    """The second doctor has got hold of others' tokens and requests."""
    stage.say("a thief presents stolen tokens")
    thief, victim = stage.accounts["second-doctor"], stage.accounts["doctor"]
    assistant = stage.accounts["assistant"]
    blob = stage.stored["ecg"].blob
    here, there = stage.node(ENTRY), stage.node(stage.nodes[-1])
    doctors = wire.own_token(victim, stage.grants["doctor"])
    handed = stage.bundle.token
    own_proof = await refused(
        wire.get(wire.presenting(thief, doctors, here, "get", blob), here, blob), "token-check"
    )
    assistants = await refused(
        wire.get(wire.presenting(thief, handed, here, "get", blob), here, blob), "token-check"
    )
    forged = await refused(
        wire.get(wire.forged(victim.account, thief.token_key, doctors, here, blob), here, blob),
        "bad-proof",
    )
    captured = wire.presenting(assistant, handed, here, "get", blob)
    await wire.get(captured, here, blob)  # the assistant's own request, seen by the thief
    replayed = await refused(wire.get(captured, here, blob), "replayed-proof")
    elsewhere = await refused(wire.get(captured, there, blob), "wrong-gateway")
    notes.check(
        f"the doctor's token, stolen: presented with the thief's own proof, denied ({own_proof}); "
        f"with a proof forged in the doctor's name, denied ({forged})",
        stolen={
            "doctors_token": own_proof,
            "assistants_token": assistants,
            "forged_proof": forged,
        },
    )
    notes.check(
        f"a whole request of the assistant, captured: denied at the same node ({replayed}) and at "
        f"another ({elsewhere})",
        captured={"same_node": replayed, "another_node": elsewhere},
    )


# -- forgery


async def _forge(stage: Stage, notes: Notes, wire: Wire) -> None:
    """Tokens whose first block says more than whose right is used; the holder writes that block."""
    stage.say("a forger presents tokens that carry their own permission")
    forger = stage.accounts["assistant"]
    blob = stage.stored["ct"].blob
    use = (
        f"use(hex:{stage.connection.cluster.hex()}, hex:{forger.account.hex()}, "
        f"hex:{GrantId.zero().hex()})"
    )
    record = f"hex:{stage.record.hex()}"
    sources = {
        "grant_fact": f'{use}; grant(hex:{forger.account.hex()}, {record}, "read")',
        "rule": f'{use}; action("read") <- record({record})',
        "time_fact": f"{use}; time(2020-01-01T00:00:00Z)",
    }
    reasons: dict[str, str] = {}
    for node in stage.map.nodes:
        for name, source in sources.items():
            token = sign_block(forger.token_key, source)
            authorization = wire.presenting(forger, token, node, "get", blob)
            reasons[name] = await refused(wire.get(authorization, node, blob), "token-shape")
        plain = mint(
            forger.token_key, stage.connection.cluster, forger.account, GrantId.zero(), Narrowing()
        )
        authorization = wire.presenting(forger, plain, node, "get", blob)
        reasons["no_permission"] = await refused(
            wire.get(authorization, node, blob), "not-permitted"
        )
    notes.check(
        "tokens with a permission of their own (a grant fact, a rule, a time fact) were refused "
        f"by all {len(stage.map.nodes)} nodes ({reasons['time_fact']}); the same token without it "
        f"is no right either ({reasons['no_permission']})",
        forged_tokens=reasons,
    )


# -- revocation


async def _revoke(stage: Stage, notes: Notes, wire: Wire) -> None:
    """The doctor reads from every node without pause while the patient revokes."""
    stage.say("the patient revokes; the doctor reads from every node all the while")
    stored = stage.stored["ct"]
    probes = [
        stage.runtime.spawn(_probe(stage, wire, node, stored), name=f"probe-{node.node_id}")
        for node in stage.map.nodes
    ]
    try:
        await stage.runtime.sleep(PROBE_SECONDS * 10)
        done = await stage.clients["patient"].revoke(stage.grants["doctor"])
        async with stage.runtime.timeout(DENIAL_SECONDS):
            ends = await asyncio.gather(*probes)
    except TimeoutError:
        raise Broken(f"a node still serves {DENIAL_SECONDS:.0f} s after the revocation") from None
    finally:
        await end_tasks(*probes)
    cuts = [
        Cut(node.node_id, denied_ms - done.time_ms, served, reason)
        for node, (denied_ms, served, reason) in zip(stage.map.nodes, ends, strict=True)
    ]
    for cut in cuts:
        require(cut.reason == "revoked", f"node {cut.node} denied for {cut.reason}, not revoked")
        require(cut.served, f"node {cut.node} served no read before the revocation")
        await _read_anew(stage, stored, cut.node)
    slowest = max(cuts, key=lambda cut: cut.after_ms)
    notes.check(
        f"the grant was revoked at height {done.height}; from the ledger's commit to the denial: "
        + ", ".join(f"node {cut.node} {cut.after_ms} ms" for cut in cuts),
        revoked_height=done.height,
        denial_ms={f"node-{cut.node}": cut.after_ms for cut in cuts},
        denial_ms_max=slowest.after_ms,
        served_before=sum(cut.served for cut in cuts),
    )
    async with Wire(stage) as fresh:
        node = stage.node(ENTRY)
        blob = stage.bundle.blob
        keys = stage.accounts["assistant"]
        authorization = fresh.presenting(keys, stage.bundle.token, node, "get", blob)
        reason = await refused(fresh.get(authorization, node, blob), "revoked")
    notes.check(
        f"the assistant's token, which lives by that grant, ended with it ({reason})",
        assistant_after=reason,
    )


async def _read_anew(stage: Stage, stored: Stored, node: int) -> None:
    """A new session of the doctor, by the SDK, must be denied by the node too."""
    keys, grant = stage.accounts["doctor"], stage.grants["doctor"]
    async with Client(stage.connection, keys, stage.runtime) as session:
        read = session.get(
            stage.record, stored.blob, grant=grant, purpose=PURPOSE, node=stage.address(node)
        )
        await refused(read, "revoked")


async def _probe(stage: Stage, wire: Wire, node: Node, stored: Stored) -> tuple[int, int, str]:
    """Read again and again; when the node first denied, the reads before, and its reason."""
    keys = stage.accounts["doctor"]
    token = wire.own_token(keys, stage.grants["doctor"])
    served = 0
    while True:
        authorization = wire.presenting(keys, token, node, "get", stored.blob)
        try:
            await wire.get(authorization, node, stored.blob)
        except Denied as error:
            return stage.runtime.now_ms(), served, error.reason
        except HcefsError as error:
            raise Broken(f"node {node.node_id} failed: {error.message}") from error
        served += 1
        await stage.runtime.sleep(PROBE_SECONDS)


async def _go_on(stage: Stage, notes: Notes) -> None:
    """The record lives on under its next generation."""
    stage.say("the hospital appends under the next generation; the patient reads")
    exhibit = stage.exhibits["ct"]
    receipt = await stage.clients["hospital"].put(
        stage.record,
        exhibit.path,
        grant=stage.grants["hospital"],
        content_type="application/dicom",
        name=exhibit.name,
        purpose=PURPOSE,
        node=stage.address(ENTRY),
    )
    stage.stored["after"] = Stored(exhibit, receipt)
    require(receipt.core.generation == 1, "the put after the revocation is not of generation 1")
    for key in ("ct", "after"):
        await stage.read("patient", stage.stored[key])
    notes.check(
        "the record's key is renewed: a put now seals to generation 1, and the patient reads the "
        "old and the new",
        generation=receipt.core.generation,
    )
