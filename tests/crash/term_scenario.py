"""A term begins on two logs: one that stands at its block, one that holds a voided one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hcefs.crashpoints import CrashPoint
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import take_term
from hcefs.ledger.terms import SignedTermChange
from hcefs.runtime import SystemRuntime
from tests.crash.scenarios import Points, Scenario
from tests.unit.ledger.reigns import Reigns, fill
from tests.unit.ledger.replicas import open_log
from tests.unit.ledger.scenario import Scenario as Facts

P = CrashPoint
HEIGHT = 3


class TermBegins(Scenario):
    """The operators' word reaches both."""

    name = "term"
    points: ClassVar[Points] = {P.TERM_BEGUN: (1,), P.TERM_SUPERSEDED: (1,)}

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        super().__init__(folder, runtime)
        self.facts = Facts()
        self.reigns = Reigns(self.facts)
        self.logs = {name: open_log(folder / name, self.facts) for name in ("stands", "beyond")}

    def close(self) -> None:
        for log in self.logs.values():
            log.close()

    @property
    def signed(self) -> SignedTermChange:
        return SignedTermChange.decode((self.folder / "statement").read_bytes())

    async def prepare(self) -> None:
        stands, beyond = self.logs["stands"], self.logs["beyond"]
        for _ in range(HEIGHT):
            applied = self.reigns.applied()
            stands.append([applied])
            beyond.append([applied])
        statement = self.reigns.statement("o1", "o2")
        (self.folder / "statement").write_bytes(statement.encode())
        fill(beyond, self.reigns, 1)
        # The old writer's head of a block that only one of them has.
        stands.keep_head(self.reigns.head())

    async def act(self) -> None:
        take_term(self.logs["stands"], self.signed.encode())
        self.logs["beyond"].keep_superseded(self.signed)

    async def check(self) -> list[str]:
        stands, beyond, signed = self.logs["stands"], self.logs["beyond"], self.signed
        found = self._faults(stands)
        if beyond.terms.term != 1 or beyond.superseded() not in (None, signed):
            found.append("what holds a voided block has begun the term")
        take_term(stands, signed.encode())
        found += self._faults(stands)
        if (stands.terms.term, stands.head) != (2, None):
            found.append("the term has not begun, or an old writer's head has outlived it")
        beyond.keep_superseded(signed)
        if beyond.superseded() != signed:
            found.append("a voided log does not say so")
        return found

    @staticmethod
    def _faults(log: LedgerLog) -> list[str]:
        """The whole old or the whole new."""
        found = []
        if log.verify_chain() != HEIGHT or log.height != HEIGHT:
            found.append("the chain does not verify")
        if (log.terms.term == 2) != (log.head is None):
            found.append("a term has begun, and the head that it voids is still there")
        return found
