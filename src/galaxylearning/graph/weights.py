"""Weights as canonical safetensors: for one graph there is exactly one acceptable header.

Read by our own code: the header is compared with the one the graph implies, so nothing a stranger wrote
decides how much is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import ModelGraph, StateEntry, nesting
from galaxylearning.graph.tensors import DTYPES

_TAGS = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_FIELDS = {"dtype", "shape", "data_offsets"}


def weights_to_bytes(graph: ModelGraph, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Every state entry's tensor as safetensors: sorted names, no metadata, no gaps. Equal tensors, equal
    bytes.

    Raises:
        GraphRefused: a tensor is missing, unknown, of another type or shape, or not finite.

    Source: the safetensors format, version 0.4.
    """
    check_tensors(graph, tensors)
    parts = [_header(graph)]
    for entry in graph.state:
        flat = tensors[entry.name].detach().cpu().contiguous().reshape(-1)
        parts.append(
            flat.view(torch.uint8).numpy().tobytes() if flat.dtype != torch.bool else flat.numpy().tobytes()
        )
    return b"".join(parts)


def weights_from_bytes(graph: ModelGraph, data: bytes, *, max_bytes: int) -> dict[str, torch.Tensor]:
    """The tensors in ``data``, which must be exactly what :func:`weights_to_bytes` writes for this graph.

    Trainable parameters come as leaves that require grad, as in a module: products choose their kernel by it.

    Raises:
        GraphRefused: larger than ``max_bytes``, or anything differs; names the field.
    """
    if len(data) > max_bytes:
        raise GraphRefused(f"{len(data)} bytes, allowed are {max_bytes}", where="weights")
    header = _header(graph)
    if data[: len(header)] != header:
        _explain(graph, data, len(header))
    expected = len(header) + sum(entry.bytes for entry in graph.state)
    if len(data) != expected:
        raise GraphRefused(f"{len(data)} bytes, must be {expected}", where="weights")
    tensors: dict[str, torch.Tensor] = {}
    start = len(header)
    for entry in graph.state:
        payload = bytearray(data[start : start + entry.bytes])
        if entry.dtype == "bool" and payload.translate(None, b"\x00\x01"):
            raise GraphRefused("a bool must be the byte 0 or 1", where=f"weights {entry.name}")
        # The clone comes last: a view of memory that needs no grad would make products choose another kernel.
        tensor = torch.frombuffer(payload, dtype=DTYPES[entry.dtype]).view(entry.shape).clone()
        start += entry.bytes
        _finite(entry, tensor)
        tensors[entry.name] = tensor.requires_grad_(entry.trainable)
    return tensors


def check_tensors(graph: ModelGraph, tensors: Mapping[str, torch.Tensor]) -> None:
    """Names, types, shapes and finiteness of ``tensors`` against the graph's state.

    Raises:
        GraphRefused: something differs.
    """
    known = {entry.name for entry in graph.state}
    unknown = sorted(set(tensors) - known)
    if unknown:
        raise GraphRefused(f"{unknown[0]!r} is not in the graph's state", where="weights")
    for entry in graph.state:
        where = f"weights {entry.name}"
        tensor = tensors.get(entry.name)
        if tensor is None:
            raise GraphRefused("is missing", where=where)
        if tensor.dtype != DTYPES[entry.dtype]:
            raise GraphRefused(
                f"must be {entry.dtype}, not {str(tensor.dtype).removeprefix('torch.')}", where=where
            )
        if tuple(tensor.shape) != entry.shape:
            raise GraphRefused(f"must have shape {list(entry.shape)}, not {list(tensor.shape)}", where=where)
        _finite(entry, tensor)


def weights_size(graph: ModelGraph) -> int:
    """Length in bytes of the graph's weights as safetensors."""
    return len(_header(graph)) + sum(entry.bytes for entry in graph.state)


def _finite(entry: StateEntry, tensor: torch.Tensor) -> None:
    if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise GraphRefused("every element must be finite", where=f"weights {entry.name}")


def _header(graph: ModelGraph) -> bytes:
    fields: dict[str, Any] = {}
    start = 0
    for entry in graph.state:
        end = start + entry.bytes
        fields[entry.name] = {
            "dtype": _TAGS[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _explain(graph: ModelGraph, data: bytes, expected: int) -> NoReturn:
    """Say what is wrong with a header that is not the one expected. Never returns."""
    where = "weights header"
    if len(data) < 8:
        raise GraphRefused(f"{len(data)} bytes are too few for a header", where=where)
    length = int.from_bytes(data[:8], "little")
    most = min(4 * expected + 4096, len(data) - 8)
    if length > most:
        raise GraphRefused(f"claims {length} bytes, allowed are {most}", where=where)
    text = data[8 : 8 + length]
    if text.count(b"[") + text.count(b"{") > 4 * len(graph.state) + 64:
        raise GraphRefused("has too many lists and objects", where=where)
    if nesting(text) > 3:
        raise GraphRefused("is nested more than 3 deep", where=where)
    try:
        header = json.loads(text.decode("ascii"), object_pairs_hook=_distinct)
    except ValueError as error:
        raise GraphRefused(f"is not ASCII JSON ({error})", where=where) from None
    if not isinstance(header, dict):
        raise GraphRefused("must be an object", where=where)
    if "__metadata__" in header:
        raise GraphRefused("must carry no metadata", where=where)
    unknown = sorted(set(header) - {entry.name for entry in graph.state})
    if unknown:
        raise GraphRefused(f"{unknown[0][:80]!r} is not in the graph's state", where=where)
    start = 0
    for entry in graph.state:
        field = header.get(entry.name)
        place = f"{where} {entry.name}"
        if not isinstance(field, dict) or set(field) != _FIELDS:
            raise GraphRefused("must be an object with dtype, shape and data_offsets", where=place)
        if field["dtype"] != _TAGS[entry.dtype]:
            raise GraphRefused(f"dtype must be {_TAGS[entry.dtype]}", where=place)
        if field["shape"] != list(entry.shape):
            raise GraphRefused(f"shape must be {list(entry.shape)}", where=place)
        if field["data_offsets"] != [start, start + entry.bytes]:
            raise GraphRefused(f"data_offsets must be {[start, start + entry.bytes]}", where=place)
        start += entry.bytes
    raise GraphRefused(
        "must be canonical: names sorted, no whitespace but the padding to 8 bytes", where=where
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise GraphRefused("a key is repeated", where="weights header")
    return fields
