"""Checkpoints of trainings in a folder: a file each, whole or absent, gone when the update is journalled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import StorageError
from galaxylearning.storage import files

EVERY_S: Final = 10.0
"""A training is saved at most so often: what a restart repeats, and what saving costs."""
MAX_CHECKPOINT_BYTES: Final = 4 << 30


class FileCheckpoint:
    """Implements ``learning.checkpoint.Checkpoint`` in one file.

    A file that is too large or cannot be read counts as none, and one that cannot be written is passed over:
    a checkpoint only saves time.
    """

    def __init__(
        self, path: Path, *, monotonic_s: Callable[[], float], every_s: float, max_bytes: int
    ) -> None:
        self._path, self._monotonic_s = path, monotonic_s
        self._every_s, self._max_bytes = every_s, max_bytes
        self._last_s = monotonic_s()

    def load(self) -> bytes | None:
        """What was saved last, if anything."""
        try:
            return files.read_whole(self._path, max_bytes=self._max_bytes)
        except (FileNotFoundError, StorageError):
            return None

    def is_due(self) -> bool:
        """Whether enough time has passed since the start or the last one."""
        return self._monotonic_s() - self._last_s >= self._every_s

    def save(self, state: bytes) -> None:
        """Replace what was saved, whole or not at all."""
        self._last_s = self._monotonic_s()
        if len(state) > self._max_bytes:
            return
        try:
            files.replace_whole(self._path, state, mode=0o600)
        except StorageError:
            return


class CheckpointFolder:
    """Implements ``ports.Checkpoints``: a folder that nobody but its user may read.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monotonic_s: Callable[[], float],
        every_s: float = EVERY_S,
        max_bytes: int = MAX_CHECKPOINT_BYTES,
    ) -> None:
        files.make_folder(folder, mode=0o700)
        files.sweep(folder)
        self._folder, self._monotonic_s = folder, monotonic_s
        self._every_s, self._max_bytes = every_s, max_bytes

    def of(self, name: str) -> FileCheckpoint:
        """The checkpoint of the training with this name."""
        return FileCheckpoint(
            self._path(name), monotonic_s=self._monotonic_s, every_s=self._every_s, max_bytes=self._max_bytes
        )

    def discard(self, name: str) -> None:
        """Forget a training: its update is journalled.

        Raises:
            StorageError: the file is there and cannot be removed.
        """
        path = self._path(name)
        with files.storage_errors("remove", path):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / blake3_digest(name.encode()).hex()
