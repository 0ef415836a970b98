"""Progress on a virtual clock: pace, what is left, and when it will be done."""

from __future__ import annotations

import pytest

from hcefs.upkeep.pace import ENTRIES_MAX, WINDOW_SECONDS, PaceMeter


def test_the_time_left_follows_the_measured_pace() -> None:
    meter, now = PaceMeter(), 500.0
    assert meter.left_seconds(now, 10) is None
    meter.begin(now)
    for _ in range(20):
        now += 0.5
        meter.enter(now, 1000)
    assert meter.pace(now).shards == pytest.approx(2.0)
    assert meter.pace(now).bytes == pytest.approx(2000.0)
    assert meter.left_seconds(now, 100) == pytest.approx(50.0)
    assert meter.left_bytes(100) == 100_000
    assert meter.left_seconds(now, 0) == 0.0


def test_the_pace_is_that_of_the_last_minute() -> None:
    meter, now = PaceMeter(), 0.0
    meter.begin(now)
    for _ in range(600):
        now += 0.1
        meter.enter(now, 10)
    for _ in range(240):
        now += 0.5
        meter.enter(now, 10)
    assert meter.left_seconds(now, 100) == pytest.approx(50.0, rel=0.02)


def test_a_rest_is_no_pace_and_does_not_slow_what_follows() -> None:
    meter, now = PaceMeter(), 0.0
    meter.begin(now)
    meter.enter(now + 1, 10)
    now += 10 * WINDOW_SECONDS
    assert meter.left_seconds(now, 5) is None
    meter.begin(now)
    meter.enter(now + 1, 10)
    assert meter.left_seconds(now + 1, 5) == pytest.approx(5.0)


def test_very_fast_work_is_measured_over_what_is_remembered() -> None:
    meter, now = PaceMeter(), 0.0
    meter.begin(now)
    for _ in range(3 * ENTRIES_MAX):
        now += 0.001
        meter.enter(now, 1)
    assert meter.pace(now).shards == pytest.approx(1000.0, rel=0.01)
