"""CSV: what is found out, and every doubt refused with its row and column."""

from __future__ import annotations

import numpy as np
import pytest

from galaxylearning.errors import DataRefused
from galaxylearning.storage.csv_table import find_delimiter, find_encoding, read_csv
from galaxylearning.storage.tables import ReadOptions, Table, TableLimits


def read(text: str | bytes, options: ReadOptions | None = None) -> Table:
    data = text.encode() if isinstance(text, str) else text
    return read_csv(data, "p.csv", options or ReadOptions())


def refused(text: str | bytes, options: ReadOptions | None = None) -> str:
    with pytest.raises(DataRefused) as caught:
        read(text, options)
    assert str(caught.value).startswith("p.csv")
    return str(caught.value)


def test_kinds_are_found_out() -> None:
    table = read("age,mass,sex\n61,70.5,f\n-4,1e3,m\n")
    assert table.n_rows == 2
    assert list(table.columns) == ["age", "mass", "sex"]
    assert table.columns["age"].dtype == np.int64
    assert table.columns["age"].tolist() == [61, -4]
    assert table.columns["mass"].dtype == np.float64
    assert table.columns["mass"].tolist() == [70.5, 1000.0]
    assert table.columns["sex"].tolist() == ["f", "m"]


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks() -> None:
    table = read('name,n\n"a, ""b""\nc",1\n"d",2\n')
    assert table.columns["name"].tolist() == ['a, "b"\nc', "d"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_delimiters_and_line_ends(delimiter: str, line: str) -> None:
    text = line.join(delimiter.join(row) for row in (["a", "b", "c"], ["1", "2.5", "x"], ["3", "4", "y"]))
    table = read(text)
    assert table.columns["a"].tolist() == [1, 3]
    assert table.columns["b"].tolist() == [2.5, 4.0]
    assert table.columns["c"].tolist() == ["x", "y"]


def test_the_delimiter_that_parts_evenly_wins() -> None:
    assert find_delimiter("a;b\n1,5;2\n3;4,5\n") == ";"
    assert find_delimiter("a,b\nx;y,1\n") == ","
    assert find_delimiter("single\n1\n") == ","


def test_encodings() -> None:
    text = "größe,n\nä,1\nö,2\n"
    for encoding in ("utf-8", "utf-8-sig", "latin-1"):
        assert read(text.encode(encoding)).columns["größe"].tolist() == ["ä", "ö"]
    assert find_encoding(text.encode(), "p.csv") == "utf-8-sig"
    assert find_encoding(text.encode("latin-1"), "p.csv") == "latin-1"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_other_encodings_are_refused_with_advice(encoding: str) -> None:
    assert "UTF-8" in refused("größe,n\nä,1\n".encode(encoding))


def test_windows_1252_is_refused_with_its_line() -> None:
    message = refused("price,n\n1,2\n\u20ac5,3\n".encode("cp1252"))
    assert "line 3" in message
    assert "0x80" in message


def test_blank_lines_are_passed_over_and_cells_are_stripped() -> None:
    assert read("a,b\n\n 1 , x \n\n2,y\n\n").columns["b"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no columns"]),
        ("a,b\n", ["no rows"]),
        ("a,a\n1,2\n", ["'a'", "more than one"]),
        ("a,\n1,2\n", ["column 2", "no name"]),
        ("1,2\n3,4\n", ["first row must name"]),
        (f"{'x' * 201},b\n1,2\n", ["column 1", "200"]),
        ("a,b\n1,2\n3\n", ["row 2", "1 cell ", "2 columns"]),
        ("a,b\n1,2,3\n", ["row 1", "3 cells"]),
        ("a,b\n1,2\n,3\n", ["row 2", "'a'", "empty"]),
        ("a,b\n1,x\n2,\n", ["row 2", "'b'", "empty"]),
        ("a,b\n1,2\n  ,3\n", ["row 2", "'a'", "empty"]),
        ("a,b\n1.5,2\nNaN,3\n", ["row 2", "'a'", "NaN"]),
        ("a,b\n1.5,2\nNA,3\n", ["row 2", "'a'", "NA"]),
        ("a,b\n1.5,2\ninf,3\n", ["row 2", "'a'", "finite"]),
        ("a,b\n1,2\n-Infinity,3\n", ["row 2", "'a'", "finite"]),
        ("a,b\n1,2\n1e999,3\n", ["row 2", "'a'", "too large"]),
        ("a,b\n1,2\n1e101,3\n", ["row 2", "'a'", "1e+100"]),
        ("a,b\n1,2\nx,3\n", ["row 2", "'a'", "'x'", "not a number"]),
        ("a,b\nx,2\n1,3\n", ["row 1", "'a'", "'x'", "not a number"]),
        ("a;b\n1,5;2\n2,5;3\n", ["row 1", "'a'", "decimal comma"]),
        ("a;b\n1;2\n2,5;3\n", ["row 2", "'a'", "decimal comma"]),
        ("a,b\n1_000,2\n1,3\n", ["row 1", "1_000"]),
        ("a,b\n1,2\n\u0661,3\n", ["row 2", "not a number"]),
        ("a,b\n9223372036854775808,2\n", ["row 1", "64 bits"]),
        ("a,b\n1,2\n-99999999999999999999999,2\n", ["row 2", "64 bits"]),
        ('a,b\n"1,2\n', ["line"]),
        ('a,b\n"1"x,2\n', ["line 2"]),
        ("a,b\n" + "x" * 1001 + ",2\n", ["row 1", "1000 characters"]),
        ("a,b\n" + "x" * 200_000 + ",2\n", ["line 2", "field"]),
    ],
)
def test_what_cannot_be_used_is_refused_where_it_is(text: str, parts: list[str]) -> None:
    message = refused(text)
    for part in parts:
        assert part in message


def test_a_number_after_many_texts_is_refused_across_blocks() -> None:
    assert "row 20001" in refused("a,b\n" + "x,1\n" * 20_000 + "7,1\n")
    assert "row 20001" in refused("a,b\n" + "7,1\n" * 20_000 + "x,1\n")


def test_integers_then_reals_across_blocks_are_numbers() -> None:
    table = read("a,b\n" + "7,1\n" * 20_000 + "7.5,1\n")
    assert table.columns["a"].dtype == np.float64
    assert table.columns["a"][[0, -1]].tolist() == [7.0, 7.5]
    assert table.columns["b"].dtype == np.int64


def test_a_stated_kind_overrides_the_cells() -> None:
    text = "zip,grade,n\n01234,1,3.0\n99999,high,4.0\n"
    table = read(text, ReadOptions(kinds={"zip": "category", "grade": "category", "n": "integer"}))
    assert table.columns["zip"].tolist() == ["01234", "99999"]
    assert table.columns["grade"].tolist() == ["1", "high"]
    assert table.columns["n"].dtype == np.int64
    assert "'grade'" in refused(text)
    assert read(text, ReadOptions(kinds={"zip": "number"}, only=["zip"])).columns["zip"].dtype == np.float64


def test_a_stated_kind_that_does_not_fit_is_refused() -> None:
    assert "whole number" in refused("a,b\n1,x\n1.5,y\n", ReadOptions(kinds={"a": "integer"}))
    told = refused("a,b\n1,x\n", ReadOptions(kinds={"b": "number"}))
    assert "'x' is not a number; the column's kind is stated as 'number'" in told
    assert "no such column" in refused("a,b\n1,x\n", ReadOptions(kinds={"c": "number"}))
    assert "must be one of" in refused("a,b\n1,x\n", ReadOptions(kinds={"a": "date"}))  # type: ignore[dict-item]


def test_only_the_wanted_columns_are_read_and_judged() -> None:
    text = "id,a,b\nx,1,\n7,2,\n"
    assert list(read(text, ReadOptions(only=["a"])).columns) == ["a"]
    assert "'id'" in refused(text, ReadOptions(only=["a", "id"]))
    assert "no such column" in refused(text, ReadOptions(only=["c"]))
    assert "at least one" in refused(text, ReadOptions(only=[]))


@pytest.mark.parametrize("text", ["a,b\n1,2\n,3\n", "a,b\nx,2\n,3\n", "a,b\n1,2\nNA,3\n", "a,b\n,2\n1,3\n"])
def test_a_missing_cell_is_told_with_what_can_be_done(text: str) -> None:
    said = refused(text)
    assert "fill it in, leave the row out, or use only columns without gaps (only=, --only)" in said
    assert "column 'a'" in said


def test_missing_cells_are_kept_where_they_are_allowed() -> None:
    table = read("a,b,c,d\n1,x,,\n,,2.5,\nNA,y,3,\n", ReadOptions(allow_missing=True))
    np.testing.assert_array_equal(table.columns["a"], [1.0, np.nan, np.nan])
    assert table.columns["b"].tolist() == ["x", "", "y"]
    np.testing.assert_array_equal(table.columns["c"], [np.nan, 2.5, 3.0])
    assert np.isnan(table.columns["d"]).all()
    assert "finite" in refused("a,b\n1.5,2\ninf,3\n", ReadOptions(allow_missing=True))


def test_a_first_block_of_missing_cells_settles_nothing() -> None:
    options = ReadOptions(allow_missing=True)
    numbers = read("a,b\n" + ",1\n" * 17_000 + "5,1\n", options).columns["a"]
    texts = read("a,b\n" + ",1\n" * 17_000 + "x,1\n", options).columns["a"]
    assert np.isnan(numbers[0])
    assert numbers[-1] == 5
    assert texts[0] == ""
    assert texts[-1] == "x"


@pytest.mark.parametrize(
    ("limits", "part"),
    [
        (TableLimits(max_rows=2), "2 rows"),
        (TableLimits(max_columns=1), "at most 1"),
        (TableLimits(max_cells=5), "5 cells"),
        (TableLimits(max_cell_chars=1), "1 characters"),
    ],
)
def test_limits_are_kept(limits: TableLimits, part: str) -> None:
    text = "a,b\n1,xx\n2,y\n3,z\n"
    assert read(text).n_rows == 3
    assert part in refused(text, ReadOptions(limits=limits))
