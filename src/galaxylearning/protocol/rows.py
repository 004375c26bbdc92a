"""Rows of a data set as a model takes them, and as the hidden test set travels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from galaxylearning.errors import DataRefused
from galaxylearning.messages.terms import Column, Schema
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.matching import some

_INPUT_TYPES = ("float32", "int64")
_LABEL_TYPES = ("float32", "int64")


def encode_rows(schema: Schema, columns: Mapping[str, NDArray[Any]]) -> Rows:
    """The model's inputs and labels from a data set that matches ``schema``.

    Numbers become ``(value - mean) / std``, a category becomes one column per class (1 for its own, else 0),
    and a category as label its position among the classes. An array field is taken as it is.

    Raises:
        DataRefused: a column is missing, a number is not finite as float32, or a category value is not among
            the classes.
    """
    return Rows(encode_inputs(schema, columns), _label(schema.label, _column(columns, schema.label.name)))


def encode_inputs(schema: Schema, columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The model's inputs alone, as ``encode_rows`` gives them: for rows whose label nobody knows.

    Raises:
        DataRefused: as ``encode_rows``.
    """
    if schema.arrays:
        field = schema.arrays[0]
        values = _column(columns, field.name)
        if values.shape[1:] != field.shape:
            raise DataRefused(f"rows of shape {values.shape[1:]}; {field.shape} allowed", where=field.name)
        inputs: NDArray[Any] = (
            _single(values, field.name) if values.dtype.kind == "f" else values.astype(np.int64)
        )
    else:
        inputs = _features(schema, columns)
    return np.ascontiguousarray(inputs)


def input_width(schema: Schema) -> int:
    """How many numbers a row of tabular features has: one per number, one per class of a category."""
    return sum(len(column.classes or ()) if column.kind == "category" else 1 for column in schema.features)


def rows_bytes(schema: Schema, n_rows: int) -> int:
    """Size in bytes of so many rows as ``encode_rows`` makes them, which takes about as much memory."""
    width = 4 * input_width(schema)
    for field in schema.arrays:
        width += math.prod(field.shape) * (4 if field.dtype.startswith("float") else 8)
    return n_rows * (width + (8 if schema.label.kind == "category" else 4))


def rows_to_bytes(rows: Rows) -> bytes:
    """Safetensors of ``inputs`` and ``labels``."""
    parts = {"inputs": np.ascontiguousarray(rows.inputs), "labels": np.ascontiguousarray(rows.labels)}
    return bytes(save(parts))


def rows_from_bytes(data: bytes, *, n_rows: int) -> Rows:
    """Read ``rows_to_bytes`` back.

    Raises:
        DataRefused: another format, other fields or types, not ``n_rows`` rows, or not finite.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataRefused(f"not a test set: {str(error)[:200]}", where="test set") from error
    if set(tensors) != {"inputs", "labels"}:
        raise DataRefused("must hold inputs and labels", where="test set")
    inputs, labels = tensors["inputs"], tensors["labels"]
    if inputs.dtype.name not in _INPUT_TYPES or labels.dtype.name not in _LABEL_TYPES:
        raise DataRefused("must be float32 or int64", where="test set")
    if inputs.ndim < 1 or labels.ndim < 1 or len(inputs) != n_rows or len(labels) != n_rows:
        raise DataRefused(f"must have the {n_rows} rows of the terms", where="test set")
    for name, values in (("inputs", inputs), ("labels", labels)):
        if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
            raise DataRefused("must be finite", where=f"test set {name}")
    return Rows(inputs, labels)


def _column(columns: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in columns:
        raise DataRefused("this column is missing", where=name)
    return columns[name]


def _features(schema: Schema, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """All columns side by side, allocated once: a stranger's classes decide how wide they are."""
    rows = len(_column(columns, schema.features[0].name))
    inputs, place = np.zeros((rows, input_width(schema)), np.float32), 0
    for column in schema.features:
        values = _column(columns, column.name)
        if column.kind == "category":
            inputs[np.arange(rows), place + _positions(column, values)] = 1
            place += len(column.classes or ())
        else:
            inputs[:, place] = _scaled(column, values)
            place += 1
    return inputs


def _label(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    return _positions(column, values) if column.kind == "category" else _scaled(column, values)[:, None]


def _scaled(column: Column, values: NDArray[Any]) -> NDArray[np.float32]:
    try:
        wide = values.astype(np.float64)
    except ValueError as error:
        raise DataRefused("must hold numbers", where=column.name) from error
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (wide - column.mean) / column.std
    return _single(scaled, column.name)


def _single(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """As float32; what is not finite there is refused."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not bool(np.isfinite(single).all()):
        raise DataRefused("must be finite numbers", where=name)
    return single


def _positions(column: Column, values: NDArray[Any]) -> NDArray[np.int64]:
    number = {name: position for position, name in enumerate(column.classes or ())}
    found = np.array([number.get(str(value), -1) for value in values], dtype=np.int64)
    if bool((found < 0).any()):
        row = int(np.argmax(found < 0))
        raise DataRefused(
            f"{str(values[row])[:60]!r} in row {row + 1}; allowed: {some(list(number))}",
            where=column.name,
        )
    return found
