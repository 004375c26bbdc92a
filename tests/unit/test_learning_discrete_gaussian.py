"""The discrete Gaussian: its probabilities, its moments, and decisions that are those of exact arithmetic."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from galaxylearning.crypto.secret_stream import SecretStream, seeded_entropy
from galaxylearning.learning import discrete_gaussian as module
from galaxylearning.learning.discrete_gaussian import MAX_VARIANCE, discrete_gaussian


def probabilities(variance: int, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return np.asarray(weights / weights.sum())


def chi_square(found: np.ndarray, variance: int, reach: int) -> tuple[float, int]:
    """Of the counts of values within ±reach; those beyond must be rarer than can be seen."""
    counts = np.bincount(np.clip(found, -reach, reach) + reach, minlength=2 * reach + 1)
    expected = probabilities(variance, reach) * found.size
    seen = expected >= 5
    return float(((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()), int(seen.sum()) - 1


@pytest.mark.parametrize(("variance", "reach"), [(1, 7), (2, 9), (5, 14), (40, 40)])
def test_small_cases_have_the_exact_probabilities(variance: int, reach: int) -> None:
    found = discrete_gaussian(200_000, variance, stream=SecretStream(seeded_entropy(variance)))
    distance, degrees = chi_square(found, variance, reach)
    assert distance < degrees + 3.3 * math.sqrt(2 * degrees)


def test_the_exact_path_gives_the_same_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MARGIN", 0.05)
    found = discrete_gaussian(40_000, 2, stream=SecretStream(seeded_entropy(77)))
    distance, degrees = chi_square(found, 2, 9)
    assert distance < degrees + 3.3 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("variance", [10**4, 12_345_678_901, MAX_VARIANCE])
def test_large_cases_have_the_moments_of_a_gaussian(variance: int) -> None:
    count = 200_000
    scaled = discrete_gaussian(count, variance, stream=SecretStream(seeded_entropy(4))) / math.sqrt(variance)
    assert abs(scaled.mean()) < 4 / math.sqrt(count)
    assert abs(scaled.var() - 1) < 4 * math.sqrt(2 / count)
    assert abs((scaled**3).mean()) < 4 * math.sqrt(15 / count)
    assert abs((scaled**4).mean() - 3) < 4 * math.sqrt(96 / count)
    assert abs((np.abs(scaled) > 3).mean() - 0.0027) < 4 * math.sqrt(0.0027 / count)


def test_draws_do_not_depend_on_each_other() -> None:
    found = discrete_gaussian(100_000, 10**6, stream=SecretStream(seeded_entropy(5))) / 1e3
    for lag in (1, 2, 7):
        assert abs(float((found[lag:] * found[:-lag]).mean())) < 4 / math.sqrt(found.size)


def test_equal_streams_give_equal_samples_and_others_do_not() -> None:
    first, again = (discrete_gaussian(50, 100, stream=SecretStream(seeded_entropy(9))) for _ in range(2))
    other = discrete_gaussian(50, 100, stream=SecretStream(seeded_entropy(10)))
    assert (first == again).all()
    assert (first != other).any()
    assert discrete_gaussian(0, 1, stream=SecretStream(seeded_entropy(1))).size == 0


@pytest.mark.parametrize("fraction", [(1, 3), (1, 1), (7, 2), (40, 1), (1, 10**30)])
def test_a_comparison_is_decided_on_the_last_bit(fraction: tuple[int, int]) -> None:
    numerator, denominator = fraction
    with localcontext(prec=80):
        exact = (-(Decimal(numerator) / Decimal(denominator))).exp() * (1 << 64)
    word = min(int(exact), (1 << 64) - 1)
    stream = SecretStream(seeded_entropy(6))

    def is_below(value: int) -> bool:
        return module._Uniform(value, stream).is_below_exp(numerator, denominator)

    if word:
        assert is_below(word - 1)
    if word + 1 < 1 << 64:
        assert not is_below(word + 1)
    # The word on the edge itself needs more bits; it is below as often as the rest of the digits says.
    part = float(exact - word)
    hits = sum(is_below(word) for _ in range(300))
    assert abs(hits - 300 * part) <= 4 * math.sqrt(300 * part * (1 - part)) + 1


def test_something_of_probability_one_always_happens() -> None:
    assert module._Uniform((1 << 64) - 1, SecretStream(seeded_entropy(1))).is_below_exp(0, 5)


def test_runs_of_successes_follow_from_the_word() -> None:
    stream = SecretStream(seeded_entropy(8))
    words = np.array(
        [(1 << 64) - 1, int(2.0**64 / math.e) + 9000, int(2.0**64 / math.e) - 9000, 1], np.uint64
    )
    assert module._geometric(words, stream).tolist()[:3] == [0, 0, 1]
    # 1 / 2^64 is exp(-44.36)
    assert module._geometric(words, stream).tolist()[3] in (43, 44)
    assert module._geometric(np.zeros(1, np.uint64), stream)[0] >= 44


@pytest.mark.parametrize("variance", [0, -1, MAX_VARIANCE + 1, 1.5, True])
def test_a_variance_out_of_range_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance must be"):
        discrete_gaussian(1, variance, stream=SecretStream(seeded_entropy(1)))


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be"):
        discrete_gaussian(-1, 1, stream=SecretStream(seeded_entropy(1)))
