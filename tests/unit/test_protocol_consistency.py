"""Tables that contradict themselves, the chain, or what one computes oneself; by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.unit.test_protocol_scoring import NAT, OWNERS, TERMS, A, B, C, make_terms

from galaxylearning.contribution import UNEARNED
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.messages.records import OwnerScore, RoundScores, ScoreTable
from galaxylearning.protocol.consistency import (
    COSINE_SLACK,
    AnchoredRounds,
    contradiction,
    difference,
    fees_of,
)
from galaxylearning.protocol.scoring import AGREEMENT, totals_of
from galaxylearning.units import Digest

FIRST, LAST = Digest(blake3_digest(b"first")), Digest(blake3_digest(b"last"))
ANCHORED = AnchoredRounds([FIRST, LAST], {0: {A, B}, 1: {A, B, C}})
COHORT = OWNERS[:3]
_replace = msgspec.structs.replace


def scores(index: int, model: Digest, *rows: tuple[str, int]) -> RoundScores:
    owners = tuple(
        OwnerScore(who, "accepted", "", 3, value, 7, 100)
        if status == "accepted"
        else OwnerScore(who, status, "why", 0, 0, 0)  # type: ignore[arg-type]
        for who, (status, value) in zip(COHORT, rows, strict=True)
    )
    return RoundScores(index, model, 1, 2, 3, owners, 2 * NAT)


def made(*rounds: RoundScores, **changes: Any) -> ScoreTable:
    """A table whose totals follow from its rounds, where ``changes`` do not say otherwise."""
    facts: dict[str, Any] = {
        "job_id": 1,
        "terms_digest": TERMS.digest,
        "value_name": TERMS.value,
        "rounds": rounds,
        "twins": (),
        "totals": totals_of(rounds, COHORT, novelty=TERMS.plan.novelty),
        "final_model_digest": LAST,
    }
    return ScoreTable(**(facts | changes))


ROUNDS = (
    scores(0, FIRST, ("accepted", NAT), ("rejected", 0), ("absent", 0)),
    scores(1, LAST, ("accepted", NAT), ("accepted", NAT // 2), ("malformed", 0)),
)
HONEST = made(*ROUNDS)


def test_an_honest_table_contradicts_nothing() -> None:
    assert contradiction(HONEST, TERMS, ANCHORED) is None
    assert contradiction(HONEST, TERMS, AnchoredRounds([FIRST, LAST], {})) is None


TOTALS = HONEST.totals
CONTRADICTIONS: list[tuple[ScoreTable, str]] = [
    (made(ROUNDS[0], final_model_digest=FIRST), "its rounds do not give"),
    (made(ROUNDS[0], scores(1, FIRST, *[("accepted", 1)] * 3)), "its rounds do not give"),
    (made(), "its rounds do not give"),
    (made(*ROUNDS, final_model_digest=FIRST), "its final model"),
    (made(*ROUNDS, value_name="nonsense"), "'nonsense'; agreed are 'path'"),
    (
        made(scores(0, FIRST, ("accepted", NAT), ("rejected", 0), ("accepted", 1)), ROUNDS[1]),
        f"{C} is accepted in round 1, in which it has no anchored update",
    ),
    (
        made(scores(0, FIRST, ("absent", 0), ("rejected", 0), ("absent", 0)), ROUNDS[1]),
        f"{A} is absent in round 1, in which it has an anchored update",
    ),
    (made(*ROUNDS, totals=(_replace(TOTALS[0], value=TOTALS[0].value + 1), *TOTALS[1:])), "its totals"),
    (made(*ROUNDS, totals=(_replace(TOTALS[0], reason=UNEARNED), *TOTALS[1:])), "its totals"),
    (made(*ROUNDS, totals=(_replace(TOTALS[0], standard_error=0), *TOTALS[1:])), "its totals"),
]


@pytest.mark.parametrize(("table", "said"), CONTRADICTIONS)
def test_a_table_that_contradicts_itself_or_the_chain_is_found_out(table: ScoreTable, said: str) -> None:
    assert said in (contradiction(table, TERMS, ANCHORED) or "")


def one(**changes: Any) -> Callable[[RoundScores], RoundScores]:
    return lambda scores: _replace(scores, owners=(_replace(scores.owners[0], **changes), *scores.owners[1:]))


SLACK = (2 * 2 * NAT + 2 * NAT + NAT // 2 + 3 * 7) // AGREEMENT + 1
"""Of all gains, values and standard errors."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda scores: scores, None),
        (one(value=NAT + SLACK), None),
        (one(value=NAT + SLACK + 1), f"in round 2 its value of {A} is"),
        (one(standard_error=8 + SLACK), f"its standard error of {A}"),
        (one(cosine=100 - COSINE_SLACK), None),
        (one(cosine=99 - COSINE_SLACK), f"its cosine of {A}"),
        (one(weight=4), "its decisions are not those computed"),
        (one(reason="we do not like you"), "its decisions"),
        (lambda scores: _replace(scores, gain=2 * NAT - SLACK), None),
        (lambda scores: _replace(scores, gain=2 * NAT - SLACK - 1), "in round 2 its gain"),
        (lambda scores: _replace(scores, model_digest=FIRST), "its models are not those computed"),
    ],
)
def test_what_is_otherwise_than_computed_is_named_and_last_digits_are_not(
    change: Callable[[RoundScores], RoundScores], said: str | None
) -> None:
    # Totals are held against each other by medians, and follow from what is compared here.
    found = difference(made(ROUNDS[0], change(ROUNDS[1]), totals=HONEST.totals), HONEST)
    assert found is None if said is None else said in (found or "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"twins": ((A, B),)}, "its twins"),
        ({"value_name": "nonsense"}, "its values"),
        ({"totals": (_replace(TOTALS[0], reason="stole its data"), *TOTALS[1:])}, "its reasons"),
        ({"rounds": ROUNDS[:1]}, "its models"),
    ],
)
def test_made_up_twins_reasons_and_rounds_are_named(changes: dict[str, Any], said: str) -> None:
    assert said in (difference(_replace(HONEST, **changes), HONEST) or "")


def test_fees_are_told_from_what_values_are_paid() -> None:
    terms = make_terms(fee=100)
    assert fees_of(terms, [HONEST]) == {A: 100, B: 100, C: 0}
    assert fees_of(TERMS, [HONEST]) == {A: 0, B: 0, C: 0}
