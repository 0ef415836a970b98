"""Token buckets of accounts: bounded, refilled by time, with the delay that helps."""

from __future__ import annotations

import pytest

from hcefs.config import LimitsConfig
from hcefs.errors import Exhausted
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime
from hcefs.services.rates import RETRY_MS_MAX, Rates


class Clock(SystemRuntime):
    """A monotonic clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def account(number: int) -> AccountId:
    return AccountId(number.to_bytes(16, "big"))


ANNA, BERT = account(1), account(2)


def made() -> tuple[Rates, Clock, Metrics]:
    clock, metrics = Clock(), Metrics()
    config = LimitsConfig(account_requests=2.0, account_denials=1.0)
    return Rates(clock, metrics, config, accounts=3), clock, metrics


def refused(rates: Rates, who: AccountId) -> Exhausted:
    with pytest.raises(Exhausted) as caught:
        rates.ask(who)
    return caught.value


def test_a_burst_then_the_rate() -> None:
    rates, clock, metrics = made()
    for _ in range(8):
        rates.ask(ANNA)
    error = refused(rates, ANNA)
    assert error.reason == "too-many-requests"
    assert 500 <= error.retry_after_ms <= 1_000
    clock.now += 0.5
    rates.ask(ANNA)
    assert refused(rates, ANNA).reason == "too-many-requests"
    rates.ask(BERT)
    assert metrics.value("rate_limited_total", limit="requests") == 2
    clock.now += 3_600
    for _ in range(8):
        rates.ask(ANNA)
    refused(rates, ANNA)


def test_denials_have_a_bucket_of_their_own() -> None:
    rates, clock, metrics = made()
    for _ in range(4):
        rates.denied(ANNA)
    error = refused(rates, ANNA)
    assert error.reason == "too-many-denials"
    assert 1_000 <= error.retry_after_ms <= 2_000
    rates.ask(BERT)
    clock.now += 1.0
    rates.ask(ANNA)
    assert metrics.value("rate_limited_total", limit="denials") == 1


def test_many_denials_at_once_are_a_debt_that_time_pays() -> None:
    rates, clock, _ = made()
    rates.denied(ANNA, 4 + 10)
    assert refused(rates, ANNA).reason == "too-many-denials"
    clock.now += 10.0
    assert refused(rates, ANNA).retry_after_ms <= 2_000
    clock.now += 1.0
    rates.ask(ANNA)
    rates.denied(ANNA, 1_000_000)
    assert refused(rates, ANNA).retry_after_ms == RETRY_MS_MAX
    clock.now += RETRY_MS_MAX / 1000 + 1
    rates.ask(ANNA)


def test_the_table_is_bounded() -> None:
    rates, _, _ = made()
    for number in range(50):
        rates.ask(account(number))
        assert len(rates) <= 3
