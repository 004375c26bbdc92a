"""The schema of a data file, and how a trained model is used: what goes into it and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import DataRefused
from galaxylearning.messages.terms import MAX_TERMS_BYTES, ArrayField, Column, Schema, decode_schema
from galaxylearning.protocol.rows import encode_inputs
from galaxylearning.storage import files
from galaxylearning.storage.columns import ColumnInfo, infer_schema
from galaxylearning.storage.datasets import load_table
from galaxylearning.storage.tables import ReadOptions, in_file, listed

FEW_TEXTS: Final = 20
"""So many different texts are a category however few rows there are."""


def schema_of(
    path: str | Path,
    label: str,
    *,
    units: Mapping[str, str] | None = None,
    only: str | Sequence[str] | None = None,
) -> Schema:
    """The schema of a data file: its columns, their scale (mean and spread) and classes; ``label`` is learnt.

    Of an array the shape of a row and the element type; its values reach the model as they are.
    ``only`` names the columns to use beside the label, one or several; all of them where it is left out.
    A schema is public: a column of texts, the label apart, in which there are more than half as many texts as
    rows is taken for names or free text, and refused.

    Raises:
        DataRefused: the file cannot be used, has no such column, one of names or free text, or an array
            beside something else.
    """
    named = (only,) if isinstance(only, str) else only
    wanted = None if named is None else (*named, label)
    table = load_table(Path(path), ReadOptions(only=wanted))
    features: list[Column] = []
    arrays: list[ArrayField] = []
    target = None
    for info in infer_schema(table, label, units=units):
        if info.kind == "array":
            arrays.append(ArrayField(info.name, info.shape or (), cast("Any", info.dtype)))
            continue
        column = Column(
            name=info.name,
            kind=info.kind,
            unit=info.unit,
            mean=info.mean or 0.0,
            std=info.std if info.std else 1.0,
            classes=info.classes,
        )
        if info.is_label:
            target = column
        else:
            _refuse_texts(info, table.n_rows, Path(path).name)
            features.append(column)
    if target is None:
        raise DataRefused("there is no such column", where=label)
    names = [column.name for column in features] + [field.name for field in arrays]
    if arrays and len(names) > 1:
        raise DataRefused(
            f"there are {listed(names)} beside the label; a model takes either columns or one "
            "array: name them, only=(...)",
            where=Path(path).name,
        )
    return Schema(features=tuple(features), label=target, arrays=tuple(arrays))


def inputs_of(path: str | Path, schema: Schema | str | Path) -> NDArray[Any]:
    """The rows of a data file as a model trained under ``schema`` takes them, [n, ...]; no label is needed.

    ``schema`` may be the file that ``galaxy job collect`` wrote beside the model. Numbers are scaled by it,
    categories become one input for each class: float32 [n, ``input_width(schema)``]. An array stays as it is.

    Raises:
        DataRefused: the file cannot be used, or does not have what the schema asks for.
        JobRefused: ``schema`` is a file that holds none.
    """
    schema, path = _schema(schema), Path(path)
    kinds = {column.name: column.kind for column in schema.features}
    names = (*kinds, *(field.name for field in schema.arrays))
    table = load_table(path, ReadOptions(kinds=kinds, only=names))
    with in_file(path.name):
        return encode_inputs(schema, table.columns)


def answers_of(outputs: NDArray[Any], schema: Schema | str | Path) -> NDArray[Any]:
    """What the outputs [n, ...] of a model trained under ``schema`` mean, one entry for each row [n].

    For a category the class of the largest output (of a single one: the second class where it is above 0), as
    text; for a number the value in the label's own unit, ``output * std + mean``, float64.

    Raises:
        DataRefused: outputs that are neither [n, classes] nor, with one number a row, [n] or [n, 1].
        JobRefused: ``schema`` is a file that holds none.
    """
    label = _schema(schema).label
    classes: NDArray[Any] = np.array(label.classes or (), dtype=object)
    rows = len(outputs) if outputs.ndim else 0
    if len(classes) > 1 and outputs.shape == (rows, len(classes)):
        named: NDArray[Any] = classes.take(outputs.argmax(axis=1))
        return named
    if outputs.shape not in ((rows,), (rows, 1)) or (label.kind == "category" and len(classes) != 2):
        allowed = "[n] and [n, 1]" if label.kind != "category" else f"[n, {len(classes)}]"
        if len(classes) == 2:
            allowed = "[n], [n, 1] and [n, 2]"
        raise DataRefused(f"have shape {list(outputs.shape)}; {allowed} allowed", where="outputs")
    numbers = outputs.reshape(rows).astype(np.float64)
    return (
        classes[(numbers > 0).astype(int)] if label.kind == "category" else numbers * label.std + label.mean
    )


def _schema(given: Schema | str | Path) -> Schema:
    if isinstance(given, Schema):
        return given
    try:
        data = files.read_whole(Path(given), max_bytes=MAX_TERMS_BYTES)
    except FileNotFoundError as error:
        raise DataRefused("there is no such file", where=str(given)) from error
    if data is None:
        raise DataRefused(f"must be a file of at most {MAX_TERMS_BYTES} bytes", where=str(given))
    return decode_schema(data)


def _refuse_texts(info: ColumnInfo, n_rows: int, file: str) -> None:
    """Nobody else's file has these texts, and a schema would publish them."""
    count = len(info.classes or ())
    if info.kind == "category" and count > FEW_TEXTS and 2 * count > n_rows:
        raise DataRefused(
            f"has {count} different texts in {n_rows} rows: names or free text, which the public schema "
            "would show to everybody; name the columns to use instead, only=(...)",
            where=f"{file}, column {info.name!r}",
        )
