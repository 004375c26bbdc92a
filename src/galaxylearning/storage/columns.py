"""What a data set says of itself: kinds, ranges, moments and classes of its columns; the label's mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import DataRefused
from galaxylearning.storage.tables import Kind, Table, listed

MAX_CLASSES: Final = 1_000
MAX_LABEL_INTEGERS: Final = 100
MAX_UNIT_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column, or one array, of a data set.

    ``minimum``, ``maximum``, ``mean`` and ``std`` (of the population) are in ``unit`` and leave missing cells
    out; they are None for categories and arrays. ``classes`` are a category's values, sorted. ``shape`` (of
    one row) and ``dtype`` belong to arrays.
    """

    name: str
    kind: Kind | Literal["array"]
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    classes: tuple[str, ...] | None = None
    missing: int = 0
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    is_label: bool = False


def infer_schema(table: Table, label: str, *, units: Mapping[str, str] | None = None) -> list[ColumnInfo]:
    """Describe every column of ``table``, the label's among them, in the table's order.

    A label of at most 100 different integers is a category. ``units`` names the unit of number columns.

    Raises:
        DataRefused: no such label, a unit for a column that has none, a category of more than 1,000 values.
    """
    units = units or {}
    _check_label(table, label)
    for name, unit in units.items():
        if name not in table.columns:
            raise DataRefused(
                f"no such column; there are {listed(list(table.columns))}", where=f"units {name!r}"
            )
        if not 0 < len(unit) <= MAX_UNIT_CHARS or not unit.isprintable():
            raise DataRefused(f"must be 1 to {MAX_UNIT_CHARS} printable characters", where=f"units {name!r}")
        if table.columns[name].dtype == object:
            raise DataRefused("is a category, which has no unit", where=f"units {name!r}")
    return [
        _describe(name, values, units.get(name), is_label=name == label)
        for name, values in table.columns.items()
    ]


def map_label(table: Table, label: str, mapping: Mapping[str, str], file: str) -> Table:
    """``table`` with its label as texts, where it is a category, and renamed by ``mapping`` if that is given.

    Raises:
        DataRefused: no such label, a value that ``mapping`` does not name (with its row), a mapping that
            names a value that never occurs, or one for a label of real numbers.
    """
    _check_label(table, label)
    values = table.columns[label]
    if _is_class_label(values):
        values = values.astype(str).astype(object)
    if mapping:
        values = _renamed(values, label, mapping, file)
    return Table({**table.columns, label: values}, table.n_rows)


def _renamed(values: NDArray[Any], label: str, mapping: Mapping[str, str], file: str) -> NDArray[Any]:
    where = f"{file}, column {label!r}"
    if values.dtype != object:
        raise DataRefused("only a category can be mapped, and this label is a number", where=where)
    for row, value in enumerate(values, start=1):
        if value and value not in mapping:
            raise DataRefused(
                f"{value[:40]!r} is not among the mapped values {listed(list(mapping))}",
                where=f"{file}, row {row}, column {label!r}",
            )
    unused = set(mapping) - set(values)
    if unused:
        raise DataRefused(f"the mapping names {sorted(unused)[0][:40]!r}, which never occurs", where=where)
    renamed = np.empty(len(values), dtype=object)
    renamed[:] = [mapping[value] if value else value for value in values]
    return renamed


def _check_label(table: Table, label: str) -> None:
    if label not in table.columns:
        raise DataRefused(
            f"no column has this name; there are {listed(list(table.columns))}", where=f"label {label!r}"
        )
    if table.columns[label].ndim != 1:
        raise DataRefused("must hold one value a row", where=f"label {label!r}")


def _is_class_label(values: NDArray[Any]) -> bool:
    return values.dtype == np.int64 and len(np.unique(values)) <= MAX_LABEL_INTEGERS


def _describe(name: str, values: NDArray[Any], unit: str | None, *, is_label: bool) -> ColumnInfo:
    if values.ndim > 1:
        missing = int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
        return ColumnInfo(
            name, "array", unit, missing=missing, shape=values.shape[1:], dtype=values.dtype.name
        )
    if values.dtype == object or (is_label and _is_class_label(values)):
        classes = _classes(name, values)
        missing = int((values == "").sum()) if values.dtype == object else 0
        return ColumnInfo(name, "category", unit, classes=classes, missing=missing, is_label=is_label)
    present = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return ColumnInfo(
        name,
        "integer" if values.dtype == np.int64 else "number",
        unit,
        minimum=float(present.min()) if len(present) else None,
        maximum=float(present.max()) if len(present) else None,
        mean=float(present.mean()) if len(present) else None,
        std=float(present.std()) if len(present) else None,
        missing=len(values) - len(present),
        is_label=is_label,
    )


def _classes(name: str, values: NDArray[Any]) -> tuple[str, ...]:
    if values.dtype == object:
        found = sorted(set(values) - {""})
    else:
        found = [str(value) for value in np.unique(values)]
    if len(found) > MAX_CLASSES:
        raise DataRefused(
            f"has {len(found)} different values; a category may have {MAX_CLASSES}. If it is a name or a "
            "number of a person, leave it out",
            where=f"column {name!r}",
        )
    return tuple(found)
