"""How long windows must be: by hand, for a chain with finality and one without, sealed and masked."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.test_protocol_masked import masked_terms

from galaxylearning.errors import JobRefused
from galaxylearning.messages.plan import Masking
from galaxylearning.messages.terms import Terms, Windows
from galaxylearning.nodes.windows import least_windows, require_windows
from galaxylearning.protocol.job import DEFAULT_WINDOWS

SEALED = masked_terms(privacy="sealed")
MASKED = masked_terms(masking=Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=0))
TWINS = masked_terms(masking=Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=9))


def test_without_finality_only_the_lines_of_five_evaluators_count() -> None:
    found = least_windows(SEALED, finality_s=0, stagger_s=2.0)
    assert found == {
        "enrol_s": 10,
        "round_s": 10,
        "anchor_s": 10,
        "commit_s": 10,
        "reveal_s": 10,
        "settle_s": 20,
        "claim_s": 10,
    }


def test_what_waits_for_final_blocks_is_counted() -> None:
    found = least_windows(SEALED, finality_s=800, stagger_s=0.0)
    assert (found["enrol_s"], found["anchor_s"]) == (1600, 1)
    others = {least for name, least in found.items() if name not in ("enrol_s", "anchor_s")}
    assert others == {800}


def test_openings_take_their_longest_in_every_phase() -> None:
    # 5 + 3 + 4 staggers of 2 s are 24 s a phase: three in every round, a fourth for twins; a line is 10 s.
    masked = least_windows(MASKED, finality_s=0, stagger_s=2.0)
    assert (masked["round_s"], masked["commit_s"], masked["reveal_s"]) == (82, 82, 10)
    twins = least_windows(TWINS, finality_s=0, stagger_s=2.0)
    assert (twins["round_s"], twins["commit_s"]) == (82, 106)


@pytest.mark.parametrize("name", Windows.__struct_fields__)
def test_a_window_that_is_a_second_too_short_is_named_with_what_is_enough(name: str) -> None:
    least = least_windows(TWINS, finality_s=90, stagger_s=2.0)  # A half more than when it is posted.

    def terms(**changes: int) -> Terms:
        return msgspec.structs.replace(TWINS, windows=Windows(**(dict(least) | changes)))

    require_windows(terms(), finality_s=60, stagger_s=2.0)
    with pytest.raises(JobRefused, match=rf"windows\.{name}: .* allowed: at least {least[name]}\. A block"):
        require_windows(terms(**{name: least[name] - 1}), finality_s=60, stagger_s=2.0)


def test_the_usual_windows_do_where_blocks_are_final_in_twenty_minutes() -> None:
    terms = msgspec.structs.replace(TWINS, windows=DEFAULT_WINDOWS)
    require_windows(terms, finality_s=1200, stagger_s=2.0)
    with pytest.raises(JobRefused, match=r"windows\.commit_s"):
        require_windows(terms, finality_s=3600, stagger_s=2.0)
