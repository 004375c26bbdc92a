"""A data set against a schema, column by column."""

from __future__ import annotations

from typing import Any

import pytest

from galaxylearning.messages.terms import ArrayField, Column, Schema
from galaxylearning.protocol.matching import DatasetArray, DatasetColumn, match_schema

SCHEMA = Schema(
    (Column("radius", "number", unit="mm", minimum=0, maximum=50), Column("age", "integer")),
    Column("diagnosis", "category", classes=("benign", "malignant")),
)
RADIUS = DatasetColumn("radius", "number", "mm", 6.0, 28.0)
AGE = DatasetColumn("age", "integer", None, 20, 90)
LABEL = DatasetColumn("diagnosis", "category", classes=("benign", "malignant"))


def test_a_data_set_that_fits() -> None:
    report = match_schema(SCHEMA, [LABEL, AGE, RADIUS, DatasetColumn("name", "category")])
    assert report.is_match
    assert [row.column for row in report.rows] == ["radius", "age", "diagnosis"]
    assert report.problems == ()
    assert report.rows[0].wanted == "number in mm, 0..50"
    assert report.rows[0].found == "number in mm, 6..28"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "radius_mean"}, "missing"),
        ({"kind": "category", "classes": ("a",)}, "kind differs"),
        ({"unit": "cm"}, "unit differs"),
        ({"minimum": -0.5}, "-0.5 is below 0"),
        ({"maximum": 51.0}, "51 is above 50"),
        ({"missing": 3}, "3 values missing"),
    ],
)
def test_a_column_that_differs_is_named_with_what_differs(change: dict[str, Any], problem: str) -> None:
    values: dict[str, Any] = {
        "name": "radius",
        "kind": "number",
        "unit": "mm",
        "minimum": 6.0,
        "maximum": 28.0,
    }
    report = match_schema(SCHEMA, [DatasetColumn(**(values | change)), AGE, LABEL])
    assert not report.is_match
    assert [row.column for row in report.problems] == ["radius"]
    assert problem in (report.problems[0].problem or "")


def test_integers_are_numbers_but_numbers_are_not_integers() -> None:
    whole = DatasetColumn("radius", "integer", "mm", 6, 28)
    assert match_schema(SCHEMA, [whole, AGE, LABEL]).is_match
    broken = DatasetColumn("age", "number", None, 20.5, 90)
    assert [row.column for row in match_schema(SCHEMA, [RADIUS, broken, LABEL]).problems] == ["age"]


def test_an_unstated_unit_is_noted_and_does_not_stand_in_the_way() -> None:
    unstated = DatasetColumn("radius", "number", None, 6.0, 28.0)
    report = match_schema(SCHEMA, [unstated, AGE, LABEL])
    assert report.is_match
    assert "taken to be mm" in (report.rows[0].note or "")
    assert match_schema(SCHEMA, [RADIUS, AGE, LABEL]).rows[0].note is None


def test_labels_must_be_classes_of_the_job() -> None:
    raw = DatasetColumn("diagnosis", "category", classes=("B", "M"))
    report = match_schema(SCHEMA, [RADIUS, AGE, raw])
    assert "classes that the job does not know: B, M" in (report.rows[-1].problem or "")


def test_coded_classes_may_be_whole_numbers() -> None:
    schema = Schema((Column("x", "number"),), Column("y", "category", classes=("0", "1")))
    x = DatasetColumn("x", "number")
    assert match_schema(schema, [x, DatasetColumn("y", "integer", classes=("0", "1"))]).is_match
    assert not match_schema(schema, [x, DatasetColumn("y", "integer")]).is_match
    assert not match_schema(schema, [x, DatasetColumn("y", "category")]).is_match


def test_a_long_list_of_unknown_classes_is_cut_short() -> None:
    raw = DatasetColumn("diagnosis", "category", classes=tuple(f"c{n}" for n in range(1000)))
    problem = match_schema(SCHEMA, [RADIUS, AGE, raw]).rows[-1].problem or ""
    assert "and 992 more" in problem
    assert len(problem) < 400


def test_arrays_match_by_shape_and_element_type() -> None:
    schema = Schema((), Column("y", "category", classes=("0", "1")), (ArrayField("x", (8, 8), "float32"),))
    label = DatasetColumn("y", "integer", classes=("0", "1"))

    def problem(*arrays: DatasetArray) -> str | None:
        return match_schema(schema, [label], arrays=arrays).rows[0].problem

    assert problem(DatasetArray("x", (8, 8), "float32")) is None
    assert problem() == "the array is missing"
    assert "shape differs" in (problem(DatasetArray("x", (64,), "float32")) or "")
    assert "element type differs" in (problem(DatasetArray("x", (8, 8), "int64")) or "")


def test_a_name_that_differs_in_case_only_is_pointed_out() -> None:
    found = [DatasetColumn(" Radius", "number", "mm", 6.0, 28.0), DatasetColumn("AGE", "integer"), LABEL]
    problems = [row.problem for row in match_schema(SCHEMA, found).problems]
    assert problems == [
        "the column is missing; rename ' Radius' to 'radius'",
        "the column is missing; rename 'AGE' to 'age'",
    ]
    # An array of that very name is of the wrong kind, not of the wrong name.
    (row,) = match_schema(SCHEMA, [RADIUS, LABEL], arrays=[DatasetArray("age", (2,), "float32")]).problems
    assert row.problem == "the column is missing"
