"""Rows as a model takes them: scaled numbers, one column per class, and nothing that does not fit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from galaxylearning.errors import DataRefused
from galaxylearning.messages.terms import ArrayField, Column, Schema
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.rows import encode_rows, input_width, rows_bytes, rows_from_bytes, rows_to_bytes

AGE = Column("age", "integer", mean=50.0, std=10.0)
BLOOD = Column("blood", "category", classes=("A", "B", "0"))
DOSE = Column("dose", "number", unit="mg", mean=1.0, std=0.5)
OUTCOME = Column("outcome", "category", classes=("ill", "well"))
SCHEMA = Schema((AGE, BLOOD, DOSE), OUTCOME)


def columns(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "age": np.array([40, 55]),
        "blood": np.array(["0", "A"], dtype=object),
        "dose": np.array([2.0, 0.75]),
        "outcome": np.array(["well", "ill"], dtype=object),
        "unused": np.array(["x", "y"], dtype=object),
    }
    return found | changes


def test_numbers_are_scaled_and_categories_become_one_column_per_class() -> None:
    rows = encode_rows(SCHEMA, columns())
    np.testing.assert_array_equal(rows.inputs, [[-1.0, 0, 0, 1, 2.0], [0.5, 1, 0, 0, -0.5]])
    np.testing.assert_array_equal(rows.labels, [1, 0])
    assert (rows.inputs.dtype.name, rows.labels.dtype.name) == ("float32", "int64")
    assert rows.inputs.flags.c_contiguous
    assert input_width(SCHEMA) == rows.inputs.shape[1] == 5
    assert len(rows) == 2


def test_a_number_as_label_is_scaled_and_has_a_column_of_its_own() -> None:
    rows = encode_rows(Schema((AGE,), DOSE), columns())
    np.testing.assert_array_equal(rows.labels, [[2.0], [-0.5]])
    assert rows.labels.dtype == np.float32


def test_categories_are_compared_as_text() -> None:
    schema = Schema((AGE,), Column("grade", "category", classes=("1", "2")))
    np.testing.assert_array_equal(encode_rows(schema, columns(grade=np.array([2, 1]))).labels, [1, 0])
    with pytest.raises(DataRefused, match=r"grade: '3' in row 2; allowed: 1, 2"):
        encode_rows(schema, columns(grade=np.array([2, 3])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blood": np.array(["0", "AB"], dtype=object)}, r"blood: 'AB' in row 2; allowed: A, B, 0"),
        ({"outcome": np.array(["dead", "ill"], dtype=object)}, r"outcome: 'dead' in row 1"),
        ({"age": np.array(["old", "young"], dtype=object)}, r"age: must hold numbers"),
        ({"dose": np.array([np.nan, 1.0])}, r"dose: must be finite"),
        ({"dose": np.array([np.inf, 1.0])}, r"dose: must be finite"),
        ({"dose": np.array([1e300, 1.0])}, r"dose: must be finite"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_column_and_row(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataRefused, match=message):
        encode_rows(SCHEMA, columns(**changes))


@pytest.mark.parametrize("name", ["age", "blood", "dose", "outcome"])
def test_a_missing_column_is_named(name: str) -> None:
    found = columns()
    del found[name]
    with pytest.raises(DataRefused, match=rf"{name}: this column is missing"):
        encode_rows(SCHEMA, found)


def test_an_array_is_taken_as_it_is_in_the_models_types() -> None:
    def schema(dtype: Any) -> Schema:
        return Schema((), OUTCOME, (ArrayField("scan", (2, 2), dtype),))

    scans = np.arange(8).reshape(2, 2, 2)
    for dtype, kind in (("float64", np.float32), ("uint8", np.int64), ("int32", np.int64)):
        rows = encode_rows(schema(dtype), columns(scan=scans.astype(dtype)))
        assert rows.inputs.dtype == kind
        np.testing.assert_array_equal(rows.inputs, scans)
    with pytest.raises(DataRefused, match=r"scan: rows of shape \(4,\); \(2, 2\) allowed"):
        encode_rows(schema("uint8"), columns(scan=scans.reshape(2, 4)))
    with pytest.raises(DataRefused, match="scan: this column is missing"):
        encode_rows(schema("uint8"), columns())
    for value in (np.nan, np.inf, 1e39):
        with pytest.raises(DataRefused, match="scan: must be finite"):
            encode_rows(schema("float64"), columns(scan=np.full((2, 2, 2), value)))


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        Schema((AGE,), DOSE),
        Schema((), OUTCOME, arrays=(ArrayField("scan", (2, 3), "float64"),)),
        Schema((), OUTCOME, arrays=(ArrayField("scan", (2, 3), "uint8"),)),
    ],
)
def test_the_size_of_rows_is_known_before_they_are_made(schema: Schema) -> None:
    dtype = schema.arrays[0].dtype if schema.arrays else "uint8"
    rows = encode_rows(schema, columns(scan=np.zeros((2, 2, 3), dtype)))
    assert rows_bytes(schema, 2) == rows.inputs.nbytes + rows.labels.nbytes


def test_a_strangers_classes_are_allocated_once() -> None:
    classes = tuple(f"class {number}" for number in range(1_000))
    schema = Schema(tuple(Column(name, "category", classes=classes) for name in "abc"), OUTCOME)
    blood = np.array(["class 7"] * 1_000, dtype=object)
    given = dict.fromkeys("abc", blood) | {"outcome": np.array(["ill"] * 1_000, dtype=object)}
    tracemalloc.start()
    try:
        encode_rows(schema, given)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * rows_bytes(schema, 1_000)


def test_a_test_set_comes_back_as_it_was() -> None:
    rows = encode_rows(SCHEMA, columns())
    again = rows_from_bytes(rows_to_bytes(rows), n_rows=2)
    np.testing.assert_array_equal(again.inputs, rows.inputs)
    np.testing.assert_array_equal(again.labels, rows.labels)
    assert rows_to_bytes(again) == rows_to_bytes(rows)
    picked = rows.take(np.array([1], dtype=np.int64))
    np.testing.assert_array_equal(picked.labels, [0])


X, Y = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a test set"),
        (b"\x80\x04.", "not a test set"),
        (b"\xff" * 8 + b"{}", "not a test set"),
        (save({"inputs": X}), "must hold inputs and labels"),
        (save({"inputs": X, "labels": Y, "more": Y}), "must hold inputs and labels"),
        (save({"inputs": X.astype(np.float64), "labels": Y}), "must be float32 or int64"),
        (save({"inputs": X, "labels": Y.astype(np.int8)}), "must be float32 or int64"),
        (save({"inputs": X, "labels": Y[:1]}), "must have the 2 rows"),
        (save({"inputs": X[:1], "labels": Y}), "must have the 2 rows"),
        (save({"inputs": np.array(1, np.float32), "labels": Y}), "must have the 2 rows"),
        (save({"inputs": X + np.float32(np.nan), "labels": Y}), "inputs: must be finite"),
        (save({"inputs": X, "labels": np.array([1, np.inf], np.float32)}), "labels: must be finite"),
    ],
)
def test_a_malformed_test_set_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataRefused, match=message):
        rows_from_bytes(data, n_rows=2)


def test_every_truncation_of_a_test_set_is_refused() -> None:
    data = rows_to_bytes(Rows(X, Y))
    assert len(rows_from_bytes(data, n_rows=2)) == 2
    for length in range(len(data)):
        with pytest.raises(DataRefused):
            rows_from_bytes(data[:length], n_rows=2)
