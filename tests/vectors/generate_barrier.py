"""Golden vectors of protocol version 5, and of version 2 of the shard file that it allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hcefs.formats.shard import VERSION_BOUND
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import PROTOCOL_BARRIER
from hcefs.ledger.transactions import Upgrade
from tests.unit.ledger.rights_world import OPERATORS
from tests.vectors.generate_formats import shard_samples
from tests.vectors.generate_requests import Chain


def chain() -> Chain:
    """A chain that is upgraded to version 5, and what is then as before."""
    world = Chain()
    world.submit(Upgrade(PROTOCOL_BARRIER, world.height + 2), *OPERATORS)
    world.time_ms += 1
    world.commit([])
    world.submit(world.ask("one"), "doc")
    world.submit(world.grant("g", "doc"), "pat")
    return world


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    header, footer = shard_samples()
    header = replace(header, version=VERSION_BOUND)
    world = chain()
    rows = list(world.state.scan(b""))
    return {
        "shard": {"header": header.encode().hex(), "footer": footer.encode(header).hex()},
        "genesis": world.genesis.encode().hex(),
        "chain": [block.encode().hex() for block in world.blocks],
        "state": blake3_digest(b"".join(blake3_digest(key + value) for key, value in rows)).hex(),
    }
