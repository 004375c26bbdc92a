"""What behaviours are shown: a round's updates, a few honest ones, rows of data."""

from __future__ import annotations

import numpy as np

from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import AttackView

HONEST = [[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]]


def chance(seed: int = 0) -> np.random.Generator:
    """A generator."""
    return np.random.default_rng(seed)


def view(
    own: list[list[float]],
    honest: list[list[float]] | None = None,
    *,
    owners: list[int] | None = None,
    honest_owners: list[int] | None = None,
    last: list[float] | None = None,
    clip: float = 2.0,
    size: int | None = None,
) -> AttackView:
    """What saboteurs see of a round."""
    mine = np.array(own, np.float32)
    theirs = None if honest is None else np.array(honest, np.float32)
    known = 0 if theirs is None else len(theirs)
    return AttackView(
        round_index=3,
        params=np.zeros(mine.shape[1], np.float32),
        owners=np.array(range(len(mine)) if owners is None else owners, np.int64),
        own=mine,
        clip_norm=clip,
        cohort_size=len(mine) + known if size is None else size,
        last_global_step=None if last is None else np.array(last),
        honest=theirs,
        honest_owners=np.array(range(50, 50 + known) if honest_owners is None else honest_owners, np.int64),
    )


def rows(n: int, classes: int = 3, seed: int = 0) -> Rows:
    """Rows of normal inputs with labels drawn at random."""
    rng = chance(seed)
    return Rows(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, classes, n))
