"""What a home's data sets have told so far, and what its policy leaves: as plain values, and for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused
from galaxylearning.units import how_many

if TYPE_CHECKING:
    from galaxylearning.protocol.consent import OwnerPolicy
    from galaxylearning.protocol.privacy import Spending
    from galaxylearning.storage.datasets import DatasetCatalog

    Read: TypeAlias = Callable[[str], Sequence[Spending]]

JOB_COLUMNS: Final = ("job", "requester", "noise", "rounds", "reserved", "epsilon")


def budgets(home: Home, catalogue: DatasetCatalog, names: Sequence[str]) -> list[dict[str, Any]]:
    """``budget_facts`` of each of these data sets.

    Raises:
        StorageError: the book is damaged.
    """
    with _reading(home, catalogue) as (policy, spendings):
        return [budget_facts(policy, spendings(name)) for name in names]


@contextmanager
def _reading(home: Home, catalogue: DatasetCatalog) -> Iterator[tuple[OwnerPolicy, Read]]:
    """The policy that counts, and a function from a data set's name to what it told.

    A home without a book has told nothing; a policy that cannot be read allows nothing and shows no limit.
    """
    from galaxylearning import bootstrap
    from galaxylearning.protocol.consent import OwnerPolicy

    try:
        policy = bootstrap.read_policy(home)
    except ConfigRefused:
        policy = OwnerPolicy()
    if not home.privacy_book.exists():
        yield policy, lambda _name: ()
        return
    book = bootstrap.open_privacy_book(home, catalogue)
    try:
        yield policy, book.spendings
    finally:
        book.close()


def budget_facts(policy: OwnerPolicy, spendings: Sequence[Spending]) -> dict[str, Any]:
    """Epsilon spent (open jobs with all their rounds) and left at the policy's delta; every job's share.

    ``left`` is None where the policy has no limit.
    """
    from galaxylearning.protocol.privacy import spent_epsilon, unprotected_rounds

    spent = spent_epsilon(spendings, policy.delta)
    limit = policy.max_epsilon
    return {
        "epsilon_spent": _finite(spent),
        "epsilon_left": None if limit is None else max(0.0, limit - spent),
        "max_epsilon": limit,
        "delta": policy.delta,
        "unprotected_rounds": unprotected_rounds(spendings),
        "jobs": [_job(one, policy.delta) for one in spendings],
    }


def _job(one: Spending, delta: float) -> dict[str, Any]:
    from galaxylearning.learning.accounting import epsilon

    release = one.release
    return {
        "job": one.job,
        "requester": one.requester,
        "rounds": one.rounds,
        "reserved": one.reserved if one.is_open else 0,
        "multiplier": None if release is None else release.multiplier,
        "steps": None if release is None else release.steps,
        "sampling_rate": None if release is None else release.sampling_rate,
        "epsilon": None if release is None else _finite(epsilon([(release, one.charged)], delta)),
    }


def budget_line(facts: dict[str, Any]) -> str:
    """Spent and left in a few words."""
    words = f"{_number(facts['epsilon_spent'])} at delta {facts['delta']:g}, "
    words += "no limit" if facts["max_epsilon"] is None else f"{facts['epsilon_left']:.3g} left"
    bare = facts["unprotected_rounds"]
    return words + (f"; {how_many(bare, 'round')} without noise, which no epsilon covers" if bare else "")


def job_rows(facts: dict[str, Any]) -> list[tuple[object, ...]]:
    """Rows under ``JOB_COLUMNS``."""
    return [
        (
            job["job"],
            job["requester"],
            "none" if job["multiplier"] is None else _noise(job),
            job["rounds"],
            job["reserved"],
            "unbounded" if job["multiplier"] is None else _number(job["epsilon"]),
        )
        for job in facts["jobs"]
    ]


def _noise(job: dict[str, Any]) -> str:
    return f"{job['multiplier']:.3g} x {job['steps']} steps at {job['sampling_rate']:.3g}"


def _finite(value: float) -> float | None:
    """For JSON, which has no infinity: None stands for no bound."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"
