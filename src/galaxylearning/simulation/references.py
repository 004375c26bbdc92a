"""Other values of a simulated job's data owners, to hold the paid ones against: coalitions and retraining.

``shapley`` and ``banzhaf`` sum, over the rounds, the exact values of each round's fixed-share game;
``retraining-shapley`` and ``retraining-banzhaf`` are those of the game in which every coalition trains alone
from the first round on, without the gate: what everybody's rows are worth, whatever they send. All in nats
per hidden sample, on the rows that pay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from galaxylearning.contribution.games import MAX_EXACT_PLAYERS, banzhaf_from_worths, shapley_from_worths
from galaxylearning.engines.coalitions import CoalitionEvaluator
from galaxylearning.engines.engine import Training
from galaxylearning.engines.retraining import retraining_worths
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F64
from galaxylearning.protocol.rounds import JobComputation, local_plan, quantizer
from galaxylearning.simulation.prepare import Prepared

RULES: Final[Mapping[str, Callable[[F64], F64]]] = {
    "shapley": shapley_from_worths,
    "banzhaf": banzhaf_from_worths,
}
RETRAINING: Final = "retraining-"
NAMES: Final = (*RULES, *(RETRAINING + rule for rule in RULES))


def check_references(names: Sequence[str], identities: int) -> None:
    """Refuse names that do not exist, and cohorts with too many coalitions.

    Raises:
        ConfigRefused: naming what is allowed.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigRefused(f"{name[:40]!r} given; allowed: {', '.join(NAMES)}", where="compare")
    if names and identities > MAX_EXACT_PLAYERS:
        raise ConfigRefused(
            f"{identities} identities have 2^{identities} coalitions; allowed: {MAX_EXACT_PLAYERS} at most",
            where="compare",
        )


def reference_values(
    prepared: Prepared,
    job: JobComputation,
    names: Sequence[str],
    *,
    budget_mib: float,
    threads: int,
    tell: Callable[[str], None],
) -> dict[str, F64]:
    """Values f64[K] under each of ``names``; ``job`` must have kept the history of its rounds.

    Raises:
        GalaxyError: a coalition's utility is not finite, or its models do not fit the budget.
    """
    found: dict[str, F64] = {}
    rounds = [name for name in names if not name.startswith(RETRAINING)]
    if rounds:
        found |= _of_rounds(prepared, job, rounds, budget_mib, threads, tell)
    again = [name for name in names if name.startswith(RETRAINING)]
    if again:
        tell(f"retraining {2 ** len(prepared.cast) - 1:,} coalitions for {len(job.outcomes)} rounds")
        worths = retraining_worths(
            prepared.compiled.model,
            prepared.cast.cohort,
            Training(local_plan(prepared.terms.plan), prepared.terms.seed),
            job.hidden.paying,
            rounds=max(1, len(job.outcomes)),
            loss_clip=prepared.terms.plan.loss_clip,
            weights="equal",
            budget_mib=budget_mib,
            threads=threads,
        )
        found |= {name: RULES[name.removeprefix(RETRAINING)](worths) for name in again}
    return {name: found[name] for name in names}


def _of_rounds(
    prepared: Prepared,
    job: JobComputation,
    names: Sequence[str],
    budget_mib: float,
    threads: int,
    tell: Callable[[str], None],
) -> dict[str, F64]:
    plan = prepared.terms.plan
    unit = plan.server_learning_rate / quantizer(plan).scale
    totals = {name: np.zeros(len(prepared.cast)) for name in names}
    for outcome in job.outcomes:
        accepted = np.flatnonzero(outcome.codes == 0)
        if not accepted.size:
            continue
        tell(f"round {outcome.round_index + 1}: the worth of {2**accepted.size:,} coalitions")
        weights = outcome.weights[accepted]
        rows = {who: row for row, who in enumerate(outcome.updates.owners)}
        sent = outcome.updates.parameters[[rows[outcome.data_owners[i]] for i in accepted.tolist()]]
        evaluator = CoalitionEvaluator(
            job.model,
            job.hidden.paying,
            loss_clip=plan.loss_clip,
            buffers=outcome.before.buffers,
            budget_mib=budget_mib,
            threads=threads,
        )
        worths = evaluator.worths(
            outcome.before.params,
            (sent * unit).astype(np.float64),
            shares=(weights / weights.sum()).tolist(),
        )
        for name in names:
            totals[name][accepted] += RULES[name](worths)
    return totals
