"""What the world offers, as Protocols. Nodes see nothing of the world but these; adapters implement them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from galaxylearning.graph.cost import Cost
    from galaxylearning.learning.accounting import Release
    from galaxylearning.learning.checkpoint import Checkpoint
    from galaxylearning.messages.terms import Terms
    from galaxylearning.protocol.hidden_set import Rows
    from galaxylearning.protocol.matching import DatasetArray, DatasetColumn
    from galaxylearning.protocol.privacy import Spending

Contract = Literal["jobs", "registry", "token"]

MAX_LISTED: Final = 100_000
"""Where a blob store lists so many digests under one topic, there may be more."""


@dataclass(frozen=True, slots=True)
class Call:
    """One function of one contract with its arguments, as the ABI wants them (structs as tuples)."""

    contract: Contract
    function: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A block by number and 32-byte hash: a number alone names another block after a reorganisation."""

    number: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded log entry. ``arguments`` holds structs as dicts, bytes as bytes, addresses checksummed."""

    contract: Contract
    name: str
    arguments: Mapping[str, Any]
    block: Block
    timestamp: int
    log_index: int
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class ChainLog:
    """The events of both contracts from some block on, oldest first, as far as the chain has them now.

    ``final`` ones stay for good. ``provisional`` ones are those after ``final_block``, up to ``head``: the
    next reading may have others in their place. ``rollbacks`` counts how often blocks were seen to be taken
    back. ``hold`` says why nothing that cannot be undone may be done now, or is None; ``notices`` are what
    the operator should know. Where not ``is_whole`` there are further final events after ``final_block``: the
    next reading goes on there.
    """

    final: Sequence[Event]
    provisional: Sequence[Event]
    final_block: Block
    head: Block
    rollbacks: int = 0
    hold: str | None = None
    notices: tuple[str, ...] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Receipt:
    """A successful transaction in a block, which may yet be taken back."""

    transaction_hash: bytes
    block: Block
    gas_used: int
    sender: Address
    events: tuple[Event, ...]


class Signer(Protocol):
    """Holds one account's key."""

    @property
    def address(self) -> Address: ...

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a 32-byte EIP-712 digest; 65 bytes r || s || v with v in {27, 28} and low s."""
        ...

    def sign_transaction(self, transaction: Mapping[str, Any]) -> bytes:
        """Sign an EIP-1559 transaction; returns the raw transaction."""
        ...


class Ledger(Protocol):
    """One chain with one deployment of the Galaxy contracts and one ERC-20 token."""

    @property
    def chain_id(self) -> int: ...

    def address_of(self, contract: Contract) -> Address: ...

    async def now(self) -> int:
        """Timestamp of the latest block, or of the next one where the chain knows it; Unix seconds."""
        ...

    async def randomness(self, block: Block) -> bytes:
        """32 bytes that nobody could choose or foresee well before this block (``prevRandao``, EIP-4399).

        Raises:
            LedgerError: the chain has no such block, or does not say.
            LedgerUnreachable: no answer in time.
        """
        ...

    async def read(self, call: Call) -> Any:
        """Result of a view; a single struct comes as a dict keyed by field name.

        Raises:
            TransactionReverted: the contract refused.
            LedgerUnreachable: no answer in time.
        """
        ...

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        """Send a transaction and wait for its receipt.

        Raises:
            TransactionReverted: the contract refused, with its custom error's name in ``reason``.
            LedgerUnreachable: no answer in time.
        """
        ...

    async def coins_wei(self, account: Address) -> int:
        """What an account has to pay gas from, in wei.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        ...

    @property
    def is_irrevocable(self) -> bool:
        """Whether no block of this chain is ever taken back: then everything is final at once."""
        ...

    async def finality_s(self) -> int:
        """How much older the newest final block is than the head, seconds; 0 where all is final at once.

        Raises:
            LedgerError: as ``follow``.
        """
        ...

    async def follow(self, since_block: int) -> ChainLog:
        """The events of both contracts in blocks from ``since_block`` on; those before count as final.

        Raises:
            FinalityBroken: a block that was final is not there any more.
            ChainDisagreement: the chain's endpoints contradict each other.
            LedgerUnreachable: no answer in time, or none that can be true.
        """
        ...

    async def has_block(self, block: Block) -> bool:
        """Whether a block is on the chain now, or another one in its place.

        Raises:
            ChainDisagreement: one endpoint has it, another has not.
            LedgerUnreachable: no answer in time, or the chain does not go so far.
        """
        ...


class DrandNetwork(Protocol):
    """A way to a drand network, which is trusted with nothing: what it gives is checked."""

    async def signature(self, number: int) -> bytes:
        """The signature of a round.

        Raises:
            LedgerUnreachable: no answer in time, or the round has not come yet.
        """
        ...


class BlobStore(Protocol):
    """Content-addressed, write-once storage, with topics under which blobs can be found.

    A topic is a bulletin board anybody may write to: what is found there proves nothing by being there.
    """

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` under its BLAKE3 digest and list it under ``topic``. Repeating changes nothing."""
        ...

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: it is larger than ``max_bytes``.
            BlobDamaged: what came is not what its digest says; it may be had later.
        """
        ...

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``: of one store in ascending order, of several in turns.

        Stores end a list at ``MAX_LISTED``.
        """
        ...


class Aside(Protocol):
    """Does work that is pure computation, beside the event loop or at once, and comes back once it is done.

    Nothing else may touch what ``work`` touches meanwhile; what it raises is raised here.
    """

    async def __call__(self, work: Callable[[], None]) -> None: ...


class Clock(Protocol):
    """Time for waiting. What a deadline means is the chain's time, never this."""

    def monotonic_s(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


MAX_STEP_BYTES: Final = 1 << 28
"""The most that a journal keeps of one step."""


class Journal(Protocol):
    """A node's memory: a write-once record of each step, written before the step's effect."""

    def record(self, step: str, payload: bytes) -> bytes:
        """Store ``payload`` under ``step`` unless something is there; returns what is there now.

        Raises:
            ValueError: more than ``MAX_STEP_BYTES``.
        """
        ...

    def lookup(self, step: str) -> bytes | None: ...

    def steps(self, prefix: str = "") -> Sequence[str]: ...


EntryState = Literal["intended", "signed", "sent", "mined", "final", "replaced", "void"]
"""How far a transaction has come: meant; signed, perhaps sent; sent; in a block; in a final block.

``replaced``: another of ours was signed with its nonce. ``void``: it can never be mined.
"""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One transaction of one account: what for, its nonce, and every raw transaction signed for it.

    ``raws`` are alternatives with the same nonce, oldest first, so at most one of them is ever mined. Gas in
    units, fees in wei per unit of gas, times in Unix seconds, 0 where it has not happened.
    """

    number: int
    effect: Digest
    account: Address
    nonce: int
    to: Address | None
    data: bytes
    gas: int
    max_fee_wei: int
    priority_fee_wei: int
    state: EntryState = "intended"
    raws: tuple[bytes, ...] = ()
    first_sent_s: int = 0
    last_sent_s: int = 0
    block_number: int = 0
    block_hash: bytes = b""
    is_told: bool = False
    """Whether who asked for it could know its receipt, by answer or by looking at the chain afterwards."""
    reason: str = ""
    """Why it is void."""


class Outbox(Protocol):
    """A node's transactions, each on disk before it is sent. One process at a time holds one."""

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        """Write a new intent down; returned with its number, which is larger than any before."""
        ...

    def save(self, entry: OutboxEntry) -> OutboxEntry:
        """Write an entry's new state over its old one; what was given."""
        ...

    def last(self, effect: Digest) -> OutboxEntry | None:
        """The newest entry for an effect that is neither final nor void."""
        ...

    def unfinished(self, account: Address | None = None) -> Sequence[OutboxEntry]:
        """Entries that are neither final nor void, of one account or all, by account and nonce."""
        ...


@dataclass(frozen=True, slots=True)
class OfferedDataset:
    """A data set of this data owner: what it looks like and the commitment it is registered under."""

    name: str
    commitment: Digest
    schema_digest: Digest
    n_rows: int
    columns: tuple[DatasetColumn, ...]
    arrays: tuple[DatasetArray, ...] = ()


class DatasetShelf(Protocol):
    """A data owner's data sets; what is read from it stays in the node and its worker."""

    def offered(self) -> Sequence[OfferedDataset]: ...

    def columns(self, name: str) -> Mapping[str, NDArray[Any]]:
        """The data itself, by column; each ``[n_rows, ...]``."""
        ...

    def record_use(self, name: str, job_id: int, round_index: int) -> None:
        """Count one use of a data set, once for each round of a job."""
        ...


class PrivacyBook(Protocol):
    """What was told of a data owner's data sets over all jobs and requesters, by content and by name.

    ``job`` is unique over all chains. A round counts once however often it is recorded.
    """

    def spendings(self, dataset: str) -> Sequence[Spending]:
        """Everything that concerns a data set's rows."""
        ...

    def reserve(
        self, dataset: str, job: str, requester: str, release: Release | None, rounds: int
    ) -> Spending:
        """Set the rounds of a job aside, unless that was done before; what stands there now."""
        ...

    def spend(self, dataset: str, job: str, round_index: int) -> None:
        """Record that a round's update is about to be made; on disk when this returns.

        Raises:
            DataRefused: nothing was reserved for this job.
        """
        ...

    def close_job(self, job: str) -> None:
        """A job is over: what was reserved and not spent is free again."""
        ...


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a data owner's node knows of a stranger's graph without looking into it.

    ``buffers``: how many numbers federate beside the parameters. ``weights_bytes``: length of its weights as
    safetensors. ``local_bytes``: length of the buffers that stay with their data owner.
    """

    cost: Cost
    buffers: int
    weights_bytes: int
    local_bytes: int


class Checkpoints(Protocol):
    """Where a trainer saves how far long trainings are, by ``protocol.updates.training_name``, and what they
    leave of buffers that stay with their data owner, by ``local_name``.

    Of the former what is lost is trained again; a trainer makes sure of the latter before it gives an update.
    """

    def of(self, name: str) -> Checkpoint: ...

    def discard(self, name: str) -> None:
        """Forget a training that is over."""
        ...


class Trainer(Protocol):
    """Trains a stranger's model on this owner's rows."""

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        """Check a graph and say what it costs at this batch size.

        Raises:
            GraphRefused: the document is not acceptable.
            WorkerRefused: checking it hit a cap or ended its worker.
        """
        ...

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The clipped, quantised update: parameters int32[P] and buffers int32[B].

        Raises:
            GraphRefused: the graph or its weights are not acceptable.
            UpdateRefused: training diverged.
            WorkerRefused: it hit a cap of the owner's policy, or ended its worker.
        """
        ...
