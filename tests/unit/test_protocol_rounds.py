"""One round's arithmetic: what honest updates change and are worth, sent as bodies or as integers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import UpdateRefused
from galaxylearning.graph import FlatModel
from galaxylearning.learning import UpdateMatrix
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.outcomes import STATUSES
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import quantizer, training_seed
from galaxylearning.units import Address
from plain_rounds import (
    JOB_ID,
    OWNERS,
    PLAN,
    honest,
    make_terms,
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
