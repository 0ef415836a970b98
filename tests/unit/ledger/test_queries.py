"""Questions: who may see what, one answer for unknown and forbidden, proofs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.access.facts import Account, AccountKind, Action
from hcefs.errors import HcefsError, Invalid, NotFound
from hcefs.integrity import (
    consistency_proof,
    inclusion_proof,
    merkle_root,
    root_from_inclusion,
    verify_consistency,
)
from hcefs.ledger.block import sign_head
from hcefs.ledger.log import LEAVES_MAX
from hcefs.ledger.queries import Questions
from hcefs.ledger.transactions import (
    DeactivateAccount,
    RegisterAccount,
    SignedTransaction,
    Upgrade,
    decode_transaction,
)
from hcefs.ledger.transactions_keys import RotateKeys, rotate_keys
from tests.unit.ledger.replicas import (
    an_append,
    make_block,
    nodes_and_map,
    open_log,
    population,
)
from tests.unit.ledger.scenario import (
    DAY_MS,
    START_MS,
    Scenario,
    grant_id,
    public_key,
    record_id,
    seed,
    signing_key,
    token_key,
)

RECORD = record_id("r")
ACCOUNTS = ("pat", "doc", "doc2", "stranger", "idle", "clinic", "o1", "n1")


class Desk:
    """A log with every kind of account and a chain of grants, and its questions."""

    def __init__(self, folder: Path) -> None:
        self.world = Scenario()
        self.log = open_log(folder, self.world)
        self.ask = Questions(self.log)
        nodes, change = nodes_and_map(self.world)
        self.commit(*population(self.world), *nodes, change)
        for name in ("doc2", "stranger", "idle"):
            transaction = self.world.registration(name, AccountKind.PRACTITIONER)
            self.commit(self.world.sign(transaction, name, "clinic").encode())
        self.commit(an_append(self.world, "a", "x", "y", "z"))
        both = Action.READ | Action.SHARE
        self.commit(self.world.sign(self.world.grant("g", "doc", both), "pat").encode())
        child = self.world.grant("child", "doc2", parent="g")
        self.commit(self.world.sign(child, "doc").encode())
        end = DeactivateAccount(self.world.account("idle"))
        self.commit(self.world.sign(end, "clinic").encode())

    def commit(self, *transactions: bytes) -> None:
        self.log.append([make_block(self.world, transactions)])

    def account(self, name: str) -> Account:
        found = self.log.account(self.world.account(name))
        assert found is not None
        return found

    def who_may(self, question: Callable[[Account], object]) -> set[str]:
        """The accounts that get an answer; all others get the same refusal."""
        answered, refusals = set(), set()
        for name in ACCOUNTS:
            try:
                question(self.account(name))
            except NotFound as error:
                refusals.add((error.reason, error.message))
            else:
                answered.add(name)
        assert len(refusals) <= 1
        return answered


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.log.close()


def message(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(NotFound) as caught:
        call()
    return caught.value.reason, caught.value.message


def test_accounts(desk: Desk) -> None:
    world, ask = desk.world, desk.ask
    everyone = set(ACCOUNTS)
    assert desk.who_may(lambda who: ask.account(who, who.account)) == everyone
    active = desk.who_may(lambda who: ask.account(who, world.account("stranger")))
    assert active == everyone - {"idle"}
    idle = desk.who_may(lambda who: ask.account(who, world.account("idle")))
    assert idle == {"idle", "o1", "n1"}
    assert desk.who_may(lambda who: ask.account(who, world.account("nobody"))) == set()


def test_records(desk: Desk) -> None:
    ask = desk.ask
    readers = {"pat", "doc", "doc2", "n1"}
    questions: list[Callable[[Account], object]] = [
        lambda who: ask.record(who, RECORD),
        lambda who: ask.generation(who, RECORD, 0),
        lambda who: ask.leaves(who, RECORD, 0, 9),
        lambda who: ask.prove(who, RECORD, 0, 0, None),
    ]
    for question in questions:
        assert desk.who_may(question) == readers
    unknown = record_id("unknown")
    assert desk.who_may(lambda who: ask.record(who, unknown)) == set()
    doc, stranger = desk.account("doc"), desk.account("stranger")
    refusals = {
        message(lambda: ask.record(doc, unknown)),
        message(lambda: ask.record(stranger, RECORD)),
        message(lambda: ask.record(None, RECORD)),
        message(lambda: ask.generation(doc, RECORD, 1)),
        message(lambda: ask.generation(doc, RECORD, 1 << 40)),
        message(lambda: ask.account(None, stranger.account)),
        message(lambda: ask.grant(doc, grant_id("unknown"))),
        message(lambda: ask.grant(stranger, grant_id("g"))),
        message(lambda: ask.grants_on_record(stranger, RECORD)),
        message(lambda: ask.my_grants(None)),
        message(lambda: ask.my_records(desk.account("idle"))),
    }
    assert len(refusals) == 1


def test_grants(desk: Desk) -> None:
    ask = desk.ask
    assert desk.who_may(lambda who: ask.grant(who, grant_id("g"))) == {"pat", "doc", "n1"}
    child = desk.who_may(lambda who: ask.grant(who, grant_id("child")))
    assert child == {"pat", "doc", "doc2", "n1"}
    owner = desk.who_may(lambda who: ask.grants_on_record(who, RECORD))
    assert owner == {"pat", "n1"}
    on_record = ask.grants_on_record(desk.account("pat"), RECORD)
    assert {grant.grant for grant in on_record} == {grant_id("g"), grant_id("child")}
    assert [grant.grant for grant in ask.my_grants(desk.account("doc2"))] == [grant_id("child")]
    assert ask.my_grants(desk.account("pat")) == []
    assert [record.record for record in ask.my_records(desk.account("pat"))] == [RECORD]
    assert ask.my_records(desk.account("doc")) == []


def test_keys_that_were_are_for_active_accounts(desk: Desk) -> None:
    """Who can name an account has what it signed, and must be able to check it."""
    ask, patient = desk.ask, desk.world.account("pat")
    assert desk.who_may(lambda who: ask.past_keys(who, patient, 1)) == set()
    world = desk.world
    for version in range(2, 5):
        desk.commit(world.sign(Upgrade(version, world.height + 2), "o1", "o2").encode())
        desk.commit()
    party = world.party("pat")
    change = rotate_keys(
        world.genesis.cluster, patient, 2, signing_key("new"), token_key("new"), public_key("new")
    )
    desk.commit(world.sign(change, "pat").encode())
    assert desk.who_may(lambda who: ask.past_keys(who, patient, 1)) == set(ACCOUNTS) - {"idle"}
    found = ask.past_keys(desk.account("doc"), patient, 1)
    assert (found.key_version, found.signing_key) == (1, party.signing.public_key)
    assert desk.log.past_keys(patient, 1) == found
    proofs = [each.transaction for each in ask.account_proofs(desk.account("doc"), patient)]
    kinds = [type(decode_transaction(SignedTransaction.decode(each).body)) for each in proofs]
    assert kinds == [RegisterAccount, RotateKeys]
    for version in (0, 2, 3):
        assert desk.who_may(lambda who, v=version: ask.past_keys(who, patient, v)) == set()  # type: ignore[misc]
    with pytest.raises(NotFound):
        ask.past_keys(None, patient, 1)


def test_the_map_is_for_active_accounts(desk: Desk) -> None:
    assert desk.who_may(desk.ask.cluster_map) == set(ACCOUNTS) - {"idle"}
    assert desk.ask.cluster_map(desk.account("doc")) == desk.log.cluster_map()


def test_there_may_be_no_map_yet(tmp_path: Path) -> None:
    world = Scenario()
    log = open_log(tmp_path, world)
    operator = log.account(world.account("o1"))
    with pytest.raises(NotFound):
        Questions(log).cluster_map(operator)
    log.close()


def test_a_revoked_grant_opens_nothing_nor_do_its_children(desk: Desk) -> None:
    desk.commit(desk.world.sign(desk.world.revocation("g", "next"), "pat").encode())
    assert desk.who_may(lambda who: desk.ask.record(who, RECORD)) == {"pat", "n1"}
    grantee = desk.account("doc")
    assert desk.ask.grant(grantee, grant_id("g")).revoked_height == desk.log.height


def test_an_expired_grant_opens_nothing(desk: Desk) -> None:
    world = desk.world
    late = sign_head(
        world.genesis,
        world.header,
        world.app_hash,
        START_MS + 30 * DAY_MS,
        world.writer,
        term=1,
    )
    desk.log.keep_head(replace(late, time_ms=late.time_ms - 1))
    assert "doc" in desk.who_may(lambda who: desk.ask.record(who, RECORD))
    desk.log.keep_head(late)
    assert desk.who_may(lambda who: desk.ask.record(who, RECORD)) == {"pat", "n1"}


def test_leaves(desk: Desk) -> None:
    doc = desk.account("doc")
    commitments = [seed("commitment " + name) for name in "xyz"]
    assert [leaf.commitment for leaf in desk.ask.leaves(doc, RECORD, 0, 9)] == commitments
    assert [leaf.commitment for leaf in desk.ask.leaves(doc, RECORD, 1, 1)] == commitments[1:2]
    assert desk.ask.leaves(doc, RECORD, 3, 1) == desk.ask.leaves(doc, RECORD, 0, 0) == []
    found = desk.ask.has_leaf(doc, RECORD, commitments[1])
    assert found is not None
    assert found.commitment == commitments[1]
    assert desk.ask.has_leaf(doc, RECORD, seed("other")) is None
    for first, count in ((-1, 1), (0, -1)):
        with pytest.raises(Invalid):
            desk.ask.leaves(doc, RECORD, first, count)


def test_many_leaves_at_once(desk: Desk) -> None:
    doc, pat = desk.account("doc"), desk.account("pat").account
    x, y = seed("commitment x"), seed("commitment y")
    asked = [(y, None), (seed("other"), None), (x, pat), (x, doc.account)]
    found = desk.ask.has_leaves(doc, RECORD, asked)
    assert found == [desk.ask.has_leaf(doc, RECORD, *each) for each in asked]
    assert [leaf.commitment if leaf else None for leaf in found] == [y, None, x, None]
    assert desk.ask.has_leaves(doc, RECORD, [(x, None)] * LEAVES_MAX)[-1] == found[2]
    with pytest.raises(Invalid):
        desk.ask.has_leaves(doc, RECORD, [(x, None)] * (LEAVES_MAX + 1))
    with pytest.raises(NotFound):
        desk.ask.has_leaves(None, RECORD, [])


def test_whoever_was_given_an_opening_may_look_for_its_leaf(desk: Desk) -> None:
    """The commitment is salted: to name it is to have been let in by somebody."""
    asked = seed("commitment x")
    active = set(ACCOUNTS) - {"idle"}
    assert desk.who_may(lambda who: desk.ask.has_leaf(who, RECORD, asked)) == active
    with pytest.raises(NotFound):
        desk.ask.has_leaf(None, RECORD, asked)


def test_proofs_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    world = Scenario()
    log = open_log(tmp_path, world)
    log.append([make_block(world, population(world))])
    names = [f"c{number}" for number in range(19)]
    log.append([make_block(world, [an_append(world, "first", *names[:6])])])
    log.append([make_block(world, [an_append(world, "second", *names[6:])])])
    ask = Questions(log)
    pat = log.account(world.account("pat"))
    hashes = [leaf.hash() for leaf in ask.leaves(pat, RECORD, 0, 99)]
    for size in range(1, 20):
        leaves = hashes[:size]
        root = merkle_root(leaves)
        for index in range(size):
            answer = ask.prove(pat, RECORD, size, index, None)
            assert answer == (size, root, inclusion_proof(leaves, index))
            assert root_from_inclusion(size, index, leaves[index], answer[2]) == root
        for old in range(size + 1):
            answer = ask.prove(pat, RECORD, size, None, old)
            assert answer == (size, root, consistency_proof(leaves, old))
            verify_consistency(old, merkle_root(leaves[:old]), size, root, answer[2])
    assert ask.prove(pat, RECORD, 0, 3, None)[0] == 19
    log.close()


def test_what_cannot_be_proved(desk: Desk) -> None:
    doc = desk.account("doc")
    bad: list[tuple[int, int | None, int | None]] = [
        (0, None, None),
        (0, 1, 1),
        (4, 0, None),
        (-1, 0, None),
        (3, 3, None),
        (3, -1, None),
        (3, None, 4),
        (3, None, -1),
    ]
    for size, index, old in bad:
        with pytest.raises(Invalid) as caught:
            desk.ask.prove(doc, RECORD, size, index, old)
        assert caught.value.reason == "bad-range"


def test_a_record_without_leaves_has_the_empty_tree(desk: Desk) -> None:
    desk.commit(desk.world.sign(desk.world.opening("empty", "pat"), "pat").encode())
    pat, empty = desk.account("pat"), record_id("empty")
    assert desk.ask.prove(pat, empty, 0, None, 0) == (0, merkle_root([]), [])
    with pytest.raises(HcefsError):
        desk.ask.prove(pat, empty, 0, 0, None)
