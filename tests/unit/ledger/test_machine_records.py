"""Opening records, appending to them, put keys, commit_by, old generations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import Action
from hcefs.errors import Conflict, Denied, HcefsError, Invalid
from hcefs.integrity import merkle_root, root_of_peaks
from hcefs.ledger import rules_records
from hcefs.ledger.machine import (
    BlockContext,
    GenerationAdded,
    Leaf,
    LeafAppended,
    LeafResult,
    apply,
    begin_block,
)
from hcefs.ledger.state import Overlay
from hcefs.ledger.transactions import AppendEntry, DeactivateAccount
from tests.unit.ledger.scenario import (
    DAY_MS,
    Scenario,
    blob_id,
    public_key,
    put_key,
    record_id,
)


@pytest.fixture
def world() -> Scenario:
    return Scenario().populate()


def test_open_record(world: Scenario) -> None:
    outcome = world.submit(world.opening("new", "pat"), "pat")
    record = world.view.record(record_id("new"))
    generation = world.view.generation(record_id("new"), 0)
    assert record is not None
    assert generation is not None
    assert outcome.events == (GenerationAdded(generation),)
    assert (record.owner, record.generation) == (world.account("pat"), 0)
    assert (record.leaf_count, record.peaks, record.height) == (0, (), world.height)
    assert generation.public_key == public_key("record new")
    assert (generation.number, generation.height) == (0, world.height)
    assert generation.time_ms == world.time_ms


@pytest.mark.parametrize(
    ("record", "owner", "signers", "error", "reason"),
    [
        ("r", "pat", ("pat",), Conflict, "record-exists"),
        ("new", "pat", ("doc",), Denied, "not-the-owner"),
        ("new", "doc", ("doc",), Denied, "not-a-patient"),
        ("new", "pat", ("pat", "clinic"), Invalid, "one-signature"),
    ],
)
def test_open_record_refused(
    world: Scenario,
    record: str,
    owner: str,
    signers: tuple[str, ...],
    error: type[HcefsError],
    reason: str,
) -> None:
    refusal = world.refusal(world.opening(record, owner), *signers)
    assert isinstance(refusal, error)
    assert refusal.reason == reason


def test_append_as_owner_makes_leaves_and_peaks(world: Scenario) -> None:
    leaves = []
    for number in range(5):
        name = f"c{number}"
        world.time_ms += 1
        outcome = world.submit(world.append(name, world.entry(name)), "pat")
        leaf = Leaf(world.entry(name).commitment, world.account("pat"), 0, world.time_ms)
        leaves.append(leaf.hash())
        completed = [merkle_root(leaves[-size:]) for size in (2, 4) if len(leaves) % size == 0]
        assert outcome.events == (
            LeafAppended(
                record_id("r"), number, leaf, world.height, leaf.encode(), tuple(completed)
            ),
        )
        assert outcome.leaves == (LeafResult(record_id("r"), number, leaf.hash()),)
        record = world.view.record(record_id("r"))
        assert record is not None
        assert record.leaf_count == number + 1
        assert root_of_peaks(record.peaks) == merkle_root(leaves)


def test_append_to_many_records_is_one_step(world: Scenario) -> None:
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.grant("g", "watch", Action.APPEND, record="r2"), "pat")
    world.submit(world.grant("h", "watch", Action.APPEND), "pat")
    entries = (
        world.entry("a", "r", "h"),
        world.entry("b", "r2", "g"),
        world.entry("c", "r", "h"),
        world.entry("a", "r2", "g"),
    )
    outcome = world.submit(world.append("p", *entries), "watch")
    assert [(leaf.record, leaf.index) for leaf in outcome.leaves] == [
        (record_id("r"), 0),
        (record_id("r2"), 0),
        (record_id("r"), 1),
        (record_id("r2"), 1),
    ]
    for name in ("r", "r2"):
        record = world.view.record(record_id(name))
        assert record is not None
        assert record.leaf_count == 2


def test_one_refused_entry_refuses_all(world: Scenario) -> None:
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.grant("g", "watch", Action.APPEND), "pat")
    entries = (world.entry("a", "r", "g"), world.entry("b", "r2", "g"))
    assert world.refusal(world.append("p", *entries), "watch").reason == "wrong-record"


@pytest.mark.parametrize(
    ("signer", "entry", "error", "reason"),
    [
        ("pat", {"record": "unknown"}, Denied, "unknown-record"),
        ("doc", {}, Denied, "not-the-owner"),
        ("doc", {"grant": "none"}, Denied, "no-such-grant"),
        ("doc2", {"grant": "append"}, Denied, "not-the-grantee"),
        ("doc", {"grant": "read"}, Denied, "action-not-granted"),
        ("pat", {"generation": 1}, Invalid, "unknown-generation"),
    ],
)
def test_append_refused(
    world: Scenario, signer: str, entry: dict[str, str], error: type[HcefsError], reason: str
) -> None:
    world.submit(world.grant("append", "doc", Action.APPEND), "pat")
    world.submit(world.grant("read", "doc", Action.READ), "pat")
    refusal = world.refusal(world.append("p", world.entry("c", **entry)), signer)  # type: ignore[arg-type]
    assert isinstance(refusal, error)
    assert refusal.reason == reason


def test_append_takes_one_signature(world: Scenario) -> None:
    refusal = world.refusal(world.append("p", world.entry("c")), "pat", "doc")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "one-signature"


def test_a_grant_on_a_blob_appends_nothing(world: Scenario) -> None:
    grant = replace(world.grant("g", "doc", Action.APPEND), blob=blob_id("b"))
    world.submit(grant, "pat")
    refusal = world.refusal(world.append("p", world.entry("c", grant="g")), "doc")
    assert refusal.reason == "wrong-blob"


def test_append_ends_with_its_grant(world: Scenario) -> None:
    world.submit(world.grant("g", "watch", Action.APPEND), "pat")
    world.submit(world.append("p1", world.entry("c1", grant="g")), "watch")
    ends_ms = world.granted("g").not_after_ms
    world.time_ms = ends_ms
    assert world.refusal(world.append("p2", world.entry("c2", grant="g")), "watch").reason == (
        "expired"
    )
    world.time_ms = ends_ms - 1
    world.submit(world.revocation("g"), "pat")
    assert world.refusal(world.append("p2", world.entry("c2", grant="g")), "watch").reason == (
        "revoked"
    )


def test_append_by_a_dead_account(world: Scenario) -> None:
    world.submit(world.grant("g", "watch", Action.APPEND), "pat")
    world.submit(DeactivateAccount(world.account("watch")), "clinic")
    refusal = world.refusal(world.append("p", world.entry("c", grant="g")), "watch")
    assert refusal.reason == "inactive-account"


def test_put_key_repeat_returns_the_first_leaves(world: Scenario) -> None:
    first = world.submit(world.append("p", world.entry("c1"), world.entry("c2")), "pat")
    world.submit(world.append("q", world.entry("c3")), "pat")
    before = world.view.record(record_id("r"))
    # A writer draws a new blob, hence another commitment, for every attempt.
    again = world.submit(world.append("p", world.entry("d1"), world.entry("d2")), "pat")
    assert again.leaves == first.leaves
    assert again.events == ()
    assert world.view.record(record_id("r")) == before


def test_put_key_repeat_in_the_same_block(world: Scenario) -> None:
    one = world.sign(world.append("p", world.entry("c1")), "pat").encode()
    two = world.sign(world.append("p", world.entry("c2")), "pat").encode()
    first, again, same = world.commit([one, two, one])
    assert first.leaves == again.leaves == same.leaves
    assert again.events == same.events == ()


def test_put_key_belongs_to_one_account(world: Scenario) -> None:
    world.submit(world.grant("g", "watch", Action.APPEND), "pat")
    first = world.submit(world.append("p", world.entry("c1")), "pat")
    other = world.submit(world.append("p", world.entry("c2", grant="g")), "watch")
    assert [leaf.index for leaf in (*first.leaves, *other.leaves)] == [0, 1]


def test_put_key_for_other_records_is_a_conflict(world: Scenario) -> None:
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.append("p", world.entry("c")), "pat")
    for entries in (
        (world.entry("c", "r2"),),
        (world.entry("c"), world.entry("d")),
    ):
        refusal = world.refusal(world.append("p", *entries), "pat")
        assert isinstance(refusal, Conflict)
        assert refusal.reason == "put-key-reused"


def test_put_key_is_forgotten_only_when_the_append_is_refused_too(world: Scenario) -> None:
    early = world.entry("c1")
    late = replace(world.entry("c2"), commit_by_ms=early.commit_by_ms + 10)
    transaction = world.append("p", early, late)
    first = world.submit(transaction, "pat")
    world.time_ms = late.commit_by_ms
    assert world.submit(transaction, "pat").leaves == first.leaves
    world.time_ms = late.commit_by_ms + 1
    world.commit([])
    assert world.view.put_row(world.account("pat"), put_key("p")) is None
    assert list(world.state.scan(b"put-")) == []
    assert world.refusal(transaction, "pat").reason == "commit-by-passed"
    fresh = replace(world.entry("c1"), commit_by_ms=world.time_ms)
    assert world.submit(world.append("p", fresh), "pat").leaves[0].index == 2


def test_expiry_is_bounded_per_block(world: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("p", "q", "s"):
        world.submit(world.append(name, world.entry(name)), "pat")
    monkeypatch.setattr(rules_records, "PUT_EXPIRIES_PER_BLOCK", 2)
    world.time_ms += 2 * DAY_MS
    remaining = []
    for _ in range(2):
        overlay = Overlay(world.state)
        begin_block(overlay, world.context)
        world.state.write(overlay.writes)
        remaining.append(len(list(world.state.scan(b"put-expiry/"))))
    assert remaining == [1, 0]
    assert list(world.state.scan(b"put-key/")) == []


@pytest.mark.parametrize(
    ("ahead_ms", "reason"),
    [
        (-1, "commit-by-passed"),
        (0, None),
        (7 * DAY_MS, None),
        (7 * DAY_MS + 1, "commit-by-too-far"),
    ],
)
def test_commit_by(world: Scenario, ahead_ms: int, reason: str | None) -> None:
    entry = replace(world.entry("c"), commit_by_ms=world.time_ms + ahead_ms)
    if reason is None:
        world.submit(world.append("p", entry), "pat")
    else:
        assert world.refusal(world.append("p", entry), "pat").reason == reason


def rotate(world: Scenario, name: str) -> None:
    world.submit(world.grant(name, "doc"), "pat")
    world.submit(world.revocation(name, "next " + name), "pat")


def test_old_generation_is_taken_for_a_minute(world: Scenario) -> None:
    rotate(world, "g1")
    world.submit(world.append("p1", world.entry("c1", generation=1)), "pat")
    world.time_ms += 60_000
    outcome = world.submit(world.append("p2", world.entry("c2", generation=0)), "pat")
    event = outcome.events[0]
    assert isinstance(event, LeafAppended)
    assert event.leaf.generation == 0
    world.time_ms += 1
    refusal = world.refusal(world.append("p3", world.entry("c3", generation=0)), "pat")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "old-generation"
    assert world.refusal(world.append("p4", world.entry("c4", generation=2)), "pat").reason == (
        "unknown-generation"
    )


def test_the_minute_runs_from_the_next_generation_not_the_newest(world: Scenario) -> None:
    rotate(world, "g1")
    world.time_ms += 50_000
    rotate(world, "g2")
    world.time_ms += 20_000
    assert world.refusal(world.append("p", world.entry("c", generation=0)), "pat").reason == (
        "old-generation"
    )
    world.submit(world.append("p", world.entry("c", generation=1)), "pat")


def test_most_entries_of_one_append(world: Scenario) -> None:
    entry = world.entry("c")
    entries = tuple(
        AppendEntry(
            record=entry.record,
            generation=0,
            commitment=number.to_bytes(32, "big"),
            commit_by_ms=entry.commit_by_ms,
        )
        for number in range(4096)
    )
    overlay = Overlay(world.state)
    context: BlockContext = world.context
    outcome = apply(overlay, world.sign(world.append("p", *entries), "pat"), context)
    assert len(outcome.leaves) == 4096
    world.state.write(overlay.writes)
    record = world.view.record(record_id("r"))
    assert record is not None
    assert record.leaf_count == 4096
    assert record.peaks == (merkle_root([leaf.leaf for leaf in outcome.leaves]),)
