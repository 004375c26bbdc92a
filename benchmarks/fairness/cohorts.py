"""Cohorts of data owners with real rows, played by the project's own engine, gate and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import torch
from benchmarks.fairness.attackers import Maker, Stage
from torch import nn

import galaxylearning as gl
from galaxylearning.engines.choose import choose_engine
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning import UpdateMatrix
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.job import CompiledJob, compile_job
from galaxylearning.protocol.masking import masked_plan
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import local_plan
from galaxylearning.simulation.behaviours import enlist, parse_behaviour
from galaxylearning.simulation.partition import parse_partitioner
from galaxylearning.simulation.players import Players
from galaxylearning.simulation.prepare import account, terms_without_chain
from galaxylearning.simulation.sources import built_in, built_in_schema, owners_from
from galaxylearning.units import Address

Privacy: TypeAlias = Literal["sealed", "masked"]

TEST_PART = 0.3
ATTEMPTS = 100
PUBLIC_ROWS = 30
RATES = {"breast-cancer": 0.15, "digits": 0.5}
STEPS = {"breast-cancer": 10, "digits": 20}
HIDDEN = {"breast-cancer": 64, "digits": 32}
SPLITS = {
    "iid": "iid",
    "dirichlet": "dirichlet:alpha=0.5,min_partition_size=6",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A data set, how its rows are dealt out, to how many, and for how many rounds they train.

    ``hidden`` units of the network, 0 for a logistic model.
    """

    data: str
    split: str
    owners: int = 12
    rounds: int = 10
    hidden: int = -1
    plan: tuple[tuple[str, object], ...] = ()

    @property
    def units(self) -> int:
        """Hidden units, by the data set unless given."""
        return HIDDEN[self.data] if self.hidden < 0 else self.hidden


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """A cohort's computation with every round's history, its identities and who is behind them."""

    job: JobComputation
    accounts: tuple[Address, ...]
    played_by: tuple[int, ...]
    sizes: tuple[int, ...]

    def behind(self, data_owner: int) -> tuple[Address, ...]:
        """The identities of one data owner."""
        return tuple(
            who for who, owner in zip(self.accounts, self.played_by, strict=True) if owner == data_owner
        )


@cache
def compiled(data: str, units: int, width: int) -> CompiledJob:
    """The job's model as a graph, once for all seeds; rows and weights are put in later."""
    schema = built_in_schema(data)
    classes = len(schema.label.classes or ())
    layers: list[nn.Module] = [nn.Linear(width, classes)]
    if units:
        layers = [nn.Linear(width, units), nn.ReLU(), nn.Linear(units, classes)]
    rows, _ = built_in(data, schema)
    job = gl.Job(
        title=data,
        model=nn.Sequential(*layers),
        loss="cross_entropy",
        schema=schema,
        test_data="",
        privacy="sealed",
        plan=gl.Plan(
            rounds=1,
            learning_rate=RATES[data],
            steps=STEPS[data],
            batch_size=16,
            clip_norm=4.0,
            minimum_owners=3,
        ),
        price=gl.Price(bounty="1000", target_gain=1.0),
    )
    return compile_job(job, rows)


def _with_weights(base: CompiledJob, seed: int) -> CompiledJob:
    """Other initial weights, as the layers draw them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in base.job.model.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    example = torch.from_numpy(np.ascontiguousarray(base.test.inputs[:3]))
    graph, weights = compile_model(base.job.model, (example,), loss=base.job.loss, federate=None)
    return replace(base, graph=graph, model=FlatModel(graph, weights))


def deal(setting: Setting, seed: int) -> tuple[Cohort, Rows]:
    """The data owners' rows and the hidden test set."""
    rows, columns = built_in(setting.data)
    order = np.random.default_rng([seed, 0xDEA1]).permutation(len(rows)).astype(np.int64)
    tested = int(len(rows) * TEST_PART)
    label, text = built_in_schema(setting.data).label.name, SPLITS[setting.split]
    rest = order[tested:]
    given = {name: values[rest] for name, values in columns.items()}
    for attempt in range(ATTEMPTS):
        partitioner = parse_partitioner(
            f"{text}{',' if ':' in text else ':'}seed={seed + 1_000_003 * attempt}",
            num_partitions=setting.owners,
            partition_by=label,
        )
        try:
            cohort = owners_from(rows.take(rest), given, partitioner)
        except ConfigRefused:
            continue
        return cohort, rows.take(np.sort(order[:tested]))
    raise ConfigRefused(f"{setting.owners} cannot be dealt rows", where="owners")


def _stage(cohort: Cohort, seed: int) -> Stage:
    """What is public: some rows of the whole pool, and how frequent the classes are in it."""
    rng = np.random.default_rng([seed, 0x9B])
    pool = cohort.pool
    labels = np.bincount(pool.labels) / len(pool)
    chosen = rng.choice(len(pool), PUBLIC_ROWS, replace=False)
    return Stage([], pool.take(np.sort(chosen).astype(np.int64)), labels)


def play(
    setting: Setting,
    seed: int,
    behaviours: Mapping[int, Maker | str] | None = None,
    *,
    privacy: Privacy = "sealed",
    admits: Callable[[Terms, Sequence[int]], Sequence[int]] | None = None,
) -> Played:
    """Train, gate and value all rounds; ``behaviours`` by data owner, the others are honest.

    ``admits`` says, of the terms and of who is behind each identity, which identities take part; all do where
    it is left out.
    """
    cohort, hidden = deal(setting, seed)
    stage = _stage(cohort, seed)
    given = {
        who: parse_behaviour(kind) if isinstance(kind, str) else kind(stage)
        for who, kind in (behaviours or {}).items()
    }
    cast = enlist(cohort, given, seed=seed)
    cast = replace(cast, cohort=replace(cast.cohort, identities=range(1, len(cast) + 1)))
    base = _with_weights(compiled(setting.data, setting.units, hidden.inputs.shape[1]), seed)
    plan = msgspec.structs.replace(
        base.job.plan, rounds=setting.rounds, maximum_owners=len(cast), **dict(setting.plan)
    )
    if privacy == "masked":
        plan = masked_plan(plan, base.model.parameter_count)
    ready = replace(base, job=replace(base.job, plan=plan, seed=seed, privacy=privacy), test=hidden)
    terms = terms_without_chain(ready)
    engine = choose_engine(
        ready.graph,
        ready.model_bytes,
        cast.cohort,
        Training(local_plan(plan), seed),
        wanted="stacked",
        workers=1,
        budget_mib=512,
        report=lambda _line: None,
        clip_norm=plan.clip_norm,
    )
    job = JobComputation(terms, 1, ready.model, HiddenSet.split(hidden, seed=seed))
    players, accounts = Players(cast, engine, plan, seed=seed), tuple(account(i) for i in range(len(cast)))
    played_by = cast.played_by.tolist()
    everybody = np.array(range(len(cast)) if admits is None else admits(terms, played_by), np.int64)
    for index in range(setting.rounds):
        state = job.state
        stage.past.append(state.params.copy())
        sent = players.play(state.params, state.buffers, everybody, index, state.previous_step)
        job.advance_updates(
            UpdateMatrix(
                tuple(accounts[i] for i in sent.owners.tolist()), sent.parameters, sent.buffers, plan.bits
            ),
            malformed={accounts[who]: why for who, why in sent.malformed.items()},
        )
    engine.close()
    here = everybody.tolist()
    return Played(
        job,
        tuple(accounts[i] for i in here),
        tuple(played_by[i] for i in here),
        tuple(cast.cohort.counts[i] for i in here),
    )
