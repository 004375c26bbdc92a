"""Partitioners: laws that hold for all of them, and sizes and classes worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import I64
from galaxylearning.simulation.partition import (
    ContinuousPartitioner,
    DirichletPartitioner,
    DistributionPartitioner,
    ExponentialPartitioner,
    GroupedNaturalIdPartitioner,
    IidPartitioner,
    InnerDirichletPartitioner,
    LinearPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
    ShardPartitioner,
    SizePartitioner,
    SquarePartitioner,
)

N = 1_000
_RNG = np.random.default_rng(11)
COLUMNS: dict[str, Any] = {
    "label": _RNG.integers(0, 5, N),
    "text": np.array([f"class {i}" for i in _RNG.integers(0, 5, N)], dtype=object),
    "id": np.array([f"u{i}" for i in _RNG.permutation(np.arange(N) % 37)], dtype=object),
    "x": _RNG.normal(size=N),
}
TABLE = np.random.default_rng(1).lognormal(0, 1, (5, 4))

# Each with the number of partitions and of rows that it is to use.
ALL: list[tuple[Partitioner, int, int]] = [
    (IidPartitioner(7), 7, N),
    (SizePartitioner([5, 10, 15]), 3, 30),
    (LinearPartitioner(13), 13, N),
    (SquarePartitioner(7), 7, N),
    (ExponentialPartitioner(6), 6, N),
    (DirichletPartitioner(10, "label", 1.0), 10, N),
    (DirichletPartitioner(10, "text", [0.5] * 10, min_partition_size=2, self_balancing=True), 10, N),
    (InnerDirichletPartitioner([50] * 20, "label", 0.3), 20, N),
    (InnerDirichletPartitioner((7, 20, 3), "text", (1, 2, 3, 4, 5)), 3, 30),
    (PathologicalPartitioner(20, "label", 2, "first-deterministic"), 20, N),
    (PathologicalPartitioner(20, "text", 5), 20, N),
    (PathologicalPartitioner(8, "label", 2, "deterministic"), 8, N),
    (ShardPartitioner(9, "label", num_shards_per_partition=2), 9, 990),
    (ShardPartitioner(9, "text", shard_size=33, keep_incomplete_shard=True), 9, N),
    (DistributionPartitioner(TABLE, 10, 2, "label", 3), 10, N),
    (DistributionPartitioner(np.full((5, 4), 6), 10, 2, "label", 0, rescale=False), 10, 120),
    (NaturalIdPartitioner("id"), 37, N),
    (GroupedNaturalIdPartitioner("id", 5), 8, N),
    (ContinuousPartitioner(12, "x", 0.5), 12, N),
]


def split(partitioner: Partitioner, n_rows: int = N, **columns: Any) -> tuple[I64, ...]:
    return partitioner.split(columns or COLUMNS, n_rows)


def sizes(partitioner: Partitioner, n_rows: int = N, **columns: Any) -> list[int]:
    return [len(part) for part in split(partitioner, n_rows, **columns)]


def labels(partitioner: Partitioner) -> list[list[int]]:
    return [sorted(set(COLUMNS["label"][part].tolist())) for part in split(partitioner)]


@pytest.mark.parametrize(("partitioner", "partitions", "used"), ALL)
def test_every_row_is_in_one_partition_at_most_and_none_is_empty(
    partitioner: Partitioner, partitions: int, used: int
) -> None:
    parts = split(partitioner)
    rows = np.concatenate(parts)
    assert len(parts) == partitions
    assert all(part.dtype == np.int64 and len(part) for part in parts)
    assert len(rows) == len(set(rows.tolist())) == used
    assert rows.min() >= 0
    assert rows.max() < N


@pytest.mark.parametrize(("partitioner", "partitions", "used"), ALL)
def test_a_split_is_the_same_every_time(partitioner: Partitioner, partitions: int, used: int) -> None:
    for first, second in zip(split(partitioner), split(partitioner), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: IidPartitioner(7, seed=seed),
        lambda seed: SizePartitioner([9, 9], seed=seed),
        lambda seed: LinearPartitioner(4, seed=seed),
        lambda seed: DirichletPartitioner(10, "label", 1.0, seed=seed),
        lambda seed: InnerDirichletPartitioner([50] * 20, "label", 0.3, seed=seed),
        lambda seed: PathologicalPartitioner(10, "label", 2, "first-deterministic", seed=seed),
        lambda seed: ShardPartitioner(9, "label", 2, seed=seed),
        lambda seed: DistributionPartitioner(TABLE, 10, 2, "label", 3, seed=seed),
        lambda seed: ContinuousPartitioner(12, "x", 0.5, seed=seed),
    ],
)
def test_another_seed_makes_another_split(make: Any) -> None:
    assert not np.array_equal(split(make(1))[0], split(make(2))[0])


@pytest.mark.parametrize(("partitioner", "partitions", "used"), ALL)
def test_a_data_set_without_rows_is_refused(partitioner: Partitioner, partitions: int, used: int) -> None:
    with pytest.raises(DataRefused, match="data: there are no rows"):
        partitioner.split({name: values[:0] for name, values in COLUMNS.items()}, 0)


@pytest.mark.parametrize("partitioner", [p for p, _, _ in ALL if hasattr(p, "partition_by")])
def test_a_column_that_does_not_serve_is_refused(partitioner: Any) -> None:
    name = partitioner.partition_by
    with pytest.raises(DataRefused, match=f"partition_by '{name}': no such column; there are 'other'"):
        split(partitioner, N, other=np.zeros(N))
    with pytest.raises(DataRefused, match=f"has {N - 1} rows where the data have {N}"):
        split(partitioner, N, **{name: COLUMNS[name][1:]})
    with pytest.raises(DataRefused, match="one value a row"):
        split(partitioner, N, **{name: np.zeros((N, 2))})
    holey = COLUMNS[name].astype(float if COLUMNS[name].dtype != object else object)
    holey[4] = np.nan if holey.dtype != object else ""
    with pytest.raises(DataRefused, match="row 5 is empty"):
        split(partitioner, N, **{name: holey})


def test_equal_parts_differ_by_one_row_at_most() -> None:
    assert sizes(IidPartitioner(7)) == [143] * 6 + [142]
    assert [part.tolist() for part in split(IidPartitioner(3, shuffle=False), 7)] == [
        [0, 1, 2],
        [3, 4],
        [5, 6],
    ]
    with pytest.raises(ConfigRefused, match="num_partitions: 8 given; allowed: 1 to 7"):
        split(IidPartitioner(8), 7)


def test_shuffled_rows_are_not_as_stored() -> None:
    first = split(IidPartitioner(2))[0]
    assert (first >= N // 2).sum() > N // 8


def test_given_sizes_are_kept_and_may_not_exceed_the_rows() -> None:
    assert sizes(SizePartitioner([600, 400])) == [600, 400]
    with pytest.raises(ConfigRefused, match="partition_sizes: they sum to 1001; the data have 1000 rows"):
        split(SizePartitioner([600, 401]))


def test_growing_sizes_are_rounded_down_and_the_last_takes_the_rest() -> None:
    # 1 + 2 + 3 + 4 = 10 units of 2.3 rows: 2.3, 4.6, 6.9, 9.2.
    assert sizes(LinearPartitioner(4), 23) == [2, 4, 6, 11]
    # 1 + 4 + 9 = 14 units of 3 rows.
    assert sizes(SquarePartitioner(3), 42) == [3, 12, 27]
    # e, e^2 and e^3 of 30.19 in all: shares 0.0900, 0.2447, 0.6652.
    assert sizes(ExponentialPartitioner(3), 100) == [9, 24, 67]


@pytest.mark.parametrize(
    ("kind", "most"), [(LinearPartitioner, 44), (SquarePartitioner, 13), (ExponentialPartitioner, 7)]
)
def test_growing_sizes_need_a_row_for_the_first_and_say_how_many_parts_have_one(kind: Any, most: int) -> None:
    # Units of 1,000 rows, by hand: 44 * 45 / 2 = 990; 13 * 14 * 27 / 6 = 819; (e^7 - 1) / (e - 1) = 638.
    assert min(sizes(kind(most))) >= 1
    for too_many in (most + 1, 100_000):
        with pytest.raises(
            ConfigRefused, match=f"num_partitions: {too_many} given.*allowed: 1 to {most} with"
        ):
            split(kind(too_many))


def test_a_small_alpha_is_lopsided_and_a_large_one_is_even() -> None:
    def largest_share(alpha: float) -> float:
        parts = split(DirichletPartitioner(5, "label", alpha, min_partition_size=1, seed=3))
        return float(np.mean([np.bincount(COLUMNS["label"][p]).max() / len(p) for p in parts]))

    assert largest_share(0.1) > 0.6
    assert largest_share(1_000.0) < 0.27


def test_the_least_size_holds_or_is_refused_in_bounded_time() -> None:
    assert min(sizes(DirichletPartitioner(10, "label", 1.0, min_partition_size=40))) >= 40
    with pytest.raises(ConfigRefused, match="min_partition_size: 101 given; allowed: 1 to 100 with 10"):
        split(DirichletPartitioner(10, "label", 1.0, min_partition_size=101))
    known = r"at best [0-9]+; allowed: a smaller .* \(inner-dirichlet:.* InnerDirichletPartitioner in Python"
    with pytest.raises(ConfigRefused, match=known):
        split(DirichletPartitioner(10, "label", 0.01, min_partition_size=90))


def test_balancing_stops_partitions_that_are_above_the_average() -> None:
    def spread(self_balancing: bool) -> int:
        made = [
            sizes(DirichletPartitioner(10, "label", 0.5, 1, self_balancing=self_balancing, seed=seed))
            for seed in range(20)
        ]
        return int(np.ptp(made, axis=1).sum())

    assert spread(True) < 0.9 * spread(False)


def test_tiny_shares_under_balancing_still_give_every_row_a_partition() -> None:
    parts = split(DirichletPartitioner(3, "label", 1e-6, min_partition_size=1, self_balancing=True, seed=5))
    assert sum(map(len, parts)) == N


def test_alpha_may_name_each_partition_and_then_must_name_all() -> None:
    heavy = sizes(DirichletPartitioner(3, "label", [100.0, 1.0, 1.0], min_partition_size=1))
    assert heavy[0] > 900
    with pytest.raises(
        ConfigRefused, match="alpha: 2 numbers given; allowed: one number, or 3, one for each"
    ):
        DirichletPartitioner(3, "label", [1.0, 1.0])
    with pytest.raises(
        ConfigRefused, match="alpha: 2 numbers given; allowed: one number, or 5, one for each"
    ):
        split(InnerDirichletPartitioner([10], "label", [1.0, 1.0]))


def test_inner_shares_follow_alpha_and_classes_run_out_in_order() -> None:
    # Class 0 alone is wanted: both partitions take it until its 30 rows are gone.
    label = np.repeat([0, 1], [30, 70])
    parts = split(InnerDirichletPartitioner([40, 40], "label", [1e9, 1e-6]), 100, label=label)
    assert sum(int((label[part] == 0).sum()) for part in parts) == 30
    # Both had the same chance at every place, so that neither got (nearly) all.
    assert all(5 <= int((label[part] == 0).sum()) <= 25 for part in parts)
    with pytest.raises(ConfigRefused, match="partition_sizes: they sum to 101; the data have 100 rows"):
        split(InnerDirichletPartitioner([61, 40], "label", 1.0), 100, label=label)


def test_inner_shares_are_those_of_a_dirichlet() -> None:
    # With alpha 1 and two classes in plenty, a share is uniform on [0, 1]: mean 1/2, deviation 0.289.
    label = np.arange(400_000) % 2
    parts = split(InnerDirichletPartitioner([100] * 1_000, "label", 1.0), len(label), label=label)
    shares = np.array([(label[part] == 0).mean() for part in parts])
    assert abs(shares.mean() - 0.5) < 0.04
    assert abs(shares.std() - np.sqrt(1 / 12 + 1 / 600)) < 0.02


def test_a_class_label_that_is_an_id_is_refused_before_shares_are_drawn() -> None:
    n = 100_000
    with pytest.raises(DataRefused, match="has 100000 different values; with 1000 partitions at most 50000"):
        split(DirichletPartitioner(1_000, "id", 1.0, 1), n, id=np.arange(n))


def test_pathological_partitions_have_exactly_their_classes() -> None:
    assert labels(PathologicalPartitioner(6, "label", 2, "deterministic")) == [
        [0, 1],
        [1, 2],
        [2, 3],
        [3, 4],
        [0, 4],
        [0, 1],
    ]
    firsts = labels(PathologicalPartitioner(20, "label", 2, "first-deterministic"))
    assert all(i % 5 in classes and len(classes) == 2 for i, classes in enumerate(firsts))
    assert all(len(classes) == 3 for classes in labels(PathologicalPartitioner(9, "label", 3)))


def test_first_deterministic_works_for_labels_that_are_not_numbers_from_zero() -> None:
    parts = split(PathologicalPartitioner(5, "text", 1, "first-deterministic"))
    assert [set(COLUMNS["text"][part]) for part in parts] == [{f"class {i}"} for i in range(5)]


def test_pathological_demands_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="num_classes_per_partition: 6 given; allowed: 1 to 5"):
        split(PathologicalPartitioner(3, "label", 6))
    label = np.repeat([0, 1], [98, 2])
    with pytest.raises(ConfigRefused, match="num_partitions: class '1' has 2 rows for the 3 partitions"):
        split(PathologicalPartitioner(3, "label", 2), 100, label=label)
    assert sizes(PathologicalPartitioner(2, "label", 2), 100, label=label) == [50, 50]


def test_shards_hold_few_classes_and_their_numbers_are_as_asked() -> None:
    assert sizes(ShardPartitioner(10, "label", 2, shard_size=30)) == [60] * 10
    assert sizes(ShardPartitioner(9, "label", 2)) == [110] * 9
    # 1,000 / 30 = 33 whole shards for nine: six partitions get four and three get three.
    assert sizes(ShardPartitioner(9, "label", shard_size=30)) == [120] * 6 + [90] * 3
    assert sum(sizes(ShardPartitioner(9, "label", shard_size=30, keep_incomplete_shard=True))) == N
    assert all(len(classes) <= 2 for classes in labels(ShardPartitioner(20, "label", 1)))


def test_shards_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="shard_size: 51 given; allowed: 1 to 50 with 20 shards"):
        split(ShardPartitioner(10, "label", 2, shard_size=51))
    with pytest.raises(ConfigRefused, match="num_shards_per_partition: 101 given; allowed: 1 to 100"):
        split(ShardPartitioner(10, "label", 101))
    with pytest.raises(ConfigRefused, match=r"shard_size: 400 given makes 2 shards for 3.*allowed: 1 to 333"):
        split(ShardPartitioner(3, "label", shard_size=400))
    with pytest.raises(ConfigRefused, match="num_shards_per_partition or shard_size must be given"):
        ShardPartitioner(3, "label")


def test_a_distribution_is_followed_by_class_and_partition() -> None:
    label = np.repeat([0, 1], [100, 60])
    # Two partitions with both classes: 10 of each ahead, then class 0's other 80 rows as 1 : 3.
    table = [[1, 3], [1, 1]]
    parts = split(DistributionPartitioner(table, 2, 2, "label", 10), 160, label=label)
    assert [np.bincount(label[part]).tolist() for part in parts] == [[30, 30], [70, 30]]
    exact = DistributionPartitioner([[5, 7], [1, 2]], 2, 2, "label", 0, rescale=False)
    assert [np.bincount(label[p]).tolist() for p in split(exact, 160, label=label)] == [[5, 1], [7, 2]]


@pytest.mark.parametrize(
    ("table", "arguments", "problem"),
    [
        (np.ones((5, 3)), (10, 2, "label", 3), r"distribution_array: has shape \(5, 3\); allowed: \(5, 4\)"),
        (np.ones((5, 4)), (11, 2, "label", 3), "num_partitions: 11 given; allowed: multiples of 5"),
        (np.ones((5, 4)), (10, 6, "label", 3), "num_unique_labels_per_partition: 6 given; allowed: 1 to 5"),
        (np.ones((5, 4)), (10, 2, "label", 60), "preassigned_num_samples_per_label: 60 given; allowed: 0 to"),
        (np.eye(5, 4) + 1e-9, (10, 2, "label", 0), "preassigned_num_samples_per_label: partition . gets no"),
    ],
)
def test_a_distribution_that_does_not_fit_is_refused(table: Any, arguments: Any, problem: str) -> None:
    if table[0, 1] == 1e-9:
        table[4, 0] = 1.0
    with pytest.raises(ConfigRefused, match=problem):
        split(DistributionPartitioner(table, *arguments))


def test_numbers_of_rows_beyond_a_class_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="distribution_array: row 0 sums to 400; class '0' has"):
        split(DistributionPartitioner(np.full((5, 4), 100), 10, 2, "label", 0, rescale=False))


def test_natural_ids_are_partitions_in_ascending_order() -> None:
    ids = np.array(["b", "a", "b", "c", "a"], dtype=object)
    assert [p.tolist() for p in split(NaturalIdPartitioner("id"), 5, id=ids)] == [[1, 4], [0, 2], [3]]
    numbers = np.array([30, 4, 30, 100, 4])
    assert [p.tolist() for p in split(NaturalIdPartitioner("id"), 5, id=numbers)] == [[1, 4], [0, 2], [3]]
    mixed = np.array(["b", 3, "b", "c", "a"], dtype=object)
    with pytest.raises(DataRefused, match="row 2 holds int, not a text"):
        split(NaturalIdPartitioner("id"), 5, id=mixed)


@pytest.mark.parametrize(
    ("mode", "groups"),
    [
        ("allow-smaller", [[0, 1, 2, 5], [3, 4], [6]]),
        ("allow-bigger", [[0, 1, 2, 3, 5], [4, 6]]),
        ("drop-reminder", [[0, 1, 2, 5], [3, 4]]),
    ],
)
def test_groups_of_ids_in_order_of_their_first_rows(mode: Any, groups: list[list[int]]) -> None:
    ids = np.array(["z", "y", "y", "d", "c", "z", "b"], dtype=object)
    parts = split(GroupedNaturalIdPartitioner("id", 2, mode), 7, id=ids)
    assert [part.tolist() for part in parts] == groups


def test_groups_of_sorted_ids_and_ids_left_over() -> None:
    ids = np.array(["z", "y", "y", "d", "c", "z", "b"], dtype=object)
    parts = split(GroupedNaturalIdPartitioner("id", 2, sort_unique_ids=True), 7, id=ids)
    assert [part.tolist() for part in parts] == [[4, 6], [1, 2, 3], [0, 5]]
    with pytest.raises(ConfigRefused, match="group_size: 2 given leaves 1 of 5 values over"):
        split(GroupedNaturalIdPartitioner("id", 2, "strict"), 7, id=ids)
    assert len(split(GroupedNaturalIdPartitioner("id", 5, "strict"), 7, id=ids)) == 1
    assert len(split(GroupedNaturalIdPartitioner("id", 9), 7, id=ids)) == 1
    with pytest.raises(ConfigRefused, match="group_size: 9 given; allowed: 1 to 5"):
        split(GroupedNaturalIdPartitioner("id", 9, "drop-reminder"), 7, id=ids)


def test_strictness_goes_from_chance_to_order() -> None:
    strict = split(ContinuousPartitioner(4, "x", 1.0))
    tops = [COLUMNS["x"][part].max() for part in strict]
    bottoms = [COLUMNS["x"][part].min() for part in strict]
    assert all(top < bottom for top, bottom in zip(tops, bottoms[1:], strict=False))
    loose = [float(COLUMNS["x"][part].mean()) for part in split(ContinuousPartitioner(4, "x", 0.0))]
    assert max(map(abs, loose)) < 0.25
    with pytest.raises(DataRefused, match="holds one value only"):
        split(ContinuousPartitioner(4, "x", 0.5), 8, x=np.full(8, 3.25))
    assert sizes(ContinuousPartitioner(4, "x", 0.0), 8, x=np.full(8, 3.25)) == [2, 2, 2, 2]
    assert sizes(ContinuousPartitioner(2, "x", 1.0), 4, x=np.array([1e300, -1e300, 0, 1])) == [2, 2]
    with pytest.raises(DataRefused, match="must hold numbers"):
        split(ContinuousPartitioner(4, "id", 0.5))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: IidPartitioner(0), "num_partitions must be from 1"),
        (lambda: IidPartitioner(True), "num_partitions must be an integer"),
        (lambda: IidPartitioner(3, seed=-1), "seed must be from 0"),
        (lambda: IidPartitioner(3, shuffle=1), "shuffle: must be true or false"),  # type: ignore[arg-type]
        (lambda: SizePartitioner([]), "partition_sizes: must be a list of at least one number"),
        (lambda: SizePartitioner([3, 0]), r"partition_sizes\[1\] must be from 1"),
        (lambda: LinearPartitioner(0), "num_partitions must be from 1"),
        (lambda: DirichletPartitioner(3, "", 1.0), "partition_by: must name a column"),
        (lambda: DirichletPartitioner(3, "y", 0.0), "alpha must be in"),
        (lambda: DirichletPartitioner(3, "y", float("nan")), "alpha must be in"),
        (lambda: DirichletPartitioner(3, "y", [1, -1, 1]), r"alpha\[1\] must be in"),
        (lambda: DirichletPartitioner(3, "y", 1.0, 0), "min_partition_size must be from 1"),
        (lambda: PathologicalPartitioner(3, "y", 0), "num_classes_per_partition must be from 1"),
        (
            lambda: PathologicalPartitioner(3, "y", 1, "any"),  # type: ignore[arg-type]
            "class_assignment_mode: 'any' given; allowed: random, deterministic, first-deterministic",
        ),
        (lambda: ShardPartitioner(3, "y", shard_size=0), "shard_size must be from 1"),
        (lambda: GroupedNaturalIdPartitioner("y", 0), "group_size must be from 1"),
        (
            lambda: GroupedNaturalIdPartitioner("y", 2, "any"),  # type: ignore[arg-type]
            "mode: 'any' given; allowed: allow-smaller, allow-bigger, drop-reminder, strict",
        ),
        (lambda: ContinuousPartitioner(3, "y", 1.5), "strictness must be in"),
        (
            lambda: DistributionPartitioner("ab", 3, 1, "y", 1),
            "distribution_array: must be a table of numbers",
        ),
        (
            lambda: DistributionPartitioner([1, 2], 3, 1, "y", 1),
            "distribution_array: must have two dimensions",
        ),
        (lambda: DistributionPartitioner([[1], [0]], 2, 1, "y", 1), "no row may be all zero"),
        (lambda: DistributionPartitioner([[np.nan]], 1, 1, "y", 1), "entries must be from 0"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(make: Any, problem: str) -> None:
    with pytest.raises(ConfigRefused, match=problem):
        make()


def test_a_hundred_thousand_partitions_of_a_million_rows() -> None:
    n, k = 1_000_000, 100_000
    label = np.random.default_rng(2).integers(0, 10, n)
    parts = InnerDirichletPartitioner([10] * k, "label", 0.5).split({"label": label}, n)
    assert len(parts) == k
    assert len(np.unique(np.concatenate(parts))) == n
    few = np.mean([len(set(label[part].tolist())) for part in parts[:500]])
    assert few < 5
