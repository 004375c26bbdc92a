"""Whose value is luck: two halves of the hidden set both have to say so.

Wrong labels get through the first rounds, when anything helps, and are worth something there. The gating half
sees it over a job: cosines to its steps are against them on the whole or, where the first rounds were lucky
enough, in all that follow. Neither half alone tells them from unusual data (``docs/contribution.md`` has
figures). Exact integers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from galaxylearning.learning.exact import lower_median

UNEARNED: Final = "went against the hidden set's steps, and was worth less than half of the median"
UNEARNED_LATER: Final = (
    "went against the hidden set's later steps, in a cohort of which more than a quarter goes against its "
    "steps, and was worth less than the median"
)

FIRST_PART = 5
"""What follows the first of so many parts of a job's rounds is judged by itself."""

MANY_PART = 4
"""More than one in so many of a cohort against the hidden set: then luck is what to expect."""

STANDARD_ERRORS, FEWEST_LATER = 2, 4
"""So many of them below 0 is what later cosines have to be, and of so many of these at least."""


def unearned(values: Sequence[int], cosines: Sequence[Sequence[int | None]]) -> list[str]:
    """By data owner, why its value is not earned; an empty text where it is.

    ``cosines`` are those of its updates to the gating half's step, round by round, in any unit; None where
    none was read. The median is the lower one of what those are worth, if anything, whose cosines do not add
    up to less than 0. Not earned is what is worth

    - less than half of it, by cosines that add up to less than 0;
    - less than it, in a cohort of which more than a quarter has such cosines, by cosines whose sum is not
      above the cohort's lower median and which, after the first fifth of the rounds, are below 0 by more than
      two standard errors of their mean, four of them at least.
    """
    sums = [sum(one for one in own if one is not None) for own in cosines]
    sent = [total for total, own in zip(sums, cosines, strict=True) if any(one is not None for one in own)]
    along = [value for value, total in zip(values, sums, strict=True) if total >= 0 and value > 0]
    usual, middle = lower_median(np.array(along, object)), lower_median(np.array(sent, object))
    are_many = MANY_PART * sum(total < 0 for total in sent) > len(sent)
    found = []
    for value, total, own in zip(values, sums, cosines, strict=True):
        later = [one for one in own[len(own) // FIRST_PART :] if one is not None]
        if total < 0 < value and 2 * value < usual:
            found.append(UNEARNED)
        elif are_many and 0 < value < usual and total <= middle and is_against(later):
            found.append(UNEARNED_LATER)
        else:
            found.append("")
    return found


def is_against(cosines: Sequence[int]) -> bool:
    """Whether their mean is below 0 by more than ``STANDARD_ERRORS`` of its standard errors; not of few."""
    count, total = len(cosines), sum(cosines)
    spread = count * sum(one * one for one in cosines) - total * total
    return count >= FEWEST_LATER and total < 0 and total * total * (count - 1) > STANDARD_ERRORS**2 * spread
