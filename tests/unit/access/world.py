"""A small ledger state for the tests of access: accounts, one record, grants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy
from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import Account, AccountKind, Action, Generation, Grant, PastKeys, Record
from hcefs.access.rights import AccessRequest
from hcefs.access.token import Use
from hcefs.crypto.signing import SigningKey
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId

NOW_MS = 1_700_000_000_500
HOUR_MS = 3_600_000

CLUSTER = ClusterId(b"c" * 16)
OTHER_CLUSTER = ClusterId(b"d" * 16)
RECORD = RecordId(b"r" * 16)
OTHER_RECORD = RecordId(b"s" * 16)
BLOB = BlobId.of(b"b" * 16)
OTHER_BLOB = BlobId.of(b"e" * 16)
OWNER = AccountId(b"owner-----------")
DOCTOR = AccountId(b"doctor----------")
NURSE = AccountId(b"nurse-----------")
NODE = AccountId(b"node------------")
STRANGER = AccountId(b"stranger--------")
GRANT = GrantId(b"g" * 16)
CHILD = GrantId(b"h" * 16)
NO_GRANT = GrantId.zero()
NO_ACCOUNT = AccountId.zero()

ALL = Action.READ | Action.APPEND | Action.SHARE


def key_of(account: AccountId) -> SigningKey:
    """The token key of a test account: its id twice is the seed."""
    return SigningKey.from_seed(bytes(account) * 2)


def account(name: AccountId, **changes: Any) -> Account:
    known = Account(
        account=name,
        kind=AccountKind.PRACTITIONER,
        key_version=1,
        signing_key=bytes(32),
        token_key=key_of(name).public_key,
        receiving_key=b"",
        spki=b"",
        admitted_by=NO_ACCOUNT,
        active=True,
        height=1,
    )
    return replace(known, **changes)


def grant(**changes: Any) -> Grant:
    """The owner lets the doctor do everything to the whole record, for an hour."""
    given = Grant(
        grant=GRANT,
        record=RECORD,
        blob=None,
        range_start=0,
        range_length=0,
        granter=OWNER,
        grantee=DOCTOR,
        actions=ALL,
        purposes=("TREAT", "HRESCH"),
        not_before_ms=NOW_MS - HOUR_MS,
        not_after_ms=NOW_MS + HOUR_MS,
        parent=None,
        height=2,
        revoked_height=0,
    )
    return replace(given, **changes)


def child(**changes: Any) -> Grant:
    """The doctor passes it on to the nurse."""
    passed = grant(grant=CHILD, granter=DOCTOR, grantee=NURSE, parent=GRANT)
    return replace(passed, **changes)


@dataclass
class FakeView:
    """A ledger view over plain dictionaries."""

    accounts: dict[AccountId, Account] = field(default_factory=dict)
    past: dict[tuple[AccountId, int], PastKeys] = field(default_factory=dict)
    records: dict[RecordId, Record] = field(default_factory=dict)
    grants: dict[GrantId, Grant] = field(default_factory=dict)
    erasures: dict[RecordId, Erasure] = field(default_factory=dict)
    namings: dict[GrantId, EmergencyNaming] = field(default_factory=dict)
    policy: EmergencyPolicy = field(default_factory=EmergencyPolicy)
    refused: set[RecordId] = field(default_factory=set)
    height: int = 7
    time_ms: int = NOW_MS

    def account(self, account: AccountId) -> Account | None:
        return self.accounts.get(account)

    def past_keys(self, account: AccountId, key_version: int) -> PastKeys | None:
        return self.past.get((account, key_version))

    def record(self, record: RecordId) -> Record | None:
        return self.records.get(record)

    def generation(self, record: RecordId, number: int) -> Generation | None:
        return None

    def grant(self, grant: GrantId) -> Grant | None:
        return self.grants.get(grant)

    def erasure(self, record: RecordId) -> Erasure | None:
        return self.erasures.get(record)

    def emergency_naming(self, naming: GrantId) -> EmergencyNaming | None:
        return self.namings.get(naming)

    def emergency_policy(self) -> EmergencyPolicy:
        return self.policy

    def emergency_refused(self, record: RecordId) -> bool:
        return record in self.refused


def view(*grants: Grant, **accounts: Account) -> FakeView:
    """The usual world; keyword arguments replace accounts by their role."""
    known = {name: account(name) for name in (OWNER, DOCTOR, NURSE, NODE)}
    known |= {changed.account: changed for changed in accounts.values()}
    return FakeView(
        accounts=known,
        records={name: Record(name, OWNER, 1, 0, (), 1) for name in (RECORD, OTHER_RECORD)},
        grants={given.grant: given for given in grants},
    )


def request(**changes: Any) -> AccessRequest:
    """The doctor reads a blob for treatment."""
    asked = AccessRequest(
        action=Action.READ,
        record=RECORD,
        blob=BLOB,
        range_start=0,
        range_length=0,
        purpose="TREAT",
        presenter=DOCTOR,
        holder=DOCTOR,
        grant=GRANT,
    )
    return replace(asked, **changes)


DOCTORS_USE = Use(CLUSTER, DOCTOR, GRANT)
