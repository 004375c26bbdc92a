"""Weights that must be refused, by what is wrong with them: a change to the sound ones of one small graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from galaxylearning.graph import ModelGraph, weights_to_bytes
from hostile_graphs import BIG, Cases, Document, base, dump


def weights_graph() -> ModelGraph:
    return ModelGraph.from_bytes(dump(base()))


def valid_weights() -> bytes:
    import torch

    graph = weights_graph()
    zeros = {e.name: torch.zeros(e.shape, dtype=getattr(torch, e.dtype)) for e in graph.state}
    return weights_to_bytes(graph, zeros)


def header() -> Document:
    data = valid_weights()
    found: Document = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


def packed(text: bytes, payload: int = 200, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(payload)


def with_header(change: Callable[[Document], Any]) -> bytes:
    fields = header()
    change(fields)
    return packed(json.dumps(fields, separators=(",", ":")).encode())


def with_last_float(pattern: bytes) -> bytes:
    return valid_weights()[:-4] + pattern


WEIGHTS: Cases = {
    "empty": (lambda: b"", "too few"),
    "seven bytes": (lambda: bytes(7), "too few"),
    "a header of 2^63 bytes": (lambda: packed(b"{}", length=(1 << 63)), "claims"),
    "a header of 2^64 - 1 bytes": (lambda: b"\xff" * 8 + bytes(100), "claims"),
    "a header longer than the file": (lambda: packed(b"{}", 0, length=3), "claims"),
    "a header of four kilobytes": (lambda: packed(b"{" + b" " * 4096 + b"}", 0), "must be an object"),
    "a header of a megabyte": (lambda: packed(b"{" + b" " * (1 << 20) + b"}"), "allowed are"),
    "a header of no bytes": (lambda: packed(b""), "not ASCII JSON"),
    "a header that is a list": (lambda: packed(b"[]"), "must be an object"),
    "a header that is not JSON": (lambda: packed(b"{'b':1}"), "not ASCII JSON"),
    "a header that is not ASCII": (lambda: packed(b'{"\xff":1}'), "not ASCII JSON"),
    "a deep header": (lambda: packed(b"[" * 60 + b"]" * 60), "nested|lists and objects"),
    "a very deep header": (lambda: packed(b"[" * 4000), "nested|lists and objects"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR." + bytes(500), "claims"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(500), "claims|JSON"),
    "metadata": (lambda: with_header(lambda h: h.update(__metadata__={"a": "b"})), "no metadata"),
    "an unknown tensor": (lambda: with_header(lambda h: h.update(z=h["w"])), "not in the graph"),
    "a missing tensor": (lambda: with_header(lambda h: h.pop("w")), "must be an object"),
    "a repeated tensor": (
        lambda: packed(json.dumps(header(), separators=(",", ":")).encode()[:-1] + b',"w":{}}'),
        "repeated",
    ),
    "another type": (lambda: with_header(lambda h: h["w"].update(dtype="F16")), "dtype must be"),
    "an unknown type": (lambda: with_header(lambda h: h["w"].update(dtype="C64")), "dtype must be"),
    "another shape": (lambda: with_header(lambda h: h["w"].update(shape=[4, 3])), "shape must be"),
    "a huge shape": (lambda: with_header(lambda h: h["w"].update(shape=[BIG, BIG])), "shape must be"),
    "a negative shape": (lambda: with_header(lambda h: h["w"].update(shape=[-3, -4])), "shape must be"),
    "overlapping offsets": (
        lambda: with_header(lambda h: h["w"].update(data_offsets=[0, 48])),
        "data_offsets",
    ),
    "offsets beyond the file": (
        lambda: with_header(lambda h: h["w"].update(data_offsets=[44, 1 << 40])),
        "data_offsets",
    ),
    "reversed offsets": (lambda: with_header(lambda h: h["w"]["data_offsets"].reverse()), "data_offsets"),
    "offsets with a gap": (
        lambda: with_header(lambda h: h["w"].update(data_offsets=[52, 100])),
        "data_offsets",
    ),
    "offsets as text": (lambda: with_header(lambda h: h["w"].update(data_offsets="all")), "data_offsets"),
    "an extra field": (lambda: with_header(lambda h: h["w"].update(code="1")), "must be an object"),
    "a tensor that is null": (lambda: with_header(lambda h: h.update(w=None)), "must be an object"),
    "unsorted names": (
        lambda: packed(json.dumps(dict(reversed(header().items())), separators=(",", ":")).encode()),
        "canonical",
    ),
    "spaces in the header": (lambda: packed(json.dumps(header()).encode()), "canonical"),
    "a byte too few": (lambda: valid_weights()[:-1], "bytes, must be"),
    "a byte too many": (lambda: valid_weights() + b"\0", "bytes, allowed are|bytes, must be"),
    "nan": (lambda: with_last_float(b"\x00\x00\xc0\x7f"), "finite"),
    "a signalling nan": (lambda: with_last_float(b"\x01\x00\x80\x7f"), "finite"),
    "infinity": (lambda: with_last_float(b"\x00\x00\x80\x7f"), "finite"),
    "negative infinity": (lambda: with_last_float(b"\x00\x00\x80\xff"), "finite"),
    "over the caller's limit": (lambda: valid_weights() + bytes(1 << 20), "allowed are"),
}
