"""Which certificate a process shows, and whether it trusts an authority: asked by a handshake.

Owns two questions to a running process that need no account and no method of its own; what
it answers with is what its next client would meet.

Invariants: nothing is sent beyond the handshake; every question ends in bounded time.
Not guaranteed: that whoever answers is the process that was meant.  The answers say how far
a change has come, and are no reason to trust anybody.
"""

from __future__ import annotations

import asyncio
import ssl

from hcefs.errors import Unavailable
from hcefs.runtime import Runtime
from hcefs.transport.tls import HANDSHAKE_SECONDS, Identity, client_context, split_address

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What an HTTP/2 client sends first, and its empty settings (RFC 9113 section 3.4)."""

FRAME_HEADER_BYTES = 9


async def shown_certificate(runtime: Runtime, address: str) -> bytes:
    """The certificate (DER) that a server shows now; nothing about it is checked.

    Raises:
        Unavailable: nobody answers (``unreachable``), or not with TLS (``tls-handshake``).
        Invalid: the address is not ``host:port``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await _connected(runtime, address, context)
    try:
        connection = writer.get_extra_info("ssl_object")
        return bytes(connection.getpeercert(binary_form=True))
    finally:
        writer.transport.abort()


async def trusts(runtime: Runtime, address: str, identity: Identity) -> bool:
    """Whether a peer port takes a client with this certificate.

    The server's own certificate is not looked at.  In TLS 1.3 a client has finished before
    the server has judged its certificate, so the answer is the server's first HTTP/2 frame,
    or the alert in its place.

    Raises:
        Unavailable: nobody answers, or neither takes nor refuses it in time.
        Invalid: the address is not ``host:port``, or the identity is unusable.
    """
    context = await runtime.disk(client_context, identity)
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await _connected(runtime, address, context)
    try:
        writer.write(PREFACE)
        async with runtime.timeout(HANDSHAKE_SECONDS):
            await reader.readexactly(FRAME_HEADER_BYTES)
    except (ssl.SSLError, asyncio.IncompleteReadError, ConnectionError):
        return False
    except TimeoutError:
        raise Unavailable(
            f"{address} neither takes nor refuses a certificate: try again", reason="tls-handshake"
        ) from None
    finally:
        writer.transport.abort()
    return True


async def _connected(
    runtime: Runtime, address: str, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = split_address(address)
    try:
        async with runtime.timeout(HANDSHAKE_SECONDS):
            return await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except ssl.SSLError as error:
        raise Unavailable(
            f"{address} does not complete a TLS handshake ({error.reason}): check that it is a "
            "port of a node or of the ledger",
            reason="tls-handshake",
        ) from None
    except (TimeoutError, OSError) as error:
        raise Unavailable(
            f"{address} cannot be reached ({type(error).__name__}): check that the process runs",
            reason="unreachable",
        ) from None
