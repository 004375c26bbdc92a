"""How long a job's windows must be at least: for blocks to become final, and for the nodes' own waits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from galaxylearning.errors import JobRefused
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.member import longest_vote

ROUND_PHASES: Final = 3
"""Gate, sum and value; the twins are a fourth, once, after the last round."""
MARGIN: Final = 1.5
"""So much longer than when a job is posted it may take until a block is final: Ethereum's 13 minutes are 19
at other moments. Evaluators ask for what it takes when they look: none refuses what was posted for more."""


def least_windows(terms: Terms, *, finality_s: float, stagger_s: float) -> Mapping[str, int]:
    """The shortest windows that can be kept whoever is silent, slow or lies, seconds by name.

    ``finality_s``: from a block to when it is final. ``stagger_s``: so long evaluators wait for each
    other, each time. How long data owners train is theirs to say and no part of it.

    Source: docs/adr/0025 (what waits for final blocks), docs/adr/0033 (how long a phase of openings takes).
    """
    seats, final = len(terms.evaluators), finality_s
    line = seats * stagger_s
    phase = 0.0 if terms.masking is None else longest_vote(seats) * stagger_s
    twins = phase if terms.masking is not None and terms.masking.twin_projections else 0.0
    openings = ROUND_PHASES * phase
    needed = {
        "enrol_s": 2 * final + line,  # the posting, then the seats
        "round_s": final + openings + line,  # of the round before: its model is known only then
        "anchor_s": line,
        "commit_s": final + openings + twins + line,
        "reveal_s": final + line,
        "settle_s": final + 2 * line,  # half of it belongs to late tables
        "claim_s": final + line,
    }
    return {name: max(1, math.ceil(least)) for name, least in needed.items()}


def require_windows(terms: Terms, *, finality_s: float, stagger_s: float) -> None:
    """Refuse windows that may be over before what must happen in them can have happened.

    ``finality_s`` is what it takes now; windows must do where it takes ``MARGIN`` times as long.

    Raises:
        JobRefused: naming the window, its length and the least.
    """
    for name, least in least_windows(terms, finality_s=MARGIN * finality_s, stagger_s=stagger_s).items():
        given = getattr(terms.windows, name)
        if given < least:
            raise JobRefused(
                f"{given} given; allowed: at least {least}. A block is final after about {finality_s:g} s, "
                f"and {len(terms.evaluators)} evaluators wait {stagger_s:g} s for each other at every step",
                where=f"windows.{name}",
            )
