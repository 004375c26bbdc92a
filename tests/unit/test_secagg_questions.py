"""What is asked of updates: exact products, names of questions, unbiased rounding of functionals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.secagg.questions import Dense, Joined, Questions, Signs, quantise_functional, ring_rows

SEED = bytes(range(32))


def sign_vectors(signs: Signs) -> Any:
    a, b = signs.signs
    full = a[:, :, None].astype(np.int64) * b[:, None, :]
    return full.reshape(signs.count, -1)[:, : signs.parameters]


@pytest.mark.parametrize("parameters", [1, 7, 2048, 2049, 3 * 2048, 150_001])
@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_products_are_those_of_whole_vectors(parameters: int, kind: Any) -> None:
    rng = np.random.default_rng(parameters)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    rows = rng.integers(low, high, (5, parameters), kind, endpoint=True)
    signs = Signs(3, parameters, SEED)
    dense = Dense(rng.integers(-9, 9, (2, parameters)))
    wide = rows.astype(np.int64)
    assert set(np.unique(sign_vectors(signs)).tolist()) <= {-1, 1}
    expected = np.concatenate([wide @ dense.vectors.T, wide @ sign_vectors(signs).T], axis=1)
    assert Joined((dense, signs)).products(rows).tolist() == expected.tolist()


def test_no_update_gives_no_answer() -> None:
    assert Signs(3, 10, SEED).products(np.zeros((0, 10), np.int16)).shape == (0, 3)


def test_projections_measure_the_norm() -> None:
    rng = np.random.default_rng(0)
    row = rng.integers(-100, 100, (1, 5000), np.int32)
    found = Signs(4096, 5000, SEED).products(row)[0].astype(float)
    assert np.mean(found**2) == pytest.approx(float(np.sum(row.astype(float) ** 2)), rel=0.1)


def test_a_digest_names_one_question() -> None:
    ones = np.ones((1, 6), np.int64)
    questions: list[Questions] = [
        Signs(1, 6, SEED),
        Signs(2, 6, SEED),
        Signs(1, 7, SEED),
        Signs(1, 6, SEED[::-1]),
        Dense(ones),
        Dense(2 * ones),
        Dense(ones.reshape(2, 3)),
        Joined((Signs(1, 6, SEED), Dense(ones))),
        Joined((Dense(ones), Signs(1, 6, SEED))),
        Joined((Dense(ones),)),
    ]
    assert len({question.digest for question in questions}) == len(questions)
    assert Dense(ones).digest == Dense(ones.copy()).digest


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (lambda: Signs(0, 5, SEED), "count"),
        (lambda: Signs(1, 0, SEED), "parameters"),
        (lambda: Signs(1, 5, SEED[1:]), "seed"),
        (lambda: Dense(np.zeros((1, 3)).astype(object)), "vectors"),
        (lambda: Dense(np.full((1, 3), 2**20 + 1)), "vectors"),
        (lambda: Dense(np.zeros(3, np.int64)), "vectors"),
        (lambda: Joined(()), "parts"),
        (lambda: Joined((Signs(1, 5, SEED), Signs(1, 6, SEED))), "parts"),
    ],
)
def test_malformed_questions_are_refused(build: Any, where: str) -> None:
    with pytest.raises(ConfigRefused, match=where):
        build()


@pytest.mark.parametrize("question", [Signs(1, 5, SEED), Dense(np.ones((1, 5), np.int64))])
def test_updates_of_another_length_or_type_are_refused(question: Any) -> None:
    with pytest.raises(UpdateRefused, match="5 columns"):
        question.products(np.zeros((2, 6), np.int16))
    with pytest.raises(UpdateRefused, match="int16 or int32"):
        question.products(np.zeros((2, 5), np.int64))


@pytest.mark.parametrize("norm", [1.0, 3.0, 20.0, 180.0, 5000.0, 2.0**19, 2.0**30])
@pytest.mark.parametrize("size", [1, 10, 20_000])
def test_a_rounded_functional_keeps_its_norm(norm: float, size: int) -> None:
    rng = np.random.default_rng(size)
    g = rng.normal(0, 1e-5, size)
    integers, scale = quantise_functional(g, norm=norm, rng=rng)
    assert np.sum(integers.astype(float) ** 2) <= norm**2
    assert np.abs(integers).max() <= 2**20
    if norm >= 180:
        cosine = float(integers @ g) / np.linalg.norm(g) / np.linalg.norm(integers.astype(float))
        assert cosine > 0.6
    again = quantise_functional(g, norm=norm, rng=np.random.default_rng(7))
    assert again[0].tolist() == quantise_functional(g, norm=norm, rng=np.random.default_rng(7))[0].tolist()
    assert np.all(np.abs(integers * scale - g) <= scale)


def test_rounding_has_no_bias() -> None:
    g = np.linspace(-1, 1, 50)
    rng = np.random.default_rng(1)
    draws = [quantise_functional(g, norm=20.0, rng=rng) for _ in range(4000)]
    mean = np.mean([integers * scale for integers, scale in draws], axis=0)
    assert np.abs(mean - g).max() < 0.06 * draws[0][1] * 1.5


def test_a_zero_functional_stays_zero() -> None:
    integers, scale = quantise_functional(np.zeros(4), norm=10.0, rng=np.random.default_rng(0))
    assert integers.tolist() == [0, 0, 0, 0]
    assert scale == 0.0


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.array([1.0, np.nan]), np.zeros((2, 2))])
def test_other_functionals_are_refused(bad: Any) -> None:
    with pytest.raises(UpdateRefused, match="functional"):
        quantise_functional(bad, norm=10.0, rng=np.random.default_rng(0))


def test_a_row_of_the_ring_is_filled_before_the_next_begins() -> None:
    assert [ring_rows(p) for p in (1, 2048, 2049)] == [1, 1, 2]


def test_a_projection_gathers_the_errors_of_whole_rows() -> None:
    """What fills the last row up has errors and signs, too; a norm of sqrt(P) would refuse honest noise."""
    assert Signs(2, 10, SEED).norms.tolist() == [2048**0.5] * 2
    assert Signs(1, 2049, SEED).norms.tolist() == [64.0]
    dense = Dense(np.array([[3, 4, 0], [0, 0, 2]]))
    assert dense.norms.tolist() == [5.0, 2.0]
    assert Joined((dense, Signs(1, 3, SEED))).norms.tolist() == [5.0, 2.0, 2048**0.5]
