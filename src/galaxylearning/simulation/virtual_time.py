"""An event loop whose time is virtual and whose order of ready tasks follows from a seed.

Nothing sleeps: when no task can go on, the clock jumps to the next timer, so hours of deadlines pass in
milliseconds. Which of the ready tasks goes on is drawn, so that every seed is another interleaving, and the
same seed the same one to the last step. There are no sockets, threads or signals here.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any, Final, Self, TypeVar, TypeVarTuple

from galaxylearning.simulation.faults import chance

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

MOST_STEPS: Final = 20_000_000
"""So many steps no simulation of ours takes: a task that never waits would otherwise run for ever."""


class NothingLeftToHappen(RuntimeError):  # noqa: N818 - it says what is the case
    """The main task waits for something that no other task and no timer will bring."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs coroutines in virtual time, ready ones in an order that ``rng`` draws."""

    def __init__(self, *, rng: Random, start_s: float = 0.0) -> None:
        self._rng, self._now_s = rng, start_s
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        self._is_running = self._is_closed = False
        self._failure: BaseException | None = None
        self.steps = 0

    @classmethod
    def seeded(cls, name: str) -> Self:
        """A loop whose order follows from a name."""
        return cls(rng=chance(name))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run ``main`` to its end and cancel whatever it left behind.

        Raises:
            NothingLeftToHappen: ``main`` would wait for ever.
        """
        if self._is_closed or self._is_running:
            raise RuntimeError("a virtual loop runs once at a time, and not after it was closed")
        self._is_running = True
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            task: asyncio.Task[_T] = self.create_task(main)
            self._work_until(task)
            for left in sorted(asyncio.all_tasks(self), key=lambda one: one.get_name()):
                left.cancel()
                self._work_until(left)
            return task.result()
        finally:
            events._set_running_loop(before)
            self._is_running = False

    def run_until_complete(self, future: Any) -> Any:
        """``run``, under the name every event loop has."""
        return self.run(future)

    def _work_until(self, task: asyncio.Task[Any]) -> None:
        while not task.done():
            if not self._ready:
                self._jump()
            place = self._rng.randrange(len(self._ready)) if len(self._ready) > 1 else 0
            self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
            handle = self._ready.pop()
            if not handle.cancelled():
                handle._run()
            self.steps += 1
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self.steps > MOST_STEPS:
                raise NothingLeftToHappen(f"no end after {MOST_STEPS} steps, at {self._now_s:.0f} s")

    def _jump(self) -> None:
        """Let the next timers be due."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise NothingLeftToHappen(f"every task waits for another, at {self._now_s:.0f} s")
        self._now_s = max(self._now_s, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(self._timers)[2])

    # ---- what asyncio asks of an event loop

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Put a callback among the ready ones."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back after ``delay`` virtual seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        """A task of this loop; its name is its number, the same in every run."""
        self._made += 1
        return asyncio.Task(coro, loop=self, name=name or f"task {self._made:09d}", context=context)

    def get_task_factory(self) -> None:
        """None: tasks are asyncio's own."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback failed: the run fails."""
        self._failure = context.get("exception") or RuntimeError(str(context.get("message")))

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether ``run`` is under way."""
        return self._is_running

    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    def close(self) -> None:
        """Drop everything."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()


class WaywardClock:
    """A node's clock (``ports.Clock``): virtual time, ahead by every jump it has made."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def jump(self, seconds: float) -> None:
        """Be ``seconds`` further ahead, as after a suspend; a monotonic clock never goes back."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self._ahead_s += seconds

    def monotonic_s(self) -> float:
        """Virtual seconds and all jumps."""
        return asyncio.get_running_loop().time() + self._ahead_s

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(seconds)
