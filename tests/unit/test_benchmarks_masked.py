"""The benchmarks of masked mode at small sizes: that they compare what they say, and notice what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# benchmarks is no installed package: it lies beside the tests
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.measuring import last_result
from benchmarks.secagg import committee_run, exactness, owner_run

from galaxylearning.learning.vectors import I32
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.units import Entropy


def test_random_cohorts_open_exactly() -> None:
    found = exactness.check_exactness(25, seed=3)
    assert found.failures == ()
    assert found.cohorts == 25
    assert found.owners >= 50
    assert found.dropped > 0
    assert found.liars > 0
    assert 0 < found.largest_dropout <= exactness.MAX_DROPOUT


def test_owners_who_mask_something_else_are_noticed() -> None:
    def masked(plan: MaskingPlan, seed: bytes, update: I32, *, entropy: Entropy) -> Masked:
        return mask_update(plan, seed, np.zeros_like(update), entropy=entropy)

    found = exactness.check_exactness(3, seed=3, mask=masked)
    assert {what for _, what in found.failures} == {"scalars", "sum"}


def test_an_owners_part_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["owner_run", "3000", "12", "2"])
    owner_run.main()
    found = last_result(capsys.readouterr().out)
    assert found["ring"] == "narrow"
    assert found["sent_bytes"] > 3000 * 5
    assert all(number > 0 for name, number in found.items() if name.endswith("cpu_s"))


def test_the_committees_part_is_measured_and_compared_with_the_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["committee_run", "3000", "12", "6", "6"])
    committee_run.main()
    found = last_result(capsys.readouterr().out)
    assert found["ring"] == "narrow"
    assert found["member_bytes"] == 6 * 17 * 5 + 10_240
    assert found["is_exact"]
    assert found["is_liar_named"]
    assert all(number > 0 for name, number in found.items() if name.endswith("_cpu_s"))
