"""A set of TLS files is judged as a whole, and bundles are read whole."""

from __future__ import annotations

import pytest

from hcefs.errors import Invalid
from hcefs.transport import tls
from hcefs.transport.tls import Identity, issue, new_authority, spki_hash, validity
from hcefs.transport.tls_identity import (
    AUTHORITIES_MAX,
    CurrentIdentity,
    authorities,
    check_identity,
    common_name,
    earliest_end_ms,
    fingerprint,
)

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
HOSTS = ["localhost", "127.0.0.1"]

OLD = new_authority("one", now_ms=NOW_MS)
NEW = new_authority("one 2", now_ms=NOW_MS)
LEAF = issue(*OLD, "node 1", HOSTS, now_ms=NOW_MS)
GOOD = Identity(OLD[0], *LEAF)


def reason(identity: Identity, now_ms: int = NOW_MS, **more: object) -> str:
    with pytest.raises(Invalid) as caught:
        check_identity(identity, now_ms, **more)  # type: ignore[arg-type]
    assert b"PRIVATE" not in str(caught.value).encode()
    return caught.value.reason


def test_what_fits_passes() -> None:
    check_identity(GOOD, NOW_MS, pin=spki_hash(GOOD.certificate), hosts=HOSTS)
    bundled = Identity(OLD[0] + NEW[0], *LEAF)
    check_identity(bundled, NOW_MS, hosts=["localhost"])
    check_identity(Identity(NEW[0] + OLD[0], *LEAF), NOW_MS)


def test_each_fault_is_named() -> None:
    other = issue(*OLD, "node 2", HOSTS, now_ms=NOW_MS)
    assert reason(Identity(OLD[0], LEAF[0], other[1])) == "bad-certificate"
    assert reason(Identity(OLD[0], b"junk", LEAF[1])) == "bad-certificate"
    assert reason(Identity(OLD[0], LEAF[0], b"junk")) == "bad-key"
    assert reason(Identity(b"junk", *LEAF)) == "bad-certificate"
    assert reason(Identity(LEAF[0], *LEAF)) == "bad-authority"
    assert reason(Identity(NEW[0], *LEAF)) == "wrong-authority"
    assert reason(GOOD, NOW_MS - DAY_MS) == "not-yet-valid"
    assert reason(GOOD, NOW_MS + 731 * DAY_MS) == "expired"
    assert reason(GOOD, hosts=[*HOSTS, "node-1.example"]) == "missing-host"
    assert reason(GOOD, pin=spki_hash(other[0])) == "wrong-key"
    assert reason(Identity(OLD[0] * (AUTHORITIES_MAX + 1), *LEAF)) == "bad-certificate"


def test_an_authority_of_the_same_name_does_not_do() -> None:
    impostor = new_authority("one", now_ms=NOW_MS)
    assert reason(Identity(impostor[0], *LEAF)) == "wrong-authority"


def test_a_renewed_certificate_keeps_key_name_and_hosts() -> None:
    later = NOW_MS + 100 * DAY_MS
    made = tls.renew(*NEW, LEAF[0], now_ms=later)
    assert spki_hash(made) == spki_hash(LEAF[0])
    assert common_name(made) == "node 1"
    assert validity(made).hosts == validity(LEAF[0]).hosts
    assert validity(made).until_ms > validity(LEAF[0]).until_ms
    assert fingerprint(made) != fingerprint(LEAF[0])
    check_identity(Identity(OLD[0] + NEW[0], made, LEAF[1]), later, pin=spki_hash(LEAF[0]))


def test_a_bundle_is_read_whole() -> None:
    early = new_authority("early", now_ms=NOW_MS - 1000 * DAY_MS)
    bundle = NEW[0] + early[0]
    assert authorities(bundle) == (NEW[0], early[0])
    assert earliest_end_ms(bundle) == validity(early[0]).until_ms
    leaf = issue(*early, "n", HOSTS, now_ms=NOW_MS)[0]
    assert tls.is_issued_by(leaf, bundle)
    assert not tls.is_issued_by(leaf, NEW[0])
    with pytest.raises(Invalid):
        authorities(b"")


def test_the_set_in_use_has_a_version() -> None:
    current = CurrentIdentity(GOOD)
    assert current.used == (GOOD, 0)
    better = Identity(NEW[0], *LEAF)
    current.replace(better)
    assert current.used == (better, 1)
