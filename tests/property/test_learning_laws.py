"""Laws of quantisation, sums and the gate."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning import (
    Quantizer,
    aggregate,
    clip_norm,
    decode_update,
    encode_update,
    gate,
    quantise_rows,
)
from galaxylearning.learning.exact import exact_products, exact_squares, exact_weighted_sum
from galaxylearning.learning.vectors import exact_dot

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.integers(2, 32), st.data())
def test_decode_undoes_encode(bits: int, data: st.DataObject) -> None:
    top = 2 ** (bits - 1) - 1
    ints = np.array(data.draw(st.lists(st.integers(-top, top), max_size=20)), np.int32)
    assert decode_update(encode_update(ints, bits), ints.size, bits).tolist() == ints.tolist()


@given(st.binary(max_size=24), st.integers(0, 12), st.integers(2, 32))
def test_decode_takes_only_what_encode_gives(data: bytes, size: int, bits: int) -> None:
    try:
        ints = decode_update(data, size, bits)
    except UpdateRefused:
        return
    assert encode_update(ints, bits) == data


@given(st.lists(st.floats(-8, 8, width=32), max_size=20), st.integers(4, 24))
def test_quantisation_errs_by_half_a_step_and_stays_in_range(values: list[float], bits: int) -> None:
    quantizer = Quantizer(bits, 4.0)
    ints = quantizer.quantize(np.array(values, np.float32))
    back = quantizer.dequantize(ints, 1)
    assert np.all(np.abs(ints) <= quantizer.levels)
    clipped = np.clip(np.array(values, np.float64), -4, 4)
    assert np.all(np.abs(back - clipped) <= 0.5 / quantizer.scale * (1 + 1e-9))


@given(
    st.lists(st.tuples(st.integers(1, 15), st.lists(INT32, min_size=3, max_size=3)), min_size=1, max_size=8)
)
def test_the_sum_is_exact_in_any_order(rows: list[tuple[int, list[int]]]) -> None:
    updates = np.array([row for _, row in rows], np.int32)
    weights = np.array([weight for weight, _ in rows], np.int64)
    total, weight = aggregate(updates, weights)
    assert total.tolist() == [sum(w * row[k] for w, row in rows) for k in range(3)]
    assert weight == sum(w for w, _ in rows)
    assert aggregate(updates[::-1], weights[::-1])[0].tobytes() == total.tobytes()


@st.composite
def float_rows(draw: st.DrawFn) -> tuple[Any, Quantizer, float]:
    count, width = draw(st.integers(0, 5)), draw(st.integers(0, 40))
    seed, spread = draw(st.integers(0, 2**32)), draw(st.floats(1e-6, 1e6))
    rows = np.random.default_rng(seed).normal(0, spread, (count, width)).astype(np.float32)
    return rows, Quantizer(draw(st.integers(2, 32)), draw(st.floats(1e-3, 1e3))), draw(st.floats(1e-3, 1e7))


@given(float_rows())
def test_rows_at_once_are_bit_for_bit_rows_one_by_one(case: tuple[Any, Quantizer, float]) -> None:
    rows, quantizer, limit = case
    found = quantise_rows(rows, quantizer, limit)
    assert found.dtype == (np.int16 if quantizer.bits <= 16 else np.int32)
    for row, ints in zip(rows, found, strict=True):
        assert ints.tolist() == quantizer.quantize(clip_norm(row, limit)).tolist()
    for row, ints in zip(rows, quantise_rows(rows, quantizer, None), strict=True):
        assert ints.tolist() == quantizer.quantize(row).tolist()


@pytest.mark.parametrize("width", [1, 7, 8, 9, 127, 128, 129, 1000, 8191, 8193, 70_001])
def test_rows_of_any_length_are_clipped_by_the_norm_of_a_single_one(width: int) -> None:
    rows = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
    limit, quantizer = 0.9 * float(np.linalg.norm(rows[0])), Quantizer(32, 4.0)
    expected = [quantizer.quantize(clip_norm(row, limit)) for row in rows]
    assert quantise_rows(rows, quantizer, limit).tobytes() == np.array(expected).tobytes()


@st.composite
def int_rows(draw: st.DrawFn) -> Any:
    """Rows across the borders of tiles, with numbers up to the type's ends."""
    kind: Any = draw(st.sampled_from([np.int16, np.int32]))
    info = np.iinfo(kind)
    count, width = (
        draw(st.sampled_from([0, 1, 3, 64, 65])),
        draw(st.sampled_from([0, 1, 5, 1024, 1025, 3000])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        ends = np.array([info.min, info.max], kind)
        return ends[rng.integers(0, 2, (count, width))]
    bits = draw(st.integers(1, info.bits - 1))
    return rng.integers(-(1 << bits), 1 << bits, (count, width)).clip(info.min, info.max).astype(kind)


@settings(max_examples=60, deadline=None)
@given(int_rows(), st.integers(0, 63), st.integers(0, 2**32))
def test_products_of_matrices_are_exact(rows: Any, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = -(1 << bits), (1 << bits) - 1
    columns = rng.integers(low, high, (2, rows.shape[1]), endpoint=True)
    found, squares = exact_products(rows, columns), exact_squares(rows)
    for i in range(0, len(rows), 13):
        assert [int(number) for number in found[i]] == [exact_dot(rows[i], column) for column in columns]
        assert int(squares[i]) == exact_dot(rows[i], rows[i])
    weights = rng.integers(0, 1 << min(bits, 20), len(rows), endpoint=True)
    expected = [
        sum(x * w for x, w in zip(column.tolist(), weights.tolist(), strict=True)) for column in rows.T[:7]
    ]
    assert exact_weighted_sum(rows, weights)[:7].tolist() == expected


@given(st.lists(st.tuples(INT64, INT64), max_size=12))
def test_products_are_exact(pairs: list[tuple[int, int]]) -> None:
    left = np.array([a for a, _ in pairs], np.int64)
    right = np.array([b for _, b in pairs], np.int64)
    assert exact_dot(left, right) == sum(a * b for a, b in pairs)


@settings(deadline=None)
@given(
    st.lists(st.lists(INT32, min_size=2, max_size=2), min_size=1, max_size=7),
    st.lists(INT64, min_size=2, max_size=2),
    st.integers(1, 20),
)
def test_the_gate_weighs_by_exact_fractions(rows: list[list[int]], step: list[int], top: int) -> None:
    table = gate(np.array(rows, np.int32), np.array(step, np.int64), max_weight=top)
    squares = [sum(x * x for x in row) for row in rows]
    products = [sum(a * b for a, b in zip(row, step, strict=True)) for row in rows]
    counted = [i for i, product in enumerate(products) if product > 0]
    cosines = {i: Fraction(products[i] ** 2, squares[i]) for i in counted}
    middle = (len(counted) - 1) // 2
    sent = sorted(square for square in squares if square)
    for i, (weight, reason) in enumerate(zip(table.weights.tolist(), table.reasons.tolist(), strict=True)):
        assert 0 <= weight <= top
        assert (weight > 0) == (reason == 0)
        if i not in counted:
            assert weight == 0
            continue
        usual = min(sorted(squares[k] for k in counted)[middle], sent[(len(sent) - 1) // 2])
        by_norm = min(Fraction(1), Fraction(usual, squares[i])) ** 2
        usual_cosine = sorted(cosines.values())[3 * (len(counted) - 1) // 4]
        fit = by_norm * min(Fraction(1), cosines[i] / usual_cosine)
        # w is top * sqrt(fit), rounded half up
        assert weight == 0 or (2 * weight - 1) ** 2 <= 4 * top * top * fit
        assert (2 * weight + 1) ** 2 > 4 * top * top * fit
        assert reason != 4 or 4 * top * top * by_norm < 1


def test_the_gate_never_sees_a_sample_count() -> None:
    with pytest.raises(TypeError):
        gate(np.ones((1, 1), np.int32), np.ones(1, np.int64), sizes=[5])  # type: ignore[call-arg]
