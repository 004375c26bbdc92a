"""Whole files, written once or replaced at once, and read with a limit. POSIX file systems.

A reader never sees half a file and a full disk leaves nothing behind: bytes go to a temporary file
beside the target, are synced, and take their name in one step.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from galaxylearning.errors import StorageError

TEMPORARY_PREFIX: Final = ".writing-"
_STEP_BYTES: Final = 1 << 20


@contextmanager
def storage_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``StorageError`` that says what was being done to which path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"could not {doing}: {error.strerror or error}", where=str(path)) from error


def make_folder(path: Path, *, mode: int = 0o777) -> None:
    """Create a folder and its parents unless it is there.

    Raises:
        StorageError: it cannot be made, or something else has its name.
    """
    with storage_errors("make the folder", path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)


def write_once(path: Path, data: bytes, *, folder: Path, mode: int = 0o644) -> bool:
    """Durably create ``path`` holding ``data`` unless it exists; returns whether this call created it.

    ``folder`` is where the temporary file lives, on the same file system.

    Raises:
        StorageError: the disk is full or failed; nothing is left half-done.
    """
    with storage_errors("write", path):
        if path.exists():
            return False
        with _written(data, folder, mode) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        sync_folder(path.parent)
        return True


def replace_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Durably replace ``path`` by ``data`` in one step.

    Raises:
        StorageError: the disk is full or failed; the old file is untouched.
    """
    with storage_errors("write", path):
        with _written(data, path.parent, mode) as temporary:
            temporary.replace(path)
        sync_folder(path.parent)


@contextmanager
def _written(data: bytes, folder: Path, mode: int) -> Iterator[Path]:
    """A synced temporary file holding ``data``, gone afterwards unless it was renamed."""
    with temporary_file(folder, mode=mode) as (temporary, file):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        yield temporary


@contextmanager
def temporary_file(folder: Path, *, mode: int = 0o644) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in ``folder`` to be written, gone afterwards unless it was renamed.

    It is locked for as long as it is needed: what nobody has locked is debris (see ``sweep``).
    """
    while True:
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                continue  # swept away before it was locked
            try:
                os.fchmod(descriptor, mode)
                yield temporary, file
            finally:
                temporary.unlink(missing_ok=True)
        return


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left in ``folder``; those being written are locked."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def read_whole(path: Path, *, max_bytes: int) -> bytes | None:
    """Contents of a regular file; None where it is larger than ``max_bytes`` or not a regular file.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    file = open_regular(path)
    if file is None:
        return None
    with file, storage_errors("read", path):
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            return None
        # In steps: the whole limit in one would be allocated, whatever the file's size.
        data = file.read(size + 1)
        while len(data) <= max_bytes and (more := file.read(_STEP_BYTES)):
            data += more
    return data if len(data) <= max_bytes else None


def open_regular(path: Path) -> BinaryIO | None:
    """A regular file to read; None where something else has that name.

    Links are not followed and a pipe or device is never waited for.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            return None
        raise StorageError(f"could not read: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")
