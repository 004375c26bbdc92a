"""What behaviours do to their rows: noisy and shuffled labels, backdoors, sybils that share or copy."""

from __future__ import annotations

import numpy as np
import pytest

from behaviour_cases import chance, rows, view
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import (
    Backdoor,
    LabelNoise,
    ShuffledLabels,
    SybilDuplicate,
    SybilSplit,
)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_label_noise_changes_exactly_its_part_and_always_to_another_class(fraction: float) -> None:
    true = rows(400, classes=4)
    given = LabelNoise(fraction).data(true, classes=4, rng=chance(1))
    changed = given.labels != true.labels
    assert int(changed.sum()) == round(400 * fraction)
    assert set(np.unique(given.labels)) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(given.inputs, true.inputs)


def test_noisy_labels_are_even_among_the_other_classes() -> None:
    true = Rows(np.zeros((3000, 1), np.float32), np.zeros(3000, np.int64))
    counts = np.bincount(LabelNoise().data(true, classes=4, rng=chance(2)).labels.astype(int), minlength=4)
    assert counts[0] == 0
    assert (abs(counts[1:] - 1000) < 100).all()


def test_noise_on_real_labels_deals_them_out_anew() -> None:
    true = Rows(np.zeros((50, 1), np.float32), np.arange(50, dtype=np.float32)[:, None])
    given = LabelNoise(0.5).data(true, classes=0, rng=chance(3))
    assert sorted(given.labels.ravel().tolist()) == sorted(true.labels.ravel().tolist())
    moved = int((given.labels != true.labels).sum())
    assert 15 < moved <= 25


def test_one_class_leaves_no_other_label() -> None:
    true = Rows(np.zeros((5, 1), np.float32), np.zeros(5, np.int64))
    assert LabelNoise().data(true, classes=1, rng=chance()).labels.tolist() == [0] * 5


def test_shuffled_labels_are_the_same_labels_elsewhere() -> None:
    true = rows(200, classes=5)
    given = ShuffledLabels().data(true, classes=5, rng=chance(4))
    assert sorted(given.labels.tolist()) == sorted(true.labels.tolist())
    assert (given.labels != true.labels).sum() > 100


def test_a_backdoor_marks_the_last_features_and_sets_the_label() -> None:
    true = Rows(np.zeros((10, 5), np.float32), np.ones(10, np.int64))
    given = Backdoor(target=2, fraction=0.4, size=2, value=7.0).data(true, classes=3, rng=chance(5))
    marked = given.labels == 2
    assert int(marked.sum()) == 4
    assert given.inputs[marked].tolist() == [[0.0, 0.0, 0.0, 7.0, 7.0]] * 4
    assert not given.inputs[~marked].any()
    assert not true.inputs.any(), "the true rows are left alone"


def test_a_backdoor_marks_the_corner_of_images() -> None:
    given = Backdoor(size=2, value=1.0).marked(np.zeros((1, 1, 3, 3), np.float32))
    assert given[0, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_a_backdoor_is_probed_on_other_classes_alone() -> None:
    test = Rows(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 1]))
    probe = Backdoor(target=1, size=1).probe(test)
    assert probe.inputs.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert probe.labels.tolist() == [1, 1]
    with pytest.raises(DataRefused, match="target class only"):
        Backdoor(target=1).probe(test.take(np.array([1, 3])))


def test_a_boosted_backdoor_sends_more_and_an_unboosted_one_what_training_gave() -> None:
    assert Backdoor(boost=5.0).update(view([[1.0, 2.0]]), rng=chance()).tolist() == [[5.0, 10.0]]
    assert Backdoor(boost=5.0).acts == "alone"
    assert Backdoor().acts == "never"


@pytest.mark.parametrize(
    ("backdoor", "true", "field"),
    [
        (Backdoor(target=3), rows(5), "backdoor.target"),
        (Backdoor(value=0.5), Rows(np.zeros((5, 3), np.int64), np.zeros(5, np.int64)), "backdoor.value"),
    ],
)
def test_a_backdoor_that_the_data_do_not_allow_is_refused(backdoor: Backdoor, true: Rows, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        backdoor.data(true, classes=3, rng=chance())


@pytest.mark.parametrize(("n", "parts"), [(10, 2), (11, 3), (7, 7)])
def test_sybil_parts_are_disjoint_and_complete(n: int, parts: int) -> None:
    pieces = SybilSplit(parts).split(n, rng=chance(6))
    assert len(pieces) == parts
    assert sorted(np.concatenate(pieces).tolist()) == list(range(n))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1


def test_too_few_rows_cannot_be_split() -> None:
    with pytest.raises(DataRefused, match="2 rows cannot be split in 3"):
        SybilSplit(3).split(2, rng=chance())


def test_sybil_copies_are_equal() -> None:
    pieces = SybilDuplicate(3).split(4, rng=chance())
    assert [piece.tolist() for piece in pieces] == [[0, 1, 2, 3]] * 3
