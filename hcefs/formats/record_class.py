"""The sensitivity class of a record: how confidential it is, and in what respects.

Owns the codes, their order and their hierarchy, and the payload that says a record's
class.  A record has one class, fixed when it is opened: it is the content of the record's
*first* entry, sealed by the owner's own client like any payload, so that neither nodes nor
the ledger learn it, and no later entry can change it.  Every payload has one size, so that
the length of the ciphertext tells nothing either.

Codes are those of HL7: v3-Confidentiality for the level, and for the sensitivities the
concepts of v3-ActCode below InformationSensitivityPolicy, with the hierarchy that HL7
gives them (a test compares them with HL7's own files).

Source: docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hcefs.encoding import Encoded
from hcefs.errors import Invalid

CLASS_CONTENT_TYPE = "application/vnd.hcefs.record-class"
"""Content type, inside the sealed metadata, of the entry that says a record's class."""

CLASS_PAYLOAD_SIZE = 512
_LENGTH_SIZE = 2


class Confidentiality(enum.IntEnum):
    """Codes of HL7 v3-Confidentiality, in their order."""

    U = 0
    """Unrestricted."""
    L = 1
    """Low."""
    M = 2
    """Moderate."""
    N = 3
    """Normal."""
    R = 4
    """Restricted."""
    V = 5
    """Very restricted."""


SENSITIVITIES: Mapping[str, str] = MappingProxyType(
    {
        # of acts
        "ETH": "", "GDIS": "", "HIV": "", "MST": "", "SCA": "", "SDV": "", "SEX": "", "SPI": "",
        "BH": "SPI", "COGN": "BH", "DVD": "BH", "EMOTDIS": "BH", "MH": "SPI", "PSY": "SPI",
        "PSYTHPN": "SPI", "SUD": "SPI", "ETHUD": "SUD", "OPIOIDUD": "SUD",
        "STD": "", "TBOO": "", "VIO": "",
        # of entities
        "DEMO": "", "DOB": "", "GENDER": "", "LIVARG": "", "MARST": "", "RACE": "", "REL": "",
        # of roles
        "B": "", "EMPL": "", "LOCIS": "", "SSP": "",
        # of others
        "ADOL": "", "CEL": "", "DIA": "", "DRGIS": "", "EMP": "", "PDS": "", "PHY": "", "PRS": "",
    }
)  # fmt: skip
"""Codes of v3-ActCode for sensitivities, each with the one above it, or nothing."""


@dataclass(frozen=True)
class RecordClass(Encoded):
    """The class of a record; ``sensitivities`` are codes of :data:`SENSITIVITIES`, sorted."""

    KIND = "record-class"

    confidentiality: Confidentiality
    sensitivities: tuple[str, ...]

    @classmethod
    def of(cls, confidentiality: Confidentiality, sensitivities: Iterable[str] = ()) -> RecordClass:
        """The class with these codes, in any order.

        Raises:
            Invalid: ``unknown-sensitivity``.
        """
        made = cls(confidentiality, tuple(sorted(set(sensitivities))))
        made.check()
        return made

    def check(self) -> None:
        """Check the codes and their order.

        Raises:
            Invalid: ``unknown-sensitivity``.
        """
        known_sensitivities(self.sensitivities)
        if self.sensitivities != tuple(sorted(set(self.sensitivities))):
            raise Invalid(
                "record class: the sensitivities are sorted and distinct",
                reason="unknown-sensitivity",
            )

    def payload(self) -> bytes:
        """The content of the record's first entry: always ``CLASS_PAYLOAD_SIZE`` bytes."""
        data = self.encode()
        return (len(data).to_bytes(_LENGTH_SIZE, "big") + data).ljust(CLASS_PAYLOAD_SIZE, b"\0")

    @classmethod
    def of_payload(cls, payload: bytes) -> RecordClass:
        """The inverse of :meth:`payload`.

        Raises:
            Invalid: ``bad-class``, or what the encoding is malformed by.
        """
        end = _LENGTH_SIZE + int.from_bytes(payload[:_LENGTH_SIZE], "big")
        if len(payload) != CLASS_PAYLOAD_SIZE or any(payload[end:]):
            raise Invalid(
                "the record's first entry says a class and is malformed: its owner opens "
                "another record",
                reason="bad-class",
            )
        found = cls.decode(payload[_LENGTH_SIZE:end])
        found.check()
        return found

    def touches(self, excluded: Iterable[str]) -> str:
        """The first of the record's sensitivities that one of ``excluded`` covers, or nothing.

        A code covers those below it: who excludes ``SUD`` excludes ``OPIOIDUD``.
        """
        codes = frozenset(excluded)
        for sensitivity in self.sensitivities:
            if not codes.isdisjoint(_upwards(sensitivity)):
                return sensitivity
        return ""


def left_out_for(
    found: RecordClass | None, ceiling: Confidentiality, excluded: Iterable[str]
) -> str:
    """Why a record of a class is not within a ceiling and its exclusions; nothing if it is.

    A record without a class is never within them: what is not known is not given.
    """
    if found is None:
        return "no-class"
    if found.confidentiality > ceiling:
        return f"above-ceiling:{found.confidentiality.name}"
    touched = found.touches(excluded)
    return f"excluded:{touched}" if touched else ""


def known_sensitivities(codes: Iterable[str]) -> tuple[str, ...]:
    """The codes, if all are known.

    Raises:
        Invalid: ``unknown-sensitivity``.
    """
    found = tuple(codes)
    if not SENSITIVITIES.keys() >= set(found):
        raise Invalid(
            "a sensitivity is unknown; use codes of HL7 v3-ActCode: " + " ".join(SENSITIVITIES),
            reason="unknown-sensitivity",
        )
    return found


def _upwards(code: str) -> list[str]:
    found = []
    while code:
        found.append(code)
        code = SENSITIVITIES[code]
    return found
