"""One job between real nodes, and the same training without them, in one process and one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from benchmarks.overhead.counting import CountingBlobs, CountingNode, Traffic
from benchmarks.overhead.setting import SCHEMA, SEATS, Setting, compiled, table
from benchmarks.things import DATASET, MemoryShelf

from galaxylearning.bootstrap import WallClock, on_a_thread
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.crypto.seal import sealed_bytes
from galaxylearning.errors import QuorumMissing
from galaxylearning.graph import weights_size
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import requester
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.machine import Phase
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.simulation.stage import found_town, publish_keys, sealing_key, signer
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.journal import SqliteJournal

TIME_LIMIT_S = 3_000.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Wall and CPU seconds, of this process and the children it has waited for."""

    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> Moment:
        """Read the clocks."""
        return cls(time.perf_counter(), sum(os.times()[:4]))

    def since(self, before: Moment) -> Moment:
        """The time from ``before`` to here."""
        return Moment(self.wall_s - before.wall_s, self.cpu_s - before.cpu_s)


@dataclass
class Measured:
    """One privacy mode: rounds with and without the protocol, and what data owners sent and received."""

    privacy: str
    seats: int
    bare: list[Moment] = field(default_factory=list)
    federated: list[Moment] = field(default_factory=list)
    around: Moment = Moment(0.0, 0.0)
    """Enrolment before the rounds and settlement after them, once a job."""
    hidden: Moment = Moment(0.0, 0.0)
    """One evaluator's own training on the gating half of the hidden set, once a round."""
    parameters: int = 0
    parcel_bytes: int = 0
    update_bytes: int = 0
    traffic: list[Traffic] = field(default_factory=list)
    """Of each data owner, over all rounds."""

    @property
    def wall_percent(self) -> float:
        """Wall time of a round beyond bare training, in per cent of it; medians."""
        bare = median(one.wall_s for one in self.bare)
        return 100 * (median(one.wall_s for one in self.federated) - bare) / bare

    @property
    def beyond_s(self) -> float:
        """CPU seconds of a round beyond bare training; medians."""
        return median(one.cpu_s for one in self.federated) - median(one.cpu_s for one in self.bare)

    @property
    def cpu_percent(self) -> float:
        """The same in per cent of bare training."""
        return 100 * self.beyond_s / median(one.cpu_s for one in self.bare)

    @property
    def bytes_per_owner_round(self) -> float:
        """What a data owner's node sends and receives in a round, on average."""
        return sum(one.total for one in self.traffic) / len(self.traffic) / len(self.federated)

    @property
    def bytes_ratio(self) -> float:
        """The same in multiples of the sealed model and the update."""
        return self.bytes_per_owner_round / (self.parcel_bytes + self.update_bytes)


class _Marks:
    """Hears the nodes: when the last data owner had enrolled, when each round was federated."""

    def __init__(self, setting: Setting, on_enrolled: Callable[[], None]) -> None:
        self._owners, self._on_enrolled = setting.owners, on_enrolled
        self._enrolled = 0
        self.enrolled: Moment | None = None
        self.federated: dict[int, Moment] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.step == "enrolled":
            self._enrolled += 1
            if self._enrolled == self._owners:
                self.enrolled = Moment.now()
                self._on_enrolled()
        elif progress.step == "round federated":
            self.federated[progress.facts["round_index"]] = Moment.now()
        elif progress.step in ("given up", "not enrolled"):
            raise QuorumMissing(f"{progress.actor}: {progress.step}: {progress.facts}", where="overhead")


async def measure(folder: Path, setting: Setting, privacy: str) -> Measured:
    """Run one job, bare training before and after it; everything lies in ``folder``."""
    seats = tuple(f"evaluator-{number}" for number in range(1, SEATS[privacy] + 1))
    owners = tuple(f"owner-{number:02d}" for number in range(1, setting.owners + 1))
    found = Measured(privacy, len(seats))
    job = compiled(setting, privacy)
    found.parameters = job.model.parameter_count
    found.parcel_bytes = sealed_bytes(weights_size(job.graph), len(owners) + len(seats))
    columns = {name: table(setting.rows, seed=place) for place, name in enumerate(owners)}
    async with AsyncExitStack() as stack:
        chain = stack.enter_context(EmbeddedChain(folder / "chain.sqlite", now=lambda: int(time.time())))
        deployment = await found_town(chain, folder, entropy=os.urandom, seats=seats)
        store = FolderBlobStore(folder / "store")
        await publish_keys(store, seats)
        traffic = {name: Traffic() for name in owners}
        at_start: dict[str, Traffic] = {}
        marks = _Marks(setting, lambda: at_start.update({name: one.copy() for name, one in traffic.items()}))

        async def site(name: str) -> Site:
            counted = traffic.get(name)
            node: Any = chain if counted is None else CountingNode(chain, counted)
            return Site(
                ledger=await connect(node, deployment),
                blobs=store if counted is None else CountingBlobs(store, counted),
                clock=WallClock(),
                journal=stack.enter_context(SqliteJournal(folder / "journals" / f"{name}.sqlite")),
                signer=signer(name),
                entropy=os.urandom,
                report=marks,
                poll_s=setting.poll_s,
                aside=on_a_thread,
            )

        posted = await requester.post(
            await site("requester"),
            job,
            evaluators=[signer(name).address for name in seats],
            sealing_key=sealing_key("requester"),
        )
        found.hidden = _hidden_step(job, posted.terms)
        await _bare(found, job, posted.terms, columns, rounds=(setting.rounds + 1) // 2)
        policy = OwnerPolicy(requesters=(signer("requester").address,), datasets=(DATASET,))
        nodes: list[Any] = [
            EvaluatorNode(
                await site(name), sealing_key(name), jobs=[posted.job_id], stagger_s=setting.stagger_s
            )
            for name in seats
        ]
        nodes += [
            DataOwnerNode(
                await site(name),
                sealing_key(name),
                shelf=MemoryShelf(name, SCHEMA, columns[name]),
                trainer=ThreadTrainer(),
                policy=lambda: policy,
                jobs=frozenset([posted.job_id]),
            )
            for name in owners
        ]
        nodes.append(RelayerNode(await site("relayer"), jobs=[posted.job_id]))
        begin = Moment.now()
        with anyio.fail_after(TIME_LIMIT_S):
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(node.run)
        end = Moment.now()
        await _settled(await site("passer-by"), posted.job_id)
        await _bare(found, job, posted.terms, columns, rounds=(setting.rounds + 1) // 2)
        found.update_bytes = _largest_body(folder, posted.job_id)
    if marks.enrolled is None:
        raise QuorumMissing("not everybody has enrolled", where="overhead")
    last = marks.enrolled
    for index in range(setting.rounds):
        found.federated.append(marks.federated[index].since(last))
        last = marks.federated[index]
    before, after = marks.enrolled.since(begin), end.since(last)
    found.around = Moment(before.wall_s + after.wall_s, before.cpu_s + after.cpu_s)
    found.traffic = [traffic[name].since(at_start[name]) for name in owners]
    return found


async def _bare(
    found: Measured, job: CompiledJob, terms: Terms, columns: dict[str, Any], *, rounds: int
) -> None:
    """Rounds of the same training calls, by the same trainers, all data owners at a time."""
    rows = {name: encode_rows(SCHEMA, each) for name, each in columns.items()}
    trainers = {name: ThreadTrainer() for name in columns}
    graph, state = job.graph.to_bytes(), job.model_bytes

    async def train(name: str, round_index: int) -> None:
        await trainers[name].train(
            graph, state, terms, rows[name], round_index=round_index, data_owner=signer(name).address
        )

    for index in range(rounds):
        start = Moment.now()
        async with anyio.create_task_group() as group:
            for name in columns:
                group.start_soon(train, name, index)
        found.bare.append(Moment.now().since(start))


def _hidden_step(job: CompiledJob, terms: Terms) -> Moment:
    """How long an evaluator trains by itself in a round."""
    hidden = HiddenSet.split(Rows(job.test.inputs, job.test.labels), seed=terms.seed)
    computation = JobComputation(terms, 0, job.model, hidden)
    start = Moment.now()
    computation.hidden_step()
    return Moment.now().since(start)


async def _settled(site: Site, job_id: int) -> None:
    view = ChainView(site.ledger, site.blobs)
    await view.refresh()
    state = await view.state(job_id)
    if state.phase is not Phase.SETTLED:
        raise QuorumMissing(f"the job is {state.phase.name.lower()}", where="overhead")


def _largest_body(folder: Path, job_id: int) -> int:
    """Bytes of an update as it travels; all of a job are of one size."""
    topics = (folder / "store" / "topics").glob(f"job~*~{job_id}~round~*~bodies")
    names = [entry.name for topic in topics for entry in topic.iterdir()]
    return max((folder / "store" / "blobs" / name).stat().st_size for name in names)
