"""Weights as numpy arrays: the same canonical safetensors, read and written without a tensor library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import ModelGraph, StateEntry
from galaxylearning.graph.header import refuse_header, weights_header

Array: TypeAlias = npt.NDArray[Any]

_BFLOAT16_EXPONENT = 0x7F80


def dense_weights_from_bytes(
    graph: ModelGraph, data: bytes, *, max_bytes: int | None = None
) -> dict[str, Array]:
    """The arrays in ``data``, which must be exactly the canonical safetensors of this graph.

    Arrays are copies, one for each state entry. numpy has no bfloat16: such an entry comes as the uint16 of
    its bits.

    Raises:
        GraphRefused: larger than ``max_bytes``, or anything differs; names the field.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise GraphRefused(f"{len(data)} bytes, allowed are {max_bytes}", where="weights")
    header = weights_header(graph)
    if data[: len(header)] != header:
        refuse_header(graph, data, len(header))
    expected = len(header) + sum(entry.bytes for entry in graph.state)
    if len(data) != expected:
        raise GraphRefused(f"{len(data)} bytes, must be {expected}", where="weights")
    arrays: dict[str, Array] = {}
    start = len(header)
    for entry in graph.state:
        raw = np.frombuffer(data, np.uint8, entry.bytes, start)
        if entry.dtype == "bool" and bool((raw > 1).any()):
            raise GraphRefused("a bool must be the byte 0 or 1", where=f"weights {entry.name}")
        array = raw.copy().view(_numpy_dtype(entry)).reshape(entry.shape)
        _require_finite(entry, array)
        arrays[entry.name] = array
        start += entry.bytes
    return arrays


def dense_weights_to_bytes(graph: ModelGraph, arrays: Mapping[str, Array]) -> bytes:
    """Every state entry as canonical safetensors: equal values give the bytes that tensors would give.

    Raises:
        GraphRefused: an array is missing, unknown, of another type or shape, or not finite.
    """
    check_arrays(graph, arrays)
    parts = [weights_header(graph)]
    parts += [np.ascontiguousarray(arrays[entry.name]).tobytes() for entry in graph.state]
    return b"".join(parts)


def check_arrays(graph: ModelGraph, arrays: Mapping[str, Array]) -> None:
    """Names, types, shapes and finiteness of ``arrays`` against the graph's state.

    Raises:
        GraphRefused: something differs.
    """
    unknown = sorted(set(arrays) - {entry.name for entry in graph.state})
    if unknown:
        raise GraphRefused(f"{unknown[0]!r} is not in the graph's state", where="weights")
    for entry in graph.state:
        where = f"weights {entry.name}"
        array = arrays.get(entry.name)
        if array is None:
            raise GraphRefused("is missing", where=where)
        if array.dtype != _numpy_dtype(entry):
            raise GraphRefused(f"must be {entry.dtype}, not {array.dtype}", where=where)
        if array.shape != entry.shape:
            raise GraphRefused(f"must have shape {list(entry.shape)}, not {list(array.shape)}", where=where)
        _require_finite(entry, array)


def _numpy_dtype(entry: StateEntry) -> np.dtype[Any]:
    return np.dtype(np.uint16 if entry.dtype == "bfloat16" else entry.dtype)


def _require_finite(entry: StateEntry, array: Array) -> None:
    if entry.dtype == "bfloat16":
        finite = bool(((array & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT).all())
    else:
        finite = array.dtype.kind != "f" or bool(np.isfinite(array).all())
    if not finite:
        raise GraphRefused("every element must be finite", where=f"weights {entry.name}")
