"""What other nodes load for upkeep: counted, and receipted by the hour.

No client stands behind such a load and there may be thousands a second, so that each hour
leaves one receipt for each node that loaded, with the number of loads and the bytes.

Not guaranteed: the loads since the last hour's receipts, when the process dies.
"""

from __future__ import annotations

from hcefs.evidence.receipt import NUMBER_END, PERMITTED, ReceiptDraft, ReceiptKind
from hcefs.ids import AccountId, GrantId, RecordId, RequestId

METHOD = "upkeep"


class UpkeepTally:
    """The loads of the hour that runs, by node.  For one thread."""

    def __init__(self) -> None:
        self._loads: dict[AccountId, tuple[int, int]] = {}

    def add(self, peer: AccountId, size: int, loads: int = 0) -> None:
        """Count bytes that went to a node, and loads that began."""
        count, total = self._loads.get(peer, (0, 0))
        self._loads[peer] = (count + loads, total + size)

    def take(self, height: int) -> list[ReceiptDraft]:
        """The receipts of the hour, and begin the next one."""
        loads, self._loads = self._loads, {}
        return [
            ReceiptDraft(
                kind=ReceiptKind.UPKEEP,
                height=height,
                request=RequestId.zero(),
                peer=peer,
                presenter=AccountId.zero(),
                holder=AccountId.zero(),
                grant=GrantId.zero(),
                token_hash=bytes(32),
                record=RecordId.zero(),
                blobs=(),
                range_start=0,
                range_length=0,
                purpose="",
                action="",
                method=METHOD,
                permitted=True,
                reason=PERMITTED,
                size=min(size, NUMBER_END - 1),
                count=count,
            )
            for peer, (count, size) in sorted(loads.items())
        ]

    def give_back(self, drafts: list[ReceiptDraft]) -> None:
        """Count again what could not be written."""
        for draft in drafts:
            self.add(draft.peer, draft.size, draft.count)
