"""A round as the data owners play it: what training gave comes in, what they send goes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from galaxylearning.engines.engine import Trained
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F32, F64, I64
from galaxylearning.simulation.behaviours_base import NOBODY, AttackView, Bool, single
from galaxylearning.simulation.behaviours_cast import Cast

IDLE_ROWS: Final = 1024
_UPDATES: Final = 0xAC75


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What everybody knows in a round: the model f32[P] and f32[B], its last change f64[P], the clip norm."""

    round_index: int
    params: F32
    buffers: F32
    clip_norm: float
    last_global_step: F64 | None = None


def perform(cast: Cast, trained: Iterable[Trained], scene: Scene, *, senders: I64) -> Iterator[Trained]:
    """What the data owners send in a round, from what training gave.

    ``senders`` int64[m] are all who send something, ascending; ``trained`` are the results of those of them
    that train (``cast.trains``), in that order. Results come as they are ready: those who act in concert at
    the end. Who did not train has taken 0 steps and sends the buffers it received; whose training failed
    stays failed. Arrays may be overwritten once the next results are asked for.

    Raises:
        ConfigRefused: a behaviour gave updates of another shape.
    """
    stage = _Stage(cast, scene, senders)
    for chunk in trained:
        yield from stage.take(chunk)
    yield from stage.idle_alone()
    yield from stage.in_concert()


class _Stage:
    """One round: training results are sorted into what is sent at once and what waits for the others."""

    def __init__(self, cast: Cast, scene: Scene, senders: I64) -> None:
        self._cast, self._scene, self._senders = cast, scene, senders
        kinds = cast.behaviours
        self._acts = np.array([("never", "alone", "together").index(kind.acts) for kind in kinds])
        self._groups = {
            number: senders[cast.plays[senders] == number]
            for number in np.unique(cast.plays[senders]).tolist()
        }
        self._needs_honest = any(kinds[number].needs_honest for number in self._groups)
        self._rngs = {
            number: np.random.default_rng([cast.seed, _UPDATES, scene.round_index, number])
            for number in self._groups
        }
        self._honest: list[tuple[I64, F32]] = []
        self._waiting: list[Trained] = []

    def take(self, chunk: Trained) -> Iterator[Trained]:
        """Send on what does not wait."""
        acts = self._acts[self._cast.plays[chunk.owners]]
        if self._needs_honest:
            works = np.array([owner not in chunk.failures for owner in chunk.owners.tolist()], np.bool_)
            honest = (acts == 0) & works
            self._honest.append((chunk.owners[honest], chunk.updates[honest]))
        if not acts.any():
            yield chunk
            return
        if (acts == 2).any():
            self._waiting.append(_part(chunk, acts == 2))
            chunk = _part(chunk, acts != 2)
        if len(chunk.owners):
            yield self._alone(chunk)

    def _alone(self, chunk: Trained) -> Trained:
        """Let those who act for themselves change their rows."""
        plays = self._cast.plays[chunk.owners]
        updates = chunk.updates.copy()
        for number in np.unique(plays[self._acts[plays] == 1]).tolist():
            mine = np.flatnonzero(plays == number)
            updates[mine] = self._update(number, chunk.owners[mine], chunk.updates[mine], None)
        if chunk.failures:
            updates[np.isin(chunk.owners, list(chunk.failures))] = 0
        return replace(chunk, updates=updates)

    def idle_alone(self) -> Iterator[Trained]:
        """Those who do not train and act for themselves, some at a time."""
        for number, group in self._groups.items():
            behaviour = self._cast.behaviours[number]
            if behaviour.trains or behaviour.acts == "together":
                continue
            for start in range(0, len(group), IDLE_ROWS):
                owners = group[start : start + IDLE_ROWS]
                idle = self._untrained(owners)
                if behaviour.acts == "never":
                    yield idle
                else:
                    yield replace(idle, updates=self._update(number, owners, idle.updates, None))

    def in_concert(self) -> Iterator[Trained]:
        """Those who act together, one group after the other, once everybody's training is done."""
        honest = _joined(self._honest, self._scene.params.size) if self._needs_honest else None
        waiting = self._waiting
        for number, group in self._groups.items():
            behaviour = self._cast.behaviours[number]
            if behaviour.acts != "together":
                continue
            if behaviour.trains:
                mine = [_part(chunk, self._cast.plays[chunk.owners] == number) for chunk in waiting]
                own = _merged([chunk for chunk in mine if len(chunk.owners)])
            else:
                own = self._untrained(group)
            if own is None:
                continue
            works = np.array([owner not in own.failures for owner in own.owners.tolist()], np.bool_)
            updates = own.updates.copy()
            if works.any():
                seen = honest if behaviour.needs_honest else None
                updates[works] = self._update(number, own.owners[works], own.updates[works], seen)
            yield replace(own, updates=updates)

    def _untrained(self, owners: I64) -> Trained:
        count, scene = len(owners), self._scene
        return Trained(
            owners,
            np.zeros((count, scene.params.size), np.float32),
            np.repeat(scene.buffers[None], count, axis=0),
            np.zeros(count, np.int64),
            np.full((count, 2), np.nan),
        )

    def _update(self, number: int, owners: I64, own: F32, honest: tuple[I64, F32] | None) -> F32:
        behaviour, scene = self._cast.behaviours[number], self._scene
        view = AttackView(
            round_index=scene.round_index,
            params=scene.params,
            owners=owners,
            own=own,
            clip_norm=scene.clip_norm,
            cohort_size=len(self._senders),
            last_global_step=scene.last_global_step,
            honest=None if honest is None else honest[1],
            honest_owners=NOBODY if honest is None else honest[0],
        )
        made = behaviour.update(view, rng=self._rngs[number])
        if not isinstance(made, np.ndarray) or made.shape != own.shape or made.dtype.kind != "f":
            what = f"{made.dtype}{list(made.shape)}" if isinstance(made, np.ndarray) else type(made).__name__
            raise ConfigRefused(
                f"gave {what}; floats of shape {list(own.shape)} allowed", where=behaviour.name
            )
        return single(made)


def _part(chunk: Trained, mask: Bool) -> Trained:
    """Copies of some rows."""
    owners = chunk.owners[mask]
    kept = set(owners.tolist())
    return Trained(
        owners,
        chunk.updates[mask],
        chunk.buffers[mask],
        chunk.steps[mask],
        chunk.losses[mask],
        {owner: why for owner, why in chunk.failures.items() if owner in kept},
    )


def _merged(chunks: list[Trained]) -> Trained | None:
    if not chunks:
        return None
    return Trained(
        np.concatenate([chunk.owners for chunk in chunks]),
        np.concatenate([chunk.updates for chunk in chunks]),
        np.concatenate([chunk.buffers for chunk in chunks]),
        np.concatenate([chunk.steps for chunk in chunks]),
        np.concatenate([chunk.losses for chunk in chunks]),
        {owner: why for chunk in chunks for owner, why in chunk.failures.items()},
    )


def _joined(found: list[tuple[I64, F32]], size: int) -> tuple[I64, F32]:
    """Honest data owners in ascending order, and their updates."""
    if not found:
        return np.zeros(0, np.int64), np.zeros((0, size), np.float32)
    owners = np.concatenate([one for one, _ in found])
    updates = np.concatenate([two for _, two in found])
    order = np.argsort(owners, kind="stable")
    return owners[order], updates if bool((np.diff(order) == 1).all()) else updates[order]
