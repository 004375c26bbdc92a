"""Values and standard errors from single products, by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from galaxylearning.contribution import PathScorer, UnitErrors, values_of_scalars
from galaxylearning.errors import DataRefused

F64 = npt.NDArray[np.float64]

START = np.array([1.0, 1.0, 1.0])
STEP = np.array([-0.25, -0.125, 0.0])


def bowl(params: F64) -> F64:
    """Two blocks: the first is flat, the second's gradient is (2, 4, 8) at any parameters."""
    return np.array([0 * params, [2.0, 4.0, 8.0]])


def scorer() -> PathScorer:
    return PathScorer(bowl, START, STEP, update_bits=16)


def test_along_and_across_by_hand() -> None:
    # Two blocks: the standard error of a product is half the difference of the blocks'.
    samples = np.array([[5.0, 3.0, 0.0], [1.0, 0.0, -2.0]])
    found = UnitErrors.of(scorer(), np.array([10.0, 0.0, 0.0]), samples)
    assert found.along == pytest.approx(1.0, rel=1e-6)
    # what the samples have across the first axis: (0, 1, 0) and (0, 0, -1), so 2 and 4
    assert found.across == pytest.approx(math.sqrt((2.0**2 + 4.0**2) / 2), rel=1e-6)


def test_errors_follow_length_and_cosine() -> None:
    found = UnitErrors(along=3.0, across=4.0).errors(
        np.array([1.0, 2.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.6, 0.5])
    )
    assert found.tolist() == pytest.approx([3.0, 8.0, math.sqrt(0.36 * 9 + 0.64 * 16), 0.0])


def test_no_step_and_no_samples_give_no_error() -> None:
    found = UnitErrors.of(scorer(), np.zeros(3), np.zeros((0, 3)))
    assert (found.along, found.across) == (0.0, 0.0)


@pytest.mark.parametrize("samples", [np.zeros((2, 4)), np.zeros(3), np.full((1, 3), np.nan)])
def test_samples_of_another_kind_are_refused(samples: F64) -> None:
    with pytest.raises(DataRefused, match="samples"):
        UnitErrors.of(scorer(), np.ones(3), samples)


def test_a_value_is_share_times_unit_times_product() -> None:
    found = values_of_scalars(
        np.array([10, -4, 0]),
        np.array([0.5, 0.25, 0.25]),
        unit=0.1,
        errors=np.array([0.2, 0.4, 0.0]),
        gain_estimate=1.5,
    )
    assert found.values.tolist() == pytest.approx([0.5, -0.1, 0.0])
    assert found.standard_errors.tolist() == pytest.approx([0.1, 0.1, 0.0])
    assert found.gain_estimate == 1.5


def test_the_product_with_the_mean_gradient_is_the_value() -> None:
    scored = scorer()
    rows = np.array([[3, -2, 1]], np.int16)
    value = scored.values([rows], [1.0], unit=0.5).values[0]
    assert float(scored.mean_gradient @ rows[0]) * 0.5 == pytest.approx(value)
