"""Rows for simulated data owners: from a file, a folder or a built-in data set, dealt out to a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxylearning.engines.cohort import Cohort
from galaxylearning.errors import DataRefused
from galaxylearning.messages.terms import ArrayField, Column, Schema
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.simulation.hospitals import load_packaged
from galaxylearning.simulation.partition import Partitioner
from galaxylearning.storage.datasets import ReadOptions, load_table
from galaxylearning.storage.tables import TableLimits, in_file, refuse_missing

Columns = Mapping[str, NDArray[Any]]


def load_rows(
    path: Path,
    schema: Schema,
    *,
    split: str = "train",
    also: Sequence[str] | None = None,
    limits: TableLimits | None = None,
) -> tuple[Rows, Columns]:
    """The rows of a data file or folder as a model takes them, and its columns as they are.

    Args:
        path: CSV, Parquet, npz, or the folder of a Hugging Face data set.
        split: which split of such a folder.
        also: columns to keep beside the schema's, such as the id that owners are told apart by; all that can
            be used where None.

    The array of a schema that has one is brought to its shape and type where that is a matter of axes: a
    picture without or with its channels last to channels first, a picture to one long row.

    Raises:
        DataRefused: the file cannot be read, or does not have what ``schema`` asks for.
        StorageError: the disk failed.
    """
    needed = [column.name for column in (*schema.features, schema.label)]
    needed += [field.name for field in schema.arrays]
    options = ReadOptions(
        kinds={column.name: column.kind for column in (*schema.features, schema.label)},
        only=None if also is None else tuple(dict.fromkeys((*needed, *also))),
        # Cells of other columns may be empty; those of the schema are checked below.
        allow_missing=True,
        limits=limits or TableLimits(),
    )
    if path.is_dir():
        from galaxylearning.storage.huggingface_table import read_huggingface

        required = (*needed, *(also or ()))
        table = read_huggingface(path, options, split=split, required=required)
    else:
        table = load_table(path, options)
    for name in needed:
        if name in table.columns:
            _refuse_missing(table.columns[name], name, path.name)
    columns = dict(table.columns)
    for field in schema.arrays:
        if field.name in columns:
            columns[field.name] = _as_field(columns[field.name], field)
    with in_file(path.name):
        return encode_rows(schema, columns), columns


def built_in(name: str, schema: Schema | None = None) -> tuple[Rows, Columns]:
    """Rows and columns of ``digits`` (1,797 of 64 pixels) or ``breast-cancer`` (569 of 30 measurements).

    Without a schema that of :func:`built_in_schema` is used.

    Raises:
        ConfigRefused: an unknown name.
        DataRefused: a schema that the data do not fit.
    """
    values, targets, names, label, classes = load_packaged(name)
    columns: dict[str, NDArray[Any]] = {column: values[:, i] for i, column in enumerate(names)}
    columns[label] = np.array(classes, dtype=object)[targets]
    return encode_rows(schema or built_in_schema(name), columns), columns


def built_in_schema(name: str) -> Schema:
    """The schema of a built-in data set: pixels from 0 to 1, measurements with mean 0 and deviation 1.

    Raises:
        ConfigRefused: an unknown name.
    """
    values, _, names, label, classes = load_packaged(name)
    mean, std = values.mean(axis=0), values.std(axis=0)
    if name == "digits":
        # A pixel that never changes has no deviation, and all have one scale.
        mean, std = np.zeros(len(names)), np.full(len(names), 16.0)
    features = tuple(
        Column(name=column, kind="number", mean=float(mean[i]), std=float(std[i]))
        for i, column in enumerate(names)
    )
    return Schema(features=features, label=Column(name=label, kind="category", classes=classes))


def owners_from(rows: Rows, columns: Columns, partitioner: Partitioner) -> Cohort:
    """The cohort whose data owner ``i`` has the rows of partition ``i``; the pool holds every row once.

    Raises:
        ConfigRefused: an argument of the partitioner that these data do not allow.
        DataRefused: a column that the partitioner needs is missing or cannot be used.
    """
    parts = partitioner.split(columns, len(rows))
    sizes = np.fromiter((len(part) for part in parts), dtype=np.int64, count=len(parts))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    return Cohort(rows, np.concatenate(parts), offsets)


def _refuse_missing(values: NDArray[Any], name: str, file: str) -> None:
    missing = (
        values == "" if values.dtype == object else np.isnan(values) if values.dtype.kind == "f" else None
    )
    if missing is not None and bool(missing.any()):
        row = int(np.argwhere(missing)[0][0]) + 1
        refuse_missing(file, name, row)


def _as_field(values: NDArray[Any], field: ArrayField) -> NDArray[Any]:
    """``values`` in the field's shape and type, where only axes and exact conversions stand between."""
    shape = values.shape[1:]
    wanted = tuple(field.shape)
    if shape != wanted:
        if len(shape) == 3 and (shape[2], *shape[:2]) == wanted:
            values = np.moveaxis(values, 3, 1)
        elif (1, *shape) == wanted or (len(wanted) == 1 and int(np.prod(shape)) == wanted[0]):
            values = values.reshape(len(values), *wanted)
        else:
            raise DataRefused(f"rows of shape {shape}; {wanted} allowed", where=field.name)
    kind = np.dtype(field.dtype).kind
    if values.dtype.kind == "f" and kind != "f":
        raise DataRefused(f"holds {values.dtype}; {field.dtype} allowed", where=field.name)
    return values.astype(np.float32 if kind == "f" else np.int64, copy=False)
