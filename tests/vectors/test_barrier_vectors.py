"""The frozen chain of protocol version 5 replays, and the frozen shard file reads."""

from __future__ import annotations

from hcefs.formats.shard import ShardHeader, decode_footer
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import genesis_state, replay
from hcefs.ledger.state import MemoryState
from tests.vectors.generate import frozen

FROZEN = frozen("barrier")


def test_the_shard_file() -> None:
    header = ShardHeader.decode(bytes.fromhex(FROZEN["shard"]["header"]))
    footer = decode_footer(bytes.fromhex(FROZEN["shard"]["footer"]), header)
    assert (header.version, footer.pieces) == (2, 3)
    assert header.encode().hex() == FROZEN["shard"]["header"]
    assert footer.encode(header).hex() == FROZEN["shard"]["footer"]


def test_the_chain_replays_to_the_frozen_state() -> None:
    genesis = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
    state = MemoryState()
    state.write(genesis_state(genesis)[0].writes)
    header = None
    for text in FROZEN["chain"]:
        overlay, _ = replay(state, Block.decode(bytes.fromhex(text)), genesis, header)
        state.write(overlay.writes)
        header = Block.decode(bytes.fromhex(text)).header
    assert header is not None
    assert header.protocol_version == 5
    rows = b"".join(blake3_digest(key + value) for key, value in state.scan(b""))
    assert blake3_digest(rows).hex() == FROZEN["state"]
