"""Integer products by floating-point matrices: exact at the ends of every range, whatever the shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning import exact
from galaxylearning.learning.exact import (
    TASK_COLUMNS,
    TILE_COLUMNS,
    exact_products,
    exact_squares,
    exact_weighted_sum,
    require_rows,
    tiled_products,
)


@pytest.mark.parametrize("width", [TILE_COLUMNS, 5 * TILE_COLUMNS + 3, TASK_COLUMNS + TILE_COLUMNS + 1])
def test_sums_of_tiles_are_exact_beyond_53_bits(width: int) -> None:
    row, column = 2**15 - 1, 2**27 - 1
    rows = np.full((3, width), row, np.int16)
    rows[1] *= -1
    rows[2, 0] -= 1
    found = tiled_products(rows, np.full((1, width), float(column)))
    assert found[:, 0].tolist() == [
        row * column * width,
        -row * column * width,
        row * column * width - column,
    ]


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_the_ends_of_every_type_are_exact(kind: Any) -> None:
    low, high, width = np.iinfo(kind).min, np.iinfo(kind).max, TILE_COLUMNS + 5
    rows = np.array([[low] * width, [high] * width], kind)
    columns = np.array([[-(2**63)] * width, [2**63 - 1] * width, [2**27] * width])
    expected = [[int(a) * int(b) * width for b in columns[:, 0]] for a in (low, high)]
    assert [[int(x) for x in row] for row in exact_products(rows, columns)] == expected
    assert [int(x) for x in exact_squares(rows)] == [low * low * width, high * high * width]
    total = exact_weighted_sum(rows, np.array([2**20, 2**20 - 1]))
    assert set(total.tolist()) == {low * 2**20 + high * (2**20 - 1)}


def test_results_fit_int64_or_are_pythons_own() -> None:
    rows = np.ones((2, 3), np.int16)
    assert exact_products(rows, np.ones((1, 3), np.int64)).dtype == np.int64
    assert exact_products(rows, np.full((1, 3), 2**62)).dtype == object
    assert exact_squares(rows).dtype == np.int64
    assert exact_squares(np.full((1, 3), 2**31 - 1, np.int32)).dtype == object


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    rows = np.ones(shape, np.int16)
    assert exact_products(rows, np.ones((2, shape[1]), np.int64)).tolist() == [[shape[1]] * 2] * shape[0]
    assert exact_squares(rows).tolist() == [shape[1]] * shape[0]
    assert exact_weighted_sum(rows, np.ones(shape[0], np.int64)).tolist() == [shape[0]] * shape[1]


def test_pieces_come_in_any_layout() -> None:
    rows = np.random.default_rng(0).integers(-99, 99, (40, 50)).astype(np.int16)
    columns = np.random.default_rng(1).integers(-99, 99, (2, 50))
    expected = rows.astype(np.int64) @ columns.T
    assert exact_products(np.asfortranarray(rows), columns).tolist() == expected.tolist()
    assert exact_products(rows[::-2, ::-1], columns[:, ::-1]).tolist() == expected[::-2].tolist()


def test_work_is_cut_into_pieces_of_bounded_size() -> None:
    seen: list[int] = []

    def counting(function: Any, items: Any, /) -> Any:
        pieces = list(items)
        seen.append(len(pieces))
        return map(function, pieces)

    rows = np.ones((130, TASK_COLUMNS + 1), np.int16)
    assert exact_squares(rows, spread=counting).tolist() == [TASK_COLUMNS + 1] * 130
    assert seen == [6]  # three times 64 rows, twice 65,536 columns
    assert exact.TASK_ELEMENTS // TASK_COLUMNS == exact.TILE_ROWS


@pytest.mark.parametrize(
    "rows",
    [np.ones((2, 2)), np.ones((2, 2), np.int64), np.ones(2, np.int16), np.ones((1, 1, 1), np.int32), [[1]]],
)
def test_what_is_not_a_matrix_of_small_integers_is_refused(rows: Any) -> None:
    with pytest.raises(UpdateRefused, match="rows"):
        require_rows(rows, "rows")


def test_another_number_of_columns_is_refused() -> None:
    assert require_rows(np.ones((2, 3), np.int16), "rows", columns=3).shape == (2, 3)
    with pytest.raises(UpdateRefused, match="3 columns"):
        require_rows(np.ones((2, 2), np.int16), "rows", columns=3)
