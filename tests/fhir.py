"""HL7's own FHIR R4 files, for tests: fetched once, pinned by digest, never committed.

``make test`` runs ``python -m tests.fhir``, which fetches the npm package
``hl7.fhir.r4.examples`` (CC0) with ``npm pack`` and keeps the few files that tests read.
Without npm or a registry those tests are skipped, and say how to bring the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

NAME = "hl7.fhir.r4.examples"
VERSION = "4.0.1"
SHA512 = (
    "0d705d21939e41a48a220094ef0e87382eecc3fe81cf29668a92e4056e1ffffa"
    "53f8173de31fbc2c89b04ddbda35384f2683b3a41cefc40ccdaa37aedd7ff32f"
)
FOLDER = Path(
    os.environ.get("HCEFS_FHIR_FOLDER") or Path(__file__).parents[1] / ".venv" / "fhir" / VERSION
)
SYSTEMS = ("v3-ActReason", "v3-Confidentiality", "v3-ActCode")
CONSENTS = 12
_KEPT = tuple(f"package/CodeSystem-{name}.json" for name in SYSTEMS)


def present() -> bool:
    """Whether the files are here."""
    return (FOLDER / "complete").exists()


def install() -> None:
    """Fetch and unpack the files.

    Raises:
        OSError, subprocess.SubprocessError: no npm, or no registry.
        ValueError: the package is not the pinned one.
    """
    if present():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [npm, "pack", "--silent", f"{NAME}@{VERSION}"],
            cwd=scratch, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        (package,) = Path(scratch).glob("*.tgz")
        data = package.read_bytes()
        if hashlib.sha512(data).hexdigest() != SHA512:
            raise ValueError(f"{NAME} {VERSION} is not the package that these tests know")
        with tarfile.open(package) as archive:
            for member in archive:
                base = member.name.rpartition("/")[2]
                if member.name in _KEPT or base.startswith("Consent-consent-example-"):
                    content = archive.extractfile(member)
                    assert content is not None
                    (FOLDER / base).write_bytes(content.read())
    (FOLDER / "complete").write_text(SHA512)


def require() -> None:
    """Skip the calling test where the files are missing."""
    if not present():
        pytest.skip("HL7's files are not here: run python -m tests.fhir (needs npm)")


def code_system(name: str) -> dict[str, list[str]]:
    """The codes of a code system, each with all codes that it stands below."""
    document = json.loads((FOLDER / f"CodeSystem-{name}.json").read_text("utf-8"))
    found: dict[str, list[str]] = {}

    def walk(concepts: list[dict[str, Any]], above: list[str]) -> None:
        for concept in concepts:
            if not _retired(concept):
                found[concept["code"]] = above
            walk(concept.get("concept", []), [*above, concept["code"]])

    walk(document["concept"], [])
    return found


def _retired(concept: dict[str, Any]) -> bool:
    return any(
        each.get("code") == "status" and each.get("valueCode") == "retired"
        for each in concept.get("property", [])
    )


def consents() -> dict[str, dict[str, Any]]:
    """HL7's example Consents, by the part of their names that tells them apart."""
    prefix = "Consent-consent-example-"
    return {
        path.stem.removeprefix(prefix): json.loads(path.read_text("utf-8"))
        for path in sorted(FOLDER.glob(f"{prefix}*.json"))
    }


if __name__ == "__main__":
    try:
        install()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"{NAME} is not here, so its tests will be skipped: {error}", file=sys.stderr)
