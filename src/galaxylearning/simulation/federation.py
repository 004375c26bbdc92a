"""A whole paid federation in one process: real chain, real sealing, real training, every actor a node.

The actors meet only through the ledger and the blob store, exactly as they would on machines of their own.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import nn

from galaxylearning import bootstrap
from galaxylearning.chain.deployment import fund
from galaxylearning.config import EMBEDDED, Home, check_chain
from galaxylearning.errors import ConfigRefused, QuorumMissing, StorageError
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Column, Schema, Terms, Windows
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.seating import Seating
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.ports import GraphFacts, Trainer
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job, smallest_units
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.simulation import demo_keys
from galaxylearning.simulation.accuracies import rows_of
from galaxylearning.simulation.demo_outcome import Federation, outcome_of
from galaxylearning.simulation.hospitals import Cast, Hospital, make_cast
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.shelf import CatalogueShelf
from galaxylearning.units import TOKEN_DECIMALS, Address

STAKE_TOKENS: Final = "50"
POLL_S: Final = 0.02
STAGGER_S: Final = 1.5
TIME_LIMIT_S: Final = 600.0
HIDDEN_UNITS: Final = 64
PROJECTIONS: Final = 15
NOISE_LEVELS: Final = 3.0
"""The free rider sends noise of about this many quantisation levels: an update in form only."""
WINDOWS: Final = Windows(
    enrol_s=600, round_s=600, anchor_s=600, commit_s=600, reveal_s=600, settle_s=600, claim_s=30 * 86_400
)
SHORT_S: Final = 12
"""Where evaluators vanish, so long is waited for their scores."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the requester trains on one data set, and the gain it would pay the whole bounty for."""

    title: str
    learning_rate: float
    steps: int
    target_gain: float


RECIPES: Final[Mapping[str, Recipe]] = {
    "breast-cancer": Recipe("Diagnosis of breast tumours", 0.055, 12, 0.6),
    "digits": Recipe("Reading handwritten digits", 0.1, 20, 2.5),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a demo can be asked for."""

    data: str = "breast-cancer"
    owners: int = 12
    rounds: int = 10
    seed: int = 1
    has_twin: bool = True
    chain: str = EMBEDDED
    privacy: str = "masked"
    killed: tuple[tuple[int, int], ...] = ()
    """Evaluators that vanish for good: their numbers, and after how many anchored rounds they do."""

    def __post_init__(self) -> None:
        seats = len(demo_keys.EVALUATORS)
        spare = seats - seats // 2 - 1
        numbers = [number for number, _ in self.killed]
        if len(set(numbers)) > spare or not all(1 <= number <= seats for number in numbers):
            raise ConfigRefused(
                f"{numbers} given; allowed: at most {spare} different numbers from 1 to {seats}",
                where="kill-member",
            )
        if self.privacy not in ("masked", "sealed"):
            raise ConfigRefused(f"{self.privacy[:40]!r} given; allowed: masked, sealed", where="privacy")
        if not 1 <= self.rounds <= 200:
            raise ConfigRefused(f"{self.rounds} given; allowed: 1 to 200", where="rounds")
        for number, after in self.killed:
            # Enrolment needs every evaluator; who is to vanish after the last round leaves the scoring.
            if not 1 <= after <= self.rounds:
                raise ConfigRefused(
                    f"{number}@{after} given; allowed after the @: 1 to {self.rounds}, the number of rounds",
                    where="kill-member",
                )
        if not 0 <= self.seed < 1 << 63:
            raise ConfigRefused(f"{self.seed} given; allowed: 0 to 2^63-1", where="seed")


class _FreeRider:
    """A trainer that does not train: noise of a few levels in place of an update."""

    def __init__(self, trainer: Trainer, seed: int) -> None:
        self._trainer, self._seed = trainer, seed

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        """As an honest trainer does."""
        return await self._trainer.measure(graph, batch_size=batch_size)

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Noise of the right shape; the rows are not looked at."""
        del state, rows, data_owner
        facts = await self.measure(graph, batch_size=terms.plan.batch_size)
        params, buffers = facts.cost.parameters, facts.buffers
        rng = np.random.default_rng([self._seed, round_index, 0xF4EE])
        return np.rint(rng.normal(0, NOISE_LEVELS, params)).astype(np.int32), np.zeros(buffers, np.int32)


def prepare_home(root: Path, options: Options) -> Home:
    """An empty home for a demo; an earlier demo's is replaced, anything else is left alone.

    Raises:
        ConfigRefused: an option that is not allowed, or the folder holds something that is not a demo.
        StorageError: the disk failed.
    """
    # Whatever will be refused is refused before an earlier demo is removed.
    make_cast(options.data, options.owners, seed=options.seed, has_twin=options.has_twin)
    check_chain(options.chain)
    try:
        if root.exists():
            if not root.is_dir() or (any(root.iterdir()) and not (root / demo_keys.MARKER).is_file()):
                raise ConfigRefused("is not a demo's; choose another --home", where=str(root))
            shutil.rmtree(root)
        root.mkdir(parents=True)
        (root / demo_keys.MARKER).write_text(json.dumps({"seed": options.seed}))
    except OSError as error:
        raise StorageError(str(error), where=str(root)) from error
    home = Home(root)
    bootstrap.save_settings(home, bootstrap.load_settings(home, chain=options.chain))
    return home


def demo_schema(cast: Cast) -> Schema:
    """The job's schema: scale of every column as the requester sees it in its own test set."""
    mean, std = cast.test.values.mean(axis=0), cast.test.values.std(axis=0)
    features = tuple(
        Column(name=name, kind="number", mean=float(mean[i]), std=float(std[i]) or 1.0)
        for i, name in enumerate(cast.columns)
    )
    return Schema(features=features, label=Column(name=cast.label, kind="category", classes=cast.classes))


def demo_job(cast: Cast, options: Options) -> CompiledJob:
    """The requester's job: a small network on the hidden test set."""
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = nn.Sequential(
            nn.Linear(len(cast.columns), HIDDEN_UNITS),
            nn.ReLU(),
            nn.Linear(HIDDEN_UNITS, len(cast.classes)),
        )
    schema = demo_schema(cast)
    recipe = RECIPES[options.data]
    job = Job(
        title=recipe.title,
        description="A demonstration with public data.",
        model=model,
        loss="cross_entropy",
        schema=schema,
        plan=Plan(
            rounds=options.rounds,
            learning_rate=recipe.learning_rate,
            steps=recipe.steps,
            batch_size=16,
            clip_norm=4.0,
            projections=PROJECTIONS,
            minimum_owners=3,
            maximum_owners=len(cast.hospitals),
        ),
        price=Price(
            bounty="1000", target_gain=recipe.target_gain, fee_per_seat="10", seat_stake=STAKE_TOKENS
        ),
        windows=structs.replace(WINDOWS, commit_s=SHORT_S, reveal_s=SHORT_S) if options.killed else WINDOWS,
        test_data="",
        seed=options.seed,
        privacy=options.privacy,
    )
    return compile_job(job, rows_of(cast, schema, cast.test))


async def run(home: Home, options: Options, *, report: Callable[[Progress], None]) -> Federation:
    """Deploy, register, post, train, score, settle and pay; everything it made stays in ``home``.

    Raises:
        QuorumMissing: it did not end in time.
        GalaxyError: something could not be had.
    """
    cast = make_cast(options.data, options.owners, seed=options.seed, has_twin=options.has_twin)
    compiled = demo_job(cast, options)
    names = ("requester", "relayer", *demo_keys.EVALUATORS, *(hospital.name for hospital in cast.hospitals))
    signers = {name: demo_keys.signer(options.seed, name) for name in names}
    vanishing = _Vanishing(options, report)
    await bootstrap.deploy_contracts(home, demo_keys.signer(options.seed, "deployer"))
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bootstrap.open_world(home))
        sites = {}
        for name, signer in signers.items():
            journal = stack.enter_context(bootstrap.open_journal(home, name))
            sites[name] = bootstrap.site_of(world, signer, journal, report=vanishing, poll_s=POLL_S)
        await _endow(world, sites, options.seed)
        posted = await requester.post(
            sites["requester"],
            compiled,
            evaluators=[signers[name].address for name in demo_keys.EVALUATORS],
            sealing_key=demo_keys.sealing_key(options.seed, "requester"),
        )
        report(Progress(posted.job_id, "requester", "job posted", {"gas": posted.gas_used}))
        await _play(home, sites, cast, options, posted.job_id, vanishing)
        return await outcome_of(world, sites, cast, compiled, posted, seed=options.seed)


async def _endow(world: bootstrap.World, sites: Mapping[str, Site], seed: int) -> None:
    """Coins for who sends transactions, tokens for the requester, registered evaluators with their stake."""
    for name in ("requester", "relayer", *demo_keys.EVALUATORS):
        await fund(world.node, sites[name].address, bootstrap.GAS_MONEY_WEI)
    stake = smallest_units(STAKE_TOKENS, TOKEN_DECIMALS, "stake")
    supply = {"requester": smallest_units("10000", TOKEN_DECIMALS, "supply")}
    for name, amount in (supply | dict.fromkeys(demo_keys.EVALUATORS, stake)).items():
        await sites[name].submit(("mint", (sites[name].address, amount)), "token")
    for name in demo_keys.EVALUATORS:
        await evaluators.register(sites[name], demo_keys.sealing_key(seed, name), stake)


async def _play(
    home: Home,
    sites: Mapping[str, Site],
    cast: Cast,
    options: Options,
    job_id: int,
    vanishing: _Vanishing,
) -> None:
    """Run every node until the job is over for all that are left."""
    nodes = [_data_owner(home, sites[h.name], h, cast, options, job_id) for h in cast.hospitals]
    try:
        with anyio.fail_after(TIME_LIMIT_S):
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(node.run)
                for name in demo_keys.EVALUATORS:
                    judge = EvaluatorNode(
                        sites[name],
                        demo_keys.sealing_key(options.seed, name),
                        jobs=[job_id],
                        stagger_s=STAGGER_S,
                        seating=Seating(SHORT_S),
                    )
                    group.start_soon(vanishing.run, name, judge)
                group.start_soon(RelayerNode(sites["relayer"], jobs=[job_id]).run)
    except TimeoutError as error:
        raise QuorumMissing(f"is not over after {TIME_LIMIT_S:g} s", where=f"job {job_id}") from error


class _Vanishing:
    """Passes progress on, and ends evaluators that are to vanish when enough rounds are anchored."""

    def __init__(self, options: Options, report: Callable[[Progress], None]) -> None:
        self._report = report
        self._after = {demo_keys.EVALUATORS[number - 1]: rounds for number, rounds in options.killed}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._anchored = 0

    def __call__(self, progress: Progress) -> None:
        self._report(progress)
        if progress.step == "round anchored":
            self._anchored = max(self._anchored, int(progress.facts["round_index"]) + 1)
            for name, scope in self._scopes.items():
                if self._anchored >= self._after[name]:
                    scope.cancel()

    async def run(self, name: str, node: EvaluatorNode) -> None:
        """Run an evaluator to its end, whichever that is."""
        if name not in self._after:
            await node.run()
            return
        with anyio.CancelScope() as self._scopes[name]:
            await node.run()
        self._report(Progress(0, name, "vanished", {"after": self._anchored}))


def _data_owner(
    home: Home, site: Site, hospital: Hospital, cast: Cast, options: Options, job_id: int
) -> DataOwnerNode:
    """A hospital's node: its records in a file, its data set registered, its consent in a policy."""
    folder = home.root / "hospitals" / hospital.name
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*cast.columns, cast.label])
    for values, label in zip(hospital.records.values, hospital.records.labels, strict=True):
        writer.writerow([*(repr(float(value)) for value in values), label])
    path = folder / "patients.csv"
    path.write_text(text.getvalue())
    catalogue = DatasetCatalog(folder / "data.sqlite")
    catalogue.add(
        "patients",
        path,
        cast.label,
        kinds=dict.fromkeys(cast.columns, "number"),
        entropy=bootstrap.entropy,
    )
    trainer: Trainer = ThreadTrainer()
    if hospital.behaviour == "free-rider":
        trainer = _FreeRider(ThreadTrainer(), options.seed)
    policy = OwnerPolicy(
        requesters=(demo_keys.signer(options.seed, "requester").address,), datasets=("patients",)
    )
    return DataOwnerNode(
        site,
        demo_keys.sealing_key(options.seed, hospital.name),
        shelf=CatalogueShelf(catalogue),
        trainer=trainer,
        policy=lambda: policy,
        jobs=frozenset([job_id]),
    )
