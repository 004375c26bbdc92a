"""What every identity of a played cohort earns under each way of valuing it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import TypeAlias

import msgspec
import numpy as np
from benchmarks.fairness.cohorts import Played

from galaxylearning.contribution import PathScorer, charge, from_fixed, handed_down
from galaxylearning.contribution.games import banzhaf_from_worths, shapley_from_worths
from galaxylearning.engines.coalitions import CoalitionEvaluator
from galaxylearning.graph.dense_model import DenseModel
from galaxylearning.graph.dense_weights import dense_weights_from_bytes
from galaxylearning.learning.vectors import F64
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.scoring import score_table, totals_of
from galaxylearning.units import Address

Worth: TypeAlias = dict[Address, float]
"""Nats per hidden sample over the whole job, any sign."""

GAMES = ("banzhaf", "shapley", "leave-one-out")
MOST_IDENTITIES = 15


def paid(played: Played, *, is_merged: bool = True) -> Worth:
    """As the protocol pays: novelty, credit handed down, rejections charged, twins merged (unless not)."""
    job = played.job
    table = score_table(job if is_merged else _unsearched(played), played.accounts)
    return {Address(total.data_owner): from_fixed(total.value) for total in table.totals}


def worth_of_luck(played: Played) -> Worth:
    """What those would have been paid for that get nothing by ``contribution.unearned``."""
    table = score_table(played.job, played.accounts)
    blind = tuple(
        msgspec.structs.replace(
            scores, owners=tuple(msgspec.structs.replace(one, cosine=0) for one in scores.owners)
        )
        for scores in table.rounds
    )
    whole = totals_of(blind, played.accounts, novelty=played.job.terms.plan.novelty)
    return {
        Address(total.data_owner): from_fixed(before.value)
        for total, before in zip(table.totals, whole, strict=True)
        if total.reason
    }


def _unsearched(played: Played) -> JobComputation:
    """The same rounds, without what the search for twins looks at."""
    job = copy(played.job)
    job.outcomes = [replace(outcome, sent=None) for outcome in job.outcomes]
    return job


def before_the_floor(played: Played) -> tuple[F64, F64]:
    """Values with credit handed down less what rejections cost, and these costs, f64[n] each, in nats."""
    rounds = score_table(played.job, played.accounts).rounds
    accepted = [
        {one.data_owner: one.value for one in scores.owners if one.status == "accepted"} for scores in rounds
    ]
    rests = [scores.gain - sum(own.values()) for scores, own in zip(rounds, accepted, strict=True)]
    whole = handed_down(accepted, rests)
    worth, costs = np.zeros(len(played.accounts)), np.zeros(len(played.accounts))
    for own, credited, scores in zip(accepted, whole, rounds, strict=True):
        cost = from_fixed(charge([credited[who] for who in own]))
        for index, one in enumerate(scores.owners):
            worth[index] += from_fixed(credited.get(one.data_owner, 0))
            costs[index] += cost if one.status in ("rejected", "malformed") else 0.0
    return worth - costs, costs


def measured(played: Played) -> Worth:
    """The rounds' values as they were measured: no twins merged, nothing handed down or charged."""
    found = dict.fromkeys(played.accounts, 0.0)
    for outcome in played.job.outcomes:
        for who, (value, _) in outcome.scores.items():
            found[who] += value
    return found


def plain_path(played: Played) -> Worth:
    """Path values without novelty, plain sums over accepted updates."""
    found = dict.fromkeys(played.accounts, 0.0)
    for outcome in played.job.outcomes:
        accepted, rows, shares = _accepted(outcome)
        if not accepted:
            continue
        plan = played.job.terms.plan
        step = outcome.after.previous_step
        if step is None:
            raise ValueError("a round with accepted updates has a step")
        scorer = PathScorer(
            played.job.judge.gradient_blocks(outcome.before.buffers),
            outcome.before.params.astype(np.float64),
            step,
            update_bits=plan.bits,
            midpoints=plan.midpoints,
        )
        worth = scorer.values([rows], shares, unit=played.job.parameter_unit)
        for who, value in zip(accepted, worth.values.tolist(), strict=True):
            found[who] += value
    return found


def games(played: Played) -> dict[str, Worth]:
    """Exact Banzhaf and Shapley values and leave-one-out, in each round's fixed-share game."""
    found = {name: dict.fromkeys(played.accounts, 0.0) for name in GAMES}
    job = played.job
    weights = job.model.state_bytes(*job.model.initial())
    model = DenseModel(job.model.graph, dense_weights_from_bytes(job.model.graph, weights))
    judge = CoalitionEvaluator(model, job.hidden.paying, loss_clip=job.terms.plan.loss_clip)
    for outcome in job.outcomes:
        accepted, rows, shares = _accepted(outcome)
        if not accepted:
            continue
        updates = rows.astype(np.float64) * job.parameter_unit
        worths = judge.worths(outcome.before.params, updates, shares=shares.tolist())
        whole = len(worths) - 1
        alone = np.array([worths[whole] - worths[whole ^ (1 << i)] for i in range(len(accepted))])
        for name, values in (
            ("banzhaf", banzhaf_from_worths(worths)),
            ("shapley", shapley_from_worths(worths)),
            ("leave-one-out", alone),
        ):
            for who, value in zip(accepted, values.tolist(), strict=True):
                found[name][who] += value
    return found


def by_size(played: Played) -> Worth:
    """Parts of one pot by the number of rows that is claimed."""
    total = sum(played.sizes)
    return {who: size / total for who, size in zip(played.accounts, played.sizes, strict=True)}


def by_distance(played: Played) -> Worth:
    """Parts of one pot by nearness to the mean update (the inverse of the distance), averaged over rounds."""
    found = dict.fromkeys(played.accounts, 0.0)
    for outcome in played.job.outcomes:
        rows = outcome.updates.parameters.astype(np.float64)
        distance = np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1))
        nearness = 1.0 / np.maximum(distance, 1e-9)
        for who, part in zip(outcome.updates.owners, (nearness / nearness.sum()).tolist(), strict=True):
            found[who] += part / len(played.job.outcomes)
    return found


def gain_of_job(played: Played) -> float:
    """By how much the loss on the paying half fell, in nats per sample."""
    job, first = played.job, played.job.outcomes[0]
    begun = job.judge.utility(first.before.params.astype(np.float64), first.before.buffers)
    return job.judge.utility(job.state.params.astype(np.float64), job.state.buffers) - begun


def pay(worth: Mapping[Address, float]) -> dict[Address, float]:
    """At the posted price, pay is the positive part of the worth."""
    return {who: max(value, 0.0) for who, value in worth.items()}


def _accepted(outcome: RoundOutcome) -> tuple[list[Address], np.ndarray, F64]:
    """Who counted, their integers, their shares."""
    where = np.flatnonzero(outcome.codes == 0)
    names = [outcome.data_owners[i] for i in where.tolist()]
    row = {who: index for index, who in enumerate(outcome.updates.owners)}
    weights = outcome.weights[where].astype(np.float64)
    rows = outcome.updates.parameters[[row[who] for who in names]]
    return names, rows, weights / max(weights.sum(), 1.0)
