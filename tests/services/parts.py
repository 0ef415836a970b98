"""Parts of the rig: a clock that can be set wrong, the watch over secrets, renewed certificates."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hcefs.runtime import Runtime
from hcefs.transport.tls import Identity

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WINDOW = 12


class ShiftedRuntime:
    """A runtime whose wall clock a test can set: wrong, or on."""

    def __init__(self, inner: Runtime) -> None:
        self._inner = inner
        self.offset_ms = 0

    def now_ms(self) -> int:
        return self._inner.now_ms() + self.offset_ms

    def monotonic(self) -> float:
        return self._inner.monotonic()

    def random(self, size: int) -> bytes:
        return self._inner.random(size)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return self._inner.timeout(seconds)

    async def compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._inner.compute(function, *args)

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._inner.disk(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> Any:
        return self._inner.spawn(coroutine, name=name)


@dataclass
class Secrets:
    """What must not be seen, and the texts that were shown to callers."""

    windows: set[bytes] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)

    def add(self, *secrets: bytes) -> None:
        """Remember parts of each secret: a part of a key is a leak too."""
        for secret in secrets:
            for start in range(0, max(1, len(secret) - _WINDOW + 1), _WINDOW):
                self.windows.add(secret[start : start + _WINDOW])

    def add_token(self, token: bytes) -> None:
        """The signatures at a token's end; the ids at its beginning are not secret."""
        self.add(token[-96:])

    def check(self, text: str) -> None:
        """Fail when a secret shows in a text: as it is, in hexadecimal, or escaped."""
        lower = text.lower()
        for window in self.windows:
            for form in (window.decode("latin-1"), window.hex(), repr(window)[2:-1]):
                assert form not in text, "a secret is shown"
                assert form.lower() not in lower or not form.isascii(), "a secret is shown"


def reissue(authority: bytes, authority_key: bytes, identity: Identity, name: str) -> bytes:
    """A certificate for an identity's own key, as an operator's authority would renew it."""
    issuer = x509.load_pem_x509_certificate(authority)
    signer = serialization.load_pem_private_key(authority_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    old = x509.load_pem_x509_certificate(identity.certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    certificate = builder.sign(signer, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)
