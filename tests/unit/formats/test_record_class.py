"""Classes of records: what fits a ceiling, and payloads that tell nothing by their size."""

from __future__ import annotations

import pytest

from hcefs.errors import Invalid
from hcefs.formats.record_class import (
    CLASS_PAYLOAD_SIZE,
    SENSITIVITIES,
    Confidentiality,
    RecordClass,
    known_sensitivities,
    left_out_for,
)


@pytest.mark.parametrize("codes", [(), ("HIV",), ("PSY", "HIV"), tuple(SENSITIVITIES)])
@pytest.mark.parametrize("level", Confidentiality)
def test_every_payload_has_one_size_and_reads_back(
    level: Confidentiality, codes: tuple[str, ...]
) -> None:
    made = RecordClass.of(level, codes)
    payload = made.payload()
    assert len(payload) == CLASS_PAYLOAD_SIZE
    assert RecordClass.of_payload(payload) == made


def test_malformed_payloads_are_refused() -> None:
    good = RecordClass.of(Confidentiality.N, ["HIV"]).payload()
    for bad in (
        b"",
        good[:-1],
        good + b"\0",
        good[:-1] + b"\1",
        bytes(CLASS_PAYLOAD_SIZE),
        b"\xff\xff" + good[2:],
        RecordClass(Confidentiality.N, ("PSY", "HIV")).payload(),
        RecordClass(Confidentiality.N, ("HIV", "HIV")).payload(),
        RecordClass(Confidentiality.N, ("NOSUCH",)).payload(),
    ):
        with pytest.raises(Invalid):
            RecordClass.of_payload(bad)


def test_levels_are_ordered_as_hl7_orders_them() -> None:
    assert [level.name for level in sorted(Confidentiality)] == ["U", "L", "M", "N", "R", "V"]


@pytest.mark.parametrize(
    ("level", "codes", "ceiling", "excluded", "reason"),
    [
        ("N", (), "N", (), ""),
        ("U", (), "N", ("HIV",), ""),
        ("R", (), "N", (), "above-ceiling:R"),
        ("N", ("HIV",), "N", ("HIV",), "excluded:HIV"),
        ("N", ("HIV",), "N", ("PSY",), ""),
        ("N", ("OPIOIDUD",), "V", ("SUD",), "excluded:OPIOIDUD"),
        ("N", ("COGN",), "V", ("SPI",), "excluded:COGN"),
        # What is above an excluded code is not excluded by it.
        ("N", ("SUD",), "V", ("OPIOIDUD",), ""),
        ("V", ("HIV",), "N", ("HIV",), "above-ceiling:V"),
    ],
)
def test_what_is_left_out(
    level: str, codes: tuple[str, ...], ceiling: str, excluded: tuple[str, ...], reason: str
) -> None:
    found = RecordClass.of(Confidentiality[level], codes)
    assert left_out_for(found, Confidentiality[ceiling], excluded) == reason


def test_a_record_without_a_class_never_fits() -> None:
    assert left_out_for(None, Confidentiality.V, ()) == "no-class"


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(Invalid):
        known_sensitivities(["HIV", "hiv"])
    with pytest.raises(Invalid):
        RecordClass.of(Confidentiality.N, ["SICKLE"])  # retired by HL7
