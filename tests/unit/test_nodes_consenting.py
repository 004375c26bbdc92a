"""What is refused before a data owner consents: updates that a journal could not keep."""

from __future__ import annotations

import msgspec
import pytest

from galaxylearning.errors import ConfigRefused, JobRefused
from galaxylearning.graph import Cost
from galaxylearning.messages.plan import Masking
from galaxylearning.messages.terms import EvaluatorSeat, Terms
from galaxylearning.nodes.consenting import require_feasible
from galaxylearning.ports import GraphFacts
from plain_terms import PLAN, terms_of

SEATS = tuple(EvaluatorSeat(f"0x{number:040d}", "ab" * 32, "ab" * 32) for number in range(1, 6))


def facts(parameters: int, buffers: int = 0) -> GraphFacts:
    return GraphFacts(Cost(parameters, 4 * parameters, 1, 1, 1), buffers, 4 * parameters, 0)


def sealed(bits: int) -> Terms:
    return terms_of(msgspec.structs.replace(PLAN, bits=bits))


def masked() -> Terms:
    plan = msgspec.structs.replace(PLAN, projections=5, minimum_owners=3, bits=12)
    masking = Masking(threshold=2, faulty=1, minimum_sum=3)
    return msgspec.structs.replace(terms_of(plan), evaluators=SEATS, privacy="masked", masking=masking)


@pytest.mark.parametrize(
    ("terms", "fits", "too_many"),
    [
        (sealed(16), facts(134_100_000), facts(134_300_000)),
        (sealed(24), facts(67_000_000), facts(67_200_000)),
        (sealed(16), facts(1_000, 67_000_000), facts(1_000, 67_200_000)),
        (masked(), facts(44_000_000), facts(45_000_000)),
    ],
)
def test_an_update_is_held_against_what_a_journal_keeps(
    terms: Terms, fits: GraphFacts, too_many: GraphFacts
) -> None:
    require_feasible(terms, fits)
    with pytest.raises(JobRefused, match=r"an update would have 2\d{8} bytes; a journal keeps 268435424"):
        require_feasible(terms, too_many)


def test_a_range_that_would_not_hold_is_refused() -> None:
    wide = msgspec.structs.replace(masked().plan, bits=24)
    with pytest.raises(ConfigRefused):
        require_feasible(msgspec.structs.replace(masked(), plan=wide), facts(1_000))
