"""Receipts on every disk are one chain, which goes on from what the ledger has anchored.

Whatever crashed, and whenever: no number is missing, no receipt has another one before it
than it names, and no node's disk contradicts its anchors.  A disk that was lost begins after
them.  Receipts whose rows were damaged by a fault are left out, with what follows.
"""

from __future__ import annotations

from hcefs.errors import HcefsError
from hcefs.evidence.receipt import ChainHead, chain_hash, chain_start, read_receipt
from hcefs.store.interface import Table
from hcefs.store.rows import open_row
from hcefs.testing.simulator.history import Violation
from hcefs.testing.simulator.world import SimNode, World

NAME = "receipts"
_RECEIPT = bytes((Table.RECEIPTS,)) + b"r"


def check(world: World) -> None:
    """Raises Violation: a chain is broken, or another one than the ledger has."""
    for node in world.nodes:
        try:
            _check_chain(world, node)
        except HcefsError as error:
            raise Violation(NAME, f"{node.name}: {error.message}") from error


def _check_chain(world: World, node: SimNode) -> None:
    rows = sorted(
        (key, row) for key, row in node.storage.rows.rows.items() if key.startswith(_RECEIPT)
    )
    hashes: dict[int, bytes] = {}
    head: ChainHead | None = None
    for key, row in rows:
        try:
            encoded = open_row(key, row)
        except HcefsError:
            return
        receipt = read_receipt(encoded)
        if head is None:
            start = chain_start(world.genesis.cluster, node.account)
            if receipt.sequence == 1 and receipt.previous != start:
                raise Violation(NAME, f"{node.name}'s first receipt follows another one")
            head = ChainHead(receipt.sequence - 1, receipt.previous, 0)
            hashes[head.sequence] = head.hash
        head = head.followed_by(encoded)
        hashes[head.sequence] = chain_hash(encoded)
    anchor = world.log.receipt_anchor(node.account)
    if anchor is None or not hashes:
        return
    known = hashes.get(anchor.batch.last)
    if known is None and anchor.batch.last > max(hashes):
        raise Violation(NAME, f"{node.name} has lost receipts that are anchored")
    if known is not None and known != anchor.batch.chain:
        raise Violation(NAME, f"{node.name} has other receipts than it anchored")
