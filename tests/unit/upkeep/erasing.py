"""A cluster whose nodes erase, and what is left of a record on them."""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.facts import Action, Grant
from hcefs.blobs.pack import SealedPack
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Opening
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS
from hcefs.upkeep.erase import Eraser
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import GivingCluster

OTHER = RecordId(b"another-record!!")
GRANT = GrantId(b"\x07" * 16)
SEALED = b"\xb0\x0c" + bytes(range(94))
STEPS_MAX = 2_000


class Erasing(GivingCluster):
    """Seven holders that give to each other and erase."""

    def __init__(self, runtime: SystemRuntime) -> None:
        super().__init__(runtime)
        cluster = self.cluster
        cluster.ledger.records[OTHER] = replace(
            cluster.ledger.records[cluster.record], record=OTHER
        )
        cluster.ledger.generations[OTHER, 0] = replace(
            cluster.ledger.generations[cluster.record, 0], record=OTHER
        )
        self.erasers = {account: self.eraser(account) for account in cluster.stores}

    def eraser(self, account: AccountId) -> Eraser:
        """The eraser of a node, as if it had just started."""
        cluster = self.cluster
        return Eraser(
            cluster.runtime, cluster.ledger, cluster.stores[account],
            cluster.holders[account].pending, cluster.metrics, self.packs.holders[account].forget,
        )  # fmt: skip

    async def erase(self, *accounts: AccountId) -> None:
        """Let the erasers of some nodes (of all) do what there is."""
        for account in accounts or self.cluster.stores:
            await work(self.erasers[account])

    async def keep_boxes(self) -> None:
        """A live grant, and on all nodes a box and a link of the record."""
        cluster = self.cluster
        patient = cluster.patient
        cluster.ledger.grants[GRANT] = Grant(
            GRANT, cluster.record, None, 0, 0, patient.account, cluster.writer.account,
            Action.READ, ("TREAT",), NOW_MS - 1, NOW_MS + 100 * HOUR_MS, None, 1, 0,
        )  # fmt: skip
        box = self.box()
        link = KeyLink(
            cluster.record, 0, patient.account, 1, Envelope(SUITE_XWING, SEALED), b""
        ).signed(patient.signing_key)
        call = replace(cluster.call("put-box", None), presenter=patient.account, grant=GRANT)
        for holder in cluster.holders.values():
            await holder.store_box(call, box.encode(), b"")
            await holder.store_box(call, b"", link.encode())

    def box(self) -> KeyBox:
        cluster = self.cluster
        return KeyBox(
            cluster.record, 0, None, GRANT, cluster.writer.account, 1, cluster.patient.account, 1,
            Envelope(SUITE_XWING, SEALED), b"",
        ).signed(cluster.patient.signing_key)  # fmt: skip

    async def put_mixed(self, profile: str = "copy-3") -> SealedPack:
        """A pack of four payloads of both records."""
        pack = self.packs.seal([b"mine one", b"other one", b"mine two", b"other two"],
                               [self.cluster.record, OTHER])  # fmt: skip
        await self.packs.put(pack, profile)
        return pack

    def secrets(self, blobs: list[BlobId], packs: list[SealedPack]) -> list[bytes]:
        """Bytes that must be in no file after the erasure: sealed keys, salts."""
        found: list[bytes] = []
        for stores in self.cluster.stores.values():
            for blob in blobs:
                row = stores.keys.get(KeyTable.KEY_ROWS, bytes(blob))
                opening = stores.rows.get(Table.OPENINGS, bytes(blob.base))
                found += [row[-64:]] if row else []
                found += [Opening.decode(opening).salt] if opening else []
        for pack in packs:
            for group in pack.groups:
                if group.record == self.cluster.record:
                    found += [*group.wrapped, group.opening.salt]
        return found

    def left(self, record: RecordId) -> list[str]:
        """Every row of every table of every node that holds the record's id, keys included."""
        found = []
        for number, stores in enumerate(self.cluster.stores.values(), 1):
            found += [f"node {number}: {what}" for what in rows_of(stores, record)]
        return found


async def work(eraser: Eraser) -> None:
    for _ in range(STEPS_MAX):
        if await eraser.work() is Progress.IDLE:
            return
    raise AssertionError("the erasing does not end")


def rows_of(stores: Stores, record: RecordId) -> list[str]:
    """What names a record here, but for receipts and the note that it was erased."""
    name = bytes(record)
    found = [
        f"{table.name} {key.hex()}"
        for table in Table
        if table is not Table.RECEIPTS  # evidence stays
        for key, value in stores.rows.scan(table)
        if (name in key or name in value)
        and not (table is Table.META and key.startswith(b"erased/"))
    ]
    return found + [
        f"{table.name} {key.hex()}"
        for table in KeyTable
        for key, value in stores.keys.scan(table)
        if name in key or name in value
    ]
