"""Dealing a data set out to simulated data owners: the partitioners by name, and one from a line of text.

Names, arguments and meaning are those that users know from flwr-datasets: see ``docs/partitioners.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final

from galaxylearning.errors import ConfigRefused
from galaxylearning.simulation.partition_base import Partitioner
from galaxylearning.simulation.partition_dirichlet import DirichletPartitioner, InnerDirichletPartitioner
from galaxylearning.simulation.partition_ids import (
    ContinuousPartitioner,
    GroupedNaturalIdPartitioner,
    NaturalIdPartitioner,
)
from galaxylearning.simulation.partition_labels import (
    DistributionPartitioner,
    PathologicalPartitioner,
    ShardPartitioner,
)
from galaxylearning.simulation.partition_sizes import (
    ExponentialPartitioner,
    IidPartitioner,
    LinearPartitioner,
    SizePartitioner,
    SquarePartitioner,
)

__all__ = [
    "PARTITIONERS",
    "ContinuousPartitioner",
    "DirichletPartitioner",
    "DistributionPartitioner",
    "ExponentialPartitioner",
    "GroupedNaturalIdPartitioner",
    "IidPartitioner",
    "InnerDirichletPartitioner",
    "LinearPartitioner",
    "NaturalIdPartitioner",
    "Partitioner",
    "PathologicalPartitioner",
    "ShardPartitioner",
    "SizePartitioner",
    "SquarePartitioner",
    "parse_partitioner",
]

MAX_TEXT_CHARS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Kind:
    """A partitioner as text names it: its class, and the argument whose name may be left out."""

    make: type[Any]
    main: str | None = None


PARTITIONERS: Final[Mapping[str, _Kind]] = {
    "iid": _Kind(IidPartitioner),
    "dirichlet": _Kind(DirichletPartitioner, "alpha"),
    "inner-dirichlet": _Kind(InnerDirichletPartitioner, "alpha"),
    "pathological": _Kind(PathologicalPartitioner, "num_classes_per_partition"),
    "shard": _Kind(ShardPartitioner, "num_shards_per_partition"),
    "distribution": _Kind(DistributionPartitioner),
    "size": _Kind(SizePartitioner, "partition_sizes"),
    "linear": _Kind(LinearPartitioner),
    "square": _Kind(SquarePartitioner),
    "exponential": _Kind(ExponentialPartitioner),
    "natural-id": _Kind(NaturalIdPartitioner),
    "grouped-natural-id": _Kind(GroupedNaturalIdPartitioner, "group_size"),
    "continuous": _Kind(ContinuousPartitioner, "strictness"),
}
"""The partitioners that text can name."""


def parse_partitioner(
    text: str, *, num_partitions: int | None = None, partition_by: str | None = None
) -> Partitioner:
    """The partitioner that ``text`` names: ``iid``, ``dirichlet:0.5``, ``dirichlet:alpha=0.5,seed=7``.

    After the name and a colon come arguments, parted by commas, as ``name=value``; the first may be the
    value of the partitioner's main argument alone. Lists are written ``10+20+30`` and tables
    ``1+2/3+4``. One partition size alone is that of all ``num_partitions``. ``num_partitions`` and
    ``partition_by`` are used where the text does not state them and the partitioner takes them: with
    ``natural-id`` and ``grouped-natural-id`` the number follows from the column, and is not checked here.

    Raises:
        ConfigRefused: an unknown name or argument, one that is missing, given twice or out of range; the
            message lists what is allowed.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise ConfigRefused(f"must be at most {MAX_TEXT_CHARS} characters", where="partitioner")
    name, _, rest = text.strip().partition(":")
    kind = PARTITIONERS.get(name.strip().lower())
    if kind is None:
        raise ConfigRefused(f"{name!r:.60} given; allowed: {', '.join(PARTITIONERS)}", where="partitioner")
    allowed = [f.name for f in fields(kind.make)]
    where = f"partitioner {name.strip().lower()!r}"
    values = _arguments(rest, kind, allowed, where)
    if partition_by is not None and "partition_by" in allowed:
        values.setdefault("partition_by", partition_by)
    if num_partitions is not None and "num_partitions" in allowed:
        values.setdefault("num_partitions", num_partitions)
    if "partition_sizes" in values and num_partitions is not None:
        values["partition_sizes"] = _sizes(values["partition_sizes"], num_partitions)
    missing = [f.name for f in fields(kind.make) if f.default is MISSING and f.name not in values]
    if missing:
        raise ConfigRefused(f"{missing[0]} is missing; its arguments are {', '.join(allowed)}", where=where)
    made: Partitioner = kind.make(**values)
    return made


def _arguments(rest: str, kind: _Kind, allowed: list[str], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for position, part in enumerate(rest.split(",") if rest.strip() else []):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and position == 0 and kind.main is not None:
            key, value = kind.main, key
        elif not equals or key not in allowed:
            raise ConfigRefused(
                f"{part.strip()!r:.60} given; allowed: name=value with the names {', '.join(allowed)}",
                where=where,
            )
        if key in values:
            raise ConfigRefused(f"{key} is given twice", where=where)
        values[key] = _READERS.get(key, _number)(value, key)
    return values


def _sizes(sizes: tuple[int, ...], num_partitions: int) -> tuple[int, ...]:
    if len(sizes) == 1:
        return sizes * num_partitions
    if len(sizes) != num_partitions:
        raise ConfigRefused(
            f"{len(sizes)} given; allowed: one, or {num_partitions}, one for each partition",
            where="partition_sizes",
        )
    return sizes


def _number(value: str, key: str) -> int | float:
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    raise ConfigRefused(f"{value!r:.60} given; allowed: a number", where=key)


def _numbers(value: str, key: str) -> Any:
    parts = tuple(_number(part.strip(), key) for part in value.split("+"))
    return parts if len(parts) > 1 else parts[0]


def _size_list(value: str, key: str) -> tuple[int | float, ...]:
    return tuple(_number(part.strip(), key) for part in value.split("+"))


def _table(value: str, key: str) -> list[tuple[int | float, ...]]:
    return [_size_list(row, key) for row in value.split("/")]


def _flag(value: str, key: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigRefused(f"{value!r:.60} given; allowed: true, false", where=key)
    return value.lower() == "true"


def _word(value: str, key: str) -> str:
    if not value:
        raise ConfigRefused("must not be empty", where=key)
    return value


_READERS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "alpha": _numbers,
    "partition_sizes": _size_list,
    "distribution_array": _table,
    "partition_by": _word,
    "class_assignment_mode": _word,
    "mode": _word,
    "shuffle": _flag,
    "self_balancing": _flag,
    "keep_incomplete_shard": _flag,
    "rescale": _flag,
    "sort_unique_ids": _flag,
}
