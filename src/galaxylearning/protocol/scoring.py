"""From the rounds of a job to its score table, from the evaluators' tables to the payouts.

Pure integer arithmetic once a round's values are fixed point; every evaluator derives the same table, and the
payouts from the medians of all that were revealed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from galaxylearning.contribution import (
    MAX_PLAYERS,
    RoundView,
    charge,
    counted,
    handed_down,
    median_table,
    merge_twins,
    saturated,
    to_fixed,
    twin_groups,
    unearned,
    value_named,
)
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.standing import to_units
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.records import (
    OwnerScore,
    OwnerTotal,
    PayoutRow,
    PayoutTable,
    RoundScores,
    ScoreTable,
    ShownShare,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.outcomes import STANDS_ALONE, RoundOutcome
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.settlement import PayoutTree, payout_amounts, payout_tree, target_gain_fixed
from galaxylearning.protocol.updates import quantizer
from galaxylearning.units import Address, Digest

Accepted: TypeAlias = tuple[frozenset[Address], ...]
"""Whose updates counted, round by round."""

READ = ("accepted", "rejected")
"""Statuses of updates that arrived and, unless they could not be opened, have a cosine."""

AGREEMENT = 1_000_000
"""A table is faulty when a total differs from the median by more than 1/AGREEMENT of the sum of medians."""


def score_table(
    job: JobComputation, cohort: Sequence[Address], shown: Sequence[ShownShare] = ()
) -> ScoreTable:
    """The scores of all rounds so far, for the whole cohort in ascending order of address.

    ``shown`` is an evaluator's evidence; all else is the same for everybody.
    """
    twins = find_twins(job)
    raw = [_fixed(outcome, 0) for outcome in job.outcomes]
    errors = [_fixed(outcome, 1) for outcome in job.outcomes]
    values = [_merged(outcome, scores, twins) for outcome, scores in zip(job.outcomes, raw, strict=True)]
    gains = to_fixed([outcome.gain for outcome in job.outcomes])
    rounds = tuple(
        RoundScores(
            round_index=index,
            model_digest=outcome.model_digest,
            utility_before=outcome.measured_before.utility,
            utility_after=outcome.measured_after.utility,
            correct=outcome.measured_after.correct,
            owners=_round_owners(outcome, cohort, values[index], errors[index]),
            gain=gains[index],
        )
        for index, outcome in enumerate(job.outcomes)
    )
    return ScoreTable(
        job_id=job.job_id,
        terms_digest=job.terms.digest,
        value_name=job.terms.value,
        rounds=rounds,
        twins=tuple(tuple(sorted(group, key=address_key)) for group in twins),
        totals=totals_of(rounds, cohort, novelty=job.terms.plan.novelty),
        final_model_digest=job.model_digest(),
        shown=tuple(shown),
    )


def find_twins(job: JobComputation) -> tuple[frozenset[Address], ...]:
    """Groups of identities that train on the same data, ordered by their lowest address.

    Cohorts of more than ``MAX_PLAYERS`` identities are not searched: there only credentials count.
    """
    if len({who for outcome in job.outcomes for who in outcome.data_owners}) > MAX_PLAYERS:
        return ()
    history = [outcome.sent for outcome in job.outcomes if outcome.sent is not None]
    return tuple(sorted(twin_groups(history), key=lambda group: min(map(address_key, group))))


def totals_of(
    rounds: Sequence[RoundScores], cohort: Sequence[Address], *, novelty: bool
) -> tuple[OwnerTotal, ...]:
    """What the rounds are worth to everybody: with novelty, credit is handed down; rejections are charged.

    Who went against the hidden set's steps and is worth little gets nothing, and why (``unearned``).
    """
    values, charges = credits_of(rounds, novelty=novelty)
    worth, cosines, errors = [], [], []
    for index, who in enumerate(cohort):
        own = [scores.owners[index] for scores in rounds]
        rejected = [cost for score, cost in zip(own, charges, strict=True) if is_charged(score)]
        worth.append(counted([whole.get(who, 0) for whole in values], rejected))
        cosines.append([score.cosine if score.status in READ else None for score in own])
        errors.append(math.isqrt(sum(score.standard_error**2 for score in own)))
    return tuple(
        OwnerTotal(who, 0 if reason else saturated(value), saturated(error), reason)
        for who, value, error, reason in zip(cohort, worth, errors, unearned(worth, cosines), strict=True)
    )


def credits_of(rounds: Sequence[RoundScores], *, novelty: bool) -> tuple[list[dict[str, int]], list[int]]:
    """By round: what it is worth to everybody, what is handed down included, and what a rejection costs."""
    accepted = [
        {score.data_owner: score.value for score in scores.owners if score.status == "accepted"}
        for scores in rounds
    ]
    values = accepted
    if novelty:
        rests = [scores.gain - sum(own.values()) for scores, own in zip(rounds, accepted, strict=True)]
        values = handed_down(accepted, rests)
    return values, [charge([whole[who] for who in own]) for own, whole in zip(accepted, values, strict=True)]


def is_charged(score: OwnerScore) -> bool:
    """Whether a round's rejection costs its data owner something."""
    return score.status in ("rejected", "malformed") and score.reason != STANDS_ALONE


def median_totals(tables: Sequence[ScoreTable]) -> dict[Address, int]:
    """Each data owner's value: the lower median over the revealed tables."""
    return median_table([{Address(t.data_owner): t.value for t in table.totals} for table in tables])


@dataclass(frozen=True, slots=True)
class Consensus:
    """What usable tables, one per seat, say together.

    ``medians`` are everybody's values; ``decided`` is what more than half of the tables say of models, twins,
    and whose updates counted how much in each round; None where no so many agree.
    """

    medians: Mapping[Address, int]
    decided: object | None

    @classmethod
    def of(cls, tables: Sequence[ScoreTable]) -> Consensus:
        """Raises as ``median_table`` does."""
        medians = median_totals(tables)  # Refuses that there is no table.
        decided, count = Counter(map(_decided, tables)).most_common(1)[0]
        return cls(medians, decided if 2 * count > len(tables) else None)


def is_faulty(table: ScoreTable, consensus: Consensus, reference: ScoreTable) -> bool:
    """Whether a table is another than honest arithmetic gives: other decisions, models, twins or totals.

    Participation fees follow from who was accepted, and receipts from all of it: true totals under false
    rounds are no honest table.
    """
    medians = consensus.medians
    totals = {Address(total.data_owner): total.value for total in table.totals}
    if totals.keys() != medians.keys() or table.final_model_digest != reference.final_model_digest:
        return True
    if consensus.decided not in (None, _decided(table)):
        return True
    tolerance = sum(abs(value) for value in medians.values()) // AGREEMENT
    return any(abs(totals[who] - value) > tolerance for who, value in medians.items())


def usable(table: ScoreTable, *, job_id: int, terms_digest: Digest, cohort: Sequence[Address]) -> bool:
    """Whether a revealed table is about this job and exactly this cohort, so that medians can use it."""
    owners = [total.data_owner for total in table.totals]
    return table.job_id == job_id and table.terms_digest == terms_digest and owners == list(cohort)


def owed(terms: Terms, tables: Sequence[ScoreTable]) -> tuple[dict[Address, int], dict[Address, int]]:
    """Each data owner's value, the median of the tables, and what it is paid for it in smallest units."""
    medians = median_totals(tables)
    return medians, payout_amounts(
        medians,
        bounty=int(terms.price.bounty),
        target_gain=target_gain_fixed(terms.price.target_gain),
        participation_fee=int(terms.price.participation_fee),
        participants=participants(tables),
    )


def payouts(
    terms: Terms,
    *,
    chain_id: int,
    contract: Address,
    job_id: int,
    tables: Sequence[tuple[Digest, ScoreTable]],
) -> tuple[PayoutTree, PayoutTable]:
    """The payout tree and the table that explains it, from one usable revealed table per seat.

    Seats that revealed the same table count each: the medians are over evaluators, not over opinions.
    """
    ordered = sorted(tables, key=lambda pair: pair[0])
    medians, amounts = owed(terms, [table for _, table in ordered])
    tree = payout_tree(chain_id, contract, job_id, amounts)
    rows = tuple(
        PayoutRow(
            index=row.index,
            account=row.account,
            amount=str(row.amount),
            value=medians[row.account],
            reason="path-integrated value" if medians[row.account] > 0 else "participation fee",
        )
        for row in tree.rows
    )
    digests = tuple(sorted({digest for digest, _ in ordered}))
    return tree, PayoutTable(job_id=job_id, score_tables=digests, rows=rows, total=str(tree.total))


def reference_values(job: JobComputation, name: str) -> dict[str, dict[str, float]]:
    """Another value of every data owner beside the path-integrated one, summed over the rounds.

    Both are in units of the loss per hidden sample, but for those that ``contribution.OTHER_UNITS`` names.
    Neither twins nor rejections count here: both columns are plain sums over accepted updates.

    Raises:
        ConfigRefused: an unknown name, one that this job cannot be valued by, or a masked job whose updates
            nobody has.
        ValueError: the computation keeps no history.
    """
    value = value_named(name)
    if job.masking is not None and any(outcome.history is None for outcome in job.outcomes):
        raise ConfigRefused("needs every update, and this job's are masked", where="value")
    found: dict[str, dict[str, float]] = {}
    for outcome in job.outcomes:
        owners = list(outcome.scores)
        if not owners or outcome.after.previous_step is None:
            continue
        weights = {d.data_owner: d.weight for d in outcome.decisions}
        total = sum(weights[who] for who in owners)
        sent, scale = outcome.updates, quantizer(job.terms.plan, job.sizes[0])
        row = {who: index for index, who in enumerate(sent.owners)}
        view = RoundView(
            start=outcome.before.params.astype(np.float64),
            step=outcome.after.previous_step,
            updates=[scale.dequantize(sent.parameters[row[who]].astype(np.int32), 1) for who in owners],
            shares=[weights[who] / total for who in owners],
            gradient_blocks=job.judge.gradient_blocks(outcome.before.buffers),
            utility=partial(job.judge.utility, buffers=outcome.before.buffers),
            midpoints=job.terms.plan.midpoints,
        )
        scored = value(view, np.random.default_rng([job.terms.seed, outcome.round_index, 0x7EF]))
        for who, worth in zip(owners, scored.values, strict=True):
            sums = found.setdefault(who, {"path": 0.0, name: 0.0})
            sums["path"] += outcome.scores[who][0]
            if name != "path":
                sums[name] += float(worth)
    return found


def participants(tables: Sequence[ScoreTable]) -> frozenset[Address]:
    """Data owners that more than half of the tables saw accepted in at least one round."""
    seen = Counter(who for table in tables for who in frozenset[Address]().union(*_accepted(table)))
    return frozenset(who for who, count in seen.items() if 2 * count > len(tables))


def _decided(table: ScoreTable) -> object:
    """What of a table is the same on every machine, in words or in digits."""
    rounds = tuple(
        (scores.model_digest, tuple((one.data_owner, one.status, one.weight) for one in scores.owners))
        for scores in table.rounds
    )
    return rounds, table.twins


def _accepted(table: ScoreTable) -> Accepted:
    return tuple(
        frozenset(Address(score.data_owner) for score in scores.owners if score.status == "accepted")
        for scores in table.rounds
    )


def _fixed(outcome: RoundOutcome, part: int) -> dict[Address, int]:
    """Values (part 0) or standard errors (part 1) of a round in fixed point."""
    return dict(zip(outcome.scores, to_fixed([pair[part] for pair in outcome.scores.values()]), strict=True))


def _merged(
    outcome: RoundOutcome, scores: Mapping[Address, int], twins: Sequence[frozenset[Address]]
) -> dict[Address, int]:
    present = [frozenset(who for who in group if who in scores) for group in twins]
    groups = [group for group in present if len(group) > 1]
    if not groups:
        return dict(scores)
    weights = {d.data_owner: d.weight for d in outcome.decisions if d.data_owner in scores}
    merged = merge_twins(scores, groups, weights=weights)
    return {who: saturated(value) for who, value in merged.items()}


def _round_owners(
    outcome: RoundOutcome,
    cohort: Sequence[Address],
    values: Mapping[Address, int],
    errors: Mapping[Address, int],
) -> tuple[OwnerScore, ...]:
    decided = {decision.data_owner: decision for decision in outcome.decisions}
    cosines = dict(zip(outcome.data_owners, to_units(outcome.cosines).tolist(), strict=True))
    return tuple(
        OwnerScore(
            data_owner=who,
            status=decided[who].status,
            reason=decided[who].reason,
            weight=decided[who].weight,
            value=values.get(who, 0),
            standard_error=errors.get(who, 0),
            cosine=cosines[who],
        )
        for who in cohort
    )
