"""The loop of the simulator: time jumps, order is that of making, what is cancelled never runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hcefs.crypto.signing import SigningKey, verify
from hcefs.errors import Internal, Unauthenticated
from hcefs.testing.simulator.clock import SWEEP_AT, VirtualLoop
from hcefs.testing.simulator.machine import install
from hcefs.testing.simulator.world import scaled


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    install(made)
    yield made
    made.close()


def test_an_hour_passes_at_once_and_timers_of_one_instant_fire_in_order(loop: VirtualLoop) -> None:
    seen: list[int] = []

    async def story() -> None:
        for number in range(50):
            loop.call_at(3600.0, seen.append, number)
        loop.call_at(1.0, seen.append, -1)
        await asyncio.sleep(7200)

    loop.run_until_complete(story())
    assert loop.time() == 7200
    assert seen == [-1, *range(50)]


def test_cancelled_timers_never_fire_and_are_swept_out(loop: VirtualLoop) -> None:
    seen: list[int] = []

    async def story() -> None:
        timers = [loop.call_later(5.0, seen.append, number) for number in range(10 * SWEEP_AT)]
        for timer in timers[1:]:
            timer.cancel()
            timer.cancel()
        assert len(loop._timers) < 5 * SWEEP_AT
        # One that is cancelled by another of its instant does not fire either.
        pair: list[asyncio.TimerHandle] = []
        loop.call_at(7.0, lambda: pair[0].cancel())
        pair.append(loop.call_at(7.0, seen.append, -2))
        await asyncio.sleep(10)

    loop.run_until_complete(story())
    assert seen == [0]


def test_who_waits_for_nothing_is_told(loop: VirtualLoop) -> None:
    with pytest.raises(Internal, match="for ever"):
        loop.run_until_complete(loop.create_future())


def test_a_signature_is_remembered_only_if_it_was_good() -> None:
    key = SigningKey.from_seed(bytes(32))
    good = key.sign(b"tag", b"words")
    with scaled():
        for _ in range(2):
            verify(key.public_key, b"tag", b"words", good)
            for tag, words in ((b"tag", b"other"), (b"other", b"words")):
                with pytest.raises(Unauthenticated):
                    verify(key.public_key, tag, words, good)
            with pytest.raises(Unauthenticated):
                verify(key.public_key, b"tag", b"words", bytes(64))
