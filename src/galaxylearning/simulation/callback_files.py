"""Files that grow by whole records: of a record that does not fit on the disk nothing stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from galaxylearning.errors import StorageError
from galaxylearning.storage.files import make_folder, storage_errors

MAX_RECORD: Final = 1 << 30


class Appender:
    """A file that is written record by record, each handed to the operating system at once."""

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        """Open ``path`` for writing after its first ``keep`` bytes; what follows them is cut off.

        Raises:
            StorageError: the folder or the file cannot be made.
        """
        make_folder(path.parent)
        self.path = path
        with storage_errors("open", path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with storage_errors("cut", path):
                os.ftruncate(self._descriptor, keep)
                os.lseek(self._descriptor, keep, os.SEEK_SET)
        except StorageError:
            self.close()
            raise
        self._size = keep

    def append(self, record: bytes) -> None:
        """Write all of ``record``, or nothing.

        Raises:
            StorageError: the disk is full or failed; what was written before stays.
        """
        if self._descriptor < 0:
            raise StorageError("is closed already", where=str(self.path))
        try:
            with storage_errors("write", self.path):
                view = memoryview(record)
                while view:
                    view = view[os.write(self._descriptor, view) :]
        except StorageError:
            with storage_errors("cut", self.path):
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += len(record)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with storage_errors("close", self.path):
                os.close(descriptor)


def kept_bytes(path: Path, keep: Callable[[bytes], bool]) -> int:
    """How many bytes the first whole lines of a file have for which ``keep`` holds; 0 if there is no file.

    Raises:
        StorageError: the file cannot be read.
    """
    size = 0
    with storage_errors("read", path):
        if not path.exists():
            return 0
        with path.open("rb") as file:
            while line := file.readline(MAX_RECORD):
                if not line.endswith(b"\n") or not keep(line):
                    break
                size += len(line)
    return size
