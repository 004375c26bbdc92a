"""What a score table comes to: the values that are paid for, and what a requester should know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from galaxylearning.contribution import FixedPointUtility, from_fixed, to_fixed
from galaxylearning.learning.gate import NO_REFERENCE
from galaxylearning.learning.vectors import F64
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms, loss_unit
from galaxylearning.protocol.masking import few_projections
from galaxylearning.protocol.settlement import payout_amounts, target_gain_fixed
from galaxylearning.units import Address, how_many, in_tokens

MOST_REASONS: Final = 3
SLACK: Final = 100
"""Payouts above what the model's gain gives by no more than one part in so many are not worth a line."""


def settled_values(table: ScoreTable, accounts: Sequence[Address]) -> tuple[F64, F64]:
    """What each of ``accounts`` is paid for and its standard error, f64[K] each, per hidden sample.

    Credit for a step is handed down to its makers, rejections are charged, luck counts nothing.
    """
    totals = {total.data_owner: total for total in table.totals}
    found = [totals[who] for who in accounts]
    return (
        np.array([from_fixed(total.value) for total in found]),
        np.array([from_fixed(total.standard_error) for total in found]),
    )


def money_notes(terms: Terms, parameters: int, table: ScoreTable, paid: int) -> tuple[str, ...]:
    """What a requester should know of how a job judged and paid; ``paid`` in smallest units."""
    found = (
        few_projections(terms, parameters),
        _refused(table),
        _without_sum(terms, table),
        _excess(terms, table, paid),
    )
    return tuple(note for note in found if note is not None)


def _refused(table: ScoreTable) -> str | None:
    """Why updates did not count, with how many of them, the most frequent reasons first."""
    reasons = Counter(
        owner.reason
        for scores in table.rounds
        for owner in scores.owners
        if owner.status in ("rejected", "malformed")
    )
    if not reasons:
        return None
    told = "; ".join(f"{count:,} as {_plain(reason)}" for reason, count in reasons.most_common(MOST_REASONS))
    more = "; …" if len(reasons) > MOST_REASONS else ""
    return f"{how_many(reasons.total(), 'update')} did not count: {told}{more}"


def _plain(reason: str) -> str:
    more = " (training on the hidden set gave no step; too high a learning rate does that)"
    return reason + (more if reason == NO_REFERENCE else "")


def _without_sum(terms: Terms, table: ScoreTable) -> str | None:
    """Rounds in which so few updates of a masked job were accepted that no sum was opened."""
    least = 0 if terms.masking is None else terms.masking.minimum_sum
    accepted = [sum(owner.status == "accepted" for owner in scores.owners) for scores in table.rounds]
    count = sum(0 < found < least for found in accepted)
    if not count:
        return None
    return (
        f"in {count} of {how_many(len(accepted), 'round')} fewer than {least} updates were accepted, and "
        "masked mode opens no sum over fewer: the model stayed as it was, and nobody's update earned anything"
    )


def _excess(terms: Terms, table: ScoreTable, paid: int) -> str | None:
    """What to say where more is paid than the model's own gain would give.

    Participation fees, of everybody at most, are no part of it.
    """
    if not table.rounds:
        return None
    change = table.rounds[-1].utility_after - table.rounds[0].utility_before
    gain = FixedPointUtility().to_loss(change) / terms.paying_rows
    price, model = terms.price, Address("0x" + "0" * 40)
    (worth,) = to_fixed([gain])
    due = payout_amounts(
        {model: worth}, bounty=int(price.bounty), target_gain=target_gain_fixed(price.target_gain)
    )[model]
    if paid <= due + due // SLACK + int(price.participation_fee) * len(table.totals):
        return None
    unit = loss_unit(terms.loss)
    return (
        f"{_tokens(paid)} tokens are paid; the model's own gain of {gain:.4f} {unit} per sample would give "
        f"{_tokens(due)}. Each value above zero is paid, and those below give nothing back"
    )


def _tokens(units: int) -> str:
    """Tokens to three decimals, rounded down."""
    return in_tokens(units - units % 10**15)
