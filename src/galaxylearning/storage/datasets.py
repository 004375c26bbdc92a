"""A data owner's data sets: files that stay where they are, described, committed to, and their uses counted.

A data set's commitment is BLAKE3 of a secret salt and the file's digest: it says which bytes were meant
without saying anything about them. Nothing in a data file is ever executed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import DataRefused, StorageError
from galaxylearning.storage import files
from galaxylearning.storage.columns import ColumnInfo, infer_schema, map_label
from galaxylearning.storage.csv_table import read_csv
from galaxylearning.storage.database import Database
from galaxylearning.storage.npz_table import read_npz
from galaxylearning.storage.tables import Kind, ReadOptions, Table, TableLimits
from galaxylearning.units import Digest, Entropy

__all__ = [
    "ColumnInfo",
    "DatasetCatalog",
    "DatasetEntry",
    "ReadOptions",
    "Table",
    "TableLimits",
    "dataset_commitment",
    "infer_schema",
    "load_table",
    "map_label",
    "schema_digest",
]

SALT_BYTES: Final = 32
MAX_NAME_CHARS: Final = 64


def _read_parquet(data: bytes, name: str, options: ReadOptions) -> Table:
    """Parquet's library takes long to load: only who reads Parquet waits for it."""
    from galaxylearning.storage.parquet_table import read_parquet

    return read_parquet(data, name, options)


_READERS: Final[Mapping[str, Callable[[bytes, str, ReadOptions], Table]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".npz": read_npz,
}
_SCHEMA: Final = (
    "CREATE TABLE datasets (name TEXT PRIMARY KEY, entry BLOB NOT NULL) STRICT",
    "CREATE TABLE uses (commitment BLOB NOT NULL, job_id TEXT NOT NULL, round_index INTEGER NOT NULL, "
    "PRIMARY KEY (commitment, job_id, round_index)) STRICT, WITHOUT ROWID",
)


def load_table(path: Path, options: ReadOptions | None = None, *, split: str = "train") -> Table:
    """Read a data file whole: CSV (``.csv .tsv .txt``), Parquet (``.parquet .pq``) or npz (``.npz``).

    A folder is read as a Hugging Face data set on disk, of which ``split`` is taken (``read_huggingface``).

    Raises:
        DataRefused: no such file, an unknown suffix, or anything the reader of that format refuses; the
            message names the file and, where there is one, the row and the column.
        StorageError: the disk failed.
    """
    options = options or ReadOptions()
    if path.is_dir() and path.suffix.lower() not in _READERS:
        from galaxylearning.storage.huggingface_table import read_huggingface

        return read_huggingface(path, options, split=split)
    return _parse(_read_file(path, options), path, options)


def _read_file(path: Path, options: ReadOptions) -> bytes:
    if path.suffix.lower() not in _READERS:
        raise DataRefused(f"must end in one of {', '.join(_READERS)}", where=path.name)
    try:
        # A link is followed here, unlike in a store: the user named this path.
        data = files.read_whole(Path(os.path.realpath(path)), max_bytes=options.limits.max_file_bytes)
    except FileNotFoundError as error:
        raise DataRefused("there is no such file", where=str(path)) from error
    if data is None:
        raise DataRefused(
            f"must be a regular file of at most {options.limits.max_file_bytes} bytes", where=path.name
        )
    if not data:
        raise DataRefused("is empty", where=path.name)
    return data


def _parse(data: bytes, path: Path, options: ReadOptions) -> Table:
    return _READERS[path.suffix.lower()](data, path.name, options)


def dataset_commitment(salt: bytes, content_digest: Digest) -> Digest:
    """BLAKE3(salt || content digest): 32 bytes, the public name of a data set's content."""
    if len(salt) != SALT_BYTES or len(content_digest) != 32:
        raise ValueError(f"a commitment takes {SALT_BYTES} bytes of salt and a 32-byte digest")
    return blake3_digest(salt + content_digest)


def schema_digest(columns: Sequence[ColumnInfo]) -> Digest:
    """BLAKE3 of names, kinds, units, classes, shapes and dtypes as canonical JSON; no statistic enters it."""
    public = [
        {
            "classes": column.classes,
            "dtype": column.dtype,
            "is_label": column.is_label,
            "kind": column.kind,
            "name": column.name,
            "shape": column.shape,
            "unit": column.unit,
        }
        for column in columns
    ]
    return blake3_digest(msgspec.json.encode(public))


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """A registered data set. ``salt`` is secret; ``columns`` describe it with its label already mapped."""

    name: str
    path: str
    label: str
    n_rows: int
    columns: tuple[ColumnInfo, ...]
    units: dict[str, str]
    mapping: dict[str, str]
    kinds: dict[str, Kind]
    only: tuple[str, ...] | None
    content_digest: Digest
    commitment: Digest
    salt: bytes = field(repr=False)

    @property
    def schema_digest(self) -> Digest:
        """Digest of the public part of the schema; see ``schema_digest``."""
        return schema_digest(self.columns)


class DatasetCatalog:
    """The data sets of one data owner, in one SQLite file that several processes may use.

    Raises:
        StorageError: it is not a catalogue, or the disk failed.
    """

    def __init__(self, path: Path, *, limits: TableLimits | None = None) -> None:
        self._limits = limits or TableLimits()
        self._path = path
        self._database = Database(
            path,
            kind="data catalogue",
            application_id=0x474C5844,
            format_version=1,
            schema=_SCHEMA,
            is_exclusive=False,
        )

    def add(
        self,
        name: str,
        path: Path,
        label: str,
        units: Mapping[str, str] | None = None,
        mapping: Mapping[str, str] | None = None,
        *,
        kinds: Mapping[str, Kind] | None = None,
        only: Sequence[str] | None = None,
        entropy: Entropy,
    ) -> DatasetEntry:
        """Read the file at ``path``, check it and register it under ``name``.

        Args:
            label: the column to be learnt.
            units: unit of a column, by its name.
            mapping: from label values in the file to class names.
            kinds: kind of a column where it is not what its cells look like.
            only: columns to use beside the label; all where None.

        Raises:
            DataRefused: a malformed or taken name, or a file that cannot be used; nothing is registered.
            StorageError: the disk failed.
        """
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
            raise DataRefused(f"must be 1 to {MAX_NAME_CHARS} printable characters", where="data set name")
        wanted = None if only is None else tuple(dict.fromkeys((*only, label)))
        options = ReadOptions(kinds=dict(kinds or {}), only=wanted, limits=self._limits)
        data = _read_file(path, options)
        table = map_label(_parse(data, path, options), label, mapping or {}, path.name)
        salt = entropy(SALT_BYTES)
        content_digest = blake3_digest(data)
        entry = DatasetEntry(
            name=name,
            path=os.path.realpath(path),
            label=label,
            n_rows=table.n_rows,
            columns=tuple(infer_schema(table, label, units=units)),
            units=dict(units or {}),
            mapping=dict(mapping or {}),
            kinds=dict(kinds or {}),
            only=wanted,
            content_digest=content_digest,
            commitment=dataset_commitment(salt, content_digest),
            salt=salt,
        )
        rows = self._database.execute(
            "INSERT OR IGNORE INTO datasets VALUES (?, ?) RETURNING name", (name, msgspec.json.encode(entry))
        )
        if not rows:
            raise DataRefused(f"{name!r} is taken", where="data set name")
        return entry

    def list(self) -> Sequence[DatasetEntry]:
        """All registered data sets, by name."""
        rows = self._database.execute("SELECT entry FROM datasets ORDER BY name")
        return [self._decode(row[0]) for row in rows]

    def get(self, name: str) -> DatasetEntry:
        """The data set registered under ``name``.

        Raises:
            DataRefused: there is none.
        """
        rows = self._database.execute("SELECT entry FROM datasets WHERE name = ?", (name,))
        if not rows:
            raise DataRefused("no data set has this name", where=f"data set {name[:80]!r}")
        return self._decode(rows[0][0])

    def remove(self, name: str) -> None:
        """Forget the data set ``name``; its file is left alone, and so is the record of its uses.

        Raises:
            DataRefused: there is none.
        """
        if not self._database.execute("DELETE FROM datasets WHERE name = ? RETURNING name", (name,)):
            raise DataRefused("no data set has this name", where=f"data set {name[:80]!r}")

    def load(self, name: str) -> Table:
        """The table of the data set ``name``, its label mapped, as it was when it was added.

        Raises:
            DataRefused: there is no such data set, or its file is gone or has changed since.
            StorageError: the disk failed.
        """
        entry = self.get(name)
        path = Path(entry.path)
        options = ReadOptions(kinds=entry.kinds, only=entry.only, limits=self._limits)
        data = _read_file(path, options)
        if blake3_digest(data) != entry.content_digest:
            raise DataRefused(
                "the file has changed since it was added; remove the data set and add it again",
                where=f"data set {name!r}",
            )
        return map_label(_parse(data, path, options), entry.label, entry.mapping, path.name)

    def record_use(self, name: str, job_id: int, round_index: int) -> int:
        """Count one use of ``name`` in a round of a job, once however often this is called; the count.

        Raises:
            DataRefused: there is no such data set.
        """
        commitment = self.get(name).commitment
        self._database.execute(
            "INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", (commitment, str(job_id), round_index)
        )
        return self._count(commitment, job_id)

    def uses(self, name: str, job_id: int) -> int:
        """In how many rounds of a job the data set ``name`` was used.

        Raises:
            DataRefused: there is no such data set.
        """
        return self._count(self.get(name).commitment, job_id)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _count(self, commitment: Digest, job_id: int) -> int:
        rows = self._database.execute(
            "SELECT count(*) FROM uses WHERE commitment = ? AND job_id = ?", (commitment, str(job_id))
        )
        return int(rows[0][0])

    def _decode(self, data: bytes) -> DatasetEntry:
        try:
            return msgspec.json.decode(data, type=DatasetEntry)
        except msgspec.DecodeError as error:
            raise StorageError(f"the data catalogue is damaged: {error}", where=str(self._path)) from error
