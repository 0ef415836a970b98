"""Golden vectors of revocation certificates: one of all nodes, one after leases are over."""

from __future__ import annotations

from typing import Any

from tests.unit.ledger.certificates import NODES, CertificateWorld


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    made = CertificateWorld()
    over = made.head(made.over_ms).encode()
    return {
        "statement": made.statement("n1").encode().hex(),
        "signed": made.signed("n1").encode().hex(),
        "complete": made.certificate().encode().hex(),
        "lapsed": made.certificate(NODES[:2], last_head=over).encode().hex(),
        "incomplete": made.certificate(NODES[:2]).encode().hex(),
    }
