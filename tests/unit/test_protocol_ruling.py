"""Rounds by another rule than the gate: who counts, what is paid for, and plans that cannot work."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import galaxylearning as gl
from galaxylearning.errors import JobRefused, UpdateRefused
from galaxylearning.learning import UpdateMatrix
from galaxylearning.learning.gate import NO_REFERENCE
from galaxylearning.learning.rules import RULES
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Column, Schema, decode_terms, encode_terms
from galaxylearning.protocol import rounds
from galaxylearning.protocol.hidden_set import HiddenSet
from galaxylearning.protocol.job import CompiledJob, compile_job
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.ruling import NOT_SELECTED, TOO_FEW, faulty_among
from galaxylearning.protocol.updates import train_hidden
from galaxylearning.simulation.prepare import account, terms_without_chain
from plain_rounds import HIDDEN

OWNERS = tuple(account(position) for position in range(9))
SCHEMA = Schema((Column("x", "number"), Column("y", "number")), Column("z", "category", classes=("a", "b")))


def compiled(module: nn.Module | None = None, **changes: Any) -> CompiledJob:
    torch.manual_seed(1)
    plan = {"rounds": 3, "steps": 4, "batch_size": 16, "clip_norm": 2.0, "maximum_owners": 9}
    job = gl.Job(
        title="Two clouds",
        model=module or nn.Linear(2, 2),
        loss="cross_entropy",
        schema=SCHEMA,
        plan=Plan(**(plan | changes)),
        price=gl.Price(bounty="10", target_gain=0.5),
        test_data="unused.csv",
        privacy="sealed",
    )
    return compile_job(job, HIDDEN)


def start(rule: str, fraction: float = 0.12, module: nn.Module | None = None) -> JobComputation:
    made = compiled(module, rule=rule, faulty_fraction=fraction)
    terms = terms_without_chain(made)
    return JobComputation(terms, 1, made.model, HiddenSet.split(HIDDEN, seed=terms.seed))


def updates(job: JobComputation, owners: tuple[Any, ...] = OWNERS) -> UpdateMatrix:
    """Roughly the hidden set's step from everybody, and its opposite, much larger, from the last."""
    rng = np.random.default_rng(5)
    step = job.hidden_step()[0]
    matrix = step + rng.integers(-300, 300, (len(owners), step.size))
    matrix[-1] = -9 * step
    buffers = np.zeros((len(owners), job.sizes[1]), np.int32)
    return UpdateMatrix(owners, np.clip(matrix, -32767, 32767).astype(np.int16), buffers, 16)


def values(outcome: RoundOutcome) -> float:
    return float(outcome.values.sum())


@pytest.mark.parametrize(("rule", "is_needed"), [("gate", True), ("fltrust", True), ("median", False)])
def test_the_hidden_sets_step_can_be_had_ahead_and_is_taken_once_a_round(
    rule: str, is_needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, ahead = start(rule), start(rule)
    given = updates(job)
    steps: list[int] = []

    def train(*args: Any, **kwargs: Any) -> Any:
        steps.append(job.round_index)
        return train_hidden(*args, **kwargs)

    monkeypatch.setattr(rounds, "train_hidden", train)
    ahead.prepare()
    ahead.prepare()
    assert len(steps) == is_needed
    after = ahead.advance_updates(given).model_digest
    assert len(steps) == is_needed
    assert job.advance_updates(given).model_digest == after
    steps.clear()
    # The next round has another step, also where the model stayed the same.
    ahead.prepare()
    assert len(steps) == is_needed
    ahead.advance_updates(given.only([]))
    ahead.prepare()
    assert len(steps) == 2 * is_needed


def test_a_hidden_step_that_diverges_lets_nobody_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def diverge(*_args: Any, **_kwargs: Any) -> None:
        tries.append(1)
        raise UpdateRefused("not finite", where="update")

    job = start("gate")
    given = updates(job)
    job.advance_updates(given)
    monkeypatch.setattr(rounds, "train_hidden", diverge)
    job.prepare()
    job.prepare()
    assert len(tries) == 1
    before = job.model_digest()
    outcome = job.advance_updates(given)
    assert len(tries) == 1
    assert outcome.model_digest == before
    assert {decision.reason for decision in outcome.decisions} == {NO_REFERENCE}


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"gate", "mean"}))
def test_one_saboteur_of_nine_cannot_turn_the_model(rule: str) -> None:
    job = start(rule)
    outcome = job.advance_updates(updates(job))
    assert outcome.measured_after.utility > outcome.measured_before.utility
    assert outcome.values[-1] <= 0


def test_the_mean_can_be_turned() -> None:
    job = start("mean")
    outcome = job.advance_updates(updates(job))
    assert outcome.measured_after.utility < outcome.measured_before.utility


@pytest.mark.parametrize("rule", ["mean", "multi-krum", "geometric-median", "fltrust", "centred-clipping"])
def test_values_add_up_to_the_gain_where_updates_are_weighed(rule: str) -> None:
    job = start(rule)
    outcome = job.advance_updates(updates(job))
    gain = job.judge.utility(job.state.params.astype(np.float64), job.state.buffers) - job.judge.utility(
        job.model.initial()[0].astype(np.float64), job.state.buffers
    )
    assert values(outcome) == pytest.approx(gain, rel=0.03)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_order_in_which_updates_come_changes_nothing(rule: str) -> None:
    one, two = start(rule), start(rule)
    sent = updates(one)
    order = np.random.default_rng(1).permutation(len(sent))
    mixed = UpdateMatrix(
        tuple(sent.owners[i] for i in order), sent.parameters[order], sent.buffers[order], 16
    )
    first, second = one.advance_updates(sent), two.advance_updates(mixed)
    assert first.model_digest == second.model_digest
    assert first.values.tobytes() == second.values.tobytes()
    assert first.weights.tobytes() == second.weights.tobytes()


def test_who_is_not_selected_is_told() -> None:
    job = start("krum")
    outcome = job.advance_updates(updates(job))
    assert sorted(outcome.weights.tolist()) == [0] * 8 + [1]
    assert outcome.reasons[OWNERS[-1]] == NOT_SELECTED


def test_too_few_updates_leave_the_model_as_it_was() -> None:
    job = start("krum")
    before = job.state
    sent = updates(job, OWNERS[:2])
    outcome = job.advance_updates(sent, absent=OWNERS[2:])
    assert job.state is before
    assert set(outcome.reasons.values()) == {TOO_FEW}
    assert values(outcome) == 0
    # The next round is none the worse.
    assert job.advance_updates(updates(job)).measured_after.utility > outcome.measured_after.utility


def test_buffers_move_by_the_median() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    job = start("median", module=module)
    sent = updates(job)
    sent.buffers[:] = np.arange(9)[:, None]
    sent.buffers[-1] = 10**8
    before = job.state.buffers.copy()
    job.advance_updates(sent)
    assert np.abs(job.state.buffers - before).max() < 1e-3


def test_the_fraction_is_rounded_down() -> None:
    plan = compiled(faulty_fraction=0.29).job.plan
    assert faulty_among(plan, 100) == 29
    assert faulty_among(plan, 3) == 0


def test_terms_with_a_rule_travel() -> None:
    terms = terms_without_chain(compiled(rule="bulyan", faulty_fraction=0.1))
    assert decode_terms(encode_terms(terms)) == terms


def test_plans_that_cannot_work_are_refused() -> None:
    with pytest.raises(JobRefused, match=r"plan.faulty_fraction: 0.3 given; with it bulyan needs 11 updates"):
        compiled(rule="bulyan", faulty_fraction=0.3)
    with pytest.raises(JobRefused, match=r"plan.maximum_owners: 5000 given; krum compares"):
        compiled(rule="krum", maximum_owners=5000)
    with pytest.raises(JobRefused, match=r"plan.rule"):
        compiled(rule="best")
    with pytest.raises(JobRefused, match=r"plan.faulty_fraction"):
        compiled(rule="median", faulty_fraction=0.5)
    with pytest.raises(JobRefused, match=r"plan.gate"):
        compiled(rule="median", gate=False)


def test_masked_jobs_have_the_gate_alone() -> None:
    from galaxylearning.messages.plan import Masking

    terms = terms_without_chain(compiled(projections=4, minimum_owners=3))
    masked = {"privacy": "masked", "masking": Masking(threshold=1)}
    assert msgspec.structs.replace(terms, **masked).privacy == "masked"
    other = msgspec.structs.replace(terms.plan, rule="median")
    with pytest.raises(JobRefused, match=r"plan.rule: .* allowed: 'gate' unless"):
        msgspec.structs.replace(terms, plan=other, **masked)
