"""Histories add up, and are read back exactly; reports say who did what and fold when they grow long."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import DataRefused
from galaxylearning.simulation.history import LETTERS, History, OwnerStatus, RoundRecord, RunInfo
from galaxylearning.simulation.report import (
    BEHAVIOUR_COLUMNS,
    OWNER_COLUMNS,
    PrivacyFacts,
    Report,
    behaviour_table,
    make_report,
    owner_table,
)

ACCEPTED, REJECTED, MALFORMED, DROPPED, ABSENT = (
    OwnerStatus.ACCEPTED,
    OwnerStatus.REJECTED,
    OwnerStatus.MALFORMED,
    OwnerStatus.DROPPED,
    OwnerStatus.ABSENT,
)


def record(round_index: int = 0, **changes: Any) -> RoundRecord:
    plain: dict[str, Any] = {
        "round_index": round_index,
        "utility": -1.0 / (round_index + 3),
        "accuracy": 0.5,
        "seconds": 0.125,
        "statuses": np.array([ACCEPTED, REJECTED, ABSENT, ACCEPTED], np.int8),
        "values": np.array([0.1, 0.0, 0.0, 0.2]),
        "errors": np.array([0.03, 0.0, 0.0, 0.04]),
        "loss": 0.75,
    }
    return RoundRecord(**(plain | changes))


def two_rounds() -> History:
    second = record(
        1,
        accuracy=None,
        loss=None,
        statuses=np.array([ACCEPTED, MALFORMED, DROPPED, REJECTED], np.int8),
        values=np.array([0.3, 0.0, 0.0, 0.0]),
        errors=np.array([0.04, 0.0, 0.0, 0.0]),
    )
    return History(4).plus(record()).plus(second)


def assert_equal(one: History, two: History) -> None:
    assert one.owners == two.owners
    assert len(one) == len(two)
    for left, right in zip(one.rounds, two.rounds, strict=True):
        for name in ("round_index", "utility", "accuracy", "seconds", "loss"):
            assert getattr(left, name) == getattr(right, name)
        for name in ("statuses", "values", "errors"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
            assert getattr(left, name).dtype == getattr(right, name).dtype


def test_a_round_counts_its_statuses() -> None:
    assert dict(record().counts) == {
        "present": 3,
        "absent": 1,
        "dropped": 0,
        "malformed": 0,
        "rejected": 1,
        "accepted": 2,
    }
    late = record(statuses=np.array([DROPPED, DROPPED, ABSENT, MALFORMED], np.int8))
    assert late.counts["present"] == 1, "who came too late was not heard"


def test_a_history_adds_up() -> None:
    found = two_rounds()
    np.testing.assert_allclose(found.values(), [0.4, 0.0, 0.0, 0.2])
    np.testing.assert_allclose(found.errors(), [0.05, 0.0, 0.0, 0.04])
    assert found.tally().tolist() == [[0, 0, 0, 0, 2], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    best = found.best()
    assert best is not None
    assert best.round_index == 1


def test_a_history_without_rounds_is_one_too() -> None:
    empty = History(3)
    assert empty.values().tolist() == empty.errors().tolist() == [0.0] * 3
    assert empty.best() is None
    assert_equal(History.from_json(empty.to_json()), empty)
    assert_equal(History.from_arrays(empty.to_arrays()), empty)


def test_json_and_arrays_are_read_back_exactly() -> None:
    found = two_rounds()
    assert_equal(History.from_json(found.to_json()), found)
    assert_equal(History.from_arrays(found.to_arrays()), found)


def test_json_can_be_read_by_people() -> None:
    document = json.loads(two_rounds().to_json())
    assert document["rounds"][1]["statuses"] == "AMDR"
    assert document["rounds"][1]["malformed"] == 1
    assert len(LETTERS) == len(OwnerStatus)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"statuses": np.array([9, 0, 0, 0], np.int8)}, "statuses must be in 0..4"),
        ({"statuses": np.array([-1, 0, 0, 0], np.int8)}, "statuses must be in"),
        ({"statuses": np.zeros(4, np.int64)}, "statuses must be int8"),
        ({"statuses": np.zeros(3, np.int8)}, r"values must be float64\[3\]"),
        ({"values": np.zeros(4, np.float32)}, "values must be float64"),
        ({"values": np.array([np.nan, 0, 0, 0])}, "values must be finite"),
        ({"errors": np.array([np.inf, 0, 0, 0])}, "errors must be finite"),
        ({"utility": float("nan")}, "utility must be finite"),
        ({"loss": float("inf")}, "loss must be finite"),
        ({"accuracy": 1.01}, r"accuracy must be in \[0, 1\]"),
        ({"accuracy": float("nan")}, "accuracy must be in"),
        ({"round_index": -1}, "round_index must be at least 0"),
    ],
)
def test_records_that_make_no_sense_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        record(**changes)


def test_rounds_belong_to_one_cohort_and_come_in_order() -> None:
    with pytest.raises(ValueError, match="round 1 comes after round 1"):
        History(4).plus(record()).plus(record())
    with pytest.raises(ValueError, match="round 1 has 4 of 5"):
        History(5).plus(record())


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format="other"),
        lambda d: d.pop("owners"),
        lambda d: d.update(owners=5),
        lambda d: d.update(rounds=7),
        lambda d: d["rounds"][0].pop("seconds"),
        lambda d: d["rounds"][0].update(statuses="AAAX"),
        lambda d: d["rounds"][0].update(values=[1, 2]),
        lambda d: d["rounds"][0].update(values="many"),
        lambda d: d["rounds"].reverse(),
    ],
)
def test_documents_that_are_no_history_are_refused(change: Change) -> None:
    document = json.loads(two_rounds().to_json())
    change(document)
    with pytest.raises(DataRefused, match="history"):
        History.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "[" * 100_000])
def test_texts_that_are_no_history_are_refused(text: str) -> None:
    with pytest.raises(DataRefused, match="history"):
        History.from_json(text)


@pytest.mark.parametrize("name", ["owners", "values", "numbers", "statuses"])
def test_arrays_that_are_no_history_are_refused(name: str) -> None:
    arrays = two_rounds().to_arrays()
    with pytest.raises(DataRefused, match="history"):
        History.from_arrays({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(DataRefused, match="history"):
        History.from_arrays(arrays | {name: np.zeros((1, 1))})


# ---- reports


INFO = RunInfo(
    "job", ("anna", "ben", "carl", "dora"), ("honest", "zero", "honest", "sybil-split"), 2, "units of mse"
)


def report(**changes: Any) -> Report:
    plain: dict[str, Any] = {
        "rows": [10, 20, 30, 40],
        "values": np.array([0.4, 0.0, 0.0, 0.3]),
        "errors": np.array([0.05, 0.0, 0.0, 0.1]),
        "pays": [60, 0, 0, 40],
        "bounty": 200,
    }
    return make_report(INFO, two_rounds(), **(plain | changes))


def test_a_report_says_who_did_what() -> None:
    found = report(played_by=[0, 1, 2, 1])
    assert [row.name for row in found.owners] == ["anna", "dora", "ben", "carl"], "best paid first"
    anna, dora, ben, _ = found.owners
    assert (anna.accepted, anna.rows, anna.pay, anna.share) == (2, 10, 60, 0.6)
    assert anna.value == pytest.approx(0.4)
    assert anna.error == pytest.approx(0.05)
    assert (ben.rejected, ben.malformed, ben.behaviour, ben.share) == (1, 1, "zero", 0.0)
    assert (dora.position, dora.played_by) == (3, 1)
    assert (found.paid, found.bounty, found.rounds, found.best_round) == (100, 200, 2, 1)
    assert found.accuracy is None


def test_a_report_sums_up_each_behaviour() -> None:
    honest, sybil, zero = report().behaviours
    assert honest.names == ("anna", "carl")
    assert honest.accepted == pytest.approx(0.5)
    assert honest.value == pytest.approx(0.2)
    assert (honest.pay, honest.share) == (60, 0.6)
    assert (sybil.behaviour, sybil.accepted) == ("sybil-split", 0.5)
    assert (zero.behaviour, zero.pay) == ("zero", 0)


def test_amounts_in_json_are_exact() -> None:
    large = 10**24 + 1
    document = json.loads(report(pays=[large, 0, 0, 1], bounty=2 * large).to_json())
    assert document["owners"][0]["pay"] == str(large)
    assert document["paid"] == str(large + 1)
    assert document["behaviours"][0]["pay"] == str(large)


def test_what_values_are_counted_in_is_told_and_read_back() -> None:
    document = json.loads(report().to_json())
    assert document["value_unit"] == "units of mse"
    assert Report.from_document(document).value_unit == "units of mse"


def test_csv_has_everybody_in_order_of_position() -> None:
    lines = list(csv.DictReader(io.StringIO(report().to_csv())))
    assert [line["name"] for line in lines] == ["anna", "ben", "carl", "dora"]
    assert lines[1]["behaviour"] == "zero"
    assert lines[3]["pay"] == "40"


def test_nobody_was_paid() -> None:
    assert all(row.share == 0.0 for row in report(pays=[0, 0, 0, 0]).owners)


def test_what_noise_came_to_is_kept_and_read_back() -> None:
    facts = PrivacyFacts("local", 1e-5, 1.5, 2.5, None)
    assert Report.from_document(json.loads(report(privacy=facts).to_json())).privacy == facts
    assert Report.from_document(json.loads(report().to_json())).privacy is None


def test_nothing_has_happened_yet() -> None:
    found = make_report(
        INFO,
        History(4),
        rows=[1] * 4,
        values=np.zeros(4),
        errors=np.zeros(4),
        pays=[0] * 4,
        bounty=5,
        reason="interrupted",
    )
    assert found.utility is None
    assert found.best_round is None
    assert found.behaviours[0].accepted == 0


@pytest.mark.parametrize("changes", [{"rows": [1, 2, 3]}, {"pays": [0] * 5}, {"played_by": [0]}])
def test_lists_of_other_lengths_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="argument"):
        report(**changes)


def test_short_tables_are_whole() -> None:
    columns, rows = owner_table(report(), money=lambda units: f"{units} u")
    assert columns == OWNER_COLUMNS
    assert [row[0] for row in rows] == ["anna", "dora", "ben", "carl"]
    assert rows[0] == (
        "anna",
        "honest",
        "10",
        "2",
        "0",
        "0",
        "0",
        "0",
        "+0.40000",
        "0.05000",
        "60 u",
        "60.0%",
    )
    columns, rows = behaviour_table(report())
    assert columns == BEHAVIOUR_COLUMNS
    assert rows[0] == ("honest", "2", "anna, carl", "50%", "+0.20000", "60", "60.0%")


@pytest.mark.parametrize("fold", [1, 2, 9, 40])
def test_long_tables_are_folded_in_the_middle(fold: int) -> None:
    count = 200
    info = replace(INFO, owners=tuple(f"o{i}" for i in range(count)), behaviours=("honest",) * count)
    found = make_report(
        info,
        History(count),
        rows=[1] * count,
        values=np.zeros(count),
        errors=np.zeros(count),
        pays=[count - i for i in range(count)],
        bounty=10**6,
    )
    columns, rows = owner_table(found, fold=fold)
    names = [row[0] for row in rows]
    assert len(names) == fold + 1
    assert f"… {count - fold} more" in names
    assert names[0] == "o0"
    assert names[-1] == ("o199" if fold > 1 else "… 199 more")
    assert all(len(row) == len(columns) for row in rows)
    assert behaviour_table(found)[1][0][2] == "o0, o1, o2, o3 and 196 more"
