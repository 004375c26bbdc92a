"""Parquet to a ``Table``: plain numbers, booleans and texts; nothing nested, nothing that is code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galaxylearning.storage.tables import (
    ReadOptions,
    Table,
    check_finite,
    check_names,
    check_size,
    refuse,
    refuse_missing,
    wanted_columns,
)


def read_parquet(data: bytes, file: str, options: ReadOptions) -> Table:
    """The table in ``data``, the bytes of a Parquet file; ``file`` is its name in messages.

    Sizes are checked in the file's footer before any page is unpacked; texts stay dictionary-encoded until
    they are known to be few enough.

    Raises:
        DataRefused: not Parquet, a column of another type, cells that are null or not finite, no rows, or
            over a limit.
    Source: Apache Parquet format 2.
    """
    try:
        return _read(data, file, options)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        refuse(file, f"is not a readable Parquet file: {str(error)[:200]}")


def _read(data: bytes, file: str, options: ReadOptions) -> Table:
    limits = options.limits
    schema = pq.read_schema(pa.BufferReader(data))
    names = list(schema.names)
    check_names(names, file, limits)
    wanted = wanted_columns(names, file, options)
    texts = []
    for field in schema:
        if field.name not in wanted:
            continue
        if is_text(field.type):
            texts.append(field.name)
        elif not is_number(field.type):
            refuse(
                file,
                f"has type {field.type}; only integers, floats, booleans and texts can be used",
                column=field.name,
            )
    source = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    metadata = source.metadata
    check_size(metadata.num_rows, metadata.num_rows * len(names), file, limits)
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if not 0 <= unpacked <= limits.max_unpacked_bytes:
        refuse(file, f"unpacks to {unpacked} bytes; at most {limits.max_unpacked_bytes} are allowed")
    columns: dict[str, NDArray[Any]] = {}
    for name in wanted:
        column = source.read(columns=[name], use_threads=False).column(0)
        if len(column) != metadata.num_rows:
            refuse(file, "does not have as many rows as the file states", column=name)
        column.validate(full=True)
        columns[name] = column_values(column, name, file, options)
    return Table(columns, metadata.num_rows)


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds texts, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: Any) -> bool:
    """Whether an Arrow type holds integers, floats or booleans."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def column_values(column: Any, name: str, file: str, options: ReadOptions) -> NDArray[Any]:
    """The cells of an Arrow column of numbers, booleans or dictionary-encoded texts, as a ``Table`` has them.

    Raises:
        DataRefused: cells that are null, not finite or of another kind than the one stated.
    """
    kind = options.kinds.get(name)
    allow_missing = options.allow_missing
    if column.null_count and not allow_missing:
        row = pc.index(pc.is_null(column), True).as_py()
        refuse_missing(file, name, row + 1)
    if pa.types.is_dictionary(column.type):
        if kind in ("number", "integer"):
            refuse(file, f"holds texts, not the stated kind {kind!r}", column=name)
        return _texts(column, name, file, options)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_integer(column.type) and not column.null_count and kind != "number":
        values = column.cast(pa.int64()).to_numpy()
    else:
        values = column.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy()
        check_finite(values, file, name, allow_nan=allow_missing)
    values = np.array(values)
    if kind == "category":
        return _as_texts(values, name, file)
    if kind == "integer" and values.dtype != np.int64:
        refuse(file, "holds real numbers, not the stated kind 'integer'", column=name)
    return values


def _texts(column: Any, name: str, file: str, options: ReadOptions) -> NDArray[Any]:
    max_chars = options.limits.max_cell_chars
    parts = []
    row = 0
    for chunk in column.chunks:
        words = np.array(["" if word is None else word for word in chunk.dictionary.to_pylist()] + [""])
        words = words.astype(object)
        for word in words:
            if len(word) > max_chars:
                refuse(file, f"a cell has more than {max_chars} characters", column=name)
        indices = chunk.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
        part = words[indices]
        empty = part == ""
        if not options.allow_missing and empty.any():
            refuse_missing(file, name, row + int(np.argmax(empty)) + 1)
        parts.append(part)
        row += len(part)
    return np.concatenate(parts)


def _as_texts(values: NDArray[Any], name: str, file: str) -> NDArray[Any]:
    if values.dtype != np.int64:
        refuse(file, "holds real numbers, which cannot be categories", column=name)
    return values.astype(str).astype(object)
