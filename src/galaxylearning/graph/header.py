"""The one safetensors header that a graph's weights may have; knows no tensor library.

What a stranger wrote is compared with what the graph implies, so nothing of it decides how much is allocated.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import ModelGraph, nesting

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


def weights_header(graph: ModelGraph) -> bytes:
    """The header of this graph's weights with its length before it, padded to a multiple of 8 bytes.

    Source: the safetensors format, version 0.4.
    """
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


def refuse_header(graph: ModelGraph, data: bytes, expected: int) -> NoReturn:
    """Say what is wrong with a header that is not the one expected, whose length is ``expected``.

    Raises:
        GraphRefused: always; names the field.
    """
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
