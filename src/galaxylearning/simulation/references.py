"""Other values of a simulated job's data owners, to hold the paid ones against: coalitions and retraining.

``shapley`` and ``banzhaf`` sum, over the rounds, the exact values of each round's fixed-share game;
``retraining-shapley`` and ``retraining-banzhaf`` are those of the game in which every coalition trains alone
from the first round on, without the gate: what everybody's rows are worth, whatever they send. All per hidden
sample, on the rows that pay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution.games import MAX_EXACT_PLAYERS, banzhaf_from_worths, shapley_from_worths
from galaxylearning.engines.coalitions import CoalitionEvaluator
from galaxylearning.engines.engine import Training
from galaxylearning.engines.retraining import retraining_worths
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.dense import DenseModel, DenseProgram, dense_weights_from_bytes
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.graph.model import Model
from galaxylearning.learning.vectors import F32, F64
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import local_plan, quantizer
from galaxylearning.simulation.prepare import Prepared
from galaxylearning.units import how_many

RULES: Final[Mapping[str, Callable[[F64], F64]]] = {
    "shapley": shapley_from_worths,
    "banzhaf": banzhaf_from_worths,
}
RETRAINING: Final = "retraining-"
NAMES: Final = (*RULES, *(RETRAINING + rule for rule in RULES))


def check_names(names: Sequence[str]) -> None:
    """Refuse values that do not exist.

    Raises:
        ConfigRefused: naming those that do.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigRefused(f"{name[:40]!r} given; allowed: {', '.join(NAMES)}", where="compare")


def check_identities(names: Sequence[str], identities: int) -> None:
    """Refuse cohorts with too many coalitions.

    Raises:
        ConfigRefused: naming how many are allowed.
    """
    if names and identities > MAX_EXACT_PLAYERS:
        raise ConfigRefused(
            f"{identities} identities have 2^{identities} coalitions; allowed: {MAX_EXACT_PLAYERS} at most",
            where="compare",
        )


@dataclass(frozen=True, slots=True)
class Means:
    """What may be used: memory in MiB and threads; with ``on_ray`` so many workers of a Ray cluster."""

    budget_mib: float
    threads: int
    tell: Callable[[str], None]
    on_ray: bool = False
    ray_address: str | None = None


def reference_values(
    prepared: Prepared, job: JobComputation, names: Sequence[str], means: Means
) -> dict[str, F64]:
    """Values f64[K] under each of ``names``; ``job`` must have kept the history of its rounds.

    Raises:
        GalaxyError: a coalition's utility is not finite, or its models do not fit the budget.
    """
    found: dict[str, F64] = {}
    rounds = [name for name in names if not name.startswith(RETRAINING)]
    if rounds:
        found |= _of_rounds(prepared, job, rounds, means)
    again = [name for name in names if name.startswith(RETRAINING)]
    if again:
        coalitions = how_many(2 ** len(prepared.cast) - 1, "coalition")
        means.tell(f"retraining {coalitions} for {how_many(len(job.outcomes), 'round')}")
        worths = retraining_worths(
            prepared.compiled.model,
            prepared.cast.cohort,
            Training(local_plan(prepared.terms.plan), prepared.terms.seed),
            job.hidden.paying,
            rounds=max(1, len(job.outcomes)),
            loss_clip=prepared.terms.plan.loss_clip,
            weights="equal",
            budget_mib=means.budget_mib,
            threads=means.threads,
        )
        found |= {name: RULES[name.removeprefix(RETRAINING)](worths) for name in again}
    return {name: found[name] for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class RoundGame:
    """One round: the model before it f32[P] and f32[B], updates f64[n, P], shares that sum to 1."""

    start: F32
    buffers: F32
    updates: F64
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HiddenGame:
    """What all rounds of a job share: the graph and its initial weights as they travel, the rows that pay."""

    graph: bytes
    weights: bytes
    rows: Rows
    loss_clip: float
    budget_mib: float
    threads: int


def round_worths(hidden: HiddenGame, game: RoundGame) -> F64:
    """The worth of every coalition of a round, f64[2**n]; needs nothing but its arguments, on any machine.

    Raises:
        GalaxyError: as ``CoalitionEvaluator``.
    """
    graph = read_graph(hidden.graph, DEFAULT_LIMITS)
    model: Model
    if DenseProgram.of(graph) is not None:
        model = DenseModel(graph, dense_weights_from_bytes(graph, hidden.weights))
    else:
        from galaxylearning.graph import FlatModel, weights_from_bytes

        model = FlatModel(graph, weights_from_bytes(graph, hidden.weights, max_bytes=len(hidden.weights)))
    evaluator = CoalitionEvaluator(
        model,
        hidden.rows,
        loss_clip=hidden.loss_clip,
        buffers=game.buffers,
        budget_mib=hidden.budget_mib,
        threads=hidden.threads,
    )
    return evaluator.worths(game.start, game.updates, shares=game.shares)


def _of_rounds(prepared: Prepared, job: JobComputation, names: Sequence[str], means: Means) -> dict[str, F64]:
    plan = prepared.terms.plan
    unit = plan.server_learning_rate / quantizer(plan, prepared.compiled.model.parameter_count).scale
    totals = {name: np.zeros(len(prepared.cast)) for name in names}
    players: list[NDArray[np.int64]] = []
    games: list[RoundGame] = []
    for outcome in job.outcomes:
        accepted = np.flatnonzero(outcome.codes == 0)
        if not accepted.size:
            continue
        weights = outcome.weights[accepted]
        rows = {who: row for row, who in enumerate(outcome.updates.owners)}
        sent = outcome.updates.parameters[[rows[outcome.data_owners[i]] for i in accepted.tolist()]]
        shares = tuple((weights / weights.sum()).tolist())
        before = outcome.before
        games.append(RoundGame(before.params, before.buffers, (sent * unit).astype(np.float64), shares))
        players.append(accepted)
    means.tell(f"the worth of {how_many(sum(2 ** len(accepted) for accepted in players), 'coalition')}")
    hidden = HiddenGame(
        prepared.compiled.graph.to_bytes(),
        prepared.compiled.model_bytes,
        job.hidden.paying,
        plan.loss_clip,
        means.budget_mib,
        1 if means.on_ray else means.threads,
    )
    for accepted, worths in zip(players, _each(hidden, games, means), strict=True):
        for name in names:
            totals[name][accepted] += RULES[name](worths)
    return totals


def _each(hidden: HiddenGame, games: Sequence[RoundGame], means: Means) -> Iterator[F64]:
    """The worths of each game, here or spread over a Ray cluster; the same either way."""
    if means.on_ray:
        from galaxylearning.engines.ray_cluster import ray_map

        function = f"{__name__}:{round_worths.__name__}"
        yield from ray_map(function, hidden, games, workers=means.threads, address=means.ray_address)
    else:
        yield from (round_worths(hidden, game) for game in games)
