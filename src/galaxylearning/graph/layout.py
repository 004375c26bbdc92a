"""Shape rules of views, rearrangements, tensors made from nothing, and our own operations."""

from __future__ import annotations

import math

import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.specs import (
    Bound,
    Outcome,
    TensorSpec,
    axes,
    axis,
    broadcast,
    require,
    resized,
    rule,
)


@rule("view reshape")
def _view(a: Bound) -> Outcome:
    spec = a.tensor("self")
    return TensorSpec(
        spec.dtype, _sized(a.integers("size" if "size" in a.values else "shape"), spec.elements)
    )


@rule("view_as expand_as")
def _like(a: Bound) -> Outcome:
    spec, other = a.tensor("self"), a.tensor("other")
    if a.op.startswith("aten.view_as"):
        require(spec.elements == other.elements, "the two sizes differ")
    else:
        require(broadcast(spec.shape, other.shape) == other.shape, "does not expand to the other's shape")
    return TensorSpec(spec.dtype, other.shape)


@rule("flatten.using_ints")
def _flatten(a: Bound) -> Outcome:
    spec = a.tensor("self")
    first, last = axis(a.integer("start_dim"), len(spec.shape)), axis(a.integer("end_dim"), len(spec.shape))
    require(first <= last, "start_dim must not come after end_dim")
    middle = math.prod(spec.shape[first : last + 1])
    return TensorSpec(spec.dtype, (*spec.shape[:first], middle, *spec.shape[last + 1 :]))


@rule("unflatten.int")
def _unflatten(a: Bound) -> Outcome:
    spec = a.tensor("self")
    require(bool(spec.shape), "needs at least one dimension")
    dim = axis(a.integer("dim"), len(spec.shape))
    sizes = _sized(a.integers("sizes"), spec.shape[dim])
    return TensorSpec(spec.dtype, (*spec.shape[:dim], *sizes, *spec.shape[dim + 1 :]))


@rule("squeeze squeeze.dim squeeze.dims")
def _squeeze(a: Bound) -> Outcome:
    spec = a.tensor("self")
    rank = len(spec.shape)
    dims = axes(a.integers("dim"), rank) if "dim" in a.values else tuple(range(rank))
    return TensorSpec(spec.dtype, tuple(s for i, s in enumerate(spec.shape) if s != 1 or i not in dims))


@rule("unsqueeze")
def _unsqueeze(a: Bound) -> Outcome:
    spec = a.tensor("self")
    dim = axis(a.integer("dim"), len(spec.shape) + 1)
    return TensorSpec(spec.dtype, (*spec.shape[:dim], 1, *spec.shape[dim:]))


@rule("transpose.int")
def _transpose(a: Bound) -> Outcome:
    spec = a.tensor("self")
    rank = len(spec.shape)
    first, second = axis(a.integer("dim0"), rank), axis(a.integer("dim1"), rank)
    order = list(range(rank))
    if rank:
        order[first], order[second] = second, first
    return TensorSpec(spec.dtype, tuple(spec.shape[i] for i in order))


@rule("permute")
def _permute(a: Bound) -> Outcome:
    spec = a.tensor("self")
    dims = axes(a.integers("dims"), len(spec.shape))
    require(len(dims) == len(spec.shape), "must name every dimension once")
    return TensorSpec(spec.dtype, tuple(spec.shape[i] for i in dims))


@rule("movedim.int")
def _movedim(a: Bound) -> Outcome:
    spec = a.tensor("self")
    source, target = (
        axis(a.integer("source"), len(spec.shape)),
        axis(a.integer("destination"), len(spec.shape)),
    )
    shape = list(spec.shape)
    if shape:
        shape.insert(target, shape.pop(source))
    return TensorSpec(spec.dtype, tuple(shape))


@rule("t")
def _t(a: Bound) -> Outcome:
    spec = a.tensor("self")
    require(len(spec.shape) <= 2, "takes at most two dimensions")
    return TensorSpec(spec.dtype, spec.shape[::-1])


@rule("expand")
def _expand(a: Bound) -> Outcome:
    spec, sizes = a.tensor("self"), a.integers("size")
    offset = len(sizes) - len(spec.shape)
    require(offset >= 0, "has more dimensions than the size it is expanded to")
    shape = []
    for index, size in enumerate(sizes):
        have = spec.shape[index - offset] if index >= offset else None
        wanted = have if size == -1 and have is not None else size
        require(wanted >= 1 and have in (None, 1, wanted), f"does not expand to {list(sizes)}")
        shape.append(wanted)
    return TensorSpec(spec.dtype, tuple(shape))


@rule("repeat")
def _repeat(a: Bound) -> Outcome:
    spec, repeats = a.tensor("self"), a.integers("repeats")
    require(len(repeats) >= len(spec.shape), "repeats must name every dimension")
    require(all(count >= 1 for count in repeats), "repeats must be at least 1")
    padded = (1,) * (len(repeats) - len(spec.shape)) + spec.shape
    return TensorSpec(spec.dtype, tuple(s * count for s, count in zip(padded, repeats, strict=True)))


@rule("repeat_interleave.self_int")
def _repeat_interleave(a: Bound) -> Outcome:
    spec, count, dim = a.tensor("self"), a.integer("repeats"), a.maybe_integer("dim")
    require(count >= 1, "repeats must be at least 1")
    require(a.values.get("output_size") is None, "output_size is not offered")
    if dim is None:
        return TensorSpec(spec.dtype, (spec.elements * count,))
    require(bool(spec.shape), "needs at least one dimension")
    position = axis(dim, len(spec.shape))
    return TensorSpec(spec.dtype, resized(spec.shape, position, spec.shape[position] * count))


@rule("cat")
def _cat(a: Bound) -> Outcome:
    parts = a.tensors("tensors")
    require(bool(parts) and bool(parts[0].shape), "needs tensors with at least one dimension")
    dim = axis(a.integer("dim"), len(parts[0].shape))
    first = parts[0].shape
    for part in parts:
        fits = len(part.shape) == len(first) and resized(part.shape, dim, 1) == resized(first, dim, 1)
        require(fits, "the tensors differ outside the joined dimension")
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    return TensorSpec(dtype, resized(first, dim, sum(part.shape[dim] for part in parts)))


@rule("stack")
def _stack(a: Bound) -> Outcome:
    parts = a.tensors("tensors")
    require(bool(parts), "needs at least one tensor")
    require(all(part == parts[0] for part in parts), "the tensors differ in shape or type")
    dim = axis(a.integer("dim"), len(parts[0].shape) + 1)
    shape = parts[0].shape
    return TensorSpec(parts[0].dtype, (*shape[:dim], len(parts), *shape[dim:]))


@rule("chunk split.Tensor split_with_sizes unbind.int")
def _split(a: Bound) -> Outcome:
    spec = a.tensor("self")
    require(bool(spec.shape), "needs at least one dimension")
    dim = axis(a.integer("dim"), len(spec.shape))
    size = spec.shape[dim]
    if a.op == "aten.unbind.int":
        require(size <= 1024, "more than 1024 parts")
        return (TensorSpec(spec.dtype, spec.shape[:dim] + spec.shape[dim + 1 :]),) * size
    if a.op == "aten.split_with_sizes.default":
        sizes = a.integers("split_sizes")
        require(all(part >= 1 for part in sizes) and sum(sizes) == size, f"split_sizes must sum to {size}")
    else:
        amount = a.integer("chunks" if "chunks" in a.values else "split_size")
        require(amount >= 1, "the number of parts and their size must be at least 1")
        step = -(-size // amount) if "chunks" in a.values else amount
        require(-(-size // step) <= 1024, "more than 1024 parts")
        sizes = tuple(min(step, size - start) for start in range(0, size, step))
    return tuple(TensorSpec(spec.dtype, resized(spec.shape, dim, part)) for part in sizes)


@rule("slice.Tensor")
def _slice(a: Bound) -> Outcome:
    spec = a.tensor("self")
    require(bool(spec.shape), "needs at least one dimension")
    dim, step = axis(a.integer("dim"), len(spec.shape)), a.integer("step")
    require(step >= 1, "step must be at least 1")
    chosen = range(*slice(a.maybe_integer("start"), a.maybe_integer("end"), step).indices(spec.shape[dim]))
    return TensorSpec(spec.dtype, resized(spec.shape, dim, len(chosen)))


@rule("select.int")
def _select(a: Bound) -> Outcome:
    spec = a.tensor("self")
    require(bool(spec.shape), "needs at least one dimension")
    dim = axis(a.integer("dim"), len(spec.shape))
    axis(a.integer("index"), spec.shape[dim])
    return TensorSpec(spec.dtype, spec.shape[:dim] + spec.shape[dim + 1 :])


@rule("narrow")
def _narrow(a: Bound) -> Outcome:
    spec, start, length = a.tensor("self"), a.integer("start"), a.integer("length")
    require(bool(spec.shape), "needs at least one dimension")
    dim = axis(a.integer("dim"), len(spec.shape))
    start += spec.shape[dim] if start < 0 else 0
    require(length >= 1 and 0 <= start <= spec.shape[dim] - length, "reaches outside the dimension")
    return TensorSpec(spec.dtype, resized(spec.shape, dim, length))


@rule("sym_size.int")
def _size(a: Bound) -> Outcome:
    shape = a.tensor("self").shape
    require(bool(shape), "needs at least one dimension")
    return shape[axis(a.integer("dim"), len(shape))]


@rule("zeros ones full")
def _filled(a: Bound) -> Outcome:
    dtype = a.dtype("dtype")
    if dtype is None:
        fill = a.values.get("fill_value", 0.0)
        dtype = (
            torch.bool if isinstance(fill, bool) else torch.int64 if isinstance(fill, int) else torch.float32
        )
    return TensorSpec(dtype, a.integers("size"))


@rule("arange arange.start arange.start_step")
def _arange(a: Bound) -> Outcome:
    start, end, step = a.values.get("start", 0), a.values["end"], a.values.get("step", 1)
    require(
        all(math.isfinite(v) for v in (start, end, step)) and step != 0,
        "bounds must be finite, step not zero",
    )
    integral = all(isinstance(v, int) for v in (start, end, step))
    length = -(-(end - start) // step) if integral else math.ceil((end - start) / step)
    dtype = a.dtype("dtype") or (torch.int64 if integral else torch.float32)
    return TensorSpec(dtype, (int(length),))


@rule("int.add int.sub int.mul int.floordiv int.mod")
def _integer(a: Bound) -> Outcome:
    left, right = a.integer("a"), a.integer("b")
    if a.op in ("int.floordiv", "int.mod"):
        require(right != 0, "division by zero")
        return left // right if a.op == "int.floordiv" else left % right
    return left + right if a.op == "int.add" else left - right if a.op == "int.sub" else left * right


@rule("tuple.item")
def _item(a: Bound) -> Outcome:
    values, index = a.tensors("values"), a.integer("index")
    require(0 <= index < len(values), f"index must be in [0, {len(values) - 1}]")
    return values[index]


@rule("state.update")
def _update(a: Bound) -> Outcome:
    buffer, value = a.tensor("buffer"), a.tensor("value")
    require(broadcast(buffer.shape, value.shape) == buffer.shape, "the value does not fit the buffer")
    return buffer


def _sized(sizes: tuple[int, ...], elements: int) -> tuple[int, ...]:
    if sizes.count(-1) > 1 or any(size < -1 or size == 0 for size in sizes):
        raise GraphRefused(f"sizes {list(sizes)} must be positive, with -1 at most once")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        require(elements % known == 0, f"{elements} elements do not fill {list(sizes)}")
        return tuple(elements // known if size == -1 else size for size in sizes)
    require(known == elements, f"{elements} elements do not fill {list(sizes)}")
    return sizes
