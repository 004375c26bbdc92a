"""A ledger in memory that does what the contracts do, for simulations of many thousand jobs.

It mirrors GalaxyJobs, GalaxyRegistry and the token of the demonstration function by function: the same
checks in the same order, the same events, the same money; signatures and proofs are verified. What it leaves
out is the EVM: gas, storage, permits. That it agrees is shown by playing everything that was submitted to
it, refused calls too, on the contracts themselves (``benchmarks.faults.fidelity``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.sign import recover_signer
from galaxylearning.errors import LedgerError, MessageRefused, TransactionReverted
from galaxylearning.messages import typed
from galaxylearning.ports import Block, Call, ChainLog, Contract, Event, Receipt, Signer
from galaxylearning.simulation.light_jobs import Jobs
from galaxylearning.simulation.light_registry import Registry, Token, require, revert
from galaxylearning.units import Address


@dataclass(frozen=True, slots=True)
class Transaction:
    """One thing that was submitted, and what came of it: events, or the reason why it was refused."""

    timestamp: int
    sender: Address
    call: Call
    events: tuple[tuple[Contract, str, Mapping[str, Any]], ...]
    refused: str | None


@lru_cache(maxsize=1 << 12)
def light_block(number: int) -> Block:
    """The block of a number; there is never another one in its place."""
    return Block(number, keccak(b"light block" + number.to_bytes(8, "big")))


class LightLedger:
    """Implements ``ports.Ledger``: one block for every accepted transaction, final at once.

    ``now`` is the time of the block being built, Unix seconds; a block is never earlier than its parent.
    ``addresses`` are those of the contracts, under which everything is signed. ``keeps_transactions`` keeps
    every transaction, refused ones too, for the comparison with the contracts.
    """

    def __init__(
        self,
        addresses: Mapping[Contract, Address],
        *,
        now: Callable[[], int],
        chain_id: int = 31337,
        keeps_transactions: bool = False,
    ) -> None:
        self._addresses, self._now, self._chain_id = dict(addresses), now, chain_id
        self._keeps = keeps_transactions
        self.log: list[Event] = []
        self.transactions: list[Transaction] = []
        self._block, self._timestamp = 0, 0
        self._pending: list[tuple[Contract, str, Mapping[str, Any]]] = []
        self.token = Token(self)
        self.registry = Registry(self, self.token)
        self.jobs = Jobs(self, self.token, self.registry)
        self._contracts: Mapping[Contract, Any] = {
            "token": self.token,
            "registry": self.registry,
            "jobs": self.jobs,
        }

    # ---- the port

    @property
    def chain_id(self) -> int:
        """Identifier of the chain that everything is signed for."""
        return self._chain_id

    def address_of(self, contract: Contract) -> Address:
        """Where a contract is said to be."""
        return self._addresses[contract]

    async def now(self) -> int:
        """Timestamp of the next block."""
        return self.timestamp

    async def randomness(self, block: Block) -> bytes:
        """What stands for a block's randomness: it follows from its number.

        Raises:
            LedgerError: there is no such block.
        """
        if not await self.has_block(block):
            raise LedgerError("there is no such block", where=f"block {block.number}")
        return keccak(b"randomness of a light block" + block.number.to_bytes(8, "big"))

    async def read(self, call: Call) -> Any:
        """Result of a view."""
        return getattr(self._contracts[call.contract], f"view_{call.function}")(*call.arguments)

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        """Mine a transaction in a block of its own.

        Raises:
            TransactionReverted: the contract refuses; nothing changes.
        """
        return self.mine(call, signer.address)

    async def coins_wei(self, account: Address) -> int:  # noqa: ARG002
        """Nobody has any: no gas is paid for."""
        return 0

    @property
    def is_irrevocable(self) -> bool:
        """Every block is final at once."""
        return True

    async def finality_s(self) -> int:
        """None passes."""
        return 0

    async def follow(self, since_block: int) -> ChainLog:
        """Logs from a block on, all of them final; oldest first."""
        found = []
        for event in reversed(self.log):
            if event.block.number < since_block:
                break
            found.append(event)
        head = light_block(self._block)
        return ChainLog(final=found[::-1], provisional=(), final_block=head, head=head)

    async def has_block(self, block: Block) -> bool:
        """Whether there is this block."""
        return 0 < block.number <= self._block and block == light_block(block.number)

    # ---- blocks

    @property
    def timestamp(self) -> int:
        """Timestamp of the block being built."""
        return max(self._now(), self._timestamp)

    def mine(self, call: Call, sender: Address) -> Receipt:
        """Execute a call of ``sender``'s; raises as ``submit`` does."""
        timestamp, self._pending = self.timestamp, []
        try:
            getattr(self._contracts[call.contract], call.function)(sender, *call.arguments)
        except TransactionReverted as refused:
            self._note(timestamp, sender, call, (), refused.reason)
            raise
        self._block, self._timestamp = self._block + 1, timestamp
        block = light_block(self._block)
        transaction_hash = keccak(b"light transaction" + block.hash)
        events = tuple(
            Event(contract, name, arguments, block, timestamp, index, transaction_hash)
            for index, (contract, name, arguments) in enumerate(self._pending)
        )
        self.log.extend(event for event in events if event.contract != "token")
        self._note(timestamp, sender, call, tuple(self._pending), None)
        return Receipt(transaction_hash, block, 0, sender, events)

    def _note(self, timestamp: int, sender: Address, call: Call, events: Any, refused: str | None) -> None:
        if self._keeps:
            self.transactions.append(Transaction(timestamp, sender, call, events, refused))

    def emit(self, contract: Contract, name: str, **arguments: Any) -> None:
        """Log an event of the transaction under way."""
        self._pending.append((contract, name, arguments))

    # ---- signatures

    def domain(self, contract: Contract) -> typed.Domain:
        """The EIP-712 domain of a contract."""
        name = typed.JOBS_DOMAIN if contract == "jobs" else typed.REGISTRY_DOMAIN
        return typed.Domain(name, "1", self._chain_id, self._addresses[contract])

    def signer_of(self, contract: Contract, message: typed.TypedMessage, signature: bytes) -> Address:
        """Who signed a message; reverts as the contract does."""
        try:
            return recover_signer(message.digest(self.domain(contract)), signature)
        except MessageRefused:
            revert("InvalidSignature")

    def check_data_owner(
        self,
        contract: Contract,
        sender: Address,
        data_owner: Address,
        message: typed.TypedMessage,
        signature: bytes,
    ) -> None:
        """The data owner signed a message, or calls by itself."""
        if not signature and sender == data_owner:
            return
        require(self.signer_of(contract, message, signature) == data_owner, "InvalidSignature")
