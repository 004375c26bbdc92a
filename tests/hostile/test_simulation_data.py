"""Data folders, traces and columns made to hurt the simulator: refused by name, time and memory bounded."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.simulation.availability import FailureTrace, TraceAvailability
from galaxylearning.simulation.partition import DirichletPartitioner, InnerDirichletPartitioner
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.tables import ReadOptions, Table, TableLimits

TABLE = pa.table({"x": [0.5, 1.5, 2.5], "t": ["a", "b", "a"], "a": [[1, 2], [3, 4], [5, 6]], "y": [0, 1, 0]})
MEMORY_KIB = 60_000


def stream(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def saved(folder: Path, data: bytes, *, state: object = None, info: bytes = b"{}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "data-00000-of-00001.arrow").write_bytes(data)
    names = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(names if state is None else state))
    (folder / "dataset_info.json").write_bytes(info)
    return folder


def snapshot(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train-00000-of-00001.parquet").write_bytes(data)
    return folder


def read(folder: Path, **limits: int) -> Table:
    return read_huggingface(folder, ReadOptions(limits=TableLimits(**limits)))


def refused(folder: Path, **limits: int) -> str:
    with pytest.raises(DataRefused) as caught:
        read(folder, **limits)
    return str(caught.value)


CHILD = """
import resource, sys
from pathlib import Path
from galaxylearning.errors import DataRefused
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.tables import ReadOptions, TableLimits

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_huggingface(Path(sys.argv[1]), ReadOptions(limits=TableLimits(max_unpacked_bytes=1 << 26)))
except DataRefused as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def refused_in_little_memory(folder: Path) -> str:
    """Refused in a process of its own, whose peak memory therefore says what the refusal took."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, timeout=120, check=True
    )
    grown_kib, message = done.stdout.split(" ", 1)
    assert int(grown_kib) < MEMORY_KIB
    return message


def test_sound_folders_are_read(tmp_path: Path) -> None:
    for folder in (saved(tmp_path / "s", stream(TABLE)), snapshot(tmp_path / "p", parquet(TABLE))):
        table = read(folder)
        assert table.columns["t"].tolist() == ["a", "b", "a"]
        assert table.columns["a"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_stream_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = stream(TABLE)
    for length in range(0, len(data), 7):
        message = refused(saved(tmp_path / "set", data[:length]))
        assert message.startswith("data-00000-of-00001.arrow")


def test_a_parquet_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = parquet(TABLE)
    for length in range(0, len(data), 61):
        assert "train-00000-of-00001.parquet" in refused(snapshot(tmp_path / "set", data[:length]))


@pytest.mark.parametrize("kind", ["stream", "parquet"])
def test_flipped_bytes_give_a_table_or_a_refusal(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(9)
    sound = stream(TABLE) if kind == "stream" else parquet(TABLE)
    outcomes = set()
    for _ in range(300):
        data = bytearray(sound)
        for at in rng.integers(0, len(data), 3):
            data[at] = int(rng.integers(0, 256))
        folder = (saved if kind == "stream" else snapshot)(tmp_path / "set", bytes(data))
        try:
            outcomes.add(read(folder, max_rows=1_000, max_unpacked_bytes=1 << 22).n_rows > 0)
        except DataRefused as error:
            assert ".arrow" in str(error) or ".parquet" in str(error) or "set" in str(error)  # noqa: PT017
            outcomes.add(False)
    assert outcomes == {True, False}


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_stream_is_refused_before_it_is_unpacked(tmp_path: Path, codec: str) -> None:
    bomb = pa.table({"x": np.zeros(4_000_000)})
    data = stream(bomb, compression=codec)
    assert len(data) < 200_000
    assert "is compressed, which Dataset.save_to_disk does not do" in refused_in_little_memory(
        saved(tmp_path / "set", data)
    )


def test_streams_with_dictionaries_other_files_and_no_stream_are_refused(tmp_path: Path) -> None:
    words = pa.table({"t": pa.array(["a", "b"]).dictionary_encode()})
    assert "holds a dictionary; only plain record batches" in refused(saved(tmp_path / "d", stream(words)))
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert "is an Arrow file, not the stream" in refused(saved(tmp_path / "f", sink.getvalue()))
    assert "is an empty Arrow stream" in refused(saved(tmp_path / "e", b""))
    assert "is not a readable Arrow stream" in refused(saved(tmp_path / "j", b"PK\x03\x04" * 50))


def test_a_stream_that_claims_a_quadrillion_rows_of_nothing_is_refused(tmp_path: Path) -> None:
    nulls = pa.table({"n": pa.nulls(3), "y": [1, 2, 3]})
    assert "column 'n': has type null; only numbers" in refused(saved(tmp_path / "n", stream(nulls)))
    sound = stream(pa.table({"b": pa.array([True] * 11)}))
    lying = sound.replace(struct.pack("<q", 11), struct.pack("<q", 10**15))
    assert lying != sound
    assert "has more than 10000000 rows" in refused_in_little_memory(saved(tmp_path / "b", lying))
    assert "data-00000-of-00001.arrow" in refused(
        saved(tmp_path / "c", sound.replace(struct.pack("<q", 11), struct.pack("<q", 9_999_999)))
    )


def test_lists_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    lists = pa.table({"a": pa.array([[1, 2]] * 13, pa.list_(pa.int64()))})
    sound = stream(lists)
    lying = sound.replace(struct.pack("<q", 26), struct.pack("<q", 2**40))
    assert lying != sound
    assert "data-00000-of-00001.arrow" in refused_in_little_memory(saved(tmp_path / "set", lying))
    assert read(saved(tmp_path / "good", sound)).columns["a"].shape == (13, 2)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([[1, 2], [3]]), "row 2, column 'a': has lists of other lengths than 2"),
        (pa.array([[1, 2], None]), "row 2, column 'a': holds nothing where a list or number should be"),
        (pa.array([[1, 2], [3, None]]), "row 2, column 'a': holds nothing"),
        (pa.array([[[1], [2]], [[3], [4, 5]]]), "row 2, column 'a': has lists of other lengths than 1"),
        (pa.array([[], []], pa.list_(pa.int64())), "column 'a': holds empty lists"),
        (pa.array([[1.0, 2.0], [3.0, float("inf")]]), "row 2, column 'a': is not a finite number"),
        (pa.array([[2**63, 1], [1, 1]], pa.list_(pa.uint64())), "column 'a': is not readable"),
        (pa.array([[[[[[1]]]]]] * 2), "column 'a': has lists nested deeper than 4 levels"),
        (pa.array([["a"], ["b"]]), "column 'a': has type list<"),
        (pa.array([b"a", b"b"]), "column 'a': has type binary; only numbers"),
    ],
)
def test_nested_lists_without_one_shape_are_refused(tmp_path: Path, column: Any, problem: str) -> None:
    table = pa.table({"a": column})
    assert problem in refused(saved(tmp_path / "s", stream(table)))
    assert problem in refused(snapshot(tmp_path / "p", parquet(table)))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a", "a"], "has the class name 'a'; each must be a text of its own"),
        (["a", ""], "has the class name ''"),
        (["a", 3], "has the class name 3"),
        (["a" * 1_001], "has the class name"),
        ([], "must have 1 to 1000 class names"),
        ("ab", "must have 1 to 1000 class names"),
        ([str(i) for i in range(1_001)], "must have 1 to 1000 class names"),
    ],
)
def test_class_names_that_are_none_are_refused(tmp_path: Path, names: object, problem: str) -> None:
    info = json.dumps({"features": {"y": {"names": names, "_type": "ClassLabel"}}}).encode()
    assert problem in refused(saved(tmp_path / "set", stream(TABLE), info=info))


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (b"{", "metadata: is not a JSON object"),
        (b"[" * 100_000, "metadata: is not a JSON object"),
        (b'{"info": 3}', "has metadata whose features are not named"),
        (b'{"info": {"features": [1]}}', "has metadata whose features are not named"),
        (b"\xff\xfe", "metadata: is not a JSON object"),
    ],
)
def test_metadata_that_lie_are_refused(tmp_path: Path, metadata: bytes, problem: str) -> None:
    table = TABLE.replace_schema_metadata({b"huggingface": metadata})
    assert problem in refused(saved(tmp_path / "s", stream(table)))
    assert problem in refused(snapshot(tmp_path / "p", parquet(table)))


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (
            {"_data_files": [{"filename": "../secret.arrow"}]},
            "lists '../secret.arrow', which is no plain name",
        ),
        ({"_data_files": [{"filename": "/etc/passwd"}]}, "lists '/etc/passwd', which is no plain name"),
        ({"_data_files": ["data-00000-of-00001.arrow\n"]}, "which is no plain name"),
        ({"_data_files": [{"filename": 3}]}, "lists 3, which is no plain name"),
        ({"_data_files": []}, "must list 1 to 10000 names"),
        ({"_data_files": ["x"] * 10_001}, "must list 1 to 10000 names"),
        ({}, "must list 1 to 10000 names"),
        ([1], "is not a JSON object"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow: the file is missing"),
        ({"_data_files": ["a"], "_indices_data_files": ["b"]}, "call flatten_indices() before saving"),
    ],
)
def test_a_state_that_points_elsewhere_is_refused(tmp_path: Path, state: object, problem: str) -> None:
    assert problem in refused(saved(tmp_path / "set", stream(TABLE), state=state))


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "is no data set: neither state.json" in refused(tmp_path / "empty")
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert "state.json: is missing" in refused(tmp_path / "split")
    (tmp_path / "split" / "dataset_dict.json").write_text('{"splits": ["../other", "train"]}')
    assert "lists '../other', which is no plain name" in refused(tmp_path / "split")
    (tmp_path / "empty" / "state.json").write_bytes(b"[" * 5_000_000)
    assert "is not a JSON object" in refused(tmp_path / "empty")
    with (tmp_path / "empty" / "state.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "must be a regular file of at most 16777216 bytes" in refused(tmp_path / "empty")


def test_files_that_are_too_large_or_never_end_are_refused_unread(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "set", parquet(TABLE))
    with (folder / "train-00000-of-00001.parquet").open("r+b") as file:
        file.truncate(1 << 40)
    assert f"the split has {1 << 40} bytes; at most" in refused(folder)
    (folder / "train-00000-of-00001.parquet").unlink()
    (folder / "train-00000-of-00001.parquet").symlink_to("/dev/zero")
    assert "must be a regular file" in refused(folder)
    (folder / "train-00000-of-00001.parquet").unlink()
    os.mkfifo(folder / "train-00000-of-00001.parquet")
    assert "must be a regular file" in refused(folder)
    (folder / "train-00000-of-00001.parquet").unlink()
    (folder / "loop").symlink_to(folder)
    assert "is no data set" in refused(folder)


def test_parts_that_differ_are_refused(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "set", parquet(TABLE))
    (folder / "train-00001-of-00002.parquet").write_bytes(parquet(TABLE.drop_columns(["t"])))
    assert "has other columns than train-00000-of-00001.parquet" in refused(folder)
    other = TABLE.set_column(2, "a", pa.array([[1], [2], [3]]))
    (folder / "train-00001-of-00002.parquet").write_bytes(parquet(other))
    assert "column 'a': has rows of different shapes: [(1,), (2,)]" in refused(folder)


def test_limits_hold_over_all_parts(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "set", parquet(TABLE))
    for i in range(1, 4):
        (folder / f"train-0000{i}-of-00004.parquet").write_bytes(parquet(TABLE))
    assert read(folder).n_rows == 12
    assert "has more than 11 rows" in refused(folder, max_rows=11)
    assert "has more than 47 cells" in refused(folder, max_cells=47)
    assert read(folder, max_cells=48).n_rows == 12


def varint(value: int, size: int) -> bytes:
    """Thrift's zigzag integer in a stated number of bytes, which may be more than it needs."""
    rest = value << 1
    out = []
    for i in range(size):
        out.append((rest & 0x7F) | (0x80 if i < size - 1 else 0))
        rest >>= 7
    return bytes(out)


def bomb(n: int) -> bytes:
    """One row that is a list of ``n`` zeros, in less than a kilobyte."""
    row = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), pa.array(np.zeros(n)))
    return parquet(pa.table({"a": row}), compression="zstd")


def test_a_row_of_millions_of_zeros_in_a_kilobyte_is_refused_unread(tmp_path: Path) -> None:
    n = 20_000_000
    data = bomb(n)
    assert len(data) < 1_000
    problem = "column 'a': unpacks to 160000000 bytes; at most 67108864 are allowed"
    assert problem in refused_in_little_memory(snapshot(tmp_path / "set", data))
    # The same with a footer, a page or a statistic that says ten.
    claim = varint(n, 4)
    lies = [i for i in range(len(data)) if data.startswith(claim, i)]
    assert len(lies) > 2
    for at in lies:
        lying = data[:at] + varint(10, 4) + data[at + 4 :]
        folder = snapshot(tmp_path / "set", lying)
        is_footer = pq.read_metadata(io.BytesIO(lying)).row_group(0).column(0).num_values == 10
        message = (
            refused_in_little_memory(folder) if is_footer else refused(folder, max_unpacked_bytes=1 << 26)
        )
        assert message.startswith("train-00000-of-00001.parquet")
    assert read(snapshot(tmp_path / "small", bomb(1_000))).columns["a"].shape == (1, 1_000)


def test_one_picture_in_every_row_is_not_unpacked_before_its_size_is_known(tmp_path: Path) -> None:
    # 10,000 rows that are all the same 20 kB: 200 MB, were they not kept as a dictionary.
    cells = [{"bytes": b"\x00" * 20_000, "path": None}] * 10_000
    table = pa.table({"image": pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
    data = parquet(table)
    assert len(data) < 100_000
    pytest.importorskip("PIL")
    assert "row 1, column 'image': is no readable PNG or JPEG" in refused_in_little_memory(
        snapshot(tmp_path / "set", data)
    )


def test_traces_of_odd_bytes_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        for name in ("t.csv", "t.jsonl"):
            (tmp_path / name).write_bytes(rng.integers(0, 256, 200, dtype=np.uint8).tobytes())
            for kind in (TraceAvailability, FailureTrace):
                with pytest.raises(DataRefused, match=name):
                    kind.read(tmp_path / name)
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataRefused, match="must be a regular file of at most"):
        TraceAvailability.read(tmp_path / "t.csv")


def test_hopeless_demands_on_a_partitioner_end() -> None:
    n = 20_000
    label = np.arange(n) % 10
    with pytest.raises(ConfigRefused, match="were not reached in 10 draws"):
        DirichletPartitioner(2_000, "label", 1e-6, min_partition_size=10).split({"label": label}, n)
    with pytest.raises(ConfigRefused, match="num_partitions: 10000000 given; allowed: 1 to 20000"):
        DirichletPartitioner(10_000_000, "label", 1.0).split({"label": label}, n)
    # Every class runs out but the one that nobody wants.
    shares = [1e9] * 9 + [1e-6]
    parts = InnerDirichletPartitioner([n // 100] * 100, "label", shares).split({"label": label}, n)
    assert len(np.unique(np.concatenate(parts))) == n
    many = np.arange(n) % 1_000
    parts = InnerDirichletPartitioner([n // 100] * 100, "label", 0.001).split({"label": many}, n)
    assert len(np.unique(np.concatenate(parts))) == n
