"""The path value on functions whose integral is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from galaxylearning.contribution import VALUES, PathScorer, RoundView, path_value, value_named
from galaxylearning.contribution.path import gradient_bits
from galaxylearning.errors import ConfigRefused, DataRefused, UpdateRefused
from galaxylearning.learning import Quantizer, quantise_rows

F64 = npt.NDArray[np.float64]


def bowl(params: F64) -> F64:
    """Two blocks whose losses are |w|^2 and 3 |w|^2: on average 2 |w|^2."""
    return np.array([2 * params, 6 * params])


START = np.array([1.0, 1.0])
UPDATES = [np.array([-1.0, 0.0]), np.array([0.0, -0.5]), np.array([0.0, 0.0])]
SHARES = [0.25, 0.25, 0.5]
STEP = np.array([-0.25, -0.125])


def loss(params: F64) -> float:
    return 2 * float(np.sum(params * params))


def test_by_hand_and_sums_to_the_gain() -> None:
    found = path_value(bowl, START, STEP, UPDATES, SHARES)
    # the gradient is linear, so its mean along the path is the one at the middle: 4 * (0.875, 0.9375)
    assert found.values.tolist() == pytest.approx([0.25 * 3.5, 0.25 * 0.5 * 3.75, 0.0])
    assert found.gain_estimate == pytest.approx(loss(START) - loss(START + STEP))
    assert float(np.sum(found.values)) == pytest.approx(found.gain_estimate)


def test_standard_errors_by_hand() -> None:
    found = path_value(bowl, START, STEP, UPDATES, SHARES)
    # the blocks give half and one and a half times the value: std = v / sqrt(2), over sqrt(2)
    assert found.standard_errors.tolist() == pytest.approx((found.values / 2).tolist())


def test_what_was_sent_last_round_is_worth_nothing_again() -> None:
    replay = np.array([-0.3, -0.1])
    updates = [UPDATES[0], replay, 5 * replay]
    shares = [0.5, 0.25, 0.25]
    plain = path_value(bowl, START, STEP, updates, shares)
    novel = path_value(bowl, START, STEP, updates, shares, previous_step=replay * 7)
    assert np.all(plain.values > 0.1)
    # up to the rounding of the gradient to integers
    assert novel.values[1:].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert novel.standard_errors[1:].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert novel.gain_estimate == plain.gain_estimate


def test_a_zero_previous_step_takes_nothing_away() -> None:
    plain = path_value(bowl, START, STEP, UPDATES, SHARES)
    same = path_value(bowl, START, STEP, UPDATES, SHARES, previous_step=np.zeros(2))
    assert same.values.tobytes() == plain.values.tobytes()


def test_the_gradient_is_asked_once_per_midpoint_whatever_the_cohort() -> None:
    asked: list[list[float]] = []

    def gradient(params: F64) -> F64:
        asked.append(params.tolist())
        return bowl(params)

    path_value(gradient, np.zeros(2), np.array([1.0, 0.0]), [np.ones(2)] * 50, [0.02] * 50, midpoints=4)
    assert [point[0] for point in asked] == [0.125, 0.375, 0.625, 0.875]


def call(**changes: Any) -> None:
    arguments: dict[str, Any] = {"gradient_blocks": bowl, "start": START, "step": STEP, "updates": UPDATES}
    arguments |= {"shares": SHARES} | changes
    path_value(**arguments)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start": np.array([math.nan, 0.0])}, "start"),
        ({"start": np.ones(2, np.float32)}, "start"),
        ({"step": np.ones(3)}, "step"),
        ({"step": np.array([math.inf, 0.0])}, "step"),
        ({"updates": []}, "updates"),
        ({"updates": [*UPDATES[:2], np.array([0.0, math.nan])]}, r"updates\[2\]"),
        ({"updates": [*UPDATES[:2], np.ones((2, 1))]}, r"updates\[2\]"),
        ({"previous_step": np.ones(3)}, "previous_step"),
        ({"previous_step": np.array([0.0, math.inf])}, "previous_step"),
        ({"gradient_blocks": lambda w: w}, "midpoint 0"),
        ({"gradient_blocks": lambda _w: np.ones((1, 2))}, "at least 2 blocks"),
        ({"gradient_blocks": lambda _w: np.ones((2, 3))}, "at least 2 blocks"),
        ({"gradient_blocks": lambda _w: np.full((2, 2), math.nan)}, "finite"),
        ({"gradient_blocks": lambda _w: np.ones((2, 2), np.float32)}, "float64"),
    ],
)
def test_bad_vectors_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(DataRefused, match=field):
        call(**changes)


def test_blocks_must_not_change_along_the_path() -> None:
    sizes = iter([2, 3, 2, 2, 2])
    with pytest.raises(DataRefused, match="midpoint 1"):
        call(gradient_blocks=lambda _w: np.ones((next(sizes), 2)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shares": [0.5, 0.5]}, "shares"),
        ({"shares": [0.5, 0.5, 0.5]}, "sum to 1"),
        ({"shares": [1.5, -0.5, 0.0]}, "shares"),
        ({"shares": [math.nan, 0.5, 0.5]}, "shares"),
        ({"shares": [0.0, 0.0, 0.0]}, "sum to 1"),
        ({"midpoints": 0}, "midpoints"),
        ({"midpoints": 2.5}, "midpoints"),
        ({"midpoints": 10**9}, "midpoints"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        call(**changes)


# ---- exact products


def curved(size: int, *, seed: int, blocks: int = 8) -> Callable[[F64], F64]:
    """Gradients of ``blocks`` separable losses that bend along the way."""
    rng = np.random.default_rng(seed)
    slopes, bends = rng.normal(size=(blocks, size)), rng.normal(size=(blocks, size))
    return lambda w: slopes + bends * np.tanh(w)


def round_of(owners: int, size: int, *, bits: int, seed: int = 0) -> tuple[Any, F64, F64, F64, float]:
    """Updates as integers, shares, the start, the step, and the unit of the integers."""
    rng = np.random.default_rng(seed)
    quantizer = Quantizer(bits, 4.0)
    rows = quantise_rows((rng.normal(size=(owners, size)) / size**0.5).astype(np.float32), quantizer, 4.0)
    weights = rng.integers(0, 16, owners).astype(np.float64)
    shares = weights / weights.sum()
    unit = 1 / quantizer.scale
    return rows, shares, rng.normal(size=size), shares @ rows * unit, unit


def in_floats(gradient: Callable[[F64], F64], case: Any, previous: F64 | None) -> tuple[F64, F64]:
    """The definition, without any rounding of the gradient."""
    rows, shares, start, step, unit = case
    total = -np.mean([gradient(start + (k + 0.5) / 5 * step) for k in range(5)], axis=0)
    if previous is not None:
        total = total - np.outer(total @ previous / (previous @ previous), previous)
    per_block = (rows * unit) @ total.T * shares[:, None]
    return per_block.mean(axis=1), per_block.std(axis=1, ddof=1) / math.sqrt(len(total))


@pytest.mark.parametrize("bits", [8, 16, 17, 24])
@pytest.mark.parametrize("is_novel", [False, True])
def test_the_values_are_those_of_the_definition(bits: int, is_novel: bool) -> None:
    case = round_of(40, 3000, bits=bits)
    rows, shares, start, step, unit = case
    previous = np.random.default_rng(5).normal(size=3000) if is_novel else None
    gradient = curved(3000, seed=1)
    scorer = PathScorer(gradient, start, step, update_bits=bits, previous_step=previous)
    found = scorer.values([rows], shares, unit=unit)
    values, errors = in_floats(gradient, case, previous)
    # The error that is allowed, and the one that the rounding of the gradient can make.
    assert np.abs(found.values - values).max() <= 1e-4 * np.abs(values).sum()
    bound = shares * unit * scorer.scale / 2 * np.abs(rows.astype(np.float64)).sum(axis=1)
    assert np.all(np.abs(found.values - values) <= bound + 1e-12)
    np.testing.assert_allclose(found.standard_errors, errors, rtol=1e-4, atol=1e-9)
    if not is_novel:
        assert float(found.values.sum()) == pytest.approx(found.gain_estimate, rel=1e-4)


def test_a_value_is_one_public_integer_functional_of_the_update() -> None:
    rows, shares, start, step, unit = round_of(7, 500, bits=16)
    scorer = PathScorer(curved(500, seed=1), start, step, update_bits=16)
    found = scorer.values([rows], shares, unit=unit)
    functional = [int(g) for g in scorer.functional]
    for i, row in enumerate(rows.tolist()):
        opened = sum(g * x for g, x in zip(functional, row, strict=True))
        assert found.values[i] == shares[i] * unit * scorer.scale * (opened / 8)


def test_chunks_orders_and_threads_give_the_same_bytes() -> None:
    rows, shares, start, step, unit = round_of(200, 2500, bits=16)
    scorer = PathScorer(curved(2500, seed=1), start, step, update_bits=16)
    whole = scorer.values([rows], shares, unit=unit)
    singly = scorer.values((row[None] for row in rows), shares, unit=unit)
    wide = scorer.values([rows[:90].astype(np.int32), rows[90:]], shares, unit=np.full(200, unit))
    back = scorer.values([rows[::-1]], shares[::-1], unit=unit)
    mixed = np.random.default_rng(0).permutation(2500)

    def moved(gradient: Callable[[F64], F64], order: Any) -> Callable[[F64], F64]:
        return lambda w: gradient(w[np.argsort(order)])[:, order]

    turned = PathScorer(moved(curved(2500, seed=1), mixed), start[mixed], step[mixed], update_bits=16).values(
        [rows[:, mixed]], shares, unit=unit
    )
    with ThreadPoolExecutor(2) as threads:
        spread = scorer.values([rows], shares, unit=unit, spread=threads.map)
    for other in (singly, wide, spread, turned):
        assert other.values.tobytes() == whole.values.tobytes()
        assert other.standard_errors.tobytes() == whole.standard_errors.tobytes()
    assert back.values[::-1].tobytes() == whole.values.tobytes()


def test_the_largest_numbers_stay_within_63_bits() -> None:
    size = 2_000_000
    rows = np.full((2, size), 2**15 - 1, np.int16)
    rows[1] *= -1
    flat = PathScorer(lambda _w: np.full((2, size), -1.0), np.zeros(size), np.zeros(size), update_bits=16)
    # 27 bits would pass 2**63: 2 blocks of 2,000,000 products with 2**15
    assert gradient_bits(16) == 27
    assert set(flat.functional.tolist()) == {2 * (2**26 - 1)}
    found = flat.values([rows], [0.5, 0.5], unit=1.0)
    assert found.values.tolist() == pytest.approx([size * (2**15 - 1) / 2, -size * (2**15 - 1) / 2])
    assert found.standard_errors.tolist() == pytest.approx([0.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("size", [0.0, 1e-290, 5e-324])
def test_no_gradient_worth_the_name_is_worth_nothing(size: float) -> None:
    scorer = PathScorer(lambda _w: np.full((2, 3), size), np.zeros(3), np.zeros(3), update_bits=8)
    found = scorer.values([np.full((1, 3), 127, np.int16)], [1.0], unit=1.0)
    assert (found.values.tolist(), found.standard_errors.tolist(), scorer.scale) == ([0.0], [0.0], 0.0)


def test_what_does_not_count_has_a_plain_zero() -> None:
    rows = np.array([[-3, 0], [1, 1]], np.int16)
    found = PathScorer(bowl, START, STEP, update_bits=16).values([rows], [0.0, 1.0], unit=1.0)
    assert found.values[0] == found.standard_errors[0] == 0.0
    assert not np.signbit(found.values[0])


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "at least one"),
        ([np.zeros((1, 2), np.int16)], "one per share"),
        ([np.zeros((2, 2), np.int16), np.zeros((1, 2), np.int16)], "one per share"),
        ([np.zeros((2, 3), np.int16)], r"chunks\[0\]"),
        ([np.zeros((1, 2), np.int16), np.zeros((1, 2))], r"chunks\[1\]"),
        ([np.full((2, 2), 2**15 + 1, np.int32)], "±32768"),
    ],
)
def test_bad_chunks_are_refused(chunks: Any, message: str) -> None:
    scorer = PathScorer(bowl, START, STEP, update_bits=16)
    with pytest.raises((DataRefused, UpdateRefused), match=message):
        scorer.values(chunks, [0.5, 0.5], unit=1.0)


@pytest.mark.parametrize("bits", [1, 25, 16.0, True])
def test_bad_bits_are_refused(bits: Any) -> None:
    with pytest.raises(ConfigRefused, match="update_bits"):
        PathScorer(bowl, START, STEP, update_bits=bits)


def view(sizes: list[int] | None = None) -> RoundView:
    return RoundView(START, STEP, UPDATES, SHARES, bowl, lambda w: -loss(w), sizes=sizes)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_named_value_measures_a_round(name: str) -> None:
    found = value_named(name)(view(sizes=[2, 1, 1]), np.random.default_rng(0))
    assert found.values.shape == found.standard_errors.shape == (3,)
    if name not in {"size", "distance-to-mean"}:
        assert found.values[0] > found.values[1] > 0
        assert abs(found.values[2]) <= 4 * found.standard_errors[2] + 1e-12


def test_exact_values_of_the_round_agree_with_the_path() -> None:
    rng = np.random.default_rng(0)
    path = value_named("path")(view(), rng).values
    for name in ("banzhaf", "shapley"):
        # separable quadratic, and each update along its own axis: the games agree exactly
        assert value_named(name)(view(), rng).values.tolist() == pytest.approx(path.tolist())


def test_an_unknown_value_lists_the_known_ones() -> None:
    with pytest.raises(ConfigRefused, match="leave-one-out"):
        value_named("accuracy")


def test_size_needs_the_sizes() -> None:
    with pytest.raises(ConfigRefused, match="sizes"):
        value_named("size")(view(), np.random.default_rng(0))
