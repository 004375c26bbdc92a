"""Who takes part: the cohort of a job and the accepted updates of a round, derived alike by everybody.

Both follow from the relayed records, the direct entries on chain, and the chain's facts; never from the order
in which anything arrived. What is left out is left out with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.merkle import digest_tree_root
from galaxylearning.crypto.seal import is_public_key
from galaxylearning.errors import MessageRefused
from galaxylearning.messages import typed
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.records import (
    SEALING_KEY_BYTES,
    CredentialRecord,
    SignedEnrolment,
    SignedUpdate,
    Signers,
    credential_digest,
    record_digest,
    verify,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.admission import Organisation, admission_refusal, organisation_of
from galaxylearning.units import Address, Digest

EQUIVOCATION: Final = "equivocation"
COHORT_FULL: Final = "the cohort is full"
UNUSABLE_KEY: Final = "nothing can be sealed to the sealing key"
SAME_SUBJECT: Final = "the issuer says that it is an organisation that already takes part"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An entry that was left out. ``record`` is the blob's digest, None for an entry made on chain."""

    data_owner: Address
    record: Digest | None
    reason: str


@dataclass(frozen=True, slots=True)
class DirectEnrolment:
    """An enrolment made on chain, with the blobs it names where they were found."""

    enrolment: typed.Enrolment
    sealing_key: bytes | None
    credential: CredentialRecord | None = None


@dataclass(frozen=True, slots=True)
class CohortMember:
    """A data owner of the cohort. ``record`` is None where the enrolment was made on chain."""

    enrolment: typed.Enrolment
    sealing_key: bytes
    record: Digest | None

    @property
    def data_owner(self) -> Address:
        """The member's account."""
        return self.enrolment.data_owner


@dataclass(frozen=True, slots=True)
class Cohort:
    """The members by ascending address, the relayed records by ascending digest, and who was left out."""

    members: tuple[CohortMember, ...]
    relayed: tuple[Digest, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def direct(self) -> tuple[Digest, ...]:
        """Struct hashes of the enrolments made on chain that count, ascending."""
        return _direct(member.enrolment for member in self.members if member.record is None)

    @property
    def root(self) -> Digest:
        """What is anchored: the root over the relayed records and the direct entries that count."""
        return cohort_root((*self.relayed, *self.direct))

    @property
    def size(self) -> int:
        """How many members, relayed and direct."""
        return len(self.members)

    @property
    def data_owners(self) -> tuple[Address, ...]:
        """The members' accounts, ascending."""
        return tuple(member.data_owner for member in self.members)


@dataclass(frozen=True, slots=True)
class AcceptedUpdate:
    """An update that counts. ``record`` is None where it was submitted on chain."""

    update: typed.Update
    record: Digest | None

    @property
    def data_owner(self) -> Address:
        """Whose it is."""
        return self.update.data_owner


@dataclass(frozen=True, slots=True)
class AcceptedUpdates:
    """A round's updates by ascending address, the relayed records by digest, and what was left out."""

    updates: tuple[AcceptedUpdate, ...]
    relayed: tuple[Digest, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def direct(self) -> tuple[Digest, ...]:
        """Struct hashes of the updates submitted on chain that count, ascending."""
        return _direct(one.update for one in self.updates if one.record is None)

    @property
    def root(self) -> Digest:
        """What is anchored: the root over the relayed records and the direct entries that count."""
        return round_root((*self.relayed, *self.direct))

    @property
    def count(self) -> int:
        """How many updates, relayed and direct."""
        return len(self.updates)

    @property
    def by_data_owner(self) -> Mapping[Address, AcceptedUpdate]:
        """The updates by whose they are."""
        return {accepted.data_owner: accepted for accepted in self.updates}


def cohort_root(entries: Iterable[Digest]) -> Digest:
    """StandardMerkleTree root over blob digests of relayed enrolments and struct hashes of direct ones.

    The direct ones are part of it because an entry on chain counts only if the blobs it names were there: the
    quorum's signature fixes which were.
    """
    return Digest(digest_tree_root(sorted(entries)))


def round_root(entries: Iterable[Digest]) -> Digest:
    """StandardMerkleTree root over blob digests of relayed updates and struct hashes of direct ones."""
    return Digest(digest_tree_root(sorted(entries)))


def form_cohort(
    candidates: Iterable[SignedEnrolment],
    direct: Sequence[DirectEnrolment],
    *,
    terms: Terms,
    domain: typed.Domain,
    job_id: int,
    now: int,
    datasets: Mapping[Digest, Address],
    bonds: Collection[Address] = (),
    known: Signers | None = None,
) -> Cohort:
    """The cohort that everybody derives from these entries.

    An entry counts when it is signed by its data owner for this job and these terms, names a data set that is
    active and the data owner's, is admitted, and has a key that models can be sealed to. Two different
    enrolments by one account exclude both. Direct entries go first, in the chain's order; relayed ones follow
    by ascending digest. Where credentials admit, only the first of those that one issuer gave one subject
    counts; then as many as the terms' maximum.

    Args:
        candidates: decoded records; their order does not matter.
        direct: what the chain holds, oldest first; the contract has checked who made them.
        terms: of the job.
        domain: of GalaxyJobs.
        job_id: the job's number.
        now: chain time by which credentials are judged, Unix seconds; the same for everybody.
        datasets: active data sets of the registry and whose they are.
        bonds: identities whose bond is posted.
        known: who signed which records, as found out before; what is found out now is added.
    """
    entries: list[_Entry[CohortMember]] = []
    excluded: list[Exclusion] = []
    organisations: dict[Address, Organisation] = {}
    terms_digest = terms.digest

    def judge(member: CohortMember, credential: CredentialRecord | None) -> None:
        reason = _enrolment_refusal(
            member.enrolment,
            credential,
            terms=terms,
            terms_digest=terms_digest,
            domain=domain,
            job_id=job_id,
            now=now,
            datasets=datasets,
            bonds=bonds,
            known=known,
        )
        if reason is None and not is_public_key(member.sealing_key):
            reason = UNUSABLE_KEY
        if reason is None:
            entries.append(_Entry(member, member.enrolment.struct_hash()))
            if (organisation := organisation_of(terms, credential, domain, known)) is not None:
                organisations[member.data_owner] = organisation
        else:
            excluded.append(Exclusion(member.data_owner, member.record, reason))

    for entry in direct:
        member = _direct_member(entry)
        if isinstance(member, CohortMember):
            judge(member, entry.credential)
        else:
            excluded.append(member)
    for digest, record in _by_digest(candidates):
        if (reason := _signature_refusal(record, domain, known)) is not None:
            excluded.append(Exclusion(record.signer, digest, reason))
        else:
            judge(CohortMember(record.message, record.sealing_key, digest), record.credential)

    kept = _one_per_organisation(_one_per_data_owner(entries, excluded), organisations, excluded)
    kept, late = kept[: terms.plan.maximum_owners], kept[terms.plan.maximum_owners :]
    excluded += [Exclusion(member.data_owner, member.record, COHORT_FULL) for member in late]
    return Cohort(_by_address(kept), _relayed(kept), _ordered(excluded))


def accept_updates(
    candidates: Iterable[SignedUpdate],
    direct: Sequence[typed.Update],
    *,
    cohort: Collection[Address],
    domain: typed.Domain,
    job_id: int,
    round_index: int,
    terms_digest: Digest,
    model_digest: Digest,
    known: Signers | None = None,
) -> AcceptedUpdates:
    """The updates of a round that everybody derives from these entries.

    An update counts when it is signed by a member of the cohort for this job, round, terms and model. Two
    different updates by one data owner exclude both; the same one relayed and direct counts once, as direct.

    Args:
        candidates: decoded records; their order does not matter.
        direct: what the chain holds for the round, oldest first.
        cohort: accounts of the cohort.
        domain: of GalaxyJobs.
        job_id: the job's number.
        round_index: the round, from 0.
        terms_digest: of the job.
        model_digest: of the model the round trains from.
        known: as in ``form_cohort``.
    """
    members = frozenset(cohort)
    entries: list[_Entry[AcceptedUpdate]] = []
    excluded: list[Exclusion] = []

    def judge(update: typed.Update, digest: Digest | None) -> None:
        facts = (
            (update.job_id == job_id, "for another job"),
            (update.round_index == round_index, "for another round"),
            (update.terms_digest == terms_digest, "for other terms"),
            (update.data_owner in members, "not in the cohort"),
            (update.model_digest == model_digest, "trained from another model"),
        )
        for holds, reason in facts:
            if not holds:
                excluded.append(Exclusion(update.data_owner, digest, reason))
                return
        entries.append(_Entry(AcceptedUpdate(update, digest), update.struct_hash()))

    for update in direct:
        judge(update, None)
    for digest, record in _by_digest(candidates):
        if (reason := _signature_refusal(record, domain, known)) is not None:
            excluded.append(Exclusion(record.signer, digest, reason))
        else:
            judge(record.message, digest)
    kept = _one_per_data_owner(entries, excluded)
    return AcceptedUpdates(_by_address(kept), _relayed(kept), _ordered(excluded))


class _Entrant(Protocol):
    @property
    def data_owner(self) -> Address: ...

    @property
    def record(self) -> Digest | None: ...


_X = TypeVar("_X", bound=_Entrant)
_S = TypeVar("_S", SignedEnrolment, SignedUpdate)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[_X]):
    item: _X
    struct_hash: bytes


def _by_digest(candidates: Iterable[_S]) -> list[tuple[Digest, _S]]:
    """Each record once, by ascending digest."""
    return sorted({record_digest(record): record for record in candidates}.items())


def _signature_refusal(
    record: SignedEnrolment | SignedUpdate, domain: typed.Domain, known: Signers | None
) -> str | None:
    try:
        verify(record, domain, known)
    except MessageRefused as refused:
        return f"wrong signature: {refused}"
    return None


def _direct(messages: Iterable[typed.TypedMessage]) -> tuple[Digest, ...]:
    return tuple(sorted(Digest(message.struct_hash()) for message in messages))


def _direct_member(entry: DirectEnrolment) -> CohortMember | Exclusion:
    """The member, where the blobs are those that the enrolment on chain names."""
    key, enrolment = entry.sealing_key, entry.enrolment
    if key is None:
        return Exclusion(enrolment.data_owner, None, "the sealing key is missing")
    if len(key) != SEALING_KEY_BYTES or blake3_digest(key) != enrolment.sealing_key_digest:
        return Exclusion(enrolment.data_owner, None, "the sealing key is not the one enrolled")
    if credential_digest(entry.credential) != enrolment.credential_digest:
        return Exclusion(enrolment.data_owner, None, "the credential is missing or not the one enrolled")
    return CohortMember(enrolment, key, None)


def _enrolment_refusal(
    enrolment: typed.Enrolment,
    credential: CredentialRecord | None,
    *,
    terms: Terms,
    terms_digest: Digest,
    domain: typed.Domain,
    job_id: int,
    now: int,
    datasets: Mapping[Digest, Address],
    bonds: Collection[Address],
    known: Signers | None,
) -> str | None:
    if enrolment.job_id != job_id:
        return "for another job"
    if enrolment.terms_digest != terms_digest:
        return "for other terms"
    if enrolment.dataset_id not in datasets:
        return "the data set is not registered or was revoked"
    if datasets[enrolment.dataset_id] != enrolment.data_owner:
        return "the data set is another data owner's"
    return admission_refusal(
        terms, enrolment.data_owner, credential, domain=domain, now=now, bonds=bonds, known=known
    )


def _one_per_data_owner(entries: Sequence[_Entry[_X]], excluded: list[Exclusion]) -> list[_X]:
    """The first entry of each account; none of an account that said two different things."""
    said: dict[Address, set[bytes]] = {}
    for entry in entries:
        said.setdefault(entry.item.data_owner, set()).add(entry.struct_hash)
    kept: dict[Address, _X] = {}
    for entry in entries:
        data_owner = entry.item.data_owner
        if len(said[data_owner]) > 1:
            excluded.append(Exclusion(data_owner, entry.item.record, EQUIVOCATION))
        elif data_owner in kept:
            excluded.append(Exclusion(data_owner, entry.item.record, "the same statement again"))
        else:
            kept[data_owner] = entry.item
    return list(kept.values())


def _one_per_organisation(
    members: Sequence[CohortMember], known: Mapping[Address, Organisation], excluded: list[Exclusion]
) -> list[CohortMember]:
    """The first member of each organisation; whoever's is not ``known`` stands for itself."""
    kept: list[CohortMember] = []
    present: set[Organisation] = set()
    for member in members:
        organisation = known.get(member.data_owner)
        if organisation is not None and organisation in present:
            excluded.append(Exclusion(member.data_owner, member.record, SAME_SUBJECT))
            continue
        if organisation is not None:
            present.add(organisation)
        kept.append(member)
    return kept


def _by_address(items: Iterable[_X]) -> tuple[_X, ...]:
    return tuple(sorted(items, key=lambda item: address_key(item.data_owner)))


def _relayed(items: Iterable[_X]) -> tuple[Digest, ...]:
    return tuple(sorted(item.record for item in items if item.record is not None))


def _ordered(excluded: Iterable[Exclusion]) -> tuple[Exclusion, ...]:
    return tuple(sorted(excluded, key=lambda e: (address_key(e.data_owner), e.record or b"", e.reason)))
