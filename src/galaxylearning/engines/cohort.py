"""Many data owners' rows over one pool: what an engine trains on. Knows no model and no tensor library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import I64, require_vector
from galaxylearning.protocol.hidden_set import Rows

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Data owner ``i`` of K has the pool's rows ``index[offsets[i]:offsets[i + 1]]``.

    ``pool`` holds rows once, however many owners share them; ``index`` int64[n], ``offsets`` int64[K+1].
    ``identities`` are the numbers that owners' generators are seeded with: their positions unless given,
    accounts where there are any (see :func:`owner_rng`).

    Raises:
        DataRefused: no owner, an owner without rows, offsets that do not rise from 0 to n, an index outside
            the pool, identities that are too few or negative.
    """

    pool: Rows
    index: I64
    offsets: I64
    identities: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        index = require_vector(self.index, "index", np.int64, error=DataRefused)
        offsets = require_vector(self.offsets, "offsets", np.int64, error=DataRefused)
        if offsets.size < 2:
            raise DataRefused("at least one data owner is needed", where="owners")
        if offsets[0] != 0 or offsets[-1] != index.size:
            raise DataRefused(f"must rise from 0 to {index.size}", where="offsets")
        counts = np.diff(offsets)
        if bool((counts < 1).any()):
            who = int(np.argmax(counts < 1))
            raise DataRefused("has no rows; every data owner needs at least one", where=f"owner {who}")
        if bool((index < 0).any()) or bool((index >= len(self.pool)).any()):
            raise DataRefused(f"must lie in 0..{len(self.pool) - 1}", where="index")
        if not self.identities:
            object.__setattr__(self, "identities", range(len(counts)))
        elif len(self.identities) != len(counts) or min(self.identities) < 0:
            raise DataRefused(f"must be {len(counts)} numbers from 0", where="identities")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, owners: Sequence[Rows], identities: Sequence[int] = ()) -> Cohort:
        """A cohort of owners that each have rows of their own.

        Raises:
            DataRefused: no owner, one without rows, or rows of different shapes or types.
        """
        if not owners:
            raise DataRefused("at least one data owner is needed", where="owners")
        first = owners[0]
        for i, rows in enumerate(owners):
            if rows.inputs.shape[1:] != first.inputs.shape[1:] or rows.inputs.dtype != first.inputs.dtype:
                raise DataRefused("has rows of another shape or type than owner 0", where=f"owner {i}")
            if rows.labels.shape[1:] != first.labels.shape[1:] or rows.labels.dtype != first.labels.dtype:
                raise DataRefused("has labels of another shape or type than owner 0", where=f"owner {i}")
        pool = Rows(
            np.concatenate([rows.inputs for rows in owners]), np.concatenate([rows.labels for rows in owners])
        )
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in owners])]).astype(np.int64)
        return cls(pool, np.arange(len(pool), dtype=np.int64), offsets, identities)

    @property
    def counts(self) -> I64:
        """How many rows each data owner has, int64[K]."""
        return np.diff(self.offsets)

    def rows(self, owner: int) -> Rows:
        """The rows of one data owner."""
        return self.pool.take(self.index[self.offsets[owner] : self.offsets[owner + 1]])

    def require_owners(self, owners: I64) -> None:
        """Refuse what does not name owners of this cohort by their positions, int64[m].

        Raises:
            ValueError: saying what is allowed.
        """
        if not isinstance(owners, np.ndarray) or owners.dtype != np.int64 or owners.ndim != 1:
            raise ValueError("owners must be an int64 array of one dimension")
        if owners.size and not 0 <= int(owners.min()) <= int(owners.max()) < len(self):
            raise ValueError(f"owners must lie in 0..{len(self) - 1}")


def owner_rng(seed: int, round_index: int, identity: int) -> np.random.Generator:
    """The generator of one data owner's round: the same on every machine, different for every identity."""
    return np.random.default_rng([seed, round_index, identity])
