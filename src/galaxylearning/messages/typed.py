"""EIP-712 messages: what data owners and evaluators sign and the contracts check.

One frozen dataclass per type; field order is the Solidity order. Knows nothing of keys, chains or clocks:
a digest is made for a ``Domain``, which names chain and contract, so a signature is good nowhere else.

Source: EIP-712.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final, Self

from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import MessageRefused
from galaxylearning.messages.fields import check_address, check_bytes, check_uint
from galaxylearning.units import Address, Digest

REGISTRY_DOMAIN: Final = "GalaxyRegistry"
JOBS_DOMAIN: Final = "GalaxyJobs"

_DOMAIN_TYPE: Final = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


def _word(kind: str, value: Any) -> bytes:
    """One value as its 32-byte ABI word; every type used here is static."""
    if kind == "address":
        return bytes(12) + bytes.fromhex(value[2:])
    if kind == "bytes32":
        return bytes(value)
    return int(value).to_bytes(32, "big")


def _checked(kind: str, value: Any, field: str) -> Any:
    if kind == "address":
        return check_address(value, field)
    if kind == "bytes32":
        return check_bytes(value, field, 32)
    return check_uint(value, field, int(kind.removeprefix("uint")))


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature is valid: one contract on one chain."""

    name: str
    version: str
    chain_id: int
    contract: Address

    def __post_init__(self) -> None:
        if self.name not in (REGISTRY_DOMAIN, JOBS_DOMAIN):
            raise MessageRefused(
                f"{self.name!r}; {REGISTRY_DOMAIN} or {JOBS_DOMAIN} allowed", where="domain.name"
            )
        if self.version != "1":
            raise MessageRefused(f"{self.version!r}; '1' allowed", where="domain.version")
        check_uint(self.chain_id, "domain.chain_id", 256)
        check_address(self.contract, "domain.contract")

    def separator(self) -> bytes:
        """The 32-byte domain separator."""
        return _separator(self)


@lru_cache(maxsize=256)
def _separator(domain: Domain) -> bytes:
    return keccak(
        keccak(_DOMAIN_TYPE.encode())
        + keccak(domain.name.encode())
        + keccak(domain.version.encode())
        + _word("uint256", domain.chain_id)
        + _word("address", domain.contract)
    )


@lru_cache(maxsize=64)
def _type_hash(type_string: str) -> bytes:
    return keccak(type_string.encode())


class TypedMessage:
    """Base of the EIP-712 messages; every field is checked when one is made (MessageRefused)."""

    __slots__ = ()

    type_string: ClassVar[str]
    """The EIP-712 ``encodeType``; the dataclass fields follow its order."""

    domain_name: ClassVar[str]
    """Name of the contract whose domain the message is signed under."""

    def __post_init__(self) -> None:
        for name, (kind, _) in zip(self.field_names(), self.abi_fields(), strict=True):
            _checked(kind, getattr(self, name), f"{type(self).__name__}.{name}")

    @classmethod
    def abi_fields(cls) -> tuple[tuple[str, str], ...]:
        """Solidity type and name of every field, in order."""
        return _abi_fields(cls.type_string)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Python names of the fields, in order."""
        return _field_names(cls.type_string)

    @classmethod
    def from_abi(cls, values: Mapping[str, Any]) -> Self:
        """The message from a decoded struct, keyed by Solidity names as events and views give it.

        Raises:
            MessageRefused: a field is missing, unknown or out of range.
        """
        wanted = [name for _, name in cls.abi_fields()]
        if set(values) != set(wanted):
            raise MessageRefused(
                f"fields {sorted(str(name)[:40] for name in values)[:20]}; exactly {wanted} allowed",
                where=cls.__name__,
            )
        return cls(*(values[name] for name in wanted))

    def abi_tuple(self) -> tuple[Any, ...]:
        """The values in Solidity order, as a contract call takes the struct."""
        return tuple(getattr(self, name) for name in self.field_names())

    def struct_hash(self) -> bytes:
        """``hashStruct``: keccak of the type hash and the encoded fields, 32 bytes."""
        return _struct_hash(self)

    def digest(self, domain: Domain) -> bytes:
        """The 32 bytes that are signed.

        Raises:
            ValueError: ``domain`` is another contract's than the one this type is for.
        """
        if domain.name != self.domain_name:
            raise ValueError(f"{type(self).__name__} is signed for {self.domain_name}, not for {domain.name}")
        return keccak(b"\x19\x01" + domain.separator() + self.struct_hash())


@lru_cache(maxsize=64)
def _abi_fields(type_string: str) -> tuple[tuple[str, str], ...]:
    inner = type_string[type_string.index("(") + 1 : -1]
    pairs = [part.split(" ") for part in inner.split(",")]
    return tuple((kind, name) for kind, name in pairs)


@lru_cache(maxsize=64)
def _field_names(type_string: str) -> tuple[str, ...]:
    return tuple(re.sub("[A-Z]", lambda m: "_" + m[0].lower(), name) for _, name in _abi_fields(type_string))


@lru_cache(maxsize=1 << 11)
def _struct_hash(message: TypedMessage) -> bytes:
    """Nodes look at the same records again and again."""
    words = [_type_hash(message.type_string)]
    words += [
        _word(kind, getattr(message, name))
        for (kind, _), name in zip(message.abi_fields(), message.field_names(), strict=True)
    ]
    return keccak(b"".join(words))


@dataclass(frozen=True, slots=True)
class DatasetRegistration(TypedMessage):
    """A data owner registers a salted commitment to a data set."""

    type_string = "DatasetRegistration(address dataOwner,bytes32 commitment,bytes32 schemaDigest)"
    domain_name = REGISTRY_DOMAIN

    data_owner: Address
    commitment: Digest
    schema_digest: Digest

    def dataset_id(self) -> Digest:
        """The id the registry gives it: keccak(abi.encode(dataOwner, commitment))."""
        return Digest(keccak(_word("address", self.data_owner) + self.commitment))


@dataclass(frozen=True, slots=True)
class DatasetRevocation(TypedMessage):
    """A data owner withdraws consent for a data set, for good."""

    type_string = "DatasetRevocation(address dataOwner,bytes32 datasetId)"
    domain_name = REGISTRY_DOMAIN

    data_owner: Address
    dataset_id: Digest


@dataclass(frozen=True, slots=True)
class Enrolment(TypedMessage):
    """A data owner joins a job with one data set and one sealing key, under exactly these terms."""

    type_string = (
        "Enrolment(uint256 jobId,bytes32 termsDigest,address dataOwner,bytes32 datasetId,"
        "bytes32 sealingKeyDigest,bytes32 credentialDigest)"
    )
    domain_name = JOBS_DOMAIN

    job_id: int
    terms_digest: Digest
    data_owner: Address
    dataset_id: Digest
    sealing_key_digest: Digest
    credential_digest: Digest


@dataclass(frozen=True, slots=True)
class Update(TypedMessage):
    """A data owner's update of one round: which model it was trained from and the sealed blob's digest."""

    type_string = (
        "Update(uint256 jobId,uint32 roundIndex,bytes32 termsDigest,address dataOwner,"
        "bytes32 modelDigest,bytes32 updateDigest)"
    )
    domain_name = JOBS_DOMAIN

    job_id: int
    round_index: int
    terms_digest: Digest
    data_owner: Address
    model_digest: Digest
    update_digest: Digest


@dataclass(frozen=True, slots=True)
class CohortAnchor(TypedMessage):
    """The evaluators fix the cohort: root of the relayed enrolments, head of the direct ones, size of all."""

    type_string = "CohortAnchor(uint256 jobId,bytes32 root,uint32 size,bytes32 directHead)"
    domain_name = JOBS_DOMAIN

    job_id: int
    root: Digest
    size: int
    direct_head: Digest


@dataclass(frozen=True, slots=True)
class RoundOpening(TypedMessage):
    """The evaluators open a round: digests of the model and of its sealed parcel. Off chain only."""

    type_string = "RoundOpening(uint256 jobId,uint32 roundIndex,bytes32 modelDigest,bytes32 parcelDigest)"
    domain_name = JOBS_DOMAIN

    job_id: int
    round_index: int
    model_digest: Digest
    parcel_digest: Digest


@dataclass(frozen=True, slots=True)
class RoundAnchor(TypedMessage):
    """The evaluators fix a round's accepted updates; ``model_digest`` is the model they were trained from."""

    type_string = (
        "RoundAnchor(uint256 jobId,uint32 roundIndex,bytes32 root,uint32 count,bytes32 directHead,"
        "bytes32 modelDigest)"
    )
    domain_name = JOBS_DOMAIN

    job_id: int
    round_index: int
    root: Digest
    count: int
    direct_head: Digest
    model_digest: Digest


@dataclass(frozen=True, slots=True)
class MaskedAnswer(TypedMessage):
    """An evaluator's answer to a phase of a masked round: the sealed blob's digest. Off chain only.

    ``phase`` is a ``secagg`` phase as a number; ``questions_digest`` is what was answered.
    """

    type_string = (
        "MaskedAnswer(uint256 jobId,uint32 roundIndex,uint32 phase,bytes32 questionsDigest,"
        "bytes32 answerDigest)"
    )
    domain_name = JOBS_DOMAIN

    job_id: int
    round_index: int
    phase: int
    questions_digest: Digest
    answer_digest: Digest


@dataclass(frozen=True, slots=True)
class AnswerSet(TypedMessage):
    """The evaluators fix of which answers a phase is opened, so that all open the same. Off chain only."""

    type_string = (
        "AnswerSet(uint256 jobId,uint32 roundIndex,uint32 phase,bytes32 questionsDigest,bytes32 answersRoot)"
    )
    domain_name = JOBS_DOMAIN

    job_id: int
    round_index: int
    phase: int
    questions_digest: Digest
    answers_root: Digest


@dataclass(frozen=True, slots=True)
class Settlement(TypedMessage):
    """The evaluators attest the payouts; ``faulty_seats`` is a bitmap over the evaluators of the job."""

    type_string = (
        "Settlement(uint256 jobId,bytes32 payoutRoot,uint256 total,uint32 payees,bytes32 modelDigest,"
        "uint256 faultySeats)"
    )
    domain_name = JOBS_DOMAIN

    job_id: int
    payout_root: Digest
    total: int
    payees: int
    model_digest: Digest
    faulty_seats: int


@dataclass(frozen=True, slots=True)
class Credential(TypedMessage):
    """An issuer vouches for an organisation's account within a scope, until a Unix time. Off chain only.

    ``subject`` is the issuer's pseudonym of the organisation: the same for all its accounts, another for
    every other organisation. An issuer salts it, so that it says nothing about whose it is.
    """

    type_string = "Credential(bytes32 scope,bytes32 subject,address dataOwner,uint64 expiresAt)"
    domain_name = JOBS_DOMAIN

    scope: Digest
    subject: Digest
    data_owner: Address
    expires_at: int


@dataclass(frozen=True, slots=True)
class Presence(TypedMessage):
    """A data owner or evaluator says that it is alive and what it is doing. Off chain only.

    ``activity`` is a number of ``records.ACTIVITIES``; ``seen_at`` is chain time in Unix seconds.
    """

    type_string = "Presence(uint256 jobId,uint32 roundIndex,address account,uint32 activity,uint64 seenAt)"
    domain_name = JOBS_DOMAIN

    job_id: int
    round_index: int
    account: Address
    activity: int
    seen_at: int


TYPED_MESSAGES: Final[tuple[type[TypedMessage], ...]] = (
    DatasetRegistration,
    DatasetRevocation,
    Enrolment,
    Update,
    CohortAnchor,
    RoundOpening,
    RoundAnchor,
    MaskedAnswer,
    AnswerSet,
    Settlement,
    Credential,
    Presence,
)
"""Every type, for tests that compare them with the chain."""


def direct_head_after(head: Digest, message: TypedMessage) -> Digest:
    """The contract's running head of direct entries: keccak(abi.encode(head, structHash))."""
    return Digest(keccak(check_bytes(head, "direct_head", 32) + message.struct_hash()))


def score_commitment(
    *, chain_id: int, contract: Address, job_id: int, evaluator: Address, scores_digest: Digest, salt: bytes
) -> Digest:
    """What an evaluator commits before revealing: keccak over where, who, the digest and a salt.

    Raises:
        MessageRefused: a field of the wrong form.
    """
    parts = (
        ("uint256", chain_id, "chain_id"),
        ("address", contract, "contract"),
        ("uint256", job_id, "job_id"),
        ("address", evaluator, "evaluator"),
        ("bytes32", scores_digest, "scores_digest"),
        ("bytes32", salt, "salt"),
    )
    return Digest(keccak(b"".join(_word(kind, _checked(kind, value, field)) for kind, value, field in parts)))
