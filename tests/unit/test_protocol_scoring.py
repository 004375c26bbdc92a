"""From rounds to score tables, from tables to payouts; by hand where numbers are small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.contribution import UNEARNED
from galaxylearning.contribution.sketch import SKETCH_SIZE
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused, DataRefused, MessageRefused, QuorumMissing
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.records import OwnerScore, OwnerTotal, RoundScores, ScoreTable, decode, encode
from galaxylearning.messages.terms import Admission, Column, EvaluatorSeat, Price, Schema, Terms, Windows
from galaxylearning.protocol import rounds, scoring
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.rounds import History, JobComputation
from galaxylearning.protocol.updates import encode_body, train_update, training_seed
from galaxylearning.units import COSINE_UNIT, Address, Digest

HEX = "ab" * 32
CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
OWNERS = tuple(Address(f"0x{n:040d}") for n in range(1, 8))
A, B, C = OWNERS[:3]
NAT = 1 << 40
TWIN_SEEDS = dict(zip(OWNERS, range(1, 8), strict=True)) | {OWNERS[6]: 1}
MODEL = Digest(blake3_digest(b"model"))


def make_terms(*, bounty: int = 1000, target_gain: float = 1.0, fee: int = 0, rounds: int = 6) -> Terms:
    return Terms(
        title="Two clouds",
        description="",
        requester="0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        requester_key=HEX,
        evaluators=(EvaluatorSeat(f"0x{9:040d}", HEX, HEX),),
        schema=Schema((Column("x", "number"),), Column("y", "category", classes=("a", "b"))),
        plan=Plan(rounds=rounds, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, maximum_owners=10),
        price=Price(
            token=CONTRACT,
            bounty=str(bounty),
            fee_per_seat="1",
            target_gain=target_gain,
            participation_fee=str(fee),
        ),
        admission=Admission(),
        windows=Windows(1, 1, 1, 1, 1, 1, 1),
        graph=HEX,
        loss="cross_entropy",
        model=HEX,
        model_digest=HEX,
        test_set=HEX,
        test_set_digest=HEX,
        test_rows=128,
        seed=3,
    )


TERMS = make_terms()


def table(totals: Mapping[Address, int], *, model: Digest = MODEL, terms: Terms = TERMS) -> ScoreTable:
    """A table of one round in which everybody with a value was accepted."""
    rows = tuple(
        OwnerScore(who, "accepted", "", 1, value, 0) if value else OwnerScore(who, "absent", "", 0, 0, 0)
        for who, value in totals.items()
    )
    return ScoreTable(
        job_id=1,
        terms_digest=terms.digest,
        value_name="path",
        rounds=(RoundScores(0, model, 0, 0, 0, rows),),
        twins=(),
        totals=tuple(OwnerTotal(who, value, 0) for who, value in totals.items()),
        final_model_digest=model,
    )


def pay(*tables: ScoreTable, terms: Terms = TERMS) -> dict[Address, int]:
    tree, explained = scoring.payouts(
        terms,
        chain_id=1,
        contract=CONTRACT,
        job_id=1,
        tables=[(blake3_digest(encode(each)), each) for each in tables],
    )
    assert explained.total == str(tree.total)
    assert [(row.account, row.amount) for row in explained.rows] == [
        (row.account, str(row.amount)) for row in tree.rows
    ]
    return {row.account: row.amount for row in tree.rows}


# ---- medians, payouts, faults


def test_payouts_are_the_bounty_times_value_over_target() -> None:
    assert pay(table({A: NAT // 2, B: NAT // 4, C: -NAT})) == {A: 500, B: 250}
    assert pay(table({A: 0, B: 0, C: 0})) == {}
    over = pay(table({A: 3 * NAT, B: NAT}))
    assert over == {A: 750, B: 250}


@pytest.mark.parametrize("lie", [-(2**63 - 1), 0, 2**63 - 1])
def test_one_liar_of_three_changes_no_payout(lie: int) -> None:
    honest = {A: NAT // 2, B: NAT // 4, C: NAT // 8}
    expected = pay(*[table(honest)] * 3)
    assert expected == {A: 500, B: 250, C: 125}
    for victim in honest:
        assert pay(table(honest), table(honest | {victim: lie}), table(honest)) == expected
    assert pay(table(dict.fromkeys(honest, lie)), table(honest), table(honest)) == expected
    if lie > 0:
        assert pay(*[table(honest | {A: lie})] * 2, table(honest)) != expected


def test_no_table_holds_a_value_that_medians_refuse() -> None:
    for lie in (-(2**63), 2**63):
        with pytest.raises(MessageRefused, match="value"):
            table({A: lie})


def test_two_identical_lies_count_as_two_seats() -> None:
    """Medians are over evaluators, not over opinions: two of three seats that say the same are a majority."""
    honest, lie = table({A: NAT // 2, B: 0}), table({A: 0, B: NAT // 2})
    assert pay(honest, lie, lie) == {B: 500}
    assert pay(honest, honest, lie) == {A: 500}


def test_of_two_tables_the_lower_value_counts() -> None:
    assert pay(table({A: NAT // 2, B: NAT // 4}), table({A: NAT // 4, B: NAT // 2})) == {A: 250, B: 250}


def test_the_participation_fee_goes_to_whom_more_than_half_saw_accepted() -> None:
    terms = make_terms(fee=100)

    def of(values: Mapping[Address, int]) -> ScoreTable:
        return table(values, terms=terms)

    worthless = of({A: NAT, B: 0, C: -5})
    assert pay(worthless, terms=terms) == {A: 900, C: 100}
    _, explained = scoring.payouts(
        terms, chain_id=1, contract=CONTRACT, job_id=1, tables=[(MODEL, worthless)]
    )
    assert [row.reason for row in explained.rows] == ["path-integrated value", "participation fee"]
    seen, unseen = of({A: NAT, B: 1}), of({A: NAT, B: 0})
    # Seen by two of three; a value of 2^-40 nats pays nothing by itself.
    assert pay(seen, seen, unseen, terms=terms) == {A: 900, B: 100}
    assert pay(seen, unseen, unseen, terms=terms) == {A: 1000}
    assert pay(seen, unseen, terms=terms) == {A: 1000}


def test_without_tables_nothing_is_paid_out_by_default() -> None:
    with pytest.raises(QuorumMissing):
        pay()
    with pytest.raises(DataRefused):
        pay(table({A: 1}), table({B: 1}))


def test_a_faulty_table_is_told_from_rounding() -> None:
    honest = table({A: NAT, B: -NAT})
    said = scoring.Consensus.of([honest, honest, honest])
    room = 2 * NAT // scoring.AGREEMENT
    for off, faulty in ((0, False), (room, False), (-room, False), (room + 1, True), (-room - 1, True)):
        assert scoring.is_faulty(table({A: NAT + off, B: -NAT}), said, honest) is faulty
    assert scoring.is_faulty(table({A: NAT, B: -NAT}, model=Digest(bytes(32))), said, honest)
    assert scoring.is_faulty(table({A: NAT}), said, honest)
    nothing = scoring.Consensus.of([table({A: 0})])
    assert not scoring.is_faulty(table({A: 0}), nothing, table({A: 0}))
    assert scoring.is_faulty(table({A: 1}), nothing, table({A: 0}))


def test_true_totals_under_false_rounds_are_a_fault() -> None:
    honest = table({A: NAT, B: -NAT})
    denied = OwnerScore(A, "rejected", "", 0, 0, 0)
    first = honest.rounds[0]
    rounds_ = (msgspec.structs.replace(first, owners=(denied, first.owners[1])),)
    liar, shorter = (msgspec.structs.replace(honest, rounds=each) for each in (rounds_, ()))
    for lie in (liar, shorter):
        said = scoring.Consensus.of([honest, lie, honest])
        assert (scoring.is_faulty(lie, said, honest), scoring.is_faulty(honest, said, honest)) == (
            True,
            False,
        )
        # Where no more than half say the same, the tables name nobody.
        parted = scoring.Consensus.of([honest, lie])
        assert not scoring.is_faulty(lie, parted, honest)
        assert not scoring.is_faulty(honest, parted, lie)
    assert scoring.participants([honest, liar, honest]) == {A, B}
    assert scoring.participants([honest, liar]) == {B}


def test_without_any_table_there_is_no_consensus_yet() -> None:
    with pytest.raises(QuorumMissing):
        scoring.Consensus.of([])


def test_a_table_about_something_else_is_not_usable() -> None:
    good = table({A: 1, B: 2})
    facts: dict[str, Any] = {"job_id": 1, "terms_digest": TERMS.digest, "cohort": (A, B)}
    assert scoring.usable(good, **facts)
    for other in (
        {"job_id": 2},
        {"terms_digest": Digest(bytes(32))},
        {"cohort": (A,)},
        {"cohort": (B, A)},
        {"cohort": (A, B, C)},
    ):
        assert not scoring.usable(good, **(facts | other))


# ---- tables of real rounds


def clouds(rows: int, *, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    centres = np.where(labels[:, None] == 1, 1.0, -1.0) * np.array([1.0, 0.5, 0.25, 0.0])
    return Rows((centres + rng.normal(0, 0.8, (rows, 4))).astype(np.float32), labels.astype(np.int64))


HIDDEN = clouds(128, seed=100)


@pytest.fixture(scope="module")
def model() -> FlatModel:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph, weights = compile_model(module, (torch.from_numpy(HIDDEN.inputs[:3]),), loss="cross_entropy")
    return FlatModel(graph, weights)


def play(
    model: FlatModel,
    data: Mapping[Address, int],
    *,
    rounds: int,
    absent: Any = (),
    history: History = "full",
) -> JobComputation:
    """A job in which every owner trains on ``clouds`` of the given seed; ``absent`` lists (owner, round)."""
    terms = make_terms()
    job = JobComputation(terms, 1, model, HiddenSet.split(HIDDEN, seed=terms.seed), history=history)
    for index in range(rounds):
        job.advance(
            {
                who: None
                if (who, index) in absent
                else encode_body(
                    1,
                    index,
                    who,
                    train_update(
                        model,
                        terms,
                        (job.state.params, job.state.buffers),
                        clouds(24, seed=seed),
                        rng=training_seed(terms, index, who),
                    ),
                    16,
                )
                for who, seed in data.items()
            }
        )
    return job


@pytest.fixture(scope="module")
def twins(model: FlatModel) -> JobComputation:
    """Seven identities over six rounds; the first and the last have the same data."""
    return play(model, TWIN_SEEDS, rounds=6, absent={(B, 2)})


def test_a_score_table_adds_up_and_travels(twins: JobComputation) -> None:
    found = scoring.score_table(twins, OWNERS)
    assert decode(encode(found), ScoreTable, max_bytes=1 << 20) == found
    assert encode(scoring.score_table(twins, OWNERS)) == encode(found)
    assert [total.data_owner for total in found.totals] == list(OWNERS)
    assert found.final_model_digest == twins.model_digest()
    assert found.rounds[-1].model_digest == found.final_model_digest
    for earlier, later in zip(found.rounds[:-1], found.rounds[1:], strict=True):
        assert earlier.utility_after == later.utility_before
    assert found.rounds[0].utility_before < found.rounds[-1].utility_after
    assert 100 < found.rounds[-1].correct <= len(HIDDEN)
    absent = next(score for score in found.rounds[2].owners if score.data_owner == B)
    assert (absent.status, absent.value, absent.weight) == ("absent", 0, 0)
    # Everything can be followed from the table: the rounds' values and gains make the totals.
    assert found.totals == scoring.totals_of(found.rounds, OWNERS, novelty=True)
    plain = scoring.totals_of(found.rounds, OWNERS, novelty=False)
    for total, own in zip(plain, found.totals, strict=True):
        scores = [s for scores in found.rounds for s in scores.owners if s.data_owner == total.data_owner]
        assert own.standard_error == total.standard_error
        assert total.standard_error**2 <= sum(score.standard_error**2 for score in scores)
        if all(score.status in ("accepted", "absent") for score in scores):
            assert total.value == sum(score.value for score in scores)
            # What a round gains along the last step is owed to those who made that step.
            assert own.value > total.value
    if all(score.status != "rejected" for scores in found.rounds for score in scores.owners):
        assert sum(t.value for t in found.totals) == sum(scores.gain for scores in found.rounds[1:]) + sum(
            score.value for score in found.rounds[0].owners
        )


def test_values_beyond_what_a_table_holds_count_as_its_limit(
    twins: JobComputation, monkeypatch: pytest.MonkeyPatch
) -> None:
    steep = [
        replace(one, values=one.values * 1e30, errors=one.errors * 1e30, gain=one.gain * 1e30)
        for one in twins.outcomes
    ]
    monkeypatch.setattr(twins, "outcomes", steep)
    found = scoring.score_table(twins, OWNERS)
    assert decode(encode(found), ScoreTable, max_bytes=1 << 20) == found
    most = 2**63 - 1
    assert found.twins
    assert most in {abs(score.value) for scores in found.rounds for score in scores.owners}
    assert {total.standard_error for total in found.totals} == {most}
    assert most in {total.value for total in found.totals}


def test_cosines_are_recorded_as_they_were_taken(twins: JobComputation) -> None:
    for outcome, scores in zip(twins.outcomes, scoring.score_table(twins, OWNERS).rounds, strict=True):
        for decision, score in zip(outcome.decisions, scores.owners, strict=True):
            assert score.cosine / COSINE_UNIT == pytest.approx(decision.cosine, abs=1 / COSINE_UNIT)
            assert (score.cosine == 0) == (score.status == "absent")


def test_who_went_against_the_hidden_set_and_is_worth_little_gets_nothing_and_reads_why() -> None:
    def scores(*each: tuple[int, int]) -> RoundScores:
        owners = zip((A, B, C), each, strict=True)
        rows = tuple(OwnerScore(who, "accepted", "", 1, value, 5, cosine) for who, (value, cosine) in owners)
        return RoundScores(0, MODEL, 0, 0, 0, rows)

    rounds_ = [scores((40, 9), (30, 9), (14, 3)), scores((4, 9), (3, -2), (0, -4))]
    totals = scoring.totals_of(rounds_, (A, B, C), novelty=False)
    assert [(total.value, total.reason) for total in totals] == [(44, ""), (33, ""), (0, UNEARNED)]
    assert totals[2].standard_error == 7
    last = rounds_[1].owners[2]
    nothing = {"weight": 0, "value": 0, "standard_error": 0}
    rejected = msgspec.structs.replace(last, status="rejected", reason="against", **nothing)
    absent = msgspec.structs.replace(last, status="absent", cosine=0, **nothing)
    for score, reason in ((rejected, UNEARNED), (absent, "")):
        second = msgspec.structs.replace(rounds_[1], owners=(*rounds_[1].owners[:2], score))
        assert scoring.totals_of([rounds_[0], second], (A, B, C), novelty=False)[2].reason == reason
    worth_more = [scores((40, 9), (30, 9), (17, 3)), rounds_[1]]
    agrees_more = [scores((40, 9), (30, 9), (14, 4)), rounds_[1]]
    for other in (worth_more, agrees_more):
        assert [total.reason for total in scoring.totals_of(other, (A, B, C), novelty=False)] == ["", "", ""]


def test_the_same_data_under_two_names_is_found_and_paid_as_one(
    model: FlatModel, twins: JobComputation
) -> None:
    found = scoring.score_table(twins, OWNERS)
    assert found.twins == ((OWNERS[0], OWNERS[6]),)
    plain = {who: sum(o.scores[who][0] for o in twins.outcomes if who in o.scores) for who in OWNERS}
    totals = {Address(total.data_owner): total.value / NAT for total in found.totals}
    both = totals[OWNERS[0]] + totals[OWNERS[6]]
    part = (plain[OWNERS[0]] + plain[OWNERS[6]]) / sum(plain.values())
    assert both < 0.65 * part * sum(totals.values())
    # The others are worth what they would be worth with one identity less.
    assert totals[OWNERS[3]] > plain[OWNERS[3]]
    alone = play(model, dict(zip(OWNERS[:6], range(1, 7), strict=True)), rounds=6, absent={(B, 2)})
    without = scoring.score_table(alone, OWNERS[:6])
    assert without.twins == ()
    assert both <= 1.10 * without.totals[0].value / NAT


def test_too_few_rounds_find_no_twins(model: FlatModel) -> None:
    assert scoring.find_twins(play(model, TWIN_SEEDS, rounds=3)) == ()


def test_long_updates_are_compared_by_projections_and_find_the_same_twins(
    model: FlatModel, twins: JobComputation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert twins.sizes[0] < SKETCH_SIZE
    exact = scoring.find_twins(twins)
    monkeypatch.setattr(rounds, "SKETCH_SIZE", twins.sizes[0] - 1)
    projected = play(model, TWIN_SEEDS, rounds=6, absent={(B, 2)})
    sent = projected.outcomes[0].sent
    assert sent is not None
    assert sent.updates.shape == (7, twins.sizes[0] - 1)
    assert scoring.find_twins(projected) == exact == (frozenset({OWNERS[0], OWNERS[6]}),)


@pytest.mark.parametrize("history", ["twins", "none"])
def test_without_history_the_table_is_the_same_but_for_twins(
    model: FlatModel, twins: JobComputation, history: History
) -> None:
    lean = play(model, TWIN_SEEDS, rounds=6, absent={(B, 2)}, history=history)
    whole, table = scoring.score_table(twins, OWNERS), scoring.score_table(lean, OWNERS)
    if history == "twins":
        assert table == whole
    else:
        assert table.twins == ()
        assert [r.model_digest for r in table.rounds] == [r.model_digest for r in whole.rounds]
        assert [r.correct for r in table.rounds] == [r.correct for r in whole.rounds]
        assert all(outcome.sent is None for outcome in lean.outcomes)
    for gone in ("before", "after", "updates"):
        with pytest.raises(ValueError, match="keeps no models"):
            getattr(lean.outcomes[0], gone)
    with pytest.raises(ValueError, match="keeps no models"):
        scoring.reference_values(lean, "leave-one-out")


def test_cohorts_that_are_too_large_are_not_searched_for_twins(
    model: FlatModel, twins: JobComputation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_PLAYERS", 7)
    assert scoring.find_twins(twins)
    monkeypatch.setattr(scoring, "MAX_PLAYERS", 6)
    assert scoring.find_twins(twins) == ()
    monkeypatch.setattr(rounds, "MAX_PLAYERS", 6)
    job = play(model, TWIN_SEEDS, rounds=1)
    assert job.outcomes[0].sent is None


def test_no_rounds_make_an_empty_table(model: FlatModel) -> None:
    job = JobComputation(TERMS, 1, model, HiddenSet.split(HIDDEN, seed=3))
    found = scoring.score_table(job, OWNERS[:2])
    assert (found.rounds, found.twins) == ((), ())
    assert [total.value for total in found.totals] == [0, 0]
    assert found.final_model_digest == job.model_digest()
    assert scoring.usable(found, job_id=1, terms_digest=TERMS.digest, cohort=OWNERS[:2])


def test_utility_and_accuracy_are_those_of_the_model(model: FlatModel) -> None:
    job = JobComputation(TERMS, 1, model, HiddenSet.split(HIDDEN, seed=3))
    measured = job.judge.measured(job.state)
    losses = model.per_sample_loss(*model.initial(), (job.hidden.paying.inputs,), job.hidden.paying.labels)
    assert measured.utility / 2**20 == pytest.approx(-float(losses.sum()), abs=1e-3)
    found = model.predict(*model.initial(), (HIDDEN.inputs,))
    assert measured.correct == int((found.argmax(axis=1) == HIDDEN.labels).sum())


def test_another_value_stands_beside_the_one_that_pays(twins: JobComputation) -> None:
    found = scoring.reference_values(twins, "leave-one-out")
    assert set(found) == set(OWNERS)
    for who in OWNERS:
        plain = sum(o.scores[who][0] for o in twins.outcomes if who in o.scores)
        assert found[who]["path"] == pytest.approx(plain)
    pairs = np.array([[row["path"], row["leave-one-out"]] for row in found.values()])
    assert np.corrcoef(pairs.T)[0, 1] > 0.5
    with pytest.raises(ConfigRefused, match="popularity"):
        scoring.reference_values(twins, "popularity")
