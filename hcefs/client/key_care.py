"""The care of keys: changing an account's, trying whether they open what they should, and
giving shares of them to guardians.

Invariants: a drill opens what a reader would open, through the same nodes, boxes and links,
and compares every key with the ledger; it reads no payload.  Keys are changed on the word
of the old ones and with the proof of the new ones; afterwards this client's own are of no
use, and the caller opens another one with the new keys.

Not guaranteed: that a drill finds every key that is lost: it tries every generation of a
record, and one blob of each.  Source: docs/decisions/0035-keys-change.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hcefs.access.facts import Action, Grant
from hcefs.client.authorize import Right, Scope
from hcefs.client.ledger import Submitted
from hcefs.client.listing import ListClient
from hcefs.client.records import OWNER_PURPOSE, RecordClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.guardians import GUARD_RANDOM_SIZE, Guardian, GuardianShare, guard
from hcefs.errors import HcefsError, Invalid
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.ledger.transactions_keys import rotate_keys

SAMPLES_MAX = 8
"""Blobs of one generation that are tried until one has a key: others may be shredded."""

_GONE = frozenset({"shredded", "unknown-blob"})
"""What is gone has no key to try: it was erased, or it is for `hcefs verify` to find."""

_ENDED = frozenset(
    {"parent-revoked", "parent-expired", "parent-not-yet-valid", "revoked", "expired"}
)


@dataclass(frozen=True)
class KeyCheck:
    """What the drill found of one right on one record.

    A zero ``grant`` is the owner's own.  ``generations`` are those whose key was derived
    or opened and is the ledger's; ``blobs`` those whose data key was opened.  ``problems``
    name what did not open; none means that everything did.
    """

    record: RecordId
    grant: GrantId
    generations: int
    blobs: int
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether everything that was tried opened."""
        return not self.problems


class KeyClient(RecordClient, ListClient):
    """The part of a client that cares for keys."""

    async def change_keys(self, new: AccountKeys) -> Submitted:
        """Put new keys in the place of this account's; from then on the old ones are dead.

        ``new`` are :meth:`AccountKeys.renewed` of the current ones, durably kept before
        this is called: once it is on the ledger, nothing else acts for the account.

        Raises:
            Invalid: ``wrong-keys``: not the next version of this account's keys.
            Denied, Conflict: why the ledger refuses it.
            Unavailable: it may be done all the same: ask with the new keys, or repeat.
        """
        if new.account != self.account or new.key_version != self._keys.key_version + 1:
            raise Invalid(
                "these are not the next version of this account's keys: renew the current ones",
                reason="wrong-keys",
            )
        current = await self.fresh_account(self.account)
        transaction = rotate_keys(
            self.connection.cluster,
            self.account,
            new.key_version,
            new.signing_key,
            new.token_key,
            new.receiving_key.public_key,
            current.spki,
        )
        return await self.submit(self._signed(transaction))

    async def key_givers(self) -> list[Grant]:
        """The live grants to read whose givers are to deliver their keys anew.

        After a change of this account's keys: what was sealed to the older ones opens for
        as long as the account file keeps those.
        """
        now = max(self.runtime.now_ms(), self.ledger_time_ms)
        found = [grant for grant in await self.grants() if _is_live_read(grant, now)]
        return sorted(found, key=lambda grant: (grant.granter, grant.record, grant.grant))

    async def deliver_again(self, grantee: AccountId) -> list[Grant]:
        """Deliver the keys of all live grants to read that this account's records give one.

        Raises:
            HcefsError: why the first of them could not be delivered; repeat it.
        """
        now = max(self.runtime.now_ms(), self.ledger_time_ms)
        delivered = []
        for record in await self.records():
            for grant in await self.grants(record.record):
                if grant.grantee == grantee and _is_live_read(grant, now):
                    await self.deliver(grant)
                    delivered.append(grant)
        return delivered

    async def guard(self, guardians: Sequence[AccountId], threshold: int) -> list[GuardianShare]:
        """Shares of this account's keys, each sealed to one guardian, in their order.

        Raises:
            Invalid: ``bad-guardians``; or ``inactive-guardian``.
            NotFound: the ledger does not know one of them.
        """
        named = []
        for account in guardians:
            fact = await self.fresh_account(account)
            if not fact.active:
                raise Invalid(
                    f"{account} was deactivated: name another guardian", reason="inactive-guardian"
                )
            named.append(Guardian(account, fact.key_version, fact.receiving_key))
        randomness = self.runtime.random(GUARD_RANDOM_SIZE)
        return await self.runtime.compute(guard, self._keys, named, threshold, randomness)

    # -- the drill

    async def verify_keys(self) -> list[KeyCheck]:
        """Try the keys of every record that this account owns or may read.

        Raises:
            Unavailable: the ledger does not answer; what nodes do not answer is a problem
                of its record.
        """
        found = []
        owned = set()
        for record in await self.records():
            owned.add(record.record)
            right = Right(GrantId.zero(), OWNER_PURPOSE)
            found.append(await self._verify_record(record.record, right, None))
        for grant in await self.key_givers():
            if grant.record in owned:
                continue
            right = Right(grant.grant, grant.purposes[0])
            check = await (
                self._verify_record(grant.record, right, grant)
                if grant.blob is None
                else self._verify_blob(grant, grant.blob, right)
            )
            if check is not None:
                found.append(check)
        return found

    async def _verify_record(self, record: RecordId, right: Right, grant: Grant | None) -> KeyCheck:
        """Every generation, and one blob of each that has any."""
        problems: list[str] = []
        good = blobs = 0
        newest = (await self.record(record)).generation
        for number in range(newest, -1, -1):
            try:
                await self._record_key(record, number, grant, right)
                good += 1
            except HcefsError as error:
                problems.append(f"generation {number}: {error.message} ({error.reason})")
        samples: dict[int, list[BlobId]] = {}
        try:
            samples = await self._samples(record, right)
        except HcefsError as error:
            problems.append(f"the list of its blobs: {error.message} ({error.reason})")
        for number, names in sorted(samples.items()):
            problem = await self._first_problem(record, right, names)
            if problem is None:
                blobs += 1
            elif problem:
                problems.append(f"a blob of generation {number}: {problem}")
        return KeyCheck(record, right.grant, good, blobs, tuple(problems))

    async def _samples(self, record: RecordId, right: Right) -> dict[int, list[BlobId]]:
        """The newest blobs of each generation."""
        listing = await self.list(record, grant=right.grant or None, purpose=right.purpose)
        leaves = await self.leaves(record, 0, listing.record.leaf_count)
        found: dict[int, list[BlobId]] = {}
        for entry in reversed(listing.entries):
            names = found.setdefault(leaves[entry.leaf_index].generation, [])
            if len(names) < SAMPLES_MAX:
                names.append(entry.blob)
        return found

    async def _first_problem(
        self, record: RecordId, right: Right, names: Sequence[BlobId]
    ) -> str | None:
        """None when one of some blobs opens; empty when all are gone for good reasons."""
        problem = ""
        for blob in names:
            try:
                manifest, _ = await self._manifest(Scope(record, blob), right, None)
                await self._blob_key(manifest, right)
            except HcefsError as error:
                if error.reason not in _GONE:
                    problem = problem or f"{error.message} ({error.reason})"
            else:
                return None
        return problem

    async def _verify_blob(self, grant: Grant, blob: BlobId, right: Right) -> KeyCheck | None:
        """The blob that a grant names; None when the right itself has ended."""
        try:
            scope = await self._scope(grant.record, blob, right)
            manifest, _ = await self._manifest(scope, right, None)
            await self._blob_key(manifest, right)
        except HcefsError as error:
            if error.reason in _ENDED:
                return None
            if error.reason in _GONE:
                return KeyCheck(grant.record, grant.grant, 0, 0, ())
            problem = f"{error.message} ({error.reason})"
            return KeyCheck(grant.record, grant.grant, 0, 0, (problem,))
        return KeyCheck(grant.record, grant.grant, 0, 1, ())


def _is_live_read(grant: Grant, now_ms: int) -> bool:
    return bool(
        grant.actions & Action.READ
        and not grant.revoked_height
        and grant.not_before_ms <= now_ms < grant.not_after_ms
    )
