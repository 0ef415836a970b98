"""Opening channels: which TLS credentials lead to a server or to a node.

Owns the one place where channels are made.  What talks over channels is handed a
:class:`Dialer`, so that a whole cluster can run over another network
(``hcefs.testing``) with everything above the channel unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc

from hcefs.errors import HcefsError
from hcefs.runtime import Runtime
from hcefs.transport.tls import Identity, client_credentials, pinned_credentials
from hcefs.transport.tls_identity import CurrentIdentity, authorities, current

Options = Sequence[tuple[str, Any]]

LOOK_SECONDS = 2.0
AUTHORITY_BYTES_MAX = 256 << 10


class ServerDialer(Protocol):
    """Opens channels to servers that are known by their address."""

    @property
    def version(self) -> int:
        """Grows when channels made before use certificates that have been replaced."""

    def to_server(self, address: str, options: Options) -> Any:
        """A channel to whoever the authority certifies for that address; connects when used."""


class Dialer(ServerDialer, Protocol):
    """Opens channels to servers, and to nodes that are known by their TLS key."""

    async def to_node(self, address: str, spki: bytes, options: Options) -> Any:
        """A channel to the node with that key and no other.

        Raises:
            Unavailable: it cannot be reached.
            Denied: it has another key.
        """


class AuthorityDialer:
    """A client's: it checks servers, who know it by the proofs in its requests."""

    version = 0

    def __init__(self, authority: bytes) -> None:
        self._credentials = client_credentials(authority)

    def to_server(self, address: str, options: Options) -> Any:
        """See :class:`ServerDialer`."""
        return grpc.aio.secure_channel(address, self._credentials, options=list(options))


class FileDialer:
    """A client's whose authority is in a file, which a change of the authority replaces.

    The file is looked at when a channel is asked for, every ``LOOK_SECONDS`` at the most.
    One that is gone or that holds no authority changes nothing.
    """

    def __init__(self, runtime: Runtime, authority: bytes, file: Path) -> None:
        self._runtime = runtime
        self._file = file
        self._authority = authority
        self._version = 0
        self._credentials = client_credentials(authority)
        self._looked = runtime.monotonic()
        self._seen: tuple[int, int, int] | None = None

    @property
    def version(self) -> int:
        """See :class:`ServerDialer`."""
        now = self._runtime.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._version

    def _look(self) -> None:
        try:
            state = self._file.stat()
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen == self._seen or state.st_size > AUTHORITY_BYTES_MAX:
                return
            found = self._file.read_bytes()
            authorities(found)
            credentials = client_credentials(found)
        except (OSError, HcefsError):
            return
        self._seen = seen
        if found != self._authority:
            self._authority, self._credentials = found, credentials
            self._version += 1

    def to_server(self, address: str, options: Options) -> Any:
        """See :class:`ServerDialer`."""
        return grpc.aio.secure_channel(address, self._credentials, options=list(options))


class TlsDialer:
    """A node's: both sides show certificates, those that the process uses at that moment."""

    def __init__(self, runtime: Runtime, identity: Identity | CurrentIdentity) -> None:
        self._runtime = runtime
        self._current = current(identity)
        self._made: tuple[int, grpc.ChannelCredentials] | None = None
        self._of_version()

    @property
    def version(self) -> int:
        """See :class:`ServerDialer`."""
        return self._current.version

    def _of_version(self) -> grpc.ChannelCredentials:
        identity, version = self._current.used
        if self._made is None or self._made[0] != version:
            made = client_credentials(identity.authority, identity.certificate, identity.key)
            self._made = version, made
        return self._made[1]

    def to_server(self, address: str, options: Options) -> Any:
        """See :class:`ServerDialer`."""
        return grpc.aio.secure_channel(address, self._of_version(), options=list(options))

    async def to_node(self, address: str, spki: bytes, options: Options) -> Any:
        """See :class:`Dialer`."""
        credentials, pinned = await pinned_credentials(
            self._runtime, address, self._current.identity, spki
        )
        return grpc.aio.secure_channel(address, credentials, options=[*options, *pinned])
