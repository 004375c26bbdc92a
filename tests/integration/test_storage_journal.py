"""One suite for both journals, and what only a file can suffer."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from galaxylearning import ports
from galaxylearning.errors import StorageError
from galaxylearning.storage.journal import MAX_STEP_CHARS, MemoryJournal, SqliteJournal

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


@pytest.fixture(params=["sqlite", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ports.Journal]:
    if request.param == "memory":
        yield MemoryJournal()
        return
    with SqliteJournal(tmp_path / "node" / "journal.db") as opened:
        yield opened


def test_a_step_is_recorded_once(journal: ports.Journal) -> None:
    assert journal.lookup("post") is None
    assert journal.record("post", b"first") == b"first"
    assert journal.record("post", b"second") == b"first"
    assert journal.lookup("post") == b"first"


def test_an_empty_payload_is_a_record(journal: ports.Journal) -> None:
    assert journal.record("done", b"") == b""
    assert journal.lookup("done") == b""
    assert journal.record("done", b"x") == b""


def test_steps_are_listed_by_prefix_in_order_of_recording(journal: ports.Journal) -> None:
    for step in ("round/2", "round/10", "settle", "round_1", "ROUND/3", "round/%", "rundé"):
        journal.record(step, b"")
    assert list(journal.steps("round/")) == ["round/2", "round/10", "round/%"]
    assert len(journal.steps()) == 7
    assert list(journal.steps("nothing")) == []
    assert list(journal.steps("rundé")) == ["rundé"]


@pytest.mark.parametrize("step", ["", "x" * (MAX_STEP_CHARS + 1)])
def test_an_odd_name_is_a_mistake(journal: ports.Journal, step: str) -> None:
    with pytest.raises(ValueError, match="step's name"):
        journal.record(step, b"")
    assert list(journal.steps()) == []


def test_a_journal_remembers_across_opening(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with SqliteJournal(path) as first:
        first.record("a", b"1")
    with SqliteJournal(path) as second:
        assert second.lookup("a") == b"1"
        assert second.record("a", b"2") == b"1"


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    with SqliteJournal(tmp_path / "journal.db") as journal:
        journal.record("a", b"secret")
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_holder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with SqliteJournal(path) as first:
        with pytest.raises(StorageError, match="another process has this journal open"):
            SqliteJournal(path)
        assert first.record("a", b"1") == b"1"
    SqliteJournal(path).close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    program = f"""
import pathlib, sys
from galaxylearning.errors import StorageError
from galaxylearning.storage.journal import SqliteJournal
try:
    SqliteJournal(pathlib.Path({str(path)!r}))
except StorageError as error:
    sys.exit(0 if "another process" in str(error) else 2)
sys.exit(1)
"""
    with SqliteJournal(path):
        held = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, timeout=60, check=False)
    free = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, timeout=60, check=False)
    assert (held.returncode, free.returncode) == (0, 1)


def test_what_was_recorded_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    program = f"""
import pathlib
from galaxylearning.storage.journal import SqliteJournal
journal = SqliteJournal(pathlib.Path({str(path)!r}))
for i in range(1_000_000):
    journal.record(f"step {{i}}", str(i).encode())
    print(i, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert child.stdout is not None
    with child.stdout as lines:
        last = next(int(line) for line in lines if int(line) >= 50)
        child.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in lines if line.endswith("\n"))])
    assert child.wait(timeout=60) == -signal.SIGKILL
    with SqliteJournal(path) as journal:
        steps = journal.steps()
        assert last + 1 <= len(steps) <= last + 2
        assert all(journal.lookup(step) == step.removeprefix("step ").encode() for step in steps)
        assert journal.record("after", b"x") == b"x"


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be looked at" * 40, b"\0" * 4096]
)
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="journal"):
        SqliteJournal(path)


def test_another_programs_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StorageError, match="is not a journal"):
        SqliteJournal(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    connection.close()


def test_a_full_disk_is_a_storage_error_and_nothing_is_recorded(tmp_path: Path) -> None:
    """Past its limit on file sizes the process cannot write, as on a full disk; then there is room again."""
    program = f"""
import pathlib, resource, signal, sys
from galaxylearning.errors import StorageError
from galaxylearning.storage.journal import SqliteJournal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = SqliteJournal(pathlib.Path({str(tmp_path / "journal.db")!r}))
journal.record("small", b"x")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    journal.record("large", bytes(1_000_000))
    sys.exit(1)
except StorageError:
    pass
if journal.lookup("large") is not None or journal.lookup("small") != b"x":
    sys.exit(2)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.exit(0 if journal.record("large", bytes(1_000_000)) == bytes(1_000_000) else 3)
"""
    result = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, timeout=60, check=False)
    assert result.returncode == 0


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.close()
    with pytest.raises(StorageError, match="closed"):
        journal.record("a", b"")
