"""Rows from files, Hugging Face folders and built-in data, and the cohort that partitions make of them.

The folders are written in the layout of ``datasets`` 4.8: what it wrote itself was read alike.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.messages.terms import ArrayField, Column, Schema
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.partition import IidPartitioner, NaturalIdPartitioner, SizePartitioner
from galaxylearning.simulation.sources import built_in, built_in_schema, load_rows, owners_from
from galaxylearning.storage.datasets import ReadOptions, load_table

ANIMALS = ("cat", "dog", "eel")
FEATURES: dict[str, Any] = {
    "x": {"dtype": "float32", "_type": "Value"},
    "k": {"dtype": "int16", "_type": "Value"},
    "user": {"dtype": "string", "_type": "Value"},
    "flag": {"dtype": "bool", "_type": "Value"},
    "label": {"names": list(ANIMALS), "_type": "ClassLabel"},
    "a": {"shape": [2, 3], "dtype": "float32", "_type": "Array2D"},
    "pair": {"feature": {"dtype": "int32", "_type": "Value"}, "length": 2, "_type": "List"},
    "note": {"q": {"dtype": "int64", "_type": "Value"}},
}
TABULAR = Schema(
    features=(Column(name="x", kind="number", mean=1.0, std=2.0), Column(name="k", kind="number")),
    label=Column(name="label", kind="category", classes=ANIMALS),
)


def table(n: int, start: int = 0) -> Any:
    """Rows ``start`` to ``start + n`` of a data set, with the metadata that ``datasets`` writes."""
    rows = range(start, start + n)
    nested = [[[float(i + j), 0.0, 1.0], [2.0, 3.0, float(j)]] for i, j in zip(rows, rows, strict=True)]
    schema = pa.schema(
        [
            ("x", pa.float32()),
            ("k", pa.int16()),
            ("user", pa.string()),
            ("flag", pa.bool_()),
            ("label", pa.int64()),
            ("a", pa.list_(pa.list_(pa.float32()))),
            ("pair", pa.list_(pa.int32(), 2)),
            ("note", pa.struct({"q": pa.int64()})),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
    columns = {
        "x": [i / 2 for i in rows],
        "k": [i % 7 for i in rows],
        "user": [f"u{i % 4}" for i in rows],
        "flag": [i % 2 == 0 for i in rows],
        "label": [i % 3 for i in rows],
        "a": nested,
        "pair": [[i, -i] for i in rows],
        "note": [{"q": i} for i in rows],
    }
    return pa.table(columns, schema=schema)


def save(folder: Path, parts: Sequence[Any], batch_rows: int = 4) -> Path:
    """What ``Dataset.save_to_disk`` writes: an Arrow stream for each part, and two files of JSON."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part, max_chunksize=batch_rows)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "f",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES, "citation": ""}))
    return folder


def snapshot(folder: Path, parts: dict[str, Any]) -> Path:
    """What a copy of a data set of the hub looks like: Parquet files by their paths."""
    for name, part in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, folder / name)
    return folder


@pytest.fixture(params=["saved", "dictionary", "snapshot"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same ten rows of ``train`` in three layouts."""
    if request.param == "saved":
        return save(tmp_path / "set", [table(6), table(4, start=6)])
    if request.param == "dictionary":
        save(tmp_path / "set" / "train", [table(10)])
        save(tmp_path / "set" / "test", [table(3, start=50)])
        (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        return tmp_path / "set"
    return snapshot(
        tmp_path / "set",
        {
            "data/train-00000-of-00002.parquet": table(6),
            "data/train-00001-of-00002.parquet": table(4, start=6),
            "data/test-00000-of-00001.parquet": table(3, start=50),
        },
    )


def test_a_hugging_face_folder_gives_rows_and_every_column_that_can_be_used(folder: Path) -> None:
    rows, columns = load_rows(folder, TABULAR)
    np.testing.assert_array_equal(rows.inputs[:, 0], (np.arange(10) / 2 - 1) / 2)
    np.testing.assert_array_equal(rows.inputs[:, 1], np.arange(10) % 7)
    np.testing.assert_array_equal(rows.labels, np.arange(10) % 3)
    assert sorted(columns) == ["a", "flag", "k", "label", "pair", "user", "x"]
    assert columns["label"].tolist() == [ANIMALS[i % 3] for i in range(10)]
    assert columns["user"].tolist() == [f"u{i % 4}" for i in range(10)]
    assert columns["flag"].tolist() == [1, 0] * 5
    assert columns["a"].shape == (10, 2, 3)
    assert columns["a"].dtype == np.float32
    assert columns["a"][7].tolist() == [[14, 0, 1], [2, 3, 7]]
    assert columns["pair"].tolist() == [[i, -i] for i in range(10)]


def test_a_column_that_cannot_be_used_is_refused_where_it_is_asked_for(folder: Path) -> None:
    with pytest.raises(DataRefused, match="column 'note': has type struct<q: int64>; only numbers"):
        load_rows(folder, TABULAR, also=("note",))
    _, columns = load_rows(folder, TABULAR, also=("user",))
    assert sorted(columns) == ["k", "label", "user", "x"]
    with pytest.raises(DataRefused, match="column 'person': no such column; there are 'x', 'k', 'user'"):
        load_rows(folder, TABULAR, also=("person",))


def test_a_nested_list_is_an_input_of_its_shape(folder: Path) -> None:
    label = Column(name="label", kind="category", classes=ANIMALS)
    rows, _ = load_rows(folder, Schema((), label, (ArrayField("a", (2, 3), "float32"),)))
    assert rows.inputs.shape == (10, 2, 3)
    flat, _ = load_rows(folder, Schema((), label, (ArrayField("a", (6,), "float32"),)))
    np.testing.assert_array_equal(flat.inputs, rows.inputs.reshape(10, 6))
    with pytest.raises(DataRefused, match=r"a: rows of shape \(2, 3\); \(3, 2\) allowed"):
        load_rows(folder, Schema((), label, (ArrayField("a", (3, 2), "float32"),)))
    with pytest.raises(DataRefused, match="a: holds float32; int64 allowed"):
        load_rows(folder, Schema((), label, (ArrayField("a", (2, 3), "int64"),)))


def test_load_table_reads_a_folder_too(folder: Path) -> None:
    options = ReadOptions(only=("x", "label"))
    assert load_table(folder, options).columns["label"].tolist() == [ANIMALS[i % 3] for i in range(10)]
    numbers = load_table(folder, ReadOptions(only=("label",), kinds={"label": "integer"}))
    assert numbers.columns["label"].tolist() == [i % 3 for i in range(10)]


@pytest.mark.parametrize("layout", ["dictionary", "snapshot"])
def test_a_split_is_chosen_by_name(tmp_path: Path, layout: str) -> None:
    if layout == "dictionary":
        save(tmp_path / "train", [table(10)])
        save(tmp_path / "test", [table(3, start=50)])
        (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    else:
        snapshot(
            tmp_path, {"data/train-00000-of-00001.parquet": table(10), "data/test.parquet": table(3, 50)}
        )
    _, columns = load_rows(tmp_path, TABULAR, split="test")
    assert columns["x"].tolist() == [25.0, 25.5, 26.0]
    with pytest.raises(DataRefused, match="split: 'extra' given; there are 't"):
        load_rows(tmp_path, TABULAR, split="extra")
    with pytest.raises(DataRefused, match=r"split: '\.\./test' given; allowed: the name of a split"):
        load_rows(tmp_path, TABULAR, split="../test")


@pytest.mark.parametrize(
    ("names", "split", "rows"),
    [
        (["train.parquet"], "train", 3),
        (["0000.parquet", "0001.parquet"], "train", 6),
        (["default/train/0000.parquet", "default/test/0000.parquet"], "test", 3),
        (["plain_text/train-00000-of-00001-a1b2.parquet"], "train", 3),
        (["data/dev-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"], "validation", 3),
        (["unsupervised-00000-of-00001.parquet", "train-00000-of-00001.parquet"], "unsupervised", 3),
        (["my_training_rows.parquet", "my_eval_rows.parquet"], "train", 3),
        (["train.parquet", ".hidden/train.parquet"], "train", 3),
    ],
)
def test_files_tell_their_split_as_the_hub_names_them(
    tmp_path: Path, names: list[str], split: str, rows: int
) -> None:
    snapshot(tmp_path, {name: table(3) for name in names})
    assert len(load_rows(tmp_path, TABULAR, split=split)[0]) == rows


def test_one_configuration_must_be_named(tmp_path: Path) -> None:
    snapshot(
        tmp_path, {"en/train-00000-of-00001.parquet": table(3), "fr/train-00000-of-00001.parquet": table(3)}
    )
    with pytest.raises(DataRefused, match="holds several configurations, 'en', 'fr': name the folder of one"):
        load_rows(tmp_path, TABULAR)
    assert len(load_rows(tmp_path / "fr", TABULAR)[0]) == 3


def test_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    snapshot(tmp_path / "blobs", {"0a1b": table(3)})
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "train-00000-of-00001.parquet").symlink_to("../blobs/0a1b")
    assert len(load_rows(tmp_path / "snapshots", TABULAR)[0]) == 3


def test_a_row_without_a_class_is_missing(tmp_path: Path) -> None:
    broken = table(4).set_column(4, "label", pa.array([0, 1, -1, 2]))
    with pytest.raises(DataRefused, match="row 3, column 'label': the cell is empty"):
        load_rows(save(tmp_path / "set", [broken]), TABULAR)
    with pytest.raises(DataRefused, match="row 3, column 'label': has no class"):
        load_table(tmp_path / "set", ReadOptions(only=("label",)))
    wrong = table(4).set_column(4, "label", pa.array([0, 1, 3, 2]))
    with pytest.raises(DataRefused, match="row 3, column 'label': 3 is no class; there are 0 to 2"):
        load_rows(snapshot(tmp_path / "snap", {"train.parquet": wrong}), TABULAR)


def test_empty_cells_matter_in_the_columns_of_the_schema_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,k,label,remark\n1,2,cat,\n3,4,dog,late\n")
    rows, columns = load_rows(path, TABULAR)
    assert rows.inputs.tolist() == [[0, 2], [1, 4]]
    assert columns["remark"].tolist() == ["", "late"]
    path.write_text("x,k,label,remark\n1,2,cat,\n3,,dog,late\n")
    with pytest.raises(DataRefused, match=r"rows\.csv, row 2, column 'k': the cell is empty"):
        load_rows(path, TABULAR)
    path.write_text("x,k,label\n1,2,cat\n3,4,cow\n")
    with pytest.raises(DataRefused, match="label: 'cow' in row 2; allowed: cat, dog, eel"):
        load_rows(path, TABULAR)


def test_arrays_of_an_npz_are_brought_to_the_models_axes(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.savez(tmp_path / "set.npz", picture=pixels, grey=pixels[..., 0], label=np.array(["cat", "eel"]))
    label = Column(name="label", kind="category", classes=ANIMALS)

    def inputs(name: str, shape: tuple[int, ...]) -> Any:
        return load_rows(tmp_path / "set.npz", Schema((), label, (ArrayField(name, shape, "float32"),)))[
            0
        ].inputs

    np.testing.assert_array_equal(inputs("picture", (3, 4, 5)), pixels.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(inputs("picture", (4, 5, 3)), pixels)
    np.testing.assert_array_equal(inputs("grey", (1, 4, 5)), pixels[:, None, :, :, 0])
    np.testing.assert_array_equal(inputs("grey", (20,)), pixels[..., 0].reshape(2, 20))
    assert inputs("grey", (20,)).dtype == np.float32
    with pytest.raises(DataRefused, match=r"rows of shape \(4, 5, 3\); \(3, 5, 4\) allowed"):
        inputs("picture", (3, 5, 4))


def pictures(encoded: Sequence[bytes | None]) -> Any:
    features = {"image": {"_type": "Image"}, "label": FEATURES["label"]}
    schema = pa.schema(
        [("image", pa.struct({"bytes": pa.binary(), "path": pa.string()})), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    cells = [{"bytes": data, "path": None} for data in encoded]
    return pa.table({"image": cells, "label": [i % 3 for i in range(len(cells))]}, schema=schema)


def png(pixels: Any, kind: str = "PNG") -> bytes:
    library = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    library.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "layout", [save, lambda folder, parts: snapshot(folder, {"train.parquet": parts[0]})]
)
def test_pictures_are_decoded(tmp_path: Path, layout: Any) -> None:
    grey = np.random.default_rng(5).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    part = pictures([png(pixels) for pixels in (*grey, grey[0])])
    schema = Schema(
        (),
        Column(name="label", kind="category", classes=ANIMALS),
        (ArrayField("image", (1, 6, 5), "float32"),),
    )
    rows, columns = load_rows(layout(tmp_path / "set", [part]), schema)
    np.testing.assert_array_equal(columns["image"][:, 0], [*grey, grey[0]])
    assert rows.inputs.dtype == np.float32
    coloured = pictures([png(np.full((6, 5, 3), i, dtype=np.uint8)) for i in range(3)])
    colours = load_table(layout(tmp_path / "colours", [coloured]), ReadOptions(only=("image",)))
    assert colours.columns["image"].shape == (3, 6, 5, 3)
    assert colours.columns["image"][2].tolist() == np.full((6, 5, 3), 2).tolist()


def test_pictures_of_other_sizes_or_none_are_refused(tmp_path: Path) -> None:
    small, large = png(np.zeros((6, 5), dtype=np.uint8)), png(np.zeros((6, 6), dtype=np.uint8))
    for name, encoded, problem in (
        ("sizes", [small, large], r"row 2, column 'image': is of shape \(6, 6\) where row 1 is of \(6, 5\)"),
        ("none", [small, None], "row 2, column 'image': holds no picture, or only the path of one"),
        ("text", [small, b"<html>"], "row 2, column 'image': is no readable PNG or JPEG"),
        ("short", [small[:40]], "row 1, column 'image': is no readable PNG or JPEG"),
        ("gif", [png(np.zeros((6, 5), dtype=np.uint8), "GIF")], "row 1, column 'image': is no readable"),
        ("long", [png(np.zeros((1, 5_000), dtype=np.uint8))], r"row 1.*is \(5000, 1\) pixels; at most 4096"),
    ):
        with pytest.raises(DataRefused, match=problem):
            load_table(save(tmp_path / name, [pictures(encoded)]))
    assert load_table(save(tmp_path / "good", [pictures([small])])).n_rows == 1


def test_pictures_without_pillow_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    folder = save(tmp_path / "set", [pictures([b"x"])])
    with pytest.raises(DataRefused, match="column 'image': holds pictures, and decoding them needs Pillow"):
        load_table(folder)
    assert load_table(folder, ReadOptions(only=("label",))).columns["label"].tolist() == ["cat"]


@pytest.mark.parametrize(("name", "n", "width"), [("digits", 1_797, 64), ("breast-cancer", 569, 30)])
def test_built_in_data_sets(name: str, n: int, width: int) -> None:
    rows, columns = built_in(name)
    schema = built_in_schema(name)
    assert rows.inputs.shape == (n, width)
    assert len(columns) == width + 1
    assert set(columns[schema.label.name]) == set(schema.label.classes or ())
    assert bool(np.isfinite(rows.inputs).all())
    one = Schema(schema.features[:3], schema.label)
    assert built_in(name, one)[0].inputs.shape == (n, 3)
    with pytest.raises(DataRefused, match="this column is missing"):
        built_in(name, TABULAR)


def test_digits_have_pixels_from_0_to_1() -> None:
    rows, _ = built_in("digits")
    assert float(rows.inputs.min()) == 0.0
    assert float(rows.inputs.max()) == 1.0
    with pytest.raises(ConfigRefused, match="data: 'faces' given; allowed: breast-cancer, digits"):
        built_in("faces")


def test_a_cohort_has_the_rows_of_its_partitions() -> None:
    rows = Rows(np.arange(12.0, dtype=np.float32)[:, None], np.arange(12) % 3)
    columns = {"user": np.array(list("bacabcabcbbb"), dtype=object)}
    cohort = owners_from(rows, columns, NaturalIdPartitioner("user"))
    assert cohort.pool is rows
    assert cohort.counts.tolist() == [3, 6, 3]
    assert cohort.rows(1).inputs[:, 0].tolist() == [0, 4, 7, 9, 10, 11]
    shares = owners_from(rows, {}, SizePartitioner([2, 3]))
    assert shares.counts.tolist() == [2, 3]
    assert len(owners_from(rows, {}, IidPartitioner(12))) == 12
    with pytest.raises(ConfigRefused, match="num_partitions: 13 given; allowed: 1 to 12"):
        owners_from(rows, {}, IidPartitioner(13))
    with pytest.raises(DataRefused, match="partition_by 'name': no such column; there are 'user'"):
        owners_from(rows, columns, NaturalIdPartitioner("name"))
