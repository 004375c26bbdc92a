"""Attacks in concert: what saboteurs send who know each other, and perhaps everybody's update.

All computed in float64 on what is known, ``knowledge="all"``: the updates of every data owner that sends
what training gave (omniscient saboteurs, who need not train), or ``"own"``: what training on their own data
gave the saboteurs. Where nobody honest takes part, the own updates stand in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import NormalDist
from typing import ClassVar, Final, Literal

import numpy as np

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F32, F64, require_integer, require_number
from galaxylearning.simulation.behaviours_base import (
    SLICE,
    Acts,
    AttackView,
    Plain,
    column_slices,
    moments,
    require_choice,
)

KNOWLEDGE: Final = ("all", "own")
DIRECTIONS: Final = ("std", "unit", "sign")


@dataclass(frozen=True, slots=True)
class Colluding(Plain):
    """What all attacks in concert have in common.

    Raises:
        ConfigRefused: ``knowledge`` is another word.
    """

    knowledge: Literal["all", "own"] = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        require_choice(self.knowledge, f"{self.name}.knowledge", KNOWLEDGE)

    @property
    def trains(self) -> bool:
        """Only if there is no other knowledge."""
        return self.knowledge == "own"

    @property
    def acts(self) -> Acts:
        """In concert."""
        return "together"

    @property
    def needs_honest(self) -> bool:
        """If it uses them."""
        return self.knowledge == "all"


@dataclass(frozen=True, slots=True)
class Alie(Colluding):
    """A little is enough: ``mean - z * std`` in every coordinate, hidden within the honest spread.

    Without ``z`` it follows from the counts: of n senders, m of them saboteurs, ``s = floor(n/2 + 1) - m``
    honest ones are needed for a majority, and z is the normal quantile of ``(n - m - s) / (n - m)``, so that
    about s honest ones lie further out; at least 0, and for saboteurs in the majority as if s were 1.

    Source: Baruch, Baruch & Goldberg 2019 (arXiv 1902.06156).

    Raises:
        ConfigRefused: ``z`` is not in [0, 100].
    """

    name: ClassVar[str] = "alie"
    z: float | None = None

    def __post_init__(self) -> None:
        Colluding.__post_init__(self)
        if self.z is not None:
            require_number(self.z, "alie.z", low=0, high=100)

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The same for all."""
        mean, deviation = moments(view.known())
        z = largest_z(view.cohort_size, len(view.owners)) if self.z is None else self.z
        return view.everybody(mean - z * deviation)


def largest_z(senders: int, saboteurs: int) -> float:
    """How many standard deviations ALIE may go; see :class:`Alie`."""
    honest = senders - saboteurs
    needed = max(1, senders // 2 + 1 - saboteurs)
    if honest <= needed:
        return 0.0
    return max(0.0, NormalDist().inv_cdf((honest - needed) / honest))


@dataclass(frozen=True, slots=True)
class InnerProduct(Colluding):
    """Inner product manipulation: ``-epsilon * mean``, so that the aggregate points away from the descent.

    Small ones slip through distances and medians, large ones overturn the mean.

    Source: Xie, Koyejo & Gupta 2020 (arXiv 1903.03936).

    Raises:
        ConfigRefused: ``epsilon`` is not in [0, 10^6].
    """

    name: ClassVar[str] = "ipm"
    epsilon: float = 0.5

    def __post_init__(self) -> None:
        Colluding.__post_init__(self)
        require_number(self.epsilon, "ipm.epsilon", low=0, high=1e6)

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The same for all."""
        return view.everybody(-self.epsilon * moments(view.known())[0])


@dataclass(frozen=True, slots=True)
class Distant(Colluding):
    """What Min-Max and Min-Sum share: ``mean + gamma * direction`` with the largest gamma they allow.

    ``direction`` is minus the standard deviation, minus the mean as a unit vector, or minus the mean's signs.
    """

    direction: Literal["std", "unit", "sign"] = field(default="std", kw_only=True)

    def __post_init__(self) -> None:
        Colluding.__post_init__(self)
        require_choice(self.direction, f"{self.name}.direction", DIRECTIONS)

    def towards(self, mean: F64, deviation: F64) -> F64:
        """The direction f64[P]; zeros where there is none."""
        if self.direction == "std":
            return -deviation
        if self.direction == "sign":
            return -np.sign(mean)
        norm = float(np.linalg.norm(mean))
        return -mean / norm if norm else np.zeros_like(mean)


@dataclass(frozen=True, slots=True)
class MinMax(Distant):
    """No further from any honest update than the two of them that are furthest apart.

    The distances are quadratic in gamma, so the largest one is a root and needs no search.

    Source: Shejwalkar & Houmansadr 2021 (NDSS), Min-Max.

    Raises:
        ConfigRefused: ``direction`` or ``knowledge`` is another word.
    """

    name: ClassVar[str] = "min-max"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The same for all."""
        known = view.known()
        mean, deviation = moments(known)
        way = self.towards(mean, deviation)
        squares, slopes = _distances(known, mean, way)
        bound = largest_distance(known)
        gammas = _largest_root(float(way @ way), 2 * slopes, squares - bound)
        return view.everybody(mean + float(gammas.min(initial=np.inf)) * way if way.any() else mean)


@dataclass(frozen=True, slots=True)
class MinSum(Distant):
    """A sum of squared distances to the honest updates no larger than that of the most remote honest one.

    Source: Shejwalkar & Houmansadr 2021 (NDSS), Min-Sum.

    Raises:
        ConfigRefused: ``direction`` or ``knowledge`` is another word.
    """

    name: ClassVar[str] = "min-sum"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The same for all."""
        known = view.known()
        mean, deviation = moments(known)
        way = self.towards(mean, deviation)
        squares, slopes = _distances(known, mean, way)
        # The sum over j of |u_i - u_j|^2 is n |u_i - mean|^2 plus the sum of all |u_j - mean|^2.
        bound = len(known) * float(squares.max(initial=0)) + float(squares.sum())
        gamma = _largest_root(
            len(known) * float(way @ way), np.array([2 * slopes.sum()]), np.array([squares.sum() - bound])
        )
        return view.everybody(mean + float(gamma[0]) * way if way.any() else mean)


@dataclass(frozen=True, slots=True)
class Mimic(Plain):
    """All copy one honest data owner, whose data then count many times; its neighbours' count for less.

    Always the same one, as the attack needs: position ``target``, or the next honest position that sends.

    Source: Karimireddy, He & Jaggi 2020 (arXiv 2006.09365), mimic; there the target is picked by variance.

    Raises:
        ConfigRefused: ``target`` is not a position.
    """

    name: ClassVar[str] = "mimic"
    target: int = 0

    def __post_init__(self) -> None:
        require_integer(self.target, "mimic.target", low=0, high=10**9, error=ConfigRefused)

    @property
    def trains(self) -> bool:
        """No."""
        return False

    @property
    def acts(self) -> Acts:
        """In concert."""
        return "together"

    @property
    def needs_honest(self) -> bool:
        """One of them."""
        return True

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The target's for all; zeros where there is nobody to copy."""
        if view.honest is None or not len(view.honest):
            return np.zeros_like(view.own)
        where = int(np.searchsorted(view.honest_owners, self.target)) % len(view.honest)
        return view.everybody(view.honest[where])


def _distances(updates: F32, mean: F64, way: F64) -> tuple[F64, F64]:
    """``|mean - u_i|^2`` and ``<mean - u_i, way>`` of every update, f64[n] each."""
    squares, slopes = np.zeros(len(updates)), np.zeros(len(updates))
    for part in column_slices(updates):
        gap = mean[part] - updates[:, part]
        squares += np.einsum("ij,ij->i", gap, gap)
        slopes += gap @ way[part]
    return squares, slopes


def largest_distance(updates: F32) -> float:
    """The largest ``|u_i - u_j|^2`` of f32[n, P]: at worst n^2 P / 2 products, in blocks of bounded memory.

    Products are taken around the mean, where little cancels. Longest first: two updates are no further apart
    than their distances from the mean add up to, so that the short ones need not be compared.
    """
    mean = moments(updates)[0]
    norms = np.sqrt(_distances(updates, mean, np.zeros_like(mean))[0])
    order = np.argsort(-norms, kind="stable")
    norms = norms[order]
    n, largest = len(updates), 0.0
    height = max(1, min(256, SLICE // max(1, n)))
    for start in range(0, n, height):
        stop = min(start + height, n)
        end = int(np.searchsorted(-norms, norms[start] - np.sqrt(largest), side="right"))
        if end <= start + 1:
            break
        product = np.zeros((stop - start, end - start))
        for part in column_slices(updates):
            around = updates[order[start:end], part] - mean[part]
            product += around[: stop - start] @ around.T
        apart = norms[start:stop, None] ** 2 + norms[None, start:end] ** 2 - 2 * product
        np.fill_diagonal(apart, 0)
        largest = max(largest, float(apart.max()))
    return largest


def _largest_root(square: float, linear: F64, constant: F64) -> F64:
    """The larger root of ``square x^2 + linear x + constant``, at least 0; ``constant`` is hardly above 0."""
    if square == 0:
        return np.zeros_like(linear)
    inside = np.sqrt(np.maximum(linear * linear - 4 * square * constant, 0))
    return np.maximum((inside - linear) / (2 * square), 0)
