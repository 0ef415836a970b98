"""Opening channels: which TLS credentials lead to a server or to a node.

Owns the one place where channels are made.  What talks over channels is handed a
:class:`Dialer`, so that a whole cluster can run over another network
(``hcefs.testing``) with everything above the channel unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from hcefs.runtime import Runtime
from hcefs.transport.tls import Identity, client_credentials, pinned_credentials

Options = Sequence[tuple[str, Any]]


class ServerDialer(Protocol):
    """Opens channels to servers that are known by their address."""

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

    def __init__(self, authority: bytes) -> None:
        self._credentials = client_credentials(authority)

    def to_server(self, address: str, options: Options) -> Any:
        """See :class:`ServerDialer`."""
        return grpc.aio.secure_channel(address, self._credentials, options=list(options))


class TlsDialer:
    """A node's: both sides show certificates."""

    def __init__(self, runtime: Runtime, identity: Identity) -> None:
        self._runtime = runtime
        self._identity = identity
        self._credentials = client_credentials(
            identity.authority, identity.certificate, identity.key
        )

    def to_server(self, address: str, options: Options) -> Any:
        """See :class:`ServerDialer`."""
        return grpc.aio.secure_channel(address, self._credentials, options=list(options))

    async def to_node(self, address: str, spki: bytes, options: Options) -> Any:
        """See :class:`Dialer`."""
        credentials, pinned = await pinned_credentials(self._runtime, address, self._identity, spki)
        return grpc.aio.secure_channel(address, credentials, options=[*options, *pinned])
