"""Blocks of independent work on a few threads, within a budget of memory. Knows neither models nor owners."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import require_integer, require_number

Report: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and of how much, from the thread that asked for the work."""

MEBIBYTE = 1 << 20
MAX_BUDGET_MIB = 1 << 20
MAX_THREADS = 256

Block = TypeVar("Block")
Space = TypeVar("Space")


@dataclass(frozen=True, slots=True)
class Budget:
    """How much memory may be used, (0, 2**20] MiB, and how many threads, 1..256.

    Raises:
        ConfigRefused: naming the field and what is allowed.
    """

    budget_mib: float
    threads: int

    def __post_init__(self) -> None:
        require_number(self.budget_mib, "budget_mib", low=0, high=MAX_BUDGET_MIB, low_open=True)
        require_integer(self.threads, "threads", low=1, high=MAX_THREADS)

    def holds(self, needed_bytes: int) -> bool:
        """Whether that many bytes are within the budget."""
        return needed_bytes <= self.budget_mib * MEBIBYTE

    def require(self, needed_bytes: int, what: str) -> None:
        """Refuse what does not fit, before any of it is allocated.

        Raises:
            ConfigRefused: naming the MiB that would be needed.
        """
        if not self.holds(needed_bytes):
            needed = needed_bytes / MEBIBYTE
            raise ConfigRefused(
                f"{what} needs {needed:.1f} MiB; {self.budget_mib:g} allowed", where="budget_mib"
            )

    def workers(self, fixed_bytes: int, each_bytes: int) -> int:
        """How many threads fit beside ``fixed_bytes`` when each takes ``each_bytes``; at least one."""
        left = self.budget_mib * MEBIBYTE - fixed_bytes
        return max(1, min(self.threads, int(left // max(1, each_bytes))))


def run_blocks(
    blocks: Iterable[Block],
    work: Callable[[Block, Space], None],
    spaces: Sequence[Space],
    *,
    stop: threading.Event,
    done: Callable[[Block], None],
) -> None:
    """Do ``work`` on every block, on as many threads as there are ``spaces``; each has one to itself.

    ``done`` is called in the order of the blocks, in this thread. What a block raises, or Ctrl-C, sets
    ``stop`` (at which blocks under way may look), starts no further block, and is raised here once every
    thread has ended.
    """
    if len(spaces) == 1:
        for block in blocks:
            work(block, spaces[0])
            done(block)
        return
    free: SimpleQueue[Space] = SimpleQueue()
    for space in spaces:
        free.put(space)

    def one(block: Block) -> None:
        space = free.get()
        try:
            work(block, space)
        finally:
            free.put(space)

    waiting: deque[tuple[Block, Future[None]]] = deque()

    def finish() -> None:
        block, future = waiting.popleft()
        future.result()
        done(block)

    with ThreadPoolExecutor(len(spaces)) as pool:
        try:
            for block in blocks:
                waiting.append((block, pool.submit(one, block)))
                if len(waiting) > 2 * len(spaces):
                    finish()
            while waiting:
                finish()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
