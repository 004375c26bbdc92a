"""Laws of quantisation, sums and the gate."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning import Quantizer, aggregate, decode_update, encode_update, gate
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
    pairs: list[tuple[int, Any]] = [(weight, np.array(row, np.int32)) for weight, row in rows]
    total, weight = aggregate(pairs)
    assert total.tolist() == [sum(w * row[k] for w, row in rows) for k in range(3)]
    assert weight == sum(w for w, _ in rows)
    assert aggregate(reversed(pairs))[0].tobytes() == total.tobytes()


@given(st.lists(st.tuples(INT64, INT64), max_size=12))
def test_products_are_exact(pairs: list[tuple[int, int]]) -> None:
    left = np.array([a for a, _ in pairs], np.int64)
    right = np.array([b for _, b in pairs], np.int64)
    assert exact_dot(left, right) == sum(a * b for a, b in pairs)


@given(
    st.lists(st.lists(INT32, min_size=2, max_size=2), min_size=1, max_size=7),
    st.lists(INT64, min_size=2, max_size=2),
    st.integers(1, 20),
)
def test_the_gate_bounds_every_weighted_norm(rows: list[list[int]], step: list[int], top: int) -> None:
    decisions = gate([np.array(row, np.int32) for row in rows], np.array(step, np.int64), max_weight=top)
    squares = [sum(x * x for x in row) for row in rows]
    positive = sorted(
        s
        for s, row in zip(squares, rows, strict=True)
        if sum(a * b for a, b in zip(row, step, strict=True)) > 0
    )
    for decision, square, row in zip(decisions, squares, rows, strict=True):
        product = sum(a * b for a, b in zip(row, step, strict=True))
        assert decision.accepted == (decision.weight > 0) == (decision.reason is None)
        if product <= 0:
            assert not decision.accepted
            continue
        median = positive[(len(positive) - 1) // 2]
        # (2w - 1)^2 |u|^2 <= 4 top^2 median^2: within half a unit of the exact bound, and w is the largest
        assert 0 <= decision.weight <= top
        if decision.weight:
            assert (
                Fraction((2 * decision.weight - 1) ** 2 * square) <= 4 * top * top * median
                or square <= median
            )
        if decision.weight < top:
            assert (2 * decision.weight + 1) ** 2 * square > 4 * top * top * median


def test_the_gate_never_sees_a_sample_count() -> None:
    with pytest.raises(TypeError):
        gate([np.ones(1, np.int32)], np.ones(1, np.int64), sizes=[5])  # type: ignore[call-arg]
