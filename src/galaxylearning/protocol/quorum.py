"""When a round has enough: by count, and by the mass that its owners have shown in earlier rounds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from galaxylearning.messages.terms import Windows
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.units import Address

PATIENCE: Final = 10
"""Whoever still gives signs of life at the deadline is waited for, a tenth of the shorter window."""


def mass_share(
    outcomes: Sequence[RoundOutcome], cohort: Collection[Address], present: Collection[Address]
) -> float:
    """The share of the weight in earlier rounds that those ``present`` made, from 0 to 1.

    Each earlier round counts alike; who was not accepted in it made none of its weight. Claimed sample counts
    play no part. Before the first round in which anything was accepted, all owners count alike.
    """
    mass = dict.fromkeys(cohort, 0.0)
    for outcome in outcomes:
        total = int(outcome.weights.sum())
        for who, weight in zip(outcome.data_owners, outcome.weights.tolist(), strict=True):
            if weight > 0 and who in mass:
                mass[who] += weight / total
    everything = sum(mass.values())
    if everything == 0:
        mass, everything = dict.fromkeys(mass, 1.0), float(len(mass))
    return sum(mass[who] for who in mass if who in present) / everything if everything else 0.0


def patience_s(windows: Windows) -> int:
    """How long after a round's deadline its slow owners are waited for, in seconds of chain time."""
    return min(windows.round_s, windows.anchor_s) // PATIENCE
