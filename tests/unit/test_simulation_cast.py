"""Who plays what, and what a round of them sends: the same whatever the pieces that training comes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Trained
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import F32, F64, I64
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import (
    Absent,
    Alie,
    AttackView,
    Behaviour,
    Cast,
    Honest,
    InnerProduct,
    LabelNoise,
    Mimic,
    Noise,
    Plain,
    Scaled,
    Scene,
    ShuffledLabels,
    SignFlip,
    Slow,
    SybilDuplicate,
    SybilSplit,
    Zero,
    enlist,
    parse_behaviour,
    perform,
)
from galaxylearning.simulation.behaviours_base import Acts

OWNERS, SIZE = 12, 5


def cohort(owners: int = OWNERS, n: int = 6, identities: tuple[int, ...] = ()) -> Cohort:
    """Data owner i's inputs begin with i, so that a row tells whose it is."""
    rng = np.random.default_rng(0)
    parts = []
    for owner in range(owners):
        inputs = rng.normal(size=(n + owner % 3, 3)).astype(np.float32)
        inputs[:, 0] = owner
        parts.append(Rows(inputs, rng.integers(0, 4, len(inputs))))
    return Cohort.of(parts, identities)


def cast_of(assignments: dict[int, Behaviour], owners: int = OWNERS, seed: int = 1) -> Cast:
    return enlist(cohort(owners), assignments, seed=seed)


# ---- enlist


def test_without_assignments_everybody_is_honest_and_nothing_changes() -> None:
    before = cohort()
    found = enlist(before, {}, seed=1)
    assert found.labels == ("honest",) * OWNERS
    assert found.cohort.pool is before.pool
    np.testing.assert_array_equal(found.cohort.index, before.index)
    np.testing.assert_array_equal(found.cohort.offsets, before.offsets)
    assert found.played_by.tolist() == list(range(OWNERS))
    assert found.trains.all()
    assert found.delays.tolist() == [1.0] * OWNERS


def test_changed_rows_join_the_pool_and_everybody_else_keeps_theirs() -> None:
    before = cohort()
    found = enlist(before, {3: LabelNoise(), 7: ShuffledLabels(), 8: Zero()}, seed=1)
    assert len(found.cohort.pool) == len(before.pool) + len(before.rows(3)) + len(before.rows(7))
    for owner in range(OWNERS):
        true, given = before.rows(owner), found.cohort.rows(owner)
        np.testing.assert_array_equal(true.inputs, given.inputs)
        if owner == 3:
            assert (true.labels != given.labels).all()
        elif owner == 7:
            assert sorted(true.labels.tolist()) == sorted(given.labels.tolist())
        else:
            np.testing.assert_array_equal(true.labels, given.labels)
    assert found.labels[7] == "shuffled-labels"
    assert not found.trains[8]


def test_what_one_does_to_its_rows_does_not_depend_on_the_others() -> None:
    alone = cast_of({5: LabelNoise(0.5)}).cohort.rows(5)
    among = cast_of({1: ShuffledLabels(), 5: LabelNoise(0.5), 9: SybilSplit(2)}).cohort.rows(5)
    np.testing.assert_array_equal(alone.labels, among.labels)
    other_seed = cast_of({5: LabelNoise(0.5)}, seed=2).cohort.rows(5)
    assert (alone.labels != other_seed.labels).any()


def test_sybils_come_after_all_data_owners() -> None:
    before = cohort(identities=tuple(range(100, 100 + OWNERS)))
    found = enlist(before, {2: SybilSplit(3), 4: SybilDuplicate(2)}, seed=1)
    assert len(found) == len(found.cohort) == OWNERS + 3
    assert found.played_by[OWNERS:].tolist() == [2, 2, 4]
    assert list(found.cohort.identities) == list(range(100, 100 + OWNERS + 3))
    assert found.labels[OWNERS:] == ("sybil-split:parts=3", "sybil-split:parts=3", "sybil-duplicate")
    pieces = [found.cohort.rows(i).inputs for i in (2, OWNERS, OWNERS + 1)]
    whole = before.rows(2).inputs
    assert sorted(map(tuple, np.concatenate(pieces).tolist())) == sorted(map(tuple, whole.tolist()))
    np.testing.assert_array_equal(found.cohort.rows(OWNERS + 2).inputs, before.rows(4).inputs)
    assert len(found.cohort.pool) == len(before.pool), "copies of rows take no memory"


def test_lies_about_data_come_before_they_are_dealt_to_sybils() -> None:
    found = cast_of({0: parse_behaviour("sybil-duplicate+label-noise")})
    np.testing.assert_array_equal(found.cohort.rows(0).labels, found.cohort.rows(OWNERS).labels)
    assert (found.cohort.rows(0).labels != cohort().rows(0).labels).all()


@pytest.mark.parametrize("position", [-1, OWNERS])
def test_positions_outside_are_refused(position: int) -> None:
    with pytest.raises(ConfigRefused, match="data owners are 0 to 11"):
        cast_of({position: Zero()})


def test_too_few_rows_name_the_data_owner() -> None:
    with pytest.raises(DataRefused, match="data owner 4: sybil-split: 7 rows cannot be split in 9"):
        cast_of({4: SybilSplit(9)})


@dataclass(frozen=True, slots=True)
class Wide(Plain):
    name: ClassVar[str] = "wide"

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:  # noqa: ARG002
        return Rows(rows.inputs.astype(np.float64), rows.labels)


def test_rows_of_another_type_are_refused() -> None:
    with pytest.raises(DataRefused, match="data owner 6: wide: changed the type or shape of the inputs"):
        cast_of({6: Wide()})


def test_absence_is_drawn_for_each_and_does_not_depend_on_who_is_asked_for() -> None:
    found = cast_of({i: Absent(0.5) for i in range(200)} | {200: Absent(), 201: Slow()}, owners=202)
    everybody = np.arange(202, dtype=np.int64)
    first = found.absent(0, everybody)
    assert 70 < int(first[:200].sum()) < 130
    assert first[200]
    assert not first[201]
    np.testing.assert_array_equal(found.absent(0, everybody[50:150]), first[50:150])
    assert (found.absent(1, everybody) != first).any()


# ---- perform


def scene(round_index: int = 1, last: F64 | None = None) -> Scene:
    return Scene(round_index, np.zeros(SIZE, np.float32), np.full(2, 9.0, np.float32), 1.5, last)


def honest_updates(count: int) -> F32:
    return np.random.default_rng(5).normal(size=(count, SIZE)).astype(np.float32)


def results(
    found: Cast, senders: I64, updates: F32, piece: int, failing: frozenset[int] = frozenset()
) -> Iterator[Trained]:
    """What an engine would give, in pieces, in one buffer that it uses again."""
    trainees = senders[found.trains[senders]]
    buffer = np.zeros((piece, updates.shape[1]), np.float32)
    for start in range(0, len(trainees), piece):
        owners = trainees[start : start + piece]
        bad = {owner: "diverged" for owner in owners.tolist() if owner in failing}
        rows = buffer[: len(owners)]
        rows[:] = updates[owners]
        rows[[owner in bad for owner in owners.tolist()]] = 0
        count = len(owners)
        yield Trained(
            owners, rows, np.ones((count, 2), np.float32), np.full(count, 4), np.full((count, 2), 0.5), bad
        )


def sent(
    found: Cast,
    *,
    senders: I64 | None = None,
    piece: int = 4,
    failing: frozenset[int] = frozenset(),
    at: Scene | None = None,
) -> dict[int, tuple[list[float], int, str]]:
    """Update, steps and failure by position, each asserted to come once."""
    who = np.arange(len(found), dtype=np.int64) if senders is None else senders
    outcome: dict[int, tuple[list[float], int, str]] = {}
    updates = honest_updates(len(found))
    for part in perform(found, results(found, who, updates, piece, failing), at or scene(), senders=who):
        for row, owner in enumerate(part.owners.tolist()):
            assert owner not in outcome
            assert part.updates.dtype == np.float32
            outcome[owner] = (part.updates[row].tolist(), int(part.steps[row]), part.failures.get(owner, ""))
            assert part.buffers[row].tolist() == ([1.0, 1.0] if part.steps[row] else [9.0, 9.0])
    assert sorted(outcome) == who.tolist()
    return outcome


MIXED: dict[int, Behaviour] = {
    0: Alie(1.0),
    1: SignFlip(),
    2: Zero(),
    3: Noise(),
    4: Alie(1.0),
    5: InnerProduct(2.0, knowledge="own"),
    6: Scaled(3.0),
    7: Noise(),
    8: Mimic(9),
    9: LabelNoise(),
}


def test_everybody_sends_what_its_behaviour_makes_of_its_training() -> None:
    found = sent(cast_of(MIXED))
    trained = honest_updates(OWNERS)
    honest = trained[[9, 10, 11]].astype(np.float64)
    for owner in (9, 10, 11):
        assert found[owner] == (trained[owner].tolist(), 4, "")
    assert found[1][0] == (-trained[1]).tolist()
    assert found[2] == ([0.0] * SIZE, 0, "")
    np.testing.assert_allclose(found[6][0], 3 * trained[6], rtol=1e-6)
    np.testing.assert_allclose(found[0][0], honest.mean(axis=0) - honest.std(axis=0), rtol=1e-5, atol=1e-6)
    assert found[0] == found[4]
    np.testing.assert_allclose(found[5][0], -2 * trained[5], rtol=1e-6)
    assert found[8][0] == trained[9].tolist()
    assert found[3][0] != found[7][0]


@pytest.mark.parametrize("piece", [1, 2, 5, 100])
def test_pieces_do_not_matter(piece: int) -> None:
    assert sent(cast_of(MIXED), piece=piece) == sent(cast_of(MIXED), piece=3)


def test_pieces_of_the_idle_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sent(cast_of({i: Noise() for i in range(11)}))
    monkeypatch.setattr("galaxylearning.simulation.behaviours_round.IDLE_ROWS", 3)
    assert sent(cast_of({i: Noise() for i in range(11)})) == whole


def test_only_senders_are_seen_and_heard() -> None:
    senders = np.array([0, 4, 9, 11], np.int64)
    found = sent(cast_of(MIXED), senders=senders)
    honest = honest_updates(OWNERS)[[9, 11]].astype(np.float64)
    np.testing.assert_allclose(found[0][0], honest.mean(axis=0) - honest.std(axis=0), rtol=1e-5, atol=1e-6)


def test_rounds_draw_anew_and_seeds_too() -> None:
    found = cast_of({0: Noise()})
    once = sent(found)[0][0]
    assert once == sent(found)[0][0]
    assert once != sent(found, at=scene(2))[0][0]
    assert once != sent(cast_of({0: Noise()}, seed=2))[0][0]


def test_failed_training_stays_failed_and_is_no_model_for_anybody() -> None:
    failing = frozenset({1, 5, 6, 9})
    found = sent(cast_of(MIXED), failing=failing)
    for owner in failing:
        assert found[owner] == ([0.0] * SIZE, 4, "diverged")
    honest = honest_updates(OWNERS)[[10, 11]].astype(np.float64)
    np.testing.assert_allclose(found[0][0], honest.mean(axis=0) - honest.std(axis=0), rtol=1e-5, atol=1e-6)
    assert found[8][0] == honest_updates(OWNERS)[10].tolist(), "the next one is copied"


def test_with_nobody_honest_attacks_have_nothing_to_hide_in() -> None:
    found = sent(cast_of({i: Alie() for i in range(OWNERS)}))
    assert all(update == [0.0] * SIZE for update, _, _ in found.values())


def test_nobody_sends_nothing() -> None:
    assert sent(cast_of(MIXED), senders=np.zeros(0, np.int64)) == {}


@dataclass(frozen=True, slots=True)
class Unfit(Plain):
    name: ClassVar[str] = "unfit"
    what: str = "shape"

    @property
    def acts(self) -> Acts:
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        wrong: dict[str, object] = {
            "shape": view.own[:, :-1],
            "type": view.own.astype(np.int64),
            "list": view.own.tolist(),
        }
        return wrong[self.what]  # type: ignore[return-value]


@pytest.mark.parametrize(("what", "says"), [("shape", "float32"), ("type", "int64"), ("list", "gave list")])
def test_a_plug_in_that_gives_something_else_is_named(what: str, says: str) -> None:
    with pytest.raises(ConfigRefused, match=f"unfit: .*{says}.*floats of shape"):
        sent(cast_of({0: Unfit(what)}))


@dataclass(frozen=True, slots=True)
class Wider(Unfit):
    name: ClassVar[str] = "wider"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        return view.own.astype(np.float64) * 2  # type: ignore[return-value]


def test_a_plug_in_may_compute_in_double_precision() -> None:
    assert sent(cast_of({0: Wider()}))[0][0] == (2 * honest_updates(OWNERS)[0]).tolist()


def test_honest_is_behaviour_zero() -> None:
    found = cast_of({0: Zero(), 1: Honest(), 2: Scaled(2.0), 3: Scaled(4.0)})
    assert found.behaviours == (Honest(), Zero(), Scaled(2.0), Scaled(4.0))
    assert found.plays[:5].tolist() == [1, 0, 2, 3, 0]
