"""What releases add up to, against closed forms and the library's other accountant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from galaxylearning.learning.accounting import ORDERS, Release, epsilon

DELTA = 1e-5


def converted(divergence: np.ndarray, orders: np.ndarray) -> float:
    """Canonne, Kamath, Steinke 2020, proposition 12, minimised over the orders."""
    found = divergence + np.log1p(-1 / orders) - np.log(DELTA * orders) / (orders - 1)
    return float(found.min())


def gaussian_delta(multiplier: float, eps: float) -> float:
    """Balle and Wang 2018, theorem 8: the exact delta of one Gaussian mechanism."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return phi(0.5 / multiplier - eps * multiplier) - math.exp(eps) * phi(
        -0.5 / multiplier - eps * multiplier
    )


@pytest.mark.parametrize(("multiplier", "times"), [(1.0, 1), (2.0, 10), (8.0, 40), (0.7, 3)])
def test_gaussians_add_up_as_zero_concentrated_privacy_says(multiplier: float, times: int) -> None:
    rho = times / (2 * multiplier**2)
    orders = np.linspace(1.01, 300, 300_000)
    closed = converted(rho * orders, orders)
    found = epsilon([(Release(multiplier), times)], DELTA)
    assert found == pytest.approx(closed, rel=5e-3)
    assert found >= closed * (1 - 1e-9)
    # The textbook conversion is looser; the exact curve of one wider Gaussian is tighter.
    assert found < rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert gaussian_delta(multiplier / math.sqrt(times), found) <= DELTA


@pytest.mark.parametrize(("multiplier", "rate", "times"), [(1.0, (32, 1000), 100), (2.0, (1, 50), 500)])
def test_subsampled_gaussians_match_their_finite_sum(
    multiplier: float, rate: tuple[int, int], times: int
) -> None:
    """Mironov, Talwar, Zhang 2019, section 3.3: at whole orders the divergence is a binomial sum."""
    q = rate[0] / rate[1]
    orders = np.array(ORDERS[:63])
    divergence = np.array(
        [
            math.log(
                math.fsum(
                    math.comb(a, k) * (1 - q) ** (a - k) * q**k * math.exp((k * k - k) / (2 * multiplier**2))
                    for k in range(a + 1)
                )
            )
            / (a - 1)
            for a in orders.tolist()
            if a <= 30
        ]
    )
    closed = converted(times * divergence, orders[: len(divergence)])
    found = epsilon([(Release(multiplier, 1, *rate), times)], DELTA)
    assert found == pytest.approx(closed, rel=1e-6)
    tight = PLDAccountant()
    tight.compose(SelfComposedDpEvent(PoissonSampledDpEvent(q, GaussianDpEvent(multiplier)), times))
    assert 0.8 * found < tight.get_epsilon(DELTA) <= found


def test_steps_rounds_and_orders_of_composition_are_one() -> None:
    fine, coarse = Release(1.5, 10, 8, 100), Release(1.5, 1, 8, 100)
    assert epsilon([(fine, 3)], DELTA) == pytest.approx(epsilon([(coarse, 30)], DELTA), rel=1e-12)
    other = Release(4.0)
    mixed = epsilon([(fine, 3), (other, 2)], DELTA)
    assert mixed == epsilon([(other, 2), (fine, 1), (fine, 2)], DELTA)
    assert mixed > max(epsilon([(fine, 3)], DELTA), epsilon([(other, 2)], DELTA))
    assert mixed < epsilon([(fine, 3)], DELTA / 2) + epsilon([(other, 2)], DELTA / 2)


def test_nothing_costs_nothing_and_more_costs_more() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon([(Release(1.0), 0)], DELTA) == 0.0
    growing = [epsilon([(Release(2.0, 20, 16, 400), times)], DELTA) for times in (1, 5, 25, 125)]
    assert growing == sorted(growing)
    assert epsilon([(Release(1.0), 1)], 1e-9) > epsilon([(Release(1.0), 1)], 1e-3)
    whole, part = Release(1.0, 20, 64, 64), Release(1.0, 20, 63, 64)
    assert whole.sampling_rate == Release(1.0, 20, 100, 64).sampling_rate == 1.0
    assert epsilon([(part, 1)], DELTA) < epsilon([(whole, 1)], DELTA)


def test_hardly_any_noise_is_a_huge_epsilon_at_once() -> None:
    assert epsilon([(Release(1e-6, 1_000_000), 10_000)], DELTA) > 1e15
    assert epsilon([(Release(0.05, 1_000_000, 3, 7), 10_000)], DELTA) > 1e6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("multiplier", 0.0),
        ("multiplier", math.nan),
        ("multiplier", math.inf),
        ("multiplier", -1.0),
        ("multiplier", True),
        ("steps", 0),
        ("steps", 1_000_001),
        ("steps", 1.0),
        ("expected", 0),
        ("rows", 0),
        ("rows", 1 << 60),
    ],
)
def test_a_release_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Release(**{"multiplier": 1.0, field: value})


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon([(Release(1.0), 1)], delta)


def test_a_negative_number_of_times_is_refused() -> None:
    with pytest.raises(ValueError, match="times"):
        epsilon([(Release(1.0), -1)], DELTA)
