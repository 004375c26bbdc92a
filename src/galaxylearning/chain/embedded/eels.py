"""The Ethereum execution specifications (fork Prague), behind plain bytes and ints.

Only this module, ``fast_loop`` and ``spec_loading`` touch them.

Source: github.com/ethereum/execution-specs, ``ethereum.prague``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ethereum.crypto.hash import Hash32
from ethereum.crypto.hash import keccak256 as _keccak256
from ethereum.exceptions import EthereumException as EthereumException
from ethereum.exceptions import InvalidSignatureError
from ethereum.prague import vm
from ethereum.prague.blocks import Header, decode_receipt
from ethereum.prague.bloom import logs_bloom
from ethereum.prague.fork import (
    EMPTY_OMMER_HASH,
    calculate_base_fee_per_gas,
    process_transaction,
)
from ethereum.prague.fork_types import Account, Address
from ethereum.prague.requests import compute_requests_hash
from ethereum.prague.state import (
    State,
    TransientStorage,
    increment_nonce,
    set_account_balance,
)
from ethereum.prague.transactions import (
    AccessListTransaction,
    BlobTransaction,
    FeeMarketTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    calculate_intrinsic_cost,
    decode_transaction,
    encode_transaction,
    get_transaction_hash,
    recover_sender,
    signing_hash_1559,
)
from ethereum.prague.trie import EMPTY_TRIE_ROOT, Trie, root
from ethereum.prague.utils.address import compute_contract_address
from ethereum.prague.utils.message import prepare_message
from ethereum.prague.vm import interpreter
from ethereum.prague.vm.exceptions import Revert
from ethereum_rlp import rlp
from ethereum_rlp.exceptions import RLPException
from ethereum_types.bytes import Bytes, Bytes0, Bytes8, Bytes32, Bytes256
from ethereum_types.numeric import U64, U256, Uint

from galaxylearning.chain.embedded.spec_loading import deep_calls

BLOCK_GAS_LIMIT = 30_000_000
"""Gas a block may use, and so the most a transaction may ask for."""

COINBASE = bytes(20)
GENESIS_BASE_FEE_WEI = 1_000_000_000
MAX_INIT_CODE_BYTES = 2 * interpreter.MAX_CODE_SIZE


class TransactionRefused(Exception):  # noqa: N818 - like its neighbours in errors.py
    """A raw transaction is malformed or not signed by anybody."""


def keccak256(data: bytes) -> bytes:
    """Keccak-256, 32 bytes."""
    return bytes(_keccak256(data))


def account(nonce: int, balance_wei: int, code: bytes) -> Any:
    """An EELS account."""
    return Account(Uint(nonce), U256(balance_wei), Bytes(code))


def word(value: int) -> Any:
    """An EELS storage word."""
    return U256(value)


def encode_account(value: Any) -> bytes:
    """Nonce, balance and code hash as RLP."""
    return bytes(rlp.encode((value.nonce, value.balance, _keccak256(value.code))))


def state(accounts: Any, storage: Mapping[bytes, Any]) -> Any:
    """An EELS state over these maps."""
    return State(
        _main_trie=Trie(secured=True, default=None, _data=accounts),
        _storage_tries={
            Address(address): Trie(secured=True, default=U256(0), _data=slots)
            for address, slots in storage.items()
        },
    )


def account_contents(value: Any) -> Any:
    """The map of accounts inside a state."""
    return value._main_trie._data


def storage_contents(value: Any) -> Iterator[tuple[bytes, Any]]:
    """The map of storage words of each contract that has any."""
    for address, trie in value._storage_tries.items():
        yield bytes(address), trie._data


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a transaction can see of the block it is in."""

    chain_id: int
    number: int
    timestamp: int
    base_fee_wei: int
    prev_randao: bytes
    block_hashes: Sequence[bytes]

    def environment(self, value: Any) -> Any:
        """The EELS environment of this block over a state."""
        return vm.BlockEnvironment(
            chain_id=U64(self.chain_id),
            state=value,
            block_gas_limit=Uint(BLOCK_GAS_LIMIT),
            block_hashes=[Hash32(block_hash) for block_hash in self.block_hashes],
            coinbase=Address(COINBASE),
            number=Uint(self.number),
            base_fee_per_gas=Uint(self.base_fee_wei),
            time=U256(self.timestamp),
            prev_randao=Bytes32(self.prev_randao),
            excess_blob_gas=U64(0),
            parent_beacon_block_root=Hash32(bytes(32)),
        )


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A decoded raw transaction whose signature was checked."""

    decoded: Any
    raw: bytes
    hash: bytes
    kind: int
    sender: bytes
    to: bytes | None
    data: bytes
    nonce: int
    gas: int
    value_wei: int
    max_fee_wei: int
    priority_fee_wei: int
    y_parity: int
    v: int
    r: int
    s: int
    access_list: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    chain_id: int | None

    def effective_gas_price(self, base_fee_wei: int) -> int:
        """What one unit of gas costs in a block with this base fee; wei."""
        if self.kind < 2:
            return self.max_fee_wei
        return base_fee_wei + min(self.priority_fee_wei, self.max_fee_wei - base_fee_wei)


_KINDS = {LegacyTransaction: 0, AccessListTransaction: 1, FeeMarketTransaction: 2, SetCodeTransaction: 4}


def decode_signed(raw: bytes, chain_id: int) -> SignedTransaction:
    """Decode a raw transaction and recover who signed it.

    Raises:
        TransactionRefused: malformed, of an unsupported type, for another chain, or wrongly signed.
    """
    try:
        if raw[:1] >= b"\xc0":
            decoded = decode_transaction(rlp.decode_to(LegacyTransaction, raw))
        else:
            decoded = decode_transaction(Bytes(raw))
    except (RLPException, EthereumException, ValueError, TypeError, IndexError, RecursionError) as error:
        raise TransactionRefused("not a decodable transaction") from error
    if isinstance(decoded, BlobTransaction):
        raise TransactionRefused("blob transactions are not supported")
    encoded = encode_transaction(decoded)
    if (rlp.encode(encoded) if isinstance(encoded, LegacyTransaction) else encoded) != raw:
        raise TransactionRefused("not in canonical encoding")
    is_legacy = isinstance(decoded, LegacyTransaction)
    if is_legacy:
        v = int(decoded.v)
        signed_for = chain_id if v in (27, 28) else (v - 35) // 2
        y_parity = (v - 27) if v in (27, 28) else (v - 35) % 2
    else:
        signed_for, y_parity = int(decoded.chain_id), int(decoded.y_parity)
        v = y_parity
    if signed_for != chain_id:
        raise TransactionRefused(f"invalid chain id: signed for {signed_for}, this chain is {chain_id}")
    if y_parity not in (0, 1):
        raise TransactionRefused("invalid signature: parity must be 0 or 1")
    try:
        sender = recover_sender(U64(chain_id), decoded)
    except (InvalidSignatureError, ValueError, OverflowError) as error:
        raise TransactionRefused("invalid signature") from error
    has_fee_market = isinstance(decoded, FeeMarketTransaction | SetCodeTransaction)
    return SignedTransaction(
        decoded=decoded,
        raw=raw,
        hash=bytes(get_transaction_hash(encoded)),
        kind=_KINDS[type(decoded)],
        sender=bytes(sender),
        to=bytes(decoded.to) or None,
        data=bytes(decoded.data),
        nonce=int(decoded.nonce),
        gas=int(decoded.gas),
        value_wei=int(decoded.value),
        max_fee_wei=int(decoded.max_fee_per_gas if has_fee_market else decoded.gas_price),
        priority_fee_wei=int(decoded.max_priority_fee_per_gas if has_fee_market else decoded.gas_price),
        y_parity=y_parity,
        v=v,
        r=int(decoded.r),
        s=int(decoded.s),
        access_list=()
        if is_legacy
        else tuple((bytes(item.account), tuple(map(bytes, item.slots))) for item in decoded.access_list),
        chain_id=None if is_legacy and v in (27, 28) else chain_id,
    )


def sign_fee_market(
    fields: Mapping[str, Any], *, chain_id: int, sign: Callable[[bytes], tuple[int, int, int]]
) -> bytes:
    """A raw EIP-1559 transaction. ``sign`` gives (r, s, y_parity) of a 32-byte hash."""
    unsigned = _fee_market(fields, chain_id, 0, 0, 0)
    r, s, y_parity = sign(bytes(signing_hash_1559(unsigned)))
    return bytes(encode_transaction(_fee_market(fields, chain_id, y_parity, r, s)))


def _fee_market(fields: Mapping[str, Any], chain_id: int, y_parity: int, r: int, s: int) -> Any:
    return FeeMarketTransaction(
        chain_id=U64(chain_id),
        nonce=U256(fields["nonce"]),
        max_priority_fee_per_gas=Uint(fields["priority_fee_wei"]),
        max_fee_per_gas=Uint(fields["max_fee_wei"]),
        gas=Uint(fields["gas"]),
        to=Address(fields["to"]) if fields["to"] else Bytes0(b""),
        value=U256(fields["value_wei"]),
        data=Bytes(fields["data"]),
        access_list=(),
        y_parity=U256(y_parity),
        r=U256(r),
        s=U256(s),
    )


def intrinsic_gas(transaction: Any) -> int:
    """Gas a transaction must bring before anything runs, including the EIP-7623 floor."""
    return max(int(cost) for cost in calculate_intrinsic_cost(transaction))


def intrinsic_gas_of_call(to: bytes | None, data: bytes) -> int:
    """The same for a call that is not signed yet."""
    fields = {"nonce": 0, "priority_fee_wei": 0, "max_fee_wei": 0, "gas": 0, "to": to, "data": data}
    return intrinsic_gas(_fee_market({**fields, "value_wei": 0}, 0, 0, 0, 0))


def set_balance(value: Any, address: bytes, balance_wei: int) -> None:
    """Give an account of a state this balance."""
    set_account_balance(value, Address(address), U256(balance_wei))


@dataclass(frozen=True, slots=True)
class Log:
    """One log entry."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that was put into a block."""

    has_succeeded: bool
    gas_used: int
    logs: tuple[Log, ...]
    bloom: bytes
    transactions_root: bytes
    receipts_root: bytes
    contract_address: bytes | None


def run_transaction(context: BlockContext, value: Any, transaction: SignedTransaction) -> Mined:
    """Run an admissible transaction on ``value`` (an EELS state), charging its sender."""
    output = vm.BlockOutput()
    with deep_calls():
        process_transaction(context.environment(value), output, transaction.decoded, Uint(0))
    receipt = decode_receipt(output.receipts_trie._data[rlp.encode(Uint(0))])
    created = None
    if transaction.to is None:
        created = bytes(compute_contract_address(Address(transaction.sender), Uint(transaction.nonce)))
    return Mined(
        has_succeeded=bool(receipt.succeeded),
        gas_used=int(output.block_gas_used),
        logs=tuple(
            Log(bytes(log.address), tuple(map(bytes, log.topics)), bytes(log.data))
            for log in output.block_logs
        ),
        bloom=bytes(receipt.bloom),
        transactions_root=bytes(root(output.transactions_trie)),
        receipts_root=bytes(root(output.receipts_trie)),
        contract_address=created,
    )


@dataclass(frozen=True, slots=True)
class Simulated:
    """A message call whose effects were thrown away."""

    return_data: bytes
    error: str | None
    has_reverted: bool
    gas_used: int
    gas_before_refund: int
    logs_count: int


def simulate(
    context: BlockContext,
    value: Any,
    *,
    sender: bytes,
    to: bytes | None,
    data: bytes,
    value_wei: int,
    gas: int,
) -> Simulated:
    """Run a call as a transaction with this gas limit would run, without charging for gas.

    The limit must be at least the intrinsic gas, and the sender must own ``value_wei``.
    """
    fields = {"nonce": 0, "priority_fee_wei": 0, "max_fee_wei": 0, "gas": gas, "to": to, "data": data}
    transaction = _fee_market({**fields, "value_wei": value_wei}, context.chain_id, 0, 0, 0)
    intrinsic, floor = calculate_intrinsic_cost(transaction)
    environment = context.environment(value)
    increment_nonce(value, Address(sender))
    transaction_environment = vm.TransactionEnvironment(
        origin=Address(sender),
        gas_price=Uint(context.base_fee_wei),
        gas=Uint(gas) - intrinsic,
        access_list_addresses={Address(COINBASE)},
        access_list_storage_keys=set(),
        transient_storage=TransientStorage(),
        blob_versioned_hashes=(),
        authorizations=(),
        index_in_block=Uint(0),
        tx_hash=None,
        traces=[],
    )
    message = prepare_message(environment, transaction_environment, transaction)
    with deep_calls():
        output = interpreter.process_message_call(message)
    before_refund = gas - int(output.gas_left)
    refunded = before_refund - min(before_refund // 5, int(output.refund_counter))
    return Simulated(
        return_data=bytes(output.return_data),
        error=None if output.error is None else type(output.error).__name__,
        has_reverted=isinstance(output.error, Revert),
        gas_used=max(refunded, int(floor)),
        gas_before_refund=max(before_refund, int(floor)),
        logs_count=len(output.logs),
    )


def next_base_fee(parent: Any) -> int:
    """Base fee of the block after ``parent``; wei. Source: EIP-1559."""
    limit = Uint(BLOCK_GAS_LIMIT)
    return int(calculate_base_fee_per_gas(limit, limit, parent.gas_used, parent.base_fee_per_gas))


def header(
    *,
    parent_hash: bytes,
    state_digest: bytes,
    number: int,
    timestamp: int,
    base_fee_wei: int,
    prev_randao: bytes,
    mined: Mined | None,
) -> Any:
    """A Prague block header with one transaction or none."""
    return Header(
        parent_hash=Hash32(parent_hash),
        ommers_hash=EMPTY_OMMER_HASH,
        coinbase=Address(COINBASE),
        state_root=Hash32(state_digest),
        transactions_root=EMPTY_TRIE_ROOT if mined is None else Hash32(mined.transactions_root),
        receipt_root=EMPTY_TRIE_ROOT if mined is None else Hash32(mined.receipts_root),
        bloom=logs_bloom(()) if mined is None else Bytes256(mined.bloom),
        difficulty=Uint(0),
        number=Uint(number),
        gas_limit=Uint(BLOCK_GAS_LIMIT),
        gas_used=Uint(0 if mined is None else mined.gas_used),
        timestamp=U256(timestamp),
        extra_data=Bytes(b""),
        prev_randao=Bytes32(prev_randao),
        nonce=Bytes8(bytes(8)),
        base_fee_per_gas=Uint(base_fee_wei),
        withdrawals_root=EMPTY_TRIE_ROOT,
        blob_gas_used=U64(0),
        excess_blob_gas=U64(0),
        parent_beacon_block_root=Hash32(bytes(32)),
        requests_hash=compute_requests_hash([]),
    )


def block_size_bytes(value: Any, raw: bytes | None) -> int:
    """Length of the RLP of a block with this header and one raw transaction or none."""
    transactions = [] if raw is None else [rlp.decode(raw) if raw[:1] >= b"\xc0" else raw]
    return len(rlp.encode([value, transactions, [], []]))


def encode_header(value: Any) -> bytes:
    """A header as RLP; its keccak-256 is the block's hash."""
    return bytes(rlp.encode(value))


def decode_header(encoded: bytes) -> Any:
    """The header that ``encode_header`` made."""
    return rlp.decode_to(Header, encoded)
