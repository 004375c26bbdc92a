"""How counts and rounds are written."""

from __future__ import annotations

import pytest

from galaxylearning.units import how_many, round_name


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 data owners"), (1, "1 data owner"), (2_000, "2,000 data owners")]
)
def test_a_count_has_its_noun_in_the_right_number(count: int, said: str) -> None:
    assert how_many(count, "data owner") == said


def test_people_count_rounds_from_one() -> None:
    assert [round_name(index) for index in (0, 9)] == ["round 1", "round 10"]
