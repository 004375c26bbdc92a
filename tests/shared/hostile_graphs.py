"""Graph documents that must be refused, by what is wrong with them: a change to one small sound graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

Document = dict[str, Any]
Cases = dict[str, tuple[Callable[[], bytes], str]]


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

DOCUMENTS: Cases = {
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
