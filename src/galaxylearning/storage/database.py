"""One SQLite file: its format checked, every write synced, every failure a ``StorageError``."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from galaxylearning.errors import DiskFull, StorageError
from galaxylearning.storage import files

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SHARED_WAIT_S: Final = 5.0
_CACHE_KIB: Final = 64
"""Of pages in memory: what is written here is seldom read again, and a machine may hold many of these."""


class Database:
    """A database of one kind and format.

    ``is_exclusive`` keeps every other process out until ``close``; otherwise a writer waits up to five
    seconds for others. The file is readable by its user only. Calls may come from any thread.

    Raises:
        StorageError: another process holds it, it is of another kind or format, or the disk failed.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: str,
        application_id: int,
        format_version: int,
        schema: Sequence[str],
        is_exclusive: bool,
    ) -> None:
        self._path = path
        self._kind = kind
        self._lock = threading.Lock()
        files.make_folder(path.parent)
        with files.storage_errors("open", path):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with self._storage_errors():
            self._connection = sqlite3.connect(
                path,
                timeout=0 if is_exclusive else _SHARED_WAIT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            self._prepare((application_id, format_version), schema, is_exclusive)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, marks: tuple[int, int], schema: Sequence[str], is_exclusive: bool) -> None:
        execute = self._connection.execute
        with self._storage_errors():
            if is_exclusive:
                # From the first access until close; a second holder gets "database is locked".
                execute("PRAGMA locking_mode=EXCLUSIVE")
            execute("PRAGMA journal_mode=WAL")
            execute("PRAGMA synchronous=FULL")
            execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            execute("BEGIN IMMEDIATE")
            if execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in schema:
                    execute(statement)
                execute(f"PRAGMA application_id={marks[0]}")
                execute(f"PRAGMA user_version={marks[1]}")
            execute("COMMIT")
            found = (
                execute("PRAGMA application_id").fetchone()[0],
                execute("PRAGMA user_version").fetchone()[0],
            )
        if found != marks:
            raise StorageError(f"is not a {self._kind} of format {marks[1]}", where=str(self._path))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement as its own transaction; its rows. When this returns, what it wrote is on disk.

        Raises:
            StorageError: the disk is full or failed, or another process kept the file too long.
        """
        with self._lock, self._storage_errors():
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Let others have the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a damaged file may hold any text
            code = getattr(error, "sqlite_errorcode", None)
            if code in _BUSY:
                message = f"another process has this {self._kind} open; one at a time may use it"
            else:
                message = f"the {self._kind} cannot be used: {error}"
            kind = DiskFull if code == sqlite3.SQLITE_FULL else StorageError
            raise kind(message, where=str(self._path)) from error
