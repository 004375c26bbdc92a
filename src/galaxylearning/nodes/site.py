"""What every node stands on: its ports, the chain as it has seen it, and the bulletin board of a job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from galaxylearning.errors import (
    BlobMissing,
    GalaxyError,
    LedgerError,
    MessageRefused,
    Refused,
    StorageError,
    TransactionReverted,
)
from galaxylearning.messages.records import (
    MAX_SIGNED_BYTES,
    Record,
    SignedRecord,
    decode,
    encode,
    verify,
)
from galaxylearning.messages.terms import MAX_TERMS_BYTES, Terms, decode_terms
from galaxylearning.messages.typed import JOBS_DOMAIN, REGISTRY_DOMAIN, Domain
from galaxylearning.ports import BlobStore, Call, Clock, Contract, Event, Journal, Ledger, Receipt, Signer
from galaxylearning.protocol.events import CohortAnchored, JobEvent, JobPosted, RoundAnchored, event_from_log
from galaxylearning.protocol.machine import JobState, posted, step
from galaxylearning.units import Address, Digest, Entropy

MAX_LISTED = 20_000
"""Blobs looked at under one topic. Whoever is crowded out has the direct path."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of what a node did; ``facts`` are numbers and names for those who display it."""

    job_id: int
    actor: str
    step: str
    facts: dict[str, Any] = field(default_factory=dict)


def ignore_progress(_progress: Progress) -> None:
    """Nobody is watching."""


def ignore_pulse(_error: GalaxyError | None) -> None:
    """Nobody is watching."""


@dataclass(frozen=True, slots=True)
class Site:
    """The ports of one node, and how often it looks around (``poll_s``).

    ``report`` is told each step; ``pulse`` hears after each look that all is well (None), and whatever went
    wrong that may pass by itself.
    """

    ledger: Ledger
    blobs: BlobStore
    clock: Clock
    journal: Journal
    signer: Signer
    entropy: Entropy
    report: Callable[[Progress], None] = ignore_progress
    pulse: Callable[[GalaxyError | None], None] = ignore_pulse
    poll_s: float = 1.0

    @property
    def address(self) -> Address:
        """The node's account."""
        return self.signer.address

    def domain(self) -> Domain:
        """The EIP-712 domain of the jobs contract."""
        return Domain(JOBS_DOMAIN, "1", self.ledger.chain_id, self.ledger.address_of("jobs"))

    def registry_domain(self) -> Domain:
        """The EIP-712 domain of the registry."""
        return Domain(REGISTRY_DOMAIN, "1", self.ledger.chain_id, self.ledger.address_of("registry"))

    async def submit(
        self, function_call: tuple[str, tuple[Any, ...]], contract: Contract = "jobs"
    ) -> Receipt:
        """Send a transaction of this node's account."""
        function, arguments = function_call
        return await self.ledger.submit(Call(contract, function, arguments), self.signer)

    async def approve(self, spender: Contract, amount: int) -> None:
        """Let a contract take ``amount`` smallest units of this node's tokens, where it may not already."""
        holder = (self.address, self.ledger.address_of(spender))
        if int(await self.ledger.read(Call("token", "allowance", holder))) < amount:
            await self.submit(("approve", (self.ledger.address_of(spender), amount)), "token")

    async def submit_if_first(
        self, function_call: tuple[str, tuple[Any, ...]], contract: Contract = "jobs"
    ) -> Receipt | None:
        """Send a transaction that somebody else may be sending too; None where the contract refused it."""
        try:
            return await self.submit(function_call, contract)
        except TransactionReverted:
            return None


class ChainView:
    """The events of the contracts so far, and the state of every job they lead to; ``now`` is chain time."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger, self._blobs = ledger, blobs
        self._next_block = 0
        self._terms: dict[Digest, Terms] = {}
        self.log: list[Event] = []
        self._jobs: dict[int, list[JobEvent]] = {}
        self._states: dict[int, tuple[int, JobState]] = {}
        self._datasets: dict[Digest, Address] = {}
        self._anchored_in: dict[tuple[int, int], int] = {}
        self._beacons: dict[tuple[int, int], bytes] = {}
        self.now = 0

    async def refresh(self) -> None:
        """Read what happened since the last time."""
        for event in await self._ledger.events(since_block=self._next_block):
            self.log.append(event)
            self._next_block = event.block_number + 1
            self._take(event)
        self.now = await self._ledger.now()

    def _take(self, event: Event) -> None:
        if event.name == "DatasetRegistered":
            self._datasets[Digest(event.arguments["datasetId"])] = Address(event.arguments["dataOwner"])
        elif event.name == "DatasetRevoked":
            self._datasets.pop(Digest(event.arguments["datasetId"]), None)
        elif event.contract == "jobs":
            found = event_from_log(event.name, event.arguments, event.timestamp)
            if isinstance(found, RoundAnchored):
                self._anchored_in[found.job_id, found.round_index] = event.block_number
            if found is not None:
                self._jobs.setdefault(found.job_id, []).append(found)

    @property
    def job_ids(self) -> tuple[int, ...]:
        """Every job there is, oldest first."""
        return tuple(sorted(self._jobs))

    @property
    def datasets(self) -> dict[Digest, Address]:
        """Active data sets and whose they are."""
        return dict(self._datasets)

    def events_of(self, job_id: int) -> tuple[JobEvent, ...]:
        """What the contract said of one job, oldest first."""
        return tuple(self._jobs.get(job_id, ()))

    async def beacon(self, job_id: int, round_index: int) -> bytes:
        """The randomness of the block that anchored a round: it did not exist before the updates were in.

        Raises:
            MessageRefused: the round is not anchored.
            LedgerError: the chain does not tell.
        """
        key = (job_id, round_index)
        if key not in self._beacons:
            if key not in self._anchored_in:
                raise MessageRefused(f"round {round_index} is not anchored", where=f"job {job_id}")
            self._beacons[key] = await self._ledger.randomness(self._anchored_in[key])
        return self._beacons[key]

    def is_dataset_known(self, dataset_id: Digest) -> bool:
        """Whether the registry has this data set, active."""
        return dataset_id in self._datasets

    async def terms(self, job_id: int) -> Terms:
        """The terms of a job, fetched by the digest on chain and checked against it.

        Raises:
            BlobMissing, BlobRefused, JobRefused: they cannot be had, or are not acceptable.
            MessageRefused: there is no such job.
        """
        events = self._jobs.get(job_id)
        if not events or not isinstance(events[0], JobPosted):
            raise MessageRefused(f"there is no job {job_id} on this chain", where="job")
        digest = events[0].terms_digest
        if digest not in self._terms:
            self._terms[digest] = decode_terms(await self._blobs.get(digest, max_bytes=MAX_TERMS_BYTES))
        return self._terms[digest]

    async def state(self, job_id: int) -> JobState:
        """Where a job stands; raises as ``terms`` does, and PhaseError for an impossible log."""
        terms = await self.terms(job_id)
        events = self._jobs[job_id]
        done, state = self._states.get(job_id, (0, None))
        if state is None:
            first = events[0]
            if not isinstance(first, JobPosted):
                raise MessageRefused("the first event is not its posting", where=f"job {job_id}")
            done, state = 1, posted(first, terms)
        for event in events[done:]:
            state = step(state, event)
        self._states[job_id] = (len(events), state)
        return state

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


_R = TypeVar("_R", bound=Record)
_S = TypeVar("_S", bound=SignedRecord)


class Board:
    """The topics of one job. Records are fetched and verified once; what is malformed is left alone."""

    def __init__(self, site: Site, job_id: int) -> None:
        self._site = site
        self.prefix = f"job/{site.ledger.chain_id}/{site.ledger.address_of('jobs').lower()}/{job_id}"
        self._records: dict[tuple[str, Digest], Record | None] = {}
        self._stated: dict[Digest, bytes | None] = {}

    def topic(self, name: str) -> str:
        """The full name of a topic of this job."""
        return f"{self.prefix}/{name}"

    async def put(self, name: str, data: bytes) -> Digest:
        """Store a blob under a topic of this job."""
        return await self._site.blobs.put(data, topic=self.topic(name))

    async def post(self, name: str, record: Record) -> Digest:
        """Store a record under a topic of this job."""
        return await self.put(name, encode(record))

    async def read(self, name: str, kind: type[_R], *, max_bytes: int = MAX_SIGNED_BYTES) -> dict[Digest, _R]:
        """Well-formed records of a topic, by digest; the rest is skipped."""
        found: dict[Digest, _R] = {}
        for digest in (await self._site.blobs.list(self.topic(name)))[:MAX_LISTED]:
            key = (name, digest)
            if key not in self._records:
                try:
                    data = await self._site.blobs.get(digest, max_bytes=max_bytes)
                    self._records[key] = decode(data, kind, max_bytes=max_bytes)
                except BlobMissing:
                    continue
                except Refused:
                    self._records[key] = None
            record = self._records[key]
            if isinstance(record, kind):
                found[digest] = record
        return found

    async def votes(
        self, name: str, kind: type[_S], seats: Iterable[Address]
    ) -> dict[bytes, dict[Address, _S]]:
        """Signed statements of seated evaluators, grouped by what was stated (its struct hash)."""
        allowed = frozenset(seats)
        found: dict[bytes, dict[Address, _S]] = {}
        for digest, record in (await self.read(name, kind)).items():
            if record.signer not in allowed:
                continue
            if digest not in self._stated:
                self._stated[digest] = self._statement(record)
            statement = self._stated[digest]
            if statement is not None:
                found.setdefault(statement, {})[record.signer] = record
        return found

    def _statement(self, record: SignedRecord) -> bytes | None:
        """The struct hash of what was stated; None where its signer did not sign it."""
        try:
            verify(record, self._site.domain())
        except MessageRefused:
            return None
        return bytes(record.message.struct_hash())


def is_passing(error: GalaxyError) -> bool:
    """Whether it may pass by itself: chain or store did not answer, or a blob is not there yet."""
    return error.retryable and isinstance(error, LedgerError | StorageError | BlobMissing)


async def keep_going(site: Site, turn: Callable[[], Awaitable[bool]]) -> None:
    """Call ``turn`` until it says that all is done, pausing between calls; retry what may be retried.

    Raises:
        GalaxyError: one that is not retryable.
    """
    while True:
        try:
            is_done = await turn()
            site.pulse(None)
            if is_done:
                return
        except GalaxyError as error:
            if not is_passing(error):
                raise
            site.pulse(error)
        await site.clock.sleep(site.poll_s)


def registry_topic(ledger: Ledger, name: str) -> str:
    """The full name of a topic of the registry, where data owners post what anybody may relay."""
    return f"registry/{ledger.chain_id}/{ledger.address_of('registry').lower()}/{name}"
