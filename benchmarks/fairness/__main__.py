"""Who is paid what, when one data owner does not play fair: all rows, to benchmarks/results/fairness.json.

Run with: make bench-fairness (BENCH="--seeds 1 --twin-seeds 5 --graded-seeds 2" for a quick look)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from benchmarks.fairness.attacks import ATTACKS, COPIES_RIVAL, RIVAL, Outcome, run_cohort
from benchmarks.fairness.cohorts import Setting
from benchmarks.fairness.splitting import CREDENTIALS, RULES, SplitTried, run_splits
from benchmarks.fairness.table import Row, mean_row, most_row, rate_row, ratio_row, show, write
from benchmarks.fairness.truths import (
    Graded,
    Truth,
    Unlucky,
    run_graded,
    run_liars,
    run_truth,
    run_unlucky,
)
from benchmarks.fairness.twin_rates import TwinCase, run_case

SETTINGS = tuple(
    Setting(data, split) for data in ("breast-cancer", "digits") for split in ("iid", "dirichlet")
)
MODES = ("sealed", "masked")
FIRST_SEED = 7001
"""Seeds from here on had no part in choosing any threshold."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of every setting, for attacks, truths, rules")
    parser.add_argument(
        "--twin-seeds", type=int, default=50, help="of every setting, for the search for twins"
    )
    parser.add_argument(
        "--graded-seeds", type=int, default=20, help="of cohorts with noisy labels, and of honest ones beside"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    start = time.perf_counter()
    rows: list[Row] = []
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    cases = [(setting, seed) for setting in SETTINGS for seed in seeds]
    many = [(s, FIRST_SEED + i) for s in SETTINGS for i in range(given.twin_seeds)]
    with ProcessPoolExecutor(given.jobs) as pool:

        def each(function: Callable[..., Result], items: Iterable[tuple[object, ...]]) -> list[Result]:
            return list(pool.map(function, *zip(*items, strict=True)))

        def tell(found: Sequence[Row]) -> None:
            rows.extend(found)
            for row in found:
                print(show(row), flush=True)
            print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)

        tell(twin_rows(flat(each(run_case, many))))
        tell(truth_rows(flat(each(run_truth, cases))))
        for name, hidden in (("64-32-10", -1), ("logistic", 0)):
            graded = [("digits", hidden, FIRST_SEED + i) for i in range(given.graded_seeds)]
            tell(graded_rows(name, flat(each(run_graded, graded))))
        honest = [
            (s, owners, FIRST_SEED + i)
            for s in SETTINGS
            for owners in (8, 12)
            for i in range(given.graded_seeds)
        ]
        tell(unlucky_rows(flat(each(run_unlucky, honest))))
        moved = each(run_liars, [(seed,) for seed in seeds])
        tell([most_row("any 2 of 5 lying evaluators: units moved, the most", moved, at_most=0)])
        tell(split_rows(flat(each(run_splits, cases))))
        tell(attack_rows(flat(each(run_cohort, cases))))
    write(rows)
    missed = [row.row for row in rows if row.met is False]
    print(f"{len(rows)} rows in {time.perf_counter() - start:.0f} s; targets missed: {len(missed)}")


def flat(parts: Iterable[Sequence[Item]]) -> list[Item]:
    """All items of all parts."""
    return [item for part in parts for item in part]


def twin_rows(cases: Sequence[TwinCase]) -> list[Row]:
    """Found and wrong, by mode; a case counts as found when all names of the data set are in one group."""
    found = []
    for mode in ("masked", "sealed"):
        with_twins = [case for case in cases if case.copies]
        found += [
            rate_row(
                f"{mode}: cohorts whose copies were all found", [case.found[mode] for case in with_twins]
            ),
            rate_row(
                f"{mode}: cohorts with an honest owner taken for a twin",
                [case.wrong[mode] for case in cases],
                at_most=0.01,
            ),
        ]
    return found


def truth_rows(truths: Sequence[Truth]) -> list[Row]:
    """Banzhaf and the gain."""
    found = []
    for mode in MODES:
        here = [truth for truth in truths if truth.privacy == mode]
        found += [
            mean_row(f"{mode}: correlation with exact Banzhaf", [t.correlation for t in here], at_least=0.98),
            mean_row(
                f"{mode}: sum of the values over the gain, no novelty",
                [t.sum_of_gain for t in here],
                near=(1.0, 0.01),
            ),
            mean_row(f"{mode}: sum of what is paid over the gain, novelty", [t.paid_of_gain for t in here]),
        ]
    return found


def graded_rows(model: str, graded: Sequence[Graded]) -> list[Row]:
    """Graded label noise."""
    found = []
    for mode in MODES:
        here = [one for one in graded if one.privacy == mode]
        name = f"{mode}, graded noise, {model}"
        found += [
            mean_row(f"{name}: Spearman of path values", [g.path for g in here], at_least=0.93),
            mean_row(
                f"{name}: Spearman of path values less charges", [g.charged for g in here], at_least=0.93
            ),
            mean_row(
                f"{name}: Spearman of paid values before the floor", [g.novel for g in here], at_least=0.93
            ),
            # No target: who earns nothing, as seven of eighteen must, ties.
            mean_row(f"{name}: Spearman of pay (ties at zero)", [g.paid for g in here]),
            most_row(
                f"{name}: owners with >= 60 % noise that are paid, the most",
                [g.noisy_paid for g in here],
                at_most=0,
            ),
            rate_row(f"{name}: jobs that pay an owner with >= 60 % noise", [g.noisy_paid > 0 for g in here]),
            most_row(
                f"{name}: the most such an owner is paid, of the median with < 30 %",
                [g.noisy_most for g in here],
            ),
        ]
    return found


def unlucky_rows(cohorts: Sequence[Unlucky]) -> list[Row]:
    """What the rule that leaves noise unpaid costs honest data owners."""
    found = []
    for mode in MODES:
        lost = [part for one in cohorts if one.privacy == mode for part in one.lost]
        found += [
            rate_row(f"{mode}: honest data owners that get nothing for luck", [part > 0 for part in lost]),
            mean_row(f"{mode}: what honest data owners lose by that, of the mean pay", lost),
            most_row(f"{mode}: the most that one loses, of the mean pay", lost),
        ]
    return found


def split_rows(tried: Sequence[SplitTried]) -> list[Row]:
    """What every rule against splitting leaves of its gain, and what it costs honest owners."""
    found = []
    for rule in RULES:
        for parts in sorted({one.parts for one in tried}):
            here = [one for one in tried if one.rule == rule and one.parts == parts]
            name = f"splitting into {parts}, rule: {rule}"
            goal = 1.05 if rule == CREDENTIALS else None
            took, honestly = [o.took for o in here], [o.honestly for o in here]
            found.append(ratio_row(f"{name}: gain", took, honestly, at_most=goal))
        least = [one.kept_least for one in tried if one.rule == rule]
        found.append(mean_row(f"rule: {rule}: the worst hit honest owner keeps", least))
    return found


def attack_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Every attack under every scheme, and the charge an identity must bear."""
    found: list[Row] = []
    schemes = list(dict.fromkeys(one.scheme for one in outcomes))
    for attack in (*(a.name for a in ATTACKS), RIVAL, COPIES_RIVAL):
        for mode in MODES:
            for scheme in schemes:
                here = [o for o in outcomes if (o.attack, o.privacy, o.scheme) == (attack, mode, scheme)]
                if here:
                    found.append(_attack_row(attack, mode, scheme, here))
    found += [_bond_row(kind, mode, outcomes) for kind in ("copies", "split") for mode in MODES]
    return found


def _attack_row(attack: str, mode: str, scheme: str, here: Sequence[Outcome]) -> Row:
    name, kind = f"{mode}, {scheme}: {attack}", here[0].kind
    is_paid = scheme == "paid"
    if kind in ("free", "poison"):
        goal = 0.02 if is_paid and kind == "free" else None
        took, median = [o.took for o in here], [o.median for o in here]
        return ratio_row(f"{name}: of the median honest pay", took, median, at_most=goal)
    goal = 1.05 if is_paid and kind == "copies" else None
    what = "the rival keeps" if kind == "rival" else "gain"
    return ratio_row(f"{name}: {what}", [o.took for o in here], [o.honestly for o in here], at_most=goal)


def _bond_row(kind: str, mode: str, outcomes: Sequence[Outcome]) -> Row:
    """The charge per identity, in parts of the honest pay, that leaves a gain of 1.05 at most for any k."""
    most = 0.0
    count = 0
    for attack in ATTACKS:
        here = [
            o
            for o in outcomes
            if (o.attack, o.privacy, o.scheme, o.kind) == (attack.name, mode, "paid", kind)
        ]
        if here:
            identities = int(attack.name.rsplit(" ", 1)[1])
            gain = sum(o.took for o in here) / max(sum(o.honestly for o in here), 1e-12)
            most, count = max(most, (gain - 1.05) / (identities - 1)), len(here)
    what = "duplicating" if kind == "copies" else "splitting"
    name = f"{mode}: charge per further identity, of the honest pay, that stops {what}"
    return Row(name, most, most, most, None, None, count)


if __name__ == "__main__":
    main()
