"""Data files made to hurt: bombs, pickles, lying headers. Refused, nothing executed, memory bounded."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxylearning.errors import DataRefused
from galaxylearning.storage.npz_table import read_npz
from galaxylearning.storage.parquet_table import read_parquet
from galaxylearning.storage.tables import ReadOptions, Table, TableLimits

MARKER = "galaxylearning-executed"


class Exploit:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def npz(data: bytes, options: ReadOptions | None = None) -> Table:
    return read_npz(data, "t.npz", options or ReadOptions())


def npz_refused(data: bytes, options: ReadOptions | None = None) -> str:
    with pytest.raises(DataRefused) as caught:
        npz(data, options)
    assert str(caught.value).startswith("t.npz")
    return str(caught.value)


def saved(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def archive(entries: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, body: bytes = b"", *, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def described(descr: str = "'<f8'", shape: str = "(1,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def parquet(data: bytes, options: ReadOptions | None = None) -> Table:
    return read_parquet(data, "t.parquet", options or ReadOptions())


def parquet_refused(data: bytes, options: ReadOptions | None = None) -> str:
    with pytest.raises(DataRefused) as caught:
        parquet(data, options)
    assert str(caught.value).startswith("t.parquet")
    return str(caught.value)


def written(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def memory_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


GOOD_NPZ = saved(x=np.arange(6.0).reshape(3, 2), y=np.array([1, 0, 1]), s=np.array(["a", "b", "a"]))
GOOD_PARQUET = written({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "c": ["x", "y", "x"], "d": [True, False, True]})


def test_a_sound_archive_is_read() -> None:
    table = npz(GOOD_NPZ)
    assert table.n_rows == 3
    assert table.columns["x"].shape == (3, 2)
    assert table.columns["y"].tolist() == [1, 0, 1]
    assert table.columns["s"].tolist() == ["a", "b", "a"]


def test_array_orders_and_types_are_kept_apart() -> None:
    table = npz(
        saved(
            f=np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
            big=np.array([1.5, 2.5, 3.5], dtype=">f8"),
            small=np.array([1, 2, 3], dtype=np.uint8),
            flag=np.array([True, False, True]),
        )
    )
    assert table.columns["f"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert table.columns["big"].tolist() == [1.5, 2.5, 3.5]
    assert table.columns["small"].dtype == table.columns["flag"].dtype == np.int64


def test_an_object_array_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    target = tmp_path / MARKER
    payload = np.array([Exploit(target), 1], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, x=payload, y=np.arange(2))
    assert "Python objects" in npz_refused(buffer.getvalue())
    raw = pickle.dumps(Exploit(target))
    npz_refused(raw)
    npz_refused(archive({"x.npy": raw}))
    npz_refused(archive({"x.pkl": raw}))
    npz_refused(archive({"x.npy": npy(described("'|O'"), raw)}))
    npz_refused(archive({"x.npy": npy(described("[('a', '|O')]"), raw)}))
    npz_refused(archive({"x.npy": npy(described("'<f8'", f"__import__('os').mkdir({str(target)!r})"))}))
    assert not target.exists()


def test_a_zip_bomb_is_refused_from_its_directory() -> None:
    bomb = archive({"x.npy": npy(described(shape="(8388608,)")) + bytes(1 << 26)})
    assert len(bomb) < 1 << 20
    before = memory_kib()
    assert "unpacks to" in npz_refused(bomb, ReadOptions(limits=TableLimits(max_unpacked_bytes=1 << 20)))
    assert memory_kib() - before < 32 * 1024


def test_an_archive_that_lies_about_its_sizes_is_refused() -> None:
    data = bytearray(archive({"x.npy": npy(described(shape="(1000,)"), bytes(8000))}))
    directory = data.rindex(b"PK\x01\x02")
    for claimed in (0, 1, 100, 8000, 1 << 30, 0xFFFFFFFE):
        data[directory + 24 : directory + 28] = struct.pack("<I", claimed)
        npz_refused(bytes(data))


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        npy(described())[:-5],
        npy(described(shape="(2,)"), bytes(8)),
        npy(described(shape="(1,)"), bytes(16)),
        npy(described(shape="(1125899906842624,)"), bytes(8)),
        npy(described(shape="(1125899906842624, 1125899906842624)"), bytes(8)),
        npy(described(shape="(-1,)"), bytes(8)),
        npy(described(shape="()"), bytes(8)),
        npy(described(shape="(1,1,1,1,1,1)"), bytes(8)),
        npy(described(shape="(0,)")),
        npy(described(shape="('a',)"), bytes(8)),
        npy(described(shape="(1.5,)"), bytes(8)),
        npy(described(shape="(True,)"), bytes(8)),
        npy(described(shape="[1]"), bytes(8)),
        npy(described(descr="'|V8'"), bytes(8)),
        npy(described(descr="'<c16'"), bytes(16)),
        npy(described(descr="'<M8[s]'"), bytes(8)),
        npy(described(descr="'|S8'"), bytes(8)),
        npy(described(descr="'nonsense'"), bytes(8)),
        npy(described(descr="'<U1000000000'"), bytes(8)),
        npy(described(descr="('<f8', (1000,))"), bytes(8000)),
        npy(described(descr="'<U1'"), b"\xff\xff\xff\xff"),
        npy(described(order="'maybe'"), bytes(8)),
        npy("{}"),
        npy("[" * 3000),
        npy("(" * 3000 + ")" * 3000),
        npy("0" * 60000),
        npy(described() + " " * 5000, bytes(8)),
        npy(described(descr="'<f99999999'"), bytes(8)),
        npy(described(descr="'<U99999999999999'"), bytes(8)),
        npy(described(shape="(" + ", ".join("1" * 40) + ")"), bytes(8)),
        npy(described(descr="'<U1'"), b"\x00\xd8\x00\x00"),
        npy(described(), bytes(8), version=b"\x09\x09"),
        npy(described(), struct.pack("<d", float("nan"))),
        npy(described(), struct.pack("<d", float("inf"))),
        npy(described(descr="'<u8'"), b"\xff" * 8),
    ],
    ids=lambda entry: str(entry[10:70]),
)
def test_a_malformed_array_is_refused(entry: bytes) -> None:
    npz_refused(archive({"x.npy": entry, "y.npy": npy(described(), bytes(8))}))


def test_archives_that_are_no_tables_are_refused() -> None:
    one = npy(described(), bytes(8))
    two = npy(described(shape="(2,)"), bytes(16))
    assert "rows" in npz_refused(archive({"x.npy": one, "y.npy": two}))
    assert "not an array" in npz_refused(archive({"x.npy": one, "setup.py": b"import os"}))
    assert "no columns" in npz_refused(archive({}))
    assert "no name" in npz_refused(archive({".npy": one}))
    assert "at most 10" in npz_refused(
        archive({f"{i}.npy": one for i in range(11)}), ReadOptions(limits=TableLimits(max_columns=10))
    )
    assert "not an array" in npz_refused(archive({"x.npy": one}, method=zipfile.ZIP_LZMA))
    twice = archive({"x.npy": one, "z.npy": one}).replace(b"z.npy", b"x.npy")
    assert "more than one" in npz_refused(twice)
    encrypted = bytearray(archive({"x.npy": one}))
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    npz_refused(bytes(encrypted))


def test_an_archive_cut_anywhere_is_refused() -> None:
    for length in range(0, len(GOOD_NPZ), 7):
        npz_refused(GOOD_NPZ[:length])


def test_an_archive_with_a_flipped_byte_is_refused_or_says_the_same() -> None:
    good = npz(GOOD_NPZ)
    refused = 0
    for at in range(len(GOOD_NPZ)):
        altered = bytearray(GOOD_NPZ)
        altered[at] ^= 0xFF
        try:
            table = npz(bytes(altered))
        except DataRefused:
            refused += 1
            continue
        # What is under no checksum is the directory: names, times, lengths of comments; never a value.
        for values in table.columns.values():
            assert any(np.array_equal(values, sound) for sound in good.columns.values())
    assert refused > len(GOOD_NPZ) // 2


def test_a_sound_parquet_file_is_read() -> None:
    table = parquet(GOOD_PARQUET)
    assert table.n_rows == 3
    assert table.columns["a"].tolist() == [1, 2, 3]
    assert table.columns["b"].tolist() == [0.5, 1.5, 2.5]
    assert table.columns["c"].tolist() == ["x", "y", "x"]
    assert table.columns["d"].tolist() == [1, 0, 1]


def test_several_row_groups_are_one_table() -> None:
    words = ["a", "b", "c", "d", "e"]
    table = parquet(written({"n": range(5), "w": words}, row_group_size=2))
    assert table.columns["n"].tolist() == [0, 1, 2, 3, 4]
    assert table.columns["w"].tolist() == words


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"a": [1, None]}, "row 2, column 'a'"),
        ({"a": ["x", None]}, "row 2, column 'a'"),
        ({"a": ["x", ""]}, "row 2, column 'a'"),
        ({"a": [1.0, float("nan")]}, "row 2, column 'a'"),
        ({"a": [1.0, float("-inf")]}, "row 2, column 'a'"),
        ({"a": [[1], [2]]}, "list"),
        ({"a": [{"b": 1}]}, "struct"),
        ({"a": [b"bytes"]}, "binary"),
        ({"a": pa.array([0], pa.timestamp("s"))}, "timestamp"),
        ({"a": pa.array([None, None], pa.null())}, "null"),
        ({"a": pa.array([2**63], pa.uint64())}, "t.parquet"),
        ({"a": ["x" * 1001]}, "1000 characters"),
        ({"a": pa.array([], pa.int64())}, "no rows"),
        ({"": [1]}, "no name"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(columns: dict[str, Any], part: str) -> None:
    assert part in parquet_refused(written(columns))


def test_missing_cells_are_kept_where_they_are_allowed() -> None:
    options = ReadOptions(allow_missing=True)
    table = parquet(written({"a": [1, None, 3], "b": ["x", None, "y"]}), options)
    np.testing.assert_array_equal(table.columns["a"], [1.0, np.nan, 3.0])
    assert table.columns["b"].tolist() == ["x", "", "y"]
    archived = npz(saved(a=np.array([1.0, np.nan]), b=np.array(["", "x"])), options)
    np.testing.assert_array_equal(archived.columns["a"], [1.0, np.nan])
    assert archived.columns["b"].tolist() == ["", "x"]


def test_stated_kinds_are_kept_or_refused() -> None:
    categories = ReadOptions(kinds={"a": "category"}, only=["a"])
    for table in (parquet(GOOD_PARQUET, categories), npz(saved(a=np.array([1, 2, 3])), categories)):
        assert table.columns["a"].tolist() == ["1", "2", "3"]
    numbers = ReadOptions(kinds={"a": "number"}, only=["a"])
    for table in (parquet(GOOD_PARQUET, numbers), npz(saved(a=np.array([1, 2, 3])), numbers)):
        assert table.columns["a"].dtype == np.float64
    assert "categories" in parquet_refused(GOOD_PARQUET, ReadOptions(kinds={"b": "category"}))
    assert "'integer'" in parquet_refused(GOOD_PARQUET, ReadOptions(kinds={"b": "integer"}))
    assert "texts" in parquet_refused(GOOD_PARQUET, ReadOptions(kinds={"c": "number"}))
    assert "texts" in npz_refused(GOOD_NPZ, ReadOptions(kinds={"s": "number"}))
    assert "categories" in npz_refused(saved(a=np.array([1.5])), ReadOptions(kinds={"a": "category"}))
    assert "'integer'" in npz_refused(saved(a=np.array([1.5])), ReadOptions(kinds={"a": "integer"}))
    assert "no stated kind" in npz_refused(GOOD_NPZ, ReadOptions(kinds={"x": "number"}))


def test_a_parquet_bomb_is_refused_from_its_footer() -> None:
    many_rows = written({"a": np.zeros(5_000_000, dtype=np.int64)})
    assert len(many_rows) < 1 << 20
    limits = TableLimits(max_rows=1000)
    assert "1000 rows" in parquet_refused(many_rows, ReadOptions(limits=limits))
    wide = written({"a": [os.urandom(500).hex() for _ in range(2000)]}, use_dictionary=False)
    unpacked = TableLimits(max_unpacked_bytes=1 << 16)
    assert "unpacks to" in parquet_refused(wide, ReadOptions(limits=unpacked))


def test_a_repeated_text_is_never_multiplied_out() -> None:
    data = written({"a": ["x" * 1000] * 200_000})
    before = memory_kib()
    table = parquet(data)
    assert table.columns["a"][-1] == "x" * 1000
    assert memory_kib() - before < 64 * 1024


def test_a_parquet_file_cut_anywhere_is_refused() -> None:
    for length in range(0, len(GOOD_PARQUET), 13):
        parquet_refused(GOOD_PARQUET[:length])


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_a_parquet_file_with_a_flipped_byte_is_refused_or_a_table(mask: int) -> None:
    """Parquet pages carry no checksum by default: a flip may change a value, but it never crashes."""
    refused = 0
    for at in range(len(GOOD_PARQUET)):
        altered = bytearray(GOOD_PARQUET)
        altered[at] ^= mask
        try:
            table = parquet(bytes(altered), ReadOptions(limits=TableLimits(max_unpacked_bytes=1 << 20)))
        except DataRefused:
            refused += 1
            continue
        assert all(len(values) == table.n_rows for values in table.columns.values())
    assert refused > len(GOOD_PARQUET) // 20


@pytest.mark.parametrize("read", [npz, parquet])
@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 10, b"PK\x03\x04", bytes(1000), b"a,b\n1,2\n"])
def test_what_is_neither_is_refused(read: Callable[[bytes], Table], data: bytes) -> None:
    with pytest.raises(DataRefused):
        read(data)
