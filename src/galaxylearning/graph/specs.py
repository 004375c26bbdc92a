"""What is known of a value before anything runs: element type and shape. Shape rules register themselves
here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch

from galaxylearning.errors import GraphRefused


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's element type and shape; every dimension is at least 1."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the payload in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Outcome: TypeAlias = "TensorSpec | int | tuple[TensorSpec, ...]"
Number: TypeAlias = "int | float | bool"


class Bound:
    """The arguments of one node by parameter name, with defaults filled in and kinds already checked."""

    __slots__ = ("op", "values")

    def __init__(self, op: str, values: dict[str, Any]) -> None:
        self.op = op
        self.values = values

    def tensor(self, name: str) -> TensorSpec:
        return cast(TensorSpec, self.values[name])

    def maybe(self, name: str) -> TensorSpec | None:
        return cast("TensorSpec | None", self.values.get(name))

    def tensors(self, name: str) -> tuple[TensorSpec, ...]:
        return cast("tuple[TensorSpec, ...]", self.values[name])

    def integer(self, name: str) -> int:
        return int(self.values[name])

    def maybe_integer(self, name: str) -> int | None:
        value = self.values.get(name)
        return None if value is None else int(value)

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """A list of integers; one given integer, or a list of one, stands for ``count`` equal ones."""
        value = self.values.get(name)
        if value is None:
            return ()
        items = (int(value),) if isinstance(value, int) else tuple(int(item) for item in value)
        if count is None:
            return items
        if len(items) == 1:
            items *= count
        require(len(items) == count, f"{name} must have {count} entries, not {len(items)}")
        return items

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name))

    def dtype(self, name: str) -> torch.dtype | None:
        return cast("torch.dtype | None", self.values.get(name))


Rule: TypeAlias = Callable[[Bound], Outcome]
FlopRule: TypeAlias = Callable[[Bound, Outcome], int]

RULES: dict[str, Rule] = {}
FLOPS: dict[str, FlopRule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a shape rule for the ATen operations named in a space-separated list."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[full_name(name)] = function
        return function

    return register


def flops(names: str) -> Callable[[FlopRule], FlopRule]:
    """Register a cost rule; operations without one cost an operation per output element."""

    def register(function: FlopRule) -> FlopRule:
        for name in names.split():
            FLOPS[full_name(name)] = function
        return function

    return register


def full_name(name: str) -> str:
    """``relu`` -> ``aten.relu.default``; a name that has an overload keeps it, ours stay as they are."""
    if name.startswith(("int.", "tuple.", "state.")):
        return name
    return f"aten.{name}" if "." in name else f"aten.{name}.default"


def require(condition: bool, message: str) -> None:
    """Raise GraphRefused with ``message`` unless ``condition`` holds."""
    if not condition:
        raise GraphRefused(message)


def axis(dim: int, rank: int) -> int:
    """A dimension's index counted from the front.

    Raises:
        GraphRefused: ``dim`` is not in [-rank, rank).
    """
    span = max(rank, 1)
    if not -span <= dim < span:
        raise GraphRefused(f"dimension {dim} is not in [{-span}, {span - 1}]")
    return dim % span


def axes(dims: Sequence[int], rank: int) -> tuple[int, ...]:
    """Distinct dimensions counted from the front."""
    resolved = tuple(axis(dim, rank) for dim in dims)
    require(len(set(resolved)) == len(resolved), "a dimension is named twice")
    return resolved


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of tensors used together elementwise.

    Raises:
        GraphRefused: they do not fit.
    """
    rank = max(len(shape) for shape in shapes)
    result = [1] * rank
    for shape in shapes:
        offset = rank - len(shape)
        for index, size in enumerate(shape):
            have = result[offset + index]
            if size != 1 and have not in (1, size):
                raise GraphRefused(f"shapes {' and '.join(map(str, map(list, shapes)))} do not broadcast")
            if have == 1:
                result[offset + index] = size
    return tuple(result)


def resized(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    """``shape`` with another size at ``dim``."""
    return (*shape[:dim], size, *shape[dim + 1 :])


def promote(*values: TensorSpec | Number) -> torch.dtype:
    """Element type of the result of mixing tensors and plain numbers.

    A number changes the type only when it belongs to a higher category (bool < integer < float), and tensors
    with dimensions outrank those without.
    """
    with_dims = [v.dtype for v in values if isinstance(v, TensorSpec) and v.shape]
    without = [v.dtype for v in values if isinstance(v, TensorSpec) and not v.shape]
    numbers = [_number_dtype(v) for v in values if not isinstance(v, TensorSpec)]
    result: torch.dtype | None = None
    for group in (with_dims, without, numbers):
        if not group:
            continue
        joined = group[0]
        for dtype in group[1:]:
            joined = torch.promote_types(joined, dtype)
        if result is None or _category(joined) > _category(result):
            result = joined
    if result is None:
        raise GraphRefused("needs at least one tensor")
    return result


def _number_dtype(value: Number) -> torch.dtype:
    if isinstance(value, bool):
        return torch.bool
    return torch.int64 if isinstance(value, int) else torch.float32


def _category(dtype: torch.dtype) -> int:
    if dtype.is_floating_point:
        return 2
    return 0 if dtype == torch.bool else 1


def floating(spec: TensorSpec, what: str) -> TensorSpec:
    """``spec`` itself if its elements are floats.

    Raises:
        GraphRefused: they are not.
    """
    if not spec.dtype.is_floating_point:
        raise GraphRefused(f"{what} must be floating point, not {str(spec.dtype).removeprefix('torch.')}")
    return spec
