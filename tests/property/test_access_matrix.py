"""The node's decision agrees with an independent reading of the design, in 100,000 cases.

A ledger is built by real signed transactions, applied and replayed block by block: two
patients, classed records, grants of all shapes, delegation up to the greatest depth,
revocations, ended accounts, requests that were approved.  Actors x purposes x actions x
records x blobs and ranges x grants x moments are then sampled by a seed, and
:func:`hcefs.access.rights.decide` is compared with :mod:`tests.property.rights_oracle`.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

import pytest

from hcefs.access.facts import AccountKind, Action
from hcefs.access.rights import AccessRequest, decide
from hcefs.formats.record_class import Confidentiality, RecordClass, left_out_for
from hcefs.ids import GrantId
from hcefs.ledger.transactions import DeactivateAccount, GiveGrant, RevokeGrant
from tests.property.rights_oracle import END, PURPOSES, Given, Wanted, World, may
from tests.unit.ledger.rights_world import RightsWorld
from tests.unit.ledger.scenario import DAY_MS, START_MS, blob_id, grant_id, public_key, record_id

CASES = 100_000
LONG_CASES = 2_000_000
ACTIONS = {"read": Action.READ, "append": Action.APPEND, "share": Action.SHARE}
ALL = frozenset(ACTIONS)
BLOBS = (None, "b1", "b2")
RANGES = (None, (0, 10), (100, 200), (100, 150), (150, 200), (99, 200), (100, 201), (199, 200),
          (100, END))  # fmt: skip
DAY = DAY_MS

LABELS = {
    "r": RecordClass.of(Confidentiality.N),
    "r-restricted": RecordClass.of(Confidentiality.R),
    "r-psy": RecordClass.of(Confidentiality.L, ["PSYTHPN"]),
}
CEILING, EXCLUDED = Confidentiality.N, ("SPI",)
"""What the patient said to ``doc2``: at most normal, and nothing specially protected."""

_record_id, _blob_id, _grant_id = cache(record_id), cache(blob_id), cache(grant_id)


class Built:
    """The ledger, and the plain account of what was done to it."""

    def __init__(self) -> None:
        self.world = RightsWorld()
        self.given: dict[str, Given] = {}
        self.revoked: set[str] = set()
        self.owners = {"r": "pat", "s": "pat2"}
        self.ended: set[str] = set()
        for number in range(10):
            self.world.register(f"d{number}", AccountKind.PRACTITIONER, "clinic")
        for record in ("r-restricted", "r-psy"):
            self.world.submit(self.world.opening(record, "pat"), "pat")
            self.owners[record] = "pat"
        self._fill()

    def give(
        self,
        name: str,
        by: str,
        to: str,
        *,
        record: str = "r",
        blob: str | None = None,
        bytes_: tuple[int, int] | None = None,
        actions: Sequence[str] = ("read",),
        purposes: Sequence[str] = ("TREAT",),
        since: int = START_MS,
        until: int = START_MS + 20 * DAY,
        under: str | None = None,
    ) -> None:
        given = Given(
            by, to, record, blob, bytes_, frozenset(actions), frozenset(purposes), since, until,
            under,
        )  # fmt: skip
        start, end = bytes_ or (0, 0)
        mask = Action(sum(ACTIONS[action] for action in actions))
        self.world.submit(
            GiveGrant(
                grant_id(name), record_id(record), blob_id(blob) if blob else None, start,
                end - start, self.world.account(to), mask, tuple(purposes), since, until,
                grant_id(under) if under else None,
            ),
            by,
        )  # fmt: skip
        self.given[name] = given

    def revoke(self, name: str, by: str) -> None:
        given = self.given[name]
        rotates = by == self.owners[given.record] and "read" in given.actions
        record = self.world.view.record(record_id(given.record))
        assert record is not None
        number = record.generation + 1 if rotates else 0
        key = public_key(f"next {name}") if rotates else b""
        self.world.submit(RevokeGrant(grant_id(name), number, key), by)
        self.revoked.add(name)

    def end(self, name: str) -> None:
        self.world.submit(DeactivateAccount(self.world.account(name)), "clinic")
        self.ended.add(name)

    def _fill(self) -> None:
        give = self.give
        self.world.time_ms = START_MS + 1_000
        give("whole", "pat", "doc")
        give("all", "pat", "doc", actions=sorted(ALL), purposes=PURPOSES)
        give("append", "pat", "clinic", actions=["append"], purposes=["TREAT", "HOPERAT"])
        give("blob", "pat", "doc2", blob="b1", purposes=["TREAT", "HRESCH"])
        give("range", "pat", "doc2", blob="b1", bytes_=(100, 200), actions=["read", "share"])
        give("start", "pat", "watch", blob="b2", bytes_=(0, 10))
        give("future", "pat", "doc", since=START_MS + 5 * DAY)
        give("short", "pat", "doc", until=START_MS + 2 * DAY)
        give("gone", "pat", "doc2")
        give("others", "pat2", "doc", record="s", purposes=["TREAT", "PATRQT"])
        give("r-grant", "pat", "doc", record="r-restricted", actions=["read", "append"])
        give("to-patient", "pat", "pat2", purposes=["FAMRQT"])
        # Passed on: narrower at each step, to the greatest depth that the ledger takes.
        give("c0", "pat", "d0", actions=sorted(ALL), purposes=PURPOSES)
        for number in range(1, 8):
            give(
                f"c{number}", f"d{number - 1}", f"d{number}",
                actions=["read", "share"] if number > 3 else sorted(ALL),
                purposes=PURPOSES[: 13 - number],
                since=START_MS + number,
                until=START_MS + (20 - number) * DAY,
                under=f"c{number - 1}",
            )  # fmt: skip
        give("part", "doc2", "d8", blob="b1", bytes_=(150, 200), under="range")
        give("cut", "pat", "d8", actions=["read", "share"])
        give("below-cut", "d8", "d9", under="cut")
        give("late", "pat", "d9", actions=["read", "share"], since=START_MS + 3 * DAY)
        give("ending", "pat", "d6", record="r-psy", actions=["read", "share"])
        give("below-ending", "d6", "doc2", record="r-psy", under="ending")
        # A request that was approved conveys what its grant does, and no more.
        self.world.submit(self.world.ask("q", record=record_id("r-psy")), "doc")
        give("asked", "pat", "doc", record="r-psy")
        self.world.submit(self.world.approval("q", "asked"), "pat")
        self.world.submit(self.world.ask("open", record=record_id("r-psy")), "doc2")
        for record, label in LABELS.items():
            if not left_out_for(label, CEILING, EXCLUDED):
                give(f"by-label-{record}", "pat", "doc2", record=record)
        self.revoke("gone", "pat")
        self.revoke("cut", "pat")
        self.world.time_ms = START_MS + 3 * DAY
        give("below-late", "d9", "doc2", since=START_MS + 3 * DAY, under="late")
        self.end("d6")

    @property
    def oracle(self) -> World:
        everyone = {name for name, party in self.world.parties.items()
                    if self.world.view.account(party.account) is not None}  # fmt: skip
        return World(
            living=frozenset(everyone - self.ended),
            ended=frozenset(self.ended),
            owner_of=self.owners,
            given=self.given,
            revoked=frozenset(self.revoked),
        )


@pytest.fixture(scope="module")
def built() -> Built:
    built = Built()
    # "d7" holds a chain of the greatest depth; one more is refused, so no test passes it on.
    assert built.given["c7"].under == "c6"
    return built


def cases(built: Built, count: int, seed: int) -> Iterator[tuple[Wanted, int]]:
    """Half around real grants (near misses), half from the whole product."""
    draw = random.Random(seed)  # noqa: S311 - a sample, not a secret
    grants = [*built.given, "never-given", None]
    people = ["pat", "pat2", "doc", "doc2", "clinic", "watch", "o1", "nobody",
              *(f"d{number}" for number in range(10))]  # fmt: skip
    records = [*built.owners, "unknown"]
    moments = [START_MS - 1, START_MS, START_MS + 1, START_MS + 2 * DAY - 1, START_MS + 2 * DAY,
               START_MS + 3 * DAY, START_MS + 5 * DAY, START_MS + 13 * DAY, START_MS + 20 * DAY - 1,
               START_MS + 20 * DAY]  # fmt: skip
    purposes = [*PURPOSES, "CURIOSITY"]
    for number in range(count):
        grant = draw.choice(grants)
        given = built.given.get(grant) if grant else None
        near = number % 2 == 0
        blob, bytes_ = draw.choice(BLOBS), draw.choice(RANGES)
        if given is not None and near:
            # At most one or two things differ from what the grant says.
            off = {draw.randrange(9), draw.randrange(9)}
            holder = given.to if 0 not in off else draw.choice(people)
            presenter = holder if 1 not in off else draw.choice(people)
            record = given.record if 2 not in off else draw.choice(records)
            action = draw.choice(sorted(given.actions) if 3 not in off else sorted(ACTIONS))
            purpose = draw.choice(sorted(given.purposes) if 4 not in off else purposes)
            blob = (given.blob or blob) if 5 not in off else blob
            bytes_ = (given.bytes_ or bytes_) if 6 not in off else bytes_
            now = given.since + 3 * DAY if 7 not in off else draw.choice(moments)
        else:
            holder, record = draw.choice(people), draw.choice(records)
            if near and record in built.owners:
                holder = built.owners[record]
            presenter = holder if draw.random() < 0.7 else draw.choice(people)
            action, purpose = draw.choice(sorted(ACTIONS)), draw.choice(purposes)
            now = draw.choice(moments)
        if blob is None and draw.random() < 0.9:
            bytes_ = None  # a range of no blob is malformed: seldom worth asking
        yield Wanted(action, record, blob, bytes_, purpose, presenter, holder, grant), now


def as_request(built: Built, wanted: Wanted) -> AccessRequest:
    start, length = 0, 0
    if wanted.bytes_ is not None:
        start, end = wanted.bytes_
        length = 0 if end == END else end - start
    account = built.world.account
    return AccessRequest(
        action=ACTIONS[wanted.action],
        record=_record_id(wanted.record),
        blob=_blob_id(wanted.blob) if wanted.blob else None,
        range_start=start,
        range_length=length,
        purpose=wanted.purpose,
        presenter=account(wanted.presenter),
        holder=account(wanted.holder),
        grant=_grant_id(wanted.grant) if wanted.grant else GrantId.zero(),
    )


def compare(built: Built, count: int, seed: int) -> Counter[str]:
    """Decide every case twice; says how often each answer was given."""
    oracle, view = built.oracle, built.world.view
    counts: Counter[str] = Counter()
    for wanted, now in cases(built, count, seed):
        decision = decide(view, as_request(built, wanted), now)
        expected = may(oracle, wanted, now)
        assert decision.permitted == expected, (
            f"seed {seed}: the node says {decision.reason}, the design says "
            f"{'yes' if expected else 'no'}: {wanted} at start + {now - START_MS} ms"
        )
        if decision.permitted and (wanted.grant or "").startswith("by-label"):
            # Of the three classes only this one is within what the patient said.
            assert wanted.record == "r"
            counts["by label"] += 1
        counts[decision.reason] += 1
    return counts


def test_the_matrix_agrees_with_the_design(built: Built) -> None:
    seed = 20_240_701
    counts = compare(built, CASES, seed)
    by_label = counts.pop("by label")
    print(f"seed {seed}: {counts.total()} cases, {counts['permitted']} permitted: {counts}")
    assert counts.total() == CASES
    assert by_label
    # The sample is worth something: both answers, and every rule that can refuse.
    assert counts["permitted"] > CASES // 20
    assert {
        "unknown-record", "unknown-account", "inactive-account", "unknown-purpose",
        "not-the-owner", "no-such-grant", "not-the-grantee", "wrong-record", "wrong-blob",
        "wrong-range", "wrong-purpose", "action-not-granted", "not-yet-valid", "expired",
        "revoked", "parent-revoked", "not-shareable",
    } <= counts.keys()  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_a_larger_matrix(built: Built) -> None:
    seed = int(os.environ.get("MATRIX_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    counts = compare(built, LONG_CASES, seed)
    assert counts.pop("by label")
    print(f"seed {seed}: {counts.total()} cases, {counts['permitted']} permitted")
    assert counts["permitted"]
