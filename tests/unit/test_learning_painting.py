"""Painting rows over: where, with what, and what is left of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.errors import DataRefused
from galaxylearning.learning.painting import LARGEST_PATCH, MOST_FEATURES, Painter
from galaxylearning.learning.vectors import F32

N = 4000


def painted(inputs: F32, seed: int = 0, painter: Painter | None = None) -> F32:
    return (painter or Painter.of(inputs))(inputs, np.random.default_rng(seed))


def distinct(*shape: int) -> F32:
    """Rows whose numbers are all different and lie between 0.2 and 0.8: what is painted over shows."""
    values = np.random.default_rng(1).permutation(int(np.prod(shape)))
    return (0.2 + 0.6 * values.reshape(shape) / values.size).astype(np.float32)


UNIT = Painter(np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32))


def split(inputs: F32, found: F32) -> tuple[Any, Any]:
    """Which values differ, and which rows were painted over rather than mapped to another range."""
    changed = found != inputs
    return changed, ~changed.reshape(len(inputs), -1).all(1)


def test_a_fifth_is_turned_and_the_rest_painted_over_in_part() -> None:
    inputs = distinct(N, 1, 8, 8)
    changed, is_painted = split(inputs, painted(inputs, painter=UNIT))
    assert np.mean(is_painted) == pytest.approx(0.8, abs=0.03)
    part = changed[is_painted].mean((1, 2, 3))
    # Borders of width 0 leave a row as it is; a patch is at most 5 of 8 wide, a border leaves 4 of 8.
    assert np.mean(part == 0) == pytest.approx(0.5 / 81, abs=0.01)
    assert part.max() == 0.75


def test_patches_lie_anywhere_and_borders_at_the_edge() -> None:
    inputs = distinct(N, 1, 8, 8)
    changed, is_painted = split(inputs, painted(inputs, painter=UNIT))
    masks = changed[is_painted][:, 0]
    is_patch = np.array([_is_box(mask) for mask in masks])
    is_border = np.array([_is_box(~mask) for mask in masks])
    assert bool((is_patch | is_border).all())
    # One half each; a patch along an edge, and a border of one side, are both.
    assert min(is_patch.mean(), is_border.mean()) > 0.45
    assert np.mean(~is_border) == pytest.approx(0.5, abs=0.03)
    patches = masks[~is_border]
    assert patches.any(0).all()
    assert patches.any(2).sum(1).max() == patches.any(1).sum(1).max() == int(LARGEST_PATCH * 8)
    assert patches.any(2).sum(1).min() == 1
    # Every pixel is painted in some row and left in others.
    assert 0 < masks.mean(0).min() < masks.mean(0).max() < 1
    corner, middle = masks[~is_patch].mean(0)[0, 0], masks[~is_patch].mean(0)[4, 4]
    assert corner > 0.7
    assert middle == 0


def _is_box(mask: Any) -> bool:
    rows, columns = mask.any(1), mask.any(0)
    is_run = all(
        np.abs(np.diff(side.astype(int))).sum() + side[0] + side[-1] <= 2 for side in (rows, columns)
    )
    return is_run and bool((mask == np.outer(rows, columns)).all())


def test_most_values_are_the_ends_of_the_range() -> None:
    inputs = distinct(N, 1, 8, 8)
    found = painted(inputs, painter=UNIT)
    changed, is_painted = split(inputs, found)
    values = [
        row[mask] for row, mask in zip(found[is_painted], changed[is_painted], strict=True) if mask.any()
    ]
    assert all(np.unique(one).size == 1 for one in values)
    ends = np.array([one[0] for one in values])
    assert np.mean(ends == 0) == pytest.approx(0.35, abs=0.03)
    assert np.mean(ends == 1) == pytest.approx(0.35, abs=0.03)


def test_half_of_the_turned_rows_are_negatives() -> None:
    inputs = distinct(N, 1, 8, 8)
    found = painted(inputs, painter=UNIT)
    turned = ~split(inputs, found)[1]
    assert np.mean([np.allclose(f, 1 - i) for i, f in zip(inputs[turned], found[turned], strict=True)]) == (
        pytest.approx(0.5, abs=0.05)
    )
    # The others lie on a line from one number to another, both drawn evenly.
    pairs = zip(inputs[turned], found[turned], strict=True)
    lines = np.array([np.polyfit(before.ravel(), after.ravel(), 1) for before, after in pairs])
    slopes = lines[lines[:, 0] > -0.999, 0]
    assert np.mean(slopes < 0) == pytest.approx(0.5, abs=0.08)
    assert np.std(slopes) == pytest.approx(np.sqrt(1 / 6), abs=0.04)
    for before, after, (slope, first) in zip(inputs[turned][:100], found[turned][:100], lines, strict=False):
        assert after == pytest.approx(first + slope * before, abs=1e-4)


def test_a_channel_has_one_range() -> None:
    inputs = distinct(N, 3, 6, 6)
    inputs[:, :, 0, 0] = 0.5
    assert Painter.of(inputs).low.shape == (1, 3, 1, 1)
    assert np.ptp(painted(inputs)[:, :, 0, 0]) > 0.5


def test_channels_have_their_own_ranges_and_colours() -> None:
    inputs = distinct(N, 3, 6, 6) * np.array([1, 10, 100], np.float32)[:, None, None]
    found = painted(inputs)
    for channel in range(3):
        low, high = inputs[:, channel].min(), inputs[:, channel].max()
        # A channel of a small range may get what the middle one has.
        assert found[:, channel].max() <= max(high, inputs[:, 1].max()) * (1 + 1e-6)
        assert found[:, channel].min() >= min(low, inputs[:, 1].min()) * (1 - 1e-6)
    changed, is_painted = split(inputs, found)
    shares = [
        f[:, mask[0]][:, 0] / [1, 10, 100]
        for f, mask in zip(found[is_painted], changed[is_painted], strict=True)
        if mask[0].any() and (mask == mask[0]).all()
    ]
    assert len(shares) > N / 2
    # All channels of a row are painted in the same places; half of the rows have one shade for all.
    assert np.mean([np.ptp(one) > 0.3 for one in shares]) > 0.2


def test_any_features_are_painted_over_few_or_most() -> None:
    inputs = distinct(N, 20)
    unit = Painter(np.zeros((1, 20), np.float32), np.ones((1, 20), np.float32))
    found = painted(inputs, painter=unit)
    changed, is_painted = split(inputs, found)
    part = changed[is_painted].mean(1)
    assert part.mean() == pytest.approx(MOST_FEATURES / 2, abs=0.02)
    assert [np.quantile(part, q) for q in (0.1, 0.9)] == pytest.approx([0.09, 0.81], abs=0.06)
    together = np.corrcoef(changed[is_painted], rowvar=False)
    assert together[np.triu_indices(20, 1)].max() < 0.4
    # Half of the rows get one value, the others one for each feature.
    several = [
        np.unique(row[mask]).size for row, mask in zip(found[is_painted], changed[is_painted], strict=True)
    ]
    assert np.mean(np.array(several) > 1) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("end", [0, 1])
def test_a_feature_that_never_changes_may_change_in_painted_rows(end: int) -> None:
    inputs = distinct(N, 5)
    inputs[:, 2] = end
    found = painted(inputs)[:, 2]
    assert found.max() > 0.7
    assert found.min() < 0.3
    ranges = Painter.of(inputs)
    assert (ranges.low[0, 2], ranges.high[0, 2]) == pytest.approx(
        (0, 0.8) if end == 0 else (0.2, 1), abs=0.01
    )


@pytest.mark.parametrize("scales", [(1, 1000), (1, 1, 1000)])
def test_one_wide_feature_widens_no_other(scales: tuple[int, ...]) -> None:
    inputs = distinct(N, len(scales)) * np.array(scales, np.float32)
    assert painted(inputs)[:, 0].max() <= inputs[:, :-1].max()


def test_rows_that_never_differ_stay_as_they_are() -> None:
    inputs = np.full((50, 3), 2, np.float32)
    assert np.array_equal(painted(inputs), inputs)


@pytest.mark.parametrize(
    "shape", [(7, 1), (7, 2), (7, 1, 1), (7, 3, 1, 1), (7, 4, 1, 9), (7, 2, 3), (1, 1, 2, 2)]
)
def test_small_rows_keep_their_shape_and_range(shape: tuple[int, ...]) -> None:
    inputs = distinct(*shape)
    kept = inputs.copy()
    for seed in range(50):
        found = painted(inputs, seed)
        assert (found.shape, found.dtype) == (shape, np.dtype(np.float32))
        assert found.min() >= inputs.min() - 1e-6
        assert found.max() <= inputs.max() + 1e-6
    assert np.array_equal(inputs, kept)


def test_equal_generators_paint_equally() -> None:
    inputs = distinct(9, 1, 8, 8)
    assert np.array_equal(painted(inputs, 3), painted(inputs, 3))
    assert not np.array_equal(painted(inputs, 3), painted(inputs, 4))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_all_images_can_be_painted(height: int, width: int, seed: int) -> None:
    inputs = np.random.default_rng(seed).normal(size=(5, 2, height, width)).astype(np.float32)
    assert bool(np.isfinite(painted(inputs, seed)).all())


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((3, 4), np.int64),
        np.zeros((3, 4), np.float64),
        np.zeros(4, np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros((2, 0), np.float32),
    ],
)
def test_what_cannot_be_painted_is_refused(inputs: Any) -> None:
    with pytest.raises(DataRefused, match=r"inputs: .*; rows of float32 numbers allowed"):
        Painter.of(inputs)


@pytest.mark.parametrize("values", [(0, np.nan), (0, np.inf), (-3e38, 3e38)])
def test_numbers_without_a_range_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(DataRefused, match="inputs: must be finite"):
        Painter.of(np.array(values, np.float32)[:, None])


def test_narrow_sides_get_borders_as_well() -> None:
    inputs = distinct(N, 1, 3, 3)
    changed, is_painted = split(inputs, painted(inputs, painter=UNIT))
    masks = changed[is_painted][:, 0]
    assert {tuple(mask.ravel()) for mask in masks} >= {(True,) * 4 + (False,) + (True,) * 4}
