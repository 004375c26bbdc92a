"""A whole paid federation in one process: real chain, real sealing, real training, every actor a node.

The actors meet only through the ledger and the blob store, exactly as they would on machines of their own.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import nn

from galaxylearning import bootstrap
from galaxylearning.chain.deployment import fund
from galaxylearning.chain.signer import KeySigner
from galaxylearning.chain.transport import Transport, as_int
from galaxylearning.config import EMBEDDED, Home, check_chain
from galaxylearning.contribution import FixedPointUtility, from_fixed
from galaxylearning.errors import AuditFailed, ConfigRefused, StorageError
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.records import MAX_TABLE_BYTES, ScoreTable, decode
from galaxylearning.messages.terms import Column, Schema, Terms, Windows
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.seating import Seating
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.ports import GraphFacts, Trainer
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job, smallest_units
from galaxylearning.protocol.machine import JobState
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.simulation import demo_keys
from galaxylearning.simulation.accuracies import Accuracies, rows_of
from galaxylearning.simulation.hospitals import Cast, Hospital, make_cast
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import SqliteJournal
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


@dataclass(frozen=True, slots=True)
class PaidOwner:
    """One identity's result: value and standard error per hidden sample, payout in smallest units."""

    data_owner: Address
    name: str
    behaviour: str
    value: float
    standard_error: float
    payout: int
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """What came of it."""

    job_id: int
    terms: Terms
    state: JobState
    view: ChainView
    cast: Cast
    accounts: Mapping[str, Address]
    """Account of every actor, by name."""
    transactions: Mapping[str, int]
    gas: Mapping[str, Any]
    accuracy_before: float
    accuracy_final: float
    accuracy_pooled: float
    accuracy_alone: Mapping[str, float]
    score_table: ScoreTable
    payouts: tuple[PaidOwner, ...]

    def mean_utility(self, utility: int) -> float:
        """A utility of the score table as minus the mean clipped loss per sample."""
        paying = self.terms.test_rows - self.terms.test_rows // 2
        return FixedPointUtility().to_loss(utility) / paying


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
        GalaxyError: something could not be had, or did not end in time.
    """
    cast = make_cast(options.data, options.owners, seed=options.seed, has_twin=options.has_twin)
    compiled = demo_job(cast, options)
    names = ["requester", "relayer", *demo_keys.EVALUATORS]
    signers = {name: demo_keys.signer(options.seed, name) for name in names}
    signers |= {hospital.name: demo_keys.signer(options.seed, hospital.name) for hospital in cast.hospitals}
    vanishing = _Vanishing(options, report)
    await bootstrap.deploy_contracts(home, demo_keys.signer(options.seed, "deployer"))
    journals: list[SqliteJournal] = []
    async with bootstrap.open_world(home) as world:

        def site(name: str) -> Site:
            journal = bootstrap.open_journal(home, name)
            journals.append(journal)
            return bootstrap.site_of(world, signers[name], journal, report=vanishing, poll_s=POLL_S)

        sites = {name: site(name) for name in signers}
        for name in names:
            await fund(world.node, signers[name].address, bootstrap.GAS_MONEY_WEI)
        stake = smallest_units(STAKE_TOKENS, TOKEN_DECIMALS, "stake")
        supply = {"requester": smallest_units("10000", TOKEN_DECIMALS, "supply")}
        supply |= {name: stake for name in names if name in demo_keys.EVALUATORS}
        for name, amount in supply.items():
            await sites[name].submit(("mint", (signers[name].address, amount)), "token")
        for name in names:
            if name in demo_keys.EVALUATORS:
                await evaluators.register(sites[name], demo_keys.sealing_key(options.seed, name), stake)
        posted = await requester.post(
            sites["requester"],
            compiled,
            evaluators=[signers[name].address for name in names if name in demo_keys.EVALUATORS],
            sealing_key=demo_keys.sealing_key(options.seed, "requester"),
        )
        report(Progress(posted.job_id, "requester", "job posted", {"gas": posted.gas_used}))
        nodes = [_data_owner(home, sites[h.name], h, cast, options, posted.job_id) for h in cast.hospitals]
        with anyio.fail_after(TIME_LIMIT_S):
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(node.run)
                for name in names:
                    if name in demo_keys.EVALUATORS:
                        key = demo_keys.sealing_key(options.seed, name)
                        judge = EvaluatorNode(
                            sites[name],
                            key,
                            jobs=[posted.job_id],
                            stagger_s=STAGGER_S,
                            seating=Seating(SHORT_S),
                        )
                        group.start_soon(vanishing.run, name, judge)
                group.start_soon(RelayerNode(sites["relayer"], jobs=[posted.job_id]).run)
        view = ChainView(world.ledger, world.blobs)
        await view.refresh()
        state = await view.state(posted.job_id)
        trained = await requester.collect(
            sites["requester"], posted.job_id, demo_keys.sealing_key(options.seed, "requester")
        )
        table = await _settled_scores(sites["requester"], state)
        paid = {
            event.account: event.amount
            for event in view.events_of(posted.job_id)
            if isinstance(event, ev.Paid)
        }
        transport = Transport(world.node)
        sent = {
            name: as_int(await transport.request("eth_getTransactionCount", signer.address, "latest"))
            for name, signer in signers.items()
        }
        receipts = await _gas(transport, view, posted.job_id)
        await transport.close()
        for journal in journals:
            journal.close()
    accuracy = Accuracies(cast, compiled, options.seed)
    return Federation(
        job_id=posted.job_id,
        terms=posted.terms,
        state=state,
        view=view,
        cast=cast,
        accounts={name: signer.address for name, signer in signers.items()},
        transactions={
            "data_owner": sum(sent[hospital.name] for hospital in cast.hospitals),
            "requester": sent["requester"],
            "evaluator": sum(count for name, count in sent.items() if name in demo_keys.EVALUATORS),
            "relayer": sent["relayer"],
        },
        gas=receipts,
        accuracy_before=accuracy.of(*compiled.model.initial()),
        accuracy_final=accuracy.of(*compiled.model.from_state_bytes(trained)),
        accuracy_pooled=accuracy.pooled(),
        accuracy_alone=accuracy.alone(),
        score_table=table,
        payouts=_paid_owners(cast, signers, table, state, paid),
    )


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
            self._anchored = max(self._anchored, int(progress.facts["round"]) + 1)
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


def _paid_owners(
    cast: Cast,
    signers: Mapping[str, KeySigner],
    table: ScoreTable,
    state: JobState,
    paid: Mapping[Address, int],
) -> tuple[PaidOwner, ...]:
    totals = {total.data_owner: total for total in table.totals}
    twins = {member for group in table.twins for member in group}
    found = []
    for hospital in cast.hospitals:
        who = signers[hospital.name].address
        total = totals[who]
        scores = [owner for scores in table.rounds for owner in scores.owners if owner.data_owner == who]
        accepted = sum(1 for score in scores if score.status == "accepted")
        why = f"{accepted} of {state.round_index} accepted"
        if who in twins:
            why += "; twin, paid as one"
        if total.reason:
            why += f"; {total.reason}"
        found.append(
            PaidOwner(
                who,
                hospital.name,
                hospital.behaviour,
                from_fixed(total.value),
                from_fixed(total.standard_error),
                paid.get(who, 0),
                why,
            )
        )
    return tuple(found)


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


async def _settled_scores(site: Site, state: JobState) -> ScoreTable:
    """The score table of a seat that was not found faulty."""
    for seat, digest in state.revealed:
        if seat not in state.faulty:
            data = await site.blobs.get(digest, max_bytes=MAX_TABLE_BYTES)
            return decode(data, ScoreTable, max_bytes=MAX_TABLE_BYTES)
    raise AuditFailed("every seat was found faulty", where=f"job {state.job_id}")


async def _gas(transport: Transport, view: ChainView, job_id: int) -> dict[str, Any]:
    """Gas of the job's transactions, from their receipts."""
    used: dict[bytes, int] = {}
    found: dict[str, list[int]] = {}
    payees = 0
    for event in view.log:
        if event.arguments.get("jobId") != job_id:
            continue
        if event.name == "Paid":
            payees += 1
        if event.transaction_hash not in used:
            receipt = await transport.request(
                "eth_getTransactionReceipt", "0x" + event.transaction_hash.hex()
            )
            used[event.transaction_hash] = as_int(receipt["gasUsed"])
            found.setdefault(event.name, []).append(used[event.transaction_hash])
    rounds = found.get("RoundAnchored", [])
    return {
        "post": sum(found.get("JobPosted", [])),
        "cohort": sum(found.get("CohortAnchored", [])),
        "rounds": rounds,
        "per_round": max(rounds, default=0),
        "settle": sum(found.get("JobSettled", [])),
        "per_payee": sum(found.get("Paid", [])) // max(1, payees),
        "total": sum(used.values()),
    }
