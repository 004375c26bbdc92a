"""The cohort and a round's accepted updates: who counts, who does not, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.merkle import digest_tree_root
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.crypto.sign import address_of, recover_signer, sign_digest
from galaxylearning.messages import records as r
from galaxylearning.messages import terms as t
from galaxylearning.messages import typed
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.admission import admission_refusal, credential_scope, subject_of
from galaxylearning.protocol.cohort import (
    SAME_SUBJECT,
    AcceptedUpdates,
    Cohort,
    DirectEnrolment,
    accept_updates,
    cohort_root,
    form_cohort,
    round_root,
)
from galaxylearning.units import ZERO_DIGEST, Address, Digest

TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = typed.Domain("GalaxyJobs", "1", 31337, Address(TOKEN))
ELSEWHERE = typed.Domain("GalaxyJobs", "1", 1, Address(TOKEN))
HEX = "ab" * 32
KEYS = [bytes([n]) * 32 for n in range(1, 9)]
OWNERS = [address_of(key) for key in KEYS]
ISSUER_KEY = b"\x77" * 32
NOW = 1_000


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


def make_terms(maximum: int = 8, bond: str = "0", **admission: Any) -> t.Terms:
    windows = t.Windows(60, 60, 60, 60, 60, 60, 60)
    label = t.Column("y", "category", classes=("a", "b"))
    return t.Terms(
        title="t",
        description="",
        requester=OWNERS[0],
        evaluators=(t.EvaluatorSeat(f"0x{1:040d}", HEX, HEX),),
        schema=t.Schema((t.Column("x", "number"),), label),
        plan=Plan(rounds=2, epochs=1, minimum_owners=1, maximum_owners=maximum),
        price=t.Price(TOKEN, "1000", "1", 0.5, bond=bond),
        admission=t.Admission(**admission),
        windows=windows,
        graph=HEX,
        loss="cross_entropy",
        model=HEX,
        model_digest=HEX,
        test_set=HEX,
        test_set_digest=HEX,
        requester_key=HEX,
        test_rows=100,
        seed=1,
    )


TERMS = make_terms()
DATASETS = {d(0x40 + n): owner for n, owner in enumerate(OWNERS)} | {d(0x50): OWNERS[0]}


def sealing_key(n: int) -> bytes:
    return SealingKey(bytes([n]) * 96).public


SMALL_ORDER = sealing_key(0)[:1184] + bytes(32)


def credential(
    n: int,
    *,
    subject: int | None = None,
    scope: str = "hospitals",
    expires_at: int = NOW + 1,
    issuer: bytes = ISSUER_KEY,
) -> r.CredentialRecord:
    organisation = d(0x70 + (n if subject is None else subject))
    message = typed.Credential(credential_scope(scope), organisation, OWNERS[n], expires_at)
    return r.CredentialRecord.from_message(message, signature=sign_digest(issuer, message.digest(DOMAIN)))


def message_of(n: int, terms: t.Terms = TERMS, held: r.CredentialRecord | None = None) -> typed.Enrolment:
    key_digest = blake3_digest(sealing_key(n))
    return typed.Enrolment(7, terms.digest, OWNERS[n], d(0x40 + n), key_digest, r.credential_digest(held))


def enrol(
    n: int,
    terms: t.Terms = TERMS,
    held: r.CredentialRecord | None = None,
    *,
    key: bytes | None = None,
    **changes: Any,
) -> r.SignedEnrolment:
    message = replace(message_of(n, terms, held), **changes)
    return r.SignedEnrolment.from_message(
        message,
        sealing_key=key or sealing_key(n),
        credential=held,
        signature=sign_digest(KEYS[n], message.digest(DOMAIN)),
    )


def form(
    candidates: list[r.SignedEnrolment], direct: list[DirectEnrolment] | None = None, **more: Any
) -> Cohort:
    rest: dict[str, Any] = {"terms": TERMS, "job_id": 7, "now": NOW, "datasets": DATASETS} | more
    return form_cohort(candidates, direct or [], domain=DOMAIN, **rest)


def reasons(result: Cohort | AcceptedUpdates) -> list[str]:
    return [exclusion.reason for exclusion in result.excluded]


def test_a_cohort_is_ordered_by_address_and_anchored_by_digest() -> None:
    records = [enrol(n) for n in (3, 0, 2, 1)]
    cohort = form(records)
    assert cohort.data_owners == tuple(sorted(OWNERS[:4], key=lambda a: int(a, 16)))
    assert cohort.relayed == tuple(sorted(r.record_digest(record) for record in records))
    assert cohort.root == digest_tree_root(cohort.relayed) == cohort_root(reversed(cohort.relayed))
    assert (cohort.size, cohort.excluded) == (4, ())
    assert form(records[::-1]) == cohort == form(records * 2)


def test_an_empty_cohort_has_a_zero_root() -> None:
    assert form([]).root == ZERO_DIGEST
    assert round_root([]) == ZERO_DIGEST


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (enrol(1, job_id=8), "another job"),
        (enrol(1, terms_digest=d(9)), "other terms"),
        (enrol(1, dataset_id=d(9)), "not registered or was revoked"),
        (enrol(1, dataset_id=d(0x42)), "another data owner's"),
        (msgspec.structs.replace(enrol(1), signature=enrol(2).signature), "wrong signature"),
        (msgspec.structs.replace(enrol(1), signature=bytes(65)), "wrong signature"),
        (msgspec.structs.replace(enrol(1), data_owner=OWNERS[3]), "wrong signature"),
    ],
)
def test_an_enrolment_that_does_not_hold_is_left_out_with_a_reason(
    record: r.SignedEnrolment, reason: str
) -> None:
    cohort = form([enrol(0), record])
    assert cohort.data_owners == (OWNERS[0],)
    assert [reason in why for why in reasons(cohort)] == [True]
    assert cohort.excluded[0].record == r.record_digest(record)


def test_two_different_enrolments_by_one_account_exclude_both() -> None:
    cohort = form([enrol(0), enrol(0, dataset_id=d(0x50)), enrol(1)])
    assert cohort.data_owners == (OWNERS[1],)
    assert reasons(cohort) == ["equivocation", "equivocation"]


def test_an_invalid_second_enrolment_is_no_equivocation() -> None:
    cohort = form([enrol(0), enrol(0, dataset_id=d(0x51)), enrol(0, job_id=8)])
    assert cohort.data_owners == (OWNERS[0],)
    assert len(cohort.excluded) == 2


def test_a_direct_enrolment_counts_and_beats_the_same_one_relayed() -> None:
    direct = [DirectEnrolment(message_of(0), sealing_key(0))]
    cohort = form([enrol(0), enrol(1)], direct)
    assert cohort.size == 2
    assert cohort.relayed == (r.record_digest(enrol(1)),)
    assert reasons(cohort) == ["the same statement again"]
    different = form([enrol(0, dataset_id=d(0x50)), enrol(1)], direct)
    assert different.data_owners == (OWNERS[1],)
    assert reasons(different) == ["equivocation", "equivocation"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (DirectEnrolment(message_of(0), None), "sealing key is missing"),
        (DirectEnrolment(message_of(0), sealing_key(1)), "not the one enrolled"),
        (DirectEnrolment(message_of(0), sealing_key(0)[:-1]), "not the one enrolled"),
        (DirectEnrolment(message_of(0), sealing_key(0), credential(0)), "credential"),
        (DirectEnrolment(message_of(0, held=credential(0)), sealing_key(0)), "credential"),
        (DirectEnrolment(replace(message_of(0), dataset_id=d(9)), sealing_key(0)), "revoked"),
        (
            DirectEnrolment(
                replace(message_of(0), sealing_key_digest=blake3_digest(SMALL_ORDER)), SMALL_ORDER
            ),
            "nothing can be sealed",
        ),
    ],
)
def test_a_direct_enrolment_needs_the_blobs_it_names(entry: DirectEnrolment, reason: str) -> None:
    cohort = form([enrol(1)], [entry])
    assert cohort.data_owners == (OWNERS[1],)
    assert [reason in why for why in reasons(cohort)] == [True]
    assert cohort.excluded[0].record is None


def test_a_key_that_nothing_can_be_sealed_to_is_not_of_the_cohort() -> None:
    record = enrol(0, key=SMALL_ORDER, sealing_key_digest=blake3_digest(SMALL_ORDER))
    cohort = form([record, enrol(1)])
    assert cohort.data_owners == (OWNERS[1],)
    assert reasons(cohort) == ["nothing can be sealed to the sealing key"]
    assert cohort.excluded[0].record == r.record_digest(record)


def test_a_cohort_has_room_for_direct_entries_first_then_by_digest() -> None:
    records = [enrol(n, make_terms(3)) for n in range(5)]
    small = make_terms(3)
    direct = [DirectEnrolment(message_of(7, small), sealing_key(7))]
    cohort = form(records, direct, terms=small)
    in_order = sorted(records, key=r.record_digest)
    assert set(cohort.data_owners) == {OWNERS[7], in_order[0].signer, in_order[1].signer}
    assert reasons(cohort) == ["the cohort is full"] * 3


def refusal(terms: t.Terms, n: int, held: r.CredentialRecord | None = None, **more: Any) -> str | None:
    rest: dict[str, Any] = {"domain": DOMAIN, "now": NOW, "bonds": ()} | more
    return admission_refusal(terms, OWNERS[n], held, **rest)


def test_an_open_job_admits_anybody_unless_a_bond_is_asked() -> None:
    assert refusal(TERMS, 0) is None
    bonded = make_terms(bond="5")
    assert refusal(bonded, 0) == "no bond is posted"
    assert refusal(bonded, 0, bonds={OWNERS[0]}) is None
    cohort = form([enrol(0, bonded), enrol(1, bonded)], terms=bonded, bonds={OWNERS[1]})
    assert cohort.data_owners == (OWNERS[1],)


def test_an_allow_list_admits_its_own() -> None:
    listed = make_terms(kind="allow-list", allowed=(OWNERS[2],))
    assert refusal(listed, 2) is None
    assert refusal(listed, 1) == "not on the allow-list"


def test_a_credential_admits_whom_a_trusted_issuer_signed_for_the_scope_and_time() -> None:
    terms = make_terms(kind="credential", issuers=(address_of(ISSUER_KEY),), scope="hospitals")
    good = credential(1)
    assert refusal(terms, 1, good) is None
    assert refusal(terms, 1) == "a credential is missing"
    assert refusal(terms, 2, good) == "the credential is another data owner's"
    assert refusal(terms, 1, credential(1, scope="banks")) == "the credential is for another scope"
    assert refusal(terms, 1, good, now=NOW + 1) == "the credential has expired"
    assert refusal(terms, 1, good, domain=ELSEWHERE) == "the credential's issuer is not trusted"
    forged = msgspec.structs.replace(good, expires_at=good.expires_at + 1)
    assert refusal(terms, 1, forged) == "the credential's issuer is not trusted"
    broken = msgspec.structs.replace(good, signature=bytes(65))
    assert "not valid" in (refusal(terms, 1, broken) or "")
    cohort = form([enrol(1, terms, good), enrol(2, terms)], terms=terms)
    assert cohort.data_owners == (OWNERS[1],)


TRUSTING = make_terms(kind="credential", issuers=(address_of(ISSUER_KEY),), scope="hospitals")


def test_an_organisation_takes_part_once_however_many_accounts_it_has() -> None:
    held = {n: credential(n, subject=1 if n < 3 else n) for n in range(5)}
    records = [enrol(n, TRUSTING, held[n]) for n in range(5)]
    cohort = form(records, terms=TRUSTING)
    first = min(records[:3], key=r.record_digest)
    assert set(cohort.data_owners) == {first.signer, OWNERS[3], OWNERS[4]}
    assert reasons(cohort) == [SAME_SUBJECT] * 2
    assert {each.data_owner for each in cohort.excluded} == set(OWNERS[:3]) - {first.signer}
    assert form(records[::-1], terms=TRUSTING) == cohort
    # What is anchored gives the same cohort again: nobody who was left out comes back in another's place.
    kept = [record for record in records if r.record_digest(record) in cohort.relayed]
    assert form(kept, terms=TRUSTING).root == cohort.root


def test_an_enrolment_on_chain_comes_before_that_of_the_same_organisation_elsewhere() -> None:
    held = {n: credential(n, subject=1) for n in range(3)}
    direct = [DirectEnrolment(message_of(n, TRUSTING, held[n]), sealing_key(n), held[n]) for n in (2, 1)]
    cohort = form([enrol(0, TRUSTING, held[0])], direct, terms=TRUSTING)
    assert cohort.data_owners == (OWNERS[2],)
    assert reasons(cohort) == [SAME_SUBJECT] * 2
    assert cohort.direct == (Digest(direct[0].enrolment.struct_hash()),)


def test_an_entry_that_does_not_count_takes_no_organisations_place() -> None:
    held = {n: credential(n, subject=1) for n in range(2)}
    two_faced = [enrol(0, TRUSTING, held[0]), enrol(0, TRUSTING, held[0], dataset_id=d(0x50))]
    other = enrol(1, TRUSTING, held[1])
    assert form([*two_faced, other], terms=TRUSTING).data_owners == (OWNERS[1],)
    late = [enrol(0, TRUSTING, credential(0, subject=1, expires_at=NOW)), other]
    assert form(late, terms=TRUSTING).data_owners == (OWNERS[1],)


def test_a_subject_is_one_issuers_word_and_counts_only_where_credentials_admit() -> None:
    issuers = tuple(sorted((address_of(ISSUER_KEY), address_of(KEYS[7])), key=lambda a: int(a, 16)))
    both = make_terms(kind="credential", issuers=issuers, scope="hospitals")
    held = [credential(0, subject=1), credential(1, subject=1, issuer=KEYS[7])]
    assert form([enrol(n, both, held[n]) for n in range(2)], terms=both).size == 2
    held = [credential(n, subject=1) for n in range(2)]
    assert form([enrol(n, TERMS, held[n]) for n in range(2)]).size == 2


def test_a_subject_is_the_same_for_an_organisation_and_differs_by_scope_and_salt() -> None:
    salt = bytes(32)
    subject = subject_of("HRB-1", "hospitals", salt=salt)
    assert subject == subject_of("HRB-1", "hospitals", salt=salt)
    others = {
        subject_of("HRB-2", "hospitals", salt=salt),
        subject_of("HRB-1", "banks", salt=salt),
        subject_of("HRB-1", "hospitals", salt=b"\1" * 32),
    }
    assert len(others | {subject}) == 4
    with pytest.raises(ValueError, match="32 allowed"):
        subject_of("HRB-1", "hospitals", salt=b"")


def test_the_room_in_a_cohort_is_for_organisations() -> None:
    two = make_terms(2, kind="credential", issuers=(address_of(ISSUER_KEY),), scope="hospitals")
    held = [credential(0, subject=1), credential(1, subject=1), credential(2)]
    cohort = form([enrol(n, two, held[n]) for n in range(3)], terms=two)
    assert cohort.size == 2
    assert reasons(cohort) == [SAME_SUBJECT]


def update(n: int, **changes: Any) -> r.SignedUpdate:
    message = replace(typed.Update(7, 1, TERMS.digest, OWNERS[n], d(1), d(2)), **changes)
    return r.SignedUpdate.from_message(message, signature=sign_digest(KEYS[n], message.digest(DOMAIN)))


def accept(
    candidates: list[r.SignedUpdate], direct: list[typed.Update] | None = None, **more: Any
) -> AcceptedUpdates:
    return accept_updates(
        candidates,
        direct or [],
        cohort=OWNERS[:4],
        domain=DOMAIN,
        job_id=7,
        round_index=1,
        terms_digest=TERMS.digest,
        model_digest=d(1),
        **more,
    )


def test_updates_of_the_cohort_are_accepted_whatever_their_order() -> None:
    records = [update(n) for n in (2, 0, 1)]
    accepted = accept(records)
    assert accepted.count == 3
    assert list(accepted.by_data_owner) == sorted(OWNERS[:3], key=lambda a: int(a, 16))
    assert accepted.root == digest_tree_root(sorted(r.record_digest(record) for record in records))
    assert accept(records[::-1]) == accepted == accept(records + records)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (update(0, job_id=8), "another job"),
        (update(0, round_index=0), "another round"),
        (update(0, terms_digest=d(9)), "other terms"),
        (update(0, model_digest=d(9)), "another model"),
        (update(5), "not in the cohort"),
        (msgspec.structs.replace(update(0), update_digest=d(9)), "wrong signature"),
        (msgspec.structs.replace(update(5), data_owner=OWNERS[0]), "wrong signature"),
    ],
)
def test_an_update_that_does_not_hold_is_left_out_with_a_reason(record: r.SignedUpdate, reason: str) -> None:
    accepted = accept([update(1), record])
    assert list(accepted.by_data_owner) == [OWNERS[1]]
    assert [reason in why for why in reasons(accepted)] == [True]


def test_two_different_updates_by_one_data_owner_exclude_both() -> None:
    accepted = accept([update(0), update(0, update_digest=d(3)), update(1)])
    assert list(accepted.by_data_owner) == [OWNERS[1]]
    assert reasons(accepted) == ["equivocation", "equivocation"]
    crossed = accept([update(0)], [update(0, update_digest=d(3)).message])
    assert crossed.count == 0
    assert reasons(crossed) == ["equivocation", "equivocation"]


def test_the_same_update_relayed_and_direct_counts_once_as_direct() -> None:
    accepted = accept([update(0), update(1)], [update(0).message])
    assert accepted.count == 2
    assert accepted.by_data_owner[OWNERS[0]].record is None
    assert accepted.relayed == (r.record_digest(update(1)),)
    assert reasons(accepted) == ["the same statement again"]


def test_a_strangers_direct_update_means_nothing() -> None:
    accepted = accept([update(1)], [update(6).message])
    assert list(accepted.by_data_owner) == [OWNERS[1]]
    assert reasons(accepted) == ["not in the cohort"]


def test_who_signed_is_worked_out_once_for_who_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    recovered = []

    def counting(digest: bytes, signature: bytes) -> Address:
        recovered.append(signature)
        return recover_signer(digest, signature)

    monkeypatch.setattr(r, "recover_signer", counting)
    records = [update(n) for n in range(3)]
    wrong = msgspec.structs.replace(records[0], signature=records[1].signature)
    known: r.Signers = {}
    first = accept([*records, wrong], known=known)
    assert (len(recovered), first.count, len(first.excluded)) == (4, 3, 1)
    assert accept([*records, wrong], known=known) == first
    assert len(recovered) == 4
    accept(records)
    assert len(recovered) == 7


def test_who_issued_a_credential_is_worked_out_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: r.Signers = {}
    held = credential(0)
    first = form([enrol(0, TRUSTING, held)], terms=TRUSTING, known=known)
    assert first.size == 1
    monkeypatch.setattr(r, "recover_signer", None)
    assert form([enrol(0, TRUSTING, held)], terms=TRUSTING, known=known) == first
