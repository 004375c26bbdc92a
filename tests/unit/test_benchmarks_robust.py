"""The poison benchmark's own arithmetic: which attack is the worst, and what meets a target."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # benchmarks is no installed package: it lies beside the tests

from benchmarks.robust.summary import Figure, backdoor, json_rows, tables, worst  # noqa: E402


@dataclass(frozen=True, slots=True)
class One:
    attack: str
    ratio: float
    seed: int = 0
    backdoor: float | None = None
    hardened_ratio: float | None = None
    hardened_backdoor: float | None = None
    data: str = "digits"
    partition: str = "Dirichlet(0.5)"
    fraction: float = 0.2
    defence: str = "gate"


FOUND = [
    One("noise", 0.99),
    One("noise", 0.97, seed=1),
    One("mimic", 0.90),
    One("mimic", 1.04, seed=1),
    One("told", 0.10),
    One("told", 0.20, seed=1),
    One("backdoor", 1.0, backdoor=0.02, hardened_ratio=0.97, hardened_backdoor=0.01),
    One("backdoor x3", 1.0, backdoor=0.06, hardened_ratio=0.95, hardened_backdoor=0.06),
    One("scrambled", 1.0, backdoor=0.9, hardened_ratio=0.98, hardened_backdoor=0.8),
]


def test_the_worst_attack_has_the_smallest_mean() -> None:
    figure = worst(FOUND, without=("told",))
    assert (figure.attack, figure.seeds) == ("mimic", 2)
    assert figure.mean == pytest.approx(0.97)
    # 12.71 * 0.14 / sqrt(2) / sqrt(2)
    assert figure.half == pytest.approx(12.71 * 0.07)
    assert worst(FOUND).attack == "told"
    assert backdoor(FOUND) == Figure("scrambled", 0.9, None, 1)


def test_a_target_is_met_or_not() -> None:
    unattacked = One("none", 1.0, fraction=0.0, hardened_ratio=0.99)
    found = json_rows([*FOUND, unattacked], gate="gate", told="told", no_target=("scrambled",))
    rows = {row["row"].split(": ")[1]: row for row in found}
    assert rows["worst attack, part of clean accuracy"]["met"]
    assert rows["worst attack, part of clean accuracy"]["target"] == 0.96
    assert not rows["told the hidden set's step, part of clean accuracy"]["met"]
    assert rows["success of backdoor, hardened"]["met"]
    assert rows["success of backdoor x3, hardened"]["met"] is False
    assert rows["success of backdoor x3, hardened"]["seeds"] == 1
    # Neither what a model is before hardening nor a trigger that leaves nothing of a row has a target.
    for name, value in (("backdoor x3 as federated", 0.06), ("scrambled, hardened", 0.8)):
        assert (rows[f"success of {name}"]["target"], rows[f"success of {name}"]["met"]) == (None, None)
        assert rows[f"success of {name}"]["value"] == value
    assert rows["hardened, part of clean accuracy"]["value"] == 0.99
    worst_kept = rows["worst backdoor, hardened, part of clean accuracy"]
    assert (worst_kept["attack"], worst_kept["met"]) == ("backdoor x3", False)


def test_no_attack_is_no_worst_one() -> None:
    with pytest.raises(ValueError, match="empty"):
        worst([])


def test_tables_name_the_attack() -> None:
    clean = [One("none", 0.9, fraction=0.0, defence=name) for name in ("mean", "hidden set alone", "gate")]
    page = tables([*clean, *FOUND], gate="gate", told="told")
    assert "(mimic)" in page
    assert "| digits | Dirichlet(0.5) | 1.0 | 6.0 | 80.0 |" in page
    # What was not measured stays empty.
    other = [One("noise", 0.5, defence="median", data="images"), One("noise", 0.5, data="images")]
    other.append(One("told", 0.5, data="images"))
    assert "| images | Dirichlet(0.5) | 20 % | 50.0 (noise) | 50.0 (noise) |" in tables(
        [*clean, *FOUND, *other], gate="gate", told="told"
    )
    assert page.count("|  |") == 0
