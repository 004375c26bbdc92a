"""Putting the Galaxy contracts on a chain, and remembering where they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from eth_utils.address import is_checksum_address, to_checksum_address
from eth_utils.crypto import keccak

from galaxylearning.chain import bounded_json
from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.transactions import Sender
from galaxylearning.chain.transport import Node, Transport, as_address, as_bytes, as_int
from galaxylearning.errors import ConfigRefused, LedgerError
from galaxylearning.ports import Contract, Signer
from galaxylearning.units import Address

MAX_UNBONDING_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the contracts are: chain, checksummed addresses, and the first block that can hold their logs.

    Raises:
        ConfigRefused: a field is of the wrong type or out of range.
    """

    chain_id: int
    token: Address
    registry: Address
    jobs: Address
    block_number: int

    def __post_init__(self) -> None:
        for name, least in (("chain_id", 1), ("block_number", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
                raise ConfigRefused(
                    f"must be a whole number from {least} to 2^63-1", where=f"deployment.{name}"
                )
        for name in ("token", "registry", "jobs"):
            value = getattr(self, name)
            if not isinstance(value, str) or not is_checksum_address(value):
                raise ConfigRefused("must be a checksummed address", where=f"deployment.{name}")
        if len({self.token, self.registry, self.jobs}) != 3:
            raise ConfigRefused("must be three different addresses", where="deployment")

    def address_of(self, contract: Contract) -> Address:
        """Address of a contract by its name in ``ports``."""
        return {"token": self.token, "registry": self.registry, "jobs": self.jobs}[contract]

    def to_json(self) -> str:
        """One line of JSON that ``from_json`` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Deployment:
        """Read a deployment.

        Raises:
            ConfigRefused: not JSON, or a field is missing, unknown or malformed.
        """
        try:
            fields: Any = bounded_json.loads(text)
        except ValueError as error:
            raise ConfigRefused("is not JSON", where="deployment") from error
        known = set(cls.__dataclass_fields__)
        if not isinstance(fields, dict) or set(fields) != known:
            raise ConfigRefused(f"must be an object with exactly {sorted(known)}", where="deployment")
        return cls(**fields)


def created_address(creator: str, nonce: int) -> Address:
    """Address of the contract an account creates with a transaction of this nonce.

    Source: Ethereum yellow paper section 7: the last 20 bytes of keccak(rlp([creator, nonce])).
    """
    encoded = b"" if nonce == 0 else nonce.to_bytes((nonce.bit_length() + 7) // 8)
    item = encoded if len(encoded) == 1 and encoded[0] < 0x80 else bytes([0x80 + len(encoded)]) + encoded
    body = b"\x94" + bytes.fromhex(creator[2:]) + item
    return Address(to_checksum_address(keccak(bytes([0xC0 + len(body)]) + body)[12:]))


async def deploy(provider_or_w3: Node, signer: Signer, *, unbonding_s: int) -> Deployment:
    """Deploy the demo token, the registry and the jobs contract, which know each other.

    Raises:
        ConfigRefused: ``unbonding_s`` is not from 0 to a year.
        LedgerError: a contract could not be created; the signer must own the gas for it.
    """
    if not 0 <= unbonding_s <= MAX_UNBONDING_S:
        raise ConfigRefused(f"must be from 0 to {MAX_UNBONDING_S} seconds", where="unbonding_s")
    transport = Transport(provider_or_w3)
    try:
        sender = Sender(transport, chain_id=as_int(await transport.request("eth_chainId")))
        block_number = as_int(await transport.request("eth_blockNumber"))
        created: dict[Contract, Address] = {}
        nonce = await sender.next_nonce(signer.address)
        jobs = created_address(signer.address, nonce + 2)
        for contract in ("token", "registry", "jobs"):
            arguments: tuple[Any, ...] = {
                "token": (),
                "registry": (created.get("token"), jobs, unbonding_s),
                "jobs": (created.get("registry"),),
            }[contract]
            made = codec(contract)
            receipt = await sender.send(
                signer, to=None, data=made.bytecode + made.constructor.encode(arguments)
            )
            created[contract] = as_address(receipt["contractAddress"])
        if created["jobs"] != jobs:
            raise LedgerError(
                "another transaction of the same account came in between; deploy again", where="jobs"
            )
        return Deployment(
            sender.chain_id, created["token"], created["registry"], created["jobs"], block_number
        )
    finally:
        await transport.close()


async def fund(w3: Node, address: str, wei: int) -> None:
    """Give an account gas money from the node's unlocked account, as development nodes have one.

    Raises:
        LedgerError: the node has no unlocked account, or it does not own that much.
    """
    if not isinstance(wei, int) or isinstance(wei, bool) or wei < 0:
        raise ValueError("wei must be a non-negative int")
    transport = Transport(w3)
    try:
        accounts = await transport.request("eth_accounts")
        if not accounts:
            raise LedgerError(
                "the node has no unlocked account to fund from; send gas money to it yourself", where=address
            )
        payment = {"from": accounts[0], "to": address, "value": hex(wei)}
        transaction_hash = await transport.request("eth_sendTransaction", payment)
        sender = Sender(transport, chain_id=as_int(await transport.request("eth_chainId")))
        await sender.receipt(as_bytes(transaction_hash))
    finally:
        await transport.close()
