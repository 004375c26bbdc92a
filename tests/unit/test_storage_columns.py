"""A schema says what the columns hold; a mapping renames the label's values and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from galaxylearning.errors import DataRefused
from galaxylearning.storage.columns import ColumnInfo, infer_schema, map_label
from galaxylearning.storage.datasets import schema_digest
from galaxylearning.storage.tables import Table


def _objects(*values: str) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


TABLE = Table(
    {
        "mass": np.array([1.0, 2.0, np.nan, 5.0]),
        "age": np.array([1, 2, 3, 4]),
        "site": _objects("b", "a", "", "a"),
        "scan": np.zeros((4, 2, 3), dtype=np.float32),
        "grade": np.array([1, 0, 1, 1]),
    },
    4,
)


def test_columns_are_described() -> None:
    mass, age, site, scan, grade = infer_schema(TABLE, "grade", units={"mass": "kg"})
    assert mass == ColumnInfo(
        "mass",
        "number",
        "kg",
        minimum=1.0,
        maximum=5.0,
        mean=8 / 3,
        std=float(np.std([1.0, 2.0, 5.0])),
        missing=1,
    )
    assert mass.std == pytest.approx(np.sqrt(26 / 9))  # ((5/3)^2 + (2/3)^2 + (7/3)^2) / 3
    assert (age.kind, age.minimum, age.maximum, age.mean, age.missing) == ("integer", 1.0, 4.0, 2.5, 0)
    assert (site.kind, site.classes, site.missing, site.mean) == ("category", ("a", "b"), 1, None)
    assert (scan.kind, scan.shape, scan.dtype) == ("array", (2, 3), "float32")
    assert (grade.kind, grade.classes, grade.is_label) == ("category", ("0", "1"), True)


def test_a_label_of_many_integers_is_an_integer() -> None:
    assert infer_schema(Table({"y": np.arange(101)}, 101), "y")[0].kind == "integer"
    assert infer_schema(Table({"y": np.arange(100)}, 100), "y")[0].kind == "category"


def test_a_column_without_values_has_no_moments() -> None:
    empty = infer_schema(Table({"x": np.full(3, np.nan), "y": np.arange(3)}, 3), "y")[0]
    assert (empty.mean, empty.missing) == (None, 3)


@pytest.mark.parametrize(
    ("label", "units", "part"),
    [
        ("nothing", {}, "'mass'"),
        ("scan", {}, "one value a row"),
        ("grade", {"nothing": "kg"}, "no such column"),
        ("grade", {"site": "kg"}, "no unit"),
        ("grade", {"mass": ""}, "1 to 60"),
        ("grade", {"mass": "k\ng"}, "printable"),
    ],
)
def test_what_does_not_fit_is_refused(label: str, units: dict[str, str], part: str) -> None:
    with pytest.raises(DataRefused, match=part):
        infer_schema(TABLE, label, units=units)


def test_a_category_of_too_many_values_is_refused() -> None:
    names = _objects(*(f"person {i}" for i in range(1001)))
    table = Table({"name": names, "y": np.zeros(1001)}, 1001)
    with pytest.raises(DataRefused, match="leave it out"):
        infer_schema(table, "y")
    assert len(infer_schema(Table({"name": names[:1000], "y": np.zeros(1000)}, 1000), "y")) == 2


def test_a_label_is_mapped() -> None:
    mapped = map_label(TABLE, "grade", {"0": "benign", "1": "malignant"}, "p.csv")
    assert mapped.columns["grade"].tolist() == ["malignant", "benign", "malignant", "malignant"]
    assert mapped.columns["mass"] is TABLE.columns["mass"]
    assert infer_schema(mapped, "grade")[-1].classes == ("benign", "malignant")
    assert TABLE.columns["grade"].tolist() == [1, 0, 1, 1]


def test_a_label_of_few_integers_becomes_texts() -> None:
    assert map_label(TABLE, "grade", {}, "p.csv").columns["grade"].tolist() == ["1", "0", "1", "1"]
    assert map_label(TABLE, "mass", {}, "p.csv").columns["mass"].dtype == np.float64


@pytest.mark.parametrize(
    ("label", "mapping", "part"),
    [
        ("grade", {"1": "malignant"}, "row 2.*'0' is not among"),
        ("grade", {"0": "b", "1": "m", "2": "x"}, "'2', which never occurs"),
        ("mass", {"1.0": "x"}, "only a category"),
        ("nothing", {}, "no column"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(label: str, mapping: dict[str, str], part: str) -> None:
    with pytest.raises(DataRefused, match=part):
        map_label(TABLE, label, mapping, "p.csv")


def test_the_schemas_digest_holds_no_statistic() -> None:
    columns = infer_schema(TABLE, "grade")
    other = Table({**TABLE.columns, "mass": np.array([9.0, 9.0, 9.0, 9.0])}, 4)
    assert schema_digest(columns) == schema_digest(infer_schema(other, "grade"))
    assert schema_digest(columns) != schema_digest(infer_schema(TABLE, "grade", units={"mass": "kg"}))
    assert schema_digest(columns) != schema_digest(columns[::-1])
