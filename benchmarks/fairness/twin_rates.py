"""How often twins are found, and honest data owners taken for twins, in both modes."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.fairness.cohorts import Played, Setting, play

from galaxylearning.contribution import SentUpdates, twin_groups
from galaxylearning.units import Address

BYSTANDERS = {1: "noise:0.05", 2: "shuffled-labels"}


@dataclass(frozen=True, slots=True)
class TwinCase:
    """One cohort: its copies (0: none), and for masked and sealed mode whether all of them were found and
    whether anybody else was taken for a twin."""

    copies: int
    found: dict[str, bool]
    wrong: dict[str, bool]


def run_case(setting: Setting, seed: int) -> list[TwinCase]:
    """The cohort without twins, and with 2 to 8 names for one owner; beside noise and shuffled labels."""
    copies = 2 + seed % 7
    return [_judged(setting, seed, 0), _judged(setting, seed, copies)]


def _judged(setting: Setting, seed: int, copies: int) -> TwinCase:
    behaviours = dict(BYSTANDERS)
    if copies:
        behaviours[0] = f"sybil-duplicate:{copies}"
    played = play(setting, seed, behaviours, privacy="masked")
    owner = dict(zip(played.accounts, played.played_by, strict=True))
    names = {who for who in played.accounts if owner[who] == 0}
    found, wrong = {}, {}
    for mode, groups in (("masked", _masked(played)), ("sealed", _sealed(played))):
        found[mode] = bool(copies) and any(names <= group for group in groups)
        wrong[mode] = any(len({owner[who] for who in group}) > 1 for group in groups)
    return TwinCase(copies, found, wrong)


def _masked(played: Played) -> tuple[frozenset[Address], ...]:
    return twin_groups([outcome.sent for outcome in played.job.outcomes if outcome.sent is not None])


def _sealed(played: Played) -> tuple[frozenset[Address], ...]:
    updates = [outcome.updates for outcome in played.job.outcomes]
    return twin_groups([SentUpdates(sent.owners, sent.parameters) for sent in updates])
