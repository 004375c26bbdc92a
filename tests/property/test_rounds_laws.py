"""Laws of a round: whatever a stranger sends, only its own pay changes; sums have no order."""

from __future__ import annotations

import functools

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from galaxylearning.errors import BlobRefused, GalaxyError
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Admission, Column, EvaluatorSeat, Price, Schema, Terms, Windows
from galaxylearning.protocol.hidden_set import HiddenSet
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.scoring import score_table
from galaxylearning.protocol.updates import encode_body, train_update, training_seed
from galaxylearning.units import Address
from plain_rounds import clouds

HEX = "ab" * 32
OWNERS = tuple(Address(f"0x{n:040d}") for n in (1, 2, 3, 4))
STRANGER = OWNERS[0]
TERMS = Terms(
    title="Two clouds",
    description="",
    requester="0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    requester_key=HEX,
    evaluators=(EvaluatorSeat(f"0x{9:040d}", HEX, HEX),),
    schema=Schema((Column("x", "number"),), Column("y", "category", classes=("a", "b"))),
    plan=Plan(rounds=2, learning_rate=0.3, steps=3, batch_size=8, clip_norm=2.0, maximum_owners=4),
    price=Price(
        token="0x5FbDB2315678afecb367f032d93F642f64180aa3", bounty="1", fee_per_seat="1", target_gain=1
    ),
    admission=Admission(),
    windows=Windows(1, 1, 1, 1, 1, 1, 1),
    graph=HEX,
    loss="cross_entropy",
    model=HEX,
    model_digest=HEX,
    test_set=HEX,
    test_set_digest=HEX,
    test_rows=64,
    seed=3,
)


@functools.cache
def model() -> FlatModel:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    graph, weights = compile_model(module, (torch.zeros(3, 2),), loss="cross_entropy")
    return FlatModel(graph, weights)


def start() -> JobComputation:
    return JobComputation(TERMS, 1, model(), HiddenSet.split(clouds(64, seed=9), seed=TERMS.seed))


@functools.cache
def first_round() -> dict[Address, bytes]:
    """Honest bodies of the first round."""
    state = model().initial()
    return {
        who: encode_body(
            1,
            0,
            who,
            train_update(
                model(), TERMS, state, clouds(24, seed=int(who, 16)), rng=training_seed(TERMS, 0, who)
            ),
            16,
        )
        for who in OWNERS
    }


@functools.cache
def without_the_stranger() -> tuple[bytes, str]:
    job = start()
    outcome = job.advance({who: body for who, body in first_round().items() if who != STRANGER})
    return job.model_bytes(), repr(outcome.scores)


def _flipped(at: int, bit: int) -> bytes:
    body = bytearray(first_round()[STRANGER])
    body[at % len(body)] ^= 1 << bit
    return bytes(body)


@settings(max_examples=60, deadline=None)
@example(body=_flipped(130, 7))
@given(
    body=st.one_of(
        st.none(),
        st.binary(max_size=200),
        st.builds(lambda at, bit: _flipped(at, bit), st.integers(0, 10_000), st.integers(0, 7)),
        st.builds(lambda cut: first_round()[STRANGER][:cut], st.integers(0, 60)),
        st.sampled_from([OWNERS[1], OWNERS[2]]).map(lambda who: first_round()[who]),
        st.text(max_size=20).map(BlobRefused),
    )
)
def test_whatever_is_not_accepted_moves_nothing(body: bytes | GalaxyError | None) -> None:
    job = start()
    outcome = job.advance(first_round() | {STRANGER: body})
    decision = outcome.decisions[0]
    assert decision.data_owner == STRANGER
    assert [d.status for d in outcome.decisions[1:]] == ["accepted"] * 3
    if decision.status == "accepted":
        # A flipped bit of a number is still an update; it is what its sender says it is.
        assert isinstance(body, bytes)
        assert len(body) == len(first_round()[STRANGER])
        assert STRANGER in outcome.scores
    elif decision.status == "rejected":
        # It was read, so it stands in the medians by which the others are weighed. No more.
        assert outcome.history is not None
        assert outcome.history.updates is not None
        assert outcome.weights[0] == 0
        sent = outcome.history.updates.parameters[1:].astype(np.int64)
        step = outcome.weights[1:] @ sent
        assert job.state.params.tobytes() == start().moved(step, int(outcome.weights.sum())).params.tobytes()
    else:
        assert (job.model_bytes(), repr(outcome.scores)) == without_the_stranger()
    table = score_table(job, OWNERS)
    assert (table.totals[0].value == 0) or decision.status == "accepted"


@settings(max_examples=24, deadline=None)
@given(order=st.permutations(OWNERS))
def test_the_order_of_arrival_does_not_matter(order: list[Address]) -> None:
    one, other = start(), start()
    one.advance(first_round())
    other.advance({who: first_round()[who] for who in order})
    assert one.model_digest() == other.model_digest()
    assert score_table(one, OWNERS) == score_table(other, OWNERS)
