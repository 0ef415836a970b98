"""Certificates pass strict checks; a pinned channel accepts one key and no other."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hcefs.cli.process import QUIET_ENVIRONMENT, TLS13_ENVIRONMENT
from hcefs.durable_files import write_private
from hcefs.errors import Conflict, Denied, HcefsError, Invalid, Unavailable
from hcefs.runtime import SystemRuntime
from hcefs.transport import tls
from hcefs.transport.status import from_rpc_error
from hcefs.transport.tls import Identity, issue, new_authority, spki_hash, validity

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return new_authority("cluster one")


@pytest.fixture(scope="module")
def node(authority: tuple[bytes, bytes]) -> Identity:
    return Identity(authority[0], *issue(*authority, "node 1", ["localhost", "127.0.0.1"]))


@pytest.fixture(scope="module")
def other(authority: tuple[bytes, bytes]) -> Identity:
    return Identity(authority[0], *issue(*authority, "node 2", ["localhost", "127.0.0.1"]))


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    runtime = SystemRuntime()
    yield runtime
    runtime.close()


@asynccontextmanager
async def serving(identity: Identity, *, mutual: bool) -> AsyncIterator[int]:
    """A server that answers with the SPKI hash of whoever asks; yields its port."""

    async def who(request: bytes, context: Any) -> bytes:
        return tls.peer_spki(context) or b"nobody"

    server = grpc.aio.server()
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_secure_port(
        "127.0.0.1:0",
        tls.server_credentials(
            identity.certificate, identity.key, identity.authority, mutual=mutual
        ),
    )
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def ask(
    address: str, credentials: grpc.ChannelCredentials, options: list[tuple[str, Any]] | None = None
) -> bytes:
    # Untyped: the stubs demand the serializers that gRPC leaves out for bytes.
    connecting: Any = grpc.aio.secure_channel(address, credentials, options=options)
    async with connecting as channel:
        try:
            return bytes(await channel.unary_unary("/t.T/Who")(b"", timeout=60))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


# --- certificates --------------------------------------------------------------


@contextmanager
def strict_context(
    tmp_path: Path, side: ssl.Purpose, identity: Identity
) -> Iterator[ssl.SSLContext]:
    context = ssl.create_default_context(side, cadata=identity.authority.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pem = tmp_path / f"{side.shortname}.pem"
    pem.write_bytes(identity.certificate + identity.key)
    context.load_cert_chain(pem)
    yield context


def handshake(tmp_path: Path, server: Identity, client: Identity, host: str) -> None:
    """A whole handshake in memory, both sides strict."""
    with (
        strict_context(tmp_path, ssl.Purpose.CLIENT_AUTH, server) as at_server,
        strict_context(tmp_path, ssl.Purpose.SERVER_AUTH, client) as at_client,
    ):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = [
            at_client.wrap_bio(to_client, to_server, server_hostname=host),
            at_server.wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(10):
            for side in list(sides):
                try:
                    side.do_handshake()
                    sides.remove(side)
                except ssl.SSLWantReadError:
                    pass
        assert sides == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_certificates_pass_strict_checks(
    tmp_path: Path, node: Identity, other: Identity, host: str
) -> None:
    handshake(tmp_path, node, other, host)


def test_another_host_is_refused(tmp_path: Path, node: Identity, other: Identity) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, node, other, "elsewhere.example")


def test_another_authority_is_refused(tmp_path: Path, node: Identity) -> None:
    stranger = new_authority("cluster one")  # the same name, another key
    client = Identity(stranger[0], *issue(*stranger, "c", ["localhost"]))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, node, client, "localhost")


def test_a_leaf_is_not_an_authority(authority: tuple[bytes, bytes], node: Identity) -> None:
    with pytest.raises(Invalid) as caught:
        issue(node.certificate, node.key, "child", ["localhost"])
    assert caught.value.reason == "bad-authority"
    with pytest.raises(Invalid):
        issue(authority[0], node.key, "child", ["localhost"])


def test_validity(authority: tuple[bytes, bytes]) -> None:
    now_ms = 1_800_000_000_000
    old = new_authority("old", now_ms=now_ms)
    loaded = x509.load_pem_x509_certificate(old[0])
    assert (loaded.not_valid_after_utc - loaded.not_valid_before_utc).days == tls.AUTHORITY_DAYS
    leaf, _ = issue(*old, "x", ["h"], now_ms=now_ms)
    young = x509.load_pem_x509_certificate(leaf)
    assert (young.not_valid_after_utc - young.not_valid_before_utc).days == tls.LEAF_DAYS
    late, _ = issue(*old, "x", ["h"], now_ms=now_ms + (tls.AUTHORITY_DAYS - 10) * DAY_MS)
    assert x509.load_pem_x509_certificate(late).not_valid_after_utc == loaded.not_valid_after_utc
    with pytest.raises(Invalid, match="expired"):
        issue(*old, "x", ["h"], now_ms=now_ms + (tls.AUTHORITY_DAYS + 1) * DAY_MS)


@pytest.mark.parametrize(
    "hosts", [[], [""], ["a:1"], ["[::1]"], ["*.example"], ["-a"], ["a..b"], ["ä"], ["a" * 254]]
)
def test_bad_hosts_are_refused(authority: tuple[bytes, bytes], hosts: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        issue(*authority, "x", hosts)
    assert caught.value.reason == "bad-host"


@pytest.mark.parametrize("name", ["", "a" * 65, "a\nb"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        new_authority(name)


def test_spki_hash_of_pem_and_der(node: Identity) -> None:
    loaded = x509.load_pem_x509_certificate(node.certificate)
    spki = loaded.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    expected = hashlib.sha256(spki).digest()
    assert spki_hash(node.certificate) == expected
    assert spki_hash(loaded.public_bytes(serialization.Encoding.DER)) == expected
    for junk in (b"", b"junk", b"-----BEGIN CERTIFICATE-----\nx"):
        with pytest.raises(Invalid):
            spki_hash(junk)


def test_an_identity_does_not_show_its_key(node: Identity) -> None:
    assert "PRIVATE" not in repr(node)


# --- private files ----------------------------------------------------------------


def test_private_files(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    before = os.umask(0)
    try:
        write_private(path, b"one")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Conflict) as caught:
        write_private(path, b"two")
    assert caught.value.reason == "file-exists"
    assert path.read_bytes() == b"one"
    write_private(path, b"two", replace=True)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["node.key"]


def test_a_private_file_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_private(tmp_path / "none" / "key", b"x")


# --- gRPC ---------------------------------------------------------------------------


async def test_a_client_needs_only_the_authority(node: Identity) -> None:
    async with serving(node, mutual=False) as port:
        credentials = tls.client_credentials(node.authority)
        assert await ask(f"127.0.0.1:{port}", credentials) == b"nobody"
        assert await ask(f"localhost:{port}", credentials) == b"nobody"


async def test_mutual_tls_shows_the_clients_key(node: Identity, other: Identity) -> None:
    async with serving(node, mutual=True) as port:
        mutual = tls.client_credentials(other.authority, other.certificate, other.key)
        assert await ask(f"127.0.0.1:{port}", mutual) == spki_hash(other.certificate)
        with pytest.raises(Unavailable):
            await ask(f"127.0.0.1:{port}", tls.client_credentials(other.authority))


async def test_a_wrong_authority_is_named(node: Identity) -> None:
    async with serving(node, mutual=False) as port:
        stranger, _ = new_authority("stranger")
        with pytest.raises(Denied) as caught:
            await ask(f"127.0.0.1:{port}", tls.client_credentials(stranger))
    assert caught.value.reason == "wrong-certificate"


def test_pairs_that_do_not_fit_are_refused(node: Identity, other: Identity) -> None:
    with pytest.raises(Invalid):
        tls.server_credentials(node.certificate, other.key, node.authority, mutual=True)
    with pytest.raises(Invalid):
        tls.server_credentials(node.certificate, node.key, None, mutual=True)
    with pytest.raises(Invalid):
        tls.client_credentials(node.authority, node.certificate, other.key)
    with pytest.raises(Invalid):
        tls.client_credentials(node.authority, node.certificate)
    with pytest.raises(Invalid):
        tls.client_credentials(b"junk")


async def test_a_pinned_channel_works(
    runtime: SystemRuntime, node: Identity, other: Identity
) -> None:
    async with serving(node, mutual=True) as port:
        address = f"127.0.0.1:{port}"
        spki = spki_hash(node.certificate)
        credentials, options = await tls.pinned_credentials(runtime, address, other, spki)
        assert await ask(address, credentials, options) == spki_hash(other.certificate)


async def test_another_key_of_the_authority_is_refused(
    runtime: SystemRuntime, node: Identity, other: Identity
) -> None:
    async with serving(node, mutual=True) as port:
        with pytest.raises(Denied) as caught:
            await tls.pinned_credentials(
                runtime, f"127.0.0.1:{port}", other, spki_hash(other.certificate)
            )
    assert caught.value.reason == "wrong-certificate"


async def test_a_channel_stays_pinned_when_the_server_is_replaced(
    runtime: SystemRuntime, node: Identity, other: Identity
) -> None:
    """The certificate of another node, valid under the same authority and host names."""
    async with serving(node, mutual=True) as port:
        pinned = await tls.pinned_credentials(
            runtime, f"127.0.0.1:{port}", other, spki_hash(node.certificate)
        )
    async with serving(other, mutual=True) as port:
        with pytest.raises(Denied) as caught:
            await ask(f"127.0.0.1:{port}", *pinned)
    assert caught.value.reason == "wrong-certificate"


async def test_pinning_checks_the_authority_too(
    runtime: SystemRuntime, node: Identity, other: Identity
) -> None:
    stranger = new_authority("stranger")
    impostor = Identity(stranger[0], *issue(*stranger, "node 1", ["127.0.0.1"]))
    async with serving(impostor, mutual=False) as port:
        with pytest.raises(Denied) as caught:
            await tls.pinned_credentials(
                runtime, f"127.0.0.1:{port}", other, spki_hash(impostor.certificate)
            )
    assert caught.value.reason == "wrong-certificate"


async def test_pinning_names_what_does_not_answer(runtime: SystemRuntime, node: Identity) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 no\r\n\r\n")
        await writer.drain()
        writer.close()

    spki = spki_hash(node.certificate)
    plain = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = plain.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable) as caught:
        await tls.pinned_credentials(runtime, f"127.0.0.1:{port}", node, spki)
    assert caught.value.reason in ("tls-handshake", "unreachable")
    plain.close()
    await plain.wait_closed()
    with pytest.raises(Unavailable) as caught:
        await tls.pinned_credentials(runtime, f"127.0.0.1:{port}", node, spki)
    assert caught.value.reason == "unreachable"


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "host:0", "host:65536", "host:x", "h:\u0661"]
)
async def test_pinning_needs_an_address(
    runtime: SystemRuntime, node: Identity, address: str
) -> None:
    with pytest.raises(Invalid):
        await tls.pinned_credentials(runtime, address, node, b"")


async def test_pinning_needs_a_usable_identity(runtime: SystemRuntime, node: Identity) -> None:
    for identity in (
        Identity(b"junk", node.certificate, node.key),
        Identity(node.authority, b"junk", node.key),
        Identity(node.authority, node.certificate, b"junk"),
    ):
        with pytest.raises(HcefsError) as caught:
            await tls.pinned_credentials(runtime, "127.0.0.1:1", identity, b"")
        assert isinstance(caught.value, Invalid)


LOWER_VERSION_PROBE = """
import asyncio, ssl, sys
import grpc
from hcefs.transport import tls
ca = tls.new_authority("c")
certificate, key = tls.issue(*ca, "n", ["localhost"])
async def main():
    server = grpc.aio.server()
    port = server.add_secure_port(
        "127.0.0.1:0", tls.server_credentials(certificate, key, None, mutual=False))
    await server.start()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cadata=ca[0].decode())
        context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost")
            print(writer.get_extra_info("ssl_object").version())
            writer.transport.abort()
        except OSError:
            print("refused")
    await server.stop(None)
asyncio.run(main())
"""


def probed(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own: gRPC reads its variables at its first import."""
    own = {TLS13_ENVIRONMENT[0], QUIET_ENVIRONMENT[0]}
    rest = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(
        [sys.executable, "-c", LOWER_VERSION_PROBE],
        env=rest | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_the_environment_leaves_only_tls_1_3() -> None:
    assert probed(dict([TLS13_ENVIRONMENT])).stdout.split() == ["refused", "TLSv1.3"]


def test_a_failed_handshake_writes_nothing_between_the_lines_of_the_log() -> None:
    assert "ssl_transport" in probed(dict([TLS13_ENVIRONMENT])).stderr
    assert probed(dict([TLS13_ENVIRONMENT, QUIET_ENVIRONMENT])).stderr == ""


def test_expiry() -> None:
    pair = new_authority("cluster one", now_ms=1_000 * DAY_MS)
    certificate, _ = issue(*pair, "node 1", ["localhost"], now_ms=1_000 * DAY_MS)
    days = (validity(certificate).until_ms + tls.BACKDATE_MS) / DAY_MS - 1_000
    assert days == tls.LEAF_DAYS
    assert validity(pair[0]).until_ms > validity(certificate).until_ms
    with pytest.raises(Invalid):
        validity(b"junk")
