"""Every way to value a round by name: the one that pays (``path``) and the references it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from galaxylearning.contribution.games import (
    Game,
    GameValues,
    coalition_game,
    distance_to_mean,
    exact_banzhaf,
    exact_shapley,
    leave_one_out,
    sampled_banzhaf,
    sampled_shapley,
    size_value,
)
from galaxylearning.contribution.path import GradientBlocks, path_value
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F64


@dataclass(frozen=True, slots=True, eq=False)
class RoundView:
    """All that any value may look at in one round.

    ``start`` and ``step`` f64[P], ``updates`` f64[P] each, ``shares`` summing to 1, ``gradient_blocks`` as in
    ``path_value``, ``utility`` of parameters in units of the loss per sample (higher is better),
    ``previous_step`` f64[P] for novelty; ``sizes`` are the data owners' claims, looked at by ``size`` alone.
    ``samples`` is the number of antithetic pairs of the sampled values.
    """

    start: F64
    step: F64
    updates: Sequence[F64]
    shares: Sequence[float]
    gradient_blocks: GradientBlocks
    utility: Callable[[F64], float]
    previous_step: F64 | None = None
    midpoints: int = 5
    sizes: Sequence[int] | None = None
    samples: int = 200

    def game(self) -> Game:
        """The round's fixed-share coalition game."""
        return coalition_game(self.start, self.updates, self.utility, shares=self.shares)


ValueFunction: TypeAlias = Callable[[RoundView, np.random.Generator], GameValues]


def _path(view: RoundView, _rng: np.random.Generator) -> GameValues:
    found = path_value(
        view.gradient_blocks,
        view.start,
        view.step,
        view.updates,
        view.shares,
        midpoints=view.midpoints,
        previous_step=view.previous_step,
    )
    return GameValues(found.values, found.standard_errors)


def _banzhaf(view: RoundView, _rng: np.random.Generator) -> GameValues:
    return exact_banzhaf(view.game())


def _shapley(view: RoundView, _rng: np.random.Generator) -> GameValues:
    return exact_shapley(view.game())


def _banzhaf_sampled(view: RoundView, rng: np.random.Generator) -> GameValues:
    return sampled_banzhaf(view.game(), view.samples, rng=rng)


def _shapley_sampled(view: RoundView, rng: np.random.Generator) -> GameValues:
    return sampled_shapley(view.game(), view.samples, rng=rng)


def _leave_one_out(view: RoundView, _rng: np.random.Generator) -> GameValues:
    return leave_one_out(view.game())


def _size(view: RoundView, _rng: np.random.Generator) -> GameValues:
    if view.sizes is None:
        raise ConfigRefused("must be given for the value 'size'", where="sizes")
    return _without_error(size_value(view.sizes))


def _distance_to_mean(view: RoundView, _rng: np.random.Generator) -> GameValues:
    return _without_error(distance_to_mean(view.updates))


def _without_error(values: F64) -> GameValues:
    return GameValues(values, np.zeros(values.size))


VALUES: Mapping[str, ValueFunction] = MappingProxyType(
    {
        "path": _path,
        "banzhaf": _banzhaf,
        "shapley": _shapley,
        "banzhaf-sampled": _banzhaf_sampled,
        "shapley-sampled": _shapley_sampled,
        "leave-one-out": _leave_one_out,
        "size": _size,
        "distance-to-mean": _distance_to_mean,
    }
)
"""``VALUES[name](view, rng)``: only the sampled ones draw from ``rng``."""

OTHER_UNITS: Mapping[str, str] = MappingProxyType(
    {"size": "parts of all samples", "distance-to-mean": "lengths of updates"}
)
"""What values are counted in that are no utilities; all others are in units of the loss per sample."""


def value_named(name: str) -> ValueFunction:
    """The value of that name.

    Raises:
        ConfigRefused: no such name; the message lists those that exist.
    """
    if name not in VALUES:
        raise ConfigRefused(f"must be one of {', '.join(VALUES)}, not {name!r}", where="value")
    return VALUES[name]
