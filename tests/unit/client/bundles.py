"""Bundles for tests: written, and taken apart."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from hcefs.client.evidence import EvidenceBundle
from hcefs.client.verify_evidence import Wrong, verify_file


def write_bundle(
    path: Path, proofs: bytes | EvidenceBundle, payloads: Mapping[str, bytes] | None = None
) -> Path:
    """A bundle with such parts, whether they fit each other or not."""
    data = proofs if isinstance(proofs, bytes) else proofs.encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evidence.cbor", data)
        for name, payload in (payloads or {}).items():
            archive.writestr(f"payloads/{name}", payload)
    return path


def read_bundle(path: Path) -> tuple[EvidenceBundle, dict[str, bytes]]:
    """The inverse of :func:`write_bundle`."""
    with zipfile.ZipFile(path) as archive:
        payloads = {
            name.removeprefix("payloads/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("payloads/")
        }
        return EvidenceBundle.decode(archive.read("evidence.cbor")), payloads


def rejection(path: Path, cluster: str = "") -> str:
    """Why the verifier rejects a bundle."""
    try:
        report = verify_file(str(path), cluster)
    except Wrong as error:
        return str(error)
    assert report.wrong, "the bundle was accepted"
    return report.wrong[0]
