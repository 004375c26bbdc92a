"""Partitioners named in a line of text, as on a command line."""

from __future__ import annotations

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused
from galaxylearning.simulation.partition import (
    PARTITIONERS,
    ContinuousPartitioner,
    DirichletPartitioner,
    DistributionPartitioner,
    GroupedNaturalIdPartitioner,
    IidPartitioner,
    InnerDirichletPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
    ShardPartitioner,
    SizePartitioner,
    parse_partitioner,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iid", IidPartitioner(4)),
        (" IID : seed=7 , shuffle=false", IidPartitioner(4, shuffle=False, seed=7)),
        ("iid:num_partitions=9", IidPartitioner(9)),
        ("dirichlet:alpha=0.5", DirichletPartitioner(4, "y", 0.5)),
        ("dirichlet:0.5,min_partition_size=2", DirichletPartitioner(4, "y", 0.5, 2)),
        (
            "dirichlet:1+2+3+4,self_balancing=True",
            DirichletPartitioner(4, "y", (1, 2, 3, 4), self_balancing=True),
        ),
        ("inner-dirichlet:0.1,partition_sizes=20", InnerDirichletPartitioner((20,) * 4, "y", 0.1)),
        ("inner-dirichlet:0.1,partition_sizes=1+2+3+4", InnerDirichletPartitioner((1, 2, 3, 4), "y", 0.1)),
        (
            "pathological:2,class_assignment_mode=deterministic",
            PathologicalPartitioner(4, "y", 2, "deterministic"),
        ),
        ("shard:2", ShardPartitioner(4, "y", 2)),
        (
            "shard:shard_size=30,keep_incomplete_shard=true",
            ShardPartitioner(4, "y", shard_size=30, keep_incomplete_shard=True),
        ),
        ("size:10+20+30+40", SizePartitioner((10, 20, 30, 40))),
        ("size:10", SizePartitioner((10, 10, 10, 10))),
        ("natural-id", NaturalIdPartitioner("y")),
        ("natural-id:partition_by=user", NaturalIdPartitioner("user")),
        ("grouped-natural-id:3,mode=strict", GroupedNaturalIdPartitioner("y", 3, "strict")),
        ("continuous:0.7", ContinuousPartitioner(4, "y", 0.7)),
    ],
)
def test_text_names_a_partitioner(text: str, expected: Partitioner) -> None:
    assert parse_partitioner(text, num_partitions=4, partition_by="y") == expected


def test_text_may_hold_a_table() -> None:
    made = parse_partitioner(
        "distribution:distribution_array=1+2/3+4,num_unique_labels_per_partition=2,"
        "preassigned_num_samples_per_label=1",
        num_partitions=2,
        partition_by="y",
    )
    assert isinstance(made, DistributionPartitioner)
    np.testing.assert_array_equal(np.asarray(made.distribution_array), [[1, 2], [3, 4]])


@pytest.mark.parametrize("name", ["linear", "square", "exponential"])
def test_sizes_that_grow_need_a_number_alone(name: str) -> None:
    parts = parse_partitioner(name, num_partitions=3).split({}, 100)
    assert [len(part) for part in parts] == sorted(len(part) for part in parts)
    assert sum(map(len, parts)) == 100


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", f"partitioner: '' given; allowed: {', '.join(PARTITIONERS)}"),
        ("dirichelet", f"'dirichelet' given; allowed: {', '.join(PARTITIONERS)}"),
        (
            "dirichlet",
            "partitioner 'dirichlet': alpha is missing; its arguments are num_partitions, partition_by",
        ),
        (
            "dirichlet:beta=1",
            "'beta=1' given; allowed: name=value with the names num_partitions, partition_by",
        ),
        ("dirichlet:alpha=1,2", "'2' given; allowed: name=value"),
        ("dirichlet:0.5,alpha=1", "partitioner 'dirichlet': alpha is given twice"),
        ("dirichlet:x", "alpha: 'x' given; allowed: a number"),
        ("dirichlet:inf", "alpha must be in"),
        ("dirichlet:1+2", "alpha: 2 numbers given; allowed: one number, or 4"),
        ("iid:5", "'5' given; allowed: name=value"),
        ("iid:shuffle=yes", "shuffle: 'yes' given; allowed: true, false"),
        ("iid:seed=1.5", "seed must be an integer"),
        ("iid:num_partitions=1e9", "num_partitions must be an integer"),
        ("size:1+2", "partition_sizes: 2 given; allowed: one, or 4, one for each partition"),
        ("size:1.5", r"partition_sizes\[0\] must be an integer"),
        ("natural-id:partition_by=", "partition_by: must not be empty"),
        ("pathological:2,class_assignment_mode=some", "class_assignment_mode: 'some' given; allowed: random"),
        ("dirichlet:" + "9" * 5_000, "alpha must be in"),
        ("dirichlet:" + "1+" * 600_000, "partitioner: must be at most 1000000 characters"),
    ],
)
def test_text_that_names_none_is_refused_with_what_is_allowed(text: str, problem: str) -> None:
    with pytest.raises(ConfigRefused, match=problem):
        parse_partitioner(text, num_partitions=4, partition_by="y")


def test_what_the_text_leaves_out_must_come_from_elsewhere() -> None:
    assert parse_partitioner("iid:num_partitions=3") == IidPartitioner(3)
    with pytest.raises(ConfigRefused, match="num_partitions is missing"):
        parse_partitioner("iid")
    with pytest.raises(ConfigRefused, match="partition_by is missing"):
        parse_partitioner("natural-id", num_partitions=3)
