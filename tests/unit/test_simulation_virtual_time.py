"""The virtual event loop: time jumps, order follows from the seed, failures come out, nothing is left."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from galaxylearning.simulation.faults import NodeDied
from galaxylearning.simulation.virtual_time import NothingLeftToHappen, VirtualLoop, WaywardClock


def loop(seed: int = 0) -> VirtualLoop:
    return VirtualLoop.seeded(f"order {seed}")


def test_a_year_passes_at_once_and_timers_come_in_their_order() -> None:
    async def main() -> list[float]:
        seen: list[float] = []

        async def at(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(asyncio.get_running_loop().time())

        await asyncio.gather(*(at(day * 86_400.0) for day in (365, 2, 30)))
        return seen

    assert loop().run(main()) == [2 * 86_400.0, 30 * 86_400.0, 365 * 86_400.0]


def test_the_order_of_ready_tasks_follows_from_the_seed() -> None:
    def order(seed: int) -> list[int]:
        async def main() -> list[int]:
            seen: list[int] = []

            async def one(number: int) -> None:
                await asyncio.sleep(1.0)
                seen.append(number)

            await asyncio.gather(*(one(number) for number in range(20)))
            return seen

        return loop(seed).run(main())

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(10)}) == 10
    assert sorted(order(1)) == list(range(20))


def test_waiting_for_what_never_comes_is_told() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(NothingLeftToHappen, match="every task waits"):
        loop().run(main())


def test_a_failing_callback_fails_the_run() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, fail)
        await asyncio.sleep(2.0)

    with pytest.raises(ZeroDivisionError):
        loop().run(main())


def test_a_node_that_dies_ends_its_task_and_nothing_else() -> None:
    async def dying() -> None:
        await asyncio.sleep(1.0)
        raise NodeDied("here")

    async def main() -> float:
        task = asyncio.ensure_future(dying())
        await asyncio.wait([task])
        with pytest.raises(NodeDied):
            task.result()
        await asyncio.sleep(1.0)
        return asyncio.get_running_loop().time()

    assert loop().run(main()) == 2.0


def test_what_main_leaves_behind_is_cancelled() -> None:
    ended: list[str] = []

    async def lasting() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("cancelled")

    async def main() -> None:
        asyncio.get_running_loop().create_task(lasting())
        await asyncio.sleep(1.0)

    loop().run(main())
    assert ended == ["cancelled"]


def test_timeouts_and_task_groups_work_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.sleep(10.0)
        with anyio.move_on_after(7.0) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 100.0)
        assert scope.cancelled_caught
        return asyncio.get_running_loop().time()

    assert loop().run(main()) == 12.0


def test_a_loop_runs_once_at_a_time() -> None:
    async def nothing() -> None:
        """Nothing."""

    used = loop()
    used.run(nothing())
    used.close()
    again = nothing()
    with pytest.raises(RuntimeError, match="not after it was closed"):
        used.run(again)
    again.close()


def test_a_clock_jumps_ahead_and_never_back() -> None:
    async def main() -> tuple[float, float]:
        clock = WaywardClock()
        await clock.sleep(3.0)
        before = clock.monotonic_s()
        clock.jump(10.0)
        with pytest.raises(ValueError, match="back"):
            clock.jump(-1.0)
        return before, clock.monotonic_s()

    assert loop().run(main()) == (3.0, 13.0)
