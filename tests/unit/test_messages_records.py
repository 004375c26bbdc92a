"""Records on the wire: canonical bytes, signatures, and the digests they bind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from blake3 import blake3

from galaxylearning.crypto.digest import checksummed
from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.errors import MessageRefused
from galaxylearning.messages import records as r
from galaxylearning.messages import typed
from galaxylearning.units import COSINE_UNIT, ZERO_DIGEST, Address, Digest

CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAIN = typed.Domain("GalaxyJobs", "1", 31337, CONTRACT)
KEY, OTHER_KEY = b"\1" * 32, b"\2" * 32
ME, OTHER = address_of(KEY), address_of(OTHER_KEY)
LOW, HIGH = sorted((ME, OTHER), key=lambda a: int(a, 16))
SEALING_KEY = bytes(range(256)) * 4 + bytes(192)


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


def credential(owner: Address = ME) -> r.CredentialRecord:
    message = typed.Credential(d(8), d(9), owner, 2_000_000_000)
    return r.CredentialRecord.from_message(message, signature=sign_digest(OTHER_KEY, message.digest(DOMAIN)))


def enrolment(with_credential: bool = False) -> r.SignedEnrolment:
    held = credential() if with_credential else None
    message = typed.Enrolment(
        7, d(1), ME, d(2), Digest(blake3(SEALING_KEY).digest()), r.credential_digest(held)
    )
    return r.SignedEnrolment.from_message(
        message, sealing_key=SEALING_KEY, credential=held, signature=sign_digest(KEY, message.digest(DOMAIN))
    )


def signed(kind: type[r.SignedRecord], message: typed.TypedMessage, **more: Any) -> r.SignedRecord:
    signature = sign_digest(KEY, message.digest(DOMAIN))
    rest = {} if kind.signer_field == "data_owner" else {"evaluator": ME}
    return kind.from_message(message, signature=signature, **rest, **more)


def score_table() -> r.ScoreTable:
    def scores(index: int) -> r.RoundScores:
        owners = (
            r.OwnerScore(LOW, "accepted", "", 15, -(2**62), 3),
            r.OwnerScore(HIGH, "rejected", "cosine is not positive", 0, 0, 0),
        )
        return r.RoundScores(index, d(3), -500, -400, 120, owners)

    totals = (r.OwnerTotal(LOW, -5, 3), r.OwnerTotal(HIGH, 0, 0))
    shown = (r.ShownShare(0, HIGH, d(5)), r.ShownShare(1, LOW, d(6)))
    return r.ScoreTable(7, d(1), "path", (scores(0), scores(1)), ((LOW, HIGH),), totals, d(4), shown)


def payout_table() -> r.PayoutTable:
    rows = (r.PayoutRow(0, LOW, "70", 9, "value"), r.PayoutRow(1, HIGH, "30", 4, "value"))
    return r.PayoutTable(7, (d(1), d(2)), rows, "100")


SIGNED: list[r.SignedRecord] = [
    enrolment(),
    enrolment(with_credential=True),
    signed(r.SignedUpdate, typed.Update(7, 3, d(1), ME, d(2), d(3))),
    signed(r.SignedOpening, typed.RoundOpening(7, 3, d(1), d(2))),
    signed(r.SignedCohortAnchor, typed.CohortAnchor(7, d(1), 12, ZERO_DIGEST)),
    signed(r.SignedRoundAnchor, typed.RoundAnchor(7, 3, d(1), 12, ZERO_DIGEST, d(2))),
    signed(r.SignedAnswer, typed.MaskedAnswer(7, 3, 1, d(1), d(2))),
    signed(
        r.SignedAnswerSet, typed.AnswerSet(7, 3, 1, d(1), r.answers_root((d(3), d(4)))), answers=(d(3), d(4))
    ),
    signed(r.SignedSettlement, typed.Settlement(7, d(1), 2**127 + 1, 11, d(2), 0b101)),
]
PLAIN: list[r.Record] = [
    r.CohortList(7, (d(1), d(2))),
    r.RoundList(7, 3, ()),
    r.UpdateBody(7, 3, ME, b"\0" * 40, b""),
    r.MaskedBody(7, 3, ME, b"\0" * 40, (b"one", b"two")),
    r.AnswerBody(7, 3, 1, ME, b"\0" * 5),
    r.ModelRelease(7, d(1), d(2), ME),
    score_table(),
    payout_table(),
]
ALL: list[r.Record] = [*SIGNED, credential(), *PLAIN]


@pytest.mark.parametrize("record", ALL, ids=lambda x: type(x).__name__)
def test_a_record_comes_back_and_has_one_digest(record: r.Record) -> None:
    data = r.encode(record)
    assert r.decode(data, type(record), max_bytes=len(data)) == record
    assert r.record_digest(record) == blake3(data).digest()
    with pytest.raises(MessageRefused, match="at most"):
        r.decode(data, type(record), max_bytes=len(data) - 1)


@pytest.mark.parametrize("record", ALL, ids=lambda x: type(x).__name__)
def test_a_record_is_a_tagged_versioned_map(record: r.Record) -> None:
    document = msgspec.msgpack.decode(r.encode(record))
    assert isinstance(document, dict)
    assert document["version"] == 1
    assert next(iter(document)) == "type"


@pytest.mark.parametrize("record", ALL, ids=lambda x: type(x).__name__)
def test_a_record_is_not_taken_for_another(record: r.Record) -> None:
    data = r.encode(record)
    for kind in {type(other) for other in ALL} - {type(record)}:
        with pytest.raises(MessageRefused, match=kind.__name__):
            r.decode(data, kind, max_bytes=len(data))


@pytest.mark.parametrize("record", SIGNED, ids=lambda x: type(x).__name__)
def test_a_signature_is_its_signers_for_one_chain_and_contract(record: r.SignedRecord) -> None:
    assert r.verify(record, DOMAIN) == ME == record.signer
    for elsewhere in (
        typed.Domain("GalaxyJobs", "1", 1, CONTRACT),
        typed.Domain("GalaxyJobs", "1", 31337, OTHER),
    ):
        with pytest.raises(MessageRefused):
            r.verify(record, elsewhere)
    forged = sign_digest(OTHER_KEY, record.message.digest(DOMAIN))
    with pytest.raises(MessageRefused, match="signed by"):
        r.verify(msgspec.structs.replace(record, signature=forged), DOMAIN)


def test_a_settlement_keeps_its_total_beyond_64_bits() -> None:
    record = SIGNED[-1]
    assert record.message.total == 2**127 + 1
    for total in ("", "-1", "01", "1.5", str(2**128), "9" * 100):
        with pytest.raises(MessageRefused, match="total"):
            msgspec.structs.replace(record, total=total)


def test_an_enrolment_binds_its_sealing_key_and_credential() -> None:
    record = enrolment(with_credential=True)
    assert record.credential is not None
    swaps: list[dict[str, Any]] = [
        {"sealing_key": bytes(1216)},
        {"sealing_key": SEALING_KEY[:-1]},
        {"sealing_key": SEALING_KEY + b"\0"},
        {"sealing_key_digest": d(1)},
        {"credential": None},
        {"credential": credential(OTHER)},
        {"credential_digest": ZERO_DIGEST},
        {"credential_digest": r.credential_digest(credential(OTHER)), "credential": credential(OTHER)},
    ]
    for swap in swaps:
        with pytest.raises(MessageRefused, match="SignedEnrolment"):
            msgspec.structs.replace(record, **swap)


def test_the_issuer_of_a_credential_is_whoever_signed() -> None:
    assert r.recover_issuer(credential(), DOMAIN) == OTHER
    other = msgspec.structs.replace(credential(), expires_at=2_000_000_001)
    assert r.recover_issuer(other, DOMAIN) != OTHER


def test_lists_ascend_strictly() -> None:
    for entries in ((d(2), d(1)), (d(1), d(1))):
        with pytest.raises(MessageRefused, match="ascending"):
            r.CohortList(7, entries)
        with pytest.raises(MessageRefused, match="ascending"):
            r.RoundList(7, 0, entries)


def test_a_score_table_is_about_one_cohort() -> None:
    table = score_table()
    only_low = (msgspec.structs.replace(table.rounds[0], owners=table.rounds[0].owners[:1]),)
    changes: list[dict[str, Any]] = [
        {"rounds": tuple(reversed(table.rounds))},
        {"rounds": table.rounds[1:]},
        {"rounds": only_low},
        {"totals": tuple(reversed(table.totals))},
        {"totals": (table.totals[0], table.totals[0])},
        {"twins": ((HIGH, LOW),)},
        {"twins": ((LOW,),)},
        {"twins": ((LOW, HIGH), (LOW, HIGH))},
        {"twins": ((LOW, CONTRACT),)},
        {"shown": tuple(reversed(table.shown))},
        {"shown": (table.shown[0], r.ShownShare(0, HIGH, d(6)))},
        {"shown": (r.ShownShare(2, LOW, d(5)),)},
        {"shown": (r.ShownShare(0, CONTRACT, d(5)),)},
        {"value_name": ""},
        {"value_name": "x" * 61},
        {"job_id": 0},
        {"version": 2},
    ]
    for change in changes:
        with pytest.raises(MessageRefused):
            msgspec.structs.replace(table, **change)


@pytest.mark.parametrize("status", ["rejected", "absent", "malformed"])
def test_only_an_accepted_update_has_weight_and_value(status: Any) -> None:
    assert r.OwnerScore(ME, status, "why", 0, 0, 0).value == 0
    for values in ((1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1)):
        with pytest.raises(MessageRefused, match="OwnerScore"):
            r.OwnerScore(ME, status, "why", *values)
    with pytest.raises(MessageRefused, match="weight"):
        r.OwnerScore(ME, "accepted", "", 0, 1, 1)


def test_a_cosine_is_that_of_an_update_that_was_read() -> None:
    assert r.OwnerScore(ME, "accepted", "", 1, 1, 1, -COSINE_UNIT).cosine == -COSINE_UNIT
    assert r.OwnerScore(ME, "rejected", "why", 0, 0, 0, COSINE_UNIT).cosine == COSINE_UNIT
    for status in ("absent", "malformed"):
        with pytest.raises(MessageRefused, match="cosine"):
            r.OwnerScore(ME, status, "why", 0, 0, 0, 1)
    with pytest.raises(MessageRefused, match="cosine"):
        r.OwnerScore(ME, "accepted", "", 1, 1, 1, COSINE_UNIT + 1)


def test_a_payout_table_adds_up() -> None:
    table = payout_table()
    changes: list[dict[str, Any]] = [
        {"total": "99"},
        {"total": "0100"},
        {"rows": tuple(reversed(table.rows))},
        {"rows": table.rows[:1]},
        {"rows": table.rows[1:], "total": "30"},
        {"score_tables": (d(2), d(1))},
        {"score_tables": (b"short",)},
    ]
    for change in changes:
        with pytest.raises(MessageRefused, match="PayoutTable"):
            msgspec.structs.replace(table, **change)
    for amount in ("0", "-1", "1.0", 5):
        with pytest.raises(MessageRefused, match="amount"):
            r.PayoutRow(0, ME, amount, 1, "value")  # type: ignore[arg-type]
    assert r.PayoutTable(7, (), (), "0").rows == ()


def test_lists_given_as_lists_are_the_same_record() -> None:
    assert r.CohortList(7, [d(1), d(2)]) == PLAIN[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("record", ALL, ids=lambda x: type(x).__name__)
def test_a_field_of_another_type_is_refused_on_construction(record: r.Record) -> None:
    for name in record.__struct_fields__:
        with pytest.raises(MessageRefused):
            msgspec.structs.replace(record, **{name: object()})


def test_an_answer_set_lists_what_its_root_binds() -> None:
    record = next(record for record in SIGNED if isinstance(record, r.SignedAnswerSet))
    for answers, message in (
        ((d(3),), "root"),
        ((d(4), d(3)), "ascending"),
        ((), "answers"),
        (tuple(d(byte) for byte in range(16)), "answers"),
    ):
        with pytest.raises(MessageRefused, match=message):
            msgspec.structs.replace(record, answers=answers)


def test_no_table_is_larger_than_it_may_be() -> None:
    smiles, most = "\U0001f600" * 200, 2**63 - 1
    accounts = [checksummed(f"{2**160 - 9 + n:040x}") for n in range(8)]
    one = [r.OwnerScore(who, "malformed", smiles, 0, 0, 0) for who in accounts]
    one[0] = r.OwnerScore(accounts[0], "accepted", smiles, 2**32 - 1, -most, most, -COSINE_UNIT)
    for owners, rounds in (1, 1), (2, 1), (8, 3), (8, 40):
        cohort = accounts[:owners]
        table = r.ScoreTable(
            job_id=most,
            terms_digest=bytes(32),
            value_name="\U0001f600" * 60,
            rounds=tuple(
                r.RoundScores(index, bytes(32), -most, -most, most, tuple(one[:owners]), -most)
                for index in range(rounds)
            ),
            twins=tuple((first, second) for first, second in zip(cohort[::2], cohort[1::2], strict=False)),
            totals=tuple(r.OwnerTotal(who, -most, most, smiles) for who in cohort),
            final_model_digest=bytes(32),
            shown=tuple(r.ShownShare(index, who, bytes(32)) for index in range(rounds) for who in cohort),
        )
        assert len(r.encode(table)) <= r.table_bytes(owners, rounds)
    rows = tuple(r.PayoutRow(index, who, str(2**124), most, smiles) for index, who in enumerate(accounts))
    total = str(sum(int(row.amount) for row in rows))
    tables = tuple(bytes([number]) * 32 for number in range(15))
    for payees in 0, 8:
        payouts = r.PayoutTable(
            job_id=most, score_tables=tables, rows=rows[:payees], total=total if payees else "0"
        )
        assert len(r.encode(payouts)) <= r.table_bytes(payees, 0)
