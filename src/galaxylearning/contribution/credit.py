"""From what rounds were worth to what a job is worth to each: credit handed down, rejections charged.

With novelty an update is valued off the last global step, for anybody could have sent that again. What the
round gained along it is still somebody's work: theirs who made that step. It is handed down to them, in the
parts in which the last step was credited, round after round. Who only ever repeats made nothing and is handed
nothing; and values sum to the job's gain again. Exact integers only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from galaxylearning.errors import DataRefused
from galaxylearning.learning.exact import lower_median

PlayerT = TypeVar("PlayerT", bound=Hashable)


def handed_down(values: Sequence[Mapping[PlayerT, int]], rests: Sequence[int]) -> list[dict[PlayerT, int]]:
    """Add to every round's values what its gain holds beyond them, for those who made the step before.

    ``values`` are, per round, those of the accepted, of what was new in their updates; ``rests`` what each
    round gained beyond their sum, which may be negative. A rest is divided like the positive credits of the
    last round that had any, whether or not their owners take part now; rounded down, the missing units to the
    largest remainders (ties: the order of crediting). Without any positive credit a rest is nobody's.

    Raises:
        DataRefused: another number of rests than of rounds.
    """
    if len(values) != len(rests):
        raise DataRefused(f"must be {len(values)}, one per round, not {len(rests)}", where="rests")
    credit: dict[PlayerT, int] = {}
    found: list[dict[PlayerT, int]] = []
    for own, rest in zip(values, rests, strict=True):
        if not own:
            found.append({})
            continue
        whole = dict(own)
        for player, part in _divided(rest, credit).items():
            whole[player] = whole.get(player, 0) + part
        credit = {player: value for player, value in whole.items() if value > 0} or credit
        found.append(whole)
    return found


def charge(accepted: Sequence[int]) -> int:
    """What a rejected update costs: the lower median value of the round's accepted ones, if positive."""
    return max(0, lower_median(np.array(accepted, object)))


def counted(values: Sequence[int], charges: Sequence[int]) -> int:
    """What an owner's rounds are worth together once ``charges`` for its rejected ones are taken off.

    Charges take away what was gained, never more, and never what was lost. Noise slips through the gate now
    and then: without this it would be paid for its luck and never charged for the rest.
    """
    gains = sum(value for value in values if value > 0)
    return sum(value for value in values if value < 0) + max(0, gains - sum(charges))


def _divided(rest: int, credit: Mapping[PlayerT, int]) -> dict[PlayerT, int]:
    total = sum(credit.values())
    if not rest or not total:
        return {}
    parts: dict[PlayerT, int] = {}
    remainders: list[tuple[int, PlayerT]] = []
    for player, share in credit.items():
        parts[player], remainder = divmod(rest * share, total)
        remainders.append((remainder, player))
    missing = rest - sum(parts.values())
    for _, player in sorted(remainders, key=lambda pair: -pair[0])[:missing]:
        parts[player] += 1
    return parts
