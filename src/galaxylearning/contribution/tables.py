"""Tables of fixed-point values: twins taken as one player, medians across evaluators. Exact integers only."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from galaxylearning.contribution.measure import VALUE_LIMIT
from galaxylearning.errors import ConfigRefused, DataRefused, QuorumMissing
from galaxylearning.learning.quantise import MAX_WEIGHT
from galaxylearning.learning.vectors import require_integer

PlayerT = TypeVar("PlayerT", bound=Hashable)


def merge_twins(
    values: Mapping[PlayerT, int],
    groups: Iterable[frozenset[PlayerT]],
    *,
    weights: Mapping[PlayerT, int] | None = None,
) -> dict[PlayerT, int]:
    """Value every group of twins as one player with one share, and everybody else accordingly.

    Before, identity i has share ``w_i / W`` (W = sum of the weights) and value ``v_i = w_i / W * g_i``.
    A group g becomes one player of weight ``w_g`` = the mean weight of its k accepted members, so the weights
    sum to ``W' = W - sum over groups (sum of its w_i - w_g)``. Hence exactly::

        v_i' = v_i * W / W'              outside the groups
        v_i' = v_i / k * W / W'          within a group

    With equal weights, two twins of n identities together get the mean of their values times n / (n - 1):
    what one of them would have had among n - 1 identities. Results are rounded down, then the units missing
    from the exact sum go to the largest remainders (ties: the order of ``values``), so that the table sums
    to the rounded-down exact sum.

    ``weights`` are those of the round (0: not accepted); without them every identity counts as 1.

    Raises:
        DataRefused: a group names an unknown player, or a value is not an integer of 63 bits.
        ConfigRefused: groups that overlap or have fewer than two members; weights for other players.
    """
    sets = [frozenset(group) for group in groups]
    _check_groups(values, sets)
    for player, value in values.items():
        require_integer(value, f"value of {player}", low=-VALUE_LIMIT, high=VALUE_LIMIT, error=DataRefused)
    weight = _checked_weights(values, weights)
    before = sum(weight.values())
    after, divisor = Fraction(before), dict.fromkeys(values, 1)
    for group in sets:
        accepted = [player for player in group if weight[player] > 0]
        if not accepted:
            continue
        total = sum(weight[player] for player in accepted)
        after -= total - Fraction(total, len(accepted))
        divisor.update(dict.fromkeys(accepted, len(accepted)))
    factor = Fraction(before) / after if after else Fraction(1)
    return _rounded({player: Fraction(value, divisor[player]) * factor for player, value in values.items()})


def _check_groups(values: Mapping[PlayerT, int], groups: Sequence[frozenset[PlayerT]]) -> None:
    seen: set[PlayerT] = set()
    for group in groups:
        if len(group) < 2:
            raise ConfigRefused("must have at least two members", where="groups")
        if unknown := group - values.keys():
            raise DataRefused(f"names players without a value: {sorted(map(str, unknown))}", where="groups")
        if seen & group:
            raise ConfigRefused("must not overlap", where="groups")
        seen |= group


def _checked_weights(
    values: Mapping[PlayerT, int], weights: Mapping[PlayerT, int] | None
) -> dict[PlayerT, int]:
    if weights is None:
        return dict.fromkeys(values, 1)
    if weights.keys() != values.keys():
        raise ConfigRefused("must name the same players as the values", where="weights")
    return {
        player: require_integer(weight, f"weight of {player}", low=0, high=MAX_WEIGHT)
        for player, weight in weights.items()
    }


def _rounded(exact: Mapping[PlayerT, Fraction]) -> dict[PlayerT, int]:
    """Round down, then give the units missing from the exact sum to the largest remainders."""
    floors = {player: value.numerator // value.denominator for player, value in exact.items()}
    total = sum(exact.values(), Fraction(0))
    missing = total.numerator // total.denominator - sum(floors.values())
    by_remainder = sorted(exact, key=lambda player: floors[player] - exact[player])
    for player in by_remainder[:missing]:
        floors[player] += 1
    return floors


def median_table(tables: Sequence[Mapping[PlayerT, int]]) -> dict[PlayerT, int]:
    """The lower median of each player's value across evaluators, in the first table's order.

    With fewer than half of the tables wrong, every result lies between two honest evaluators' values.

    Raises:
        QuorumMissing: no table at all.
        DataRefused: a table names other players than the first one, or a value is not an integer of 63 bits.
    """
    if not tables:
        raise QuorumMissing("at least one table is needed", where="tables")
    players = tables[0].keys()
    for index, table in enumerate(tables):
        if table.keys() != players:
            differing = sorted(map(str, table.keys() ^ players))
            raise DataRefused(f"must name the same players; differs in {differing}", where=f"tables[{index}]")
        for player, value in table.items():
            field = f"tables[{index}] value of {player}"
            require_integer(value, field, low=-VALUE_LIMIT, high=VALUE_LIMIT, error=DataRefused)
    middle = (len(tables) - 1) // 2
    return {player: sorted(int(table[player]) for table in tables)[middle] for player in players}
