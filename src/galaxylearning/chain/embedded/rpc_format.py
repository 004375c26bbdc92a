"""Blocks, transactions, receipts and logs as the Ethereum execution APIs show them in JSON."""

from __future__ import annotations

from typing import Any

from galaxylearning.chain.embedded import eels
from galaxylearning.chain.embedded.eels import BlockContext, SignedTransaction
from galaxylearning.chain.embedded.store import BlockRow, LogRow, TransactionRow
from galaxylearning.crypto.digest import checksummed


def as_hex(value: bytes) -> str:
    """DATA."""
    return "0x" + value.hex()


def as_quantity(value: Any) -> str:
    """QUANTITY."""
    return hex(int(value))


def as_address(value: bytes) -> str:
    """Checksummed address."""
    return checksummed(value.hex())


def format_block(
    block: BlockRow, row: TransactionRow | None, transaction: SignedTransaction | None
) -> dict[str, Any]:
    """A block; with the whole transaction where ``transaction`` is given, else with its hash."""
    header = block.header
    transactions: list[Any] = []
    if row is not None:
        transactions = [as_hex(row.hash) if transaction is None else format_transaction(transaction, block)]
    size_bytes = eels.block_size_bytes(header, None if row is None else row.raw)
    return {
        "number": as_quantity(block.number),
        "hash": as_hex(block.hash),
        "parentHash": as_hex(bytes(header.parent_hash)),
        "nonce": as_hex(bytes(header.nonce)),
        "sha3Uncles": as_hex(bytes(header.ommers_hash)),
        "logsBloom": as_hex(bytes(header.bloom)),
        "transactionsRoot": as_hex(bytes(header.transactions_root)),
        "stateRoot": as_hex(bytes(header.state_root)),
        "receiptsRoot": as_hex(bytes(header.receipt_root)),
        "miner": as_address(bytes(header.coinbase)),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": as_hex(bytes(header.extra_data)),
        "size": as_quantity(size_bytes),
        "gasLimit": as_quantity(header.gas_limit),
        "gasUsed": as_quantity(header.gas_used),
        "timestamp": as_quantity(header.timestamp),
        "baseFeePerGas": as_quantity(header.base_fee_per_gas),
        "mixHash": as_hex(bytes(header.prev_randao)),
        "withdrawalsRoot": as_hex(bytes(header.withdrawals_root)),
        "withdrawals": [],
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": as_hex(bytes(header.parent_beacon_block_root)),
        "requestsHash": as_hex(bytes(header.requests_hash)),
        "uncles": [],
        "transactions": transactions,
    }


def format_pending_block(context: BlockContext, parent: BlockRow) -> dict[str, Any]:
    """The block that would be mined now: empty, without a hash."""
    header = eels.header(
        parent_hash=parent.hash,
        state_digest=bytes(parent.header.state_root),
        number=context.number,
        timestamp=context.timestamp,
        base_fee_wei=context.base_fee_wei,
        prev_randao=context.prev_randao,
        mined=None,
    )
    shown = format_block(BlockRow(context.number, bytes(32), header), None, None)
    return {**shown, "hash": None, "nonce": None}


def format_transaction(transaction: SignedTransaction, block: BlockRow) -> dict[str, Any]:
    """A mined transaction."""
    price = transaction.effective_gas_price(int(block.header.base_fee_per_gas))
    shown: dict[str, Any] = {
        "hash": as_hex(transaction.hash),
        "type": as_quantity(transaction.kind),
        "nonce": as_quantity(transaction.nonce),
        "blockHash": as_hex(block.hash),
        "blockNumber": as_quantity(block.number),
        "blockTimestamp": as_quantity(block.header.timestamp),
        "transactionIndex": "0x0",
        "from": as_address(transaction.sender),
        "to": None if transaction.to is None else as_address(transaction.to),
        "value": as_quantity(transaction.value_wei),
        "gas": as_quantity(transaction.gas),
        "gasPrice": as_quantity(price),
        "input": as_hex(transaction.data),
        "v": as_quantity(transaction.v),
        "r": as_quantity(transaction.r),
        "s": as_quantity(transaction.s),
    }
    if transaction.chain_id is not None:
        shown["chainId"] = as_quantity(transaction.chain_id)
    if transaction.kind > 0:
        shown["yParity"] = as_quantity(transaction.y_parity)
        shown["accessList"] = [
            {"address": as_address(account), "storageKeys": [as_hex(slot) for slot in slots]}
            for account, slots in transaction.access_list
        ]
    if transaction.kind >= 2:
        shown["maxFeePerGas"] = as_quantity(transaction.max_fee_wei)
        shown["maxPriorityFeePerGas"] = as_quantity(transaction.priority_fee_wei)
    return shown


def format_log(row: LogRow, block: BlockRow) -> dict[str, Any]:
    """A log entry of a mined block."""
    return {
        "address": as_address(row.log.address),
        "topics": [as_hex(topic) for topic in row.log.topics],
        "data": as_hex(row.log.data),
        "blockHash": as_hex(block.hash),
        "blockNumber": as_quantity(block.number),
        "blockTimestamp": as_quantity(block.header.timestamp),
        "transactionHash": as_hex(row.transaction_hash),
        "transactionIndex": "0x0",
        "logIndex": as_quantity(row.log_index),
        "removed": False,
    }


def format_receipt(
    row: TransactionRow, transaction: SignedTransaction, block: BlockRow, logs: list[LogRow]
) -> dict[str, Any]:
    """The receipt of a transaction. It is alone in its block, so the block's gas and bloom are its own."""
    header = block.header
    created = row.contract_address if row.has_succeeded else None
    return {
        "transactionHash": as_hex(row.hash),
        "transactionIndex": "0x0",
        "blockHash": as_hex(block.hash),
        "blockNumber": as_quantity(block.number),
        "from": as_address(transaction.sender),
        "to": None if transaction.to is None else as_address(transaction.to),
        "contractAddress": None if created is None else as_address(created),
        "status": as_quantity(row.has_succeeded),
        "type": as_quantity(transaction.kind),
        "gasUsed": as_quantity(header.gas_used),
        "cumulativeGasUsed": as_quantity(header.gas_used),
        "effectiveGasPrice": as_quantity(transaction.effective_gas_price(int(header.base_fee_per_gas))),
        "logs": [format_log(log, block) for log in logs],
        "logsBloom": as_hex(bytes(header.bloom)),
    }
