"""Sending transactions: each on disk before it leaves, sent again until it is final, and never twice.

An *effect* is what a transaction is for: chain, account, contract, function and arguments. While a
transaction for an effect is under way, asking for the effect again means that very transaction: the same raw
bytes are sent again, and their receipt is the answer. Another one is signed for the same effect only

* once whoever asked could know that the first was mined (a receipt was returned, or it was in a block before
  a restarted process looked at the chain), and it still is in a block: then asking again is a new wish;
* once the first was mined and failed: it had no effect;
* once it is void: another transaction took its nonce, or no node ever accepted it;
* while a caller in this very process still waits for the first: two callers, two wishes.

A receipt that does not come is not proof that nothing was mined: the node is asked again by hash and by
nonce, and given the same raw transaction again, before anything is called lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any, Final

from eth_utils.crypto import keccak

from galaxylearning.chain.outbox import MemoryOutbox, effect_id
from galaxylearning.chain.transport import NodeRefused, Transport, as_bytes, as_int, as_object
from galaxylearning.errors import LedgerError, LedgerUnreachable, TransactionReverted
from galaxylearning.ports import Outbox, OutboxEntry, Signer
from galaxylearning.units import Address

PRIORITY_FEE_WEI: Final = 1_000_000_000
RECEIPT_TIMEOUT_S: Final = 120.0
BUMP_AFTER_S: Final = 45.0
MAX_FEE_WEI: Final = 500_000_000_000
FINAL_DEPTH: Final = 64
"""Blocks after which a transaction counts as final where the node does not say what is."""
_BUMP_DIVISOR: Final = 8
_FIRST_POLL_S: Final = 0.02
_LONGEST_POLL_S: Final = 1.0
_GAS_MARGIN: Final = 20_000
_NONCE_ATTEMPTS: Final = 3
_SETTLE_EVERY: Final = 32
_UNMINED: Final = ("intended", "signed", "sent")

Receipt = Mapping[str, Any]


class _NonceTaken(Exception):  # noqa: N818 - a turn of the loop, not a failure
    """Another transaction has the nonce."""


@dataclass(slots=True)
class _Account:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    next_nonce: int | None = None


@dataclass(frozen=True, slots=True)
class Fees:
    """What is paid for gas, in wei per unit, and when more is offered.

    A transaction that is in no block ``bump_after_s`` seconds after it was sent is signed again with the same
    nonce and fees an eighth higher, and so on up to ``max_fee_wei``: nodes ask for at least a tenth.
    """

    priority_fee_wei: int = PRIORITY_FEE_WEI
    max_fee_wei: int = MAX_FEE_WEI
    bump_after_s: float = BUMP_AFTER_S

    def first(self, base_fee_wei: int) -> tuple[int, int]:
        """Maximum and priority fee of a first attempt."""
        return (
            min(2 * base_fee_wei + self.priority_fee_wei, self.max_fee_wei),
            min(self.priority_fee_wei, self.max_fee_wei),
        )

    def raised(self, entry: OutboxEntry, base_fee_wei: int) -> tuple[int, int] | None:
        """Maximum and priority fee of the next attempt; None where that is more than may be paid."""
        raised, priority = (
            fee + fee // _BUMP_DIVISOR + 1 for fee in (entry.max_fee_wei, entry.priority_fee_wei)
        )
        if raised > self.max_fee_wei:
            return None
        return min(max(raised, 2 * base_fee_wei + priority), self.max_fee_wei), priority


class Sender:
    """Signs and sends for any number of accounts, each account's transactions one after the other."""

    def __init__(
        self,
        transport: Transport,
        *,
        chain_id: int,
        receipt_timeout_s: float = RECEIPT_TIMEOUT_S,
        outbox: Outbox | None = None,
        fees: Fees | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``now`` gives Unix seconds for the outbox; without ``outbox`` all is forgotten with the process."""
        self.chain_id = chain_id
        self._transport = transport
        self._receipt_timeout_s = receipt_timeout_s
        self._outbox = MemoryOutbox() if outbox is None else outbox
        self._fees = fees or Fees()
        self._now = now
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)
        self._awaited: set[int] = set()
        self._sends = 0

    async def next_nonce(self, address: str) -> int:
        """The nonce the node expects next from an account."""
        return as_int(await self._transport.request("eth_getTransactionCount", address, "pending"))

    async def send(self, signer: Signer, *, to: str | None, data: bytes) -> Receipt:
        """Send a transaction without value, or go on with the one under way, and wait for its receipt (JSON).

        Raises:
            TransactionReverted: the contract refused, before or in a block.
            LedgerUnreachable: no receipt in time; the transaction may still be mined, and asking for the same
                again goes on with it.
            LedgerError: the node refused, or another program keeps taking the account's nonces.
            StorageError: it could not be written down; then nothing was sent.
        """
        account = self._accounts[signer.address]
        target = None if to is None else Address(to)
        self._sends += 1
        if self._sends % _SETTLE_EVERY == 0:
            await self.settle_pending()
        for _ in range(_NONCE_ATTEMPTS):
            async with account.lock:
                entry = await self._resumed(signer, target, data)
                if entry is None:
                    entry = await self._begun(account, signer, target, data)
                self._awaited.add(entry.number)
            try:
                entry, receipt = await self._mined(entry, signer)
            except _NonceTaken:
                account.next_nonce = None
                continue
            finally:
                self._awaited.discard(entry.number)
            if as_int(receipt["status"]) != 1:
                await self._raise_reason(_call(entry), receipt)
            return receipt
        raise _another_program(signer.address)

    async def receipt(self, transaction_hash: bytes) -> Receipt:
        """Wait for the receipt (JSON) of a transaction that somebody else signed.

        Raises:
            LedgerUnreachable: none in time.
        """
        shown = "0x" + transaction_hash.hex()
        deadline, pause_s = monotonic() + self._receipt_timeout_s, _FIRST_POLL_S
        while True:
            try:
                found = await self._transport.request("eth_getTransactionReceipt", shown)
            except LedgerUnreachable:
                if monotonic() >= deadline:
                    raise
                found = None
            if found is not None:
                return as_object(found)
            if monotonic() >= deadline:
                raise LedgerUnreachable(f"no receipt within {self._receipt_timeout_s:g} s", where=shown)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)

    # ---- what an earlier process, or an earlier chain, left

    async def recover(self) -> None:
        """Take up what an earlier process left in the outbox; call it before the chain is looked at.

        What is in a block by then can be seen by whoever looks, so asking for it afterwards is a new wish.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        await self.settle_pending()
        for entry in self._outbox.unfinished():
            if entry.state == "mined" and not entry.is_told:
                self._outbox.save(replace(entry, is_told=True))

    async def settle_pending(self, final_block: int | None = None) -> None:
        """Hold every unfinished transaction that nobody waits for against the chain as it is now.

        One that a reorganisation dropped, or that the node forgot, is sent again as it was signed, unless the
        contract would refuse it now; one in a block up to ``final_block`` (where not given, what the node
        calls final) is done with. Call it after every reorganisation, and now and then.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        if not (accounts := {entry.account for entry in self._outbox.unfinished()}):
            return
        final = await self._final_block() if final_block is None else final_block
        for address in sorted(accounts):
            async with self._accounts[address].lock:
                for entry in self._outbox.unfinished(address):
                    if entry.number in self._awaited:
                        continue
                    found, is_lost = await self._looked_after(entry)
                    if found.state == "mined" and found.block_number <= final:
                        self._outbox.save(replace(found, state="final"))
                    elif is_lost and not await self._is_refused(found):
                        await self._hand_in_again(found)

    async def _final_block(self) -> int:
        try:
            block = await self._transport.request("eth_getBlockByNumber", "finalized", False)
        except NodeRefused:
            block = None
        if block is not None:
            return as_int(as_object(block)["number"])
        return as_int(await self._transport.request("eth_blockNumber")) - FINAL_DEPTH

    # ---- what is under way

    async def _resumed(self, signer: Signer, to: Address | None, data: bytes) -> OutboxEntry | None:
        """The transaction under way for this effect; None where a new one is to be signed."""
        effect = effect_id(chain_id=self.chain_id, account=signer.address, to=to, data=data)
        entry = self._outbox.last(effect)
        if entry is None or entry.number in self._awaited:
            return None
        was_told = entry.is_told
        entry, is_lost = await self._looked_after(entry)
        if entry.state == "void":
            return None
        if entry.state == "replaced":
            raise LedgerUnreachable(
                f"nonce {entry.nonce} is being used by another transaction of this node", where=entry.account
            )
        if entry.state == "mined":
            return None if (was_told and entry.is_told) or entry.reason else entry
        if is_lost:
            await self._estimate(entry)
            await self._clear_the_way(entry.account, below=entry.nonce)
            entry = await self._hand_in_again(entry)
        return entry

    async def _looked_after(self, entry: OutboxEntry) -> tuple[OutboxEntry, bool]:
        """An entry as the chain has it now, and whether the node has lost sight of it."""
        if not entry.raws:
            return self._void(entry, "it was never signed"), False
        if (receipt := await self._receipt_of(entry)) is not None:
            return self._in_block(entry, receipt, is_told=entry.is_told), False
        if entry.state == "mined":  # its block is gone, and with it what anybody was told
            entry = self._outbox.save(
                replace(entry, state="sent", block_number=0, block_hash=b"", is_told=False, reason="")
            )
        latest = await self._transport.request("eth_getTransactionCount", entry.account, "latest")
        is_known = await self._is_known(entry)
        if as_int(latest) > entry.nonce and not is_known:
            # Asked after the nonce was: what took it is there by now, if it is ours.
            if (receipt := await self._receipt_of(entry)) is not None:
                return self._in_block(entry, receipt, is_told=entry.is_told), False
            return self._void(entry, f"another transaction took nonce {entry.nonce}"), False
        if entry.state == "replaced" and not is_known:
            others = self._outbox.unfinished(entry.account)
            if any(each.nonce == entry.nonce and each.state in ("signed", "sent") for each in others):
                return entry, False
            entry = self._outbox.save(replace(entry, state="sent"))
        return entry, not is_known

    async def _receipt_of(self, entry: OutboxEntry) -> Receipt | None:
        for raw in reversed(entry.raws):
            found = await self._transport.request("eth_getTransactionReceipt", _shown(raw))
            if found is not None:
                return as_object(found)
        return None

    async def _is_known(self, entry: OutboxEntry) -> bool:
        for raw in reversed(entry.raws):
            if await self._transport.request("eth_getTransactionByHash", _shown(raw)) is not None:
                return True
        return False

    async def _is_refused(self, entry: OutboxEntry) -> bool:
        """Whether the contract would refuse it now: then sending it again would only cost gas."""
        try:
            await self._estimate(entry)
        except TransactionReverted:
            return True
        return False

    async def _estimate(self, entry: OutboxEntry) -> int:
        return as_int(await self._transport.request("eth_estimateGas", _call(entry), "pending"))

    def _in_block(self, entry: OutboxEntry, receipt: Receipt, *, is_told: bool) -> OutboxEntry:
        found = replace(
            entry,
            state="mined",
            block_number=as_int(receipt["blockNumber"]),
            block_hash=as_bytes(receipt["blockHash"]),
            is_told=is_told,
            reason="" if as_int(receipt["status"]) == 1 else "it failed in its block",
        )
        return entry if found == entry else self._outbox.save(found)

    def _void(self, entry: OutboxEntry, reason: str) -> OutboxEntry:
        return self._outbox.save(replace(entry, state="void", reason=reason))

    # ---- signing and sending

    async def _begun(self, account: _Account, signer: Signer, to: Address | None, data: bytes) -> OutboxEntry:
        """Sign a new transaction and send it: the intent first, then the raw transaction, then the wire."""
        effect = effect_id(chain_id=self.chain_id, account=signer.address, to=to, data=data)
        wanted = OutboxEntry(0, effect, signer.address, 0, to, data, 0, 0, 0)
        estimate = await self._estimate(wanted)
        base_fee_wei, gas_limit = await self._latest()
        max_fee_wei, priority_fee_wei = self._fees.first(base_fee_wei)
        for _ in range(_NONCE_ATTEMPTS):
            nonce, given_up = await self._nonce(account, signer.address)
            entry = self._outbox.add(
                replace(
                    wanted,
                    nonce=nonce,
                    gas=min(estimate + estimate // 4 + _GAS_MARGIN, gas_limit),
                    max_fee_wei=max_fee_wei,
                    priority_fee_wei=priority_fee_wei,
                )
            )
            if given_up is not None:
                self._outbox.save(replace(given_up, state="replaced"))
            account.next_nonce = None
            sent = await self._hand_in(self._signed(entry, signer))
            if sent is not None:
                account.next_nonce = nonce + 1
                return sent
        raise _another_program(signer.address)

    async def _latest(self) -> tuple[int, int]:
        """Base fee, wei per unit of gas, and gas limit of the latest block."""
        block = as_object(await self._transport.request("eth_getBlockByNumber", "latest", False))
        return as_int(block["baseFeePerGas"]), as_int(block["gasLimit"])

    async def _nonce(self, account: _Account, address: Address) -> tuple[int, OutboxEntry | None]:
        """The nonce for a new transaction, and the transaction whose nonce that was, if any.

        A nonce is taken over from one that no node knows and that the contract would refuse by now.
        """
        freed = await self._clear_the_way(address)
        if freed is not None:
            return freed.nonce, freed
        if account.next_nonce is not None:
            return account.next_nonce, None
        held = [e.nonce + 1 for e in self._outbox.unfinished(address) if e.state in ("signed", "sent")]
        return max([await self.next_nonce(address), *held]), None

    async def _clear_the_way(self, address: Address, *, below: int | None = None) -> OutboxEntry | None:
        """Look after unmined transactions that nobody waits for; the first that gives its nonce up.

        With ``below`` only those with a lower nonce are looked after, and none is given up: they must go
        first, even where all they will do is fail.
        """
        freed = None
        for entry in self._outbox.unfinished(address):
            if entry.state not in _UNMINED or entry.number in self._awaited:
                continue
            if below is not None and entry.nonce >= below:
                break
            entry, is_lost = await self._looked_after(entry)
            if not is_lost:
                continue
            if below is None and freed is None and await self._is_refused(entry):
                freed = entry
            else:
                await self._hand_in_again(entry)
        return freed

    def _signed(self, entry: OutboxEntry, signer: Signer) -> OutboxEntry:
        """Sign an entry with the fees it has, and write the raw transaction down."""
        raw = signer.sign_transaction(
            {
                "type": 2,
                "chainId": self.chain_id,
                "nonce": entry.nonce,
                "maxFeePerGas": entry.max_fee_wei,
                "maxPriorityFeePerGas": entry.priority_fee_wei,
                "gas": entry.gas,
                "value": 0,
                "data": "0x" + entry.data.hex(),
                **({} if entry.to is None else {"to": entry.to}),
            }
        )
        state = "signed" if entry.state == "intended" else entry.state
        return self._outbox.save(replace(entry, state=state, raws=(*entry.raws, raw)))

    async def _hand_in(self, entry: OutboxEntry) -> OutboxEntry | None:
        """Send a transaction for the first time; None where its nonce was taken by then."""
        try:
            await self._transport.request("eth_sendRawTransaction", "0x" + entry.raws[-1].hex())
        except LedgerUnreachable:
            return self._as_sent(entry)  # It may have arrived; asking for its receipt will tell.
        except NodeRefused as refused:
            if await self._is_known(entry):
                return self._as_sent(entry)
            # If the nonce moved, another program used the key: try with the fresh one.
            if await self.next_nonce(entry.account) == entry.nonce:
                self._void(entry, f"the node refused: {refused}"[:300])
                raise
            self._void(entry, f"another transaction took nonce {entry.nonce}")
            return None
        return self._as_sent(entry)

    async def _hand_in_again(self, entry: OutboxEntry) -> OutboxEntry:
        """Send the newest raw transaction of an entry once more."""
        entry = self._as_sent(entry)
        try:
            await self._transport.request("eth_sendRawTransaction", "0x" + entry.raws[-1].hex())
        except NodeRefused:
            return entry  # It came back in the meantime, or the next look will say why not.
        return entry

    def _as_sent(self, entry: OutboxEntry) -> OutboxEntry:
        now_s = int(self._now())
        first = entry.first_sent_s or now_s
        return self._outbox.save(replace(entry, state="sent", first_sent_s=first, last_sent_s=now_s))

    # ---- waiting

    async def _mined(self, entry: OutboxEntry, signer: Signer) -> tuple[OutboxEntry, Receipt]:
        """Wait for the receipt, send again what the node loses, offer more where nobody takes it.

        Raises:
            _NonceTaken: the transaction is void.
            LedgerUnreachable: no receipt in time.
        """
        deadline = monotonic() + self._receipt_timeout_s
        bump_at = monotonic() + self._fees.bump_after_s
        pause_s = _FIRST_POLL_S
        while True:
            try:
                if (receipt := await self._receipt_of(entry)) is not None:
                    return self._in_block(entry, receipt, is_told=True), receipt
                if pause_s >= _LONGEST_POLL_S:
                    entry, is_lost = await self._looked_after(entry)
                    if entry.state == "void":
                        raise _NonceTaken
                    if is_lost:
                        entry = await self._hand_in_again(entry)
                    # One with a lower nonce that a reorganisation dropped, and that was not worth sending
                    # again, is now: all it will do is fail, but nothing can be mined before it.
                    async with self._accounts[entry.account].lock:
                        await self._clear_the_way(entry.account, below=entry.nonce)
                if monotonic() >= bump_at:
                    entry = await self._bumped(entry, signer)
                    bump_at = monotonic() + self._fees.bump_after_s
            except LedgerUnreachable:
                if monotonic() >= deadline:
                    raise
            if monotonic() >= deadline:
                raise LedgerUnreachable(
                    f"no receipt within {self._receipt_timeout_s:g} s", where=_shown(entry.raws[-1])
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)

    async def _bumped(self, entry: OutboxEntry, signer: Signer) -> OutboxEntry:
        """The same transaction at a higher price, where that may be paid; the old one may still be mined."""
        base_fee_wei, _ = await self._latest()
        if entry.state == "mined" or (fees := self._fees.raised(entry, base_fee_wei)) is None:
            return entry
        entry = self._signed(replace(entry, max_fee_wei=fees[0], priority_fee_wei=fees[1]), signer)
        return await self._hand_in_again(entry)

    async def _raise_reason(self, call: Mapping[str, Any], receipt: Receipt) -> None:
        """Raise why a mined transaction failed, as far as running it again can tell."""
        failed = partial(
            TransactionReverted, where=str(receipt["transactionHash"]), gas_used=as_int(receipt["gasUsed"])
        )
        try:
            await self._transport.request("eth_call", call, "latest")
        except TransactionReverted as error:
            raise failed(str(error), reason=error.reason) from error
        except NodeRefused as error:
            raise failed(str(error), reason="Reverted") from error
        raise failed("it failed in its block, but would succeed now", reason="Reverted")


def _shown(raw: bytes) -> str:
    """The hash of a raw transaction, as nodes want it."""
    return "0x" + keccak(raw).hex()


def _call(entry: OutboxEntry) -> dict[str, str]:
    call = {"from": str(entry.account), "data": "0x" + entry.data.hex()}
    return call if entry.to is None else {**call, "to": entry.to}


def _another_program(address: str) -> LedgerError:
    return LedgerError("the account's nonce keeps changing; another program uses its key", where=address)
