"""Records on the wire: signed statements, lists, updates and releases; the tables come from ``tables``.

A record proves nothing by arriving: ``verify`` checks who signed it, for which chain and contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

import msgspec

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.sign import recover_signer
from galaxylearning.errors import MessageRefused
from galaxylearning.messages import typed
from galaxylearning.messages.fields import check_address, check_bytes, check_strictly_ascending, parse_amount
from galaxylearning.messages.tables import (
    OwnerScore,
    OwnerTotal,
    PayoutRow,
    PayoutTable,
    RoundScores,
    ScoreTable,
    ShownShare,
    table_bytes,
)
from galaxylearning.messages.wire import (
    MAX_LIST_BYTES,
    MAX_SIGNED_BYTES,
    MAX_TABLE_BYTES,
    Bytes32,
    Count,
    JobNumber,
    Record,
    Signature,
    Uint32,
    decode,
    encode,
    record_digest,
)
from galaxylearning.units import ZERO_DIGEST, Address, Digest

__all__ = [
    "ACTIVITIES",
    "LOCKED_OUT",
    "MAX_LIST_BYTES",
    "MAX_SIGNED_BYTES",
    "MAX_TABLE_BYTES",
    "SEALING_KEY_BYTES",
    "AnswerBody",
    "CohortList",
    "CredentialRecord",
    "MaskedBody",
    "ModelRelease",
    "OwnerScore",
    "OwnerTotal",
    "PayoutRow",
    "PayoutTable",
    "Record",
    "RoundList",
    "RoundScores",
    "ScoreTable",
    "ShownShare",
    "SignedAnswer",
    "SignedAnswerSet",
    "SignedCohortAnchor",
    "SignedEnrolment",
    "SignedOpening",
    "SignedPresence",
    "SignedRecord",
    "SignedRegistration",
    "SignedRevocation",
    "SignedRoundAnchor",
    "SignedSettlement",
    "SignedUpdate",
    "Signers",
    "UpdateBody",
    "answers_root",
    "credential_digest",
    "decode",
    "encode",
    "record_digest",
    "recover_issuer",
    "table_bytes",
    "verify",
]

SEALING_KEY_BYTES: Final = 1216
LOCKED_OUT: Final = "locked out"
ACTIVITIES: Final = ("waiting", "training", "sending", "opening", "scoring", LOCKED_OUT)
"""What a presence may say that somebody is doing; ``LOCKED_OUT``: no parcel of the round opens for it."""


class SignedRecord(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A typed message, who says to have signed it, and the signature; fields of the message lie flat."""

    message_type: ClassVar[type[typed.TypedMessage]]
    signer_field: ClassVar[str] = "evaluator"

    signature: Signature

    @property
    def message(self) -> Any:
        """The typed message that was signed."""
        return self.message_type(*(getattr(self, name) for name in self.message_type.field_names()))

    @property
    def signer(self) -> Address:
        """The account that claims to have signed."""
        return Address(getattr(self, self.signer_field))

    @classmethod
    def from_message(cls, message: typed.TypedMessage, **rest: Any) -> Self:
        """The record of a typed message; ``rest`` gives the fields that are not the message's own."""
        values = {name: getattr(message, name) for name in message.field_names()}
        return cls(**values, **rest)

    def check(self) -> None:
        check_address(self.signer, self.path(self.signer_field))


class CredentialRecord(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="credential"):
    """A credential with its issuer's signature; the issuer is whoever the signature says."""

    message_type = typed.Credential
    signer_field = "data_owner"

    scope: Bytes32
    subject: Bytes32
    data_owner: str
    expires_at: Count


class SignedRegistration(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="registration"):
    """A data owner registers a data set; anybody may relay it to the registry."""

    message_type = typed.DatasetRegistration
    signer_field = "data_owner"

    data_owner: str
    commitment: Bytes32
    schema_digest: Bytes32


class SignedRevocation(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="revocation"):
    """A data owner withdraws a data set; anybody may relay it to the registry."""

    message_type = typed.DatasetRevocation
    signer_field = "data_owner"

    data_owner: str
    dataset_id: Bytes32


class SignedEnrolment(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="enrolment"):
    """A data owner's enrolment, with the sealing key and credential whose digests it binds."""

    message_type = typed.Enrolment
    signer_field = "data_owner"

    job_id: JobNumber
    terms_digest: Bytes32
    data_owner: str
    dataset_id: Bytes32
    sealing_key_digest: Bytes32
    credential_digest: Bytes32
    sealing_key: bytes
    credential: CredentialRecord | None

    def check(self) -> None:
        super().check()
        check_bytes(self.sealing_key, "SignedEnrolment.sealing_key", SEALING_KEY_BYTES)
        if blake3_digest(self.sealing_key) != self.sealing_key_digest:
            raise MessageRefused(
                "not the digest of the sealing key", where="SignedEnrolment.sealing_key_digest"
            )
        if credential_digest(self.credential) != self.credential_digest:
            raise MessageRefused(
                "not the digest of the credential", where="SignedEnrolment.credential_digest"
            )
        if self.credential is not None and self.credential.data_owner != self.data_owner:
            raise MessageRefused("another data owner's credential", where="SignedEnrolment.credential")


class SignedUpdate(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="update"):
    """A data owner's statement of the update it made in a round."""

    message_type = typed.Update
    signer_field = "data_owner"

    job_id: JobNumber
    round_index: Uint32
    terms_digest: Bytes32
    data_owner: str
    model_digest: Bytes32
    update_digest: Bytes32


class SignedOpening(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="opening"):
    """An evaluator's statement of a round's model and of the parcel that carries it."""

    message_type = typed.RoundOpening

    job_id: JobNumber
    round_index: Uint32
    model_digest: Bytes32
    parcel_digest: Bytes32
    evaluator: str


class SignedCohortAnchor(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="cohort-anchor"):
    """An evaluator's vote for a cohort."""

    message_type = typed.CohortAnchor

    job_id: JobNumber
    root: Bytes32
    size: Uint32
    direct_head: Bytes32
    evaluator: str


class SignedRoundAnchor(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="round-anchor"):
    """An evaluator's vote for a round's accepted updates and resulting model."""

    message_type = typed.RoundAnchor

    job_id: JobNumber
    round_index: Uint32
    root: Bytes32
    count: Uint32
    direct_head: Bytes32
    model_digest: Bytes32
    evaluator: str


class SignedAnswer(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="masked-answer"):
    """An evaluator's statement of its answer to one phase's questions of a masked round."""

    message_type = typed.MaskedAnswer

    job_id: JobNumber
    round_index: Uint32
    phase: Uint32
    questions_digest: Bytes32
    answer_digest: Bytes32
    evaluator: str


class SignedAnswerSet(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="answer-set"):
    """An evaluator's vote for the answers a phase is opened of: digests of ``SignedAnswer``, ascending."""

    message_type = typed.AnswerSet

    job_id: JobNumber
    round_index: Uint32
    phase: Uint32
    questions_digest: Bytes32
    answers_root: Bytes32
    answers: Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=15)]
    evaluator: str

    def check(self) -> None:
        super().check()
        check_strictly_ascending(list(self.answers), "SignedAnswerSet.answers")
        if answers_root(self.answers) != self.answers_root:
            raise MessageRefused("not the root of the answers", where="SignedAnswerSet.answers_root")


class SignedSettlement(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="settlement"):
    """An evaluator's vote for the payouts; ``total`` is a decimal string in the token's smallest unit."""

    message_type = typed.Settlement

    job_id: JobNumber
    payout_root: Bytes32
    total: str
    payees: Uint32
    model_digest: Bytes32
    faulty_seats: Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]
    evaluator: str

    def check(self) -> None:
        super().check()
        parse_amount(self.total, "SignedSettlement.total")

    @property
    def message(self) -> typed.Settlement:
        """The typed message that was signed."""
        return typed.Settlement(
            job_id=self.job_id,
            payout_root=Digest(self.payout_root),
            total=parse_amount(self.total, "SignedSettlement.total"),
            payees=self.payees,
            model_digest=Digest(self.model_digest),
            faulty_seats=self.faulty_seats,
        )

    @classmethod
    def from_message(cls, message: typed.TypedMessage, **rest: Any) -> Self:
        """The record of a ``typed.Settlement``; ``rest`` is ``evaluator`` and ``signature``."""
        values = {name: getattr(message, name) for name in message.field_names()}
        return cls(**{**values, "total": str(values["total"])}, **rest)


class SignedPresence(SignedRecord, frozen=True, forbid_unknown_fields=True, tag="presence"):
    """Somebody says that it is alive and what it is doing; a hint for who waits, never evidence."""

    message_type = typed.Presence
    signer_field = "account"

    job_id: JobNumber
    round_index: Uint32
    account: str
    activity: Annotated[int, msgspec.Meta(ge=0, lt=len(ACTIVITIES))]
    seen_at: Count


class CohortList(Record, frozen=True, forbid_unknown_fields=True, tag="cohort-list"):
    """What is under an anchored cohort root, ascending.

    ``enrolments`` are blob digests of the relayed ones, ``direct`` struct hashes of those made on chain.
    """

    job_id: JobNumber
    enrolments: tuple[Bytes32, ...]
    direct: tuple[Bytes32, ...] = ()

    def check(self) -> None:
        check_strictly_ascending(list(self.enrolments), "CohortList.enrolments")
        check_strictly_ascending(list(self.direct), "CohortList.direct")


class RoundList(Record, frozen=True, forbid_unknown_fields=True, tag="round-list"):
    """What is under an anchored round root, ascending.

    ``updates`` are blob digests of the relayed ones, ``direct`` struct hashes of those submitted on chain.
    """

    job_id: JobNumber
    round_index: Uint32
    updates: tuple[Bytes32, ...]
    direct: tuple[Bytes32, ...] = ()

    def check(self) -> None:
        check_strictly_ascending(list(self.updates), "RoundList.updates")
        check_strictly_ascending(list(self.direct), "RoundList.direct")


class UpdateBody(Record, frozen=True, forbid_unknown_fields=True, tag="update-body"):
    """All that leaves a data owner's machine in a round: the clipped, quantised update and buffer changes.

    No sample count, no loss: nothing a data owner could claim without proof.
    """

    job_id: JobNumber
    round_index: Uint32
    data_owner: str
    parameters: bytes
    buffers: bytes

    def check(self) -> None:
        check_address(self.data_owner, "UpdateBody.data_owner")


class MaskedBody(Record, frozen=True, forbid_unknown_fields=True, tag="masked-body"):
    """All that leaves a data owner's machine in a round of masked mode.

    ``masked`` is the update under a one-time mask, readable by nobody. ``shares`` are envelopes with secret
    shares of the mask's seed, one sealed to each evaluator, in the order of the terms.
    """

    job_id: JobNumber
    round_index: Uint32
    data_owner: str
    masked: bytes
    shares: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=15)]

    def check(self) -> None:
        check_address(self.data_owner, "MaskedBody.data_owner")


class AnswerBody(Record, frozen=True, forbid_unknown_fields=True, tag="answer-body"):
    """What an evaluator answers in one phase of a masked round, packed; sealed to the evaluators."""

    job_id: JobNumber
    round_index: Uint32
    phase: Uint32
    evaluator: str
    words: bytes

    def check(self) -> None:
        check_address(self.evaluator, "AnswerBody.evaluator")


class ModelRelease(Record, frozen=True, forbid_unknown_fields=True, tag="model-release"):
    """Where the requester finds the trained model after settlement, sealed to the requester.

    Not signed: the model inside must have the digest that the settlement fixed on chain.
    """

    job_id: JobNumber
    model_digest: Bytes32
    sealed: Bytes32
    evaluator: str

    def check(self) -> None:
        check_address(self.evaluator, "ModelRelease.evaluator")


def answers_root(answers: Sequence[bytes]) -> Digest:
    """What an answer set binds: BLAKE3 of the answers' digests, one after the other."""
    return blake3_digest(b"".join(answers))


def credential_digest(credential: CredentialRecord | None) -> Digest:
    """What an enrolment binds: BLAKE3 of the encoded credential, 32 zero bytes when there is none."""
    return ZERO_DIGEST if credential is None else blake3_digest(encode(credential))


Signers: TypeAlias = dict[Digest, Address]
"""Who signed records of one domain, by record: for those who look at the same ones again and again."""


def verify(record: SignedRecord, domain: typed.Domain, known: Signers | None = None) -> Address:
    """The signer, who is the account the record names; what is ``known`` is not worked out again.

    Raises:
        MessageRefused: signed by somebody else, for another chain, contract or content, or not a signature.
    """
    signer = _signer(record, domain, known)
    if signer != record.signer:
        raise MessageRefused(f"signed by {signer}, not by {record.signer}", where=record.path("signature"))
    return signer


def recover_issuer(
    credential: CredentialRecord, domain: typed.Domain, known: Signers | None = None
) -> Address:
    """Who signed a credential; whether that issuer is trusted is a question of the terms.

    Raises:
        MessageRefused: not a signature.
    """
    return _signer(credential, domain, known)


def _signer(record: SignedRecord, domain: typed.Domain, known: Signers | None) -> Address:
    if known is None:
        return recover_signer(record.message.digest(domain), record.signature)
    name = record_digest(record)
    if name not in known:
        known[name] = _signer(record, domain, None)
    return known[name]
