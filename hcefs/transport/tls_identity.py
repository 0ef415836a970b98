"""The certificates that a process uses now: judged whole, then exchanged while it runs.

Owns the judgement of a set of TLS files before anybody uses it, and the one place in a
process that says which set that is.  Servers take it at each handshake
(:func:`serving_credentials`), channels when they are made (:mod:`hcefs.transport.dial`).

Invariants: what :func:`check_identity` lets pass fits together: key, certificate, chain and
authority; it is valid now; it is the key that the ledger names.  A set is exchanged whole:
no handshake sees the certificate of one and the authority of another.

Not guaranteed: that connections which exist are ended.  They were authenticated when they
began, and last until one end closes them.

An authority may be a *bundle*: several certificates in one file, each of which is trusted.
Source: docs/decisions/0043-certificates-that-rotate.md.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from hcefs.errors import Invalid
from hcefs.transport.tls import Identity, check_pair, spki_hash, validity

AUTHORITIES_MAX = 16
CHAIN_MAX = 8


# --- a set of files ----------------------------------------------------------------------


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate's DER: 32 bytes.  Takes PEM (the first one) or DER.

    Raises:
        Invalid: the bytes are not a certificate.
    """
    if b"-----BEGIN" in certificate:
        return hashlib.sha256(_der(_all(certificate, CHAIN_MAX + AUTHORITIES_MAX)[0])).digest()
    validity(certificate)
    return hashlib.sha256(certificate).digest()


def authorities(bundle: bytes) -> tuple[bytes, ...]:
    """The certificates of a bundle, each as PEM, in order.

    Raises:
        Invalid: it holds none, too many, or one that may not issue others.
    """
    found = _all(bundle, AUTHORITIES_MAX)
    for each in found:
        if not _is_authority(each):
            raise Invalid(
                "the authority's file holds a certificate that is no authority's: give the "
                "authority's own certificate",
                reason="bad-authority",
            )
    return tuple(each.public_bytes(serialization.Encoding.PEM) for each in found)


def earliest_end_ms(bundle: bytes) -> int:
    """When the first of a bundle's certificates ends (milliseconds).

    Raises:
        Invalid: as :func:`authorities`.
    """
    return min(validity(each).until_ms for each in authorities(bundle))


def common_name(certificate: bytes) -> str:
    """The name that a certificate was issued to; empty without one.

    Raises:
        Invalid: the bytes are not a certificate.
    """
    names = _all(certificate, CHAIN_MAX)[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def check_identity(
    identity: Identity,
    now_ms: int,
    *,
    pin: bytes | None = None,
    hosts: Sequence[str] = (),
) -> None:
    """Judge a set of certificate, key and authority as a whole.

    ``pin`` is the SHA-256 of the public key that the ledger names, if it names one;
    ``hosts`` are the names that the certificate must carry at least.

    Raises:
        Invalid: what is wrong with it and what to do; the first fault that is found.
    """
    check_pair(identity.certificate, identity.key)
    chain = _all(identity.certificate, CHAIN_MAX)
    trusted = [_all(each, 1)[0] for each in authorities(identity.authority)]
    _check_chain(chain, trusted, now_ms)
    leaf = chain[0]
    _check_uses(leaf)
    names = validity(identity.certificate).hosts
    missing = [host for host in hosts if host not in names]
    if missing or not names:
        raise Invalid(
            "the new certificate does not name "
            + (", ".join(missing[:4]) or "any host")
            + ", by which others reach this process: issue it with all the names of the one in "
            "use, or restart the process if it has moved",
            reason="missing-host",
        )
    if pin is not None and spki_hash(identity.certificate) != pin:
        raise Invalid(
            "the new certificate is for another key than the ledger names for this node: renew "
            "it under the same key (`hcefs node renew`), and put the old key back",
            reason="wrong-key",
        )


def _check_chain(
    chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], now_ms: int
) -> None:
    """Follow the issuers from the leaf to a trusted authority; all must be valid now."""
    at = datetime.datetime.fromtimestamp(now_ms / 1000, tz=datetime.UTC)
    current = chain[0]
    for _ in range(len(chain) + 1):
        _check_valid(current, at, "certificate")
        issuers = [each for each in trusted if _issued(current, each)]
        if issuers:
            if not any(each.not_valid_after_utc > at for each in issuers):
                _check_valid(issuers[0], at, "authority")
            return
        between = [each for each in chain[1:] if _is_authority(each) and _issued(current, each)]
        if not between:
            break
        current = between[0]
    raise Invalid(
        "the new certificate is not of the authority that is configured: give the authority that "
        "issued it, beside the old one while both are in use",
        reason="wrong-authority",
    )


def _check_valid(certificate: x509.Certificate, at: datetime.datetime, what: str) -> None:
    if certificate.not_valid_after_utc <= at:
        raise Invalid(
            f"the new {what} has expired already: issue another (`hcefs ca renew`)",
            reason="expired",
        )
    if certificate.not_valid_before_utc > at:
        raise Invalid(
            f"the new {what} is not valid yet: correct the clock of this machine, or wait",
            reason="not-yet-valid",
        )


def _check_uses(leaf: x509.Certificate) -> None:
    """A process is a server, and a client of the other processes."""
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(uses):
        raise Invalid(
            "the new certificate is not for both servers and clients: issue it with the extended "
            "key usages serverAuth and clientAuth",
            reason="wrong-usage",
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return bool(found.value.ca)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _all(pem: bytes, most: int) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        found = []
    if not 1 <= len(found) <= most:
        raise Invalid(
            f"the file does not hold 1 to {most} certificates in PEM: check its path in the "
            "configuration",
            reason="bad-certificate",
        )
    return found


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


# --- the set in use ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Used:
    """A set, and how often there was another before."""

    identity: Identity
    version: int


class CurrentIdentity:
    """Which certificates a process uses now; read from any thread, replaced by one."""

    def __init__(self, identity: Identity) -> None:
        self._used = _Used(identity, 0)

    @property
    def identity(self) -> Identity:
        """The set in use."""
        return self._used.identity

    @property
    def version(self) -> int:
        """Grows by one with each set; channels of an older one are to be made anew."""
        return self._used.version

    @property
    def used(self) -> tuple[Identity, int]:
        """Both at one moment."""
        used = self._used
        return used.identity, used.version

    def replace(self, identity: Identity) -> None:
        """Use this set from now on; :func:`check_identity` has let it pass."""
        self._used = _Used(identity, self._used.version + 1)


def current(identity: Identity | CurrentIdentity) -> CurrentIdentity:
    """Certificates that may change, or those that stay as they are."""
    return identity if isinstance(identity, CurrentIdentity) else CurrentIdentity(identity)


def serving_credentials(current: CurrentIdentity, *, mutual: bool) -> grpc.ServerCredentials:
    """Credentials of a port whose handshakes each use the set of that moment.

    ``mutual`` demands a client certificate of the authority.

    Raises:
        Invalid: certificate and key do not belong together, or there is no authority.
    """
    identity, version = current.used
    check_pair(identity.certificate, identity.key)
    if mutual and not identity.authority:
        raise Invalid(
            "mutual TLS needs the authority that client certificates come from",
            reason="no-authority",
        )

    def configuration(found: Identity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(found.key, found.certificate)],
            root_certificates=found.authority if mutual else None,
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(identity),
        _fetcher(current, version, configuration),  # type: ignore[arg-type]  # None: unchanged
        require_client_authentication=mutual,
    )


def _fetcher(
    current: CurrentIdentity,
    known: int,
    configuration: Callable[[Identity], grpc.ServerCertificateConfiguration],
) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """What gRPC asks at each handshake, on a thread of its own; None: as it was."""

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        identity, version = current.used
        if version == known:
            return None
        made = configuration(identity)
        known = version
        return made

    return fetch
