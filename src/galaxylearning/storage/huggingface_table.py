"""Hugging Face data sets on disk to a ``Table``: saved folders and folders of Parquet, read by pyarrow alone.

Two layouts are known. ``Dataset.save_to_disk`` writes ``state.json``, ``dataset_info.json`` and Arrow
streams; a ``DatasetDict`` is ``dataset_dict.json`` and one such folder for each split. A copy of a data set
of the hub is a folder of Parquet files that name their split. Nothing is fetched and nothing is executed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galaxylearning.errors import DataRefused
from galaxylearning.storage import files
from galaxylearning.storage.huggingface_arrow import read_stream
from galaxylearning.storage.huggingface_columns import (
    Form,
    array_column,
    class_column,
    class_names,
    form_of,
    picture_column,
    plain_column,
    read_features,
)
from galaxylearning.storage.huggingface_folder import check_sizes, find_files, saved_features
from galaxylearning.storage.parquet_pages import claimed_size, column_chunks
from galaxylearning.storage.parquet_table import read_parquet
from galaxylearning.storage.tables import (
    ReadOptions,
    Table,
    check_names,
    check_size,
    refuse,
    wanted_columns,
)


def read_huggingface(
    folder: Path, options: ReadOptions, *, split: str = "train", required: Sequence[str] | None = None
) -> Table:
    """The rows of one split of the data set in ``folder``.

    Class labels become their names, nested lists of fixed shape become arrays, and pictures too (uint8, where
    Pillow is installed). Where ``required`` names columns, others that cannot be used are left out instead of
    refused.

    Raises:
        DataRefused: neither layout, no such split, several configurations, files that are corrupt, cut short
            or over a limit, columns that cannot be used.
        StorageError: the disk failed.
    """
    found = find_files(folder, split)
    check_sizes(found, options.limits)
    first: _Shard | None = None
    parts: dict[str, list[NDArray[Any]]] = {}
    n_rows = n_bytes = 0
    for path in found:
        shard = _open(path, options)
        if first is None:
            first = shard
            wanted = wanted_columns(list(shard.forms), shard.file, options)
            parts = {name: [] for name in wanted}
        elif shard.forms != first.forms:
            refuse(shard.file, f"has other columns than {first.file}")
        n_rows += shard.n_rows
        check_size(max(n_rows, 1), n_rows * len(parts), shard.file, options.limits)
        for name, values in _columns(shard, list(parts), required):
            if values is None:
                del parts[name]
                continue
            parts[name].append(values)
            n_bytes += values.nbytes
            if n_bytes > options.limits.max_unpacked_bytes:
                refuse(shard.file, f"unpacks to more than {options.limits.max_unpacked_bytes} bytes")
    check_size(n_rows, 0, folder.name, options.limits)
    return Table({name: _joined(values, name, folder.name) for name, values in parts.items()}, n_rows)


@dataclass(frozen=True, slots=True)
class _Shard:
    """One file: its name in messages, its columns and how each is read."""

    file: str
    n_rows: int
    forms: Mapping[str, tuple[Form, str]]
    read: Callable[[str], NDArray[Any]]


def _columns(
    shard: _Shard, names: list[str], required: Sequence[str] | None
) -> Iterator[tuple[str, NDArray[Any] | None]]:
    """Columns of a shard one by one; None for one that is not required and cannot be used."""
    if shard.n_rows == 0:
        return
    for name in names:
        is_optional = required is not None and name not in required
        try:
            values = shard.read(name)
        except DataRefused:
            if not is_optional:
                raise
            yield name, None
            continue
        if len(values) != shard.n_rows:
            refuse(shard.file, "does not have as many rows as the file states", column=name)
        yield name, values


def _joined(parts: list[NDArray[Any]], name: str, folder: str) -> NDArray[Any]:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        refuse(folder, f"has rows of different shapes: {sorted(shapes)[:4]}", column=name)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _open(path: Path, options: ReadOptions) -> _Shard:
    # Links are followed: files of a copy from the hub are links to where their content is kept.
    try:
        data = files.read_whole(Path(os.path.realpath(path)), max_bytes=options.limits.max_file_bytes)
    except FileNotFoundError as error:
        raise DataRefused("the file is missing", where=str(path)) from error
    if data is None:
        refuse(path.name, f"must be a regular file of at most {options.limits.max_file_bytes} bytes")
    try:
        return (_parquet if path.suffix == ".parquet" else _arrow)(data, path, options)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        refuse(path.name, f"is not readable: {str(error)[:200]}")


def _arrow(data: bytes, path: Path, options: ReadOptions) -> _Shard:
    file = path.name
    table = read_stream(data, file, options.limits)
    features = read_features(table.schema.metadata, file) or saved_features(path.parent)
    forms = _forms(table.schema, features, file, options)

    def read(name: str) -> NDArray[Any]:
        column, form = table.column(name), forms[name][0]
        with _arrow_errors(file, name):
            if form == "class":
                column.validate(full=True)
                numbers = column.cast(pa.int64()).fill_null(-1).to_numpy()
                return class_column(
                    numbers, class_names(features[name], name, file, options), name, file, options
                )
            return _READERS[form](column, name, file, options)

    return _Shard(file, table.num_rows, forms, read)


def _parquet(data: bytes, path: Path, options: ReadOptions) -> _Shard:
    file = path.name
    source = pq.ParquetFile(pa.BufferReader(data))
    schema, metadata = source.schema_arrow, source.metadata
    features = read_features(schema.metadata, file)
    forms = _forms(schema, features, file, options)

    def read(name: str) -> NDArray[Any]:
        form = forms[name][0]
        alone = replace(options, only=(name,), kinds={k: v for k, v in options.kinds.items() if k == name})
        if form == "class":
            raw = read_parquet(data, file, replace(alone, kinds={}, allow_missing=True)).columns[name]
            numbers = np.where(np.isnan(raw), -1, raw).astype(np.int64)
            return class_column(
                numbers, class_names(features[name], name, file, options), name, file, options
            )
        if form == "plain":
            return read_parquet(data, file, alone).columns[name]
        leaf = f"{name}.bytes" if form == "picture" else name
        with _arrow_errors(file, name):
            _check_claims(data, name, file, options)
            # Bytes stay dictionary-encoded: a few of them may stand in every row.
            opened = pq.ParquetFile(
                pa.BufferReader(data), read_dictionary=[leaf] if form == "picture" else None
            )
            column = opened.read(columns=[leaf], use_threads=False).column(name)
            return _READERS[form](column, name, file, options)

    return _Shard(file, metadata.num_rows, forms, read)


def _unusable(column: Any, name: str, file: str, options: ReadOptions) -> NDArray[Any]:  # noqa: ARG001
    refuse(
        file,
        f"has type {column.type}; only numbers, booleans, texts, class labels, nested lists of numbers and "
        "pictures can be used",
        column=name,
    )


_READERS: Final[Mapping[Form, Callable[[Any, str, str, ReadOptions], NDArray[Any]]]] = {
    "plain": plain_column,
    "array": array_column,
    "picture": picture_column,
    "unusable": _unusable,
}


def _forms(
    schema: Any, features: Mapping[str, Any], file: str, options: ReadOptions
) -> Mapping[str, tuple[Form, str]]:
    """How each column is read, and its type as text: what all files of a split must agree on."""
    names = list(schema.names)
    check_names(names, file, options.limits)
    return {
        field.name: (form_of(field.name, field.type, features.get(field.name), options), str(field.type))
        for field in schema
    }


def _check_claims(data: bytes, name: str, file: str, options: ReadOptions) -> None:
    """Refuse a nested column whose pages unpack to more than is allowed, before any is unpacked."""
    total = 0
    for chunk in column_chunks(data):
        if f"{chunk.path}.".startswith(f"{name}."):
            total += claimed_size(data, chunk, item_bytes=8)
    limit = options.limits.max_unpacked_bytes
    if total > limit:
        refuse(file, f"unpacks to {total} bytes; at most {limit} are allowed", column=name)


@contextmanager
def _arrow_errors(file: str, name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        refuse(file, f"is not readable: {str(error)[:200]}", column=name)
