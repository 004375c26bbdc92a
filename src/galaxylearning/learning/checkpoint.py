"""Where a long training stood at the end of a pass, so that a restart goes on from there, bit for bit.

What is kept is data, and is read as such: whatever does not belong to exactly this training counts as
nothing, and the training begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32, I64

MAX_RNG_CHARS: Final = 4_096


class Checkpoint(Protocol):
    """A place for the state of one training."""

    def load(self) -> bytes | None:
        """What was saved last, if anything."""
        ...

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        ...

    def save(self, state: bytes) -> None:
        """Replace what was saved, whole or not at all."""
        ...


class LocalState(Protocol):
    """What training changes beside parameters and buffers: what stays with the data owner."""

    def local_bytes(self) -> bytes:
        """All of it as it is now; always of the same length."""
        ...

    def restore_local(self, data: bytes) -> None:
        """Go on from what ``local_bytes`` gave."""
        ...


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: bytes
    step: int
    first_loss: float
    last_loss: float
    parameters: bytes
    buffers: bytes
    memory: tuple[bytes, ...]
    queue: bytes
    rng: str
    local: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """A training after ``step`` steps, at the end of a pass.

    ``parameters`` f32[P], ``buffers`` f32[B], ``memory`` what the optimiser remembers, f32[P] each; ``queue``
    int64[k] are rows drawn and not used yet.
    """

    step: int
    first_loss: float
    last_loss: float
    parameters: F32
    buffers: F32
    memory: tuple[F32, ...]
    queue: I64


class Keeper:
    """Saves and finds the position of one training; without a checkpoint it does nothing.

    A training is the same as another one where plan, number of rows, starting point and chance are.
    ``local`` is saved and restored along with the position.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        plan: LocalPlan,
        n_rows: int,
        start: F32,
        buffers: F32,
        rng: np.random.Generator,
        local: LocalState | None = None,
    ) -> None:
        self._checkpoint, self._n_rows, self._rng, self._local = checkpoint, n_rows, rng, local
        self._run, self._local_size = b"", 0
        if checkpoint is not None:
            told = f"{plan!r} {n_rows} {_state_of(rng)}".encode()
            beside = self._local_bytes()
            self._run = blake3_digest(told + start.tobytes() + buffers.tobytes() + beside)
            self._local_size = len(beside)

    def resume(self, start: F32, buffers: F32, memory: Sequence[F32]) -> Position | None:
        """The position saved last, ``rng`` set to where it stood; None where none is of this training."""
        data = None if self._checkpoint is None else self._checkpoint.load()
        if data is None:
            return None
        try:
            kept = msgspec.msgpack.decode(data, type=_Kept)
        except msgspec.MsgspecError:
            return None
        vectors = (kept.parameters, *kept.memory)
        is_ours = (
            kept.run == self._run
            and kept.step >= 1
            and [len(vector) for vector in vectors] == [start.nbytes] * (1 + len(memory))
            and len(kept.buffers) == buffers.nbytes
            and len(kept.queue) % 8 == 0
            and len(kept.rng) <= MAX_RNG_CHARS
            and len(kept.local) == self._local_size
        )
        if not is_ours:
            return None
        parameters, *remembered = (np.frombuffer(vector, np.float32).copy() for vector in vectors)
        queue = np.frombuffer(kept.queue, np.int64).copy()
        if queue.size and not 0 <= queue.min() <= queue.max() < self._n_rows:
            return None
        try:
            self._rng.bit_generator.state = json.loads(kept.rng)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        if self._local is not None:
            self._local.restore_local(kept.local)
        return Position(
            kept.step,
            kept.first_loss,
            kept.last_loss,
            parameters,
            np.frombuffer(kept.buffers, np.float32).copy(),
            tuple(remembered),
            queue,
        )

    def is_due(self) -> bool:
        """Whether a position is wanted now."""
        return self._checkpoint is not None and self._checkpoint.is_due()

    def save(self, position: Position) -> None:
        """Keep a position."""
        if self._checkpoint is None:
            return
        kept = _Kept(
            run=self._run,
            step=position.step,
            first_loss=position.first_loss,
            last_loss=position.last_loss,
            parameters=position.parameters.tobytes(),
            buffers=position.buffers.tobytes(),
            memory=tuple(each.tobytes() for each in position.memory),
            queue=position.queue.tobytes(),
            rng=_state_of(self._rng),
            local=self._local_bytes(),
        )
        self._checkpoint.save(msgspec.msgpack.encode(kept))

    def _local_bytes(self) -> bytes:
        return b"" if self._local is None else self._local.local_bytes()


def _state_of(rng: np.random.Generator) -> str:
    state: Any = rng.bit_generator.state
    return json.dumps(state, sort_keys=True, default=lambda array: array.tolist())
