"""Laws of the messages: what is encoded comes back, what differs has another digest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.crypto.digest import checksummed
from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages import records as r
from galaxylearning.messages import terms as t
from galaxylearning.messages import typed
from galaxylearning.units import Address, Digest

digests = st.binary(min_size=32, max_size=32).map(Digest)
addresses = st.integers(1, 2**160 - 1).map(lambda n: checksummed(f"{n:040x}"))
job_ids = st.integers(1, 2**63 - 1)
round_indices = st.integers(0, 2**32 - 1)
signatures = st.binary(min_size=65, max_size=65)

updates = st.builds(
    r.SignedUpdate,
    job_id=job_ids,
    round_index=round_indices,
    terms_digest=digests,
    data_owner=addresses,
    model_digest=digests,
    update_digest=digests,
    signature=signatures,
)
bodies = st.builds(
    r.UpdateBody,
    job_id=job_ids,
    round_index=round_indices,
    data_owner=addresses,
    parameters=st.binary(max_size=300),
    buffers=st.binary(max_size=300),
)
lists = st.builds(
    lambda job, entries: r.CohortList(job, tuple(sorted(entries))), job_ids, st.sets(digests, max_size=20)
)
records = st.one_of(updates, bodies, lists)


@given(records)
def test_a_record_comes_back(record: r.Record) -> None:
    assert r.decode(r.encode(record), type(record), max_bytes=1 << 20) == record


@given(records, records)
def test_different_records_have_different_digests(one: r.Record, other: r.Record) -> None:
    assert (r.record_digest(one) == r.record_digest(other)) == (one == other)


@given(st.binary(max_size=400), st.sampled_from([r.SignedUpdate, r.UpdateBody, r.CohortList, r.ScoreTable]))
def test_arbitrary_bytes_are_refused(data: bytes, kind: type[r.Record]) -> None:
    try:
        record = r.decode(data, kind, max_bytes=1 << 20)
    except MessageRefused:
        return
    assert r.encode(record) == data


@given(updates, st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_never_gives_the_same_record(record: r.SignedUpdate, where: int, flip: int) -> None:
    data = bytearray(r.encode(record))
    data[where % len(data)] ^= flip
    try:
        other = r.decode(bytes(data), r.SignedUpdate, max_bytes=1 << 20)
    except MessageRefused:
        return
    assert other != record


@given(digests, job_ids, round_indices, addresses, digests)
def test_struct_hashes_tell_messages_apart(
    terms: Digest, job: int, index: int, owner: Address, other: Digest
) -> None:
    one = typed.Update(job, index, terms, owner, terms, terms)
    two = typed.Update(job, index, terms, owner, terms, other)
    assert (one.struct_hash() == two.struct_hash()) == (terms == other)


columns = st.builds(
    t.Column,
    name=st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20),
    kind=st.sampled_from(["number", "integer"]),
    mean=st.floats(-1e300, 1e300),
    std=st.floats(1e-300, 1e300),
    minimum=st.none() | st.floats(-10, 0),
    maximum=st.none() | st.floats(0, 10),
)


@given(st.lists(columns, min_size=1, max_size=6, unique_by=lambda c: c.name), columns)
def test_a_schema_comes_back_to_the_last_bit(features: list[t.Column], label: t.Column) -> None:
    if label.name in {column.name for column in features}:
        return
    schema = t.Schema(tuple(features), label)
    data = t.encode_schema(schema)
    assert t.decode_schema(data) == schema
    assert t.encode_schema(t.decode_schema(data)) == data


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_arbitrary_documents_are_refused(data: bytes) -> None:
    for decode in (t.decode_terms, t.decode_schema):
        try:
            decode(data)
        except JobRefused:
            continue
        raise AssertionError(f"accepted {data!r}")
