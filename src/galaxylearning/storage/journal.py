"""A node's memory: a write-once record of each step, on disk before the step has any effect.

``SqliteJournal`` survives ``kill -9`` and power failures: what ``record`` returned is there after a restart.
One process at a time may hold a journal, for two nodes with one memory would do everything twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from galaxylearning.errors import StorageError
from galaxylearning.ports import MAX_STEP_BYTES
from galaxylearning.storage.database import Database

MAX_STEP_CHARS: Final = 500

_SCHEMA: Final = (
    "CREATE TABLE steps (id INTEGER PRIMARY KEY, step TEXT NOT NULL UNIQUE, payload BLOB NOT NULL) STRICT",
)


def _check(step: str, payload: bytes) -> None:
    if not 0 < len(step) <= MAX_STEP_CHARS:
        raise ValueError(f"a step's name has 1 to {MAX_STEP_CHARS} characters, not {len(step)}")
    if len(payload) > MAX_STEP_BYTES:
        raise ValueError(f"a step's payload has at most {MAX_STEP_BYTES} bytes, not {len(payload)}")


def _payload(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise StorageError("the journal is damaged: a payload is not bytes")
    return value


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
        self._database = Database(
            path,
            kind="journal",
            application_id=0x474C584A,
            format_version=1,
            schema=_SCHEMA,
            is_exclusive=True,
        )

    def record(self, step: str, payload: bytes) -> bytes:
        """Store ``payload`` under ``step`` unless something is there; returns what is there now.

        When this returns, the record is on disk.

        Raises:
            StorageError: the disk is full or failed; nothing was recorded.
        """
        _check(step, payload)
        self._database.execute("INSERT OR IGNORE INTO steps (step, payload) VALUES (?, ?)", (step, payload))
        return _payload(self._database.execute("SELECT payload FROM steps WHERE step = ?", (step,))[0][0])

    def lookup(self, step: str) -> bytes | None:
        """What was recorded under ``step``, if anything."""
        rows = self._database.execute("SELECT payload FROM steps WHERE step = ?", (step,))
        return _payload(rows[0][0]) if rows else None

    def steps(self, prefix: str = "") -> Sequence[str]:
        """Names of the recorded steps that begin with ``prefix``, in the order of recording."""
        rows = self._database.execute(
            "SELECT step FROM steps WHERE substr(step, 1, ?) = ? ORDER BY id", (len(prefix), prefix)
        )
        return [row[0] for row in rows]

    def close(self) -> None:
        """Let another process have the journal."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
