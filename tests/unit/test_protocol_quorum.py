"""Mass follows from the weights of earlier rounds; patience from the windows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from galaxylearning.messages.terms import Windows
from galaxylearning.protocol.quorum import mass_share, patience_s


def outcome(**weights: int) -> Any:
    return SimpleNamespace(
        data_owners=tuple(weights), weights=np.array(list(weights.values()), dtype=np.int64)
    )


def test_before_the_first_round_all_count_alike() -> None:
    assert mass_share([], ["a", "b", "c", "d"], ["a"]) == 0.25  # type: ignore[list-item]
    assert mass_share([outcome(a=0, b=0)], ["a", "b"], ["b"]) == 0.5  # type: ignore[list-item]
    assert mass_share([], [], []) == 0.0


@pytest.mark.parametrize(
    ("present", "share"),
    [(["a"], 0.8), (["b"], 0.2), (["c"], 0.0), (["a", "b"], 1.0), (["a", "a", "z"], 0.8), ([], 0.0)],
)
def test_rounds_count_alike_and_who_was_never_accepted_has_no_mass(present: list[Any], share: float) -> None:
    rounds = [outcome(a=3, b=2, c=0), outcome(a=1, b=0, c=0)]
    assert mass_share(rounds, ["a", "b", "c"], present) == pytest.approx(share)  # type: ignore[list-item]


def test_patience_is_a_tenth_of_the_shorter_window() -> None:
    assert patience_s(Windows(9, 600, 300, 9, 9, 9, 9)) == 30
    assert patience_s(Windows(9, 600, 6_000, 9, 9, 9, 9)) == 60
