"""Clipping, quantisation, the wire form and the exact sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning import (
    Quantizer,
    UpdateMatrix,
    aggregate,
    check_range,
    clip_norm,
    decode_update,
    encode_update,
    finite_rows,
    quantise_rows,
)
from galaxylearning.units import Address


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


def i32(*values: int) -> Any:
    return np.array(values, np.int32)


BAD_FLOATS: list[Any] = [
    f32(1.0, math.nan),
    f32(math.inf),
    f32(-math.inf),
    np.ones(2, np.float64),
    np.ones((2, 1), np.float32),
    np.float32(1.0),
    [1.0],
    None,
]


def test_clip_norm_scales_only_what_is_too_long() -> None:
    assert clip_norm(f32(3, 4), 2.5).tolist() == [1.5, 2.0]
    assert clip_norm(f32(3, 4), 5.0).tolist() == [3.0, 4.0]
    assert clip_norm(f32(3e38, 3e38), 1.0).tolist() == pytest.approx([0.5**0.5] * 2)
    assert clip_norm(f32(), 1.0).size == 0


@pytest.mark.parametrize("bad", BAD_FLOATS)
def test_clip_and_quantise_refuse_what_is_not_a_finite_float32_vector(bad: Any) -> None:
    with pytest.raises(UpdateRefused, match="update"):
        clip_norm(bad, 1.0)
    with pytest.raises(UpdateRefused, match="update"):
        Quantizer(8, 1.0).quantize(bad)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf, "1", True])
def test_clip_norm_refuses_a_bad_limit(limit: Any) -> None:
    with pytest.raises(ConfigRefused, match="max_norm"):
        clip_norm(f32(1), limit)


def test_quantise_rounds_half_to_even_and_saturates() -> None:
    quantizer = Quantizer(4, 7.0)
    assert quantizer.scale == 1.0
    assert quantizer.quantize(f32(0.5, 1.5, 2.5, -0.5, -1.5, 6.9, 8.0, -1e30)).tolist() == [
        0, 2, 2, 0, -2, 7, 7, -7,
    ]  # fmt: skip


def test_dequantise_divides_by_scale_and_weight() -> None:
    quantizer = Quantizer(8, 1.27)
    assert quantizer.dequantize(np.array([254, -127], np.int64), 2).tolist() == pytest.approx([1.27, -0.635])
    assert quantizer.dequantize(i32(100), 1).tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("divisor", [0, -1, 1.0, True])
def test_dequantise_refuses_a_bad_divisor(divisor: Any) -> None:
    with pytest.raises(UpdateRefused, match="divisor"):
        Quantizer(8, 1.0).dequantize(i32(1), divisor)


def test_dequantise_refuses_floats() -> None:
    with pytest.raises(UpdateRefused, match="int64"):
        Quantizer(8, 1.0).dequantize(np.ones(2), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bits", "max_abs", "field"),
    [(1, 1.0, "bits"), (33, 1.0, "bits"), (8.0, 1.0, "bits"), (8, 0.0, "max_abs"), (8, math.nan, "max_abs"),
     (8, -1.0, "max_abs"), (32, 1e-307, "max_abs")],
)  # fmt: skip
def test_a_bad_quantizer_names_its_field(bits: Any, max_abs: Any, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        Quantizer(bits, max_abs)


def test_wire_form_is_little_endian_and_exact() -> None:
    assert encode_update(i32(1, -2, 32767), 16).hex() == "0100feffff7f"
    assert encode_update(i32(1, -2), 17).hex() == "01000000feffffff"
    assert decode_update(bytes.fromhex("0100feffff7f"), 3, 16).tolist() == [1, -2, 32767]
    assert decode_update(b"", 0, 8).size == 0
    assert decode_update(b"\x01\x00", 1, 8).dtype == np.int32


@pytest.mark.parametrize(
    ("data", "size", "bits"),
    [
        (b"\x00\x00\x00", 1, 16),
        (b"\x00\x00", 2, 16),
        (b"\x00\x00", 1, 17),
        (b"\x00\x80", 1, 16),
        (b"\x80\x00", 1, 8),
        (b"\x80\xff", 1, 8),
        (b"\x00\x00\x80\x00", 1, 24),
        ("00", 1, 8),
        (None, 0, 8),
    ],
)
def test_decode_refuses_wrong_lengths_and_ranges(data: Any, size: int, bits: int) -> None:
    with pytest.raises(UpdateRefused, match="update"):
        decode_update(data, size, bits)


@pytest.mark.parametrize(("size", "bits", "field"), [(-1, 8, "size"), (2**40, 8, "size"), (1, 64, "bits")])
def test_decode_refuses_bad_settings(size: int, bits: int, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        decode_update(b"", size, bits)


def test_encode_refuses_what_decode_would() -> None:
    with pytest.raises(UpdateRefused, match="±127"):
        encode_update(i32(128), 8)
    with pytest.raises(UpdateRefused, match="int32"):
        encode_update(np.ones(1, np.int64), 8)
    with pytest.raises(UpdateRefused, match="±2147483647"):
        encode_update(i32(-(2**31)), 32)


def test_check_range_gives_the_largest_cohort() -> None:
    # 32 bits: (2**31 - 1) * 2**16 * n < 2**63
    check_range(32, 65_536, 1 << 16)
    with pytest.raises(ConfigRefused, match="at most 65536 "):
        check_range(32, 65_537, 1 << 16)
    check_range(24, 1_000_000, 1 << 10)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((1, 1, 1), "bits"),
        ((8, 0, 1), "cohort_size"),
        ((8, 1, 0), "max_weight"),
    ],
)
def test_check_range_refuses_bad_settings(arguments: Any, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        check_range(*arguments)


def test_rows_are_clipped_and_quantised_as_one_at_a_time() -> None:
    rows = np.array([[3, 4], [0.3, -0.4], [0, 0], [-30, 40]], np.float32)
    quantizer = Quantizer(16, 2.5)
    expected = [quantizer.quantize(clip_norm(row, 2.5)).tolist() for row in rows]
    assert quantise_rows(rows, quantizer, 2.5).tolist() == expected
    assert quantise_rows(rows, quantizer, 2.5).dtype == np.int16
    assert quantise_rows(rows, Quantizer(17, 2.5), 2.5).dtype == np.int32
    assert quantise_rows(rows[:0], quantizer, 2.5).shape == (0, 2)
    # without a limit only the quantiser bounds the numbers
    assert quantise_rows(rows, quantizer, None).tolist() == [quantizer.quantize(r).tolist() for r in rows]
    into = np.zeros((6, 2), np.int16)
    quantise_rows(rows, quantizer, 2.5, out=into[1:5])
    assert into[1:5].tolist() == expected
    assert not into[[0, 5]].any()


@pytest.mark.parametrize(
    ("rows", "limit", "out", "field"),
    [
        (np.array([[1, 2], [math.nan, 0]], np.float32), 1.0, None, r"updates\[1\]"),
        (np.array([[1, 2], [0, math.inf]], np.float32), None, None, r"updates\[1\]"),
        (np.ones((2, 2)), 1.0, None, "updates"),
        (np.ones(2, np.float32), 1.0, None, "updates"),
        ([[1.0]], 1.0, None, "updates"),
        (np.ones((2, 2), np.float32), 1.0, np.zeros((2, 2), np.int32), "out"),
        (np.ones((2, 2), np.float32), 1.0, np.zeros((3, 2), np.int16), "out"),
    ],
)
def test_malformed_rows_are_refused(rows: Any, limit: Any, out: Any, field: str) -> None:
    with pytest.raises(UpdateRefused, match=field):
        quantise_rows(rows, Quantizer(16, 1.0), limit, out=out)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_rows_refuse_a_bad_limit(limit: float) -> None:
    with pytest.raises(ConfigRefused, match="max_norm"):
        quantise_rows(np.ones((1, 1), np.float32), Quantizer(16, 1.0), limit)


def test_rows_that_are_not_finite_are_told() -> None:
    rows = np.ones((5, 3), np.float32)
    rows[1, 2], rows[3, 0], rows[4, 1] = math.nan, math.inf, -math.inf
    assert finite_rows(rows).tolist() == [True, False, True, False, False]
    assert finite_rows(rows[:0]).shape == (0,)


A, B = Address(f"0x{1:040d}"), Address(f"0x{2:040d}")


def matrix(**changes: Any) -> UpdateMatrix:
    fields: dict[str, Any] = {
        "owners": (A, B),
        "parameters": np.array([[1, -2, 3], [4, 5, -6]], np.int16),
        "buffers": np.zeros((2, 0), np.int32),
        "bits": 16,
    }
    return UpdateMatrix(**(fields | changes))


def test_an_update_matrix_knows_its_owners() -> None:
    whole = matrix()
    assert (len(whole), A in whole, Address(f"0x{3:040d}") in whole) == (2, True, False)
    assert whole.only([B, A]) is whole
    part = whole.only([B])
    assert (part.owners, part.parameters.tolist()) == ((B,), [[4, 5, -6]])
    assert len(whole.only([])) == 0
    assert matrix(parameters=np.ones((2, 3), np.int32), bits=17).parameters.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"owners": (A,)}, "parameters"),
        ({"owners": (A, A)}, "owners"),
        ({"parameters": np.zeros((2, 3), np.int32)}, "parameters"),
        ({"parameters": np.zeros((2, 3), np.int16), "bits": 17}, "parameters"),
        ({"parameters": np.zeros((2, 3), np.float32)}, "parameters"),
        ({"parameters": np.zeros(2, np.int16)}, "parameters"),
        ({"parameters": np.full((2, 3), -(2**15), np.int16)}, "±32767"),
        ({"parameters": np.full((2, 3), 128, np.int16), "bits": 8}, "±127"),
        ({"buffers": np.zeros((2, 1), np.int16)}, "buffers"),
        ({"buffers": np.zeros((1, 1), np.int32)}, "buffers"),
    ],
)
def test_a_malformed_update_matrix_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UpdateRefused, match=field):
        matrix(**changes)


def i64(*values: int) -> Any:
    return np.array(values, np.int64)


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_aggregate_by_hand(kind: Any) -> None:
    total, weight = aggregate(np.array([[1, -1], [10, 0], [99, 99]], kind), i64(2, 3, 0))
    assert total.tolist() == [32, -2]
    assert total.dtype == np.int64
    assert weight == 5


def test_aggregate_is_exact_beyond_32_bits() -> None:
    total, _ = aggregate(np.full((1000, 1), 2**31 - 1, np.int32), np.full(1000, 15))
    assert int(total[0]) == 15_000 * (2**31 - 1)


def bad_sums() -> list[Any]:
    row = np.ones((1, 1), np.int16)
    return [
        (np.zeros((0, 1), np.int16), i64(), "at least one"),
        (row, i64(0), "at least one"),
        (row, i64(1, 1), "weights"),
        (row, i64(-1), "at least one|weights"),
        (np.ones((2, 1), np.int16), i64(-1, 2), "weights"),
        (row, i64(10**9), "weights"),
        (row, np.ones(1), "weights"),
        (row, np.ones(1, np.bool_), "weights"),
        (row, [1], "weights"),
        (row.astype(np.int64), i64(1), "int32"),
        (row.astype(np.float32), i64(1), "int32"),
        (row[0], i64(1), "dimensions"),
    ]


@pytest.mark.parametrize(("updates", "weights", "message"), bad_sums())
def test_aggregate_refuses(updates: Any, weights: Any, message: str) -> None:
    with pytest.raises(UpdateRefused, match=message):
        aggregate(updates, weights)


def test_aggregate_refuses_a_sum_that_could_overflow() -> None:
    full = np.full((5000, 1), -(2**31), np.int32)
    with pytest.raises(UpdateRefused, match="63 bits"):
        aggregate(full, np.full(5000, 1 << 20))
    assert int(aggregate(full[:4095], np.full(4095, 1 << 20))[0][0]) == -4095 << 51
