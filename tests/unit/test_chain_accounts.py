"""Signers and deployments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from eth_account import Account
from ethereum_rlp import rlp
from ethereum_types.numeric import Uint

from galaxylearning.chain.deployment import Deployment, created_address
from galaxylearning.chain.evm import KeySigner
from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.sign import recover_signer
from galaxylearning.errors import ConfigRefused, KeyUnavailable
from galaxylearning.units import Address

KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
FAUCET = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
A, B, C = (Address(created_address(FAUCET, n)) for n in range(3))
TRANSACTION = {
    "type": 2, "chainId": 31337, "nonce": 0, "gas": 21_000, "maxFeePerGas": 2 * 10**9,
    "maxPriorityFeePerGas": 10**9, "value": 5, "to": A, "data": "0x0102",
}  # fmt: skip


def test_transactions_are_signed_as_eth_account_signs_them() -> None:
    signer, theirs = KeySigner(KEY), Account.from_key(KEY)
    assert signer.address == theirs.address == FAUCET
    for changed in (
        {},
        {"nonce": 2**63, "value": 0},
        {"data": "0x"},
        {"data": b"\0" * 300},
        {"to": B.lower()},
    ):
        transaction: dict[str, Any] = {**TRANSACTION, **changed}
        checksummed = {**transaction, "to": A if transaction["to"] == A else B}
        assert signer.sign_transaction(transaction) == bytes(
            theirs.sign_transaction(checksummed).raw_transaction
        )
    creation = {name: value for name, value in TRANSACTION.items() if name != "to"}
    assert signer.sign_transaction(creation) == bytes(theirs.sign_transaction(creation).raw_transaction)


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": -1},
        {"nonce": True},
        {"gas": "0x5208"},
        {"value": 2**256},
        {"value": None},
        {"to": "0x12"},
        {"to": 5},
        {"data": "0x123"},
        {"data": "zz"},
        {"type": 0},
        {"accessList": [{}]},
        {"gasPrice": 1},
        {"from": FAUCET},
    ],
)
def test_transactions_that_make_no_sense_are_not_signed(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        KeySigner(KEY).sign_transaction({**TRANSACTION, **changed})


def test_digests_are_signed_so_that_the_signer_is_found_again() -> None:
    digest = keccak(b"something")
    signature = KeySigner(KEY).sign_digest(digest)
    assert len(signature) == 65
    assert signature[64] in (27, 28)
    assert recover_signer(digest, signature) == FAUCET
    with pytest.raises(ValueError, match="32 bytes"):
        KeySigner(KEY).sign_digest(digest[:-1])


@pytest.mark.parametrize("key", [b"", b"\1" * 31, b"\1" * 33, bytes(32), ORDER.to_bytes(32), b"\xff" * 32])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(KeyUnavailable, match="32 bytes"):
        KeySigner(key)


def test_a_signer_does_not_show_its_key() -> None:
    assert KEY.hex() not in repr(KeySigner(KEY))
    assert FAUCET in repr(KeySigner(KEY))


def test_created_addresses_are_the_known_ones() -> None:
    """The first three contracts of a published account, and the first one of every development node."""
    known = "0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"
    assert [created_address(known, nonce).lower() for nonce in range(3)] == [
        "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d",
        "0x343c43a37d37dff08ae8c4a11544c718abb4fcf8",
        "0xf778b86fa74e846c4f0a1fbd1335fe81c00a0c91",
    ]
    assert A == "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    for nonce in (0, 1, 127, 128, 255, 256, 65_535, 2**40):
        encoded = rlp.encode((bytes.fromhex(known[2:]), Uint(nonce)))
        assert created_address(known, nonce).lower() == "0x" + keccak(bytes(encoded))[12:].hex()


def test_a_deployment_survives_json() -> None:
    deployment = Deployment(31337, A, B, C, 7)
    assert Deployment.from_json(deployment.to_json()) == deployment
    assert (
        deployment.address_of("token"),
        deployment.address_of("registry"),
        deployment.address_of("jobs"),
    ) == (A, B, C)


FIELDS: dict[str, Any] = {"chain_id": 31337, "token": A, "registry": B, "jobs": C, "block_number": 7}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        json.dumps({**FIELDS, "surprise": 1}),
        json.dumps({name: value for name, value in FIELDS.items() if name != "jobs"}),
        *(
            json.dumps({**FIELDS, name: value})
            for name, value in [
                ("chain_id", 0),
                ("chain_id", True),
                ("chain_id", "31337"),
                ("chain_id", 1 << 63),
                ("block_number", -1),
                ("block_number", 1.5),
                ("token", None),
                ("token", A.lower()),
                ("token", A[:-1]),
                ("jobs", B),
            ]
        ),
    ],
)
def test_what_is_no_deployment_is_refused(text: str) -> None:
    with pytest.raises(ConfigRefused, match="deployment"):
        Deployment.from_json(text)
