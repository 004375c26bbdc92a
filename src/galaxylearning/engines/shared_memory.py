"""Memory that two processes see, and where the arrays of a round lie in it. Knows no model."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.learning.vectors import F32

Array: TypeAlias = npt.NDArray[Any]

ALIGNMENT = 64
PLACES = 2
"""Rows of this many owners can lie ready for each worker: one in training, one that waits."""


class SharedMemory:
    """Pages without a name, seen by everybody who maps the same file descriptor; gone with the last of them.

    Untouched pages take no memory, so a layout may be generous.

    Raises:
        OSError: the system gives no such memory.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size)

    @classmethod
    def create(cls, size: int) -> SharedMemory:
        """New memory of ``size`` bytes, all zero."""
        fd = _anonymous_file()
        try:
            os.ftruncate(fd, size)
            return cls(fd, size)
        except BaseException:
            os.close(fd)
            raise

    def array(self, dtype: str, shape: tuple[int, ...], offset: int) -> Array:
        """A view of the memory; it keeps the pages alive."""
        flat: Array = np.frombuffer(self._map, dtype=dtype, count=math.prod(shape), offset=offset)
        return flat.reshape(shape)

    def write(self, data: bytes, offset: int) -> None:
        """Copy ``data`` to ``offset``."""
        self._map[offset : offset + len(data)] = data

    def read(self, offset: int, length: int) -> bytes:
        """A copy of ``length`` bytes from ``offset``."""
        return self._map[offset : offset + length]

    def close_descriptor(self) -> None:
        """Let go of the descriptor; may be called twice. The pages go with the last view of them."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("galaxy-workers", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as unlinked:
        return os.dup(unlinked.fileno())


@dataclass(frozen=True, slots=True)
class RowShape:
    """One row of a pool: element types as numpy writes them ("<f4") and shapes without the batch."""

    inputs: str
    input_shape: tuple[int, ...]
    labels: str
    label_shape: tuple[int, ...]

    @property
    def input_bytes(self) -> int:
        """Size of one row's input in bytes."""
        return _bytes(self.inputs, self.input_shape)

    @property
    def label_bytes(self) -> int:
        """Size of one row's label in bytes."""
        return _bytes(self.labels, self.label_shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies: the round's model, a slot for each result, two places of rows for each worker.

    A slot holds an update f32[parameters] and buffers f32[buffers]; a place holds up to ``rows`` rows.
    """

    parameters: int
    buffers: int
    slots: int
    workers: int
    rows: int
    row: RowShape

    @property
    def size(self) -> int:
        """Bytes of the whole memory."""
        return self._places + self.workers * PLACES * self.place_bytes

    @property
    def place_bytes(self) -> int:
        """Bytes of one place."""
        return _aligned(self.rows * self.row.input_bytes) + _aligned(self.rows * self.row.label_bytes)

    def params(self, memory: SharedMemory) -> F32:
        """The parameters every owner of the round starts from, f32[P]."""
        return memory.array("<f4", (self.parameters,), 0)

    def state(self, memory: SharedMemory) -> F32:
        """The buffers every owner of the round starts from, f32[B]."""
        return memory.array("<f4", (self.buffers,), _aligned(4 * self.parameters))

    def updates(self, memory: SharedMemory) -> F32:
        """The updates of all slots, f32[slots, P]."""
        return memory.array("<f4", (self.slots, self.parameters), self._slots)

    def states(self, memory: SharedMemory) -> F32:
        """The buffers of all slots after training, f32[slots, B]."""
        return memory.array("<f4", (self.slots, self.buffers), self._states)

    def places(self, memory: SharedMemory, worker: int) -> tuple[tuple[Array, Array], ...]:
        """The places of one worker: inputs and labels of up to ``rows`` rows each."""
        found = []
        for place in range(PLACES):
            start = self._places + (worker * PLACES + place) * self.place_bytes
            labels = start + _aligned(self.rows * self.row.input_bytes)
            found.append(
                (
                    memory.array(self.row.inputs, (self.rows, *self.row.input_shape), start),
                    memory.array(self.row.labels, (self.rows, *self.row.label_shape), labels),
                )
            )
        return tuple(found)

    @property
    def _slots(self) -> int:
        return _aligned(4 * self.parameters) + _aligned(4 * self.buffers)

    @property
    def _states(self) -> int:
        return self._slots + _aligned(4 * self.slots * self.parameters)

    @property
    def _places(self) -> int:
        return self._states + _aligned(4 * self.slots * self.buffers)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return np.dtype(dtype).itemsize * math.prod(shape)
