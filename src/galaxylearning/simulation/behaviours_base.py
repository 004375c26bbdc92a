"""What a behaviour is: how a data owner treats its data, its update and its appointments.

Knows no engine and no text form. A behaviour is a frozen, hashable value without memory: what it does in a
round follows from what it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F32, F64, I64
from galaxylearning.protocol.hidden_set import Rows

Bool: TypeAlias = NDArray[np.bool_]

Acts: TypeAlias = Literal["never", "alone", "together"]
"""Who changes updates: nobody; each data owner its own; all with the same behaviour in concert."""

NOBODY: Final = np.zeros(0, np.int64)
SLICE: Final = 1 << 20
"""Numbers per temporary when a matrix of updates is walked through."""


@dataclass(frozen=True, slots=True, eq=False)
class AttackView:
    """What data owners with one behaviour know when they write their updates of a round.

    ``owners`` int64[m] are their positions, ascending, and ``own`` f32[m, P] what honest training on their
    (changed) data gave: zeros if the behaviour does not train. ``params`` f32[P] is the model they received.
    ``honest`` f32[h, P] are the updates of everybody who sends what training gave, ``honest_owners`` int64[h]
    their positions; None unless the behaviour needs it. ``last_global_step`` f64[P] is the model's last
    change, None in the first round. ``cohort_size`` counts the identities that send something this round.
    """

    round_index: int
    params: F32
    owners: I64
    own: F32
    clip_norm: float
    cohort_size: int
    last_global_step: F64 | None = None
    honest: F32 | None = None
    honest_owners: I64 = field(default_factory=lambda: NOBODY)

    def known(self) -> F32:
        """The honest updates if they are known and there are any, else the own ones."""
        return self.own if self.honest is None or not len(self.honest) else self.honest

    def everybody(self, update: NDArray[np.floating]) -> F32:
        """The same update f[P] for each of ``owners``, f32[m, P]."""
        return np.repeat(single(update)[None], len(self.owners), axis=0)


class Behaviour(Protocol):
    """How data owners behave. Implementations are frozen dataclasses; most extend :class:`Plain`."""

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        ...

    @property
    def trains(self) -> bool:
        """Whether it needs to be trained at all; free riders save the time."""
        ...

    @property
    def acts(self) -> Acts:
        """When ``update`` is called: never, for some data owners at a time, or for all of them at once.

        With ``alone`` the data owners come in ascending order, in pieces of any size, with one generator a
        round: what comes out must not depend on how they are cut.
        """
        ...

    @property
    def needs_honest(self) -> bool:
        """Whether ``update`` must be shown the honest updates; only with ``acts`` together."""
        ...

    @property
    def delay(self) -> float:
        """How long a round takes it, in multiples of the normal duration."""
        ...

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:
        """The rows it trains on: ``rows`` itself if it changes nothing.

        ``classes`` is the number of classes in the whole cohort's labels, 0 if labels are real numbers.

        Raises:
            DataRefused, ConfigRefused: these rows do not allow it.
        """
        ...

    def split(self, n_rows: int, *, rng: np.random.Generator) -> Sequence[I64]:
        """Which of its rows each of its identities enrols with, int64[] each; the first is its own name.

        Raises:
            DataRefused: too few rows.
        """
        ...

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:
        """What it sends, f32[m, P]; may exceed the clip norm or be not finite. Leaves ``view`` unchanged."""
        ...

    def absent(self, round_index: int, owners: I64, *, rng: np.random.Generator) -> Bool:
        """Which of ``owners`` int64[m] send nothing this round, bool[m]."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """Does as told in everything; behaviours override what they do otherwise."""

    name: ClassVar[str] = "honest"

    @property
    def trains(self) -> bool:
        """Yes."""
        return True

    @property
    def acts(self) -> Acts:
        """Sends what training gave."""
        return "never"

    @property
    def needs_honest(self) -> bool:
        """No."""
        return False

    @property
    def delay(self) -> float:
        """In time."""
        return 1.0

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:  # noqa: ARG002
        """The rows as they are."""
        return rows

    def split(self, n_rows: int, *, rng: np.random.Generator) -> Sequence[I64]:  # noqa: ARG002
        """One identity with all rows."""
        return (np.arange(n_rows, dtype=np.int64),)

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """What training gave."""
        return view.own

    def absent(self, round_index: int, owners: I64, *, rng: np.random.Generator) -> Bool:  # noqa: ARG002
        """Always there."""
        return np.zeros(len(owners), np.bool_)


def require_choice(value: object, field: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not among those allowed.

    Raises:
        ConfigRefused: naming ``field`` and the words.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ConfigRefused(f"must be one of {', '.join(allowed)}, not {value!r}", where=field)


def single(values: NDArray[np.floating]) -> F32:
    """As float32; what is too large there becomes infinite, as it would on the wire."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def moments(updates: F32) -> tuple[F64, F64]:
    """Mean and standard deviation (of the population) of every coordinate: f64[P] each, of f32[n, P]."""
    mean, deviation = np.zeros(updates.shape[1]), np.zeros(updates.shape[1])
    for part in column_slices(updates):
        wide = updates[:, part].astype(np.float64)
        mean[part], deviation[part] = wide.mean(axis=0), wide.std(axis=0)
    return mean, deviation


def column_slices(updates: F32) -> Iterator[slice]:
    """Columns a few at a time, so that a wider copy of them stays small."""
    width = max(1, SLICE // max(1, len(updates)))
    for start in range(0, updates.shape[1], width):
        yield slice(start, min(start + width, updates.shape[1]))
