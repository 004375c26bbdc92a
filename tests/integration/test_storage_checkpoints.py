"""Checkpoints in files: whole or absent, bounded, private, and never a reason to fail."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from galaxylearning.errors import StorageError
from galaxylearning.storage.checkpoints import CheckpointFolder


def folder(path: Path, now: list[float], **options: int) -> CheckpointFolder:
    """Checkpoints by a clock that stands where ``now`` says."""
    return CheckpointFolder(path / "checkpoints", monotonic_s=lambda: now[0], **options)


def test_a_checkpoint_is_due_after_a_while_and_read_after_a_restart(tmp_path: Path) -> None:
    now = [100.0]
    one = folder(tmp_path, now).of("job/1/owner")
    assert one.load() is None
    assert not one.is_due()
    now[0] += 10
    assert one.is_due()
    one.save(b"first")
    assert not one.is_due()
    one.save(b"second")
    again = folder(tmp_path, now)
    assert again.of("job/1/owner").load() == b"second"
    assert again.of("job/2/owner").load() is None
    again.discard("job/1/owner")
    again.discard("job/1/owner")
    assert again.of("job/1/owner").load() is None
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    kept = folder(tmp_path, [0.0])
    kept.of("a").save(b"model")
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_one_that_is_too_large_is_neither_written_nor_read(tmp_path: Path) -> None:
    kept = folder(tmp_path, [0.0], max_bytes=4)
    kept.of("a").save(b"12345")
    assert kept.of("a").load() is None
    folder(tmp_path, [0.0]).of("a").save(b"12345")
    assert kept.of("a").load() is None


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    kept = folder(tmp_path, [0.0])
    one = kept.of("a")
    (tmp_path / "checkpoints").rmdir()
    one.save(b"state")
    assert one.load() is None
    (tmp_path / "checkpoints").write_text("in the way")
    one.save(b"state")
    assert one.load() is None
    with pytest.raises(StorageError):
        folder(tmp_path, [0.0])


def test_what_a_killed_process_half_wrote_is_swept_away(tmp_path: Path) -> None:
    kept = folder(tmp_path, [0.0])
    kept.of("a").save(b"whole")
    (tmp_path / "checkpoints" / ".writing-x").write_bytes(b"half")
    assert folder(tmp_path, [0.0]).of("a").load() == b"whole"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
