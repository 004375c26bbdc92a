"""Hostile graph documents and weights: each is refused, quickly and in little memory, with a reason.

Run as a program, the file tries every case under a cap on memory and prints what each took.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import GraphLimits, ModelGraph, Program, meter, weights_from_bytes, weights_to_bytes
from galaxylearning.graph.infer import infer

Document = dict[str, Any]
SECONDS = 2.0
GROWTH_BYTES = 512 << 20
ADDRESS_SPACE_BYTES = 2 << 30


def base() -> Document:
    """x [n, 4] -> linear -> relu -> linear, with a counter; every case is a change to it."""
    return {
        "version": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
        "state": [
            entry("b", [3]),
            entry("count", [], kind="buffer", trainable=False, federate="skip", dtype="int64"),
            entry("mean", [3], kind="buffer", trainable=False),
            entry("var", [3], kind="buffer", trainable=False),
            entry("w", [3, 4]),
        ],
        "nodes": [
            node("lin", "aten.linear.default", {"input": "x"}, {"state": "w"}, {"state": "b"}),
            node("act", "aten.relu.default", {"node": "lin"}),
        ],
        "outputs": [{"node": "act"}],
        "loss": "cross_entropy",
    }


def entry(name: str, shape: list[Any], **fields: Any) -> Document:
    given = {"name": name, "kind": "parameter", "trainable": True, "federate": "mean", "dtype": "float32"}
    return given | {"shape": shape} | fields


def node(name: str, op: str, *args: Any, **kwargs: Any) -> Document:
    return {"name": name, "op": op, "args": list(args), "kwargs": kwargs}


def dump(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


X, ACT, LIN = {"input": "x"}, {"node": "act"}, {"node": "lin"}
W, B = {"state": "w"}, {"state": "b"}


def ending(*nodes: Document) -> bytes:
    """The base graph with nodes added; the last one is the output."""
    document = base()
    document["nodes"] += nodes
    document["outputs"] = [{"node": nodes[-1]["name"]}]
    return dump(document)


def one(op: str, *args: Any, **kwargs: Any) -> bytes:
    return ending(node("bad", op, *args, **kwargs))


def changed(change: Callable[[Document], Any]) -> bytes:
    document = base()
    change(document)
    return dump(document)


def put(path: list[Any], value: Any) -> bytes:
    """The base graph with one field replaced."""
    document = base()
    target: Any = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return dump(document)


def chain(count: int, op: str, *rest: Any) -> bytes:
    names = ["act", *(f"c{i}" for i in range(count))]
    return ending(*(node(b, op, {"node": a}, *rest) for a, b in pairwise(names)))


def squaring() -> bytes:
    nodes = [node("s0", "aten.sym_size.int", X, 1)]
    nodes += [node(f"s{i + 1}", "int.mul", {"node": f"s{i}"}, {"node": f"s{i}"}) for i in range(60)]
    return ending(*nodes, node("out", "aten.add.Tensor", ACT, {"node": "s60"}))


P, Q = {"node": "p"}, {"node": "q"}
BIG = 1 << 50
END = (1 << 63) - 1

GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    # ---- not a document
    "empty": (lambda: b"", "is not JSON"),
    "null": (lambda: b"null", "must be an object"),
    "a list": (lambda: b"[]", "must be an object"),
    "a number": (lambda: b"1", "must be an object"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.", "must be ASCII"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(100), "is not JSON"),
    "invalid utf-8": (lambda: dump(base()).replace(b'"x"', b'"\xff\xfe"'), "must be ASCII"),
    "utf-8 that is not ascii": (lambda: dump(base()).replace(b'"lin"', '"lín"'.encode()), "must be ASCII"),
    "a byte order mark": (lambda: b"\xef\xbb\xbf" + dump(base()), "must be ASCII"),
    "utf-16": (lambda: dump(base()).decode().encode("utf-16"), "must be ASCII"),
    "trailing bytes": (lambda: dump(base()) + b"{}", "is not JSON"),
    "trailing newline": (lambda: dump(base()) + b"\n", "canonical"),
    "whitespace": (lambda: json.dumps(base(), sort_keys=True).encode(), "canonical"),
    "unsorted keys": (lambda: json.dumps(base(), separators=(",", ":")).encode(), "canonical"),
    "repeated key": (lambda: dump(base())[:-1] + b',"version":1}', "canonical"),
    "escaped letters": (lambda: dump(base()).replace(b'"lin"', b'"\\u006cin"'), "canonical"),
    "another form of a number": (lambda: dump(base()).replace(b'"version":1', b'"version":1.0'), "version"),
    "deep nesting": (lambda: b"[" * 80_000, "is nested"),
    "deep nesting, closed": (lambda: b"[" * 50_000 + b"]" * 50_000, "is nested"),
    "deep objects": (lambda: b'{"a":' * 50_000, "is nested"),
    "deep arguments": (lambda: one("aten.relu.default", [[[[[[[[ACT]]]]]]]]), "is nested"),
    "nested lists": (lambda: one("aten.cat.default", [[ACT]]), "may not be nested"),
    "five megabytes": (lambda: b'"' + b"a" * (5 << 20) + b'"', "bytes, allowed are"),
    "a million lists": (lambda: b"[" + b"[]," * 1_000_000 + b"[]]", "lists and objects"),
    "two million numbers": (lambda: b"[" + b"1," * 2_000_000 + b"1]", "commas"),
    "a number of a million digits": (lambda: b"1" * 1_000_000, "digits"),
    "a float of a million digits": (lambda: b"1." + b"1" * 1_000_000, "characters"),
    "NaN literal": (lambda: dump(base()).replace(b'"version":1', b'"version":NaN'), "not a JSON number"),
    "Infinity literal": (
        lambda: dump(base()).replace(b'"version":1', b'"version":-Infinity'),
        "not a JSON number",
    ),
    "an overflowing float": (lambda: dump(base()).replace(b'"version":1', b'"version":1e999'), "too large"),
    # ---- fields
    "version 2": (lambda: put(["version"], 2), "version"),
    "version true": (lambda: put(["version"], True), "version"),
    "version as text": (lambda: put(["version"], "1"), "version"),
    "no loss": (lambda: changed(lambda d: d.pop("loss")), "exactly the fields"),
    "an extra field": (lambda: changed(lambda d: d.update(code="import os")), "exactly the fields"),
    "an unknown loss": (lambda: put(["loss"], "hinge"), "loss"),
    "a loss that is a list": (lambda: put(["loss"], ["mse"]), "loss"),
    "no inputs": (lambda: put(["inputs"], []), "inputs"),
    "inputs as an object": (lambda: put(["inputs"], {}), "inputs"),
    "seventeen inputs": (
        lambda: put(["inputs"], [{"name": f"x{i}", "dtype": "float32", "shape": [None]} for i in range(17)]),
        "inputs",
    ),
    "two inputs of one name": (lambda: changed(lambda d: d["inputs"].append(d["inputs"][0])), "inputs"),
    "an input without a batch": (lambda: put(["inputs", 0, "shape"], [3, 4]), "must begin with null"),
    "an input with two open sizes": (lambda: put(["inputs", 0, "shape"], [None, None]), "size must be"),
    "an input of no size": (lambda: put(["inputs", 0, "shape"], [None, 0]), "size must be"),
    "an input of a negative size": (lambda: put(["inputs", 0, "shape"], [None, -4]), "size must be"),
    "an input of 2^50 elements": (lambda: put(["inputs", 0, "shape"], [None, BIG]), "size must be"),
    "an input of many sizes": (lambda: put(["inputs", 0, "shape"], [None] + [1 << 31] * 7), "elements"),
    "an input of rank nine": (lambda: put(["inputs", 0, "shape"], [None] + [1] * 8), "shape"),
    "a size that is true": (lambda: put(["inputs", 0, "shape"], [None, True]), "size must be"),
    "a size that is a float": (lambda: put(["inputs", 0, "shape"], [None, 4.0]), "size must be"),
    "a size that is an expression": (
        lambda: put(["inputs", 0, "shape"], ["s0", "4*s0"]),
        "must begin with null",
    ),
    "a complex input": (lambda: put(["inputs", 0, "dtype"], "complex64"), "element type"),
    "an object input": (lambda: put(["inputs", 0, "dtype"], "object"), "element type"),
    "a bfloat16 input": (lambda: put(["inputs", 0, "dtype"], "bfloat16"), "bfloat16"),
    "a dtype that is a list": (lambda: put(["inputs", 0, "dtype"], ["float32"]), "element type"),
    "a name with a path": (lambda: put(["inputs", 0, "name"], "../../etc/passwd"), "name must be"),
    "an empty name": (lambda: put(["nodes", 0, "name"], ""), "name must be"),
    "a name of 201 letters": (lambda: put(["nodes", 0, "name"], "a" * 201), "name must be"),
    "a name that is a number": (lambda: put(["nodes", 0, "name"], 7), "name must be"),
    "a dunder attribute": (lambda: put(["state", 0, "name"], "b.__class__()"), "name must be"),
    # ---- state
    "state as text": (lambda: put(["state"], "b"), "state"),
    "unsorted state": (lambda: changed(lambda d: d["state"].reverse()), "sorted by name"),
    "state named twice": (lambda: changed(lambda d: d["state"].insert(0, d["state"][0])), "sorted by name"),
    "nothing trainable": (
        lambda: changed(lambda d: [e.update(trainable=False, federate="skip") for e in d["state"]]),
        "trainable parameter",
    ),
    "a trainable buffer": (lambda: put(["state", 2, "trainable"], True), "only a parameter"),
    "a trainable integer": (lambda: put(["state", 0, "dtype"], "int64"), "must be float32"),
    "a trainable half": (lambda: put(["state", 0, "dtype"], "float16"), "must be float32"),
    "a mean of counters": (lambda: put(["state", 1, "federate"], "mean"), "must be float32"),
    "a parameter kept local": (lambda: put(["state", 0, "federate"], "keep_local"), "federate"),
    "an unknown kind": (lambda: put(["state", 0, "kind"], "code"), "kind"),
    "an unknown federation": (lambda: put(["state", 2, "federate"], "median"), "federate"),
    "trainable as a number": (lambda: put(["state", 0, "trainable"], 1), "trainable"),
    "state of 2^50 elements": (lambda: put(["state", 4, "shape"], [BIG]), "size must be"),
    "state of 2^62 elements": (lambda: put(["state", 4, "shape"], [1 << 31, 1 << 31]), "elements"),
    "sixteen gigabytes of state": (
        lambda: put(["state"], [entry("a", [1 << 31]), entry("b", [1 << 31]), entry("w", [3, 4])]),
        "bytes of state",
    ),
    "ten thousand entries": (
        lambda: put(["state"], [entry(f"{i:05}", [1]) for i in range(10_000)]),
        "allowed are 8192",
    ),
    # ---- nodes and references
    "an unknown operation": (lambda: one("aten.matrix_exp.default", ACT), "not in the allow-list"),
    "an operation of another library": (lambda: one("torch.load", "/tmp/x"), "not in the allow-list"),  # noqa: S108
    "an operation by import path": (lambda: one("os.system", "true"), "not in the allow-list"),
    "an operation by builtin": (lambda: one("builtins.eval", "1"), "not in the allow-list"),
    "an operation without overload": (lambda: one("aten.relu", ACT), "not in the allow-list"),
    "an operation in place": (lambda: one("aten.relu_.default", ACT), "not in the allow-list"),
    "an operation that writes out": (lambda: one("aten.add.out", ACT, ACT, out=W), "not in the allow-list"),
    "an operation on files": (lambda: one("aten.from_file.default", "/etc/passwd"), "not in the allow-list"),
    "an operation with chance": (lambda: one("aten.rand.default", [3, 4]), "not in the allow-list"),
    "as_strided": (lambda: one("aten.as_strided.default", ACT, [9], [1]), "not in the allow-list"),
    "a name of a million letters": (lambda: one("a" * 1_000_000), "at most 100"),
    "an operation that is a list": (
        lambda: put(["nodes", 0, "op"], ["aten.relu.default"]),
        "must be a string",
    ),
    "an undefined node": (lambda: one("aten.relu.default", {"node": "ghost"}), "undefined"),
    "an undefined state": (lambda: one("aten.relu.default", {"state": "ghost"}), "undefined"),
    "an undefined input": (lambda: one("aten.relu.default", {"input": "ghost"}), "undefined"),
    "an argument that is itself": (lambda: one("aten.relu.default", {"node": "bad"}), "undefined"),
    "a cycle": (
        lambda: ending(
            node("p", "aten.relu.default", {"node": "q"}), node("q", "aten.relu.default", {"node": "p"})
        ),
        "undefined",
    ),
    "a later node": (lambda: changed(lambda d: d["nodes"].reverse()), "undefined"),
    "a name used twice": (lambda: ending(node("lin", "aten.relu.default", ACT)), "used twice"),
    "nine thousand nodes": (lambda: chain(9_000, "aten.relu.default"), "nodes: "),
    "two hundred thousand nodes": (lambda: chain(200_000, "aten.relu.default"), "bytes, allowed are"),
    "two hundred thousand empty nodes": (lambda: put(["nodes"], [{}] * 200_000), "lists and objects"),
    "a node that is a list": (lambda: put(["nodes", 0], ["lin", "aten.relu.default"]), "must be an object"),
    "a node that is null": (lambda: put(["nodes", 0], None), "must be an object"),
    "args as an object": (lambda: put(["nodes", 1, "args"], {"0": LIN}), "must be a list"),
    "kwargs as a list": (lambda: put(["nodes", 1, "kwargs"], []), "must be an object"),
    "forty arguments": (lambda: one("aten.relu.default", *[ACT] * 40), "entries, allowed are 32"),
    "twenty keywords": (
        lambda: one("aten.relu.default", ACT, **{f"k{i}": 1 for i in range(20)}),
        "at most 16",
    ),
    "one argument too many": (lambda: one("aten.relu.default", ACT, ACT), "positional"),
    "one argument too few": (lambda: one("aten.relu.default"), "is missing"),
    "an argument given twice": (lambda: one("aten.relu.default", ACT, self=ACT), "given twice"),
    "an unknown keyword": (lambda: one("aten.relu.default", ACT, device="cuda"), "has no argument"),
    "a device": (lambda: one("aten.zeros.default", [3, 3], device="cuda:0"), "not offered"),
    "a generator": (lambda: one("aten.einsum.default", "ij->ij", [ACT], path=[0]), "not offered"),
    "a null tensor": (lambda: one("aten.relu.default", None), "must not be null"),
    "a number for a tensor": (lambda: one("aten.relu.default", 3), "must be a reference"),
    "text for a tensor": (lambda: one("aten.relu.default", "x"), "must be a reference"),
    "a tensor for a number": (lambda: one("aten.softmax.int", ACT, LIN), "must be an integer"),
    "text for a number": (lambda: one("aten.softmax.int", ACT, "1"), "must be an integer"),
    "an expression for a number": (lambda: one("aten.view.default", ACT, ["s0*3"]), "must be an integer"),
    "true for a number": (lambda: one("aten.softmax.int", ACT, True), "must be an integer"),
    "one for true": (lambda: one("aten.sum.dim_IntList", ACT, [1], 1), "true or false"),
    "a float for a number": (lambda: one("aten.softmax.int", ACT, 1.0), "must be an integer"),
    "a list for a tensor": (lambda: one("aten.relu.default", [ACT]), "must be a reference"),
    "a tensor for a list": (lambda: one("aten.cat.default", ACT), "must be a list"),
    "an object of two keys": (
        lambda: one("aten.relu.default", {"node": "act", "state": "w"}),
        "exactly one key",
    ),
    "an object of no keys": (lambda: one("aten.relu.default", {}), "exactly one key"),
    "an unknown object": (lambda: one("aten.relu.default", {"code": "1"}), "must be a node"),
    "a float by another name": (lambda: one("aten.add.Tensor", ACT, {"float": "1e3"}), "must be a node"),
    "a complex dtype": (lambda: one("aten.to.dtype", ACT, {"dtype": "complex64"}), "element type"),
    "a quantised dtype": (lambda: one("aten.to.dtype", ACT, {"dtype": "qint8"}), "element type"),
    "a dtype as a number": (lambda: one("aten.to.dtype", ACT, 7), "element type"),
    "an integer of forty digits": (lambda: one("aten.softmax.int", ACT, 10**39), "must be within"),
    "an integer of 2^40": (lambda: one("aten.softmax.int", ACT, 1 << 40), "must be within"),
    "an integer as a scalar of 2^63": (lambda: one("aten.add.Tensor", ACT, END), "must be within"),
    "a string of 65 letters": (lambda: one("aten.gelu.default", ACT, approximate="t" * 65), "at most 64"),
    "an unknown mode": (lambda: one("aten.gelu.default", ACT, approximate="exec"), "must be one of"),
    "an unknown padding mode": (lambda: one("aten.pad.default", ACT, [1, 1], "python"), "must be one of"),
    "eight thousand nodes and a fault at the end": (
        lambda: chain(8_000, "aten.relu.default").replace(b'"name":"c7999"', b'"name":"c7998"'),
        "used twice",
    ),
    "seventy thousand references and a fault at the end": (
        lambda: ending(
            *(node(f"s{i}", "aten.stack.default", [ACT] * 1000) for i in range(70)),
            node("bad", "aten.relu.default", {"node": "ghost"}),
        ),
        "undefined",
    ),
    "a quarter of a million numbers": (
        lambda: ending(*(node(f"s{i}", "aten.view.default", ACT, [1] * 1000) for i in range(250))),
        "must be positive|do not fill",
    ),
    # ---- writes
    "a parameter overwritten": (lambda: one("state.update", W, W), "never written"),
    "an input overwritten": (lambda: one("state.update", X, X), "never written"),
    "a node overwritten": (lambda: one("state.update", ACT, ACT), "never written"),
    "a parameter as running mean": (
        lambda: one("aten.batch_norm.default", ACT, None, None, B, {"state": "var"}, True, 0.1, 1e-5, False),
        "never written",
    ),
    "half of the running statistics": (
        lambda: one(
            "aten.batch_norm.default", ACT, None, None, {"state": "mean"}, None, True, 0.1, 1e-5, False
        ),
        "go together",
    ),
    "one buffer for both statistics": (
        lambda: one(
            "aten.batch_norm.default",
            ACT,
            None,
            None,
            {"state": "mean"},
            {"state": "mean"},
            True,
            0.1,
            1e-5,
            False,
        ),
        "must differ",
    ),
    "a buffer that grows": (
        lambda: one("state.update", {"state": "mean"}, LIN),
        "does not fit|do not broadcast",
    ),
    # ---- bombs
    "zeros of 2^50": (lambda: one("aten.zeros.default", [BIG]), "must be within"),
    "zeros of 2^60": (lambda: one("aten.zeros.default", [1 << 30, 1 << 30]), "elements"),
    "full of 2^60": (lambda: one("aten.full.default", [1 << 30, 1 << 30], 1.0), "elements"),
    "ones of a negative size": (lambda: one("aten.ones.default", [-3]), "no dimension below 1"),
    "ones of no size": (lambda: one("aten.ones.default", [0, 3]), "no dimension below 1"),
    "ones of rank nine": (lambda: one("aten.ones.default", [1] * 9), "dimensions, allowed are 8"),
    "a repeat bomb": (lambda: one("aten.repeat.default", ACT, [1 << 30, 1 << 30]), "elements"),
    "an interleave bomb": (lambda: one("aten.repeat_interleave.self_int", ACT, 1 << 31, 1), "elements"),
    "an expand bomb": (lambda: one("aten.expand.default", B, [1 << 30, 1 << 30, 3]), "elements"),
    "a pad bomb": (lambda: one("aten.pad.default", ACT, [1 << 31, 1 << 31, 1 << 31, 0]), "elements"),
    "a constant pad bomb": (lambda: one("aten.constant_pad_nd.default", ACT, [0, 1 << 31]), "elements"),
    "a negative pad": (lambda: one("aten.constant_pad_nd.default", ACT, [-2, -2]), "no dimension below 1"),
    "an arange bomb": (lambda: one("aten.arange.default", float(1 << 60)), "elements"),
    "an arange of tiny steps": (lambda: one("aten.arange.start_step", 0.0, 1.0, 1e-300), "elements"),
    "an arange of no step": (lambda: one("aten.arange.start_step", 0, 1, 0), "step not zero"),
    "an arange to infinity": (lambda: one("aten.arange.default", {"float": "inf"}), "finite"),
    "an arange to nan": (lambda: one("aten.arange.default", {"float": "nan"}), "finite"),
    "an upsampling bomb": (
        lambda: ending(
            node("u", "aten.unsqueeze.default", ACT, 0),
            node("v", "aten.unsqueeze.default", {"node": "u"}, 0),
            node("bad", "aten.upsample_nearest2d.vec", {"node": "v"}, [1 << 20, 1 << 20], None),
        ),
        "elements",
    ),
    "an adaptive pool bomb": (
        lambda: ending(
            node("u", "aten.unsqueeze.default", ACT, 0),
            node("bad", "aten.adaptive_avg_pool2d.default", {"node": "u"}, [1 << 20, 1 << 20]),
        ),
        "elements",
    ),
    "an outer product bomb": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20, 1]),
            node("q", "aten.ones.default", [1, 1 << 20]),
            node("bad", "aten.matmul.default", {"node": "p"}, {"node": "q"}),
        ),
        "elements",
    ),
    "a broadcast bomb": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20, 1]),
            node("q", "aten.ones.default", [1 << 20]),
            node("bad", "aten.add.Tensor", {"node": "p"}, {"node": "q"}),
        ),
        "elements",
    ),
    "doubling": (lambda: chain(60, "aten.repeat.default", [2, 1]), "elements"),
    "many large tensors": (
        lambda: ending(*(node(f"z{i}", "aten.ones.default", [1 << 31]) for i in range(200))),
        "bytes of activations",
    ),
    "products without end": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 15, 1 << 15]),
            *(node(f"m{i}", "aten.mm.default", {"node": "p"}, {"node": "p"}) for i in range(300)),
            node("bad", "aten.relu.default", ACT),
        ),
        "bytes of activations",
    ),
    "a product of too many operations": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 7, 1 << 24]),
            node("q", "aten.ones.default", [1 << 24, 1 << 7]),
            node("m", "aten.einsum.default", "ab,cd->ad", [P, Q]),
            node("bad", "aten.relu.default", ACT),
        ),
        "operations, allowed are",
    ),
    "an einsum that explodes": (
        lambda: one("aten.einsum.default", "ab,cd->abcd", [{"state": "w"}] * 2),
        "batch",
    ),
    "an einsum of many factors": (
        lambda: one("aten.einsum.default", "ab,cd,ef->abcdef", [W] * 3),
        "equation",
    ),
    "an einsum with dots": (lambda: one("aten.einsum.default", "...a->a", [ACT]), "equation"),
    "an einsum without output": (lambda: one("aten.einsum.default", "ab", [ACT]), "equation"),
    "an einsum of a diagonal": (lambda: one("aten.einsum.default", "aa->a", [ACT]), "distinct letter"),
    "an einsum of unknown letters": (lambda: one("aten.einsum.default", "ab->c", [ACT]), "output"),
    "an einsum of code": (lambda: one("aten.einsum.default", "__import__('os')", [ACT]), "equation"),
    "an einsum with a number for letters": (lambda: one("aten.einsum.default", 7, [ACT]), "must be a string"),
    "an outer einsum of 2^40": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20]),
            node("bad", "aten.einsum.default", "a,b->ab", [{"node": "p"}, {"node": "p"}]),
        ),
        "elements",
    ),
    "a million chunks": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20]),
            node("c", "aten.split.Tensor", {"node": "p"}, 1),
            node("bad", "tuple.item", {"node": "c"}, 0),
        ),
        "more than 1024 parts",
    ),
    "eight million parts": (
        lambda: ending(
            node("p", "aten.ones.default", [1024]),
            *(node(f"u{i}", "aten.unbind.int", {"node": "p"}) for i in range(8000)),
        ),
        "parts, allowed are",
    ),
    "a recurrence without end": (
        lambda: ending(
            node("x1", "aten.ones.default", [1 << 20, 1, 1]),
            node("h", "aten.zeros.default", [1, 1, 1]),
            node("k", "aten.ones.default", [1, 1]),
            node(
                "bad",
                "aten.rnn_tanh.input",
                {"node": "x1"},
                {"node": "h"},
                [{"node": "k"}, {"node": "k"}],
                False,
                1,
                0.0,
                False,
                False,
                False,
            ),
        ),
        "time steps",
    ),
    "a recurrence of a thousand layers": (
        lambda: ending(
            node("x1", "aten.ones.default", [4, 1, 1]),
            node("h", "aten.zeros.default", [1000, 1, 1]),
            node("k", "aten.ones.default", [1, 1]),
            node(
                "bad",
                "aten.rnn_tanh.input",
                {"node": "x1"},
                {"node": "h"},
                [{"node": "k"}] * 1000,
                False,
                500,
                0.0,
                False,
                False,
                False,
            ),
        ),
        "num_layers",
    ),
    "a kernel with a giant padding": (
        lambda: ending(
            node("i", "aten.ones.default", [1, 1, 4, 4]),
            node("k", "aten.ones.default", [1, 1, 2, 2]),
            node(
                "bad",
                "aten.conv2d.default",
                {"node": "i"},
                {"node": "k"},
                None,
                [1 << 30, 1 << 30],
                [1 << 30, 1 << 30],
            ),
        ),
        "workspace",
    ),
    "hidden attention scores": (
        lambda: ending(
            node("q", "aten.ones.default", [1 << 18, 1]),
            node(
                "bad",
                "aten.scaled_dot_product_attention.default",
                {"node": "q"},
                {"node": "q"},
                {"node": "q"},
            ),
        ),
        "bytes of scores",
    ),
    "integers that square": (squaring, "must be within"),
    "a division by zero": (
        lambda: ending(
            node("n", "aten.sym_size.int", X, 0),
            node("z", "int.sub", {"node": "n"}, {"node": "n"}),
            node("d", "int.floordiv", {"node": "n"}, {"node": "z"}),
            node("bad", "aten.add.Tensor", ACT, {"node": "d"}),
        ),
        "division by zero",
    ),
    "a shift by text": (lambda: one("int.mul", "9" * 60, "9" * 60), "must be an integer"),
    "a group of no channels": (lambda: one("aten.group_norm.default", LIN, 0), "num_groups"),
    "a stride of no step": (
        lambda: ending(
            node("u", "aten.unsqueeze.default", ACT, 1),
            node("bad", "aten.max_pool1d.default", {"node": "u"}, [1], [0]),
        ),
        "stride must be at least 1",
    ),
    "a slice of no step": (lambda: one("aten.slice.Tensor", ACT, 0, 0, END, 0), "step must be"),
    "a dropout of one": (lambda: one("aten.dropout.default", ACT, 1.0, True), r"p must be in \[0, 1\)"),
    "a dropout of nan": (
        lambda: one("aten.dropout.default", ACT, {"float": "nan"}, True),
        r"p must be in \[0, 1\)",
    ),
    "an item outside the tuple": (
        lambda: ending(
            node("c", "aten.chunk.default", ACT, 3, 1), node("bad", "tuple.item", {"node": "c"}, 3)
        ),
        "index must be in",
    ),
    "an item of a tensor": (lambda: one("tuple.item", ACT, 0), "several tensors"),
    "a tensor of a tuple": (
        lambda: ending(
            node("c", "aten.chunk.default", ACT, 3, 1), node("bad", "aten.relu.default", {"node": "c"})
        ),
        "must refer to a tensor",
    ),
    # ---- outputs
    "no outputs": (lambda: put(["outputs"], []), "outputs"),
    "two outputs": (lambda: put(["outputs"], [ACT, LIN]), "outputs"),
    "an undefined output": (lambda: put(["outputs"], [{"node": "ghost"}]), "outputs"),
    "an output that is a number": (lambda: put(["outputs"], [1]), "outputs"),
    "an output that is an integer node": (
        lambda: changed(
            lambda d: (
                d["nodes"].append(node("n", "aten.sym_size.int", X, 0)),
                d.update(outputs=[{"node": "n"}]),
            )
        ),
        "outputs",
    ),
    "an output without the batch": (lambda: one("aten.sum.default", ACT), "outputs"),
    "an output of another batch": (lambda: put(["outputs"], [{"state": "w"}]), "the batch"),
    "an integer output": (lambda: one("aten.to.dtype", ACT, {"dtype": "int64"}), "floating point"),
    "too few classes": (lambda: one("aten.select.int", ACT, 1, 0), "classes"),
    "a shape that does not fit": (lambda: put(["state", 4, "shape"], [3, 5]), "features"),
    "a type that does not fit": (lambda: one("aten.linear.default", {"state": "count"}, W), "differ in type"),
}


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


WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
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


def truncations() -> Iterator[tuple[str, bytes]]:
    for kind, data in (("graph", dump(base())), ("weights", valid_weights())):
        for length in sorted({*range(0, len(data), 7), *range(len(data) - 20, len(data))}):
            yield kind, data[:length]


def try_graph(data: bytes) -> ModelGraph:
    return ModelGraph.from_bytes(data)


def try_weights(data: bytes) -> object:
    return weights_from_bytes(weights_graph(), data, max_bytes=len(valid_weights()) + 4096)


def test_the_base_of_all_cases_is_itself_good() -> None:
    graph = try_graph(dump(base()))
    assert meter(graph, 8).parameters == 15
    assert Program(graph).graph == graph
    assert try_weights(valid_weights())
    assert len(GRAPHS) >= 140
    assert len(WEIGHTS) >= 35


@pytest.mark.parametrize("name", list(GRAPHS))
def test_hostile_graphs_are_refused_with_the_reason(name: str) -> None:
    build, reason = GRAPHS[name]
    with pytest.raises(GraphRefused, match=reason) as caught:
        try_graph(build())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_hostile_weights_are_refused_with_the_reason(name: str) -> None:
    build, reason = WEIGHTS[name]
    with pytest.raises(GraphRefused, match=reason) as caught:
        try_weights(build())
    assert len(str(caught.value)) < 500


def test_every_truncation_is_refused() -> None:
    for kind, data in truncations():
        with pytest.raises(GraphRefused):
            (try_graph if kind == "graph" else try_weights)(data)


def test_what_a_graph_may_cost_is_checked_at_the_batch_size_that_runs() -> None:
    document = base()
    document["nodes"].append(node("sq", "aten.einsum.default", "ia,jb->ij", [ACT, ACT]))
    document["nodes"].append(node("sum", "aten.sum.dim_IntList", {"node": "sq"}, [1], True))
    document["nodes"].append(node("out", "aten.add.Tensor", ACT, {"node": "sum"}))
    document["outputs"] = [{"node": "out"}]
    graph = try_graph(dump(document))
    assert meter(graph, 100).largest_tensor_bytes == 40_000
    with pytest.raises(GraphRefused, match="elements"):
        meter(graph, 1 << 20)
    with pytest.raises(GraphRefused, match="elements"):
        infer(graph, 100, GraphLimits(max_tensor_elements=5_000))


def test_all_cases_together_stay_within_time_and_memory() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "src"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["accepted"] == []
    assert len(report["seconds"]) == len(GRAPHS) + len(WEIGHTS)
    slow = {name: spent for name, spent in report["seconds"].items() if spent > SECONDS}
    assert slow == {}
    assert report["growth_bytes"] < GROWTH_BYTES


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError


def _memory(field: str) -> int:
    """One of the process's own figures, in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Try every case under a cap on memory and a hard timeout; print what each took as JSON."""
    signal.signal(signal.SIGALRM, _too_long)
    try_graph(dump(base()))
    try_weights(valid_weights())
    prepared = [(f"graph: {name}", try_graph, build()) for name, (build, _) in GRAPHS.items()]
    prepared += [(f"weights: {name}", try_weights, build()) for name, (build, _) in WEIGHTS.items()]  # type: ignore[misc]
    used = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from what is held now
    before = _memory("VmRSS")
    accepted: list[str] = []
    seconds: dict[str, float] = {}
    for name, attempt, data in prepared:
        signal.alarm(20)
        start = time.process_time()
        try:
            attempt(data)
            accepted.append(name)
        except GraphRefused:
            seconds[name] = time.process_time() - start
        finally:
            signal.alarm(0)
    growth = _memory("VmHWM") - before
    sys.stdout.write(json.dumps({"accepted": accepted, "seconds": seconds, "growth_bytes": growth}))


if __name__ == "__main__":
    main()
