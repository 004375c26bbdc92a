"""A data file's schema, a trained model's inputs and answers; columns of names and free text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import galaxylearning as gl
from galaxylearning.errors import DataRefused, JobRefused
from galaxylearning.messages.terms import encode_schema
from galaxylearning.simulation.sources import load_rows


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    rows = [f"{i}.5,{'red' if i % 3 else 'blue'},{2 * i + 1.5}" for i in range(6)]
    return table(tmp_path / "known.csv", "size,colour,price", rows)


def test_rows_without_a_label_become_what_training_saw(known: Path, tmp_path: Path) -> None:
    schema = gl.schema_of(known, label="price")
    new = table(tmp_path / "new.csv", "colour,size,name", ["blue,3,Ann", "red,5.5,Bob"])
    inputs = gl.inputs_of(new, schema)
    # size of known.csv: mean 3, variance 35/12.
    expected = np.array([[0.0, 1, 0], [2.5 / np.sqrt(35 / 12), 0, 1]], dtype=np.float32)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, expected, rtol=1e-6)
    seen, _ = load_rows(known, schema)
    np.testing.assert_array_equal(gl.inputs_of(known, schema), seen.inputs)
    np.testing.assert_allclose(gl.answers_of(seen.labels, schema), [1.5, 3.5, 5.5, 7.5, 9.5, 11.5])


def test_the_schema_may_be_a_file(known: Path, tmp_path: Path) -> None:
    schema = gl.schema_of(known, label="colour")
    file = tmp_path / "model.schema.json"
    file.write_bytes(encode_schema(schema))
    np.testing.assert_array_equal(gl.inputs_of(known, file), gl.inputs_of(known, schema))
    assert gl.answers_of(np.array([[1.0, 0.5], [-1.0, 3.0]]), file).tolist() == ["blue", "red"]
    with pytest.raises(DataRefused, match=r"gone\.json: there is no such file"):
        gl.inputs_of(known, tmp_path / "gone.json")
    file.write_bytes(b"{}")
    with pytest.raises(JobRefused, match="schema"):
        gl.inputs_of(known, file)


def test_one_output_tells_two_classes_apart_by_its_sign(known: Path) -> None:
    schema = gl.schema_of(known, label="colour")
    assert gl.answers_of(np.array([[-0.1], [0.1]]), schema).tolist() == ["blue", "red"]
    for shape in ((4, 3), (4, 2, 1), ()):
        with pytest.raises(DataRefused, match="outputs: have shape"):
            gl.answers_of(np.zeros(shape), schema)
    with pytest.raises(DataRefused, match=r"\[n\] and \[n, 1\] allowed"):
        gl.answers_of(np.zeros((4, 2)), gl.schema_of(known, label="price"))


def test_a_refused_row_names_its_file(known: Path, tmp_path: Path) -> None:
    schema = gl.schema_of(known, label="price")
    new = table(tmp_path / "new.csv", "size,colour", ["1,red", "2,green"])
    with pytest.raises(DataRefused, match=r"^new\.csv: colour: 'green' in row 2; allowed: blue, red$"):
        gl.inputs_of(new, schema)
    with pytest.raises(DataRefused, match=r"new\.csv.*no such column"):
        gl.inputs_of(table(tmp_path / "new.csv", "size", ["1"]), schema)


def test_a_message_lists_a_few_classes_only(tmp_path: Path) -> None:
    rows = [f"town {i % 40:02},{i}" for i in range(200)]
    schema = gl.schema_of(table(tmp_path / "towns.csv", "town,price", rows), label="price")
    with pytest.raises(DataRefused, match=r"town 07 and 32 more$") as refused:
        gl.inputs_of(table(tmp_path / "new.csv", "town", ["x" * 900]), schema)
    assert len(str(refused.value)) < 250


def test_names_and_free_text_are_not_made_public(tmp_path: Path) -> None:
    rows = [f"patient {i},{i}" for i in range(80)]
    file = table(tmp_path / "test.csv", "who,price", rows)
    with pytest.raises(
        DataRefused, match=r"column 'who': has 80 different texts in 80 rows.*only=\("
    ) as told:
        gl.schema_of(file, label="price")
    assert "patient" not in str(told.value)
    with pytest.raises(DataRefused, match="different texts"):
        gl.schema_of(file, label="price", only="who")
    # Every second row has a text of its own, and no more: a category of many values.
    gl.schema_of(table(file, "who,price", [f"patient {i // 2},{i}" for i in range(80)]), label="price")
    # A small table's categories are few whatever the rows.
    gl.schema_of(table(file, "who,price", [f"kind {i},{i}" for i in range(20)]), label="price")


def test_an_array_is_described_by_its_shape_and_type(tmp_path: Path) -> None:
    file, kinds = tmp_path / "images.npz", np.array(["bar", "dash", "bar"])
    pixels = np.zeros((3, 1, 4, 5), np.uint8)
    np.savez(file, image=pixels, kind=kinds)
    schema = gl.schema_of(file, label="kind")
    assert schema.features == ()
    assert schema.arrays == (gl.ArrayField(name="image", shape=(1, 4, 5), dtype="uint8"),)
    assert schema.label.classes == ("bar", "dash")
    assert gl.inputs_of(file, schema).shape == (3, 1, 4, 5)
    np.savez(file, image=pixels, age=np.array([1, 2, 3]), kind=kinds)
    with pytest.raises(DataRefused, match=r"images\.npz: there are 'age', 'image' beside the label.*only="):
        gl.schema_of(file, label="kind")
    assert gl.schema_of(file, label="kind", only="image").arrays == schema.arrays
    assert gl.schema_of(file, label="kind", only="age").arrays == ()
