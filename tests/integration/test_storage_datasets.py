"""The catalogue: a file is read, checked, committed to, found again, and its uses are counted once each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.errors import DataRefused, StorageError
from galaxylearning.storage.datasets import DatasetCatalog, ReadOptions, TableLimits, load_table
from galaxylearning.storage.journal import SqliteJournal

TEXT = "age,mass,grade\n61,70.5,M\n40,60.5,B\n55,81.0,B\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "patients.csv"
    path.write_text(TEXT)
    return path


@pytest.fixture
def catalog(tmp_path: Path) -> DatasetCatalog:
    return DatasetCatalog(tmp_path / "data.db")


MAPPING = {"M": "malignant", "B": "benign"}


def test_a_data_set_is_added_found_and_loaded(catalog: DatasetCatalog, file: Path) -> None:
    entry = catalog.add("biopsies", file, "grade", {"mass": "kg"}, MAPPING, entropy=seeded_entropy(1))
    assert catalog.get("biopsies") == entry
    assert list(catalog.list()) == [entry]
    assert (entry.n_rows, entry.label, Path(entry.path)) == (3, "grade", file)
    assert [(c.name, c.kind, c.unit) for c in entry.columns] == [
        ("age", "integer", None),
        ("mass", "number", "kg"),
        ("grade", "category", None),
    ]
    assert entry.columns[2].classes == ("benign", "malignant")
    assert catalog.load("biopsies").columns["grade"].tolist() == ["malignant", "benign", "benign"]


def test_the_commitment_is_salted(catalog: DatasetCatalog, file: Path) -> None:
    one = catalog.add("one", file, "grade", entropy=seeded_entropy(2))
    two = catalog.add("two", file, "grade", entropy=seeded_entropy(3))
    assert one.content_digest == two.content_digest == blake3_digest(file.read_bytes())
    assert one.commitment == blake3_digest(one.salt + one.content_digest)
    assert one.commitment != two.commitment
    assert one.schema_digest == two.schema_digest
    assert one.salt.hex() not in repr(one)


def test_it_is_remembered_across_opening(tmp_path: Path, file: Path) -> None:
    first = DatasetCatalog(tmp_path / "data.db")
    entry = first.add("biopsies", file, "grade", entropy=seeded_entropy(1))
    first.record_use("biopsies", 1, 0)
    first.close()
    second = DatasetCatalog(tmp_path / "data.db")
    assert second.get("biopsies") == entry
    assert second.uses("biopsies", 1) == 1


def test_two_may_have_the_catalogue_open(tmp_path: Path, file: Path) -> None:
    one, other = DatasetCatalog(tmp_path / "data.db"), DatasetCatalog(tmp_path / "data.db")
    entry = one.add("biopsies", file, "grade", entropy=seeded_entropy(1))
    assert other.get("biopsies") == entry
    assert other.record_use("biopsies", 1, 0) == 1
    assert one.record_use("biopsies", 1, 0) == 1


def test_a_use_is_counted_once_per_job_and_round(catalog: DatasetCatalog, file: Path) -> None:
    catalog.add("biopsies", file, "grade", entropy=seeded_entropy(1))
    uses = ((1, 0), (1, 0), (1, 1), (2, 0), (1, 1))
    counts = [catalog.record_use("biopsies", job_id, round_index) for job_id, round_index in uses]
    assert counts == [1, 1, 2, 1, 2]
    assert catalog.uses("biopsies", 1) == 2
    assert catalog.uses("biopsies", 3) == 0
    assert catalog.record_use("biopsies", 2**200, 0) == 1
    with pytest.raises(DataRefused, match="no data set"):
        catalog.record_use("others", 1, 0)


def test_a_name_is_taken_until_it_is_removed(catalog: DatasetCatalog, file: Path) -> None:
    entry = catalog.add("biopsies", file, "grade", entropy=seeded_entropy(1))
    with pytest.raises(DataRefused, match="taken"):
        catalog.add("biopsies", file, "age", entropy=seeded_entropy(4))
    assert catalog.get("biopsies") == entry
    catalog.remove("biopsies")
    assert file.exists()
    with pytest.raises(DataRefused, match="no data set"):
        catalog.remove("biopsies")
    with pytest.raises(DataRefused, match="no data set"):
        catalog.get("biopsies")
    assert catalog.add("biopsies", file, "grade", entropy=seeded_entropy(4)).commitment != entry.commitment


@pytest.mark.parametrize("name", ["", " a", "a" * 65, "a\nb"])
def test_an_odd_name_is_refused(catalog: DatasetCatalog, file: Path, name: str) -> None:
    with pytest.raises(DataRefused, match="data set name"):
        catalog.add(name, file, "grade", entropy=seeded_entropy(1))


def test_a_file_that_changed_is_refused(catalog: DatasetCatalog, file: Path) -> None:
    catalog.add("biopsies", file, "grade", entropy=seeded_entropy(1))
    file.write_text(TEXT.replace("70.5", "70.6"))
    with pytest.raises(DataRefused, match="changed since"):
        catalog.load("biopsies")
    file.write_text(TEXT)
    assert catalog.load("biopsies").n_rows == 3
    file.unlink()
    with pytest.raises(DataRefused, match="no such file"):
        catalog.load("biopsies")


def test_only_the_named_columns_are_used(catalog: DatasetCatalog, tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    path.write_text("name,age,grade\nAda,61,M\n7,40,B\n")
    with pytest.raises(DataRefused, match="'name'"):
        catalog.add("all", path, "grade", entropy=seeded_entropy(1))
    entry = catalog.add("some", path, "grade", only=["age"], entropy=seeded_entropy(1))
    assert [column.name for column in entry.columns] == ["age", "grade"]
    assert list(catalog.load("some").columns) == ["age", "grade"]
    kinds = catalog.add("kinds", path, "grade", kinds={"name": "category"}, entropy=seeded_entropy(1))
    assert kinds.columns[0].classes == ("7", "Ada")


@pytest.mark.parametrize(
    ("label", "units", "mapping", "part"),
    [
        ("nothing", {}, {}, "'age', 'mass', 'grade'"),
        ("grade", {"x": "kg"}, {}, "no such column"),
        ("grade", {}, {"M": "malignant"}, "row 2"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    catalog: DatasetCatalog, file: Path, label: str, units: dict[str, str], mapping: dict[str, str], part: str
) -> None:
    with pytest.raises(DataRefused, match=part):
        catalog.add("biopsies", file, label, units, mapping, entropy=seeded_entropy(1))
    assert list(catalog.list()) == []


def test_a_missing_cell_is_refused_when_added(catalog: DatasetCatalog, file: Path) -> None:
    file.write_text(TEXT.replace("60.5", ""))
    with pytest.raises(DataRefused, match=r"patients.csv, row 2, column 'mass'"):
        catalog.add("biopsies", file, "grade", entropy=seeded_entropy(1))
    assert np.isnan(load_table(file, ReadOptions(allow_missing=True)).columns["mass"][1])


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.xlsx", b"PK"), ("a.pkl", b"\x80"), ("a", b"a"), ("a.csv", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataRefused, match=name):
            load_table(tmp_path / name)
    with pytest.raises(DataRefused, match="no such file"):
        load_table(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "pipe.csv"):
        with pytest.raises(DataRefused, match="regular file"):
            load_table(tmp_path / name)
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    with pytest.raises(DataRefused, match="regular file"):
        load_table(tmp_path / "endless.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    with pytest.raises(DataRefused, match="regular file"):
        load_table(tmp_path / "loop.csv")


def test_a_file_over_the_limit_is_refused_before_it_is_read(file: Path) -> None:
    size = file.stat().st_size
    assert load_table(file, ReadOptions(limits=TableLimits(max_file_bytes=size))).n_rows == 3
    with pytest.raises(DataRefused, match="at most"):
        load_table(file, ReadOptions(limits=TableLimits(max_file_bytes=size - 1)))
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(DataRefused, match="at most"):
        load_table(file)


def test_a_link_to_a_data_file_may_be_named(tmp_path: Path, file: Path) -> None:
    (tmp_path / "link.csv").symlink_to(file)
    assert load_table(tmp_path / "link.csv").n_rows == 3


def test_another_kind_of_database_is_refused(tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "journal.db").close()
    with pytest.raises(StorageError, match="not a data catalogue"):
        DatasetCatalog(tmp_path / "journal.db")


def test_one_table_in_three_formats(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bunch = load_breast_cancer()
    names = [str(name) for name in bunch.feature_names]
    labels = [str(bunch.target_names[target]) for target in bunch.target]
    columns = {name: bunch.data[:, i] for i, name in enumerate(names)}
    lines = [",".join([*names, "diagnosis"])]
    lines += [
        ",".join([*map(repr, map(float, row)), label]) for row, label in zip(bunch.data, labels, strict=True)
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    pq.write_table(pa.table({**columns, "diagnosis": labels}), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", **{**columns, "diagnosis": np.array(labels)})
    tables = [load_table(tmp_path / name) for name in ("t.csv", "t.parquet", "t.npz")]
    for table in tables:
        assert table.n_rows == 569
        assert list(table.columns) == [*names, "diagnosis"]
        assert table.columns["diagnosis"].tolist() == labels
        for name in names:
            np.testing.assert_array_equal(table.columns[name], columns[name])
