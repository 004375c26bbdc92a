"""Every typed message hashes in Python as it does on the chain and in eth-account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from eth_account import Account
from web3.exceptions import Web3Exception

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.sign import address_of, recover_signer
from galaxylearning.messages.typed import JOBS_DOMAIN, REGISTRY_DOMAIN, TYPED_MESSAGES, Domain, TypedMessage
from galaxylearning.units import Address

if TYPE_CHECKING:
    from tests.contracts.conftest import Deployment
    from web3.contract import Contract

LARGEST = {"uint256": 2**256 - 1, "uint64": 2**64 - 1, "uint32": 2**32 - 1}
KEY = keccak(b"signer")
DOMAIN_FIELDS = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]


@pytest.fixture(scope="module")
def harness(deployment: Deployment) -> Contract:
    return deployment.deploy("GalaxyTypesHarness")


def filled(kind: type[TypedMessage], *, largest: bool) -> TypedMessage:
    """A message with another value in each field."""
    values: list[Any] = []
    for position, (solidity_type, name) in enumerate(kind.abi_fields()):
        if solidity_type == "address":
            values.append(address_of(keccak(name.encode())))
        elif solidity_type == "bytes32":
            values.append(keccak(name.encode()))
        else:
            values.append(LARGEST[solidity_type] if largest else position + 1)
    return kind(*values)


def domain_for(kind: type[TypedMessage], deployment: Deployment) -> Domain:
    contract = {JOBS_DOMAIN: deployment.jobs, REGISTRY_DOMAIN: deployment.registry}[kind.domain_name]
    return Domain(kind.domain_name, "1", deployment.domain.chain_id, Address(contract.address))


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("kind", TYPED_MESSAGES)
def test_python_and_the_chain_agree(
    kind: type[TypedMessage], largest: bool, deployment: Deployment, harness: Contract
) -> None:
    message, domain = filled(kind, largest=largest), domain_for(kind, deployment)
    struct_hash = harness.functions[f"hash{kind.__name__}"](message.abi_tuple()).call()
    digest = harness.functions[f"digest{kind.__name__}"](message.abi_tuple(), domain.contract).call()
    assert message.struct_hash() == struct_hash
    assert message.digest(domain) == digest
    elsewhere = harness.functions[f"digest{kind.__name__}"](message.abi_tuple(), harness.address).call()
    assert elsewhere != digest


@pytest.mark.parametrize("kind", TYPED_MESSAGES)
def test_a_wallet_signs_the_same_digest(kind: type[TypedMessage], deployment: Deployment) -> None:
    message, domain = filled(kind, largest=False), domain_for(kind, deployment)
    names = [name for _, name in kind.abi_fields()]
    typed_data = {
        "types": {
            "EIP712Domain": DOMAIN_FIELDS,
            kind.__name__: [{"name": name, "type": type_} for type_, name in kind.abi_fields()],
        },
        "primaryType": kind.__name__,
        "domain": {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        "message": dict(zip(names, message.abi_tuple(), strict=True)),
    }
    signed = Account.sign_typed_data(KEY, full_message=typed_data)
    assert recover_signer(message.digest(domain), bytes(signed.signature)) == address_of(KEY)


def test_the_harness_has_every_type(harness: Contract) -> None:
    hashes = {entry["name"] for entry in harness.abi if entry["type"] == "function"}
    names = {kind.__name__ for kind in TYPED_MESSAGES}
    assert hashes == {f"hash{name}" for name in names} | {f"digest{name}" for name in names}


def test_the_domains_are_those_of_the_contracts(deployment: Deployment) -> None:
    for contract, name in ((deployment.jobs, JOBS_DOMAIN), (deployment.registry, REGISTRY_DOMAIN)):
        _, on_chain, version, chain_id, verifier, _, _ = contract.functions.eip712Domain().call()
        assert (on_chain, version, chain_id, verifier) == (
            name,
            "1",
            deployment.domain.chain_id,
            contract.address,
        )


def test_an_address_with_bits_beyond_it_is_refused(deployment: Deployment, harness: Contract) -> None:
    kind = next(kind for kind in TYPED_MESSAGES if kind.__name__ == "Credential")
    message = filled(kind, largest=False)
    data = bytearray(
        bytes.fromhex(harness.encode_abi("hashCredential", [message.abi_tuple()]).removeprefix("0x"))
    )
    data[4 + 2 * 32] = 1
    with pytest.raises(Web3Exception):
        deployment.web3.eth.call({"to": harness.address, "data": bytes(data)})
