"""The kill matrix: every step of every actor, five moments each, SIGKILL, restart; the job must not notice.

Run with: make kill-matrix, or python -m benchmarks.kills; --help tells the options. Results go to
benchmarks/results/kills.json; the exit status is 1 where anything came out differently.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.kills.actors import Place
from benchmarks.kills.mortal import MOMENTS, Moment, Target
from benchmarks.kills.play import Result, run
from benchmarks.kills.town import Privacy, Town, clock_at_genesis, founded
from benchmarks.rows import RESULTS

TARGET_KILLS: Final = 1_800
TARGET_STEPS: Final = 36
RECOVERY_TARGET_S: Final = 10.0
QUICK_KILLS: Final = 60
AT_ONCE: Final = 6
"""Kills in one job."""
RUN_LIMIT_S: Final = 120.0
AUDITED_EVERY: Final = 10


@dataclass
class Matrix:
    """What was done and what came of it."""

    folder: Path
    towns: dict[Privacy, Town]
    undisturbed: dict[tuple[Privacy, int], Result] = field(default_factory=dict)
    died: Counter[tuple[str, Moment]] = field(default_factory=Counter)
    missed: list[Target] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    runs: int = 0
    audited: int = 0
    is_forgetful: bool = False

    @property
    def kills(self) -> int:
        """How often a process was killed."""
        return self.died.total()

    def play(self, privacy: Privacy, seed: int, targets: Sequence[Target]) -> Result | None:
        """Play one job in a fork; None, and a violation, where it did not come to its end."""
        self.runs += 1
        is_audited = self.runs % AUDITED_EVERY == 1
        self.audited += is_audited
        name = f"{privacy} seed {seed}, run {self.runs}"
        folder = self.folder / f"run-{self.runs}"
        sealed = self.folder / f"sealed-{privacy}-{seed}"
        place = Place(self.towns[privacy], folder, seed, sealed, self.is_forgetful)
        try:
            return _in_a_fork(place, targets, is_audited=is_audited)
        except RuntimeError as error:
            self._violated(f"{name}: {error}; killed at {_shown(targets)}")
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _violated(self, what: str) -> None:
        self.violations.append(what)
        print(f"VIOLATION {what}", flush=True)

    def baseline(self, privacy: Privacy, seed: int) -> Result:
        """The undisturbed run of a seed.

        Raises:
            RuntimeError: even that one failed.
        """
        key = privacy, seed
        if key not in self.undisturbed:
            found = self.play(privacy, seed, [])
            if found is None:
                raise RuntimeError(self.violations[-1])
            self.undisturbed[key] = found
        return self.undisturbed[key]

    def disturb(self, privacy: Privacy, seed: int, targets: Sequence[Target]) -> list[Target]:
        """Kill at these targets in one job and compare; those that were not reached."""
        expected = self.baseline(privacy, seed)
        found = self.play(privacy, seed, targets)
        if found is None:
            return []
        self.died.update((role_of(one.actor) + ": " + one.step, one.moment) for one in found.died)
        self.recoveries_s += found.recoveries_s
        wrong = {
            name: (expected.facts.get(name), value)
            for name, value in found.facts.items()
            if value != (expected.facts.get(name) if name != "audit" else "ok")
        }
        for name, (before, after) in wrong.items():
            self._violated(
                f"{privacy} seed {seed}, run {self.runs}: {name} is {_differing(before, after)}; "
                f"killed at {_shown(found.died)}"
            )
        return [target for target in targets if target not in found.died]


def _differing(before: Any, after: Any) -> str:
    """Two facts, as far as they differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in before | after if before.get(key) != after.get(key)]
        return ", ".join(f"{key}: {after.get(key)} instead of {before.get(key)}" for key in keys)
    if isinstance(before, list) and isinstance(after, list):
        return (
            f"with {[x for x in after if x not in before]}, without {[x for x in before if x not in after]}"
        )
    return f"{after} instead of {before}"


def _shown(targets: Sequence[Target]) -> str:
    return "; ".join(f"{t.actor} {t.moment} {t.step!r} ({t.variant})" for t in targets) or "nothing"


def _in_a_fork(place: Place, targets: Sequence[Target], *, is_audited: bool) -> Result:
    """One job in a process of its own.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.close(reading)
            try:
                answer: Any = run(place, targets, is_audited=is_audited)
            except BaseException as error:  # noqa: BLE001 - said by the parent
                answer = f"{error!r}\n" + traceback.format_exc()[-3000:]
            with os.fdopen(writing, "wb") as file:
                pickle.dump(answer, file)
        finally:
            os._exit(0)
    os.close(writing)
    data = b""
    deadline = time.monotonic() + RUN_LIMIT_S
    with os.fdopen(reading, "rb", buffering=0) as file:
        while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (piece := file.read(1 << 20)):
                break
            data += piece
        else:
            os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not data:
        raise RuntimeError(f"no end within {RUN_LIMIT_S:g} s")
    answer = pickle.loads(data)  # noqa: S301 - written by our own fork
    if isinstance(answer, str):
        raise RuntimeError(answer)
    if not isinstance(answer, Result):
        raise RuntimeError(f"the fork answered {type(answer).__name__}")
    return answer


def role_of(actor: str) -> str:
    """What an actor is."""
    if actor.startswith("evaluator"):
        return "evaluator"
    return actor if actor in ("requester", "relayer") else "data owner"


def cells(
    privacy: Privacy, steps: dict[str, tuple[str, ...]], known: set[str], rng: random.Random
) -> list[Target]:
    """One target for each step and moment that another mode does not have; the actor is drawn."""
    who: dict[str, list[str]] = {}
    for actor, seen in steps.items():
        for step in seen:
            who.setdefault(f"{role_of(actor)}: {step}", []).append(actor)
    found = [
        Target(rng.choice(actors), name.partition(": ")[2], moment, rng.randrange(1_000))
        for name, actors in sorted(who.items())
        if privacy == "sealed" or name not in known
        for moment in MOMENTS
    ]
    rng.shuffle(found)
    return found


def groups(targets: Sequence[Target], size: int) -> Iterator[list[Target]]:
    """Cut into jobs of ``size`` kills, no step of an actor twice in one job."""
    waiting = list(targets)
    while waiting:
        chosen: list[Target] = []
        for target in list(waiting):
            if len(chosen) < size and (target.actor, target.step) not in [(t.actor, t.step) for t in chosen]:
                chosen.append(target)
                waiting.remove(target)
        yield chosen


def fill(matrix: Matrix, first_seed: int, kills: int, deadline: float, at_once: int) -> None:
    """Seed after seed through every cell, until there were enough kills or the time is over."""
    seed = first_seed
    while matrix.kills < kills and time.monotonic() < deadline:
        known: set[str] = set()
        for privacy in matrix.towns:
            rng = random.Random(f"{privacy} {seed}")  # noqa: S311 - which kills go together
            steps = dict(matrix.baseline(privacy, seed).steps)
            targets = cells(privacy, steps, known, rng)
            known |= {f"{role_of(target.actor)}: {target.step}" for target in targets}
            for group in groups(targets, at_once):
                if matrix.kills >= kills or time.monotonic() >= deadline:
                    return
                for target in matrix.disturb(privacy, seed, group):
                    # Its actor was dead, or somebody else did it meanwhile: once more, alone.
                    matrix.missed += matrix.disturb(privacy, seed, [target])
                said = f"seed {seed} {privacy}: {matrix.kills} kills in {matrix.runs} jobs"
                print(f"{said}, {len(matrix.violations)} violations", flush=True)
        seed += 1


def rows(matrix: Matrix, first_seed: int) -> list[dict[str, Any]]:
    """The rows of the results."""
    steps = {name for name, _ in matrix.died}
    whole = [name for name in steps if all(matrix.died[name, moment] for moment in MOMENTS)]
    slowest_s = max(matrix.recoveries_s, default=0.0)
    wrong = len(matrix.violations)
    late = sum(each > RECOVERY_TARGET_S for each in matrix.recoveries_s)
    seeds = sorted({seed for _, seed in matrix.undisturbed})
    shared = {"violations": wrong, "target": 0, "seeds": seeds or [first_seed]}
    return [
        {
            "row": "kills: same final roots and balances, each transaction once",
            "count": matrix.kills,
            **shared,
            "kills_target": TARGET_KILLS,
            "jobs": matrix.runs,
            "audited": matrix.audited,
        },
        {
            "row": "named steps killed at all five moments",
            "count": len(whole),
            **shared,
            "steps_target": TARGET_STEPS,
            "steps": len(steps),
        },
        *(
            {
                "row": f"kills at moment '{moment}'",
                "count": sum(count for (_, at), count in matrix.died.items() if at == moment),
                **shared,
            }
            for moment in MOMENTS
        ),
        {
            "row": "recovery after a kill: from its start to the end of its first turn, at most 10 s",
            "count": len(matrix.recoveries_s),
            "violations": late,
            "target": 0,
            "slowest_s": round(slowest_s, 3),
            "median_s": round(sorted(matrix.recoveries_s)[len(matrix.recoveries_s) // 2], 3)
            if matrix.recoveries_s
            else 0.0,
        },
    ]


def warm(folder: Path, modes: Sequence[Privacy]) -> None:
    """Play a job of each kind in this process: what forks from it later need not learn how again."""
    for privacy in modes:
        town = founded(folder / f"warm-town-{privacy}", privacy, clock_at_genesis())
        run(Place(town, folder / f"warm-{privacy}", 1, folder / "none"), [])


def matrix_of(
    folder: Path,
    *,
    seed: int,
    kills: int,
    minutes: float,
    modes: Sequence[Privacy] = ("sealed", "masked"),
    at_once: int = AT_ONCE,
    is_forgetful: bool = False,
) -> Matrix:
    """A filled matrix; ``folder`` holds what is written meanwhile."""
    if kills > QUICK_KILLS:
        warm(folder, modes)
    towns = {mode: founded(folder / f"town-{mode}", mode, clock_at_genesis()) for mode in modes}
    matrix = Matrix(folder, towns, is_forgetful=is_forgetful)
    fill(matrix, seed, kills, time.monotonic() + 60 * minutes, at_once)
    return matrix


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the matrix and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--budget-minutes", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--kills", type=int, help=f"stop after so many ({TARGET_KILLS})")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="kills in one job")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills, sealed mode, no results")
    parser.add_argument(
        "--forgetful",
        action="store_true",
        help="victims lose their memory: it must fail",
    )
    given = parser.parse_args(arguments)
    kills = given.kills or (QUICK_KILLS if given.quick else TARGET_KILLS)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder in memory
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir=base))
    began = time.monotonic()
    try:
        matrix = matrix_of(
            folder,
            seed=given.seed,
            kills=kills,
            minutes=given.budget_minutes,
            modes=("sealed",) if given.quick else ("sealed", "masked"),
            at_once=given.at_once,
            is_forgetful=given.forgetful,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = rows(matrix, given.seed)
    for row in found:
        print(json.dumps(row))
    for target in matrix.missed:
        print(f"not reached: {_shown([target])}")
    is_ok = not matrix.violations and not any(row["violations"] for row in found)
    spent_s = time.monotonic() - began
    print(
        f"{'ok' if is_ok else 'FAILED'}: {matrix.kills} kills at {found[1]['steps']} steps in "
        f"{matrix.runs} jobs, {spent_s:.0f} s, {len(matrix.violations)} violations, "
        f"{len(matrix.missed)} not reached"
    )
    if not (given.quick or given.forgetful):
        RESULTS.mkdir(exist_ok=True)
        text = "[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n"
        (RESULTS / "kills.json").write_text(text, encoding="utf-8")
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
