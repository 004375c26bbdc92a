"""Values held against what they should be: exact Banzhaf values, the job's gain, and how noisy labels are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np
from benchmarks.fairness import schemes
from benchmarks.fairness.cohorts import Privacy, Setting, play

from galaxylearning.contribution import to_fixed
from galaxylearning.messages.records import ScoreTable
from galaxylearning.protocol.scoring import median_totals, score_table

NOISY_OWNERS, NOISY_ROUNDS = 18, 15
WORST_NOISE, TOO_NOISY = 0.9, 0.6


@dataclass(frozen=True, slots=True)
class Truth:
    """One cohort without attackers: ``correlation`` with exact Banzhaf values of the same rounds, and the sum
    of all values over the job's gain."""

    privacy: Privacy
    correlation: float
    sum_of_gain: float
    paid_of_gain: float


@dataclass(frozen=True, slots=True)
class Graded:
    """Owners with graded label noise: how their ranks agree with those of clean labels.

    ``path`` is of path values, ``charged`` of those less what rejections cost, ``novel`` of the values that
    are paid, before they are cut off at zero, ``paid`` of the pay itself (many at zero). How many of the too
    noisy are paid, and the largest such pay over the median of the clean.
    """

    privacy: Privacy
    path: float
    charged: float
    novel: float
    paid: float
    noisy_paid: int
    noisy_most: float


@dataclass(frozen=True, slots=True)
class Unlucky:
    """Honest cohorts: who is paid nothing because it went against the hidden set's steps and is worth little.

    ``lost`` is, for each data owner, what that takes from it over the mean pay; mostly 0.
    """

    privacy: Privacy
    lost: tuple[float, ...]


def run_truth(setting: Setting, seed: int) -> list[Truth]:
    """Both modes without novelty against the game, and with novelty against the gain."""
    found = []
    privacies: tuple[Privacy, ...] = ("sealed", "masked")
    for privacy in privacies:
        plain = Setting(setting.data, setting.split, plan=(("novelty", False),))
        played = play(plain, seed, privacy=privacy)
        values, game = schemes.measured(played), schemes.games(played)["banzhaf"]
        names = played.accounts
        pair = np.corrcoef([values[who] for who in names], [game[who] for who in names])
        novel = play(setting, seed, privacy=privacy)
        found.append(
            Truth(
                privacy,
                float(pair[0, 1]),
                sum(values.values()) / schemes.gain_of_job(played),
                sum(schemes.paid(novel, is_merged=False).values()) / schemes.gain_of_job(novel),
            )
        )
    return found


def run_graded(data: str, hidden: int, seed: int) -> list[Graded]:
    """18 data owners, from clean labels to 90 % wrong ones; 15 rounds."""
    noise = np.linspace(0.0, WORST_NOISE, NOISY_OWNERS)
    behaviours = {who: f"label-noise:{part:.6f}" for who, part in enumerate(noise.tolist())}
    privacies: tuple[Privacy, ...] = ("sealed", "masked")
    found = []
    for privacy in privacies:
        setting = Setting(data, "iid", owners=NOISY_OWNERS, rounds=NOISY_ROUNDS, hidden=hidden)
        played = play(setting, seed, behaviours, privacy=privacy)
        path, paid = schemes.plain_path(played), schemes.pay(schemes.paid(played))
        values = np.array([path[who] for who in played.accounts])
        amounts = np.array([paid[who] for who in played.accounts])
        novel, charges = schemes.before_the_floor(played)
        clean, noisy = amounts[noise < WORST_NOISE - TOO_NOISY], amounts[noise >= TOO_NOISY]
        found.append(
            Graded(
                privacy,
                ranks_agree(-noise, values),
                ranks_agree(-noise, values - charges),
                ranks_agree(-noise, novel),
                ranks_agree(-noise, amounts),
                int((noisy > 0).sum()),
                float(noisy.max() / max(float(np.median(clean)), 1e-12)),
            )
        )
    return found


def run_unlucky(setting: Setting, owners: int, seed: int) -> list[Unlucky]:
    """All data owners honest, with unlike rows and more of them than in the other cohorts, or fewer."""
    privacies: tuple[Privacy, ...] = ("sealed", "masked")
    found = []
    for privacy in privacies:
        played = play(replace(setting, owners=owners), seed, privacy=privacy)
        paid, kept = schemes.paid(played), schemes.worth_of_luck(played)
        mean = sum(schemes.pay(paid).values()) / len(paid)
        found.append(Unlucky(privacy, tuple(kept.get(who, 0.0) / mean for who in played.accounts)))
    return found


def ranks_agree(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[where]


def run_liars(seed: int, *, seats: int = 5, tries: int = 200) -> int:
    """By how many units of value any floor((K - 1) / 2) lying evaluators move an owner's value; the most."""
    played = play(Setting("breast-cancer", "iid", rounds=3), seed)
    table = score_table(played.job, played.accounts)
    truth = median_totals([table] * seats)
    rng = np.random.default_rng([seed, 0x11A5])
    largest = 0
    for _ in range(tries):
        tables = [table] * seats
        for liar in rng.choice(seats, (seats - 1) // 2, replace=False).tolist():
            tables[liar] = _lie(table, rng)
        found = median_totals(tables)
        largest = max(largest, max(abs(found[who] - value) for who, value in truth.items()))
    return largest


def _lie(table: ScoreTable, rng: np.random.Generator) -> ScoreTable:
    size = 10.0 ** rng.uniform(-9, 6)
    moved = to_fixed(size * rng.standard_normal(len(table.totals)))
    totals = tuple(
        msgspec.structs.replace(total, value=total.value + off)
        for total, off in zip(table.totals, moved, strict=True)
    )
    return msgspec.structs.replace(table, totals=totals)
