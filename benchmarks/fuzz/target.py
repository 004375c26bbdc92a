"""A parser under test, the inputs made for it, and the verdict on what it did with one."""

from __future__ import annotations

import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Literal, TypeAlias

from benchmarks.fuzz.documents import Mutate
from benchmarks.fuzz.mutate import mutate_bytes

SECONDS: Final = 5.0
"""Processor time that one input may take."""
MAX_RSS_BYTES: Final = 512 << 20
MAX_MESSAGE: Final = 1_500

Verdict: TypeAlias = Literal["accepted", "refused", "violation"]


class Overtime(BaseException):
    """An input took longer than it may. Not an ``Exception``: nothing may swallow it."""


@dataclass(frozen=True)
class Target:
    """A parser: ``attempt`` gives a value or raises one of ``refusals``, whatever bytes it gets.

    ``seeds`` are valid inputs; ``mutate`` makes others of them. ``share`` is its part of the processor time,
    beside other parsers.
    """

    name: str
    seeds: Sequence[bytes]
    attempt: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    mutate: Mutate = mutate_bytes
    share: float = 1.0

    def input(self, seed: int, index: int) -> bytes:
        """Input number ``index`` of a run with this seed: the same bytes whenever it is asked for."""
        return self.mutate(random.Random(f"{seed}:{self.name}:{index}"), self.seeds)  # noqa: S311


@dataclass(frozen=True)
class Outcome:
    """What became of one input; ``why`` says what was wrong, of a violation with the place."""

    verdict: Verdict
    why: str = ""


def judge(target: Target, data: bytes) -> Outcome:
    """Offer ``data`` to the parser. To be called under :func:`stopwatch`."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.attempt(data)
    except target.refusals as error:
        outcome = Outcome("refused", _shown(error))
    except Overtime:
        outcome = Outcome("violation", f"took more than {SECONDS:g} s")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        outcome = Outcome("violation", "".join(traceback.format_exception(error))[-4000:])
    else:
        outcome = Outcome("accepted")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if outcome.verdict == "refused" and (complaint := _unfit(outcome.why)):
        return Outcome("violation", complaint)
    return outcome


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _unfit(message: str) -> str:
    """Why a refusal could not be shown to anybody, if so."""
    if len(message) > MAX_MESSAGE:
        return f"a message of {len(message)} characters: {message[:200]}"
    try:
        message.encode()
    except UnicodeEncodeError:
        return f"a message that cannot be printed: {message[:200]!a}"
    return ""


@contextmanager
def stopwatch() -> Iterator[None]:
    """Make ``judge`` able to stop an input that takes too long."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Overtime

    before = signal.signal(signal.SIGPROF, stop)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def quick_peak_bytes() -> int:
    """The most memory that this process, or the one that started it, has held. Takes no time to ask."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@dataclass
class Tally:
    """Counts of one target; ``ways`` are the different refusals, numbers left out."""

    count: int = 0
    accepted: int = 0
    ways: set[str] = field(default_factory=set)
    violations: list[tuple[int, str]] = field(default_factory=list)


_NO_DIGITS: Final = str.maketrans("", "", "0123456789abcdefABCDEF")
MAX_WAYS: Final = 5_000


def way(outcome: Outcome) -> str:
    """A refusal without its numbers: how many different ones there are tells how deep the inputs got."""
    return outcome.why[:80].translate(_NO_DIGITS)


def try_inputs(target: Target, seed: int, indices: range) -> Tally:
    """Offer these inputs one after the other; to be called under :func:`stopwatch`."""
    tally = Tally()
    for index in indices:
        outcome = judge(target, target.input(seed, index))
        tally.count += 1
        if outcome.verdict == "accepted":
            tally.accepted += 1
        elif outcome.verdict == "violation":
            tally.violations.append((index, outcome.why))
        elif len(tally.ways) < MAX_WAYS:
            tally.ways.add(way(outcome))
    return tally


def check_seeds(target: Target) -> None:
    """A target whose seeds are refused would test nothing.

    Raises:
        ValueError: a seed was refused; which, and why.
    """
    for number, seed in enumerate(target.seeds):
        outcome = judge(target, seed)
        if outcome.verdict != "accepted":
            raise ValueError(f"{target.name}, seed {number}: {outcome.why}")
