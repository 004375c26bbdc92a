"""One round's arithmetic: what counts, what is refused, and that the refused change nothing but their pay."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from galaxylearning.errors import BlobRefused, GalaxyError, JobRefused, MessageRefused, UpdateRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning import UpdateMatrix, encode_update
from galaxylearning.learning.gate import TOO_LARGE
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.records import UpdateBody, decode, encode
from galaxylearning.messages.terms import Admission, Column, EvaluatorSeat, Price, Schema, Terms, Windows
from galaxylearning.protocol.hidden_set import MIN_TEST_ROWS, HiddenSet, Rows
from galaxylearning.protocol.outcomes import STATUSES
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import (
    BUFFER_BITS,
    body_limit,
    decode_body,
    encode_body,
    local_plan,
    quantizer,
    server_optimizer,
    train_update,
    training_seed,
)
from galaxylearning.units import Address

I32 = NDArray[np.int32]
JOB_ID = 7
HEX = "ab" * 32
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
OWNERS = tuple(Address(f"0x{n:040d}") for n in (1, 2, 3, 4))
PLAN = Plan(
    rounds=3, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=1, maximum_owners=8
)
Bodies = Mapping[Address, bytes | GalaxyError | None]


def make_terms(plan: Plan = PLAN, *, seed: int = 3) -> Terms:
    return Terms(
        title="Two clouds",
        description="",
        requester="0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        requester_key=HEX,
        evaluators=(EvaluatorSeat(f"0x{9:040d}", HEX, HEX),),
        schema=Schema((Column("x", "number"),), Column("y", "category", classes=("a", "b"))),
        plan=plan,
        price=Price(token=TOKEN, bounty="1000", fee_per_seat="1", target_gain=0.5),
        admission=Admission(),
        windows=Windows(1, 1, 1, 1, 1, 1, 1),
        graph=HEX,
        loss="cross_entropy",
        model=HEX,
        model_digest=HEX,
        test_set=HEX,
        test_set_digest=HEX,
        test_rows=128,
        seed=seed,
    )


def clouds(rows: int, *, seed: int) -> Rows:
    """Two classes in the plane, mostly apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    centres = np.where(labels[:, None] == 1, 1.0, -1.0)
    return Rows((centres + rng.normal(0, 0.8, (rows, 2))).astype(np.float32), labels.astype(np.int64))


HIDDEN = clouds(128, seed=100)


def build(module: nn.Module) -> FlatModel:
    graph, weights = compile_model(module, (torch.from_numpy(HIDDEN.inputs[:3]),), loss="cross_entropy")
    return FlatModel(graph, weights)


@pytest.fixture(scope="module")
def plain() -> FlatModel:
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)))


@pytest.fixture(scope="module")
def normed() -> FlatModel:
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)))


def start(model: FlatModel, plan: Plan = PLAN, *, seed: int = 3) -> JobComputation:
    terms = make_terms(plan, seed=seed)
    return JobComputation(terms, JOB_ID, model, HiddenSet.split(HIDDEN, seed=terms.seed))


def trained(job: JobComputation, who: Address) -> tuple[I32, I32]:
    """What an honest data owner makes of the round under way."""
    return train_update(
        job.model,
        job.terms,
        (job.state.params, job.state.buffers),
        clouds(48, seed=int(who, 16)),
        rng=training_seed(job.terms, job.round_index, who),
    )


def honest(job: JobComputation, *owners: Address) -> dict[Address, bytes | GalaxyError | None]:
    return {who: sealed(job, who, trained(job, who)) for who in owners or OWNERS}


def sealed(job: JobComputation, who: Address, update: tuple[I32, I32], **changes: Any) -> bytes:
    facts: dict[str, Any] = {"job_id": JOB_ID, "round_index": job.round_index, "data_owner": who} | changes
    return encode_body(
        facts["job_id"], facts["round_index"], facts["data_owner"], update, job.terms.plan.bits
    )


def statuses(job: JobComputation, bodies: Bodies) -> dict[Address, str]:
    return {decision.data_owner: decision.status for decision in job.advance(bodies).decisions}


# ---- honest rounds


def test_honest_rounds_improve_the_model_and_every_owner_has_a_value(plain: FlatModel) -> None:
    job = start(plain)
    before = job.judge.utility(job.state.params.astype(np.float64), job.state.buffers)
    for index in range(3):
        assert job.round_index == index
        outcome = job.advance(honest(job))
        assert [d.status for d in outcome.decisions] == ["accepted"] * 4
        assert [d.data_owner for d in outcome.decisions] == list(OWNERS)
        assert set(outcome.scores) == set(OWNERS)
    after = job.judge.utility(job.state.params.astype(np.float64), job.state.buffers)
    assert after > before + 0.1
    # The path-integrated values of the first round (nothing to project off yet) add up to its gain.
    first = job.outcomes[0]
    gain = job.judge.utility(first.after.params.astype(np.float64), first.after.buffers) - before
    assert sum(value for value, _ in first.scores.values()) == pytest.approx(gain, rel=0.02)
    assert all(error > 0 for _, error in first.scores.values())


def test_the_step_is_the_weighted_mean_of_the_updates_by_hand(plain: FlatModel) -> None:
    job = start(plain)
    updates = {who: trained(job, who) for who in OWNERS}
    outcome = job.advance({who: sealed(job, who, update) for who, update in updates.items()})
    weights = {d.data_owner: d.weight for d in outcome.decisions}
    summed = np.sum([weights[who] * updates[who][0].astype(np.int64) for who in OWNERS], axis=0)
    step = summed / sum(weights.values()) * PLAN.clip_norm / (2**15 - 1)
    expected = outcome.before.params + step.astype(np.float32)
    np.testing.assert_allclose(outcome.after.params, expected, rtol=0, atol=1e-7)


def test_the_same_inputs_give_the_same_bytes_in_any_order(plain: FlatModel) -> None:
    one, two, other = start(plain), start(plain), start(plain, seed=4)
    for _ in range(2):
        bodies = honest(one)
        first, second = one.advance(bodies), two.advance(dict(reversed(bodies.items())))
        assert one.model_digest() == two.model_digest()
        assert one.model_bytes() == two.model_bytes()
        assert first.scores == second.scores
        assert first.decisions == second.decisions
        other.advance(honest(other))
    assert other.model_digest() != one.model_digest()


def test_every_identity_and_round_draws_its_own_batches() -> None:
    terms = make_terms()
    draws = {
        (who, index): training_seed(terms, index, who).integers(0, 1 << 62)
        for who in OWNERS
        for index in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert training_seed(terms, 1, OWNERS[0]).integers(0, 1 << 62) == draws[OWNERS[0], 1]
    lower = Address(OWNERS[0].lower())
    assert training_seed(terms, 1, lower).integers(0, 1 << 62) == draws[OWNERS[0], 1]


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_every_server_optimiser_trains(plain: FlatModel, name: str) -> None:
    adaptive = name in ("fedadam", "fedyogi")
    plan = Plan(
        rounds=3,
        learning_rate=0.3,
        steps=4,
        clip_norm=2.0,
        maximum_owners=8,
        server_optimizer=name,  # type: ignore[arg-type]
        server_learning_rate=0.1 if adaptive else 1.0,
        server_momentum=0.5 if name != "fedavg" else 0.0,
        optimizer="adam" if adaptive else "sgd",
    )
    job = start(plain, plan)
    before = job.judge.utility(job.state.params.astype(np.float64), job.state.buffers)
    for _ in range(3):
        assert set(job.advance(honest(job)).scores) == set(OWNERS)
    assert job.judge.utility(job.state.params.astype(np.float64), job.state.buffers) > before + 0.05
    again = start(plain, plan)
    for _ in range(3):
        again.advance(honest(again))
    assert again.model_digest() == job.model_digest()


def test_without_the_gate_everything_well_formed_counts_alike(plain: FlatModel) -> None:
    gated, open_to_all = start(plain), start(plain, Plan(**_fields(PLAN) | {"gate": False}))
    against = trained(gated, OWNERS[0])
    bodies = honest(gated, *OWNERS[1:]) | {OWNERS[0]: sealed(gated, OWNERS[0], (-against[0], against[1]))}
    assert statuses(gated, bodies)[OWNERS[0]] == "rejected"
    outcome = open_to_all.advance(bodies)
    assert {(d.status, d.weight) for d in outcome.decisions} == {("accepted", PLAN.max_weight)}
    assert outcome.scores[OWNERS[0]][0] < 0 < outcome.scores[OWNERS[1]][0]


def test_without_novelty_a_replay_of_the_last_step_is_paid_and_with_it_it_is_not(plain: FlatModel) -> None:
    found = {}
    for novelty in (True, False):
        job = start(plain, Plan(**_fields(PLAN) | {"novelty": novelty}))
        job.advance(honest(job))
        assert job.state.previous_step is not None
        replayed = quantizer(job.terms.plan).quantize(job.state.previous_step.astype(np.float32))
        nothing = np.zeros(job.sizes[1], np.int32)
        bodies = honest(job, *OWNERS[1:]) | {OWNERS[0]: sealed(job, OWNERS[0], (replayed, nothing))}
        scores = job.advance(bodies).scores
        found[novelty] = scores[OWNERS[0]][0] / np.median([scores[who][0] for who in OWNERS[1:]])
    assert abs(found[True]) < 0.01 < 0.1 < found[False]


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}


# ---- updates as integers, as a simulation has them


def integers(job: JobComputation, *owners: Address, bits: int = 16) -> UpdateMatrix:
    """What the honest bodies of these owners hold."""
    found = [trained(job, who) for who in owners]
    rows: Any = np.array([params for params, _ in found], np.int16 if bits <= 16 else np.int32)
    return UpdateMatrix(
        owners,
        rows,
        np.array([buffers for _, buffers in found], np.int32).reshape(len(owners), -1),
        bits,
    )


@pytest.mark.parametrize("kind", ["plain", "normed"])
def test_integers_give_what_their_bodies_give(request: pytest.FixtureRequest, kind: str) -> None:
    model: FlatModel = request.getfixturevalue(kind)
    one, other = start(model), start(model)
    gone, broken = OWNERS[1], OWNERS[2]
    for _ in range(2):
        bodies = honest(one, OWNERS[0], OWNERS[3]) | {gone: None, broken: UpdateRefused("cut short")}
        updates = integers(one, OWNERS[3], OWNERS[0])
        first = one.advance(bodies)
        second = other.advance_updates(updates, absent=[gone], malformed={broken: "cut short"})
        assert first.decisions == second.decisions
        assert first.scores == second.scores
        assert first.model_digest == second.model_digest == one.model_digest() == other.model_digest()
        assert (first.measured_before, first.measured_after) == (
            second.measured_before,
            second.measured_after,
        )
    assert first.measured_after == one.judge.measured(one.state)
    assert first.measured_before == one.outcomes[0].measured_after == one.judge.measured(first.before)


def test_an_outcome_is_arrays_in_order_of_address(plain: FlatModel) -> None:
    job = start(plain)
    outcome = job.advance_updates(integers(job, OWNERS[3], OWNERS[0]), absent=[OWNERS[1]])
    assert outcome.data_owners == (OWNERS[0], OWNERS[1], OWNERS[3])
    assert [STATUSES[code] for code in outcome.codes] == ["accepted", "absent", "accepted"]
    assert outcome.weights[1] == 0 < min(outcome.weights[[0, 2]])
    assert outcome.values[1] == outcome.errors[1] == outcome.cosines[1] == 0.0
    assert outcome.scores == {
        who: (outcome.values[i], outcome.errors[i]) for i, who in ((0, OWNERS[0]), (2, OWNERS[3]))
    }


def test_threads_change_nothing_in_a_round(plain: FlatModel) -> None:
    one = start(plain)
    with ThreadPoolExecutor(2) as threads:
        two = JobComputation(one.terms, JOB_ID, plain, one.hidden, spread=threads.map)
        bodies = honest(one)
        first, second = one.advance(bodies), two.advance(bodies)
    assert (first.scores, first.model_digest) == (second.scores, second.model_digest)


def test_updates_of_another_shape_are_refused_and_nothing_moves(plain: FlatModel) -> None:
    job = start(plain)
    good = integers(job, *OWNERS[:2])
    narrow = UpdateMatrix(good.owners, good.parameters[:, 1:].copy(), good.buffers, 16)
    wide = UpdateMatrix(good.owners, good.parameters.astype(np.int32), good.buffers, 17)
    more = UpdateMatrix(good.owners, good.parameters, np.zeros((2, 1), np.int32), 16)
    for bad in (narrow, wide, more):
        with pytest.raises(UpdateRefused, match="must hold"):
            job.advance_updates(bad)
    twices: list[Any] = [
        {"absent": [OWNERS[0]]},
        {"malformed": {OWNERS[1]: "no"}},
        {"absent": [OWNERS[2]] * 2},
    ]
    for twice in twices:
        with pytest.raises(UpdateRefused, match="once"):
            job.advance_updates(good, **twice)
    assert (job.round_index, job.outcomes) == (0, [])
    assert len(job.advance_updates(good).scores) == 2


def test_wide_integers_are_rounds_too(plain: FlatModel) -> None:
    plan = Plan(**_fields(PLAN) | {"bits": 24})
    coarse, fine = start(plain), start(plain, plan)
    few, many = coarse.advance(honest(coarse)), fine.advance(honest(fine))
    assert many.updates.parameters.dtype == np.int32
    for who in OWNERS:
        assert many.scores[who][0] == pytest.approx(few.scores[who][0], rel=0.01)


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
def test_hostile_buffers_change_nothing(normed: FlatModel, level: int, status: str) -> None:
    job, reference = start(normed), start(normed)
    params, buffers = trained(job, OWNERS[0])
    hostile = np.full_like(buffers, level)
    reference.advance(honest(reference, *OWNERS[1:]))
    outcome = job.advance(honest(job, *OWNERS[1:]) | {OWNERS[0]: sealed(job, OWNERS[0], (params, hostile))})
    # A variance of minus a thousand has no square root: under it the model is not even finite.
    assert outcome.decisions[0].status == status
    assert "buffers" in outcome.decisions[0].reason
    assert job.model_bytes() == reference.model_bytes()


def test_without_buffers_of_its_own_an_honest_owner_is_still_heard(normed: FlatModel) -> None:
    """The hidden set's own step says how far buffers may move, so idle ones cannot shut the others out."""
    job = start(normed)
    idle = np.zeros(job.sizes[1], np.int32)
    bodies: dict[Address, bytes | GalaxyError | None] = {
        who: sealed(job, who, (trained(job, who)[0], idle)) for who in OWNERS[:3]
    }
    assert statuses(job, bodies | honest(job, OWNERS[3])) == dict.fromkeys(OWNERS, "accepted")


# ---- training at home, the body, the hidden set


def test_an_update_is_clipped_and_quantised_before_it_leaves(plain: FlatModel) -> None:
    job = start(plain, Plan(**_fields(PLAN) | {"clip_norm": 0.05}))
    params, _ = trained(job, OWNERS[0])
    norm = float(np.linalg.norm(quantizer(job.terms.plan).dequantize(params, 1)))
    assert norm == pytest.approx(0.05, rel=1e-2)
    loose = start(plain)
    params, _ = trained(loose, OWNERS[0])
    assert 0.05 < float(np.linalg.norm(quantizer(PLAN).dequantize(params, 1))) < PLAN.clip_norm


def test_diverged_training_is_refused_and_names_the_step(plain: FlatModel) -> None:
    job = start(plain, Plan(**_fields(PLAN) | {"learning_rate": 1000.0, "weight_decay": 1000.0, "steps": 40}))
    with pytest.raises(UpdateRefused, match="step"):
        trained(job, OWNERS[0])


def test_a_body_comes_back_as_it_was_and_only_to_its_own_place(plain: FlatModel) -> None:
    job = start(plain)
    update = trained(job, OWNERS[0])
    body = sealed(job, OWNERS[0], update)
    facts: dict[str, Any] = {"job_id": JOB_ID, "round_index": 0, "data_owner": OWNERS[0]}
    shape: dict[str, Any] = {"sizes": job.sizes, "bits": 16}
    params, buffers = decode_body(body, **facts, **shape)
    np.testing.assert_array_equal(params, update[0])
    np.testing.assert_array_equal(buffers, update[1])
    assert len(body) <= body_limit(job.sizes, 16)
    for field, other in (("job_id", 8), ("round_index", 1), ("data_owner", OWNERS[1])):
        with pytest.raises(MessageRefused, match=rf"UpdateBody\.{field}"):
            decode_body(body, **(facts | {field: other}), **shape)
    with pytest.raises(UpdateRefused):
        decode_body(body, **facts, sizes=(job.sizes[0] + 1, job.sizes[1]), bits=16)
    with pytest.raises(UpdateRefused):
        decode_body(body, **facts, sizes=job.sizes, bits=24)
    assert decode(body, UpdateBody, max_bytes=len(body)).round_index == 0


@pytest.mark.parametrize("bits", [8, 16, 17, 24])
def test_bodies_of_every_width_fit_their_limit(bits: int) -> None:
    largest = np.full(1000, 2 ** (bits - 1) - 1, np.int32)
    buffers = np.full(100, 2**31 - 1, np.int32)
    body = encode_body(2**40, 2**31, OWNERS[3], (largest, buffers), bits)
    assert len(body) <= body_limit((1000, 100), bits)
    facts: dict[str, Any] = {"job_id": 2**40, "round_index": 2**31, "data_owner": OWNERS[3]}
    params, _ = decode_body(body, **facts, sizes=(1000, 100), bits=bits)
    np.testing.assert_array_equal(params, largest)


def test_the_hidden_set_is_cut_in_two_halves_that_share_no_row() -> None:
    rows = Rows(np.arange(130, dtype=np.float32)[:, None], np.arange(130, dtype=np.int64))
    split = HiddenSet.split(rows, seed=5)
    assert (len(split.gating), len(split.paying), len(split.everything)) == (65, 65, 130)
    assert sorted([*split.gating.labels, *split.paying.labels]) == list(range(130))
    for half in (split.gating, split.paying):
        np.testing.assert_array_equal(half.inputs[:, 0], half.labels)
    again, other = HiddenSet.split(rows, seed=5), HiddenSet.split(rows, seed=6)
    np.testing.assert_array_equal(again.gating.labels, split.gating.labels)
    assert not np.array_equal(other.gating.labels, split.gating.labels)


def test_a_hidden_set_must_be_large_enough() -> None:
    def rows(n: int) -> Rows:
        return Rows(np.zeros((n, 2), np.float32), np.zeros(n, np.int64))

    assert len(HiddenSet.split(rows(MIN_TEST_ROWS), seed=0).paying) == MIN_TEST_ROWS // 2
    with pytest.raises(UpdateRefused, match=rf"{MIN_TEST_ROWS - 1} rows; at least {MIN_TEST_ROWS}"):
        HiddenSet.split(rows(MIN_TEST_ROWS - 1), seed=0)


def test_plans_become_their_parts_or_are_refused() -> None:
    assert local_plan(PLAN).steps == 4
    assert server_optimizer(PLAN).init(3) is not None
    assert (quantizer(PLAN).bits, quantizer(PLAN).max_abs) == (16, 2.0)
    # The largest sum that terms can ask for still fits the accumulator.
    roomy = Plan(rounds=1, steps=1, bits=24, max_weight=1 << 16, maximum_owners=100_000)
    assert quantizer(roomy).levels == 2**23 - 1
    for name in ("bits", "max_weight", "maximum_owners"):
        with pytest.raises(JobRefused, match=rf"plan\.{name}"):
            Plan(**_fields(roomy) | {name: getattr(roomy, name) + 1})
