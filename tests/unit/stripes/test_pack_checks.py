"""A holder keeps a pack only when layout, rows and piece agree: one test for each refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hcefs.access.facts import Generation
from hcefs.errors import Denied, HcefsError
from hcefs.formats.pack import PackEnvelope, PackLayout, PackOpening, join_lengths, join_slots
from hcefs.ids import BlobBase, RecordId
from hcefs.integrity import blake3_digest, shard_digest
from hcefs.stripes.pack_checks import (
    ROWS_BYTES_MAX,
    Scope,
    check_core,
    check_generation,
    check_openings,
    check_pack,
)
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS
from hcefs.testing.local_packs import COMMIT_BY_MS, LocalPacks
from hcefs.transport.pack_messages import batch_blobs
from hcefs.transport.packs import BatchCall, PackGroupRows, PackShard

OTHER = RecordId(b"another-record!!")
SLOTS = 5


@dataclass
class Sent:
    """A shard as it is sent to a holder; a test makes one thing wrong."""

    packs: LocalPacks
    call: BatchCall
    layout: PackLayout
    shard: PackShard
    signer: Any

    def relaid(self, **changes: Any) -> None:
        self.layout = replace(self.layout, **changes).signed(self.signer)
        self.shard = replace(self.shard, layout=self.layout.encode())

    def regrouped(self, at: int = 0, **changes: Any) -> None:
        groups = list(self.shard.groups)
        groups[at] = replace(groups[at], **changes)
        self.shard = replace(self.shard, groups=tuple(groups))

    @property
    def group(self) -> PackGroupRows:
        return self.shard.groups[0]

    @property
    def opening(self) -> PackOpening:
        return PackOpening.decode(self.group.opening)

    @property
    def envelope(self) -> PackEnvelope:
        return PackEnvelope.decode(self.group.envelope)

    def check(self) -> None:
        check_pack(self.packs.cluster.ledger, self.call, self.shard)


@pytest.fixture
def sent(packs: LocalPacks) -> Sent:
    pack = packs.seal([bytes([at]) * (100 + at) for at in range(SLOTS)])
    plan = packs.plan(pack)
    stripe = packs.body(pack, plan.profile).encode()
    keys = packs.cluster.keys[0]
    layout = PackLayout(
        pack.base, "ec-4-2", join_lengths(list(pack.lengths)),
        tuple(shard_digest([digest]) for digest in stripe.digests), 1, keys.account, 1, NOW_MS, b"",
    ).signed(keys.signing_key)  # fmt: skip
    shard = PackShard(
        pack.base, 1, layout.encode(), bytes(stripe.pieces[1]), stripe.digests[1], plan.groups,
        COMMIT_BY_MS,
    )  # fmt: skip
    return Sent(packs, plan.call, layout, shard, keys.signing_key)


def test_an_honest_shard_is_taken(sent: Sent) -> None:
    sent.check()


def _layout(**changes: Any) -> Callable[[Sent], None]:
    return lambda sent: sent.relaid(**changes)


def _shard(**changes: Any) -> Callable[[Sent], None]:
    def change(sent: Sent) -> None:
        sent.shard = replace(sent.shard, **changes)

    return change


def _group(**changes: Any) -> Callable[[Sent], None]:
    return lambda sent: sent.regrouped(**changes)


def _opening(**changes: Any) -> Callable[[Sent], None]:
    return lambda sent: sent.regrouped(opening=replace(sent.opening, **changes).encode())


def _envelope(**changes: Any) -> Callable[[Sent], None]:
    return lambda sent: sent.regrouped(envelope=replace(sent.envelope, **changes).encode())


def _by_writer(sent: Sent) -> None:
    sent.signer = sent.packs.cluster.writer.signing_key
    sent.relaid(node=sent.packs.cluster.writer.account)


def _by_patient(sent: Sent) -> None:
    sent.signer = sent.packs.cluster.patient.signing_key
    sent.relaid(node=sent.packs.cluster.patient.account)


def _forged(sent: Sent) -> None:
    sent.signer = sent.packs.cluster.keys[1].signing_key
    sent.relaid()


def _long_core(sent: Sent) -> None:
    sent.regrouped(cores=(bytes(18 << 10), *sent.group.cores[1:]))


def _other_core(sent: Sent) -> None:
    sent.regrouped(cores=(sent.group.cores[0] + b"x", *sent.group.cores[1:]))


def _too_many_rows(sent: Sent) -> None:
    sent.regrouped(cores=(bytes(ROWS_BYTES_MAX), *sent.group.cores[1:]))


def _fewer(sent: Sent) -> None:
    """The last slot is in no group."""
    opening = sent.opening
    slots = opening.slots[:-2]
    sent.regrouped(
        slots=slots,
        cores=sent.group.cores[:-1],
        wrapped_keys=sent.group.wrapped_keys[:-40],
        opening=replace(opening, slots=slots, core_digests=opening.core_digests[:-32]).encode(),
    )


def _slots(*slots: int) -> Callable[[Sent], None]:
    def change(sent: Sent) -> None:
        joined = join_slots(list(slots))
        sent.regrouped(slots=joined, opening=replace(sent.opening, slots=joined).encode())

    return change


def _twice(sent: Sent) -> None:
    """Another record claims the same slots."""
    group = replace(
        sent.group,
        record=OTHER,
        opening=replace(sent.opening, record=OTHER).encode(),
        envelope=replace(sent.envelope, record=OTHER).encode(),
    )
    sent.shard = replace(sent.shard, groups=(sent.group, group))


def _one_record_twice(sent: Sent) -> None:
    sent.shard = replace(sent.shard, groups=(sent.group, sent.group))


BASE = BlobBase(b"fedcba9876543210")


@pytest.mark.parametrize(
    ("wrong", "kind", "reason"),
    [
        (_layout(base=BASE), "invalid", "rows-disagree"),
        (_layout(profile="nonsense"), "invalid", "unknown-profile"),
        (_layout(profile="copy-3"), "invalid", "bad-layout"),
        (_layout(lengths=b"\x00"), "invalid", "bad-layout"),
        (_layout(lengths=join_lengths([100] * SLOTS + [90_000])), "corrupt", "wrong-length"),
        (_layout(shard_digests=(bytes(32),) * 6), "corrupt", "wrong-digest"),
        (_layout(key_version=2), "denied", "unknown-node"),
        (_by_patient, "denied", "unknown-node"),
        (_forged, "unauthenticated", "bad-signature"),
        (_shard(layout=b"nonsense"), "invalid", "malformed-encoding"),
        (_shard(base=BASE), "invalid", "rows-disagree"),
        (_shard(index=6), "invalid", "bad-index"),
        (_shard(index=-1), "invalid", "bad-index"),
        (_shard(index=2), "corrupt", "wrong-digest"),
        (_shard(piece=b"short"), "corrupt", "wrong-length"),
        (_shard(piece_digest=b"short"), "corrupt", "wrong-digest"),
        (_shard(piece_digest=bytes(32)), "corrupt", "wrong-digest"),
        (_shard(commit_by_ms=NOW_MS), "invalid", "bad-commit-by"),
        (_shard(commit_by_ms=NOW_MS + 200 * 24 * HOUR_MS), "invalid", "bad-commit-by"),
        (_group(record=OTHER), "invalid", "rows-disagree"),
        (_group(wrapped_keys=bytes(39)), "invalid", "rows-disagree"),
        (_group(cores=()), "invalid", "rows-disagree"),
        (_group(slots=b"\x00"), "invalid", "bad-slots"),
        (_group(slots=b""), "invalid", "bad-slots"),
        (_group(opening=b""), "invalid", "malformed-encoding"),
        (_group(envelope=b""), "invalid", "malformed-encoding"),
        (_group(envelope=bytes(4096)), "invalid", "too-large"),
        (_opening(base=BASE), "invalid", "rows-disagree"),
        (_opening(record=OTHER), "invalid", "rows-disagree"),
        (_opening(salt=b"short"), "invalid", "bad-opening"),
        (_opening(core_digests=bytes(32 * SLOTS)), "invalid", "rows-disagree"),
        (_envelope(base=BASE), "invalid", "rows-disagree"),
        (_envelope(record=OTHER), "invalid", "rows-disagree"),
        (_long_core, "invalid", "too-large"),
        (_other_core, "invalid", "rows-disagree"),
        (_too_many_rows, "invalid", "too-large"),
        (_fewer, "invalid", "rows-disagree"),
        (_slots(1, 2, 3, 4, 6), "invalid", "rows-disagree"),
        (_twice, "invalid", "rows-disagree"),
        (_one_record_twice, "invalid", "rows-disagree"),
    ],
)
def test_what_does_not_fit_is_refused(
    sent: Sent, wrong: Callable[[Sent], None], kind: str, reason: str
) -> None:
    wrong(sent)
    with pytest.raises(HcefsError) as caught:
        sent.check()
    assert (caught.value.kind, caught.value.reason) == (kind, reason)


def test_the_writer_may_sign_its_layout(sent: Sent) -> None:
    _by_writer(sent)
    sent.check()


def test_openings_are_those_of_the_batch(sent: Sent) -> None:
    ledger = sent.packs.cluster.ledger
    good = sent.group.opening
    assert check_openings(ledger, sent.call, [good], COMMIT_BY_MS) == [sent.opening]
    other = replace(sent.opening, base=BASE).encode()
    for openings, commit_by, reason in (
        ([other], COMMIT_BY_MS, "bad-opening"),
        ([good, good], COMMIT_BY_MS, "bad-opening"),
        ([b""], COMMIT_BY_MS, "malformed-encoding"),
        ([good], NOW_MS, "bad-commit-by"),
    ):
        with pytest.raises(HcefsError) as caught:
            check_openings(ledger, sent.call, openings, commit_by)
        assert caught.value.reason == reason


def test_generations_are_those_that_may_be_appended_to(sent: Sent) -> None:
    cluster = sent.packs.cluster
    ledger, record = cluster.ledger, cluster.record
    check_generation(ledger, sent.envelope)
    with pytest.raises(HcefsError) as caught:
        check_generation(ledger, replace(sent.envelope, record=OTHER))
    assert caught.value.reason == "unknown-record"
    with pytest.raises(HcefsError) as caught:
        check_generation(ledger, replace(sent.envelope, generation=7))
    assert caught.value.reason == "unknown-generation"
    ledger.records[record] = replace(ledger.records[record], generation=1)
    ledger.generations[record, 1] = Generation(record, 1, b"", 2, NOW_MS)
    check_generation(ledger, sent.envelope)
    ledger.time_ms = NOW_MS + 61_000
    with pytest.raises(HcefsError) as caught:
        check_generation(ledger, sent.envelope)
    assert caught.value.reason == "old-generation"


def test_a_core_is_its_payloads(sent: Sent) -> None:
    cluster = sent.packs.cluster
    core, blob = sent.group.cores[0], next(sent.call.groups[0].ids())
    assert check_core(core, cluster.record, blob, 148).digest() == blake3_digest(core)
    for record, length in ((OTHER, 148), (cluster.record, 149)):
        with pytest.raises(HcefsError):
            check_core(core, record, blob, length)
    with pytest.raises(HcefsError):
        check_core(sent.group.cores[1], cluster.record, blob, 149)


def test_a_scope_is_what_the_call_names(sent: Sent) -> None:
    cluster, packs = sent.packs.cluster, sent.packs
    groups = batch_blobs(sent.shard.groups, sent.shard.base)
    ids = list(groups[0].ids())
    why = Denied("not this one", reason="some-reason")
    scope = Scope(packs.call("get-many", groups, refused={(cluster.record, ids[2]): why}))
    assert scope.refusal(cluster.record, ids[0]) is None
    assert scope.refusal(cluster.record, ids[2]) is why
    for record, blob in ((OTHER, ids[0]), (cluster.record, BASE + b"\x00\x01")):
        refusal = scope.refusal(record, blob)
        assert refusal is not None
        assert refusal.reason == "wrong-blob"
    single = Scope(packs.call_of(ids[1]))
    assert single.refusal(cluster.record, ids[1]) is None
    assert single.refusal(cluster.record, ids[0]) is not None
