"""How often one account may ask a node or the ledger: token buckets, in a bounded table.

Two buckets for each account: one for every request that it has proved to be its own, one
for those of them that were refused, so that nobody tries rights by the thousand.
A batch that is refused leaves as many receipts as it names rights, and is counted as many
times: its account is in debt afterwards, by at most what ``RETRY_MS_MAX`` pays back.
Invariants: nothing waits here, too much is answered with the delay after which it would
not be; only who has proved to be an active account takes a place in the table; a place is
taken from whoever asked longest ago.

Not guaranteed: a limit over all nodes together; each counts by itself.  For one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hcefs.config import LimitsConfig
from hcefs.errors import Exhausted
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime

ACCOUNTS_MAX = 1 << 16
"""Accounts that are remembered: about 10 MB."""

BURST_SECONDS = 4.0
"""So many seconds' worth may come at once."""

RETRY_MS_MAX = 60_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float

    def refill(self, rate: float, now: float) -> float:
        self.left = min(rate * BURST_SECONDS, self.left + (now - self.at) * rate)
        self.at = now
        return self.left


class Rates:
    """The buckets of one process."""

    def __init__(
        self,
        runtime: Runtime,
        metrics: Metrics,
        limits: LimitsConfig,
        accounts: int = ACCOUNTS_MAX,
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._requests = limits.account_requests
        self._denials = limits.account_denials
        self._accounts = accounts
        self._known: OrderedDict[AccountId, tuple[_Bucket, _Bucket]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def ask(self, account: AccountId) -> None:
        """Count a request of an account that has proved itself.

        Raises:
            Exhausted: ``too-many-requests`` or ``too-many-denials``, with the delay.
        """
        requests, denials = self._buckets(account)
        now = self._runtime.monotonic()
        if denials.refill(self._denials, now) < 1:
            raise self._refused("denials", denials, self._denials)
        if requests.refill(self._requests, now) < 1:
            raise self._refused("requests", requests, self._requests)
        requests.left -= 1

    def denied(self, account: AccountId, count: int = 1) -> None:
        """Count that so much of a request of the account was refused for want of a right."""
        _, denials = self._buckets(account)
        denials.refill(self._denials, self._runtime.monotonic())
        debt = self._denials * RETRY_MS_MAX / 1000
        denials.left = max(-debt, denials.left - count)

    def _buckets(self, account: AccountId) -> tuple[_Bucket, _Bucket]:
        found = self._known.get(account)
        if found is None:
            now = self._runtime.monotonic()
            found = (
                _Bucket(self._requests * BURST_SECONDS, now),
                _Bucket(self._denials * BURST_SECONDS, now),
            )
            self._known[account] = found
            if len(self._known) > self._accounts:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(account)
        return found

    def _refused(self, limit: str, bucket: _Bucket, rate: float) -> Exhausted:
        self._metrics.count("rate_limited_total", limit=limit)
        # Half more than needed, and spread, so that its requests do not return together.
        part = int.from_bytes(self._runtime.random(2)) / 65536
        delay = 1000 * (1 - bucket.left) / rate * (1 + part)
        return Exhausted(
            f"this account has too many {limit} here for now: wait for the delay, ask "
            "for many things in one batch, or have the operators raise the limit",
            reason=f"too-many-{limit}",
            retry_after_ms=min(RETRY_MS_MAX, max(1, int(delay))),
        )
