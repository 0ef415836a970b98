"""Certificates and TLS credentials: who the other end of a connection is.

Owns a small certificate authority (for operators without one, and for tests),
the credentials that gRPC takes, and the pinning of peers to the TLS key that
their account registered on the ledger.

Invariants: certificates pass OpenSSL's strict checks (RFC 5280 profile); a
leaf never outlives its authority; private keys are written with mode 0600 and
never over another file unless asked.

Pinning: gRPC for Python cannot compare an SPKI hash.  So a handshake of our own
(TLS 1.3, authority verified) fetches the peer's leaf certificate, its SPKI is
compared, and then exactly that leaf becomes the *only* root of the channel:
BoringSSL accepts a leaf that is itself a trust anchor (partial chains) and
refuses every other certificate, also of the same authority.  A peer that has renewed
its certificate under the same key is pinned anew when its connection has ended
(:mod:`hcefs.transport.pinned_channels`).

An authority may be a bundle of several certificates, while one replaces another.

Not guaranteed: key pairs and serial numbers are drawn by OpenSSL, and validity
is judged by the TLS libraries with the machine's clock; neither comes from the
Runtime.  gRPC has no setting for the lowest TLS version: channels between
HCE-FS processes always negotiate 1.3 (both ends offer it, and 1.3 detects
downgrades), but a server accepts 1.2 from others unless the environment of
``hcefs.cli.process`` is set before ``grpc`` is imported for the first time.

Source: RFC 5280, RFC 7469 section 2.4 (SPKI hash), grpc/grpc issue 37305.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import hashlib
import ipaddress
import os
import re
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hcefs.errors import Denied, Invalid, Unavailable
from hcefs.runtime import Runtime, SystemRuntime

AUTHORITY_DAYS = 3650
LEAF_DAYS = 730
BACKDATE_MS = 3_600_000
"""A new certificate is valid at once on machines whose clocks are behind."""

HANDSHAKE_SECONDS = 5.0

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_LABELS = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HOST_CHARACTERS_MAX = 253
_NAME_CHARACTERS_MAX = 64

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """The authority that this process trusts, and its own certificate and key (all PEM)."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


# --- issuing -----------------------------------------------------------------


def new_authority(name: str, *, now_ms: int | None = None) -> tuple[bytes, bytes]:
    """Create a certificate authority; returns certificate and private key (PEM).

    ``now_ms`` is the start of validity, by default the machine's clock.

    Raises:
        Invalid: the name is empty or too long.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    start = _start(now_ms)
    usage = _key_usage(signs_certificates=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key)


def issue(
    authority_pem: bytes,
    authority_key_pem: bytes,
    name: str,
    hosts: Sequence[str],
    *,
    now_ms: int | None = None,
) -> tuple[bytes, bytes]:
    """Issue a certificate for server and client use; returns it and its new key (PEM).

    ``hosts`` are the DNS names and IP addresses by which others reach the
    holder, without port or brackets.

    Raises:
        Invalid: unusable name or hosts, or an authority that is unreadable, is
            not one, or does not fit its key.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certify(
        authority_pem,
        authority_key_pem,
        _name(name),
        _alternative_names(hosts),
        key.public_key(),
        now_ms,
    )
    return certificate, _key_pem(key)


def renew(
    authority_pem: bytes,
    authority_key_pem: bytes,
    certificate_pem: bytes,
    *,
    now_ms: int | None = None,
) -> bytes:
    """Issue a certificate for the same key, name and hosts as another, valid from now on.

    The other one says whose key it is; who signed it does not matter.

    Raises:
        Invalid: an unusable certificate, or an authority as for :func:`issue`.
    """
    known = _load(certificate_pem)
    hosts = validity(certificate_pem).hosts
    key = known.public_key()
    if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        raise Invalid(
            "the certificate is for neither an elliptic-curve nor an RSA key", reason="bad-key"
        )
    return _certify(
        authority_pem, authority_key_pem, known.subject, _alternative_names(hosts), key, now_ms
    )


def _certify(
    authority_pem: bytes,
    authority_key_pem: bytes,
    subject: x509.Name,
    names: list[x509.GeneralName],
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    now_ms: int | None,
) -> bytes:
    issuer = _load(authority_pem)
    issuer_key = _load_key(authority_key_pem)
    if _spki(issuer) != _public_der(issuer_key):
        raise Invalid(
            "the authority's certificate and key do not belong together: give the pair "
            "that was created in one step",
            reason="bad-authority",
        )
    try:
        is_authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        issuer_identifier = issuer.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise Invalid(
            "the certificate is not an authority's: it may not issue others",
            reason="bad-authority",
        )
    start = _start(now_ms)
    end = min(start + datetime.timedelta(days=LEAF_DAYS), issuer.not_valid_after_utc)
    if end <= start:
        raise Invalid(
            "the authority has expired: create a new one and distribute it first",
            reason="bad-authority",
        )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start, issuer.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def spki_hash(certificate: bytes) -> bytes:
    """SHA-256 of the public key's SubjectPublicKeyInfo: 32 bytes.  Takes PEM or DER.

    Raises:
        Invalid: the bytes are not a certificate.
    """
    return hashlib.sha256(_spki(_load(certificate))).digest()


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate is valid (milliseconds), and the hosts that it names."""

    from_ms: int
    until_ms: int
    hosts: tuple[str, ...]


def validity(certificate: bytes) -> Validity:
    """When a certificate is valid, and for which hosts.  Takes PEM or DER.

    Raises:
        Invalid: the bytes are not a certificate.
    """
    loaded = _load(certificate)
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return Validity(
        int(loaded.not_valid_before_utc.timestamp() * 1000),
        int(loaded.not_valid_after_utc.timestamp() * 1000),
        (*names.get_values_for_type(x509.DNSName), *addresses),
    )


def is_issued_by(certificate: bytes, authority: bytes) -> bool:
    """Whether an authority of the file signed a certificate; says nothing about its validity.

    Raises:
        Invalid: one of the two is not a certificate.
    """
    _load(authority)
    is_bundle = b"-----BEGIN" in authority
    issuers = x509.load_pem_x509_certificates(authority) if is_bundle else [_load(authority)]
    for issuer in issuers:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            _load(certificate).verify_directly_issued_by(issuer)
            return True
    return False


# --- gRPC credentials --------------------------------------------------------


def server_credentials(
    certificate_pem: bytes, key_pem: bytes, authority_pem: bytes | None, *, mutual: bool
) -> grpc.ServerCredentials:
    """Credentials of a port; ``mutual`` demands a client certificate of the authority.

    Raises:
        Invalid: ``mutual`` without an authority, or a certificate and a key that
            are unreadable or do not belong together.
    """
    check_pair(certificate_pem, key_pem)
    if mutual and not authority_pem:
        raise Invalid(
            "mutual TLS needs the authority that client certificates come from",
            reason="no-authority",
        )
    return grpc.ssl_server_credentials(
        [(key_pem, certificate_pem)],
        root_certificates=authority_pem if mutual else None,
        require_client_auth=mutual,
    )


def client_credentials(
    authority_pem: bytes, certificate_pem: bytes | None = None, key_pem: bytes | None = None
) -> grpc.ChannelCredentials:
    """Credentials of a channel that checks the server's authority and host name.

    Raises:
        Invalid: certificate and key are unreadable or do not belong together.
    """
    _load(authority_pem)
    if certificate_pem is not None or key_pem is not None:
        check_pair(certificate_pem or b"", key_pem or b"")
    return grpc.ssl_channel_credentials(
        root_certificates=authority_pem, private_key=key_pem, certificate_chain=certificate_pem
    )


def check_pair(certificate_pem: bytes, key_pem: bytes) -> None:
    """Check that a certificate and a private key belong together (gRPC only logs it).

    Raises:
        Invalid: they do not, or one of them is unreadable.
    """
    if _spki(_load(certificate_pem)) != _public_der(_load_key(key_pem)):
        raise Invalid(
            "the TLS certificate and the TLS key do not belong together: check the paths in the "
            "configuration",
            reason="bad-certificate",
        )


async def pinned_credentials(
    runtime: Runtime, address: str, identity: Identity, expected_spki: bytes
) -> tuple[grpc.ChannelCredentials, list[tuple[str, Any]]]:
    """Credentials and channel options that accept one peer's certificate and no other.

    The host name is not compared: the key says who the peer is.

    Raises:
        Unavailable: the peer cannot be reached (``unreachable``) or does not
            complete the handshake (``tls-handshake``).
        Denied: its certificate is not the authority's, has expired, or is not
            the registered one (``wrong-certificate``).
        Invalid: the address is not ``host:port``, or the identity is unusable.
    """
    host, port = split_address(address)
    check_pair(identity.certificate, identity.key)
    context = await runtime.disk(client_context, identity)
    der = await _fetch_leaf(runtime, host, port, context)
    leaf = _load(der)
    if hashlib.sha256(_spki(leaf)).digest() != expected_spki:
        raise Denied(
            f"the certificate of {address} is not the one that its account registered on the "
            "ledger: check that the address belongs to that node, or register its new key",
            reason="wrong-certificate",
        )
    credentials = grpc.ssl_channel_credentials(
        root_certificates=leaf.public_bytes(serialization.Encoding.PEM),
        private_key=identity.key,
        certificate_chain=identity.certificate,
    )
    return credentials, [("grpc.ssl_target_name_override", _some_name(leaf, address))]


def peer_spki(context: Any) -> bytes | None:
    """SPKI hash of the client's verified certificate, inside a handler; None without one.

    Only a port with ``mutual=True`` asks for certificates.
    """
    properties = context.auth_context()
    chain = properties.get("x509_pem_cert") or ()
    return _cached_spki_hash(bytes(chain[0])) if chain else None


@functools.lru_cache(maxsize=1024)
def _cached_spki_hash(certificate: bytes) -> bytes:
    return spki_hash(certificate)


# --- the handshake of our own ------------------------------------------------


async def _fetch_leaf(runtime: Runtime, host: str, port: int, context: ssl.SSLContext) -> bytes:
    address = f"{host}:{port}"
    try:
        async with runtime.timeout(HANDSHAKE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise Denied(
            f"the certificate of {address} is not valid here: {error.verify_message}",
            reason="wrong-certificate",
        ) from None
    except ssl.SSLError as error:
        raise Unavailable(
            f"{address} does not complete a TLS 1.3 handshake ({error.reason}): check that the "
            "address is a peer port",
            reason="tls-handshake",
        ) from None
    except (TimeoutError, OSError) as error:
        raise Unavailable(
            f"{address} cannot be reached ({type(error).__name__}): check that the node runs and "
            "that its address in the map is right",
            reason="unreachable",
        ) from None
    try:
        connection = writer.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True)
    finally:
        # The peer waits for HTTP/2 that never comes: no orderly goodbye, just close.
        writer.transport.abort()
    if not der:
        raise Denied(f"{address} showed no certificate", reason="wrong-certificate")
    return bytes(der)


def client_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 for a handshake of our own, with both certificates; no host name is compared.

    Raises:
        Invalid: the authority is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=identity.authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise Invalid(
            "the TLS authority is not a PEM certificate: check its path in the configuration",
            reason="bad-certificate",
        ) from None
    with _memory_file(identity.certificate + b"\n" + identity.key) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path for an API that takes only paths; never on disk where the kernel allows it."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("hcefs-identity", os.MFD_CLOEXEC)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{handle}"
        return
    with tempfile.NamedTemporaryFile() as temporary:  # mode 0600, gone at the end of the block
        temporary.write(data)
        temporary.flush()
        yield temporary.name


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        Invalid: it is not that.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not host or not 0 < number < 65536:
        raise Invalid(f"{address[:80]!r} is not host:port", reason="bad-address")
    return host, number


def _some_name(leaf: x509.Certificate, address: str) -> str:
    """A name that the leaf carries: gRPC insists on comparing one."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    for name in names.get_values_for_type(x509.DNSName):
        if "*" not in name:
            return name
    for ip in names.get_values_for_type(x509.IPAddress):
        return str(ip)
    raise Denied(
        f"the certificate of {address} names no host: issue one with its DNS name or IP address",
        reason="wrong-certificate",
    )


# --- small parts -------------------------------------------------------------


def _start(now_ms: int | None) -> datetime.datetime:
    if now_ms is None:
        # The TLS libraries judge validity by the machine's clock, so a virtual one will not do.
        runtime = SystemRuntime(compute_threads=1)
        now_ms = runtime.now_ms()
        runtime.close()
    seconds = (now_ms - BACKDATE_MS) // 1000
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)


def _name(text: str) -> x509.Name:
    if not text or len(text) > _NAME_CHARACTERS_MAX or not text.isprintable():
        raise Invalid(
            f"the name of a certificate has 1 to {_NAME_CHARACTERS_MAX} printable characters",
            reason="bad-name",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
            continue
        except ValueError:
            lower = host.lower()
        if len(lower) > _HOST_CHARACTERS_MAX or not _HOST_LABELS.fullmatch(lower):
            raise Invalid(
                f"{host[:80]!r} is neither a DNS name nor an IP address: write it without port, "
                "brackets or wildcard",
                reason="bad-host",
            )
        names.append(x509.DNSName(lower))
    if not names:
        raise Invalid(
            "a certificate needs at least one host: a DNS name or an IP address", reason="bad-host"
        )
    return names


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load(certificate: bytes) -> x509.Certificate:
    try:
        if b"-----BEGIN" in certificate:
            return x509.load_pem_x509_certificate(certificate)
        return x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise Invalid(
            "these bytes are not an X.509 certificate in PEM or DER", reason="bad-certificate"
        ) from None


def _load_key(key_pem: bytes) -> _PrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise Invalid(
            "the TLS key is not an unencrypted elliptic-curve or RSA key in PEM", reason="bad-key"
        )
    return key


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _public_der(key: _PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
