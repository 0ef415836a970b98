"""Gates refuse at once, and give back what they took however the block ends."""

from __future__ import annotations

import asyncio

import pytest

from hcefs.errors import Exhausted, Invalid
from hcefs.transport.limit import ByteGate, Gate
from tests.unit.transport.fakes import FakeRuntime


async def test_a_full_gate_refuses_at_once_and_opens_again() -> None:
    gate = Gate("streams", 2, FakeRuntime(), retry_after_ms=800)
    async with gate:
        async with gate:
            assert gate.held == gate.limit == 2
            with pytest.raises(Exhausted, match="streams") as caught:
                async with gate:
                    pytest.fail("entered a full gate")
            assert caught.value.reason == "busy"
            assert gate.refused == 1
        async with gate:
            assert gate.held == 2
    assert gate.held == 0


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_place_is_given_back_when_the_block_fails(error: type[BaseException]) -> None:
    gate = Gate("streams", 1, FakeRuntime())
    with pytest.raises(error):
        async with gate:
            raise error
    assert gate.held == 0


@pytest.mark.parametrize(("random_byte", "delay_ms"), [(0, 400), (0x80, 801), (0xFF, 1199)])
async def test_delays_are_spread(random_byte: int, delay_ms: int) -> None:
    gate = Gate("streams", 1, FakeRuntime(random_byte), retry_after_ms=800)
    async with gate:
        with pytest.raises(Exhausted) as caught:
            await gate.__aenter__()
    assert caught.value.retry_after_ms == delay_ms


def test_bytes_are_a_budget_over_all_holders() -> None:
    memory = ByteGate("memory", 100, FakeRuntime())
    with memory.hold(60):
        with memory.hold(40):
            assert memory.held == memory.limit == 100
            with memory.hold(0):
                pass
            with pytest.raises(Exhausted), memory.hold(1):
                pytest.fail("held more than the budget")
        with pytest.raises(RuntimeError), memory.hold(40):
            raise RuntimeError
        assert memory.held == 60
    assert memory.held == 0
    assert memory.refused == 1


@pytest.mark.parametrize("size", [-1, 101])
def test_what_can_never_fit_is_invalid(size: int) -> None:
    memory = ByteGate("memory", 100, FakeRuntime())
    with pytest.raises(Invalid) as caught, memory.hold(size):
        pytest.fail("held an impossible size")
    assert caught.value.reason == "too-large"
    assert memory.held == 0


def test_a_limit_below_one_is_a_mistake() -> None:
    with pytest.raises(Invalid):
        Gate("streams", 0, FakeRuntime())
