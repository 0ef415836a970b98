"""The shape of an HPKE envelope and of the context it is bound to.

Owns bytes only: there is no key and no cipher here, so that what stores or
relays envelopes can read them without reaching :mod:`hcefs.crypto.keys`.

Invariant: ``info`` of HPKE is :meth:`EnvelopeContext.encode`, which carries its
own version; an envelope opens under exactly the context that it was sealed for.
Source: RFC 9180; draft-connolly-cfrg-xwing-kem (KEM id 0x647a);
docs/ARCHITECTURE.md, "Keys: who can read".
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.ids import ClusterId, RecordId

SUITE_XWING = 1
"""HPKE base mode: X-Wing (ML-KEM-768 + X25519), HKDF-SHA256, AES-256-GCM."""


@dataclass(frozen=True)
class Envelope(Encoded):
    """A sealed secret: the suite and HPKE's encapsulated key, ciphertext and tag."""

    KIND = "envelope"

    suite: int
    ciphertext: bytes


@dataclass(frozen=True)
class EnvelopeContext(Encoded):
    """What an envelope is for: opening it for anything else fails.

    ========  ================  =====================
    tag       subject           recipient
    ========  ================  =====================
    dek       blob id           record id
    pack      base of the pack  record id
    box       grant id          grantee's account id
    link      empty             record id
    bundle    blob id           account id
    guardian  capsule's digest  account id
    backup    id of the backup  key's fingerprint
    ========  ================  =====================
    """

    KIND = "envelope-info"

    tag: str
    suite: int
    cluster: ClusterId
    record: RecordId
    generation: int
    subject: bytes
    recipient: bytes
