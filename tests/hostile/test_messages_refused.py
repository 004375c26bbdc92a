"""Hostile records and terms: each is refused by our error, in bounded time and memory."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.errors import GalaxyError, JobRefused, MessageRefused
from galaxylearning.messages import records as r
from galaxylearning.messages import typed
from galaxylearning.messages.terms import decode_schema, decode_terms
from galaxylearning.units import ZERO_DIGEST, Address, Digest

CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAIN = typed.Domain("GalaxyJobs", "1", 31337, CONTRACT)
KEY, OTHER_KEY = b"\1" * 32, b"\2" * 32
ME = address_of(KEY)
SEALING_KEY = bytes(1216)
LIMIT = 1 << 20


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


def signed_update(**changes: Any) -> r.SignedUpdate:
    fields: dict[str, Any] = {
        "job_id": 7,
        "round_index": 3,
        "terms_digest": d(1),
        "data_owner": ME,
        "model_digest": d(2),
        "update_digest": d(3),
    }
    message = typed.Update(**(fields | changes))
    return r.SignedUpdate.from_message(message, signature=sign_digest(KEY, message.digest(DOMAIN)))


def enrolment() -> r.SignedEnrolment:
    message = typed.Enrolment(7, d(1), ME, d(2), Digest(blake3(SEALING_KEY).digest()), ZERO_DIGEST)
    return r.SignedEnrolment.from_message(
        message, sealing_key=SEALING_KEY, credential=None, signature=sign_digest(KEY, message.digest(DOMAIN))
    )


UPDATE = signed_update()
VALID = r.encode(UPDATE)
DOCUMENT: dict[str, Any] = msgspec.msgpack.decode(VALID)
LIST_DOCUMENT: dict[str, Any] = msgspec.msgpack.decode(r.encode(r.CohortList(7, (d(1), d(2)))))
BODY_DOCUMENT: dict[str, Any] = msgspec.msgpack.decode(r.encode(r.UpdateBody(7, 0, ME, b"abcd", b"")))
pack = msgspec.msgpack.encode

CONFUSIONS: list[object] = [
    None,
    True,
    False,
    -1,
    0.5,
    float("nan"),
    2**63,
    2**64 - 1,
    "",
    "x" * 70_000,
    b"",
    b"\0" * 31,
    b"\0" * 33,
    b"\0" * 64,
    b"\0" * 66,
    b"\0" * 70_000,
    [],
    {},
    [1],
    {"a": 1},
    msgspec.msgpack.Ext(1, b"x"),
    ME.lower(),
    "0x" + "0" * 40,
]


def hostile_bytes() -> Iterator[tuple[str, bytes, type[r.Record]]]:
    for length in range(len(VALID)):
        yield f"truncated to {length}", VALID[:length], r.SignedUpdate
    for extra in (b"\0", b"\xc0", VALID, b" "):
        yield f"extended by {extra[:4]!r}", VALID + extra, r.SignedUpdate
    for field in DOCUMENT:
        yield f"without {field}", pack({k: v for k, v in DOCUMENT.items() if k != field}), r.SignedUpdate
        for value in CONFUSIONS:
            if value != DOCUMENT[field]:
                yield f"{field} is {value!r:.30}", pack(DOCUMENT | {field: value}), r.SignedUpdate
    for name in ("samples", "", "Type", "__class__", "x" * 1000):
        yield f"unknown field {name:.20}", pack(DOCUMENT | {name: 1}), r.SignedUpdate
    for tag in ("updates", "enrolment", "Update", "", "cohort-list"):
        yield f"tag {tag}", pack(DOCUMENT | {"type": tag}), r.SignedUpdate
    for version in (0, 2, -1, 1.0, "1", True, 2**40):
        yield f"version {version!r}", pack(DOCUMENT | {"version": version}), r.SignedUpdate
    yield "fields in another order", pack(dict(reversed(DOCUMENT.items()))), r.SignedUpdate
    yield (
        "tag last",
        pack({k: v for k, v in DOCUMENT.items() if k != "type"} | {"type": "update"}),
        r.SignedUpdate,
    )
    yield "a long integer", VALID.replace(b"job_id\x07", b"job_id\xcd\x00\x07"), r.SignedUpdate
    yield "a long string", VALID.replace(b"\xa4type", b"\xd9\x04type"), r.SignedUpdate
    yield "a long map header", b"\xde\x00" + bytes([VALID[0] & 0x0F]) + VALID[1:], r.SignedUpdate
    repeated = bytes([VALID[0] + 1]) + VALID[1:] + b"\xa6job_id\x07"
    yield "a field twice", repeated, r.SignedUpdate
    yield "not a map", pack([1, 2, 3]), r.SignedUpdate
    yield "invalid UTF-8", VALID.replace(ME.encode(), b"\xff" * 42), r.SignedUpdate
    yield "a map of 2^32 entries", b"\xdf\xff\xff\xff\xff" + VALID[1:], r.SignedUpdate
    yield "a deep array", b"\x91" * 100_000 + b"\xc0", r.SignedUpdate
    yield "a deep array in a field", pack(DOCUMENT)[:-1] + b"\x91" * 100_000, r.SignedUpdate
    cohort = pack(LIST_DOCUMENT)
    lying = cohort.replace(b"enrolments\x92", b"enrolments\xdd\xff\xff\xff\xff")
    yield "a list of 2^32 digests", lying, r.CohortList
    yield "a list too short", cohort.replace(b"enrolments\x92", b"enrolments\x93"), r.CohortList
    yield "a list too long", cohort.replace(b"enrolments\x92", b"enrolments\x91"), r.CohortList
    for entries in ([d(2), d(1)], [d(1), d(1)], [b""], [bytes(33)], ["x" * 32], [None], {"a": d(1)}, d(1)):
        yield f"entries {entries!r:.30}", pack(LIST_DOCUMENT | {"enrolments": entries}), r.CohortList
    body = pack(BODY_DOCUMENT)
    yield (
        "bytes of 4 GiB",
        body.replace(b"parameters\xc4\x04", b"parameters\xc6\xff\xff\xff\xff"),
        r.UpdateBody,
    )
    yield "a sample count", pack(BODY_DOCUMENT | {"samples": 10**9}), r.UpdateBody
    yield "parameters as a list", pack(BODY_DOCUMENT | {"parameters": [1.0, 2.0]}), r.UpdateBody
    yield "too large", pack(BODY_DOCUMENT | {"parameters": bytes(LIMIT)}), r.UpdateBody


CASES = list(hostile_bytes())


def test_there_are_hundreds_of_hostile_records() -> None:
    assert len({data for _, data, _ in CASES}) >= 400


@pytest.mark.parametrize(("data", "kind"), [pytest.param(data, kind, id=name) for name, data, kind in CASES])
def test_hostile_bytes_are_refused(data: bytes, kind: type[r.Record]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MessageRefused) as refused:
        r.decode(data, kind, max_bytes=LIMIT)
    assert len(str(refused.value)) < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_the_originals_are_accepted() -> None:
    assert r.decode(VALID, r.SignedUpdate, max_bytes=LIMIT) == UPDATE
    assert r.decode(pack(LIST_DOCUMENT), r.CohortList, max_bytes=LIMIT).job_id == 7
    assert r.decode(pack(BODY_DOCUMENT), r.UpdateBody, max_bytes=LIMIT).parameters == b"abcd"


@pytest.mark.parametrize("position", range(0, len(VALID), 7))
def test_a_flipped_bit_is_refused_or_breaks_the_signature(position: int) -> None:
    for bit in (1, 0x80):
        data = VALID[:position] + bytes([VALID[position] ^ bit]) + VALID[position + 1 :]
        with pytest.raises(MessageRefused):
            r.verify(r.decode(data, r.SignedUpdate, max_bytes=LIMIT), DOMAIN)


REPLAYS: dict[str, Callable[[], r.SignedRecord]] = {
    "to another job": lambda: msgspec.structs.replace(UPDATE, job_id=8),
    "to another round": lambda: msgspec.structs.replace(UPDATE, round_index=4),
    "to other terms": lambda: msgspec.structs.replace(UPDATE, terms_digest=d(9)),
    "from another model": lambda: msgspec.structs.replace(UPDATE, model_digest=d(9)),
    "with another update": lambda: msgspec.structs.replace(UPDATE, update_digest=d(9)),
    "with digests swapped": lambda: msgspec.structs.replace(
        UPDATE, model_digest=UPDATE.update_digest, update_digest=UPDATE.model_digest
    ),
    "as somebody else": lambda: msgspec.structs.replace(UPDATE, data_owner=address_of(OTHER_KEY)),
    "signed by somebody else": lambda: msgspec.structs.replace(
        UPDATE, signature=sign_digest(OTHER_KEY, UPDATE.message.digest(DOMAIN))
    ),
    "with a zero signature": lambda: msgspec.structs.replace(UPDATE, signature=bytes(65)),
    "with v of 0": lambda: msgspec.structs.replace(UPDATE, signature=UPDATE.signature[:64] + b"\0"),
    "with high s": lambda: msgspec.structs.replace(UPDATE, signature=_high_s(UPDATE.signature)),
    "an enrolment's signature": lambda: msgspec.structs.replace(UPDATE, signature=enrolment().signature),
}


def _high_s(signature: bytes) -> bytes:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    s = order - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


@pytest.mark.parametrize("name", sorted(REPLAYS))
def test_a_replay_or_swap_is_refused(name: str) -> None:
    with pytest.raises(MessageRefused):
        r.verify(REPLAYS[name](), DOMAIN)


@pytest.mark.parametrize(
    "domain",
    [
        typed.Domain("GalaxyJobs", "1", 1, CONTRACT),
        typed.Domain("GalaxyJobs", "1", 31337, ME),
    ],
)
def test_a_signature_for_another_chain_or_contract_is_refused(domain: typed.Domain) -> None:
    with pytest.raises(MessageRefused):
        r.verify(UPDATE, domain)


HOSTILE_JSON: list[bytes] = [
    b"",
    b"{}",
    b"null",
    b"[]",
    b'"terms"',
    b"{" * 100_000,
    b"[" * 1_000_000,
    b'{"a":' * 100_000,
    b'{"title":"' + b"x" * 900_000,
    b'{"seed":' + b"9" * 500_000 + b"}",
    b'{"seed":1e999999}',
    b'{"title":NaN}',
    b'{"title":"\xff\xfe"}',
    b'{"title":"\\ud800"}',
    b"\xef\xbb\xbf{}",
    b"\x00" * 1000,
    b'{"features":[' + b"{}," * 300_000,
    b'{"features":[],"label":{"kind":"number"},"arrays":[{"shape":[1125899906842624]}]}',
]


@pytest.mark.parametrize("data", HOSTILE_JSON, ids=lambda data: repr(data[:24]))
@pytest.mark.parametrize("decode", [decode_terms, decode_schema])
def test_hostile_documents_are_refused(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(JobRefused) as refused:
        decode(data)
    assert isinstance(refused.value, GalaxyError)
    assert len(str(refused.value)) < 600
