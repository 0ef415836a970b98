"""Facts of the ledger about requests for access: what was asked, and how it was answered.

They hold ids, codes and times; why somebody asks in words, and about what illness, is
not for the ledger.  A request conveys no right: only a grant does.
Source: docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hcefs.access.facts import Action
from hcefs.encoding import Encoded
from hcefs.ids import AccountId, AskId, GrantId, RecordId


class RefusalCode(enum.IntEnum):
    """Why a request was refused; ``NONE`` where it was not."""

    NONE = 0
    UNSPECIFIED = 1
    UNKNOWN_REQUESTER = 2
    NOT_NEEDED = 3
    TOO_WIDE = 4
    WRONG_PURPOSE = 5
    WITHDRAWN = 6
    """Taken back by who asked; nobody else may say so."""


@dataclass(frozen=True)
class AskedAccess(Encoded):
    """A request of ``requester`` to ``patient``, until ``expires_ms`` of block time.

    ``record`` None asks for all records that the patient has.  The grants that answer it
    end at ``not_after_ms`` at the latest.  ``answered_height`` 0 means open; then
    ``grants`` is empty and ``refusal`` ``NONE``.
    """

    KIND = "asked-access"

    ask: AskId
    requester: AccountId
    patient: AccountId
    record: RecordId | None
    actions: Action
    purposes: tuple[str, ...]
    not_after_ms: int
    expires_ms: int
    height: int
    answered_height: int
    grants: tuple[GrantId, ...]
    refusal: RefusalCode

    @property
    def approved(self) -> bool:
        """Whether the patient answered with grants."""
        return bool(self.grants)
