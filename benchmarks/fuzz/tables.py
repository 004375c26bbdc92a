"""Data files: CSV, npz, Parquet, Arrow, folders of Hugging Face data sets, traces of availability."""

from __future__ import annotations

import atexit
import io
import json
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.fuzz.documents import mutate_json, odd_value, to_plain_json
from benchmarks.fuzz.mutate import BOUNDS, change_bytes
from benchmarks.fuzz.target import Target

from galaxylearning.errors import DataRefused
from galaxylearning.simulation.availability_traces import read_failures, read_presence
from galaxylearning.storage.columns import infer_schema, map_label
from galaxylearning.storage.csv_table import read_csv
from galaxylearning.storage.huggingface_arrow import read_stream
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.npz_table import read_npz
from galaxylearning.storage.parquet_table import read_parquet
from galaxylearning.storage.tables import ReadOptions, Table, TableLimits

LIMITS: Final = TableLimits(
    max_file_bytes=1 << 20, max_unpacked_bytes=1 << 26, max_rows=100_000, max_cells=1_000_000
)
STRICT: Final = ReadOptions(limits=LIMITS)
LENIENT: Final = ReadOptions(limits=LIMITS, allow_missing=True)


def _describe(table: Table, file: str) -> object:
    """What a data owner's node does with a table next."""
    label = list(table.columns)[-1]
    return infer_schema(map_label(table, label, {}, file), label)


def _read(reader: Callable[[bytes, str, ReadOptions], Table], data: bytes) -> object:
    options = STRICT if len(data) % 2 else LENIENT
    return _describe(reader(data, "file", options), "file")


def _csv_seeds() -> list[bytes]:
    rows = "\n".join(f"{i},{i / 7:.3f},{'ab'[i % 2]},x{i % 3}" for i in range(12))
    german = "größe;gewicht;art\n1;2;klein\n3;4;groß\n"
    return [
        f"id,weight,class,site\n{rows}\n".encode(),
        german.encode("latin-1"),
        german.encode("utf-8-sig"),
        b'a\tb\n"1"\t"x ""y"" z"\n2\t"line\nbreak"\n',
        b"a|b\r\n1e5|NA\r\n-.5|?\r\n",
    ]


_CELLS: Final = (
    b"", b"NA", b"nan", b"inf", b"-Infinity", b"1e999", b"1e-999", b"9" * 30, b"9" * 5000, b"0x10", b"1,5",
    b"+1", b"--1", b"1_000", "٣".encode(), b'"', b'""', b'"a""b', b"'1'", b" 1 ", b"\x00",
    b"=cmd|' /C calc'!A0", b"true", b"1e5",
)  # fmt: skip


def mutate_csv(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Cells exchanged for odd ones, rows for others, or the text changed as it lies."""
    data = rng.choice(seeds)
    if rng.random() < 0.4:
        return change_bytes(rng, data, seeds)
    separator = rng.choice((b",", b";", b"\t", b"|")) if rng.random() < 0.2 else b","
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        cells = lines[at].split(separator)
        kind = rng.random()
        if kind < 0.6:
            cells[rng.randrange(len(cells))] = rng.choice(_CELLS)
        elif kind < 0.7:
            cells *= rng.choice((2, 50))
        elif kind < 0.8:
            del cells[rng.randrange(len(cells))]
        else:
            lines.insert(at, lines[rng.randrange(len(lines))])
        lines[at] = separator.join(cells)
    return b"\n".join(lines)


def _npz_seeds() -> list[bytes]:
    sets: list[dict[str, Any]] = [
        {"x": np.arange(6.0).reshape(3, 2), "y": np.array([1, 0, 1]), "s": np.array(["a", "b", "a"])},
        {
            "a": np.array([1.5, np.nan, 2.0]),
            "b": np.array([True, False, True]),
            "c": np.arange(3, dtype=">u2"),
        },
        {"image": np.zeros((2, 4, 4, 3), np.uint8), "label": np.array(["cat", "dog"])},
    ]
    found = []
    for i, arrays in enumerate(sets):
        buffer = io.BytesIO()
        (np.savez_compressed if i % 2 else np.savez)(buffer, **arrays)
        found.append(buffer.getvalue())
    return found


_TYPES: Final = (
    b"'<f8'",
    b"'|O'",
    b"'<U3'",
    b"'<U99999999'",
    b"'>i8'",
    b"'|b1'",
    b"'<c16'",
    b"'<M8[s]'",
    b"'|V9'",
    b"'=f4'",
    b"'<f2'",
    b"'<f16'",
)
_HEADER_PART: Final = re.compile(rb"\((\d+),")


def mutate_npz(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Arrays inside changed and the archive written anew with right checksums, or the bytes as they lie."""
    data = rng.choice(seeds)
    if rng.random() < 0.4:
        return change_bytes(rng, data, seeds)
    entries = _entries(data)
    name = rng.choice(list(entries))
    kind = rng.random()
    if kind < 0.3:
        entries[name] = change_bytes(rng, entries[name])
    elif kind < 0.5:
        number = str(rng.choice(BOUNDS)).encode()
        entries[name] = _HEADER_PART.sub(b"(" + number + b",", entries[name], count=1)
    elif kind < 0.7:
        entries[name] = re.sub(rb"'[<>|=][A-Za-z][0-9]*'", rng.choice(_TYPES), entries[name], count=1)
    elif kind < 0.8:
        entries[str(odd_value(rng, packed=True))[:100].replace("\0", "~") + ".npy"] = entries.pop(name)
    elif kind < 0.9:
        entries[name] = entries[name][:128] + rng.randbytes(len(entries[name][128:]))
    else:
        entries[f"{name}.npy"] = entries[rng.choice(list(entries))]
    return _zipped(entries, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))


@cache
def _unzipped(data: bytes) -> tuple[tuple[str, bytes], ...]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return tuple((name, archive.read(name)) for name in archive.namelist())


def _entries(data: bytes) -> dict[str, bytes]:
    return dict(_unzipped(data))


def _zipped(entries: dict[str, bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return buffer.getvalue()


def _arrow_tables() -> list[Any]:
    features = {"info": {"features": {"y": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}
    plain = pa.table({"x": [0.5, 1.5, 2.5], "t": ["a", "b", "a"], "b": [True, False, True], "y": [0, 1, 0]})
    nested = pa.table({"a": [[1, 2], [3, 4]], "f": [[[0.5], [1.5]], [[2.5], [3.5]]], "y": [0, 1]})
    missing = pa.table({"x": [1.0, None], "t": ["é", None], "y": pa.array([1, 0], pa.int8())})
    return [
        plain.replace_schema_metadata({"huggingface": json.dumps(features)}),
        nested,
        missing,
        plain.slice(0, 2),
    ]


def _parquet_seeds() -> list[bytes]:
    found = []
    settings: tuple[dict[str, Any], ...] = (
        {"compression": "none"},
        {"compression": "snappy", "row_group_size": 1},
        {"use_dictionary": False, "data_page_version": "2.0"},
    )
    for i, table in enumerate(_arrow_tables()):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **settings[i % len(settings)])
        found.append(buffer.getvalue())
    return found


def _plain_parquet_seeds() -> list[bytes]:
    return [data for i, data in enumerate(_parquet_seeds()) if i % 2 == 0]


def _stream_seeds() -> list[bytes]:
    found = []
    for table in _arrow_tables():
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=2):
                writer.write_batch(batch)
        found.append(buffer.getvalue())
    return found


class Folder:
    """A folder in memory, where there is one, for readers that want a path."""

    def __init__(self) -> None:
        root = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
        self._holder = tempfile.TemporaryDirectory(prefix="galaxy-fuzz-", dir=root)
        atexit.register(self._holder.cleanup)
        self.path = Path(self._holder.name)

    def file(self, name: str, data: bytes) -> Path:
        """Write one file; its path."""
        path = self.path / name
        path.write_bytes(data)
        return path


def _saved(folder: Folder, file: str, data: bytes) -> object:
    folder.file(file, data)
    return _describe(read_huggingface(folder.path, STRICT), "folder")


def _saved_folder(name: str) -> Folder:
    folder = Folder()
    if name.endswith(".arrow"):
        folder.file("state.json", json.dumps({"_data_files": [{"filename": name}]}).encode())
        folder.file("dataset_info.json", b"{}")
    return folder


def _state_seeds() -> list[bytes]:
    states: list[Any] = [
        {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_split": None},
        {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": []},
    ]
    return [json.dumps(state).encode() for state in states]


def _features_seeds() -> list[bytes]:
    info = {
        "features": {
            "y": {"_type": "ClassLabel", "names": ["no", "yes"]},
            "x": {"_type": "Value", "dtype": "float64"},
        }
    }
    return [json.dumps(info).encode()]


def _folder_of_documents() -> Folder:
    """A saved data set whose stream is sound and names no features; one of its documents is to come."""
    folder = _saved_folder("data-00000-of-00001.arrow")
    table = _arrow_tables()[3].replace_schema_metadata(None)
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    folder.file("data-00000-of-00001.arrow", buffer.getvalue())
    return folder


def _traced(folder: Folder, suffix: str, data: bytes) -> object:
    path = folder.file(f"trace{suffix}", data)
    read: Callable[[Path], object] = read_failures if b"failure" in data else read_presence
    return read(path)


def _trace_seeds(suffix: str) -> list[bytes]:
    if suffix == ".csv":
        return [
            b"round,owner\n1,0\n2,0\n2,1\n",
            b"owner,start_round,end_round\n0,1,5\n1,2,\n",
            b"owner,start_round,end_round,failure,factor\n0,1,5,drop,\n1,2,3,slow,2.5\n2,4,,crash,\n",
        ]
    rows = (
        [{"round": 1, "owner": 0}, {"round": 2, "owner": "1"}],
        [{"owner": 0, "start_round": 1, "end_round": 5, "failure": "slow", "factor": 3}],
    )
    return ["\n".join(json.dumps(row) for row in lines).encode() for lines in rows]


def targets() -> list[Target]:
    """All of them."""
    refused = (DataRefused,)
    found = [
        Target("csv", _csv_seeds(), partial(_read, read_csv), refused, mutate_csv, share=3.0),
        Target("npz", _npz_seeds(), partial(_read, read_npz), refused, mutate_npz, share=3.0),
        Target("parquet", _plain_parquet_seeds()[:1], partial(_read, read_parquet), refused, share=3.0),
        Target(
            "arrow stream",
            _stream_seeds(),
            lambda data: read_stream(data, "file", LIMITS),
            refused,
            share=2.0,
        ),
    ]
    arrow, parquet = "data-00000-of-00001.arrow", "train-00000-of-00001.parquet"
    streams, files = _stream_seeds(), _parquet_seeds()
    for name, seeds in (
        (arrow, [streams[0], streams[1], streams[3]]),
        (parquet, [files[0], files[1], files[3]]),
    ):
        found.append(
            Target(
                f"data set of {Path(name).suffix}",
                seeds,
                partial(_saved, _saved_folder(name), name),
                refused,
                share=2.0,
            )
        )
    for name, seeds in (("state.json", _state_seeds()), ("dataset_info.json", _features_seeds())):
        found.append(
            Target(
                f"data set's {name}",
                seeds,
                partial(_saved, _folder_of_documents(), name),
                refused,
                mutate_json(to_plain_json),
            )
        )
    traces = [
        Target(f"trace{suffix}", _trace_seeds(suffix), partial(_traced, Folder(), suffix), refused, mutate)
        for suffix, mutate in ((".csv", mutate_csv), (".jsonl", _mutate_lines))
    ]
    return [*found, *traces]


def _mutate_lines(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    lines = rng.choice(seeds).split(b"\n")
    mutate = mutate_json(to_plain_json)
    at = rng.randrange(len(lines))
    lines[at] = mutate(rng, [lines[at]])
    return b"\n".join(lines)
