"""What was told of a data owner's rows: every job and round, in one file that outlives data sets and jobs.

A data set is known by its file's content and by its name, so that neither adding it again under another name
nor a newer file under the same name starts a new budget. What it cannot know is that two files speak of the
same people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from galaxylearning.errors import DataRefused, StorageError
from galaxylearning.learning.accounting import Release
from galaxylearning.protocol.privacy import Spending
from galaxylearning.storage.database import Database
from galaxylearning.units import Digest

MAX_JOB_CHARS: Final = 300
_SCHEMA: Final = (
    "CREATE TABLE jobs (job TEXT NOT NULL, content BLOB NOT NULL, name TEXT NOT NULL, "
    "requester TEXT NOT NULL, release BLOB, reserved INTEGER NOT NULL, is_open INTEGER NOT NULL, "
    "PRIMARY KEY (job, content, name)) STRICT, WITHOUT ROWID",
    "CREATE TABLE rounds (job TEXT NOT NULL, content BLOB NOT NULL, name TEXT NOT NULL, "
    "round_index INTEGER NOT NULL, PRIMARY KEY (job, content, name, round_index)) STRICT, WITHOUT ROWID",
)
_SPENDINGS: Final = (
    "SELECT job, requester, release, reserved, is_open, (SELECT count(*) FROM rounds WHERE "
    "rounds.job = jobs.job AND rounds.content = jobs.content AND rounds.name = jobs.name) FROM jobs "
)


class SqlitePrivacyBook:
    """Implements ``ports.PrivacyBook`` in one SQLite file that several processes may use.

    ``content_of`` gives the digest of a data set's file by its name.

    Raises:
        StorageError: it is not a privacy book, or the disk failed.
    """

    def __init__(self, path: Path, content_of: Callable[[str], Digest]) -> None:
        self._path, self._content_of = path, content_of
        self._database = Database(
            path,
            kind="privacy book",
            application_id=0x474C5850,
            format_version=1,
            schema=_SCHEMA,
            is_exclusive=False,
        )

    def spendings(self, dataset: str) -> Sequence[Spending]:
        """Everything told of rows with this content or under this name, by job.

        Raises:
            DataRefused: there is no such data set.
            StorageError: the book is damaged, or the disk failed.
        """
        rows = self._database.execute(
            _SPENDINGS + "WHERE content = ? OR name = ? ORDER BY job, content, name",
            (self._content_of(dataset), dataset),
        )
        return [self._spending(*row) for row in rows]

    def reserve(
        self, dataset: str, job: str, requester: str, release: Release | None, rounds: int
    ) -> Spending:
        """Set a job's rounds aside, unless that was done before; what stands there now.

        Raises:
            DataRefused: there is no such data set.
            ValueError: a job's name that is empty or too long, or rounds below 1.
            StorageError: the disk failed; nothing was reserved.
        """
        if not 0 < len(job) <= MAX_JOB_CHARS or rounds < 1:
            raise ValueError(f"a job's name has 1 to {MAX_JOB_CHARS} characters, its rounds are 1 or more")
        content = self._content_of(dataset)
        encoded = None if release is None else msgspec.json.encode(release)
        self._database.execute(
            "INSERT OR IGNORE INTO jobs VALUES (?, ?, ?, ?, ?, ?, 1)",
            (job, content, dataset, requester, encoded, rounds),
        )
        rows = self._database.execute(
            _SPENDINGS + "WHERE job = ? AND content = ? AND name = ?", (job, content, dataset)
        )
        return self._spending(*rows[0])

    def spend(self, dataset: str, job: str, round_index: int) -> None:
        """Record a round, once however often this is called; on disk when it returns.

        Raises:
            DataRefused: there is no such data set, or nothing was reserved for this job.
            StorageError: the disk failed; then no update may leave.
        """
        content = self._content_of(dataset)
        rows = self._database.execute(
            "INSERT INTO rounds SELECT job, content, name, ? FROM jobs "
            "WHERE job = ? AND content = ? AND name = ? "
            "ON CONFLICT DO UPDATE SET round_index = excluded.round_index RETURNING job",
            (round_index, job, content, dataset),
        )
        if not rows:
            raise DataRefused(f"nothing is reserved for job {job[:80]}", where=f"data set {dataset[:80]!r}")

    def close_job(self, job: str) -> None:
        """Free what a job reserved and did not use; its rounds stay.

        Raises:
            StorageError: the disk failed.
        """
        self._database.execute("UPDATE jobs SET is_open = 0 WHERE job = ?", (job,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _spending(
        self, job: str, requester: str, release: bytes | None, reserved: int, is_open: int, rounds: int
    ) -> Spending:
        try:
            found = None if release is None else msgspec.json.decode(release, type=Release)
        except (msgspec.DecodeError, ValueError) as error:
            raise StorageError(f"the privacy book is damaged: {error}", where=str(self._path)) from error
        return Spending(job, requester, found, reserved, rounds, bool(is_open))
