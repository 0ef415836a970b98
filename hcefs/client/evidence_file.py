"""The file of an evidence bundle: a zip with the proofs, payloads, and the verifier itself.

Invariants: the file is private to its owner and appears under its name only when it is
whole and the verifier that goes with it has found it to hold.
Source: docs/decisions/0037-evidence.md.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import aclosing
from importlib.resources import files
from pathlib import Path
from typing import IO

from hcefs.client.client import Client
from hcefs.client.evidence import EvidenceBundle
from hcefs.client.listing import Listing
from hcefs.client.verify_evidence import Report, verify_file
from hcefs.errors import Conflict, Corrupt
from hcefs.formats.manifest import Core
from hcefs.ids import GrantId, RecordId

VERIFIER = "verify_evidence.py"
PAYLOADS = "payloads/"
_README = """\
Evidence of record {record}
of cluster {cluster}, made by {account}.

  evidence.cbor       the proofs
  payloads/           the payloads, if they were exported
  {verifier}  checks all of it, without the system that made it

To verify: read {verifier} (or get it from somebody you trust), then

  pip install cryptography blake3
  python {verifier} {name} --cluster CLUSTER

and ask somebody else than the sender for the cluster's id. Whoever has the payloads here has
read them: they are not encrypted, and their data keys are in evidence.cbor.
"""


def verifier_text() -> str:
    """The verifier: one file that needs nothing of this package."""
    return (files("hcefs.client") / VERIFIER).read_text(encoding="utf-8")


async def export_evidence(
    client: Client,
    record: RecordId,
    path: Path,
    *,
    grant: GrantId | None = None,
    purpose: str = "PATRQT",
    payloads: bool = False,
) -> tuple[Report, Listing]:
    """Gather a record's evidence into a new file; returns what the verifier says of it.

    Raises:
        Conflict: ``file-exists``.
        Denied, NotFound, Unavailable: as :meth:`~hcefs.client.evidence.EvidenceClient.evidence`.
        Corrupt: ``bad-evidence``: what nodes and ledger gave does not hold.
    """
    _require_new(path)
    bundle, listing = await client.evidence(record, grant=grant, purpose=purpose, payloads=payloads)
    cluster = client.connection.cluster.text
    partial = path.with_name(path.name + ".partial")
    readme = _README.format(
        record=record, cluster=cluster, account=client.account, verifier=VERIFIER, name=path.name
    )
    try:
        with _private(partial) as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr("evidence.cbor", bundle.encode())
            archive.writestr(VERIFIER, verifier_text())
            archive.writestr("README.txt", readme)
            if payloads:
                await _write_payloads(client, bundle, grant, purpose, archive)
        report = await client.runtime.compute(verify_file, str(partial), cluster)
        if report.wrong:
            raise Corrupt(
                f"the evidence that was gathered does not hold: {report.wrong[0]}",
                reason="bad-evidence",
            )
        _publish(partial, path)
    finally:
        _discard(partial)
    return report, listing


async def _write_payloads(
    client: Client,
    bundle: EvidenceBundle,
    grant: GrantId | None,
    purpose: str,
    archive: zipfile.ZipFile,
) -> None:
    for entry in bundle.entries:
        if not entry.dek:
            continue
        blob = Core.decode(entry.core).blob
        # Whether the writer signed it or not: it is compared with what the entry binds.
        stream = await client.get(
            bundle.record, blob, grant=grant, purpose=purpose, allow_unsigned=True
        )
        async with aclosing(stream):
            with archive.open(f"{PAYLOADS}{blob}", "w", force_zip64=True) as target:
                async for data in stream:
                    target.write(data)


def _require_new(path: Path) -> None:
    if path.exists():
        raise Conflict(f"{path} exists: name another file", reason="file-exists")


def _publish(partial: Path, path: Path) -> None:
    partial.rename(path)


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)


def _private(path: Path) -> IO[bytes]:
    """A new file that nobody else may read: with payloads it holds them in the clear."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))
