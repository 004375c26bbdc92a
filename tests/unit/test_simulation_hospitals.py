"""The demo's cast follows from its seed; and the demo's keys protect nothing, but are found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused
from galaxylearning.simulation import demo_keys
from galaxylearning.simulation.federation import Options
from galaxylearning.simulation.hospitals import MIN_HOSPITALS, MIN_ROWS_ON_AVERAGE, make_cast

MOST = {"breast-cancer": (569 - 170) // MIN_ROWS_ON_AVERAGE, "digits": (1797 - 539) // MIN_ROWS_ON_AVERAGE}


def test_everybody_has_a_part_and_no_row_has_two_places() -> None:
    cast = make_cast("breast-cancer", 12, seed=1)
    assert [h.behaviour for h in cast.hospitals].count("honest") == 8
    assert [h.behaviour for h in cast.hospitals][1:4] == ["free-rider", "noisy", "twin"]
    assert cast.hospitals[-1].behaviour == "twin"
    assert cast.hospitals[-1].records is cast.hospitals[3].records
    assert len({h.name for h in cast.hospitals}) == 12
    rows = [row.tobytes() for h in cast.hospitals[:-1] for row in h.records.values]
    rows += [row.tobytes() for row in cast.test.values]
    assert len(rows) == len(set(rows)) == 569
    assert all(len(h.records.values) == len(h.records.labels) >= 2 for h in cast.hospitals)
    assert {label for h in cast.hospitals for label in h.records.labels} == set(cast.classes)


def test_the_noisy_hospital_has_the_right_labels_on_the_wrong_rows() -> None:
    cast = make_cast("breast-cancer", 6, seed=1)
    truth = {
        row.tobytes(): label
        for owners in (7, 8)
        for h in make_cast("breast-cancer", owners, seed=1).hospitals
        if h.behaviour != "noisy"
        for row, label in zip(h.records.values, h.records.labels, strict=True)
    }
    wrong = {}
    for h in cast.hospitals:
        pairs = [
            truth[row.tobytes()] != label
            for row, label in zip(h.records.values, h.records.labels, strict=True)
            if row.tobytes() in truth
        ]
        wrong[h.behaviour] = float(np.mean(pairs))
    assert wrong["honest"] == wrong["twin"] == wrong["free-rider"] == 0
    assert wrong["noisy"] > 0.2


@pytest.mark.parametrize("data", ["breast-cancer", "digits"])
def test_a_cast_follows_from_its_seed(data: str) -> None:
    one, same, other = (make_cast(data, 8, seed=seed) for seed in (1, 1, 2))
    for first, second in zip(one.hospitals, same.hospitals, strict=True):
        np.testing.assert_array_equal(first.records.values, second.records.values)
        assert first.records.labels == second.records.labels
    assert not np.array_equal(one.test.values, other.test.values)
    assert make_cast(data, MIN_HOSPITALS, seed=1).columns == one.columns


def test_without_its_twin_every_hospital_holds_the_same_rows() -> None:
    with_twin, without = (make_cast("digits", 9, seed=4, has_twin=has) for has in (True, False))
    assert len(with_twin.hospitals) == len(without.hospitals) + 1
    for one, other in zip(with_twin.hospitals, without.hospitals, strict=False):
        np.testing.assert_array_equal(one.records.values, other.records.values)
    assert [h.behaviour for h in without.hospitals].count("twin") == 0


@pytest.mark.parametrize(
    ("data", "owners", "field"),
    [
        ("mnist", 12, "data"),
        ("", 12, "data"),
        ("breast-cancer", 4, "owners"),
        ("breast-cancer", MOST["breast-cancer"] + 1, "owners"),
        ("digits", MOST["digits"] + 1, "owners"),
        ("digits", -1, "owners"),
    ],
)
def test_a_cast_that_the_data_do_not_allow_is_refused(data: str, owners: int, field: str) -> None:
    with pytest.raises(ConfigRefused, match=rf"^{field}: .*allowed"):
        make_cast(data, owners, seed=1)


@pytest.mark.parametrize(("data", "most"), list(MOST.items()))
def test_the_largest_cast_can_be_dealt_for_many_seeds(data: str, most: int) -> None:
    for seed in (1, 2):
        assert len(make_cast(data, most, seed=seed).hospitals) == most


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"rounds": 201}, {"seed": -1}, {"seed": 1 << 63}])
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused, match=next(iter(changes))):
        Options(**changes)
    assert Options(rounds=200, seed=(1 << 63) - 1).rounds == 200


def test_a_demos_keys_are_found_again_from_its_home_and_nowhere_else(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert demo_keys.evaluator_keys(home) == []
    assert demo_keys.names(home) == {}
    (tmp_path / demo_keys.MARKER).write_text(json.dumps({"seed": 3}))
    (tmp_path / "hospitals" / "hospital-01").mkdir(parents=True)
    keys = demo_keys.evaluator_keys(home)
    assert [key.digest for key in keys] == [
        demo_keys.sealing_key(3, name).digest for name in demo_keys.EVALUATORS
    ]
    assert demo_keys.names(home) == {"hospital-01": demo_keys.signer(3, "hospital-01").address}
    assert demo_keys.signer(4, "hospital-01").address != demo_keys.signer(3, "hospital-01").address
    assert len({demo_keys.signer(3, name).address for name in ("a", "b", "requester")}) == 3


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"seed": "3"}', '{"seed": true}', '{"seed": 1.5}', "{"]
)
def test_a_damaged_marker_is_no_demo(tmp_path: Path, text: str) -> None:
    (tmp_path / demo_keys.MARKER).write_text(text)
    assert demo_keys.seed_of(Home(tmp_path)) is None
    assert demo_keys.evaluator_keys(Home(tmp_path)) == []
