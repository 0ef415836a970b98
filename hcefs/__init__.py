"""HCE-FS: the distributed encrypted file storage layer of the HCE health-care platform.

The public entry points are :class:`hcefs.Client` (asyncio) and
:class:`hcefs.SyncClient`; everything else is internal to the project.  They are
loaded when first asked for, so that importing a module of this package does not
load gRPC.  The architecture is described in ``docs/ARCHITECTURE.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcefs.client.client import Client
    from hcefs.client.connection import Connection, load_connection
    from hcefs.client.put_many import Payload
    from hcefs.client.sync import SyncClient
    from hcefs.crypto.accounts import AccountKeys, load_account

__version__ = "0.2.0"

__all__ = [
    "AccountKeys",
    "Client",
    "Connection",
    "Payload",
    "SyncClient",
    "__version__",
    "load_account",
    "load_connection",
]

_HOMES = {
    "AccountKeys": "hcefs.crypto.accounts",
    "Client": "hcefs.client.client",
    "Connection": "hcefs.client.connection",
    "Payload": "hcefs.client.put_many",
    "SyncClient": "hcefs.client.sync",
    "load_account": "hcefs.crypto.accounts",
    "load_connection": "hcefs.client.connection",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hcefs' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
