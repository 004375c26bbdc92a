"""A node's memory: a write-once record of each step, on disk before the step has any effect.

``SqliteJournal`` survives ``kill -9`` and power failures: what ``record`` returned is there after a restart.
One process at a time may hold a journal, for two nodes with one memory would do everything twice.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from galaxylearning.errors import StorageError
from galaxylearning.storage import files

MAX_STEP_CHARS: Final = 500
MAX_PAYLOAD_BYTES: Final = 1 << 28
_APPLICATION_ID: Final = 0x474C584A
_FORMAT: Final = 1


def _check(step: str, payload: bytes | None = None) -> None:
    if not 0 < len(step) <= MAX_STEP_CHARS:
        raise ValueError(f"a step's name has 1 to {MAX_STEP_CHARS} characters, not {len(step)}")
    if payload is not None and len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a step's payload has at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")


class MemoryJournal:
    """A journal that is forgotten with the process: for tests."""

    def __init__(self) -> None:
        self._steps: dict[str, bytes] = {}

    def record(self, step: str, payload: bytes) -> bytes:
        """Store ``payload`` under ``step`` unless something is there; returns what is there now."""
        _check(step, payload)
        return self._steps.setdefault(step, bytes(payload))

    def lookup(self, step: str) -> bytes | None:
        """What was recorded under ``step``, if anything."""
        return self._steps.get(step)

    def steps(self, prefix: str = "") -> Sequence[str]:
        """Names of the recorded steps that begin with ``prefix``, in the order of recording."""
        return [step for step in self._steps if step.startswith(prefix)]


class SqliteJournal:
    """A journal in one SQLite file: WAL, every record synced, one holder.

    Raises:
        StorageError: another process holds it, it is not a journal, or the disk failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        files.make_folder(path.parent)
        with self._storage_errors():
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        with self._storage_errors():
            # Exclusive from the first access until close: a second holder gets "database is locked".
            execute("PRAGMA locking_mode=EXCLUSIVE")
            execute("PRAGMA journal_mode=WAL")
            execute("PRAGMA synchronous=FULL")
            execute("BEGIN IMMEDIATE")
            is_new = execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if is_new:
                execute(
                    "CREATE TABLE steps (id INTEGER PRIMARY KEY, step TEXT NOT NULL UNIQUE, "
                    "payload BLOB NOT NULL) STRICT"
                )
                execute(f"PRAGMA application_id={_APPLICATION_ID}")
                execute(f"PRAGMA user_version={_FORMAT}")
            execute("COMMIT")
            marks = (
                execute("PRAGMA application_id").fetchone()[0],
                execute("PRAGMA user_version").fetchone()[0],
            )
        if marks != (_APPLICATION_ID, _FORMAT):
            raise StorageError(f"is not a journal of format {_FORMAT}", where=str(self._path))

    def record(self, step: str, payload: bytes) -> bytes:
        """Store ``payload`` under ``step`` unless something is there; returns what is there now.

        When this returns, the record is on disk.

        Raises:
            StorageError: the disk is full or failed; nothing was recorded.
        """
        _check(step, payload)
        with self._lock, self._storage_errors():
            self._connection.execute(
                "INSERT OR IGNORE INTO steps (step, payload) VALUES (?, ?)", (step, payload)
            )
            row = self._connection.execute("SELECT payload FROM steps WHERE step = ?", (step,)).fetchone()
            return bytes(row[0])

    def lookup(self, step: str) -> bytes | None:
        """What was recorded under ``step``, if anything."""
        with self._lock, self._storage_errors():
            row = self._connection.execute("SELECT payload FROM steps WHERE step = ?", (step,)).fetchone()
            return None if row is None else bytes(row[0])

    def steps(self, prefix: str = "") -> Sequence[str]:
        """Names of the recorded steps that begin with ``prefix``, in the order of recording."""
        with self._lock, self._storage_errors():
            rows = self._connection.execute(
                "SELECT step FROM steps WHERE substr(step, 1, ?) = ? ORDER BY id", (len(prefix), prefix)
            )
            return [row[0] for row in rows]

    def close(self) -> None:
        """Let another process have the journal."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                message = "another process has this journal open; one node at a time may use it"
            else:
                message = f"the journal cannot be used: {error}"
            raise StorageError(message, where=str(self._path)) from error
