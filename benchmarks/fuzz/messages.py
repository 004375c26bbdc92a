"""What travels between nodes in the open: records of every kind, terms, schemas, events of the contracts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from benchmarks.fuzz.documents import edit, mutate_json, mutate_msgpack, to_json
from benchmarks.fuzz.target import Target

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages import records as r
from galaxylearning.messages import typed
from galaxylearning.messages.plan import Masking, Noise, Plan
from galaxylearning.messages.terms import (
    Admission,
    ArrayField,
    Column,
    EvaluatorSeat,
    Price,
    Schema,
    Terms,
    Windows,
    decode_schema,
    decode_terms,
    encode_schema,
    encode_terms,
)
from galaxylearning.protocol.events import event_from_log
from galaxylearning.units import ZERO_DIGEST, Address, Digest

CONTRACT: Final = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAIN: Final = typed.Domain(typed.JOBS_DOMAIN, "1", 31337, CONTRACT)
KEYS: Final = (b"\1" * 32, b"\2" * 32, b"\3" * 32)
ACCOUNTS: Final = tuple(sorted((address_of(key) for key in KEYS), key=lambda account: int(account, 16)))
ME: Final = address_of(KEYS[0])
HEX: Final = "ab" * 32
MAX_BYTES: Final = 1 << 18


def digest(number: int) -> Digest:
    """A digest that is not another's."""
    return blake3_digest(bytes([number]))


def signed_records() -> list[r.SignedRecord]:
    """One signed record of every kind."""
    sealing_key = bytes(range(256)) * 4 + bytes(r.SEALING_KEY_BYTES - 1024)
    credential_message = typed.Credential(digest(8), digest(9), ME, 2_000_000_000)
    credential = r.CredentialRecord.from_message(
        credential_message, signature=sign_digest(KEYS[1], credential_message.digest(DOMAIN))
    )
    found: list[r.SignedRecord] = [credential]

    def add(kind: type[r.SignedRecord], message: typed.TypedMessage, **rest: Any) -> None:
        if kind.signer_field == "evaluator":
            rest["evaluator"] = ME
        found.append(kind.from_message(message, signature=sign_digest(KEYS[0], _digest_of(message)), **rest))

    for held in (None, credential):
        enrolment = typed.Enrolment(
            7, digest(1), ME, digest(2), blake3_digest(sealing_key), r.credential_digest(held)
        )
        add(r.SignedEnrolment, enrolment, sealing_key=sealing_key, credential=held)
    add(r.SignedRegistration, typed.DatasetRegistration(ME, digest(1), digest(2)))
    add(r.SignedRevocation, typed.DatasetRevocation(ME, digest(1)))
    add(r.SignedUpdate, typed.Update(7, 3, digest(1), ME, digest(2), digest(3)))
    add(r.SignedPresence, typed.Presence(7, 3, ME, 1, 1_800_000_000))
    add(r.SignedOpening, typed.RoundOpening(7, 3, digest(1), digest(2)))
    add(r.SignedCohortAnchor, typed.CohortAnchor(7, digest(1), 12, ZERO_DIGEST))
    add(r.SignedRoundAnchor, typed.RoundAnchor(7, 3, digest(1), 12, ZERO_DIGEST, digest(2)))
    add(r.SignedAnswer, typed.MaskedAnswer(7, 3, 1, digest(1), digest(2)))
    answers = tuple(sorted((digest(3), digest(4))))
    add(
        r.SignedAnswerSet,
        typed.AnswerSet(7, 3, 1, digest(1), r.answers_root(answers)),
        answers=answers,
    )
    add(r.SignedSettlement, typed.Settlement(7, digest(1), 2**127 + 1, 11, digest(2), 0b101))
    return found


def _domain_of(message: typed.TypedMessage) -> typed.Domain:
    return typed.Domain(message.domain_name, "1", 31337, CONTRACT)


def _digest_of(message: typed.TypedMessage) -> bytes:
    return message.digest(_domain_of(message))


def plain_records() -> list[r.Record]:
    """One record of every kind that nobody signs."""
    ordered = tuple(sorted((digest(1), digest(2))))

    def scores(index: int) -> r.RoundScores:
        owners = (
            r.OwnerScore(ACCOUNTS[0], "accepted", "", 15, -(2**62), 3),
            r.OwnerScore(ACCOUNTS[1], "rejected", "cosine is not positive", 0, 0, 0),
            r.OwnerScore(ACCOUNTS[2], "absent", "", 0, 0, 0),
        )
        return r.RoundScores(index, digest(3), -500, -400, 120, owners, 77)

    totals = tuple(r.OwnerTotal(account, 5, 3) for account in ACCOUNTS)
    shown = (r.ShownShare(0, ACCOUNTS[1], digest(5)), r.ShownShare(1, ACCOUNTS[0], digest(6)))
    rows = tuple(r.PayoutRow(i, account, "70", 9, "value") for i, account in enumerate(ACCOUNTS))
    return [
        r.CohortList(7, ordered, ordered),
        r.RoundList(7, 3, ordered, ()),
        r.UpdateBody(7, 3, ME, bytes(range(40)), b"\0" * 8),
        r.MaskedBody(7, 3, ME, b"\0" * 40, (b"one", b"two")),
        r.AnswerBody(7, 3, 1, ME, b"\0" * 5),
        r.ModelRelease(7, digest(1), digest(2), ME),
        r.ScoreTable(7, digest(1), "path", (scores(0), scores(1)), (ACCOUNTS[:2],), totals, digest(4), shown),
        r.PayoutTable(7, ordered, rows, "210"),
    ]


def _read_record(kind: type[r.Record], data: bytes) -> object:
    record = r.decode(data, kind, max_bytes=MAX_BYTES)
    if isinstance(record, r.CredentialRecord):
        return r.recover_issuer(record, _domain_of(record.message))
    if isinstance(record, r.SignedRecord):
        return r.verify(record, _domain_of(record.message))
    return record


def _record_targets() -> list[Target]:
    by_kind: dict[type[r.Record], list[bytes]] = {}
    for record in (*signed_records(), *plain_records()):
        by_kind.setdefault(type(record), []).append(r.encode(record))
    return [
        Target(
            f"record {kind.__name__}",
            seeds,
            partial(_read_record, kind),
            (MessageRefused,),
            mutate_msgpack,
            share=3.0 if kind in (r.ScoreTable, r.PayoutTable) else 1.0,
        )
        for kind, seeds in by_kind.items()
    ]


def make_terms(**changes: Any) -> Terms:
    """Terms of a small sealed job, with ``changes``."""
    label = Column("diagnosis", "category", classes=("benign", "malignant"))
    columns = (
        Column("radius", "number", unit="mm", mean=14.1, std=3.5, minimum=0.0, maximum=100.0),
        Column("stage", "category", classes=("I", "II", "III")),
        Column("age", "integer"),
    )
    values: dict[str, Any] = {
        "title": "Biopsies",
        "description": "Benign or malignant, from three measurements: «radius».",
        "requester": ME,
        "evaluators": tuple(EvaluatorSeat(account, HEX, HEX) for account in ACCOUNTS),
        "schema": Schema(columns, label),
        "plan": Plan(rounds=3, epochs=1, minimum_owners=2, maximum_owners=12),
        "price": Price(token=CONTRACT, bounty="1000000", fee_per_seat="10", target_gain=0.5),
        "admission": Admission(),
        "windows": Windows(60, 60, 60, 60, 60, 60, 60),
        "graph": HEX,
        "loss": "cross_entropy",
        "model": HEX,
        "model_digest": HEX,
        "test_set": HEX,
        "test_set_digest": HEX,
        "requester_key": HEX,
        "test_rows": 200,
        "seed": 1,
    }
    return Terms(**(values | changes))


def _all_terms() -> list[bytes]:
    masked = make_terms(
        privacy="masked",
        plan=Plan(rounds=3, epochs=1, minimum_owners=4, maximum_owners=12, projections=5),
        masking=Masking(threshold=1, faulty=0, minimum_sum=3, twin_projections=2),
        admission=Admission(kind="allow-list", allowed=ACCOUNTS),
    )
    noisy = make_terms(
        plan=Plan(
            rounds=3,
            steps=5,
            minimum_owners=2,
            maximum_owners=12,
            noise=Noise(kind="central", multiplier=1.0),
        ),
        schema=Schema((), Column("load", "number"), (ArrayField("image", (8, 8), "float32"),)),
        loss="mse",
        admission=Admission(kind="credential", issuers=ACCOUNTS[:2], scope="hospitals"),
    )
    return [encode_terms(terms) for terms in (make_terms(), masked, noisy)]


def _read_terms(data: bytes) -> object:
    terms = decode_terms(data)
    return terms.digest, terms.quorum


def revive(value: Any) -> Any:
    """Bytes are written as ``{"hex": "..."}`` where a document stands for values."""
    if isinstance(value, dict):
        if list(value) == ["hex"] and isinstance(value["hex"], str):
            try:
                return bytes.fromhex(value["hex"])
            except ValueError:
                return value["hex"]
        return {name: revive(item) for name, item in value.items()}
    return [revive(item) for item in value] if isinstance(value, list) else value


def _events() -> list[bytes]:
    word = {"hex": "11" * 32}
    account = {"account": ME, "dataOwner": ME, "evaluator": ME, "requester": ME}
    words = dict.fromkeys(
        (
            "termsDigest",
            "commitment",
            "directHead",
            "root",
            "modelDigest",
            "history",
            "scoresDigest",
            "payoutRoot",
        ),
        word,
    )
    numbers = dict.fromkeys(
        ("bounty", "fees", "size", "roundIndex", "count", "total", "payees", "faultySeats", "index"),
        2**128 - 1,
    )
    everything = {"jobId": 7, "amount": 5, "from": 2, "to": 3, **account, **words, **numbers}
    enrolment = {
        "jobId": 7, "termsDigest": word, "dataOwner": ME, "datasetId": word, "sealingKeyDigest": word,
        "credentialDigest": word,
    }  # fmt: skip
    update = {
        "jobId": 7, "round": 3, "termsDigest": word, "dataOwner": ME, "modelDigest": word,
        "updateDigest": word,
    }  # fmt: skip
    signature = {"hex": "22" * 65}
    names = (
        "JobPosted", "SeatTaken", "ScoresCommitted", "BondDeposited", "BondReturned", "CohortAnchored",
        "RoundAnchored", "ScoresRevealed", "JobSettled", "Paid", "FeePaid", "Refunded", "ClaimsExpired",
        "PhaseChanged", "JobAborted", "StoodBy",
    )  # fmt: skip
    found: list[Any] = [[name, everything] for name in names]
    for name, struct in (("EnrolledDirectly", enrolment), ("UpdateSubmittedDirectly", update)):
        kind = typed.Enrolment if name == "EnrolledDirectly" else typed.Update
        fields = dict(zip((field for _, field in kind.abi_fields()), struct.values(), strict=True))
        found.append([name, {"jobId": 7, "struct": fields, "signature": signature, "directHead": word}])
    return [to_json(event) for event in found]


def _read_event(data: bytes) -> object:
    name, arguments = json.loads(data)
    return event_from_log(name, revive(arguments), 1_800_000_000)


def _edited_events(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Always a name and a map: this is what the ABI's decoder hands over; inside, anything."""
    name, arguments = json.loads(rng.choice(seeds))
    if rng.random() < 0.1:
        name = json.loads(rng.choice(seeds))[0]
    for _ in range(rng.choice((1, 1, 2, 3))):
        made = edit(rng, arguments, packed=False)
        arguments = made if isinstance(made, dict) else arguments
    return to_json([name, arguments])


def _read_typed(data: bytes) -> object:
    """Every kind of typed message from a decoded struct."""
    name, values = json.loads(data)
    message = getattr(typed, name).from_abi(revive(values))
    return _digest_of(message)


def _typed_seeds() -> list[bytes]:
    found = []
    for record in signed_records():
        message = record.message
        values = {
            field: {"hex": value.hex()} if isinstance(value, bytes) else value
            for (_, field), value in zip(message.abi_fields(), message.abi_tuple(), strict=True)
        }
        found.append(to_json([type(message).__name__, values]))
    return found


def targets() -> list[Target]:
    """All of them."""
    read_schema: Callable[[bytes], object] = decode_schema
    schemas = [encode_schema(decode_terms(terms).schema) for terms in _all_terms()]
    return [
        *_record_targets(),
        Target("terms", _all_terms(), _read_terms, (JobRefused,), mutate_json(), share=4.0),
        Target("schema", schemas, read_schema, (JobRefused,), mutate_json(), share=2.0),
        Target("event", _events(), _read_event, (MessageRefused,), _edited_events, share=4.0),
        Target("typed message", _typed_seeds(), _read_typed, (MessageRefused,), _edited_events, share=2.0),
    ]
