"""What a score table comes to: the values that are paid for, and what a requester should know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from galaxylearning.contribution import FixedPointUtility, from_fixed, to_fixed
from galaxylearning.learning.vectors import F64
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms, loss_unit
from galaxylearning.protocol.masking import few_projections
from galaxylearning.protocol.settlement import payout_amounts, target_gain_fixed
from galaxylearning.units import Address, in_tokens

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
    found = (few_projections(terms, parameters), _excess(terms, table, paid))
    return tuple(note for note in found if note is not None)


def _excess(terms: Terms, table: ScoreTable, paid: int) -> str | None:
    """What to say where more is paid than the model's own gain would give.

    Participation fees, of everybody at most, are no part of it.
    """
    if not table.rounds:
        return None
    change = table.rounds[-1].utility_after - table.rounds[0].utility_before
    gain = FixedPointUtility().to_loss(change) / (terms.test_rows - terms.test_rows // 2)
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
