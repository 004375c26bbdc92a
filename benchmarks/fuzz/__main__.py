"""Fuzz every parser: ``python -m benchmarks.fuzz [--budget-minutes N] [--seed S] [--jobs N] [--quick]``.

Each parser must answer any bytes with a value or with an error of the kind it promises, whose message can be
shown: no other exception, no crash, no more than 5 seconds of processor time, no more than 512 MB. Groups of
parsers run in processes of their own; whatever breaks the rule is kept in a folder that is printed. One input
again: ``--replay "tables/csv:1:347"``. Ends with status 1 on a violation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.fuzz import groups
from benchmarks.fuzz.target import judge, stopwatch
from benchmarks.fuzz.watch import Running, run_groups
from benchmarks.machine import Machine
from benchmarks.rows import RESULTS, table

WANTED_INPUTS: Final = 1_000_000
WANTED_PARSERS: Final = 8
BUDGET_MINUTES: Final = 6.0
QUICK_MINUTES: Final = 0.5
SHOWN: Final = 10


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--budget-minutes", type=float, help="processor time in all, in core-minutes")
    parser.add_argument("--seed", type=int, default=1, help="inputs follow from it")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once")
    parser.add_argument("--quick", action="store_true", help="half a minute; no results are written")
    parser.add_argument("--group", action="append", choices=sorted(groups.GROUPS), help="only this group")
    parser.add_argument("--replay", metavar="GROUP/PARSER:SEED:INDEX", help="one input again")
    return parser.parse_args(words)


def replay(name: str) -> int:
    """Offer one input again and say what came of it.

    Raises:
        ValueError: there is no such parser.
    """
    place, seed, index = name.rsplit(":", 2)
    group, _, parser = place.partition("/")
    target = next((target for target in groups.load(group) if target.name == parser), None)
    if target is None:
        raise ValueError(f"group {group} has no parser {parser!r}")
    data = target.input(int(seed), int(index))
    print(f"{len(data)} bytes: {data[:400]!r}{'...' if len(data) > 400 else ''}", flush=True)
    with stopwatch():
        outcome = judge(target, data)
    print(f"{outcome.verdict} {outcome.why}")
    return int(outcome.verdict == "violation")


def violations(running: Sequence[Running], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """By parser: the input that replays each, and what it did."""
    found: dict[str, list[tuple[str, str]]] = {}
    for one in running:
        kept = [(name, what) for name, what in one.findings]
        names = {tried.name for tried in one.tried()}
        for path in sorted(folder.glob("*.json")):
            seen = json.loads(path.read_text(encoding="utf-8"))
            if seen["input"].rsplit(":", 2)[0] in names:
                kept.append((f"{one.group}/{seen['input']}", seen["why"].strip().splitlines()[-1]))
        # An input that ended its process for the memory it took is told of twice.
        for name, what in dict(kept).items():
            found.setdefault(name.rsplit(":", 2)[0].partition("/")[2], []).append((name, what))
    return found


def result_rows(
    running: Sequence[Running], found: dict[str, list[tuple[str, str]]], seed: int
) -> list[dict[str, Any]]:
    """One row for each parser, and one for all."""
    machine = Machine.here().fields()
    tried = [(one.group, each) for one in running for each in one.tried()]
    rows: list[dict[str, Any]] = [
        {
            "row": each.name,
            "group": group,
            "count": each.count,
            "accepted": each.accepted,
            "refusals": each.ways,
            "violations": len(found.get(each.name, ())),
            "target": 0,
            "seconds": round(each.seconds, 3),
        }
        for group, each in tried
    ]
    total = {
        "row": "all inputs",
        "count": sum(row["count"] for row in rows),
        "parsers": len(rows),
        "violations": sum(row["violations"] for row in rows),
        "target": 0,
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "peak_mb": round(max(one.said.get("peak_bytes", 0) for one in running) / 1e6),
        "seed": seed,
        "machine": machine,
    }
    return [total, *rows]


def main(words: Sequence[str] | None = None) -> int:
    """Run, print, write the results; the exit status."""
    given = _arguments(words)
    if given.replay:
        return replay(given.replay)
    minutes = given.budget_minutes or (QUICK_MINUTES if given.quick else BUDGET_MINUTES)
    chosen = {name: share for name, share in groups.GROUPS.items() if not given.group or name in given.group}
    whole = sum(chosen.values())
    folder = Path(tempfile.mkdtemp(prefix="galaxy-fuzz-"))
    started = time.monotonic()
    running = run_groups(
        {name: share / whole for name, share in chosen.items()},
        given.seed,
        minutes * 60,
        folder,
        max(1, given.jobs),
    )
    found = violations(running, folder)
    rows = result_rows(running, found, given.seed)
    _show(rows, found, time.monotonic() - started)
    if not given.quick and not given.group:
        text = "[\n" + ",\n".join(json.dumps(row, sort_keys=True) for row in rows) + "\n]\n"
        (RESULTS / "fuzz.json").write_text(text, encoding="utf-8")
    is_sound = rows[0]["violations"] == 0
    is_enough = given.quick or bool(given.group) or rows[0]["count"] >= WANTED_INPUTS
    print(f"seed {given.seed}; what was found is in {folder}" if found else f"seed {given.seed}")
    print("verdict: " + ("ok" if is_sound and is_enough else "too few inputs" if is_sound else "violations"))
    return int(not (is_sound and is_enough))


def _show(rows: list[dict[str, Any]], found: dict[str, list[tuple[str, str]]], wall_s: float) -> None:
    lines = [
        [
            row["row"],
            f"{row['count']:,}",
            f"{row['accepted']:,}",
            f"{row['refusals']:,}",
            str(row["violations"]),
            f"{row['seconds'] / max(1, row['count']) * 1e6:,.0f}",
        ]
        for row in rows[1:]
    ]
    print(table(["parser", "inputs", "accepted", "refusals", "violations", "us"], lines))
    total = rows[0]
    print(
        f"{total['count']:,} inputs over {total['parsers']} parsers (wanted {WANTED_INPUTS:,} over "
        f"{WANTED_PARSERS}), {total['violations']} violations (allowed 0), {total['seconds'] / 60:.1f} "
        f"core-minutes, {wall_s / 60:.1f} minutes, at most {total['peak_mb']} MB"
    )
    for name, seen in found.items():
        for place, what in seen[:SHOWN]:
            print(f"  {place}  {what[:200]}")
        if len(seen) > SHOWN:
            print(f"  {name}: {len(seen) - SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())
