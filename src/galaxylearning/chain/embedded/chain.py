"""The embedded chain as a JSON-RPC node: one method for each call it understands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from galaxylearning.chain.embedded import eels
from galaxylearning.chain.embedded.eels import BlockContext, SignedTransaction, TransactionRefused
from galaxylearning.chain.embedded.engine import Engine, raise_if_failed
from galaxylearning.chain.embedded.rpc_error import (
    INVALID_PARAMS,
    LIMIT_EXCEEDED,
    METHOD_NOT_FOUND,
    SERVER_ERROR,
    RpcError,
    invalid_params,
)
from galaxylearning.chain.embedded.rpc_format import (
    as_address,
    as_hex,
    as_quantity,
    format_block,
    format_log,
    format_pending_block,
    format_receipt,
    format_transaction,
)
from galaxylearning.chain.embedded.rpc_params import (
    BlockTag,
    CallRequest,
    address,
    arguments,
    block_tag,
    call_request,
    data,
    flag,
    log_filter,
    quantity,
)
from galaxylearning.chain.embedded.store import MAX_LOGS, BlockRow, TransactionRow
from galaxylearning.errors import ConfigRefused, StorageError

CLIENT_VERSION = "galaxy-embedded/1 (ethereum-execution, prague)"
PRIORITY_FEE_WEI = 1_000_000_000
MAX_FEE_HISTORY_BLOCKS = 1_024

# The first account of the mnemonic every Ethereum development node uses ("test test ... junk"). Its key is
# known to everybody, so nothing on this chain is worth anything: it exists to hand out gas.
_FAUCET_KEY = PrivateKey(bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"))
FAUCET_ADDRESS = eels.keccak256(_FAUCET_KEY.public_key.format(compressed=False)[1:])[12:]


def _sign_as_faucet(digest: bytes) -> tuple[int, int, int]:
    signature = _FAUCET_KEY.sign_recoverable(digest, hasher=None)
    return int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]


class EmbeddedChain:
    """A whole chain in this process.

    Every transaction is mined at once, in a block of its own, stored durably before it is answered; a process
    killed at any moment reopens at its last whole block. Only the latest block's state is kept. See
    ``engine`` for what timestamps and hashes mean.

    Args:
        path: SQLite file, made where missing; None keeps everything in memory.
        chain_id: 1 to 2**53-1.
        now: the wall clock in Unix seconds.
        faucet_balance_wei: what the one unlocked account has when the chain is made.

    Raises:
        StorageError: the file cannot be used or another process holds it.
        ConfigRefused: the file holds a chain with another identifier.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        chain_id: int = 31337,
        now: Callable[[], int],
        faucet_balance_wei: int = 10**27,
    ) -> None:
        if not 1 <= chain_id < 1 << 53:
            raise ConfigRefused("must be from 1 to 2**53-1", where="chain_id")
        if not 0 <= faucet_balance_wei < 1 << 128:
            raise ConfigRefused("must be from 0 to 2**128-1", where="faucet_balance_wei")
        self._lock = threading.RLock()
        self._is_closed = False
        self._chain_id = chain_id
        self._engine = Engine(
            path, chain_id=chain_id, now=now, faucet=FAUCET_ADDRESS, faucet_balance_wei=faucet_balance_wei
        )
        self._decode = lru_cache(maxsize=256)(lambda raw: eels.decode_signed(raw, chain_id))
        self._methods: dict[str, tuple[int, int, Callable[..., Any]]] = {
            "eth_chainId": (0, 0, lambda: as_quantity(chain_id)),
            "net_version": (0, 0, lambda: str(chain_id)),
            "web3_clientVersion": (0, 0, lambda: CLIENT_VERSION),
            "eth_accounts": (0, 0, lambda: [as_address(FAUCET_ADDRESS)]),
            "eth_blockNumber": (0, 0, lambda: as_quantity(self._engine.head.number)),
            "eth_gasPrice": (0, 0, lambda: as_quantity(self._base_fee_wei() + PRIORITY_FEE_WEI)),
            "eth_maxPriorityFeePerGas": (0, 0, lambda: as_quantity(PRIORITY_FEE_WEI)),
            "eth_feeHistory": (2, 3, self._fee_history),
            "eth_getBalance": (1, 2, self._get_balance),
            "eth_getTransactionCount": (1, 2, self._get_transaction_count),
            "eth_getCode": (1, 2, self._get_code),
            "eth_getStorageAt": (2, 3, self._get_storage_at),
            "eth_call": (1, 2, self._call),
            "eth_estimateGas": (1, 2, self._estimate_gas),
            "eth_sendRawTransaction": (1, 1, self._send_raw_transaction),
            "eth_sendTransaction": (1, 1, self._send_transaction),
            "eth_getTransactionByHash": (1, 1, self._get_transaction),
            "eth_getTransactionReceipt": (1, 1, self._get_receipt),
            "eth_getBlockReceipts": (1, 1, self._get_block_receipts),
            "eth_getBlockByNumber": (1, 2, self._get_block_by_number),
            "eth_getBlockByHash": (1, 2, self._get_block_by_hash),
            "eth_getLogs": (1, 1, self._get_logs),
            "evm_increaseTime": (1, 1, self._increase_time),
            "evm_setNextBlockTimestamp": (1, 1, self._set_next_block_timestamp),
            "evm_mine": (0, 1, self._mine),
            "anvil_setBalance": (2, 2, self._set_balance),
        }

    @property
    def chain_id(self) -> int:
        """Identifier that transactions on this chain are signed for."""
        return self._chain_id

    def request(self, method: str, params: Sequence[Any]) -> Any:
        """Answer one JSON-RPC call; the result is JSON.

        Raises:
            RpcError: refused, with the standard code; reverts have code 3 and their data.
            StorageError: the disk failed; nothing changed.
        """
        known = self._methods.get(method) if isinstance(method, str) else None
        if known is None:
            raise RpcError(METHOD_NOT_FOUND, f"method {str(method)[:80]!r} does not exist")
        least, most, answer = known
        with self._lock:
            if self._is_closed:
                raise StorageError("the embedded chain was closed")
            return answer(*arguments(params, method, least=least, most=most))

    def close(self) -> None:
        """Release the file; later requests are refused. Closing twice does nothing."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._engine.store.close()

    def __enter__(self) -> EmbeddedChain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- blocks and tags ----------------------------------------------------------------------------------

    def _base_fee_wei(self) -> int:
        return self._engine.next_context().base_fee_wei

    def _number(self, tag: BlockTag) -> int:
        if isinstance(tag, int):
            return tag
        return 0 if tag == "earliest" else self._engine.head.number

    def _context(self, value: Any, *, default: BlockTag) -> BlockContext:
        """The block a call runs in. The state of earlier blocks is not kept."""
        tag = default if value is None else block_tag(value, "block")
        if tag == "pending":
            return self._engine.next_context()
        number, head = self._number(tag), self._engine.head.number
        if number > head:
            raise RpcError(SERVER_ERROR, f"block {number} does not exist; the latest is {head}")
        if number < head:
            raise RpcError(SERVER_ERROR, f"the state of block {number} is not kept, only that of {head}")
        return self._engine.head_context()

    def _block(self, tag: BlockTag) -> BlockRow | None:
        number = self._number(tag)
        head = self._engine.head
        return head if number == head.number else self._engine.store.block_by_number(number)

    def _get_block_by_number(self, value: Any, is_full: Any) -> Any:
        tag = block_tag(value, "block")
        full = False if is_full is None else flag(is_full, "full")
        if tag == "pending":
            return format_pending_block(self._engine.next_context(), self._engine.head)
        return self._show_block(self._block(tag), full)

    def _get_block_by_hash(self, value: Any, is_full: Any) -> Any:
        full = False if is_full is None else flag(is_full, "full")
        return self._show_block(self._engine.store.block_by_hash(data(value, "hash", length=32)), full)

    def _show_block(self, block: BlockRow | None, is_full: bool) -> Any:
        if block is None:
            return None
        row = self._engine.store.transaction_of_block(block.number)
        transaction = self._decode(row.raw) if row is not None and is_full else None
        return format_block(block, row, transaction)

    def _fee_history(self, count: Any, newest: Any, percentiles: Any) -> Any:
        wanted = quantity(count, "blockCount", bits=64)
        if not 1 <= wanted <= MAX_FEE_HISTORY_BLOCKS:
            raise invalid_params("blockCount", f"a number from 1 to {MAX_FEE_HISTORY_BLOCKS}")
        last = self._number(block_tag(newest, "newestBlock"))
        if last > self._engine.head.number:
            raise RpcError(SERVER_ERROR, f"block {last} does not exist")
        if percentiles is not None and (not isinstance(percentiles, Sequence) or len(percentiles) > 100):
            raise invalid_params("rewardPercentiles", "a list of at most 100 numbers")
        first = max(0, last + 1 - wanted)
        headers = [block.header for n in range(first, last + 1) if (block := self._block(n)) is not None]
        fees = [int(header.base_fee_per_gas) for header in headers]
        fees.append(eels.next_base_fee(headers[-1]))
        history: dict[str, Any] = {
            "oldestBlock": as_quantity(first),
            "baseFeePerGas": [as_quantity(fee) for fee in fees],
            "gasUsedRatio": [int(header.gas_used) / int(header.gas_limit) for header in headers],
        }
        if percentiles:
            history["reward"] = [[as_quantity(PRIORITY_FEE_WEI)] * len(percentiles) for _ in headers]
        return history

    # -- state --------------------------------------------------------------------------------------------

    def _account(self, value: Any, block: Any) -> Any:
        account_address = address(value, "address")
        self._context(block, default="latest")
        return self._engine.world.account(account_address)

    def _get_balance(self, value: Any, block: Any) -> Any:
        return as_quantity(self._account(value, block).balance)

    def _get_transaction_count(self, value: Any, block: Any) -> Any:
        return as_quantity(self._account(value, block).nonce)

    def _get_code(self, value: Any, block: Any) -> Any:
        return as_hex(bytes(self._account(value, block).code))

    def _get_storage_at(self, value: Any, slot: Any, block: Any) -> Any:
        account_address, position = address(value, "address"), quantity(slot, "slot")
        self._context(block, default="latest")
        return as_hex(self._engine.world.slot(account_address, position.to_bytes(32)).to_bytes(32))

    def _call(self, value: Any, block: Any) -> Any:
        request = call_request(value, "transaction", chain_id=self._chain_id)
        context = self._context(block, default="latest")
        result = self._engine.call(
            context,
            sender=request.sender,
            to=request.to,
            data=request.data,
            value_wei=request.value_wei,
            gas=request.gas,
        )
        raise_if_failed(result)
        return as_hex(result.return_data)

    def _estimate_gas(self, value: Any, block: Any) -> Any:
        request = call_request(value, "transaction", chain_id=self._chain_id)
        return as_quantity(self._estimate(request, self._context(block, default="pending")))

    def _estimate(self, request: CallRequest, context: BlockContext) -> int:
        return self._engine.estimate(
            context,
            sender=request.sender,
            to=request.to,
            data=request.data,
            value_wei=request.value_wei,
            gas=request.gas,
        )

    # -- transactions -------------------------------------------------------------------------------------

    def _send_raw_transaction(self, value: Any) -> Any:
        raw = data(value, "transaction")
        try:
            transaction = self._decode(raw)
        except TransactionRefused as error:
            raise RpcError(SERVER_ERROR, str(error)) from error
        if self._engine.store.transaction_by_hash(transaction.hash) is not None:
            raise RpcError(SERVER_ERROR, "transaction already imported")
        self._engine.mine(transaction)
        return as_hex(transaction.hash)

    def _send_transaction(self, value: Any) -> Any:
        request = call_request(value, "transaction", chain_id=self._chain_id)
        if request.sender != FAUCET_ADDRESS:
            raise invalid_params(
                "transaction.from", f"{as_address(FAUCET_ADDRESS)}, the only unlocked account"
            )
        context = self._engine.next_context()
        priority_fee_wei = PRIORITY_FEE_WEI if request.priority_fee_wei is None else request.priority_fee_wei
        max_fee_wei = request.max_fee_wei
        nonce = request.nonce
        fields = {
            "nonce": int(self._engine.world.account(FAUCET_ADDRESS).nonce) if nonce is None else nonce,
            "priority_fee_wei": priority_fee_wei,
            "max_fee_wei": 2 * context.base_fee_wei + priority_fee_wei
            if max_fee_wei is None
            else max_fee_wei,
            "gas": self._estimate(request, context) if request.gas is None else request.gas,
            "to": request.to or b"",
            "data": request.data,
            "value_wei": request.value_wei,
        }
        return self._send_raw_transaction(
            as_hex(eels.sign_fee_market(fields, chain_id=self._chain_id, sign=_sign_as_faucet))
        )

    def _find(self, value: Any) -> tuple[TransactionRow, SignedTransaction, BlockRow] | None:
        row = self._engine.store.transaction_by_hash(data(value, "hash", length=32))
        if row is None:
            return None
        block = self._block(row.block_number)
        if block is None:
            raise StorageError(f"block {row.block_number} is missing from the chain's file")
        return row, self._decode(row.raw), block

    def _get_transaction(self, value: Any) -> Any:
        found = self._find(value)
        return None if found is None else format_transaction(found[1], found[2])

    def _get_receipt(self, value: Any) -> Any:
        found = self._find(value)
        if found is None:
            return None
        return self._show_receipt(*found)

    def _show_receipt(self, row: TransactionRow, transaction: SignedTransaction, block: BlockRow) -> Any:
        logs = self._engine.store.logs(block.number, block.number)
        return format_receipt(row, transaction, block, logs)

    def _get_block_receipts(self, value: Any) -> Any:
        """By number, tag or hash."""
        if isinstance(value, str) and len(value) == 66:
            block = self._engine.store.block_by_hash(data(value, "hash", length=32))
        else:
            block = self._block(block_tag(value, "block"))
        if block is None:
            return None
        row = self._engine.store.transaction_of_block(block.number)
        return [] if row is None else [self._show_receipt(row, self._decode(row.raw), block)]

    def _get_logs(self, value: Any) -> Any:
        wanted = log_filter(value, "filter")
        if wanted.block_hash is not None:
            block = self._engine.store.block_by_hash(wanted.block_hash)
            if block is None:
                raise RpcError(SERVER_ERROR, "unknown block")
            first = last = block.number
        else:
            first, last = self._number(wanted.from_block), self._number(wanted.to_block)
            if first > last:
                raise RpcError(INVALID_PARAMS, f"fromBlock {first} is after toBlock {last}", where="filter")
        rows = self._engine.store.logs(first, last, wanted.addresses, wanted.topics)
        if len(rows) > MAX_LOGS:
            raise RpcError(LIMIT_EXCEEDED, f"more than {MAX_LOGS} logs; ask for fewer blocks", where="filter")
        blocks: dict[int, BlockRow | None] = {}
        shown = []
        for row in rows:
            if row.block_number not in blocks:
                blocks[row.block_number] = self._block(row.block_number)
            containing = blocks[row.block_number]
            if containing is None:
                raise StorageError(f"block {row.block_number} is missing from the chain's file")
            shown.append(format_log(row, containing))
        return shown

    # -- development --------------------------------------------------------------------------------------

    def _increase_time(self, seconds: Any) -> Any:
        return self._engine.increase_time(quantity(seconds, "seconds", bits=63))

    def _set_next_block_timestamp(self, timestamp: Any) -> None:
        self._engine.set_next_timestamp(quantity(timestamp, "timestamp", bits=63))

    def _mine(self, timestamp: Any) -> Any:
        if timestamp is not None:
            self._engine.set_next_timestamp(quantity(timestamp, "timestamp", bits=63))
        self._engine.mine(None)
        return "0x0"

    def _set_balance(self, value: Any, balance: Any) -> None:
        self._engine.set_balance(address(value, "address"), quantity(balance, "balance"))
