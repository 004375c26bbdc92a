"""EIP-712 types: equal to eth_account's encoding, and strict about their fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from galaxylearning.errors import MessageRefused
from galaxylearning.messages import typed
from galaxylearning.messages.typed import Domain, TypedMessage
from galaxylearning.units import ZERO_DIGEST, Address, Digest

CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
OWNER = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
JOBS = Domain("GalaxyJobs", "1", 31337, CONTRACT)
REGISTRY = Domain("GalaxyRegistry", "1", 31337, CONTRACT)


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


EXAMPLES: list[TypedMessage] = [
    typed.DatasetRegistration(OWNER, d(1), d(2)),
    typed.DatasetRevocation(OWNER, d(3)),
    typed.Enrolment(7, d(1), OWNER, d(2), d(3), ZERO_DIGEST),
    typed.Update(7, 2**32 - 1, d(1), OWNER, d(2), d(3)),
    typed.CohortAnchor(7, d(1), 12, d(2)),
    typed.RoundOpening(7, 3, d(1), d(2)),
    typed.RoundAnchor(7, 3, d(1), 12, d(2), d(3)),
    typed.MaskedAnswer(7, 3, 1, d(1), d(2)),
    typed.AnswerSet(7, 3, 2, d(1), d(2)),
    typed.Settlement(7, d(1), 2**127 + 5, 11, d(2), 0b101),
    typed.Credential(d(1), d(2), OWNER, 2**64 - 1),
    typed.Presence(7, 3, OWNER, 1, 2**63),
]


def domain_of(message: TypedMessage) -> Domain:
    return REGISTRY if message.domain_name == "GalaxyRegistry" else JOBS


def reference_digest(message: TypedMessage, domain: Domain) -> bytes:
    """The same digest by eth_account, from the type string alone."""
    signable = encode_typed_data(
        domain_data={
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        message_types={
            type(message).__name__: [{"name": name, "type": kind} for kind, name in message.abi_fields()]
        },
        message_data=dict(zip([name for _, name in message.abi_fields()], message.abi_tuple(), strict=True)),
    )
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def test_there_is_an_example_of_every_type() -> None:
    assert [type(example) for example in EXAMPLES] == list(typed.TYPED_MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_digest_equals_that_of_eth_account(message: TypedMessage) -> None:
    domain = domain_of(message)
    assert message.digest(domain) == reference_digest(message, domain)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_field_and_every_part_of_the_domain_changes_the_digest(message: TypedMessage) -> None:
    domain = domain_of(message)
    digests = {message.digest(domain)}
    for name, (kind, _) in zip(message.field_names(), message.abi_fields(), strict=True):
        other: Any = {"address": CONTRACT, "bytes32": d(9)}.get(kind, 4)
        values = {n: getattr(message, n) for n in message.field_names()} | {name: other}
        digests.add(type(message)(**values).digest(domain))
    digests.add(message.digest(Domain(domain.name, "1", 1, CONTRACT)))
    digests.add(message.digest(Domain(domain.name, "1", 31337, OWNER)))
    assert len(digests) == 1 + len(message.field_names()) + 2


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_python_names_are_the_fields_in_solidity_order(message: TypedMessage) -> None:
    assert tuple(field.name for field in fields(message)) == message.field_names()  # type: ignore[arg-type]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_from_a_decoded_struct(message: TypedMessage) -> None:
    names = [name for _, name in message.abi_fields()]
    struct = dict(zip(names, message.abi_tuple(), strict=True))
    assert type(message).from_abi(struct) == message
    with pytest.raises(MessageRefused, match="exactly"):
        type(message).from_abi(struct | {"extra": 1})
    del struct[names[0]]
    with pytest.raises(MessageRefused, match="exactly"):
        type(message).from_abi(struct)


BAD_VALUES: dict[str, list[Any]] = {
    "address": [OWNER.lower(), "0x" + "00" * 20, OWNER[2:], OWNER + "0", b"\1" * 20, 5, None],
    "bytes32": [b"", bytes(31), bytes(33), "00" * 32, 0, None, bytearray(32)],
    "uint": [-1, 2**256, True, 1.0, "1", None],
}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_field_of_the_wrong_form_is_refused_by_name(message: TypedMessage) -> None:
    for name, (kind, _) in zip(message.field_names(), message.abi_fields(), strict=True):
        for bad in BAD_VALUES["uint" if kind.startswith("uint") else kind]:
            values = {n: getattr(message, n) for n in message.field_names()} | {name: bad}
            with pytest.raises(MessageRefused, match=name):
                type(message)(**values)


def test_narrow_integers_have_their_own_bounds() -> None:
    assert typed.CohortAnchor(1, d(1), 2**32 - 1, d(1)).size == 2**32 - 1
    with pytest.raises(MessageRefused, match="2\\^32-1"):
        typed.CohortAnchor(1, d(1), 2**32, d(1))
    with pytest.raises(MessageRefused, match="2\\^64-1"):
        typed.Credential(d(1), d(2), OWNER, 2**64)


def test_a_message_is_not_signed_for_the_other_contract() -> None:
    with pytest.raises(ValueError, match="GalaxyRegistry"):
        typed.DatasetRevocation(OWNER, d(1)).digest(JOBS)


@pytest.mark.parametrize(
    ("name", "version", "chain_id", "contract"),
    [
        ("Galaxy", "1", 1, CONTRACT),
        ("GalaxyJobs", "2", 1, CONTRACT),
        ("GalaxyJobs", "1", -1, CONTRACT),
        ("GalaxyJobs", "1", True, CONTRACT),
        ("GalaxyJobs", "1", 1, CONTRACT.lower()),
    ],
)
def test_a_domain_names_a_galaxy_contract(name: str, version: str, chain_id: int, contract: Any) -> None:
    with pytest.raises(MessageRefused, match="domain"):
        Domain(name, version, chain_id, contract)


def test_checksums_are_those_of_eip_55() -> None:
    for seed in range(40):
        address = Address(str(to_checksum_address(keccak(bytes([seed]))[:20])))
        assert typed.DatasetRevocation(address, d(1)).data_owner == address
        with pytest.raises(MessageRefused, match="checksummed"):
            typed.DatasetRevocation(Address(address.swapcase().replace("0X", "0x")), d(1))


def test_derived_hashes_are_those_of_abi_encode() -> None:
    registration = typed.DatasetRegistration(OWNER, d(1), d(2))
    assert registration.dataset_id() == keccak(encode(["address", "bytes32"], [OWNER, d(1)]))
    head = typed.direct_head_after(d(4), registration)
    assert head == keccak(encode(["bytes32", "bytes32"], [d(4), registration.struct_hash()]))
    commitment = typed.score_commitment(
        chain_id=31337, contract=CONTRACT, job_id=7, evaluator=OWNER, scores_digest=d(5), salt=bytes(d(6))
    )
    kinds = ["uint256", "address", "uint256", "address", "bytes32", "bytes32"]
    assert commitment == keccak(encode(kinds, [31337, CONTRACT, 7, OWNER, d(5), d(6)]))
    with pytest.raises(MessageRefused, match="salt"):
        typed.score_commitment(
            chain_id=1, contract=CONTRACT, job_id=7, evaluator=OWNER, scores_digest=d(5), salt=b"short"
        )
    with pytest.raises(MessageRefused, match="direct_head"):
        typed.direct_head_after(Digest(b""), registration)
