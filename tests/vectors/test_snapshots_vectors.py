"""The frozen protocol version 3: headers that name a snapshot, and the snapshot's bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcefs.errors import Invalid
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import AppliedBlock, LedgerLog
from hcefs.ledger.machine import replay
from hcefs.ledger.snapshot import SnapshotManifest, SnapshotOffer
from tests.vectors.generate_snapshots import RULE, snapshot_of, vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("snapshots.json").read_text("utf-8"))
GENESIS = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
BLOCKS = [Block.decode(bytes.fromhex(each["block"])) for each in FROZEN["chain"]]


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


def test_the_chain_replays_to_the_frozen_snapshot(tmp_path: Path) -> None:
    log = LedgerLog.open(tmp_path / "log", GENESIS, snapshots=RULE)
    manifest = SnapshotManifest.decode(bytes.fromhex(FROZEN["manifest"]))
    for vector, block in zip(FROZEN["chain"], BLOCKS, strict=True):
        assert block.hash().hex() == vector["hash"]
        overlay, outcomes = replay(log, block, GENESIS, log.tip)
        log.append([AppliedBlock(block, overlay.writes, tuple(outcomes), overlay.written_facts)])
        if log.height == 8:
            made, parts = snapshot_of(log)
            assert made == manifest
            assert [part.hex() for part in parts] == FROZEN["parts"]
    log.close()
    assert {block.header.protocol_version for block in BLOCKS} == {1, 2, 3}
    assert [block.header.height for block in BLOCKS if block.header.snapshot_root] == [10]
    assert BLOCKS[-1].header.snapshot_root.hex() == manifest.root().hex() == FROZEN["root"]


def test_the_frozen_offer_is_believed_and_a_changed_one_is_not() -> None:
    manifest = SnapshotManifest.decode(bytes.fromhex(FROZEN["manifest"]))
    base, carrier = (replace(BLOCKS[at], transactions=()) for at in (7, 9))
    SnapshotOffer(manifest, base, carrier, (), RULE).check(GENESIS)
    with pytest.raises(Invalid) as caught:
        SnapshotOffer(replace(manifest, size=manifest.size + 1), base, carrier, (), RULE).check(
            GENESIS
        )
    assert caught.value.reason == "bad-snapshot"
