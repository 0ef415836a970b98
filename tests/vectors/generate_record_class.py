"""Golden vectors of the classes of records."""

from __future__ import annotations

from typing import Any

from hcefs.formats.record_class import Confidentiality, RecordClass

CLASSES = {
    "unrestricted": RecordClass.of(Confidentiality.U),
    "normal, psychiatry and HIV": RecordClass.of(Confidentiality.N, ["PSY", "HIV"]),
    "very restricted": RecordClass.of(Confidentiality.V, ["CEL"]),
}


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    return {
        name: {"encoded": made.encode().hex(), "payload": made.payload().hex()}
        for name, made in CLASSES.items()
    }
