"""The values that are paid for, and what is said of the money."""

from __future__ import annotations

import msgspec
import numpy as np

from galaxylearning.contribution import FixedPointUtility
from galaxylearning.messages.records import OwnerScore, OwnerTotal, RoundScores, ScoreTable
from galaxylearning.messages.terms import EvaluatorSeat, Terms
from galaxylearning.protocol.masking import default_masking
from galaxylearning.simulation.settled import money_notes, settled_values
from galaxylearning.units import Address
from plain_rounds import OWNERS, make_terms

NAT = 1 << 40
TOKEN = 10**18


def table(before: float, after: float, totals: list[int], refused: int = 0) -> ScoreTable:
    """One round whose summed utility goes from ``before`` to ``after``, in nats; the first are refused."""
    unit = 1 << FixedPointUtility().fraction_bits
    owners = (
        *(OwnerScore(who, "rejected", "far", 0, 0, 0) for who in OWNERS[:refused]),
        *(OwnerScore(who, "accepted", "", 1, NAT, 0) for who in OWNERS[refused:]),
    )
    scores = RoundScores(0, b"\1" * 32, int(before * unit), int(after * unit), 1, owners)
    return ScoreTable(
        job_id=1,
        terms_digest=b"\2" * 32,
        value_name="path",
        rounds=(scores,),
        twins=(),
        totals=tuple(OwnerTotal(who, value, NAT // 8) for who, value in zip(OWNERS, totals, strict=True)),
        final_model_digest=b"\1" * 32,
    )


def terms(bounty: int, gain: float) -> Terms:
    plain = make_terms()
    price = msgspec.structs.replace(plain.price, bounty=str(bounty), target_gain=gain, participation_fee="0")
    return msgspec.structs.replace(plain, price=price, test_rows=200)


def test_what_is_shown_is_what_is_paid_for() -> None:
    """The rounds say 1 nat for everybody; the totals are what is left after credit and charges."""
    totals = [NAT // 2, -NAT // 4, *[0] * (len(OWNERS) - 2)]
    accounts = [Address(who) for who in reversed(OWNERS)]
    values, errors = settled_values(table(0, 1, totals), accounts)
    np.testing.assert_array_equal(values, [*[0.0] * (len(OWNERS) - 2), -0.25, 0.5])
    np.testing.assert_array_equal(errors, [0.125] * len(OWNERS))


def test_why_updates_did_not_count_is_told_and_rounds_that_opened_no_sum() -> None:
    plain, zeros = terms(1000 * TOKEN, 0.4), [0] * len(OWNERS)
    seats = tuple(EvaluatorSeat(who, *["ab" * 32] * 2) for who in OWNERS[:3])
    masked = msgspec.structs.replace(
        plain,
        plan=msgspec.structs.replace(plain.plan, projections=15, minimum_owners=3),
        masking=default_masking(plain.plan, parameters=2_000, seats=3),
        evaluators=seats,
        privacy="masked",
    )
    some = table(-70, -70, zeros, refused=1)
    assert money_notes(plain, 2_000, some, 0) == ("1 update did not count: 1 as far",)
    assert not any("no sum" in note for note in money_notes(masked, 2_000, some, 0))
    few = table(-70, -70, zeros, refused=2)
    assert any("in 1 of 1 round fewer than 3" in note for note in money_notes(masked, 2_000, few, 0))
    assert not any("no sum" in note for note in money_notes(plain, 2_000, few, 0))


def test_pay_above_the_models_gain_is_told() -> None:
    # 100 rows pay: from -70 to -50 nats is a gain of 0.2 a row, for which 1000 tokens / 0.4 give 500.
    scores = table(-70, -50, [0] * len(OWNERS))
    (note,) = money_notes(terms(1000 * TOKEN, 0.4), 2_000, scores, 625 * TOKEN)
    assert "625 tokens are paid; the model's own gain of 0.2000 nats per sample would give 500" in note
    assert money_notes(terms(1000 * TOKEN, 0.4), 2_000, scores, 500 * TOKEN) == ()
    # At the bounty there is no more to give, whatever the gain.
    assert money_notes(terms(1000 * TOKEN, 0.1), 2_000, scores, 1000 * TOKEN) == ()
    # A model that got worse earned nothing.
    worse = table(-50, -70, [0] * len(OWNERS))
    (note,) = money_notes(terms(1000 * TOKEN, 0.4), 2_000, worse, TOKEN)
    assert note.startswith("1 tokens are paid")
    assert "would give 0. Each" in note
