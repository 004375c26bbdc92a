"""What is asked of a node outside the ledger: coins of an account, contracts found from one, demo money."""

from __future__ import annotations

from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.transactions import Sender
from galaxylearning.chain.transport import Node, Transport, as_bytes, as_int
from galaxylearning.errors import ConfigRefused, LedgerError, TransactionReverted
from galaxylearning.ports import Contract
from galaxylearning.units import Address


async def balance_wei(node: Node, address: Address) -> int:
    """The native coins of an account, in wei.

    Raises:
        LedgerError: the node refused or did not answer.
    """
    transport = Transport(node)
    try:
        return as_int(await transport.request("eth_getBalance", address, "latest"))
    finally:
        await transport.close()


async def contracts_of(node: Node, jobs: Address, *, block_number: int) -> Deployment:
    """The deployment whose jobs contract is at ``jobs``; its registry and token are asked for.

    Raises:
        ConfigRefused: there is no GalaxyJobs at ``jobs``, or the registry belongs to another one.
        LedgerUnreachable: no answer in time.
    """
    transport = Transport(node)

    async def view(contract: Contract, at: Address, name: str) -> Address:
        function = codec(contract).function(name)
        request = {"to": at, "data": "0x" + function.encode(()).hex()}
        try:
            return Address(function.decode(as_bytes(await transport.request("eth_call", request, "latest"))))
        except LedgerError as error:
            if error.retryable:
                raise
            raise ConfigRefused(f"there is no Galaxy contract ({name}) at {at}", where="jobs") from error

    try:
        chain_id = as_int(await transport.request("eth_chainId"))
        registry = await view("jobs", jobs, "registry")
        token = await view("registry", registry, "stakeToken")
        if await view("registry", registry, "jobs") != jobs:
            raise ConfigRefused(f"the registry at {registry} belongs to another contract", where="jobs")
        return Deployment(chain_id, token, registry, jobs, block_number)
    finally:
        await transport.close()


async def mint_demo_tokens(node: Node, deployment: Deployment, address: Address, units: int) -> bool:
    """Mint demo tokens to an account from the node's unlocked account; False where the token has no mint.

    Raises:
        LedgerError: the node has no unlocked account, refused, or did not answer.
    """
    transport = Transport(node)
    try:
        accounts = await transport.request("eth_accounts")
        if not accounts:
            raise LedgerError("the node has no unlocked account to mint from", where=address)
        data = codec("token").function("mint").encode((address, units))
        call = {"from": accounts[0], "to": deployment.token, "data": "0x" + data.hex()}
        try:
            transaction_hash = await transport.request("eth_sendTransaction", call)
        except TransactionReverted:
            return False
        sender = Sender(transport, chain_id=deployment.chain_id)
        await sender.receipt(as_bytes(transaction_hash))
        return True
    finally:
        await transport.close()
