"""Rules that might take the profit out of splitting, tried on what is paid: what each takes from whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from benchmarks.fairness import schemes
from benchmarks.fairness.admission import admitted
from benchmarks.fairness.attacks import median_owner
from benchmarks.fairness.cohorts import Played, Setting, play

from galaxylearning.contribution import SentUpdates, twin_evidence
from galaxylearning.learning.vectors import F64
from galaxylearning.units import Address

ISSUER_SIZE = 3
LEAST_PRECISION = 1e-3
CREDENTIALS = "one identity an organisation, by credentials"
"""The rule that was adopted: the cohort refuses the splitter's other identities, so nothing is divided."""


@dataclass(frozen=True, slots=True)
class SplitTried:
    """One rule in one cohort: the splitter's pay over its honest pay under the same rule, with ``parts``
    identities, and the smallest pay of an honest owner over what it gets without the rule (no splitter)."""

    rule: str
    parts: int
    took: float
    honestly: float
    kept_least: float
    kept_median: float


def no_rule(_played: Played, _owner: int) -> F64:
    """Equal shares, as they are."""
    return np.ones(len(_played.accounts))


def correlated(played: Played, _owner: int) -> F64:
    """One over how many identities this one agrees with: the sum of its squared positive correlations."""
    names = played.accounts
    evidence = twin_evidence(_sent(played))
    place = {who: index for index, who in enumerate(evidence.players)}
    factors = np.ones(len(names))
    squares = np.sum(np.clip(evidence.correlation, 0.0, 1.0) ** 2, axis=1)
    for index, who in enumerate(names):
        if who in place:
            factors[index] = 1.0 / max(1.0, float(squares[place[who]]))
    return factors


def precise(played: Played, _owner: int) -> F64:
    """How near an identity's updates lie to the mean one, on average: the more data, the nearer.

    One over the squared norm of the lasting part of its residuals: products between different rounds.
    """
    sums: dict[Address, F64] = {}
    own: dict[Address, float] = {}
    for sent in _sent(played):
        rows = sent.updates.astype(np.float64)
        rest = rows - rows.mean(axis=0)
        rest /= max(float(np.sqrt((rows.mean(axis=0) ** 2).sum())), 1e-9)
        for who, row in zip(sent.players, rest, strict=True):
            sums[who] = sums.get(who, np.zeros(row.size)) + row
            own[who] = own.get(who, 0.0) + float(row @ row)
    count = len(played.job.outcomes)
    lasting = [
        max((float(sums[who] @ sums[who]) - own[who]) / (count * (count - 1)), LEAST_PRECISION)
        for who in played.accounts
    ]
    return 1.0 / np.array(lasting)


def by_issuer(played: Played, owner: int) -> F64:
    """One over the root of how many identities one issuer vouches for: all of the splitter's by one issuer,
    honest owners by issuers of three."""
    issuer = [-1 if who == owner else who // ISSUER_SIZE for who in played.played_by]
    return np.array([1.0 / np.sqrt(issuer.count(one)) for one in issuer])


RULES: Mapping[str, Callable[[Played, int], F64]] = {
    "none": no_rule,
    "pay correlated identities less": correlated,
    "pay by precision of the residuals": precise,
    "root of an issuer's identities": by_issuer,
    CREDENTIALS: no_rule,
}


def run_splits(setting: Setting, seed: int, parts: tuple[int, ...] = (2, 4, 8)) -> list[SplitTried]:
    """All rules on a cohort without and with a splitter, the owner of median pay."""
    # Nobody honest is refused: the rule takes no part in what they earn.
    honest = play(setting, seed, admits=admitted)
    worth = schemes.pay(schemes.paid(honest))
    amounts = np.array([worth[who] for who in honest.accounts])
    splitter = median_owner(honest)
    found = []
    for count in parts:
        played = play(setting, seed, {splitter: f"sybil-split:{count}"})
        refused = play(setting, seed, {splitter: f"sybil-split:{count}"}, admits=admitted)
        for name, rule in RULES.items():
            after_all = refused if name == CREDENTIALS else played
            before = _under(rule, honest, worth, splitter)
            after = _under(rule, after_all, schemes.pay(schemes.paid(after_all)), splitter)
            paid = amounts > 0
            kept = before[paid] / amounts[paid]
            found.append(
                SplitTried(
                    name,
                    count,
                    float(after[[who == splitter for who in after_all.played_by]].sum()),
                    float(before[splitter]),
                    float(kept.min()),
                    float(np.median(kept)),
                )
            )
    return found


def _under(
    rule: Callable[[Played, int], F64], played: Played, pays: Mapping[Address, float], owner: int
) -> F64:
    """The same pot, divided by pay times the rule's factor."""
    amounts = np.array([pays[who] for who in played.accounts])
    weighted = amounts * rule(played, owner)
    found: F64 = weighted * (amounts.sum() / max(float(weighted.sum()), 1e-12))
    return found


def _sent(played: Played) -> list[SentUpdates[Address]]:
    updates = [outcome.updates for outcome in played.job.outcomes]
    return [SentUpdates(sent.owners, sent.parameters) for sent in updates]
