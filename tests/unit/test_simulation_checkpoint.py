"""Checkpoints: what is written comes back; what was torn, altered or belongs to another run does not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from galaxylearning.errors import ConfigRefused, StorageError
from galaxylearning.simulation.checkpoint import CheckpointFolder

ARRAYS: dict[str, npt.NDArray[Any]] = {
    "params": np.arange(5, dtype=np.float32),
    "step": np.linspace(0, 1, 6).reshape(2, 3),
    "codes": np.array([1, 0, -1], np.int8),
    "none": np.zeros((0, 4), np.int32),
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "a" / "b", "run").save(3, {"reasons": ["", "late"]}, ARRAYS)
    found = CheckpointFolder(tmp_path / "a" / "b", "run").load(3)
    assert found is not None
    header, arrays = found
    assert header["reasons"] == ["", "late"]
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        assert array.shape == ARRAYS[name].shape
        assert np.array_equal(array, ARRAYS[name])
        array[...] = 0  # writable, and nothing but a copy


def test_a_round_that_was_never_saved_is_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path, "run").load(0) is None


@pytest.mark.parametrize("position", [0, 1, 40, -33, -1])
def test_an_altered_file_is_as_good_as_absent(tmp_path: Path, position: int) -> None:
    folder = CheckpointFolder(tmp_path, "run")
    folder.save(0, {}, ARRAYS)
    path = tmp_path / "000000.checkpoint"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    assert folder.load(0) is None


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, 100])
def test_a_torn_file_is_as_good_as_absent(tmp_path: Path, kept: int) -> None:
    folder = CheckpointFolder(tmp_path, "run")
    folder.save(0, {}, ARRAYS)
    path = tmp_path / "000000.checkpoint"
    path.write_bytes(path.read_bytes()[:kept])
    assert folder.load(0) is None


def test_a_file_under_another_rounds_name_is_not_taken(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "run")
    folder.save(0, {}, ARRAYS)
    (tmp_path / "000000.checkpoint").rename(tmp_path / "000001.checkpoint")
    assert folder.load(1) is None


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "one").save(0, {}, ARRAYS)
    with pytest.raises(ConfigRefused, match="another job, data, seed"):
        CheckpointFolder(tmp_path, "two").load(0)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, "run")
    folder.save(0, {}, ARRAYS)

    def full(_descriptor: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        folder.save(1, {}, ARRAYS)
    monkeypatch.undo()
    assert folder.load(0) is not None
    assert folder.load(1) is None
    assert [path.name for path in tmp_path.iterdir()] == ["000000.checkpoint"]


def test_clearing_leaves_nothing(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "run")
    folder.save(0, {}, ARRAYS)
    folder.clear()
    assert folder.load(0) is None
