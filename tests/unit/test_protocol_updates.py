"""An update from training at home to the body it travels in, and the hidden set it is held against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import JobRefused, MessageRefused, UpdateRefused
from galaxylearning.graph import FlatModel
from galaxylearning.learning import train_local
from galaxylearning.learning.plan import MAX_STEPS
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.records import UpdateBody, decode
from galaxylearning.protocol import updates
from galaxylearning.protocol.hidden_set import MIN_TEST_ROWS, HiddenSet, Rows
from galaxylearning.protocol.updates import (
    body_limit,
    decode_body,
    encode_body,
    hidden_plan,
    local_plan,
    quantizer,
    server_optimizer,
    train_hidden,
    train_update,
)
from plain_rounds import (
    JOB_ID,
    OWNERS,
    PLAN,
    clouds,
    make_terms,
    normed_model,
    plain_model,
    sealed,
    start,
    trained,
)


@pytest.fixture(scope="module")
def plain() -> FlatModel:
    return plain_model()


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}


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


@pytest.mark.parametrize(
    "most",
    [
        {"learning_rate": 1e3, "momentum": 1 - 2**-53, "weight_decay": 1e3, "prox_mu": 1e3},
        {"optimizer": "adam", "batch_size": 1 << 20, "steps": 1_000_000},
        {"steps": None, "epochs": 10_000},
        {"server_learning_rate": 1e3, "server_momentum": 1 - 2**-53, "beta2": 1 - 2**-53, "tau": 1e3},
    ],
)
def test_what_terms_allow_local_training_and_the_server_take(most: dict[str, Any]) -> None:
    plan = Plan(**_fields(PLAN) | {"momentum": 0.0, "epochs": None, "steps": 1} | most)
    # What they refuse they call a mistake, which ends a node.
    assert local_plan(plan).batch_size == plan.batch_size
    assert server_optimizer(plan).tau == plan.tau


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
@pytest.mark.parametrize("clip_norm", [1e6, 1e-9, 1e-200])
def test_no_plan_takes_a_server_beyond_float32(name: str, clip_norm: float) -> None:
    steep = {"server_optimizer": name, "server_learning_rate": 1e3, "tau": 1e-9, "clip_norm": clip_norm}
    plan = Plan(**_fields(PLAN) | steep)
    server = server_optimizer(plan)
    state, params = server.init(2), np.array([0.0, 3e38], np.float32)
    for _ in range(3):
        state, params = server.apply(state, params, np.full(2, clip_norm))
    assert np.isfinite(params).all()


@pytest.mark.parametrize(
    ("plan", "rows", "steps", "epochs"),
    [
        ({"steps": 10}, 50, 40, None),
        ({"steps": 20}, 50, 40, None),
        ({"steps": 50}, 50, 50, None),
        ({"steps": 300_000}, 10_000_000, MAX_STEPS, None),
        ({"steps": None, "epochs": 2}, 50, None, 8),
        ({"steps": None, "epochs": 3}, 50, None, 10),
        ({"steps": None, "epochs": 12}, 50, None, 12),
        ({"steps": None, "epochs": 2, "batch_size": 1}, 300_000, None, 3),
        ({"steps": 10, "gate": False}, 50, 10, None),
        ({"steps": 10, "rule": "fltrust"}, 50, 10, None),
    ],
)
def test_the_hidden_sets_step_is_four_times_as_long(
    plan: dict[str, Any], rows: int, steps: int | None, epochs: int | None
) -> None:
    given = Plan(**_fields(PLAN) | plan)
    found = hidden_plan(given, rows)
    assert (found.steps, found.epochs) == (steps, epochs)
    own = local_plan(given)
    assert replace(found, steps=own.steps, epochs=own.epochs) == own


def test_the_hidden_sets_step_is_one_long_training(plain: FlatModel) -> None:
    rows, state = clouds(40, seed=2), plain.initial()
    terms, longer = make_terms(), make_terms(Plan(**_fields(PLAN) | {"steps": 16}))
    long = train_hidden(plain, terms, state, rows, rng=np.random.default_rng(5))
    assert np.array_equal(long[0], train_update(plain, longer, state, rows, rng=np.random.default_rng(5))[0])
    assert not np.array_equal(
        long[0], train_update(plain, terms, state, rows, rng=np.random.default_rng(5))[0]
    )


def test_where_the_long_step_diverges_it_is_a_data_owners(plain: FlatModel, monkeypatch: Any) -> None:
    rows, state, terms = clouds(40, seed=2), plain.initial(), make_terms()
    short = train_update(plain, terms, state, rows, rng=np.random.default_rng(5))
    trained_for: list[int | None] = []

    def diverging(*args: Any, **named: Any) -> Any:
        trained_for.append(args[4].steps)
        if args[4].steps != PLAN.steps:
            raise UpdateRefused("not finite", where="update")
        return train_local(*args, **named)

    monkeypatch.setattr(updates, "train_local", diverging)
    found = train_hidden(plain, terms, state, rows, rng=np.random.default_rng(5))
    assert trained_for == [16, 4]
    assert np.array_equal(found[0], short[0])


def test_buffers_are_held_against_those_of_a_data_owners_training() -> None:
    model, rows, terms = normed_model(), clouds(40, seed=2), make_terms()
    found = train_hidden(model, terms, model.initial(), rows, rng=np.random.default_rng(5))
    short = train_update(model, terms, model.initial(), rows, rng=np.random.default_rng(5))
    assert found[1].size
    assert np.array_equal(found[1], short[1])
    assert not np.array_equal(found[0], short[0])
