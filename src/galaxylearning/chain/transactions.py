"""Sending transactions: nonces, fees, gas limits, and the receipt that proves one was mined.

A receipt that does not come is not proof that nothing was mined: the node is asked again by hash and by
nonce, and given the same raw transaction again, before anything is called lost.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from eth_utils.crypto import keccak

from galaxylearning.chain.transport import NodeRefused, Transport, as_int, as_object
from galaxylearning.errors import LedgerError, LedgerUnreachable, TransactionReverted
from galaxylearning.ports import Signer

PRIORITY_FEE_WEI = 1_000_000_000
RECEIPT_TIMEOUT_S = 120.0
_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 1.0
_GAS_MARGIN = 20_000
_NONCE_ATTEMPTS = 3


@dataclass(slots=True)
class _Account:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    next_nonce: int | None = None


class Sender:
    """Signs and sends for any number of accounts, each account's transactions one after the other."""

    def __init__(
        self, transport: Transport, *, chain_id: int, receipt_timeout_s: float = RECEIPT_TIMEOUT_S
    ) -> None:
        self.chain_id = chain_id
        self._transport = transport
        self._receipt_timeout_s = receipt_timeout_s
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)

    async def next_nonce(self, address: str) -> int:
        """The nonce the node expects next from an account."""
        return as_int(await self._transport.request("eth_getTransactionCount", address, "pending"))

    async def send(self, signer: Signer, *, to: str | None, data: bytes) -> Mapping[str, Any]:
        """Send a transaction without value and wait for its receipt (JSON).

        Raises:
            TransactionReverted: the contract refused, before or in a block.
            LedgerUnreachable: no receipt in time; the transaction may still be mined.
            LedgerError: the node refused, or another transaction took the nonce.
        """
        call = {"from": signer.address, "data": "0x" + data.hex(), **({} if to is None else {"to": to})}
        account = self._accounts[signer.address]
        async with account.lock:
            transaction_hash, nonce, raw = await self._send_once_accepted(account, signer, call, to, data)
        receipt = await self.receipt(transaction_hash, sender=signer.address, nonce=nonce, raw=raw)
        if as_int(receipt["status"]) != 1:
            await self._raise_reason(call, receipt)
        return receipt

    async def _send_once_accepted(
        self, account: _Account, signer: Signer, call: Mapping[str, Any], to: str | None, data: bytes
    ) -> tuple[bytes, int, bytes]:
        estimate = as_int(await self._transport.request("eth_estimateGas", call, "pending"))
        latest = as_object(await self._transport.request("eth_getBlockByNumber", "latest", False))
        base_fee_wei, gas_limit = as_int(latest["baseFeePerGas"]), as_int(latest["gasLimit"])
        for attempt in range(_NONCE_ATTEMPTS):
            nonce = account.next_nonce
            if nonce is None:
                nonce = await self.next_nonce(signer.address)
            raw = signer.sign_transaction(
                {
                    "type": 2,
                    "chainId": self.chain_id,
                    "nonce": nonce,
                    "maxFeePerGas": 2 * base_fee_wei + PRIORITY_FEE_WEI,
                    "maxPriorityFeePerGas": PRIORITY_FEE_WEI,
                    "gas": min(estimate + estimate // 4 + _GAS_MARGIN, gas_limit),
                    "value": 0,
                    "data": "0x" + data.hex(),
                    **({} if to is None else {"to": to}),
                }
            )
            transaction_hash = keccak(raw)
            account.next_nonce = None
            try:
                await self._transport.request("eth_sendRawTransaction", "0x" + raw.hex())
            except LedgerUnreachable:
                return transaction_hash, nonce, raw  # It may have arrived; asking for its receipt will tell.
            except NodeRefused:
                if await self._is_known(transaction_hash):
                    return transaction_hash, nonce, raw
                # If the nonce moved, another program used the key: try with the fresh one.
                if attempt == _NONCE_ATTEMPTS - 1 or await self.next_nonce(signer.address) == nonce:
                    raise
                continue
            account.next_nonce = nonce + 1
            return transaction_hash, nonce, raw
        raise LedgerError(
            "the account's nonce keeps changing; another program uses its key", where=signer.address
        )

    async def _is_known(self, transaction_hash: bytes) -> bool:
        return (
            await self._transport.request("eth_getTransactionByHash", "0x" + transaction_hash.hex())
            is not None
        )

    async def receipt(
        self, transaction_hash: bytes, *, sender: str | None = None, nonce: int = 0, raw: bytes | None = None
    ) -> Mapping[str, Any]:
        """Wait for a receipt (JSON). With ``raw`` the transaction is sent again where the node has lost it.

        Raises:
            LedgerUnreachable: none in time.
            LedgerError: another transaction of ``sender`` took the nonce.
        """
        shown = "0x" + transaction_hash.hex()
        deadline = monotonic() + self._receipt_timeout_s
        pause_s = _FIRST_POLL_S
        while True:
            try:
                found = await self._transport.request("eth_getTransactionReceipt", shown)
                if found is not None:
                    return as_object(found)
                if sender is not None and raw is not None and pause_s >= _LONGEST_POLL_S:
                    await self._ask_again(transaction_hash, sender, nonce, raw)
            except LedgerUnreachable:
                if monotonic() >= deadline:
                    raise
            if monotonic() >= deadline:
                raise LedgerUnreachable(f"no receipt within {self._receipt_timeout_s:g} s", where=shown)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)

    async def _ask_again(self, transaction_hash: bytes, sender: str, nonce: int, raw: bytes) -> None:
        shown = "0x" + transaction_hash.hex()
        if await self._is_known(transaction_hash):
            return
        mined = as_int(await self._transport.request("eth_getTransactionCount", sender, "latest"))
        if mined > nonce:
            if await self._transport.request("eth_getTransactionReceipt", shown) is None:
                raise LedgerError(f"another transaction took nonce {nonce} of {sender}", where=shown)
            return
        try:
            await self._transport.request("eth_sendRawTransaction", "0x" + raw.hex())
        except NodeRefused:
            return  # It came back in the meantime, or the next look will say why not.

    async def _raise_reason(self, call: Mapping[str, Any], receipt: Mapping[str, Any]) -> None:
        """Raise why a mined transaction failed, as far as running it again can tell."""
        shown = str(receipt["transactionHash"])
        try:
            await self._transport.request("eth_call", call, "latest")
        except TransactionReverted as error:
            raise TransactionReverted(str(error), reason=error.reason, where=shown) from error
        except NodeRefused as error:
            raise TransactionReverted(str(error), reason="Reverted", where=shown) from error
        message = "it failed in its block, but would succeed now"
        raise TransactionReverted(message, reason="Reverted", where=shown)
