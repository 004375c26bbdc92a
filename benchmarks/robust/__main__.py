"""The worst attack on each defence: digits as rows and as images, IID and not, 20, 30 and 40 % attackers.

Run as: python -m benchmarks.robust [--seeds N] [--other-seeds N] [--workers N] [--only DATA] [--quick]

Federations are trained to the end; accuracy is on rows that nobody trains or gates with, in parts of what
the plain mean reaches with everybody honest. The worst of several attacks is the one whose mean over the
seeds is smallest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.robust.attacks import ATTACKS, BACKDOORS, TOLD
from benchmarks.robust.cases import OWNERS, PLANS, Data, make_case
from benchmarks.robust.course import Course
from benchmarks.robust.defences import DEFENCES, by_rule, hidden_set_alone
from benchmarks.robust.summary import json_rows, tables

RESULTS = Path(__file__).parents[1] / "results" / "robust.json"
PARTITIONS = {"IID": "iid", "Dirichlet(0.5)": "dirichlet:alpha=0.5,min_partition_size=10"}
FRACTIONS = (0.2, 0.3, 0.4)
BACKDOOR_FRACTION = 0.2
GATE = "gate (masked)"


@dataclass(frozen=True, slots=True)
class Measured:
    """One federation: ``ratio`` is its accuracy over the clean one (of the mean itself: the accuracy),
    ``backdoor`` how often a trigger worked."""

    data: str
    partition: str
    seed: int
    fraction: float
    defence: str
    attack: str
    ratio: float
    backdoor: float | None = None


def unit(
    data: Data, partition: str, seed: int, defences: tuple[str, ...], fractions: tuple[float, ...]
) -> list[Measured]:
    """Everything of one case."""
    case = make_case(data, PARTITIONS[partition], seed)
    honest = Course(case, None, 0)
    clean = honest.run(by_rule("mean")).accuracy

    def made(
        fraction: float, defence: str, attack: str, ratio: float, backdoor: float | None = None
    ) -> Measured:
        return Measured(data, partition, seed, fraction, defence, attack, ratio, backdoor)

    found = [
        made(0.0, "mean", "none", clean),
        made(0.0, "hidden set alone", "none", honest.run(hidden_set_alone).accuracy / clean),
    ]
    found += [made(0.0, name, "none", honest.run(DEFENCES[name]).accuracy / clean) for name in defences]
    honest.close()
    for fraction in fractions:
        names = list(ATTACKS) + (list(BACKDOORS) if fraction == BACKDOOR_FRACTION else [])
        for attack in names:
            course = Course(case, attack, round(fraction * OWNERS))
            for name in defences:
                ended = course.run(DEFENCES[name])
                found.append(made(fraction, name, attack, ended.accuracy / clean, ended.backdoor))
            course.close()
    return found


def units(given: argparse.Namespace) -> Iterator[tuple[Data, str, int, tuple[str, ...], tuple[float, ...]]]:
    """What is to be done: the gate with all seeds, the others with fewer."""
    fractions = (BACKDOOR_FRACTION,) if given.quick else FRACTIONS
    for data in PLANS:
        if given.only not in (None, data):
            continue
        for partition in PARTITIONS:
            for seed in range(given.seeds):
                names = tuple(DEFENCES) if seed < given.other_seeds else (GATE,)
                yield data, partition, seed, names, fractions


def main() -> None:
    """Run, print tables, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robust", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--other-seeds", type=int, default=1, help="seeds of what the gate is compared with")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=tuple(PLANS), default=None)
    parser.add_argument("--quick", action="store_true", help="one seed, 20 % attackers, nothing written")
    parser.add_argument("--keep", type=Path, default=None, help="where to write every federation's figures")
    parser.add_argument("--kept", type=Path, nargs="*", default=(), help="tables and results of these alone")
    given = parser.parse_args()
    if given.quick:
        given.seeds = given.other_seeds = 1
    found = kept(given.kept) if given.kept else measured(given)
    print(tables(found, gate=GATE, told=TOLD))
    if given.keep is not None:
        given.keep.write_text(json.dumps([asdict(one) for one in found]) + "\n", encoding="utf-8")
    if given.kept or not (given.quick or given.only):
        rows = [json.dumps(row, sort_keys=True) for row in json_rows(found, gate=GATE, told=TOLD)]
        RESULTS.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


def kept(files: Iterable[Path]) -> list[Measured]:
    """What earlier runs wrote."""
    return [Measured(**one) for file in files for one in json.loads(file.read_text(encoding="utf-8"))]


def measured(given: argparse.Namespace) -> list[Measured]:
    """Train everything that was asked for."""
    start = time.monotonic()
    found: list[Measured] = []
    with ProcessPoolExecutor(given.workers) as pool:
        for part in pool.map(unit, *zip(*units(given), strict=True)):
            found += part
            one = part[0]
            print(f"{one.data} {one.partition} seed {one.seed}: {time.monotonic() - start:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
