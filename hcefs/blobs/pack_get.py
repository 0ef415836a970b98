"""Open one packed payload on a node, for a client that cannot: keys inside one request."""

from __future__ import annotations

from hcefs.blobs.get import Secrets
from hcefs.crypto.keys import dek_commitment
from hcefs.crypto.stream import open_segment
from hcefs.errors import Denied
from hcefs.formats.manifest import Core


def open_payload(core: Core, sealed: bytes, secrets: Secrets) -> bytes:
    """The plaintext of a packed payload, which is one segment.

    Raises:
        Denied: ``wrong-key``, ``missing-secret``.
        Corrupt: the payload is not what was sealed under this key.
    """
    if secrets.dek and dek_commitment(secrets.dek) != core.dek_commitment:
        raise Denied("this key does not belong to this blob", reason="wrong-key")
    return open_segment(secrets.of(0), core.blob, core.record, True, sealed)
