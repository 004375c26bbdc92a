"""The planner: which ring, which refusals, sizes on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.crypto.ring import NARROW, WIDE
from galaxylearning.errors import ConfigRefused
from galaxylearning.secagg.plan import plan_masking
from masked_rounds import small_plan

MILLION: dict[str, Any] = {
    "parameters": 1_000_000,
    "cohort": 100,
    "bits": 13,
    "max_weight": 15,
    "members": 9,
    "threshold": 5,
    "faulty": 1,
    "minimum_sum": 8,
    "projections": 16,
    "twin_projections": 4,
}


def test_a_million_parameters_fit_the_narrow_ring() -> None:
    plan = plan_masking(**MILLION)
    assert plan.ring is NARROW
    assert plan.body_bytes == 489 * 2048 * 5
    assert plan.share_bytes == 10_240
    assert plan.sent_bytes <= 5_300_000
    assert plan.scalars_bytes(100, 17) == 100 * 17 * 5
    assert plan.failure_log2 <= -40
    assert plan.scalars == 128
    assert plan.quorum == 6


def test_more_bits_or_more_owners_take_the_wide_ring() -> None:
    for changes in ({"bits": 16}, {"cohort": 1000}):
        plan = plan_masking(**(MILLION | changes))
        assert plan.ring is WIDE
        assert plan.body_bytes == 489 * 2048 * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0}, "threshold must be from 1 to 5"),
        ({"threshold": 6}, "threshold must be from 1 to 5"),
        ({"members": 16}, "members must be from 2 to 15"),
        ({"members": 1, "threshold": 1}, "members must be from 2 to 15"),
        ({"faulty": 2}, "faulty must be from 0 to 1 with 6 members"),
        ({"faulty": -1}, "faulty must be from 0 to 1"),
        ({"minimum_sum": 1}, "minimum_sum must be from 2 to 10"),
        ({"minimum_sum": 11}, "minimum_sum must be from 2 to 10"),
        ({"projections": 3}, "at most 2 projections .* sealed"),
        ({"parameters": 1 << 20, "projections": 127}, "128 at most: at most 126 projections"),
        ({"parameters": 150}, "no projection fits .* sealed"),
        ({"projections": 0}, "projections must be from 1"),
        ({"bits": 40}, "bits must be from 2 to 32"),
        ({"bits": 31}, "allowed would be bits of at most 2[0-9]"),
        ({"bits": 20, "max_weight": 1 << 20}, "would be max_weight of at most [0-9]+"),
        ({"cohort": 1}, "cohort must be from 2"),
        ({"cohort": (1 << 16) + 1}, "cohort must be from 2"),
        ({"cohort": True}, "cohort must be an integer"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(changes: Any, message: str) -> None:
    with pytest.raises(ConfigRefused, match=message):
        small_plan(**changes)


def test_what_the_planner_says_would_do_does() -> None:
    with pytest.raises(ConfigRefused, match=r"bits of at most (\d+)") as refused:
        plan_masking(**(MILLION | {"bits": 28}))
    words = str(refused.value).split()
    bits = int(words[words.index("bits", words.index("would")) + 4].rstrip(","))
    assert plan_masking(**(MILLION | {"bits": bits})).bits == bits
    with pytest.raises(ConfigRefused):
        plan_masking(**(MILLION | {"bits": bits + 1}))


def test_openings_show_integers_modulo_t() -> None:
    plan = small_plan()
    half = plan.modulus // 2
    values = np.array([0, 5, -5, half, -half, half + 1, -half - 1, plan.modulus])
    assert plan.shown(values).tolist() == [0, 5, -5, half, -half, -half, half, 0]
