"""From single federations to the worst attack: tables for people, rows for a file. Knows no training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

TARGETS = {
    ("IID", 0.2): 0.98,
    ("IID", 0.3): 0.98,
    ("IID", 0.4): 0.97,
    ("Dirichlet(0.5)", 0.2): 0.96,
    ("Dirichlet(0.5)", 0.3): 0.95,
    ("Dirichlet(0.5)", 0.4): 0.94,
}
MOST_BACKDOOR = 0.05
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t by number of values, for two-sided intervals of 95 %."""


class One(Protocol):
    """A federation that ended."""

    @property
    def data(self) -> str: ...
    @property
    def partition(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def fraction(self) -> float: ...
    @property
    def defence(self) -> str: ...
    @property
    def attack(self) -> str: ...
    @property
    def ratio(self) -> float: ...
    @property
    def backdoor(self) -> float | None: ...
    @property
    def hardened_ratio(self) -> float | None: ...
    @property
    def hardened_backdoor(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over seeds, half the width of its 95 % interval (None of one seed), and the attack it is of."""

    attack: str
    mean: float
    half: float | None
    seeds: int

    @classmethod
    def of(cls, attack: str, values: Sequence[float]) -> Figure:
        """The mean of some values."""
        half = None
        if len(values) > 1:
            half = _T95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(attack, statistics.fmean(values), half, len(values))

    def __str__(self) -> str:
        spread = "" if self.half is None else f" ±{100 * self.half:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def worst(found: Iterable[One], *, without: Sequence[str] = (), only: Sequence[str] = ()) -> Figure:
    """The attack that leaves the least accuracy; backdoors leave it, but count."""
    by_attack: dict[str, list[float]] = {}
    for one in found:
        if one.attack not in without and (not only or one.attack in only):
            by_attack.setdefault(one.attack, []).append(one.ratio)
    return min((Figure.of(name, values) for name, values in by_attack.items()), key=lambda one: one.mean)


Of = Literal["backdoor", "hardened_backdoor", "hardened_ratio"]


def by_attack(found: Iterable[One], of: Of = "backdoor") -> list[Figure]:
    """How often the trigger of each backdoor worked, or another such figure by attack, where there is one."""
    values: dict[str, list[float]] = {}
    for one in found:
        if (value := getattr(one, of)) is not None:
            values.setdefault(one.attack, []).append(value)
    return [Figure.of(name, given) for name, given in values.items()]


def backdoor(found: Iterable[One]) -> Figure:
    """The backdoor whose trigger worked most often."""
    return max(by_attack(found), key=lambda one: one.mean)


_BY_BACKDOOR: dict[str, tuple[Of, tuple[float, ...]]] = {
    "Triggers that work at 20 %, {gate}, per cent of tries": ("backdoor", (0.2,)),
    "The same after hardening": ("hardened_backdoor", (0.2,)),
    "The same where nobody taught them": ("backdoor", (0.0,)),
    "The same where nobody taught them, after hardening": ("hardened_backdoor", (0.0,)),
    "Per cent of clean accuracy after hardening": ("hardened_ratio", (0.0, 0.2)),
}


def _cells(found: Sequence[One]) -> list[tuple[str, str, float]]:
    return list(dict.fromkeys((one.data, one.partition, one.fraction) for one in found if one.fraction > 0))


def _in(found: Sequence[One], data: str, partition: str, fraction: float, defence: str) -> list[One]:
    return [
        one
        for one in found
        if (one.data, one.partition, one.fraction, one.defence) == (data, partition, fraction, defence)
    ]


def tables(found: Sequence[One], *, gate: str, told: str) -> str:
    """Markdown: the worst attack by defence, every attack on the gate, clean figures, backdoors."""
    defences = list(dict.fromkeys(one.defence for one in found if one.fraction > 0))
    attacks = list(dict.fromkeys(one.attack for one in found if one.fraction > 0))
    lines = ["", "Per cent of clean accuracy under the worst attack (95 % interval over seeds):", ""]
    lines += _row(["data", "partition", "attackers", *defences, f"{gate}, attackers told"], head=True)
    for data, partition, fraction in _cells(found):
        cells = [data, partition, f"{100 * fraction:.0f} %"]
        for name in defences:
            here = _in(found, data, partition, fraction, name)
            figure = worst(here, without=(told,)) if here else None
            cells.append(f"{figure} ({figure.attack})" if figure else "")
        cells.append(str(worst(_in(found, data, partition, fraction, gate), only=(told,))))
        lines += _row(cells)
    lines += ["", f"Every attack on {gate}:", ""]
    lines += _row(["data", "partition", "attackers", *attacks], head=True)
    for data, partition, fraction in _cells(found):
        cells = [data, partition, f"{100 * fraction:.0f} %"]
        there = {one.attack for one in _in(found, data, partition, fraction, gate)}
        for name in attacks:
            here = _in(found, data, partition, fraction, gate)
            cells.append(str(worst(here, only=(name,))) if name in there else "")
        lines += _row(cells)
    lines += ["", "Nobody attacks (clean: accuracy of the mean), and triggers that work at 20 %:", ""]
    lines += _row(
        ["data", "partition", "clean", "hidden set alone", *defences, *(f"trigger, {d}" for d in defences)],
        head=True,
    )
    for data, partition in dict.fromkeys((one.data, one.partition) for one in found):
        cells = [data, partition]
        for name in ("mean", "hidden set alone", *defences):
            here = _in(found, data, partition, 0.0, name)
            cells.append(str(worst(here)) if here else "")
        for name in defences:
            here = [one for one in _in(found, data, partition, 0.2, name) if one.backdoor is not None]
            cells.append(str(backdoor(here)) if here else "")
        lines += _row(cells)
    return "\n".join(lines) + backdoor_tables(found, gate=gate)


def backdoor_tables(found: Sequence[One], *, gate: str) -> str:
    """Markdown: how often triggers work as federated and after hardening, and what accuracy that leaves."""
    lines = [""]
    for title, (of, fractions) in _BY_BACKDOOR.items():
        within = [one for one in found if one.defence == gate and one.fraction in fractions]
        names = [figure.attack for figure in by_attack(within, of)]
        lines += ["", f"{title.format(gate=gate)}:", ""]
        lines += _row(["data", "partition", *names], head=True)
        for data, partition in dict.fromkeys((one.data, one.partition) for one in found):
            here = [one for one in within if (one.data, one.partition) == (data, partition)]
            each = {figure.attack: figure for figure in by_attack(here, of)}
            lines += _row([data, partition, *(str(each.get(name, "")) for name in names)])
    return "\n".join(lines)


def json_rows(
    found: Sequence[One], *, gate: str, told: str, no_target: Collection[str]
) -> list[dict[str, Any]]:
    """The gate's figures beside their targets.

    Triggers have theirs in the hardened model, which a requester uses; those in ``no_target`` have none.
    """
    rows = []
    for data, partition, fraction in _cells(found):
        here = _in(found, data, partition, fraction, gate)
        what = f"{data}, {partition}, {100 * fraction:.0f} % attackers"
        least = TARGETS[partition, fraction]
        for name, figure in (
            ("worst attack", worst(here, without=(told,))),
            ("told the hidden set's step", worst(here, only=(told,))),
        ):
            rows.append(_json(f"{what}: {name}, part of clean accuracy", figure, least, figure.mean >= least))
        rows += [_json(f"{what}: success of {one.attack} as federated", one) for one in by_attack(here)]
        for one in by_attack(here, "hardened_backdoor"):
            row = f"{what}: success of {one.attack}, hardened"
            has_target = one.attack not in no_target
            rows.append(
                _json(row, one, MOST_BACKDOOR, one.mean <= MOST_BACKDOOR) if has_target else _json(row, one)
            )
        if kept := by_attack(here, "hardened_ratio"):
            figure = min(kept, key=lambda one: one.mean)
            row = f"{what}: worst backdoor, hardened, part of clean accuracy"
            rows.append(_json(row, figure, least, figure.mean >= least))
    for data, partition in dict.fromkeys((one.data, one.partition) for one in found):
        rows += [
            _json(f"{data}, {partition}, nobody attacks: hardened, part of clean accuracy", one)
            for one in by_attack(_in(found, data, partition, 0.0, gate), "hardened_ratio")
        ]
    return rows


def _json(
    row: str, figure: Figure, target: float | None = None, is_met: bool | None = None
) -> dict[str, Any]:
    return {
        "row": row,
        "value": round(figure.mean, 4),
        "target": target,
        "met": None if is_met is None else bool(is_met),
        "seeds": figure.seeds,
        "half_interval": None if figure.half is None else round(figure.half, 4),
        "attack": figure.attack,
    }


def _row(cells: Sequence[str], *, head: bool = False) -> list[str]:
    line = "| " + " | ".join(cells) + " |"
    return [line, "|" + "---|" * len(cells)] if head else [line]
