"""What is refused in a round, and that the refused change nothing but their pay; buffers too."""

from __future__ import annotations

import numpy as np
import pytest

from galaxylearning.errors import BlobRefused, GalaxyError
from galaxylearning.graph import FlatModel
from galaxylearning.learning import encode_update
from galaxylearning.learning.gate import TOO_LARGE
from galaxylearning.messages.records import UpdateBody, encode
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import BUFFER_BITS, body_limit, quantizer
from galaxylearning.units import Address
from plain_rounds import (
    JOB_ID,
    OWNERS,
    PLAN,
    Bodies,
    honest,
    normed_model,
    plain_model,
    sealed,
    start,
    statuses,
    trained,
)


@pytest.fixture(scope="module")
def plain() -> FlatModel:
    return plain_model()


@pytest.fixture(scope="module")
def normed() -> FlatModel:
    return normed_model()


# ---- law 6: a bad update changes nothing but its sender's pay


def _malformed(job: JobComputation, who: Address) -> dict[str, bytes | GalaxyError | None]:
    params, buffers = trained(job, who)
    body = sealed(job, who, (params, buffers))
    bits = job.terms.plan.bits

    def raw(parameters: bytes, buffer_bytes: bytes = encode_update(buffers, BUFFER_BITS)) -> bytes:
        return encode(UpdateBody(JOB_ID, job.round_index, who, parameters, buffer_bytes))

    return {
        "absent": None,
        "could not be opened": BlobRefused("is not sealed to us", where="envelope"),
        "empty": b"",
        "not msgpack": b"\xc1" * 40,
        "cut short": body[:-1],
        "one byte more": body + b"\0",
        "far too long": body + bytes(body_limit(job.sizes, bits)),
        "another record": body.replace(b"update-body", b"updaet-body"),
        "one parameter less": raw(encode_update(params[:-1], bits)),
        "one parameter more": raw(encode_update(np.append(params, np.int32(1)), bits)),
        "half a parameter": raw(encode_update(params, bits)[:-1]),
        "no parameters": raw(b""),
        "beyond the largest level": raw((-(2**15) * np.ones(params.size)).astype("<i2").tobytes()),
        "a buffer that the model has not": raw(encode_update(params, bits), b"\0\0\0\0"),
        "another job": sealed(job, who, (params, buffers), job_id=JOB_ID + 1),
        "an earlier round": sealed(job, who, (params, buffers), round_index=0),
        "a later round": sealed(job, who, (params, buffers), round_index=2),
        "another's update": sealed(job, OWNERS[1], trained(job, OWNERS[1])),
    }


def test_a_malformed_update_changes_nothing_but_its_senders_pay(plain: FlatModel) -> None:
    def second_round() -> JobComputation:
        job = start(plain)
        job.advance(honest(job))
        return job

    bad = OWNERS[0]
    reference = second_round()
    without = reference.advance(honest(reference, *OWNERS[1:]))
    cases = _malformed(second_round(), bad)
    for name, body in cases.items():
        job = second_round()
        outcome = job.advance(honest(job, *OWNERS[1:]) | {bad: body})
        decision = outcome.decisions[0]
        assert decision.data_owner == bad
        assert decision.status == ("absent" if body is None else "malformed"), name
        assert decision.reason, name
        assert len(decision.reason) <= 200
        assert (decision.weight, decision.cosine) == (0, 0.0)
        assert job.model_bytes() == reference.model_bytes(), name
        assert outcome.decisions[1:] == without.decisions, name
        assert outcome.scores == without.scores, name
        assert bad not in outcome.updates


def test_the_neighbour_of_the_malformed_is_accepted(plain: FlatModel) -> None:
    job = start(plain)
    job.advance(honest(job))
    assert statuses(job, honest(job)) == dict.fromkeys(OWNERS, "accepted")


@pytest.mark.parametrize("kind", ["zero", "against", "huge against"])
def test_a_useless_update_is_rejected_and_leaves_no_trace(plain: FlatModel, kind: str) -> None:
    job, reference = start(plain), start(plain)
    reference.advance(honest(reference, *OWNERS[1:]))
    params, buffers = trained(job, OWNERS[0])
    top = np.int32(2**15 - 1)
    sent = {
        "zero": np.zeros_like(params),
        "against": -params,
        "huge against": np.where(params > 0, -top, top).astype(np.int32),
    }[kind]
    outcome = job.advance(honest(job, *OWNERS[1:]) | {OWNERS[0]: sealed(job, OWNERS[0], (sent, buffers))})
    assert outcome.decisions[0].status == "rejected"
    assert outcome.decisions[0].reason
    assert OWNERS[0] not in outcome.scores
    assert OWNERS[0] in outcome.updates
    assert job.model_bytes() == reference.model_bytes()


@pytest.mark.parametrize("times", [3, 100])
def test_a_long_update_weighs_what_its_norm_allows(plain: FlatModel, times: int) -> None:
    job = start(plain)
    params, buffers = trained(job, OWNERS[0])
    # An update cannot be longer than its bits allow.
    times = min(times, int((2**15 - 1) // np.abs(params).max()))
    assert times >= 3
    large = (params * np.int32(times)).astype(np.int32)
    outcome = job.advance(honest(job, *OWNERS[1:]) | {OWNERS[0]: sealed(job, OWNERS[0], (large, buffers))})
    weight, others = outcome.decisions[0].weight, [d.weight for d in outcome.decisions[1:]]
    assert weight <= PLAN.max_weight // (times - 1) ** 2 < min(others)
    assert outcome.decisions[0].reason == ("" if weight else TOO_LARGE)


def test_nothing_accepted_leaves_the_model_as_it_was(plain: FlatModel) -> None:
    job = start(plain)
    job.advance(honest(job))
    state = job.state
    nothing: list[Bodies] = [{}, dict.fromkeys(OWNERS), {OWNERS[0]: b"", OWNERS[1]: BlobRefused("no")}]
    for bodies in nothing:
        outcome = job.advance(bodies)
        assert job.state is state
        assert outcome.after is outcome.before
        assert outcome.scores == {}
        assert len(outcome.decisions) == len(bodies)
    assert job.round_index == 4
    assert statuses(job, honest(job)) == dict.fromkeys(OWNERS, "accepted")
    assert job.state is not state


def test_a_round_without_a_step_does_not_hide_what_came_before_it(plain: FlatModel) -> None:
    job = start(plain)
    job.advance(honest(job))
    last = job.state.previous_step
    job.advance(dict.fromkeys(OWNERS))
    assert job.state.previous_step is last
    assert last is not None
    replayed = quantizer(PLAN).quantize(last.astype(np.float32))
    nothing = np.zeros(job.sizes[1], np.int32)
    bodies = honest(job, *OWNERS[1:]) | {OWNERS[0]: sealed(job, OWNERS[0], (replayed, nothing))}
    scores = job.advance(bodies).scores
    assert abs(scores[OWNERS[0]][0]) < 0.01 * scores[OWNERS[1]][0]


# ---- buffers


def test_batch_norm_buffers_are_federated(normed: FlatModel) -> None:
    job = start(normed)
    assert job.sizes[1] > 0
    before = job.state.buffers
    changes = {who: trained(job, who) for who in OWNERS}
    outcome = job.advance({who: sealed(job, who, change) for who, change in changes.items()})
    assert {d.status for d in outcome.decisions} == {"accepted"}
    weights = {d.data_owner: d.weight for d in outcome.decisions}
    summed = sum(weights[who] * changes[who][1].astype(np.int64) for who in OWNERS)
    step = summed / sum(weights.values()) * (1024.0 / (2**31 - 1))
    np.testing.assert_allclose(job.state.buffers, before + step, rtol=0, atol=1e-6)
    assert not np.array_equal(job.state.buffers, before)


@pytest.mark.parametrize(
    ("level", "status"), [(-(2**31 - 1), "malformed"), (2**31 - 1, "rejected"), (2**25, "rejected")]
)
def test_hostile_buffers_are_in_no_model(normed: FlatModel, level: int, status: str) -> None:
    job, reference = start(normed), start(normed)
    params, buffers = trained(job, OWNERS[0])
    before, changes = job.state, {who: trained(job, who) for who in OWNERS}
    hostile = np.full_like(buffers, level)
    reference.advance(honest(reference, *OWNERS[1:]))
    outcome = job.advance(honest(job, *OWNERS[1:]) | {OWNERS[0]: sealed(job, OWNERS[0], (params, hostile))})
    # A variance of minus a thousand has no square root: under it the model is not even finite.
    assert outcome.decisions[0].status == status
    assert "buffers" in outcome.decisions[0].reason
    if status == "malformed":
        assert job.model_bytes() == reference.model_bytes()
    # Parameters that were read may count in how the others are weighed, and in nothing else.
    weights = {decision.data_owner: decision.weight for decision in outcome.decisions}
    assert weights[OWNERS[0]] == 0
    after = (job.state.params, job.state.buffers)
    for part, (old, new, scale) in enumerate(
        zip(
            (before.params, before.buffers), after, (quantizer(PLAN).scale, (2**31 - 1) / 1024.0), strict=True
        )
    ):
        summed = sum(weights[who] * changes[who][part].astype(np.int64) for who in OWNERS)
        np.testing.assert_allclose(new, old + summed / sum(weights.values()) / scale, rtol=0, atol=1e-6)


def test_without_buffers_of_its_own_an_honest_owner_is_still_heard(normed: FlatModel) -> None:
    """The hidden set's own step says how far buffers may move, so idle ones cannot shut the others out."""
    job = start(normed)
    idle = np.zeros(job.sizes[1], np.int32)
    bodies: dict[Address, bytes | GalaxyError | None] = {
        who: sealed(job, who, (trained(job, who)[0], idle)) for who in OWNERS[:3]
    }
    assert statuses(job, bodies | honest(job, OWNERS[3])) == dict.fromkeys(OWNERS, "accepted")
