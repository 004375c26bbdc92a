"""The worst attack on each defence: digits as rows and as images, IID and not, 20, 30 and 40 % attackers.

Run as: python -m benchmarks.robust [--seeds N] [--other-seeds N] [--workers N] [--only DATA]
[--backdoors [NAME ...]] [--quick]

Federations are trained to the end; accuracy is on rows that nobody trains or gates with, in parts of what
the plain mean reaches with everybody honest. The worst of several attacks is the one whose mean over the
seeds is smallest. Where a backdoor attacks the gate, or nobody does, the model is hardened as well, as
``galaxy job collect --harden`` does it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.robust.attacks import ATTACKS, BACKDOORS, TOLD, UNLIKE
from benchmarks.robust.cases import OWNERS, PLANS, Data, make_case
from benchmarks.robust.course import Course
from benchmarks.robust.defences import DEFENCES, by_rule, hidden_set_alone
from benchmarks.robust.summary import backdoor_tables, json_rows, tables

RESULTS = Path(__file__).parents[1] / "results" / "robust.json"
PARTITIONS = {"IID": "iid", "Dirichlet(0.5)": "dirichlet:alpha=0.5,min_partition_size=10"}
FRACTIONS = (0.2, 0.3, 0.4)
BACKDOOR_FRACTION = 0.2
GATE = "gate (masked)"


@dataclass(frozen=True, slots=True)
class Measured:
    """One federation: ``ratio`` is its accuracy over the clean one (of the mean itself: the accuracy),
    ``backdoor`` how often a trigger worked; ``hardened_...`` the same of the hardened model. Where nobody
    attacks (``fraction`` 0), how often that attack's trigger works in a model that was not taught it."""

    data: str
    partition: str
    seed: int
    fraction: float
    defence: str
    attack: str
    ratio: float
    backdoor: float | None = None
    hardened_ratio: float | None = None
    hardened_backdoor: float | None = None


def unit(
    data: Data,
    partition: str,
    seed: int,
    defences: tuple[str, ...],
    fractions: tuple[float, ...],
    attacks: tuple[str, ...],
) -> list[Measured]:
    """Everything of one case."""
    case = make_case(data, PARTITIONS[partition], seed)
    honest = Course(case, None, 0)
    clean = honest.run(by_rule("mean")).accuracy

    def made(fraction: float, defence: str, attack: str, course: Course) -> list[Measured]:
        is_hardened = defence == GATE and (attack == "none" or attack in BACKDOORS)
        ended = course.run(DEFENCES[defence], is_hardened=is_hardened)
        ratio = ended.accuracy / clean
        found = Measured(data, partition, seed, fraction, defence, attack, ratio, ended.backdoor)
        if (after := ended.hardened) is None:
            return [found]
        untaught = [
            replace(found, attack=name, backdoor=rate, hardened_backdoor=after.untaught[name])
            for name, rate in ended.untaught.items()
        ]
        found = replace(found, hardened_ratio=after.accuracy / clean, hardened_backdoor=after.backdoor)
        return [found, *untaught]

    alone = honest.run(hidden_set_alone).accuracy / clean
    found = [
        Measured(data, partition, seed, 0.0, "mean", "none", clean),
        Measured(data, partition, seed, 0.0, "hidden set alone", "none", alone),
    ]
    for name in defences:
        found += made(0.0, name, "none", honest)
    honest.close()
    for fraction in fractions:
        for attack in attacks:
            if attack in BACKDOORS and fraction != BACKDOOR_FRACTION:
                continue
            course = Course(case, attack, round(fraction * OWNERS))
            for name in defences:
                found += made(fraction, name, attack, course)
            course.close()
    return found


def units(
    given: argparse.Namespace,
) -> Iterator[tuple[Data, str, int, tuple[str, ...], tuple[float, ...], tuple[str, ...]]]:
    """What is to be done: the gate with all seeds, the others with fewer."""
    fractions = (BACKDOOR_FRACTION,) if given.quick or given.backdoors else FRACTIONS
    attacks = tuple(given.backdoors or (*ATTACKS, *BACKDOORS))
    for data in PLANS:
        if given.only not in (None, data):
            continue
        for partition in PARTITIONS:
            for seed in range(given.seeds):
                names = tuple(DEFENCES) if seed < given.other_seeds else (GATE,)
                yield data, partition, seed, names, fractions, attacks


def main() -> None:
    """Run, print tables, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robust", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--other-seeds", type=int, default=1, help="seeds of what the gate is compared with")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=tuple(PLANS), default=None)
    parser.add_argument(
        "--backdoors", nargs="*", choices=tuple(BACKDOORS), help="these or all of them alone; nothing written"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 20 % attackers, nothing written")
    parser.add_argument("--keep", type=Path, default=None, help="where to write every federation's figures")
    parser.add_argument("--kept", type=Path, nargs="*", default=(), help="tables and results of these alone")
    given = parser.parse_args()
    if given.backdoors is not None and given.kept:
        parser.error("--kept and --backdoors exclude each other")
    if given.backdoors == []:
        given.backdoors = list(BACKDOORS)
    if given.quick:
        given.seeds = given.other_seeds = 1
    found = kept(given.kept) if given.kept else measured(given)
    print(backdoor_tables(found, gate=GATE) if given.backdoors else tables(found, gate=GATE, told=TOLD))
    if given.keep is not None:
        given.keep.write_text(json.dumps([asdict(one) for one in found]) + "\n", encoding="utf-8")
    if given.kept or not (given.quick or given.only or given.backdoors):
        rows = [
            json.dumps(row, sort_keys=True)
            for row in json_rows(found, gate=GATE, told=TOLD, no_target=UNLIKE)
        ]
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
