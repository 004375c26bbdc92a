"""The chain itself: a head, a world, and blocks of at most one transaction each.

A block's timestamp is ``max(now() + offset, timestamp of its parent)``: never earlier than its parent's, but
equal where two blocks fall into one second, as in anvil's automine. evm_increaseTime adds to the offset.
The header is a Prague header hashed by RLP, except that ``stateRoot`` is a running hash of all state changes
since genesis rather than a Merkle Patricia root: it commits to the state, but proves no single account.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from galaxylearning.chain.embedded import eels
from galaxylearning.chain.embedded.eels import BlockContext, SignedTransaction, Simulated
from galaxylearning.chain.embedded.rpc_error import EXECUTION_REVERTED, INVALID_PARAMS, SERVER_ERROR, RpcError
from galaxylearning.chain.embedded.store import FORMAT, BlockRow, Store, TransactionRow
from galaxylearning.chain.embedded.world import World
from galaxylearning.errors import ConfigRefused, StorageError

_GENESIS_RANDAO = eels.keccak256(b"Galaxy Learning embedded chain")
_CALL_STIPEND = 2_300
_MAX_TIMESTAMP = 1 << 63


class Engine:
    """Executes and stores. Not safe for several threads: the caller holds a lock.

    Raises:
        StorageError: the chain's file cannot be used.
        ConfigRefused: the file holds a chain with another identifier.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        chain_id: int,
        now: Callable[[], int],
        faucet: bytes,
        faucet_balance_wei: int,
    ) -> None:
        self.chain_id = chain_id
        self._now = now
        self._next_timestamp: int | None = None
        self.store = Store(path)
        try:
            head = self.store.head()
            if head is None:
                head = self._write_genesis(faucet, faucet_balance_wei)
            if self.store.meta("format") != FORMAT:
                raise StorageError(f"written in another format; this version reads {FORMAT}", where=str(path))
            stored_id = int.from_bytes(self.store.meta("chain_id"))
            if stored_id != chain_id:
                raise ConfigRefused(f"{path} holds chain {stored_id}, not {chain_id}", where="chain_id")
        except BaseException:
            self.store.close()
            raise
        self.head = head
        self._offset_s = int(self.store.meta("offset_s"))
        self._state_digest = bytes(self.store.meta("state_digest"))
        self.world = World(self.store.database)
        self._hashes = self.store.recent_hashes(256)

    def _write_genesis(self, faucet: bytes, balance_wei: int) -> BlockRow:
        world = World(self.store.database)
        state = world.state()
        eels.account_contents(state)[faucet] = eels.account(0, balance_wei, b"")
        changes = world.changes(state)
        digest = changes.digest(bytes(32))
        header = eels.header(
            parent_hash=bytes(32),
            state_digest=digest,
            number=0,
            timestamp=self._now(),
            base_fee_wei=eels.GENESIS_BASE_FEE_WEI,
            prev_randao=_GENESIS_RANDAO,
            mined=None,
        )
        block = BlockRow(0, eels.keccak256(eels.encode_header(header)), header)
        with self.store.transaction():
            self.store.set_meta("format", FORMAT)
            self.store.set_meta("chain_id", self.chain_id.to_bytes(8))
            self.store.set_meta("offset_s", 0)
            self.store.set_meta("state_digest", digest)
            world.write(changes)
            self.store.add_block(block, None, ())
        return block

    # -- time ---------------------------------------------------------------------------------------------

    def next_timestamp(self) -> int:
        """Timestamp the next block will have; Unix seconds."""
        if self._next_timestamp is not None:
            return self._next_timestamp
        return max(self._now() + self._offset_s, int(self.head.header.timestamp))

    def increase_time(self, seconds: int) -> int:
        """Move the clock forward for all later blocks; returns the whole offset in seconds."""
        offset_s = self._offset_s + seconds
        if self._now() + offset_s >= _MAX_TIMESTAMP:
            raise RpcError(INVALID_PARAMS, "would move the clock past 2**63 seconds", where="seconds")
        with self.store.transaction():
            self.store.set_meta("offset_s", offset_s)
        self._offset_s = offset_s
        return offset_s

    def set_next_timestamp(self, timestamp: int) -> None:
        """Fix the next block's timestamp; the clock goes on from there."""
        if not int(self.head.header.timestamp) <= timestamp < _MAX_TIMESTAMP:
            raise RpcError(
                INVALID_PARAMS,
                f"must not be before the latest block's, {int(self.head.header.timestamp)}",
                where="timestamp",
            )
        self._next_timestamp = timestamp

    # -- contexts -----------------------------------------------------------------------------------------

    def next_context(self) -> BlockContext:
        """The block that would be mined now."""
        return BlockContext(
            chain_id=self.chain_id,
            number=self.head.number + 1,
            timestamp=self.next_timestamp(),
            base_fee_wei=eels.next_base_fee(self.head.header),
            prev_randao=eels.keccak256(bytes(self.head.header.prev_randao)),
            block_hashes=self._hashes,
        )

    def head_context(self) -> BlockContext:
        """The latest block, as calls on it see it."""
        header = self.head.header
        return BlockContext(
            chain_id=self.chain_id,
            number=self.head.number,
            timestamp=int(header.timestamp),
            base_fee_wei=int(header.base_fee_per_gas),
            prev_randao=bytes(header.prev_randao),
            block_hashes=self._hashes[:-1],
        )

    # -- blocks -------------------------------------------------------------------------------------------

    def check(self, transaction: SignedTransaction, context: BlockContext) -> None:
        """Refuse what could not be put into the next block, saying why."""
        sender = self.world.account(transaction.sender)
        nonce, balance_wei = int(sender.nonce), int(sender.balance)
        cost_wei = transaction.gas * transaction.max_fee_wei + transaction.value_wei
        intrinsic = eels.intrinsic_gas(transaction.decoded)
        limit, max_fee_wei = eels.BLOCK_GAS_LIMIT, transaction.max_fee_wei
        message = None
        if transaction.gas > limit:
            message = f"exceeds block gas limit: {transaction.gas} > {limit}"
        elif transaction.nonce < nonce:
            message = f"nonce too low: {transaction.nonce}, next is {nonce}"
        elif transaction.nonce > nonce:
            message = f"nonce too high: {transaction.nonce}, next is {nonce}"
        elif transaction.gas < intrinsic:
            message = f"intrinsic gas too low: {transaction.gas} < {intrinsic}"
        elif max_fee_wei < context.base_fee_wei:
            message = f"max fee per gas less than block base fee: {max_fee_wei} < {context.base_fee_wei}"
        elif transaction.priority_fee_wei > max_fee_wei:
            message = "max priority fee per gas higher than max fee per gas"
        elif balance_wei < cost_wei:
            message = f"insufficient funds for gas * price + value: have {balance_wei}, need {cost_wei}"
        if message is not None:
            raise RpcError(SERVER_ERROR, message)

    def mine(self, transaction: SignedTransaction | None) -> BlockRow:
        """Append a block with this transaction, or an empty one."""
        context = self.next_context()
        state = self.world.state()
        mined = None
        if transaction is not None:
            self.check(transaction, context)
            try:
                mined = eels.run_transaction(context, state, transaction)
            except (eels.EthereumException, RecursionError) as error:
                message = f"transaction refused: {type(error).__name__} {error}"
                raise RpcError(SERVER_ERROR, message.strip()) from error
        changes = self.world.changes(state)
        digest = changes.digest(self._state_digest)
        header = eels.header(
            parent_hash=self.head.hash,
            state_digest=digest,
            number=context.number,
            timestamp=context.timestamp,
            base_fee_wei=context.base_fee_wei,
            prev_randao=context.prev_randao,
            mined=mined,
        )
        block = BlockRow(context.number, eels.keccak256(eels.encode_header(header)), header)
        row = None
        if transaction is not None and mined is not None:
            row = TransactionRow(
                transaction.hash, block.number, transaction.raw, mined.has_succeeded, mined.contract_address
            )
        offset_s = self._offset_s
        if self._next_timestamp is not None:
            offset_s = self._next_timestamp - self._now()
        with self.store.transaction():
            self.world.write(changes)
            self.store.set_meta("state_digest", digest)
            self.store.set_meta("offset_s", offset_s)
            self.store.add_block(block, row, () if mined is None else mined.logs)
        self.world.adopt(changes)
        self._state_digest, self._offset_s, self._next_timestamp = digest, offset_s, None
        self._hashes = [*self._hashes[-255:], block.hash]
        self.head = block
        return block

    def set_balance(self, address: bytes, balance_wei: int) -> None:
        """Give an account this balance, outside any block."""
        state = self.world.state()
        before = self.world.account(address)
        eels.set_balance(state, address, balance_wei)
        changes = self.world.changes(state)
        digest = changes.digest(self._state_digest)
        if int(before.balance) != balance_wei:
            with self.store.transaction():
                self.world.write(changes)
                self.store.set_meta("state_digest", digest)
            self.world.adopt(changes)
            self._state_digest = digest

    # -- simulation ---------------------------------------------------------------------------------------

    def call(
        self,
        context: BlockContext,
        *,
        sender: bytes,
        to: bytes | None,
        data: bytes,
        value_wei: int,
        gas: int | None,
    ) -> Simulated:
        """Run a call and throw its effects away.

        Raises:
            RpcError: too little gas to begin, or a value the sender does not own. A revert is no error here.
        """
        limit = min(eels.BLOCK_GAS_LIMIT if gas is None else gas, eels.BLOCK_GAS_LIMIT)
        intrinsic = eels.intrinsic_gas_of_call(to, data)
        if limit < intrinsic:
            raise RpcError(SERVER_ERROR, f"intrinsic gas too low: {limit} < {intrinsic}")
        if to is None and len(data) > eels.MAX_INIT_CODE_BYTES:
            raise RpcError(SERVER_ERROR, f"init code is over {eels.MAX_INIT_CODE_BYTES} bytes")
        balance_wei = int(self.world.account(sender).balance)
        if value_wei > balance_wei:
            raise RpcError(SERVER_ERROR, f"insufficient funds: have {balance_wei}, need {value_wei}")
        try:
            return eels.simulate(
                context, self.world.state(), sender=sender, to=to, data=data, value_wei=value_wei, gas=limit
            )
        except (eels.EthereumException, RecursionError) as error:
            raise RpcError(SERVER_ERROR, f"call refused: {type(error).__name__} {error}".strip()) from error

    def estimate(
        self,
        context: BlockContext,
        *,
        sender: bytes,
        to: bytes | None,
        data: bytes,
        value_wei: int,
        gas: int | None,
    ) -> int:
        """A gas limit with which the call does exactly what it does with all the gas there is.

        The first guess leaves each inner call the 64th part that EIP-150 keeps back; where that does not do,
        a binary search to within 1 %.
        """

        def attempt(limit: int) -> Simulated:
            return self.call(context, sender=sender, to=to, data=data, value_wei=value_wei, gas=limit)

        high = min(eels.BLOCK_GAS_LIMIT if gas is None else gas, eels.BLOCK_GAS_LIMIT)
        best = attempt(high)
        raise_if_failed(best)
        if to is not None and not self.world.account(to).code:
            return best.gas_before_refund

        def is_enough(limit: int) -> bool:
            tried = attempt(limit)
            return (tried.error, tried.return_data, tried.logs_count) == (
                None,
                best.return_data,
                best.logs_count,
            )

        guess = min(best.gas_before_refund * 64 // 63 + _CALL_STIPEND, high)
        if guess == high or is_enough(guess):
            return guess
        low = guess
        while high - low > high // 100:
            middle = (low + high) // 2
            if is_enough(middle):
                high = middle
            else:
                low = middle
        return high


def raise_if_failed(result: Simulated) -> None:
    """Turn a failed call into its JSON-RPC error, with the revert data where there is any."""
    if result.has_reverted:
        payload = "0x" + result.return_data.hex()
        raise RpcError(EXECUTION_REVERTED, "execution reverted", data=payload)
    if result.error is not None:
        raise RpcError(SERVER_ERROR, f"execution failed: {result.error}")
