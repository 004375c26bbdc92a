"""What in a score table does not follow from the table itself, the chain, or a computation of one's own.

Evaluators that agree can settle any table. Anybody can see whether it contradicts itself or the anchored
rounds; whoever has the updates opened can hold every line of it against the recomputed one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from galaxylearning.errors import MessageRefused
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.scoring import AGREEMENT, owed, totals_of
from galaxylearning.units import Address, Digest, round_name

COSINE_SLACK: Final = 16
"""So many parts of ``COSINE_UNIT`` may honest evaluators' cosines differ by."""


@dataclass(frozen=True, slots=True)
class AnchoredRounds:
    """What the chain fixed of a settled job's rounds.

    ``models`` are those that the rounds gave, in order: the next round began with it, the last was settled.
    ``senders`` are, by round, whose updates were anchored; a round of which that is not known is missing.
    """

    models: Sequence[Digest]
    senders: Mapping[int, Collection[Address]]


def contradiction(table: ScoreTable, terms: Terms, anchored: AnchoredRounds) -> str | None:
    """What in a table contradicts itself or the chain; None where nothing does. Nobody needs a key for it."""
    if [scores.model_digest for scores in table.rounds] != list(anchored.models):
        return "its rounds do not give the anchored models"
    if table.final_model_digest != anchored.models[-1]:
        return "its final model is not the settled one"
    if table.value_name != terms.value:
        return f"its values are {table.value_name!r}; agreed are {terms.value!r}"
    for scores in table.rounds:
        senders = anchored.senders.get(scores.round_index)
        for one in scores.owners:
            if senders is not None and (one.status == "absent") == (one.data_owner in senders):
                has = "an" if one.data_owner in senders else "no"
                where = round_name(scores.round_index)
                return f"{one.data_owner} is {one.status} in {where}, in which it has {has} anchored update"
    owners = [Address(total.data_owner) for total in table.totals]
    try:
        follows = table.totals == totals_of(table.rounds, owners, novelty=terms.plan.novelty)
    except MessageRefused:  # Rounds add up to more than a total can say.
        follows = False
    return None if follows else "its totals are not those of its rounds"


def difference(table: ScoreTable, computed: ScoreTable) -> str | None:
    """What in a table is otherwise than in the recomputed one, last digits aside; None where nothing is.

    Models, decisions, weights, reasons and twins are the same on every machine. Values, gains and standard
    errors may differ by 1/``AGREEMENT`` of all of them together, as totals may.
    """
    for name, said, found in zip(_EXACT, _exactly(table), _exactly(computed), strict=True):
        if said != found:
            return f"its {name} are not those computed"
    sizes = [abs(scores.gain) for scores in computed.rounds]
    sizes += [abs(one.value) + one.standard_error for scores in computed.rounds for one in scores.owners]
    slack = sum(sizes) // AGREEMENT + 1
    for scores, own in zip(table.rounds, computed.rounds, strict=True):
        numbers = [("gain", scores.gain, own.gain, slack)]
        for one, other in zip(scores.owners, own.owners, strict=True):
            who = one.data_owner
            numbers += [
                (f"value of {who}", one.value, other.value, slack),
                (f"standard error of {who}", one.standard_error, other.standard_error, slack),
                (f"cosine of {who}", one.cosine, other.cosine, COSINE_SLACK),
            ]
        for name, given, wanted, allowed in numbers:
            if abs(given - wanted) > allowed:
                return f"in {round_name(scores.round_index)} its {name} is {given}; computed is {wanted}"
    return None


_EXACT: Final = ("values", "models", "decisions", "reasons", "twins")


def _exactly(table: ScoreTable) -> tuple[object, ...]:
    decisions = [
        [(one.data_owner, one.status, one.reason, one.weight) for one in scores.owners]
        for scores in table.rounds
    ]
    models = [scores.model_digest for scores in table.rounds], table.final_model_digest
    reasons = [(total.data_owner, total.reason) for total in table.totals]
    return table.value_name, models, decisions, reasons, table.twins


def fees_of(terms: Terms, tables: Sequence[ScoreTable]) -> dict[Address, int]:
    """What each data owner is owed for taking part, in smallest units: what tables without any value give."""
    empty = [
        msgspec.structs.replace(
            table, totals=tuple(msgspec.structs.replace(total, value=0) for total in table.totals)
        )
        for table in tables
    ]
    return owed(terms, empty)[1]
