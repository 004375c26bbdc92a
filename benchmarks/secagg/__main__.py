"""Measure masked mode: cost beside Flower's SecAgg+, exactness, leakage; print the table and write it.

Run with: make bench-secagg, or python -m benchmarks.secagg --help tells the options.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine
from benchmarks.measuring import run
from benchmarks.peers.systems import HERE, ROOT, environment
from benchmarks.rows import RESULTS
from benchmarks.secagg.figures import Figure, show, write

FLOWER = ROOT / "benchmarks" / ".venv-flower" / "bin" / "python"
PARAMETERS = 1_000_000
CLIENTS, SHARES, RECONSTRUCT = 16, 15, 8


def _program(python: Path, module: str, *arguments: int) -> dict[str, Any]:
    command = [str(python), "-m", f"benchmarks.secagg.{module}", *map(str, arguments)]
    found = run(command, env=_environment(), cwd=ROOT)
    print(
        f"{module} {' '.join(map(str, arguments))}: {found.wall_s:.0f} s, load {found.load:.2f}",
        file=sys.stderr,
    )
    return found.result


def _environment() -> dict[str, str]:
    """Programs find the sources beside this file, whatever is installed."""
    return environment() | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}


def owner(quick: bool) -> list[Figure]:
    """A data owner beside a client of SecAgg+, in turns."""
    times = 1 if quick else 3
    ours, wide, theirs = [], [], []
    for _ in range(times):
        theirs.append(_program(FLOWER, "flower_run", PARAMETERS, CLIENTS, SHARES, RECONSTRUCT, 1))
        ours.append(_program(HERE, "owner_run", PARAMETERS, 12, 15))
        wide.append(_program(HERE, "owner_run", PARAMETERS, 16, 15))

    def middle(results: Sequence[dict[str, Any]], name: str) -> float:
        return statistics.median(float(result[name]) for result in results)

    cpu, sent = middle(ours, "cpu_s"), middle(ours, "sent_bytes")
    whole = cpu + middle(ours, "quantise_cpu_s")
    flower_cpu, flower_sent = middle(theirs, "cpu_s"), middle(theirs, "sent_bytes")
    about = f"K = 9, T = 5, 12 bits, {ours[0]['ring']} ring, failure <= 2^{ours[0]['failure_log2']:.2f}"
    versus = f"Flower {theirs[0]['version']}: {flower_cpu:.4f} s, {flower_sent:.0f} bytes, 4 messages"
    return [
        Figure("owner CPU, s", cpu, 0.3, seeds=times, note=about),
        Figure("owner CPU with clipping and quantising, s", whole, None, seeds=times),
        Figure("owner CPU, first round of a process, s", middle(ours, "cpu_first_s"), None, seeds=times),
        Figure("owner sends, MB", sent / 1e6, 5.3, seeds=times),
        Figure("owner sends, times float32", sent / (4 * PARAMETERS), 1.32, seeds=times),
        Figure("owner messages a round", float(ours[0]["messages"]), 1, seeds=times),
        Figure(
            "owner CPU at 16 bits, s", middle(wide, "cpu_s"), 0.3, seeds=times, note=f"{wide[0]['ring']} ring"
        ),
        Figure("owner sends at 16 bits, MB", middle(wide, "sent_bytes") / 1e6, None, seeds=times),
        Figure(
            "SecAgg+ client CPU, s",
            flower_cpu,
            None,
            seeds=times,
            note="CPU of the client's thread in the mod",
        ),
        Figure("SecAgg+ client sends, MB", flower_sent / 1e6, None, seeds=times),
        Figure("SecAgg+ client messages a round", middle(theirs, "messages"), None, seeds=times),
        Figure("SecAgg+ CPU over ours, quantising in both", flower_cpu / whole, 1, True, times, versus),
        Figure("SecAgg+ bytes over ours", flower_sent / sent, 1.5, True, times),
        Figure(
            "SecAgg+ bytes over ours at 16 bits", flower_sent / middle(wide, "sent_bytes"), None, True, times
        ),
    ]


def committee(quick: bool) -> list[Figure]:
    """A member and an opener at 100 owners, and how both grow to 1,000."""
    size = PARAMETERS // 20 if quick else PARAMETERS
    base = _program(HERE, "committee_run", size, 12, 100, 100)
    figures = [
        Figure(
            "member CPU, 100 owners, 17 scalars, one sum, s", base["member_cpu_s"], 0.5, note=_member(base)
        ),
        Figure("member sends, KB", base["member_bytes"] / 1e3, 100),
        Figure("opener CPU, s", base["opener_cpu_s"], 5),
        Figure("openings that differ from the integers", float(not base["is_exact"]), 0),
        Figure("lying member not named", float(not base["is_liar_named"]), 0),
    ]
    grown = [_program(HERE, "committee_run", size, 12, owners, 1000) for owners in (100, 300, 1000)]
    for result in grown:
        owners = result["owners"]
        figures += [
            Figure(
                f"member CPU, {owners} of 1,000 owners, s", result["member_cpu_s"], None, note=_member(result)
            ),
            Figure(f"opener CPU, {owners} of 1,000 owners, s", result["opener_cpu_s"], None),
            Figure(f"openings that differ, {owners} of 1,000 owners", float(not result["is_exact"]), 0),
        ]
    # Linear: ten times the owners cost at most ten times as much (less for the fixed part), and 10 % noise.
    return [
        *figures,
        Figure("member CPU, 1,000 owners over 100", grown[2]["member_cpu_s"] / grown[0]["member_cpu_s"], 11),
        Figure("opener CPU, 1,000 owners over 100", grown[2]["opener_cpu_s"] / grown[0]["opener_cpu_s"], 11),
    ]


def _member(result: dict[str, Any]) -> str:
    return (
        f"{result['ring']} ring; opening envelopes {result['open_cpu_s']:.3f} s, public polynomials "
        f"{result['expand_cpu_s']:.3f} s, answers {result['answer_cpu_s']:.3f} s"
    )


def exactness(quick: bool) -> list[Figure]:
    """All openings of random cohorts against the integers."""
    from benchmarks.secagg.exactness import check_exactness

    parts = [check_exactness(100 if quick else 2500, seed) for seed in range(4)]
    cohorts, failures = sum(part.cohorts for part in parts), sum(len(part.failures) for part in parts)
    note = (
        f"{sum(part.scalars for part in parts)} scalars, {sum(part.coordinates for part in parts)} "
        f"coordinates, {sum(part.dropped for part in parts)} owners dropped (at most "
        f"{max(part.largest_dropout for part in parts):.0%} of a cohort), "
        f"{sum(part.liars for part in parts)} liars"
    )
    return [
        Figure("random cohorts", float(cohorts), 10_000, True, 4, note),
        Figure("cohorts with any difference", float(failures), 0, seeds=4),
    ]


def failure(quick: bool) -> list[Figure]:
    """The planner's bound on failures over many sizes."""
    del quick
    from benchmarks.secagg.sizes import planned

    plans = [
        planned(parameters=parameters, cohort=cohort, bits=bits)
        for parameters in (10_000, 100_000, 1_000_000)
        for cohort in (10, 100, 1000)
        for bits in (8, 12, 16)
    ]
    worst = max(plan.failure_log2 for plan in plans)
    return [
        Figure("failure probability, log2, worst of 27 plans", worst, -40, note="a whole job of 1,024 rounds")
    ]


def separation(quick: bool) -> list[Figure]:
    """Trained classifiers on the masked updates of two owners, beside the positive control."""
    from benchmarks.secagg.leakage import repeated_entropy, separations

    seeds = 1 if quick else 4
    found = [one for seed in range(seeds) for one in separations(300 if quick else 1200, seed=seed)]
    control = separations(200, seed=0, entropy_of=repeated_entropy)
    figures = []
    for name in dict.fromkeys(one.classifier for one in found):
        chosen = [one for one in found if one.classifier == name]
        auc = statistics.mean(one.auc for one in chosen)
        noise = chosen[0].noise / len(chosen) ** 0.5
        figures.append(
            # Three classifiers: each may be 2.4 deviations off (5 % in all).
            Figure(
                f"AUC minus 0.5, {name}, in deviations",
                abs(auc - 0.5) / noise,
                2.4,
                seeds=seeds,
                note=f"AUC {auc:.4f}, 95 % interval {auc - 1.96 * noise:.4f} to {auc + 1.96 * noise:.4f}",
            )
        )
    return [
        *figures,
        Figure(
            "control: AUC with repeated secrets",
            min(one.auc for one in control),
            0.99,
            True,
            note="must be 1",
        ),
    ]


def repeats(quick: bool) -> list[Figure]:
    """Keys, nonces, encapsulations and masked bodies that came twice."""
    from benchmarks.secagg.leakage import draws

    found = draws(10_000 if quick else 1_000_000)
    note = (
        f"{found.nonces} nonces, {found.envelopes} encapsulations, {found.bodies} masked bodies beside them"
    )
    return [
        Figure("keys drawn", float(found.keys), 1e6, True, note=note),
        Figure("repeats", float(found.repeats), 0),
    ]


def inversion(quick: bool) -> list[Figure]:
    """What a whole job's opened scalars add to public models for somebody who rebuilds rows."""
    from benchmarks.secagg.inversion import Setting, measure

    figures = []
    seeds = 1 if quick else 4
    for rows in (6,) if quick else (6, 60):
        found = measure(seeds, Setting(rows=rows))
        for name, largest, unit in (
            ("psnr_db", True, "dB of rebuilt rows"),
            ("labels_wrong", False, "distance of label histograms"),
            ("cosine", True, "cosine to the update"),
        ):
            gain, error = found.gain(name, largest=largest)
            means = [
                statistics.mean(getattr(one, name) for one in found.public),
                statistics.mean(found.best_scalars(name, largest=largest)),
                statistics.mean(getattr(one, name) for one in found.clear),
            ]
            note = (
                f"public models {means[0]:.3f}, with scalars {means[1]:.3f}, with the updates in the clear "
                f"{means[2]:.3f}; gain {gain:+.3f} +- {1.96 * error:.3f}"
            )
            # Nothing gained: zero lies in or above the interval.
            row = f"inversion, {rows} rows an owner: gain in {unit}, low end"
            figures.append(Figure(row, gain - 1.96 * error, 0, seeds=seeds, note=note))
    return figures


def weights(quick: bool) -> list[Figure]:
    """What one opened sum says about an owner whose weight shares no factor with the others'."""
    del quick
    from benchmarks.secagg.leakage import lone_rounds, lone_weight

    figures = []
    for parameters, bits in ((100_000, 12), (1_000_000, 12), (1_000_000, 16)):
        found = lone_weight(parameters=parameters, bits=bits, weight=14, others=15, seed=0)
        figures.append(
            Figure(
                f"read off a sum with weights 14, 15, ..., 15: {parameters} parameters, {bits} bits",
                found.update_revealed,
                None,
                note=f"and {found.error_revealed:.3f} of its errors",
            )
        )
    for owners in (3, 5, 8, 12):
        share = lone_rounds(owners, spread=0.1, rounds=10_000, seed=0)
        figures.append(
            Figure(f"rounds of {owners} honest owners with a lone weight, norms +- 10 %", share, None)
        )
    return figures


def lattice(quick: bool) -> list[Figure]:
    """Our own estimate of what breaking a mask costs."""
    del quick
    from benchmarks.secagg.lattice import DEGREE, LOG2_NARROW, LOG2_WIDE, SIGMA, primal

    return [
        Figure(
            f"core-SVP bits, {name} ring, {hints} scalars opened",
            primal(DEGREE - hints, log2_q, SIGMA).bits,
            None,
        )
        for name, log2_q in (("narrow", LOG2_NARROW), ("wide", LOG2_WIDE))
        for hints in (0, 33, 128)
    ]


PARTS: dict[str, Callable[[bool], list[Figure]]] = {
    "owner": owner,
    "committee": committee,
    "exactness": exactness,
    "failure": failure,
    "separation": separation,
    "repeats": repeats,
    "inversion": inversion,
    "weights": weights,
    "lattice": lattice,
}


def main() -> int:
    """Measure, print, write; 1 with ``--strict`` when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.secagg", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one seed, nothing written")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="the others' rows stay"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    chosen = parser.parse_args()
    if "owner" in chosen.parts and not FLOWER.exists():
        parser.error(f"{FLOWER} is missing: run make bench-secagg, which makes Flower's environment")
    figures: list[Figure] = []
    for name in chosen.parts:
        found = PARTS[name](chosen.quick)
        print(f"{show(found)}\n", flush=True)
        figures += found
    if not chosen.quick:
        path = RESULTS / "secagg.json"
        write(path, figures, Machine.here().fields())
        print(f"written to {path.relative_to(ROOT)}")
    missed = [figure.row for figure in figures if not figure.met]
    print("missed: " + "; ".join(missed) if missed else "all targets met")
    return 1 if chosen.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
