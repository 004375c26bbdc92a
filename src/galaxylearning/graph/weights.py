"""Weights as canonical safetensors: for one graph there is exactly one acceptable header.

Read by our own code: the header is compared with the one the graph implies, so nothing a stranger wrote
decides how much is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import ModelGraph, StateEntry
from galaxylearning.graph.header import refuse_header, weights_header
from galaxylearning.graph.tensors import DTYPES


def weights_to_bytes(graph: ModelGraph, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Every state entry's tensor as safetensors: sorted names, no metadata, no gaps. Equal tensors, equal
    bytes.

    Raises:
        GraphRefused: a tensor is missing, unknown, of another type or shape, or not finite.

    Source: the safetensors format, version 0.4.
    """
    check_tensors(graph, tensors)
    parts = [weights_header(graph)]
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
    header = weights_header(graph)
    if data[: len(header)] != header:
        refuse_header(graph, data, len(header))
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
    return len(weights_header(graph)) + sum(entry.bytes for entry in graph.state)


def _finite(entry: StateEntry, tensor: torch.Tensor) -> None:
    if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise GraphRefused("every element must be finite", where=f"weights {entry.name}")
