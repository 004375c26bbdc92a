"""Noisy training and noisy integers: clipping against a naive loop, noise that is there, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from galaxylearning.crypto.secret_stream import SecretStream, seeded_entropy
from galaxylearning.errors import UpdateRefused
from galaxylearning.learning import LocalPlan, Quantizer
from galaxylearning.learning import private as module
from galaxylearning.learning.discrete_gaussian import discrete_gaussian
from galaxylearning.learning.local import LocalResult
from galaxylearning.learning.private import (
    GRID,
    ExampleNoise,
    clipped_sum,
    noisy_integers,
    poisson_sample,
    private_steps,
    train_private,
)

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
NOBODY = np.zeros(0, np.float32)
RNG = np.random.default_rng(0)
TABLE = np.random.default_rng(7).normal(0, 2, (40, 12)).astype(np.float32)
"""Gradients of 40 rows: they do not depend on the parameters."""


def of_table(params: F32, buffers: F32, rows: I64, rng: np.random.Generator) -> F32:
    return TABLE[rows]


def towards(params: F32, buffers: F32, rows: I64, rng: np.random.Generator) -> F32:
    """Gradient of |w - row|^2 / 2 for each row."""
    return np.asarray(params[None] - TABLE[rows, : params.size], np.float32)


def naive(gradients: F32, noise: ExampleNoise) -> list[int]:
    """The clipped sum in whole steps of the grid, one example and one number after the other."""
    total = [0] * gradients.shape[1]
    for gradient in gradients.tolist():
        norm = math.sqrt(math.fsum(value * value for value in gradient))
        factor = min(1.0, noise.example_clip / norm) if norm else 1.0
        for place, value in enumerate(gradient):
            total[place] += math.trunc(value * factor * (1 - 2.0**-40) / noise.unit)
    return total


@pytest.mark.parametrize("clip", [0.01, 1.0, 7.0, 1e3])
def test_clipping_is_that_of_a_naive_loop(clip: float) -> None:
    noise = ExampleNoise(1.0, clip)
    rows = np.array([0, 3, 3, 17, 39])
    found = clipped_sum(of_table, np.zeros(12, np.float32), NOBODY, rows, noise, rng=RNG)
    assert found == pytest.approx(naive(TABLE[rows], noise), abs=len(rows))
    assert (found == np.trunc(found)).all()


@pytest.mark.parametrize("multiplier", [0.05, 1.0, 50.0])
def test_one_row_more_moves_the_sum_by_no_more_than_the_clip(multiplier: float) -> None:
    noise = ExampleNoise(multiplier, 0.3)
    start, all_rows = np.zeros(12, np.float32), np.arange(40)
    whole = clipped_sum(of_table, start, NOBODY, all_rows, noise, rng=RNG)
    for row in range(40):
        rest = clipped_sum(of_table, start, NOBODY, np.delete(all_rows, row), noise, rng=RNG)
        assert math.hypot(*(whole - rest).tolist()) <= noise.example_clip / noise.unit
        # The noise of a step is GRID wide: the sensitivity over it is one over the multiplier.
        assert math.hypot(*(whole - rest).tolist()) * multiplier <= GRID


@pytest.mark.parametrize("bytes_at_once", [1, 16 * 12, 16 * 12 * 7])
def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch, bytes_at_once: int) -> None:
    most: list[int] = []

    def watched(params: F32, buffers: F32, rows: I64, rng: np.random.Generator) -> F32:
        most.append(rows.size)
        return TABLE[rows]

    noise, start = ExampleNoise(1.0, 1.0), np.zeros(12, np.float32)
    whole = clipped_sum(of_table, start, NOBODY, np.arange(40), noise, rng=RNG)
    monkeypatch.setattr(module, "EXAMPLE_BYTES", bytes_at_once)
    parts = clipped_sum(watched, start, NOBODY, np.arange(40), noise, rng=RNG)
    assert (parts == whole).all()
    assert max(most) == max(1, bytes_at_once // (16 * 12))
    assert sum(most) == 40


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_whose_gradient_breaks_counts_as_nothing_or_is_clipped(poison: float) -> None:
    def broken(params: F32, buffers: F32, rows: I64, rng: np.random.Generator) -> F32:
        found = TABLE[rows].copy()
        found[rows == 5] = poison
        return found

    noise, start, rows = ExampleNoise(1.0, 0.5), np.zeros(12, np.float32), np.arange(10)
    found = clipped_sum(broken, start, NOBODY, rows, noise, rng=RNG)
    rest = clipped_sum(of_table, start, NOBODY, np.delete(rows, 5), noise, rng=RNG)
    moved = math.hypot(*(found - rest).tolist()) * noise.unit
    assert moved == pytest.approx(0.5 if poison == 3e38 else 0.0, abs=1e-6)


def test_no_rows_sum_to_nothing() -> None:
    found = clipped_sum(
        of_table, np.zeros(12, np.float32), NOBODY, np.zeros(0, np.int64), ExampleNoise(1, 1), rng=RNG
    )
    assert found.tolist() == [0.0] * 12


@pytest.mark.parametrize("wrong", [np.zeros((3, 11), np.float32), np.zeros((3, 12)), np.zeros(12)])
def test_gradients_of_another_shape_or_type_are_refused(wrong: Any) -> None:
    with pytest.raises(UpdateRefused, match="gradients of examples"):
        clipped_sum(
            lambda *_: wrong, np.zeros(12, np.float32), NOBODY, np.arange(3), ExampleNoise(1, 1), rng=RNG
        )


def test_every_row_takes_part_as_often_as_it_should_and_independently() -> None:
    stream = SecretStream(seeded_entropy(3))
    found = np.zeros((4_000, 20))
    for step in found:
        step[poisson_sample(20, 5, stream=stream)] = 1
    assert np.abs(found.mean(axis=0) - 0.25).max() < 4.5 * math.sqrt(0.25 * 0.75 / 4_000)
    # Batches are of no fixed size: their variance is that of independent rows, not zero.
    assert found.sum(axis=1).var() == pytest.approx(20 * 0.25 * 0.75, rel=0.12)
    assert poisson_sample(5, 5, stream=stream).tolist() == [0, 1, 2, 3, 4]
    assert poisson_sample(1, 9, stream=stream).tolist() == [0]


def train(plan: LocalPlan, noise: ExampleNoise, *, rows: int = 8, seed: int = 1) -> LocalResult:
    return train_private(
        towards,
        np.zeros(12, np.float32),
        NOBODY,
        rows,
        plan,
        noise,
        rng=np.random.default_rng(0),
        entropy=seeded_entropy(seed),
    )


def test_with_hardly_any_noise_all_rows_train_as_plain_descent() -> None:
    # A clip far above every gradient, all rows in every step: w goes half the way to the mean each time.
    result = train(LocalPlan(learning_rate=0.5, steps=2, batch_size=8), ExampleNoise(0.01, 50.0))
    mean = TABLE[:8].mean(axis=0)
    assert np.abs(result.update - 0.75 * mean).max() < 5 * 0.01 * 50 / 8
    assert result.steps == 2
    assert math.isnan(result.first_loss)
    assert math.isnan(result.last_loss)


@pytest.mark.parametrize("multiplier", [0.5, 4.0])
def test_the_noise_is_as_wide_as_the_terms_say(multiplier: float) -> None:
    noise, plan = ExampleNoise(multiplier, 1e-9), LocalPlan(learning_rate=1.0, steps=1, batch_size=4)
    result = train_private(
        lambda params, _buffers, rows, _rng: np.zeros((rows.size, params.size), np.float32),
        np.zeros(20_000, np.float32),
        NOBODY,
        4,
        plan,
        noise,
        rng=RNG,
        entropy=seeded_entropy(5),
    )
    assert result.update.std() == pytest.approx(multiplier * 1e-9 / 4, rel=0.03)


def test_steps_of_which_no_row_is_part_still_add_noise() -> None:
    empty = (s for s in range(99) if not poisson_sample(40, 1, stream=SecretStream(seeded_entropy(s))).size)
    result = train(LocalPlan(steps=1, batch_size=1), ExampleNoise(1.0, 1.0), rows=40, seed=next(empty))
    assert (result.update != 0).all()


def test_entropy_decides_everything_and_the_statistical_generator_nothing() -> None:
    plan, noise = LocalPlan(epochs=2, batch_size=3), ExampleNoise(1.0, 1.0)
    assert (train(plan, noise).update == train(plan, noise).update).all()
    assert (train(plan, noise).update != train(plan, noise, seed=2).update).any()
    assert train(plan, noise).steps == 2 * 3


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_optimiser_takes_the_noisy_gradient(optimizer: Any) -> None:
    plan = LocalPlan(optimizer, learning_rate=0.1, steps=60, batch_size=8, weight_decay=0.01, prox_mu=0.01)
    result = train(plan, ExampleNoise(0.02, 20.0))
    mean = TABLE[:8].mean(axis=0)
    assert np.abs(result.update - mean).max() < 0.4 * np.abs(mean).max()


def test_steps_are_counted_as_batches_of_a_pass() -> None:
    assert private_steps(10, LocalPlan(steps=7)) == 7
    assert private_steps(33, LocalPlan(epochs=3, batch_size=16)) == 9


def test_what_would_not_be_private_or_never_end_is_refused() -> None:
    noise = ExampleNoise(1.0, 1.0)
    with pytest.raises(ValueError, match="order must be shuffled"):
        train(LocalPlan(steps=1, order="stored"), noise)
    with pytest.raises(ValueError, match="steps must be"):
        train(LocalPlan(epochs=1_000_000, batch_size=1), noise)
    with pytest.raises(ValueError, match="n_rows must be"):
        train(LocalPlan(steps=1), noise, rows=0)
    with pytest.raises(UpdateRefused, match="not finite after step 20"):
        train(LocalPlan(learning_rate=1e3, steps=20, batch_size=1, weight_decay=1e3), ExampleNoise(1.0, 1e6))


@pytest.mark.parametrize("multiplier", [0.7, 2.0])
def test_the_best_attack_on_a_step_does_as_well_as_the_theory_says_and_no_better(multiplier: float) -> None:
    """Who knows all other rows and where the last one points can only ask on which side of the middle a sum
    is: the two sides differ by ``2 Phi(1 / (2 multiplier)) - 1`` (Dong, Roth, Su 2019, eq. 6), for the row
    that moves the sum most.
    """
    noise, start, runs = ExampleNoise(multiplier, 1.0), np.zeros(12, np.float32), 20_000
    with_row = clipped_sum(of_table, start, NOBODY, np.arange(10), noise, rng=RNG)
    without = clipped_sum(of_table, start, NOBODY, np.arange(9), noise, rng=RNG)
    direction = with_row - without
    stream = SecretStream(seeded_entropy(21))
    told = []
    for total in (with_row, without):
        drawn = discrete_gaussian(runs * 12, GRID * GRID, stream=stream).reshape(runs, 12)
        told.append(float(((total + drawn - (with_row + without) / 2) @ direction > 0).mean()))
    found, promised = told[0] - told[1], math.erf(1 / (2 * math.sqrt(2) * multiplier))
    assert found == pytest.approx(promised, abs=4 * math.sqrt(0.5 / runs))


@pytest.mark.parametrize(
    ("field", "value"),
    [("multiplier", 0.0), ("multiplier", math.nan), ("example_clip", 0.0), ("example_clip", math.inf)],
)
def test_noise_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        ExampleNoise(**{"multiplier": 1.0, "example_clip": 1.0, field: value})


# ---- whole updates


def test_integers_are_no_longer_than_the_clip_before_noise() -> None:
    quantizer = Quantizer(16, 2.0)
    noise = discrete_gaussian(5_000, 64, stream=SecretStream(seeded_entropy(1)))
    update = np.random.default_rng(1).normal(0, 1, 5_000).astype(np.float32)
    found = noisy_integers(update, quantizer, 1.0, 64, entropy=seeded_entropy(1)) - noise
    norm = math.sqrt(int((found**2).sum()))
    assert norm <= 1.0 * quantizer.scale
    assert norm == pytest.approx(quantizer.scale, rel=0.01)
    short = (update * 1e-3).astype(np.float32)
    kept = noisy_integers(short, quantizer, 1.0, 64, entropy=seeded_entropy(1)) - noise
    assert kept.tolist() == np.trunc(short.astype(np.float64) * quantizer.scale).astype(int).tolist()


def test_shares_add_up_to_the_noise_that_was_promised() -> None:
    quantizer, owners, variance = Quantizer(16, 2.0), 25, 900
    zero = np.zeros(4_000, np.float32)
    shares = [
        noisy_integers(zero, quantizer, 1.0, variance, entropy=seeded_entropy(who)) for who in range(owners)
    ]
    total = np.sum(shares, axis=0)
    assert total.var() == pytest.approx(owners * variance, rel=0.1)
    assert shares[0].var() == pytest.approx(variance, rel=0.1)


def test_noise_beyond_the_range_saturates() -> None:
    found = noisy_integers(
        np.zeros(2_000, np.float32), Quantizer(8, 1.0), 1.0, 10**6, entropy=seeded_entropy(1)
    )
    assert (found.min(), found.max()) == (-127, 127)


@pytest.mark.parametrize(
    "update", [np.array([np.nan], np.float32), np.zeros(3), np.zeros((2, 2), np.float32)]
)
def test_an_update_that_is_none_is_refused(update: Any) -> None:
    with pytest.raises(UpdateRefused):
        noisy_integers(update, Quantizer(16, 1.0), 1.0, 64, entropy=seeded_entropy(1))
