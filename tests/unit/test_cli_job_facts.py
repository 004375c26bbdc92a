"""What a data owner is told that leaves its machine: no more and no less than what does."""

from __future__ import annotations

import msgspec
import pytest

from galaxylearning.cli.job_facts import what_leaves
from galaxylearning.graph import Cost
from galaxylearning.messages.plan import Masking, Noise
from galaxylearning.messages.terms import EvaluatorSeat, Terms
from galaxylearning.ports import GraphFacts
from plain_terms import PLAN, terms_of

TERMS = terms_of()
COST = Cost(6400, 25600, 10, 10, 10)
BARE, BUFFERED = GraphFacts(COST, 0, 2600, 0), GraphFacts(COST, 96, 3000, 0)
SEATS = tuple(EvaluatorSeat(f"0x{number:040d}", "ab" * 32, "ab" * 32) for number in range(1, 6))
MASKED = Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=2)


def masked() -> Terms:
    plan = msgspec.structs.replace(PLAN, projections=5, minimum_owners=3)
    return msgspec.structs.replace(TERMS, evaluators=SEATS, privacy="masked", masking=MASKED, plan=plan)


def test_buffers_are_not_said_to_be_clipped() -> None:
    told = what_leaves(BUFFERED, TERMS)["every_round"]
    assert "6,400 parameters, clipped to norm" in told
    assert "96 buffers, not clipped: what the graph writes there, which can be rows" in told
    assert "buffers" not in what_leaves(BARE, TERMS)["every_round"]


def test_masked_mode_sends_no_buffers() -> None:
    assert "buffers" not in what_leaves(BUFFERED, masked())["every_round"]


def test_an_enrolment_is_said_to_tell_that_the_data_match() -> None:
    assert (
        "the data match the job's schema with all its classes and bounds" in what_leaves(BARE, TERMS)["once"]
    )


@pytest.mark.parametrize("terms", [TERMS, masked()])
def test_without_noise_nothing_is_promised(terms: Terms) -> None:
    bare = msgspec.structs.replace(terms.plan, noise=None)
    told = what_leaves(BARE, msgspec.structs.replace(terms, plan=bare))["may_tell"]
    assert told.startswith("anything: without noise nothing bounds it")
    noisy = msgspec.structs.replace(bare, noise=Noise("local", 1.0, example_clip=1.0), epochs=None, steps=5)
    told = what_leaves(BARE, msgspec.structs.replace(terms, plan=noisy))["may_tell"]
    assert told == "of the rows no more than the plan's noise lets pass"
