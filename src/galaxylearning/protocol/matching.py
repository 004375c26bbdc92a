"""Does a data set fit a job's schema? A report, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from galaxylearning.messages.terms import ArrayField, Column, Schema
from galaxylearning.units import how_many

NOTHING: Final = "nothing"
"""What was found of a column that is not there."""

Kind = Literal["number", "category", "integer"]


@dataclass(frozen=True, slots=True)
class DatasetColumn:
    """What a data set says of one of its columns. ``classes`` are the values of a category, as text."""

    name: str
    kind: Kind
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    classes: tuple[str, ...] | None = None
    missing: int = 0


@dataclass(frozen=True, slots=True)
class DatasetArray:
    """What a data set says of an array: shape of a row and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class MatchRow:
    """One column of the schema: what is wanted, what was found, and what is wrong (None where nothing is).

    ``note`` says what was taken for granted, such as an unstated unit.
    """

    column: str
    wanted: str
    found: str
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class MatchReport:
    """One row for every column or array of the schema, in its order, the label last."""

    rows: tuple[MatchRow, ...]

    @property
    def is_match(self) -> bool:
        """Whether the data set can be used."""
        return all(row.problem is None for row in self.rows)

    @property
    def problems(self) -> tuple[MatchRow, ...]:
        """The rows that stand in the way."""
        return tuple(row for row in self.rows if row.problem is not None)


def match_schema(
    schema: Schema,
    columns: Sequence[DatasetColumn],
    *,
    arrays: Sequence[DatasetArray] = (),
) -> MatchReport:
    """Compare a data set with what a job wants. Columns that the schema does not name stay unused.

    Args:
        schema: of the job.
        columns: of the data set, the label's among them.
        arrays: of the data set.
    """
    by_name = {column.name: column for column in columns}
    arrays_by_name = {array.name: array for array in arrays}
    rows = [_match_column(wanted, by_name.get(wanted.name)) for wanted in schema.features]
    rows += [_match_array(wanted, arrays_by_name.get(wanted.name)) for wanted in schema.arrays]
    rows.append(_match_column(schema.label, by_name.get(schema.label.name)))
    known = {_folded(name): name for name in (*by_name, *arrays_by_name)}
    return MatchReport(tuple(_with_alike(row, known) for row in rows))


def _with_alike(row: MatchRow, known: Mapping[str, str]) -> MatchRow:
    """A missing column, with what to rename where a name differs from it in case or outer spaces only."""
    name = known.get(_folded(row.column))
    if row.found != NOTHING or name in (None, row.column):
        return row
    return replace(row, problem=f"{row.problem}; rename {name[:80]!r} to {row.column[:80]!r}")


def _folded(name: str) -> str:
    return name.strip().casefold()


def _match_column(wanted: Column, found: DatasetColumn | None) -> MatchRow:
    text = _describe(wanted.kind, wanted.unit, wanted.minimum, wanted.maximum, wanted.classes)
    if found is None:
        return MatchRow(wanted.name, text, NOTHING, "the column is missing")
    row = MatchRow(
        wanted.name,
        text,
        _describe(found.kind, found.unit, found.minimum, found.maximum, found.classes),
        _kind_problem(wanted, found)
        or _unit_problem(wanted, found)
        or _missing_problem(found)
        or _class_problem(wanted, found)
        or _range_problem(wanted, found),
    )
    if row.problem is None and wanted.unit is not None and found.unit is None:
        return MatchRow(
            row.column, row.wanted, row.found, None, f"no unit is stated; taken to be {wanted.unit}"
        )
    return row


def _describe(
    kind: str,
    unit: str | None,
    minimum: float | None,
    maximum: float | None,
    classes: Sequence[str] | None,
) -> str:
    parts = [kind if unit is None else f"{kind} in {unit}"]
    if minimum is not None or maximum is not None:
        low = "" if minimum is None else f"{minimum:g}"
        high = "" if maximum is None else f"{maximum:g}"
        parts.append(f"{low}..{high}")
    if classes is not None:
        parts.append(some(classes))
    return ", ".join(parts)


def some(values: Sequence[str], most: int = 8) -> str:
    """The first few values, for people."""
    shown = ", ".join(value[:40] for value in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"


def _kind_problem(wanted: Column, found: DatasetColumn) -> str | None:
    is_number = wanted.kind == "number" and found.kind == "integer"
    is_listed = wanted.kind == "category" and found.classes is not None
    if wanted.kind == found.kind or is_number or is_listed:
        return None
    return f"kind differs: {wanted.kind} is wanted, {found.kind} was found"


def _unit_problem(wanted: Column, found: DatasetColumn) -> str | None:
    if wanted.unit is None or found.unit is None or wanted.unit == found.unit:
        return None
    return f"unit differs: {wanted.unit} is wanted, {found.unit} was found"


def _missing_problem(found: DatasetColumn) -> str | None:
    return f"{how_many(found.missing, 'value')} missing" if found.missing else None


def _class_problem(wanted: Column, found: DatasetColumn) -> str | None:
    if wanted.classes is None:
        return None
    if found.classes is None:
        return "the classes of the column are not known"
    unknown = [value for value in found.classes if value not in wanted.classes]
    if not unknown:
        return None
    return f"classes that the job does not know: {some(unknown)}; map them to one of {some(wanted.classes)}"


def _range_problem(wanted: Column, found: DatasetColumn) -> str | None:
    if wanted.minimum is not None and found.minimum is not None and found.minimum < wanted.minimum:
        return f"out of range: {found.minimum:g} is below {wanted.minimum:g}"
    if wanted.maximum is not None and found.maximum is not None and found.maximum > wanted.maximum:
        return f"out of range: {found.maximum:g} is above {wanted.maximum:g}"
    return None


def _match_array(wanted: ArrayField, found: DatasetArray | None) -> MatchRow:
    text = f"{wanted.dtype} {list(wanted.shape)} a row"
    if found is None:
        return MatchRow(wanted.name, text, NOTHING, "the array is missing")
    problem = None
    if found.shape != wanted.shape:
        problem = f"shape differs: {list(wanted.shape)} is wanted, {list(found.shape)[:16]} was found"
    elif found.dtype != wanted.dtype:
        problem = f"element type differs: {wanted.dtype} is wanted, {found.dtype} was found"
    return MatchRow(wanted.name, text, f"{found.dtype} {list(found.shape)[:16]} a row", problem)
