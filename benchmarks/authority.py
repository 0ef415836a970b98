"""What the proof, the token and the rights of a repeated small get cost the entry node.

Measured in this process with the very objects that a node uses, over a small
ledger view in memory: a doctor with a grant, who gets again and again with the
token that the node has seen before and a fresh proof each time.

Not counted: looking the facts up in a replica on disk, and the receipt.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy
from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import Account, AccountKind, Action, Generation, Grant, PastKeys, Record
from hcefs.access.token import Narrowing, TokenCache, mint
from hcefs.access.verifier import NonceMemory, Verifier
from hcefs.crypto.signing import RequestProof, SigningKey
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId
from hcefs.integrity import blake3_digest

NOW_MS: Final = 1_700_000_000_000
HOUR_MS: Final = 3_600_000
CLUSTER: Final = ClusterId(b"c" * 16)
RECORD: Final = RecordId(b"r" * 16)
BLOB: Final = BlobId.of(b"b" * 16)
OWNER: Final = AccountId(b"o" * 16)
DOCTOR: Final = AccountId(b"d" * 16)
NODE: Final = AccountId(b"n" * 16)
GRANT: Final = GrantId(b"g" * 16)
KEY: Final = SigningKey.from_seed(b"k" * 32)


@dataclass
class _View:
    """The ledger's facts about one record, its owner, a doctor and the doctor's grant."""

    height: int = 10
    time_ms: int = NOW_MS

    def account(self, account: AccountId) -> Account | None:
        return Account(
            account=account,
            kind=AccountKind.PRACTITIONER,
            key_version=1,
            signing_key=KEY.public_key,
            token_key=KEY.public_key,
            receiving_key=b"",
            spki=b"",
            admitted_by=AccountId.zero(),
            active=True,
            height=1,
        )

    def past_keys(self, account: AccountId, key_version: int) -> PastKeys | None:
        del account, key_version
        return None

    def record(self, record: RecordId) -> Record | None:
        return Record(record=record, owner=OWNER, generation=0, leaf_count=0, peaks=(), height=2)

    def generation(self, record: RecordId, number: int) -> Generation | None:
        return None

    def erasure(self, record: RecordId) -> Erasure | None:
        return None

    def emergency_naming(self, naming: GrantId) -> EmergencyNaming | None:
        return None

    def emergency_policy(self) -> EmergencyPolicy:
        return EmergencyPolicy()

    def emergency_refused(self, record: RecordId) -> bool:
        return False

    def grant(self, grant: GrantId) -> Grant | None:
        return Grant(
            grant=grant,
            record=RECORD,
            blob=None,
            range_start=0,
            range_length=0,
            granter=OWNER,
            grantee=DOCTOR,
            actions=Action.READ,
            purposes=("TREAT",),
            not_before_ms=NOW_MS - HOUR_MS,
            not_after_ms=NOW_MS + HOUR_MS,
            parent=None,
            height=3,
            revoked_height=0,
        )


def cpu_ms(count: int) -> float:
    """CPU milliseconds of one authorization: the mean of ``count``."""
    verifier = Verifier(CLUSTER, _View(), NODE, TokenCache(), NonceMemory())
    # As the SDK makes them: for its account alone, for a while.
    narrowing = Narrowing(not_after_ms=NOW_MS + HOUR_MS, presenter=DOCTOR)
    token = mint(KEY, CLUSTER, DOCTOR, GRANT, narrowing)
    hashed = blake3_digest(token)
    proofs = [_proof(hashed, number) for number in range(count + 1)]

    def admit(proof: bytes) -> None:
        presented = verifier.present(
            token,
            proof,
            method="get",
            record=RECORD,
            blob=BLOB,
            range_start=0,
            range_length=0,
            gateway=NODE,
            now_ms=NOW_MS,
            remember_nonce=True,
        )
        verifier.authorize(presented, Action.READ, NOW_MS)

    admit(proofs.pop())  # the first one of a token verifies it
    started = time.thread_time()
    for proof in proofs:
        admit(proof)
    return (time.thread_time() - started) / count * 1000


def _proof(token_hash: bytes, number: int) -> bytes:
    body = RequestProof(
        cluster=CLUSTER,
        token_hash=token_hash,
        method="get",
        record=RECORD,
        blob=BLOB,
        range_start=0,
        range_length=0,
        purpose="TREAT",
        gateway=NODE,
        nonce=number.to_bytes(16, "big"),
        time_ms=NOW_MS,
        presenter=DOCTOR,
        key_version=1,
    )
    return body.signed(KEY).encode()
