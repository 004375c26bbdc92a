"""Cooperative games: the references that values are held against. Exact for few players, sampled for many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import F64, require_integer, require_number, require_vector

MAX_EXACT_PLAYERS = 20
MAX_PLAYERS = 100_000
MAX_SAMPLES = 10_000_000


@dataclass(frozen=True, slots=True)
class Game:
    """``players`` numbered from 0 and the utility of every coalition of them."""

    players: int
    utility: Callable[[frozenset[int]], float]

    def __post_init__(self) -> None:
        require_integer(self.players, "players", low=1, high=MAX_PLAYERS)

    def worth(self, coalition: frozenset[int]) -> float:
        """The coalition's utility. What the utility function raises is passed on.

        Raises:
            DataRefused: the utility is not a finite number; never taken as zero.
        """
        value = float(self.utility(coalition))
        if not math.isfinite(value):
            raise DataRefused(
                f"must be finite, not {value}", where=f"utility of coalition {sorted(coalition)}"
            )
        return value


@dataclass(frozen=True, slots=True, eq=False)
class GameValues:
    """One value per player f64[n], in the utility's unit, with standard errors (0 where exact)."""

    values: F64
    standard_errors: F64


def shapley_from_worths(worths: F64) -> F64:
    """Shapley values f64[n] from the worth of every coalition, f64[2**n] by bit mask, 1 <= n <= 20.

    ``worths[mask]`` belongs to the players whose bits are set. Source: Shapley 1953.

    Raises:
        DataRefused: another type or number of dimensions, a length that is no power of two from 2 on, a worth
            that is not finite.
        ConfigRefused: more than 20 players.
    """
    n = _players_of(worths)
    by_size = np.array([1.0 / (n * math.comb(n - 1, size)) for size in range(n)])
    # The coalitions of the others, by the bit mask that is left when the player's own bit is taken out.
    weights = by_size[_coalition_sizes(n - 1)]
    values = np.empty(n)
    for player in range(n):
        gain = _gains(worths, player)
        values[player] = np.sum(gain * weights.reshape(gain.shape))
    return values


def banzhaf_from_worths(worths: F64) -> F64:
    """Banzhaf values f64[n] from the worth of every coalition, f64[2**n] by bit mask, 1 <= n <= 20.

    Source: Banzhaf 1965; Wang & Jia (arXiv 2205.15466), definition 3.

    Raises:
        DataRefused, ConfigRefused: as ``shapley_from_worths``.
    """
    return np.array([float(np.mean(_gains(worths, player))) for player in range(_players_of(worths))])


def exact_shapley(game: Game) -> GameValues:
    """Shapley values over all 2**n coalitions, n <= 20. Source: Shapley 1953.

    Raises:
        ConfigRefused: more than 20 players.
    """
    return _exact(shapley_from_worths(_all_worths(game)))


def exact_banzhaf(game: Game) -> GameValues:
    """Banzhaf values over all 2**n coalitions, n <= 20. Source: Banzhaf 1965; Wang & Jia (arXiv 2205.15466).

    Raises:
        ConfigRefused: more than 20 players.
    """
    return _exact(banzhaf_from_worths(_all_worths(game)))


def leave_one_out(game: Game) -> GameValues:
    """What the grand coalition loses without each player; n + 1 utilities."""
    everyone = frozenset(range(game.players))
    whole = game.worth(everyone)
    return _exact(np.array([whole - game.worth(everyone - {player}) for player in range(game.players)]))


def sampled_shapley(game: Game, permutations: int, *, rng: np.random.Generator) -> GameValues:
    """Shapley values from ``permutations`` orders, each also run backwards (antithetic pairs).

    The values sum to ``worth(all) - worth(none)`` exactly, up to rounding. Standard errors come from the
    spread of the pairs. Source: Castro et al. 2009; Mitchell et al. (arXiv 2104.12199), section 3.

    Raises:
        ConfigRefused: ``permutations`` outside 2..10,000,000.
    """
    pairs = require_integer(permutations, "permutations", low=2, high=MAX_SAMPLES)
    empty, whole = game.worth(frozenset()), game.worth(frozenset(range(game.players)))
    moments, everyone = _Moments(game.players), np.ones(game.players, np.bool_)
    for _ in range(pairs):
        order = rng.permutation(game.players)
        forward = _walk(game, order, empty, whole)
        moments.add((forward + _walk(game, order[::-1], empty, whole)) / 2, everyone)
    return GameValues(moments.mean, np.sqrt(moments.squared_error()))


def sampled_banzhaf(game: Game, coalitions: int, *, rng: np.random.Generator) -> GameValues:
    """Banzhaf values by maximum sample reuse: every sampled coalition informs about every player.

    ``coalitions`` uniform coalitions are drawn; a player's value is the mean utility of those it is in minus
    that of the others. Source: Wang & Jia, Data Banzhaf (arXiv 2205.15466), section 4.

    Raises:
        ConfigRefused: ``coalitions`` outside 2..10,000,000, or so few that some player was in (or out of)
            fewer than two of them.
    """
    drawn = require_integer(coalitions, "coalitions", low=2, high=MAX_SAMPLES)
    inside, outside = _Moments(game.players), _Moments(game.players)
    for _ in range(drawn):
        chosen = rng.random(game.players) < 0.5
        worth = game.worth(frozenset(np.flatnonzero(chosen).tolist()))
        inside.add(worth, chosen)
        outside.add(worth, ~chosen)
    if min(float(np.min(inside.count)), float(np.min(outside.count))) < 2:
        raise ConfigRefused(f"coalitions must be more than {drawn} for {game.players} players")
    errors = np.sqrt(inside.squared_error() + outside.squared_error())
    return GameValues(inside.mean - outside.mean, errors)


def coalition_game(
    start: F64,
    updates: Sequence[F64],
    utility: Callable[[F64], float],
    *,
    shares: Sequence[float] | None = None,
) -> Game:
    """The fixed-share game of one round: a coalition S is worth ``utility(start + sum over S share_i u_i)``.

    ``start`` and every update are f64[P]; ``utility`` takes parameters f64[P], higher is better. The shares
    are 1/N each unless given: unlike re-averaging over S, leaving out an owner does not lift the others.

    Raises:
        DataRefused: no update, or one of a wrong type or size, or not finite.
        ConfigRefused: shares that are too few or outside [0, 1].
    """
    base = require_vector(start, "start", np.float64, error=DataRefused)
    if not updates:
        raise DataRefused("must hold at least one update", where="updates")
    if shares is not None and len(shares) != len(updates):
        raise ConfigRefused(f"must be {len(updates)}, one per update, not {len(shares)}", where="shares")
    scaled = []
    for index, update in enumerate(updates):
        vector = require_vector(update, f"updates[{index}]", np.float64, size=base.size, error=DataRefused)
        share = 1.0 / len(updates) if shares is None else shares[index]
        scaled.append(vector * require_number(share, f"shares[{index}]", low=0, high=1))

    def worth(coalition: frozenset[int]) -> float:
        point = base.copy()
        for player in sorted(coalition):
            point += scaled[player]
        return utility(point)

    return Game(len(scaled), worth)


def size_value(sizes: Sequence[int]) -> F64:
    """Each owner's part of all samples, f64[n], summing to 1. A claim, hence a reference only.

    Raises:
        ConfigRefused: no sizes, one outside 0..2**53, or all zero.
    """
    counts = [require_integer(size, f"sizes[{i}]", low=0, high=1 << 53) for i, size in enumerate(sizes)]
    total = sum(counts)
    if total == 0:
        raise ConfigRefused("must hold at least one sample", where="sizes")
    return np.array([count / total for count in counts])


def distance_to_mean(updates: Sequence[F64]) -> F64:
    """Minus each update's L2 distance to the plain mean, f64[n]: nearer is worth more. A reference only.

    Raises:
        DataRefused: no update, or one of a wrong type or size, or not finite.
    """
    if not updates:
        raise DataRefused("must hold at least one update", where="updates")
    first = require_vector(updates[0], "updates[0]", np.float64, error=DataRefused)
    vectors = [
        require_vector(update, f"updates[{index}]", np.float64, size=first.size, error=DataRefused)
        for index, update in enumerate(updates)
    ]
    mean = np.zeros(first.size)
    for vector in vectors:
        mean += vector / len(vectors)
    return np.array([-math.sqrt(float(np.sum((vector - mean) ** 2))) for vector in vectors])


class _Moments:
    """Mean and squared standard error per player of what is seen one by one (Welford)."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self._spread = np.zeros(size), np.zeros(size), np.zeros(size)

    def add(self, sample: F64 | float, players: npt.NDArray[np.bool_]) -> None:
        self.count += players
        gap = np.where(players, sample - self.mean, 0.0)
        self.mean = self.mean + gap / np.maximum(self.count, 1.0)
        self._spread = self._spread + gap * np.where(players, sample - self.mean, 0.0)

    def squared_error(self) -> F64:
        result: F64 = np.maximum(self._spread, 0.0) / (self.count - 1.0) / self.count
        return result


def _walk(game: Game, order: npt.NDArray[np.int64], empty: float, whole: float) -> F64:
    """Each player's gain when the players join in ``order``."""
    gains, before = np.zeros(game.players), empty
    members: set[int] = set()
    for position, player in enumerate(order.tolist()):
        members.add(player)
        after = whole if position == game.players - 1 else game.worth(frozenset(members))
        gains[player] = after - before
        before = after
    return gains


def _all_worths(game: Game) -> F64:
    """The utility of every coalition, f64[2**n], by bit mask."""
    n = game.players
    if n > MAX_EXACT_PLAYERS:
        raise ConfigRefused(f"exact values take at most {MAX_EXACT_PLAYERS} players, not {n}; sample instead")
    return np.array(
        [game.worth(frozenset(i for i in range(n) if mask >> i & 1)) for mask in range(1 << n)], np.float64
    )


def _players_of(worths: F64) -> int:
    """How many players a vector f64[2**n] of all coalitions' worths speaks of.

    Raises:
        DataRefused, ConfigRefused: as ``shapley_from_worths``.
    """
    size = require_vector(worths, "worths", np.float64, error=DataRefused).size
    n = size.bit_length() - 1
    if n < 1 or size != 1 << n:
        raise DataRefused(f"must have 2**n elements for n >= 1 players, not {size}", where="worths")
    if n > MAX_EXACT_PLAYERS:
        raise ConfigRefused(f"exact values take at most {MAX_EXACT_PLAYERS} players, not {n}; sample instead")
    return n


def _coalition_sizes(n: int) -> npt.NDArray[np.int64]:
    """How many players each coalition of n has, int64[2**n] by bit mask."""
    sizes = np.zeros(1, np.int64)
    for _ in range(n):
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes


def _gains(worths: F64, player: int) -> F64:
    """What a player adds to each coalition of the others, f64[coalitions of later, of earlier players]."""
    pairs = worths.reshape(-1, 2, 1 << player)
    gains: F64 = pairs[:, 1] - pairs[:, 0]
    return gains


def _exact(values: F64) -> GameValues:
    return GameValues(values, np.zeros(values.size))
