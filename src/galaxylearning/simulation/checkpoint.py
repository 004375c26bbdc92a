"""Checkpoints of a simulation: one file a round, each whole or not there, each with its own digest.

A file holds a JSON header and named arrays, then BLAKE3 over all of it. A torn or altered file is as good as
absent: the run is taken up from the last round before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph.document import nesting
from galaxylearning.messages.fields import DIGEST_BYTES
from galaxylearning.simulation.history import MAX_NESTING
from galaxylearning.storage.files import make_folder, read_whole, replace_whole, sweep

VERSION: Final = 1
MAX_FILE_BYTES: Final = 1 << 33
KINDS: Final = ("float32", "float64", "int8", "int16", "int32", "int64")


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    header: bytes
    arrays: tuple[_Array, ...]


class CheckpointFolder:
    """The checkpoints of one run; ``fingerprint`` stands for everything that decides its course.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        make_folder(folder)
        sweep(folder)
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, round_index: int, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the checkpoint of one round; earlier ones stay as they are.

        Raises:
            StorageError: the disk is full or failed; the checkpoints before this one are untouched.
        """
        text = json.dumps({**header, "fingerprint": self.fingerprint, "round": round_index})
        packed = tuple(
            _Array(name, array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes())
            for name, array in arrays.items()
        )
        body = msgspec.msgpack.encode(_File(VERSION, text.encode(), packed))
        replace_whole(_path(self.folder, round_index), body + blake3_digest(body))

    def load(self, round_index: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Header and arrays of one round's checkpoint; None where there is no sound one of this run.

        Raises:
            ConfigRefused: it is there and sound, but of another run.
        """
        found = read_checkpoint(self.folder, round_index)
        if found is None:
            return None
        header, arrays = found
        if header.get("fingerprint") != self.fingerprint:
            raise ConfigRefused(
                "is of a run with another job, data, seed or behaviours; choose another folder, or leave "
                "--resume out to begin anew",
                where=str(_path(self.folder, round_index)),
            )
        return header, arrays

    def rounds(self) -> int:
        """How many rounds the run in this folder came to: up to the last that has a file."""
        return max((int(path.stem) + 1 for path in self.folder.glob("[0-9]*.checkpoint")), default=0)

    def clear(self) -> None:
        """Remove all checkpoints: a run begins anew."""
        for path in self.folder.glob("*.checkpoint"):
            path.unlink(missing_ok=True)


def read_checkpoint(folder: Path, round_index: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Header and arrays of a round's checkpoint, whichever run it is of; None where there is no sound one."""
    try:
        data = read_whole(_path(folder, round_index), max_bytes=MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    if data is None or blake3_digest(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        return None
    try:
        file = msgspec.msgpack.decode(data[:-DIGEST_BYTES], type=_File)
        if nesting(file.header) > MAX_NESTING:
            return None
        header = json.loads(file.header)
        arrays = {array.name: _array(array) for array in file.arrays}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if file.version != VERSION or not isinstance(header, dict) or header.get("round") != round_index:
        return None
    return header, arrays


def _path(folder: Path, round_index: int) -> Path:
    return folder / f"{round_index:06d}.checkpoint"


def _array(array: _Array) -> NDArray[Any]:
    if array.dtype not in KINDS or any(size < 0 for size in array.shape):
        raise ValueError("an unknown kind of array")
    kind = np.dtype(array.dtype)
    if math.prod(array.shape) * kind.itemsize != len(array.data):
        raise ValueError("an array of another size than it says")
    return np.frombuffer(array.data, kind).reshape(array.shape).copy()
