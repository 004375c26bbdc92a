"""The chain as a node has seen it: what is final, what is provisional, and the state of every job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from galaxylearning.errors import (
    ChainDisagreement,
    ConfigRefused,
    DiskFull,
    FinalityBroken,
    MessageRefused,
    PhaseError,
)
from galaxylearning.messages.terms import MAX_TERMS_BYTES, Terms, decode_terms
from galaxylearning.nodes.drand import drand_randomness
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.ports import (
    BlobStore,
    Block,
    DrandNetwork,
    Event,
    Journal,
    Ledger,
)
from galaxylearning.protocol.events import CohortAnchored, JobEvent, JobPosted, RoundAnchored, event_from_log
from galaxylearning.protocol.machine import JobState, posted, step
from galaxylearning.units import Address, Digest, round_name

_FINAL = "chain/final/"
_DEPLOYMENT = "chain/deployment"


class ChainView:
    """What the chain has said so far: for good, and for now.

    ``state``, ``events_of`` and all else follow the final blocks alone, so what is derived from them is never
    taken back: nodes act on them. ``head_state`` and ``head_events_of`` also count the provisional blocks,
    which are read anew each time: they tell what is under way already. ``now`` is chain time at the head;
    ``is_news`` says whether the last look brought events.

    With a ``journal``, the last final block that was acted on is written down, and a later run refuses to go
    on where the chain has another history. Where ``only`` is given, nothing is kept of other jobs.
    """

    def __init__(
        self,
        ledger: Ledger,
        blobs: BlobStore,
        journal: Journal | None = None,
        drand: DrandNetwork | None = None,
        *,
        only: int | None = None,
    ) -> None:
        self._only = only
        self._ledger, self._blobs, self._journal, self._drand = ledger, blobs, journal, drand
        self._next_block = 0
        self._is_checked = False
        self._terms: dict[Digest, Terms] = {}
        self.log: list[Event] = []
        self._jobs: dict[int, list[JobEvent]] = {}
        self._states: dict[int, tuple[int, JobState]] = {}
        self._ahead: dict[int, list[JobEvent]] = {}
        self._datasets: dict[Digest, Address] = {}
        self._datasets_ahead: dict[Digest, Address | None] = {}
        self._anchored_in: dict[tuple[int, int], tuple[Block, int]] = {}
        self._beacons: dict[tuple[int, int], bytes] = {}
        self._forgotten: set[int] = set()
        self._provisional = 0
        self.now = 0
        self.final_block = Block(0, b"")
        self.head = Block(0, b"")
        self.rollbacks = 0
        self.is_news = False
        self.hold: str | None = None
        self.notices: tuple[str, ...] = ()

    async def refresh(self) -> None:
        """Read what happened since the last time.

        Raises:
            ConfigRefused: the journal is of another deployment.
            FinalityBroken: a block that was final is not there any more; whoever acted on it must stop.
            ChainDisagreement: the chain's endpoints contradict each other.
            LedgerUnreachable: no answer in time.
        """
        await self._check_journal()
        self.is_news = False
        while True:
            found = await self._ledger.follow(self._next_block)
            for event in found.final:
                if self._is_kept(event):
                    self.log.append(event)
                self._take(event)
            self.is_news |= bool(found.final)
            self._next_block = found.final_block.number + 1
            if found.is_whole:
                break
        self.final_block, self.head, self.rollbacks = found.final_block, found.head, found.rollbacks
        self.hold, self.notices = found.hold, found.notices
        if found.final and self._journal is not None and not self._ledger.is_irrevocable:
            self._journal.record(f"{_FINAL}{found.final_block.number:015d}", found.final_block.hash)
        self.is_news |= len(found.provisional) != self._provisional
        self._provisional = len(found.provisional)
        self._look_ahead(found.provisional)
        self.now = await self._ledger.now()

    async def _check_journal(self) -> None:
        """Once: hold the deployment and the last final block of an earlier run against the chain."""
        if self._is_checked or self._journal is None:
            return
        deployment = f"{self._ledger.chain_id}/{self._ledger.address_of('jobs')}"
        known = (self._journal.lookup(_DEPLOYMENT) or deployment.encode()).decode()
        if known != deployment:
            # Its steps go by the number of a job, and say what was consented to, answered and committed.
            raise ConfigRefused(
                f"this node's journal is of the contracts {known}, not {deployment}; give each deployment "
                "a home of its own",
                where="journal",
            )
        steps = [] if self._ledger.is_irrevocable else self._journal.steps(_FINAL)
        if steps:
            kept = self._journal.lookup(last := max(steps)) or b""
            number = int(last.removeprefix(_FINAL))
            if not await self._ledger.has_block(Block(number, kept)):
                raise FinalityBroken(
                    f"this node acted on block {number}, 0x{kept.hex()}, as final; the chain has another one "
                    "in its place; nothing is signed any more",
                    where="chain",
                )
        with suppress(DiskFull):  # What needs no journal can be done; the next look tries again.
            self._journal.record(_DEPLOYMENT, deployment.encode())
            self._is_checked = True

    def require_agreement(self) -> None:
        """Let nothing that cannot be undone be done while the endpoints do not agree.

        Raises:
            ChainDisagreement: they do not; why.
        """
        if self.hold is not None:
            raise ChainDisagreement(self.hold)

    def _is_kept(self, event: Event) -> bool:
        """Whether an event may yet be asked for."""
        if event.contract == "jobs":
            job_id = event.arguments.get("jobId")
            return job_id not in self._forgotten and self._only in (None, job_id)
        return event.name in ("DatasetRegistered", "DatasetRevoked")

    def _take(self, event: Event) -> None:
        if event.name == "DatasetRegistered":
            self._datasets[Digest(event.arguments["datasetId"])] = Address(event.arguments["dataOwner"])
        elif event.name == "DatasetRevoked":
            self._datasets.pop(Digest(event.arguments["datasetId"]), None)
        elif event.contract == "jobs" and self._is_kept(event):
            found = event_from_log(event.name, event.arguments, event.timestamp)
            if isinstance(found, RoundAnchored):
                self._anchored_in[found.job_id, found.round_index] = event.block, event.timestamp
            if found is not None:
                self._jobs.setdefault(found.job_id, []).append(found)

    def _look_ahead(self, events: Sequence[Event]) -> None:
        """Take the provisional events in the place of those of the last time."""
        self._ahead, self._datasets_ahead = {}, {}
        for event in events:
            if event.name in ("DatasetRegistered", "DatasetRevoked"):
                is_active = event.name == "DatasetRegistered"
                who = Address(event.arguments["dataOwner"]) if is_active else None
                self._datasets_ahead[Digest(event.arguments["datasetId"])] = who
            elif event.contract == "jobs" and self._is_kept(event):
                try:
                    found = event_from_log(event.name, event.arguments, event.timestamp)
                except MessageRefused:
                    continue  # No receipt has proven it yet.
                if found is not None:
                    self._ahead.setdefault(found.job_id, []).append(found)

    @property
    def job_ids(self) -> tuple[int, ...]:
        """Every job that was not forgotten, oldest first."""
        return tuple(sorted(self._jobs))

    @property
    def head_job_ids(self) -> tuple[int, ...]:
        """Every job, also those whose posting is provisional, oldest first."""
        return tuple(sorted(self._jobs.keys() | self._ahead.keys()))

    @property
    def datasets(self) -> dict[Digest, Address]:
        """Active data sets and whose they are."""
        return dict(self._datasets)

    def events_of(self, job_id: int) -> tuple[JobEvent, ...]:
        """What the contract said of one job, oldest first."""
        return tuple(self._jobs.get(job_id, ()))

    def head_posting(self, job_id: int) -> JobPosted | None:
        """What the contract said when a job was posted, be that final or not."""
        first = next(iter(self.head_events_of(job_id)), None)
        return first if isinstance(first, JobPosted) else None

    def anchors_of(self, job_id: int) -> tuple[RoundAnchored, ...]:
        """The anchors of one job's rounds, from round 0."""
        return tuple(event for event in self.events_of(job_id) if isinstance(event, RoundAnchored))

    def head_events_of(self, job_id: int) -> tuple[JobEvent, ...]:
        """What the contract said of one job, the provisional events included, oldest first."""
        return (*self._jobs.get(job_id, ()), *self._ahead.get(job_id, ()))

    async def beacon(self, job_id: int, round_index: int) -> bytes:
        """The randomness of a round: it did not exist before the updates were in.

        It is that of the block that anchored the round or, where the terms name a drand network, of the first
        drand round that comes some time after that block. The block is final: another one in its place would
        have other randomness, hence other questions.

        Raises:
            MessageRefused: the round is not anchored.
            LedgerError: the chain does not tell.
            LedgerUnreachable: neither the drand network nor the board has its round yet.
        """
        key = (job_id, round_index)
        if key not in self._beacons:
            if key not in self._anchored_in:
                raise MessageRefused(f"{round_name(round_index)} is not anchored", where=f"job {job_id}")
            block, anchored_at = self._anchored_in[key]
            drand = (await self.terms(job_id)).drand
            if drand is None:
                self._beacons[key] = await self._ledger.randomness(block)
            else:
                number = drand.round_for(anchored_at)
                self._beacons[key] = await drand_randomness(self._blobs, self._drand, drand, number)
        return self._beacons[key]

    def is_dataset_known(self, dataset_id: Digest) -> bool:
        """Whether the registry has this data set, active."""
        return dataset_id in self._datasets

    def is_dataset_known_ahead(self, dataset_id: Digest) -> bool:
        """Whether the registry has this data set, active, as far as the head goes."""
        if dataset_id in self._datasets_ahead:
            return self._datasets_ahead[dataset_id] is not None
        return dataset_id in self._datasets

    async def terms(self, job_id: int) -> Terms:
        """The terms of a job, fetched by the digest on chain and checked against it.

        Raises:
            BlobMissing, BlobRefused, JobRefused: they cannot be had, or are not acceptable.
            MessageRefused: there is no such job.
        """
        return await self._terms_of(self.events_of(job_id), job_id)

    def known_terms(self, job_id: int) -> Terms | None:
        """The terms of a job, if they have been fetched."""
        posting = next(iter(self.events_of(job_id)), None)
        return self._terms.get(posting.terms_digest) if isinstance(posting, JobPosted) else None

    async def _terms_of(self, events: Sequence[JobEvent], job_id: int) -> Terms:
        if not events or not isinstance(events[0], JobPosted):
            raise MessageRefused(f"there is no job {job_id} on this chain", where="job")
        digest = events[0].terms_digest
        if digest not in self._terms:
            self._terms[digest] = decode_terms(await self._blobs.get(digest, max_bytes=MAX_TERMS_BYTES))
        return self._terms[digest]

    async def head_terms(self, job_id: int) -> Terms:
        """The terms of a job, whether its posting is final or not; raises as ``terms`` does."""
        return await self._terms_of(self.head_events_of(job_id), job_id)

    async def state(self, job_id: int) -> JobState:
        """Where a job stands for good; raises as ``terms`` does, and PhaseError for an impossible log."""
        terms = await self.terms(job_id)
        done, state = self._states.get(job_id, (0, None))
        state = _moved(state, self._jobs[job_id][done:], terms)
        self._states[job_id] = (len(self._jobs[job_id]), state)
        return state

    async def head_state(self, job_id: int) -> JobState:
        """Where a job stands for now, provisional blocks included; raises as ``state`` does.

        Provisional events that cannot be, which no receipt has proven yet, do not count.
        """
        if job_id not in self._jobs:
            return _moved(None, self._ahead.get(job_id, ()), await self.head_terms(job_id))
        state = await self.state(job_id)
        try:
            return _moved(state, self._ahead.get(job_id, ()), await self.terms(job_id))
        except PhaseError:
            return state

    def forget(self, job_id: int) -> None:
        """Let go of a job that is over for whoever looks: it is as if it had never been, now and later."""
        self._forgotten.add(job_id)
        for event in self._jobs.pop(job_id, ()):
            if isinstance(event, JobPosted):
                self._terms.pop(event.terms_digest, None)
        self._states.pop(job_id, None)
        self._anchored_in = {key: block for key, block in self._anchored_in.items() if key[0] != job_id}
        self._beacons = {key: beacon for key, beacon in self._beacons.items() if key[0] != job_id}
        self.log = [event for event in self.log if self._is_kept(event)]

    def datasets_at_anchor(self, job_id: int) -> dict[Digest, Address]:
        """Data sets that were active when the job's cohort was anchored (now, if it is not yet)."""
        found: dict[Digest, Address] = {}
        for event in self.log:
            if event.name == "DatasetRegistered":
                found[Digest(event.arguments["datasetId"])] = Address(event.arguments["dataOwner"])
            elif event.name == "DatasetRevoked":
                found.pop(Digest(event.arguments["datasetId"]), None)
            elif event.name == CohortAnchored.__name__ and event.arguments["jobId"] == job_id:
                break
        return found


def _moved(state: JobState | None, events: Sequence[JobEvent], terms: Terms) -> JobState:
    """The state after these events; the first one posts the job where there is no state yet."""
    if state is None:
        if not events:
            raise MessageRefused("there is no such job on this chain", where="job")
        first, *events = events
        if not isinstance(first, JobPosted):
            raise MessageRefused("the first event is not its posting", where=f"job {first.job_id}")
        state = posted(first, terms)
    for event in events:
        state = step(state, event)
    return state


class ChainWatch:
    """Tells once what the operator should know of the chain, and when it is over."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._told: tuple[str, ...] = ()
        self._is_first = True

    def tell(self, view: ChainView, jobs: Iterable[int] | None = None) -> None:
        """Report what is new since the last time, and look again soon where the chain went on.

        At the first look, also say which of ``jobs`` are not on the chain: they may be mistyped.
        """
        if self._is_first:
            self._is_first = False
            for job_id in sorted(set(jobs or ()).difference(view.head_job_ids)):
                facts = {"detail": f"waiting for it; chain {self._site.ledger.chain_id}"}
                self._site.report(Progress(job_id, "chain", "no such job yet", facts))
        if view.is_news:
            self._site.pace.stir()
        for notice in view.notices:
            if notice not in self._told:
                self._site.report(Progress(0, "chain", "notice", {"detail": notice}))
        if self._told and not view.notices:
            self._site.report(Progress(0, "chain", "well again", {"head": view.head.number}))
        self._told = view.notices
