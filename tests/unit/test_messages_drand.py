"""A job names a drand network in its terms; another key, or none that is a point, is refused by name."""

from __future__ import annotations

import msgspec
import pytest

import galaxylearning as gl
from galaxylearning.errors import JobRefused


def test_the_round_of_a_job_comes_after_its_anchor_and_margin() -> None:
    network = gl.quicknet()
    anchored_at = 1_800_000_000
    number = network.round_for(anchored_at)
    comes_at = network.genesis_s + (number - 1) * network.period_s
    assert 0 < comes_at - (anchored_at + network.margin_s) <= network.period_s


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("public_key", "00" * 96),
        ("public_key", "ab" * 95),
        ("public_key", gl.quicknet().public_key.upper()),
        ("genesis_s", -1),
        ("period_s", 0),
        ("margin_s", -1),
        ("margin_s", 10**9),
    ],
)
def test_what_names_no_network_is_refused(field: str, value: object) -> None:
    with pytest.raises(JobRefused, match=f"drand.{field}"):
        msgspec.structs.replace(gl.quicknet(), **{field: value})
