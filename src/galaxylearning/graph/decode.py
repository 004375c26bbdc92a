"""From a stranger's bytes to a graph: bounded JSON, strict fields, canonical form.

What the nodes mean is not looked at here: ``ModelGraph.from_bytes`` follows the graph as well.
"""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from typing import Any, Literal, NoReturn, cast, get_args

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import (
    ITEM_BYTES,
    LOSS_NAMES,
    VERSION,
    Argument,
    ElementType,
    Federate,
    GraphLimits,
    Input,
    ModelGraph,
    Node,
    Ref,
    StateEntry,
    StateKind,
    nesting,
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
# A node takes about six brackets and eight commas, a state entry two and seven.
_BRACKETS_PER_ITEM = 5
_COMMAS_PER_ITEM = 16
_MAX_DIGITS = 40
_MAX_NESTING = 8


def read_graph(data: bytes, limits: GraphLimits) -> ModelGraph:
    """The document as a graph whose nodes nobody has followed yet.

    Raises:
        GraphRefused: not the canonical form of a document within ``limits``; names the field.
    """
    if not isinstance(data, bytes):
        raise TypeError("a graph document is bytes")
    graph = _graph(_parse(data, limits), limits)
    if graph.to_bytes() != data:
        raise GraphRefused(
            "must be canonical JSON: sorted keys, no whitespace, no repeated key", where="document"
        )
    return graph


def _parse(data: bytes, limits: GraphLimits) -> Any:
    if len(data) > limits.max_document_bytes:
        raise GraphRefused(f"{len(data)} bytes, allowed are {limits.max_document_bytes}", where="document")
    items = limits.max_nodes + limits.max_state_entries
    if data.count(b"[") + data.count(b"{") > _BRACKETS_PER_ITEM * items:
        raise GraphRefused(f"more than {_BRACKETS_PER_ITEM * items} lists and objects", where="document")
    if data.count(b",") > _COMMAS_PER_ITEM * items:
        raise GraphRefused(f"more than {_COMMAS_PER_ITEM * items} commas", where="document")
    if nesting(data) > _MAX_NESTING:
        raise GraphRefused(f"is nested more than {_MAX_NESTING} deep", where="document")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise GraphRefused(f"must be ASCII, byte {error.start} is not", where="document") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_float)
    except ValueError as error:
        raise GraphRefused(f"is not JSON: {error}", where="document") from None


def _refuse_constant(text: str) -> NoReturn:
    raise GraphRefused(f"{text} is not a JSON number", where="document")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise GraphRefused(f"an integer has {len(text)} digits, allowed are {_MAX_DIGITS}", where="document")
    return int(text)


def _float(text: str) -> float:
    if len(text) > _MAX_DIGITS:
        raise GraphRefused(
            f"a number has {len(text)} characters, allowed are {_MAX_DIGITS}", where="document"
        )
    value = float(text)
    if not math.isfinite(value):
        raise GraphRefused("a number is too large", where="document")
    return value


def _graph(document: Any, limits: GraphLimits) -> ModelGraph:
    fields = _fields(document, "document", "version", "inputs", "state", "nodes", "outputs", "loss")
    version = fields["version"]
    if isinstance(version, bool) or version != VERSION or not isinstance(version, int):
        raise GraphRefused(f"must be {VERSION}", where="version")
    raw_inputs = _list(fields["inputs"], "inputs", limits.max_inputs)
    raw_state = _list(fields["state"], "state", limits.max_state_entries)
    raw_nodes = _list(fields["nodes"], "nodes", limits.max_nodes)
    raw_outputs = _list(fields["outputs"], "outputs", 1)
    inputs = tuple(_input(item, f"inputs[{i}]", limits) for i, item in enumerate(raw_inputs))
    if not inputs or len({item.name for item in inputs}) != len(inputs):
        raise GraphRefused("must hold at least one entry, each with its own name", where="inputs")
    state = tuple(_entry(item, f"state[{i}]", limits) for i, item in enumerate(raw_state))
    names = [entry.name for entry in state]
    if any(earlier >= later for earlier, later in pairwise(names)):
        raise GraphRefused("must be sorted by name, each name once", where="state")
    if not any(entry.trainable for entry in state):
        raise GraphRefused("must hold a trainable parameter", where="state")
    nodes = tuple(_node(item, f"nodes[{i}]", limits) for i, item in enumerate(raw_nodes))
    outputs = tuple(_argument(item, "outputs", limits, 1) for item in raw_outputs)
    if len(outputs) != 1 or not isinstance(outputs[0], Ref):
        raise GraphRefused("must hold exactly one reference", where="outputs")
    loss = fields["loss"]
    if not isinstance(loss, str) or loss not in LOSS_NAMES:
        raise GraphRefused(f"must be one of {sorted(LOSS_NAMES)}", where="loss")
    return ModelGraph(VERSION, inputs, state, nodes, (outputs[0],), loss)


def _input(item: Any, where: str, limits: GraphLimits) -> Input:
    fields = _fields(item, where, "name", "dtype", "shape")
    shape = _list(fields["shape"], f"{where}.shape", limits.max_rank)
    if not shape or shape[0] is not None:
        raise GraphRefused("must begin with null, the batch", where=f"{where}.shape")
    sizes = tuple(_size(size, f"{where}.shape", limits) for size in shape[1:])
    dtype = _dtype(fields["dtype"], where)
    if dtype == "bfloat16":
        raise GraphRefused(
            "an input may not be bfloat16; arrays of it do not exist outside", where=f"{where}.dtype"
        )
    return Input(_name(fields["name"], where), dtype, (None, *sizes))


def _entry(item: Any, where: str, limits: GraphLimits) -> StateEntry:
    fields = _fields(item, where, "name", "kind", "trainable", "federate", "dtype", "shape")
    kind, federate, trainable = fields["kind"], fields["federate"], fields["trainable"]
    if not isinstance(kind, str) or kind not in get_args(StateKind):
        raise GraphRefused(f"must be one of {list(get_args(StateKind))}", where=f"{where}.kind")
    if not isinstance(federate, str) or federate not in get_args(Federate):
        raise GraphRefused(f"must be one of {list(get_args(Federate))}", where=f"{where}.federate")
    if not isinstance(trainable, bool):
        raise GraphRefused("must be true or false", where=f"{where}.trainable")
    raw = _list(fields["shape"], f"{where}.shape", limits.max_rank)
    shape = tuple(_size(size, f"{where}.shape", limits) for size in raw)
    entry = StateEntry(
        _name(fields["name"], where),
        cast(StateKind, kind),
        trainable,
        cast(Federate, federate),
        _dtype(fields["dtype"], where),
        shape,
    )
    check_entry(entry, where)
    return entry


def check_entry(entry: StateEntry, where: str) -> None:
    """Which kinds of state may train and federate, and in which element type.

    Raises:
        GraphRefused: the entry's fields contradict each other.
    """
    if entry.trainable and entry.kind != "parameter":
        raise GraphRefused("only a parameter may be trainable", where=f"{where}.trainable")
    if entry.kind != "buffer" and entry.federate != ("mean" if entry.trainable else "skip"):
        raise GraphRefused(
            "must be mean for a trainable parameter, skip for a frozen one and for a constant",
            where=f"{where}.federate",
        )
    if entry.federate in ("mean", "sum") and entry.dtype != "float32":
        raise GraphRefused("what trains or federates must be float32", where=f"{where}.dtype")


def _node(item: Any, where: str, limits: GraphLimits) -> Node:
    fields = _fields(item, where, "name", "op", "args", "kwargs")
    op, kwargs = fields["op"], fields["kwargs"]
    if not isinstance(op, str) or len(op) > 100:
        raise GraphRefused("must be a string of at most 100 characters", where=f"{where}.op")
    if not isinstance(kwargs, dict) or len(kwargs) > 16:
        raise GraphRefused("must be an object with at most 16 entries", where=f"{where}.kwargs")
    args = _list(fields["args"], f"{where}.args", 32)
    return Node(
        _name(fields["name"], where),
        op,
        tuple(_argument(a, f"{where}.args[{i}]", limits, 0) for i, a in enumerate(args)),
        tuple(
            (key, _argument(a, f"{where}.kwargs.{key[:40]}", limits, 0)) for key, a in sorted(kwargs.items())
        ),
    )


def _argument(value: Any, where: str, limits: GraphLimits, depth: int) -> Argument:
    if value is None or isinstance(value, (bool, int, float)):
        return cast(Argument, value)
    if isinstance(value, str):
        if len(value) > 64:
            raise GraphRefused("a string may have at most 64 characters", where=where)
        return value
    if isinstance(value, list):
        if depth > 0:
            raise GraphRefused("lists may not be nested", where=where)
        return tuple(_argument(item, where, limits, 1) for item in _list(value, where, limits.max_list))
    if len(value) != 1:
        raise GraphRefused(
            "an object must have exactly one key: node, state, input, dtype or float", where=where
        )
    ((key, held),) = value.items()
    if key in ("node", "state", "input"):
        return Ref(cast(Literal["node", "state", "input"], key), _name(held, where))
    if key == "dtype":
        return ElementType(_dtype(held, where))
    if key == "float" and isinstance(held, str) and held in ("inf", "-inf", "nan"):
        return float(held)
    raise GraphRefused("an object must be a node, state, input, dtype or a non-finite float", where=where)


def _fields(value: Any, where: str, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GraphRefused("must be an object", where=where)
    if set(value) != set(names):
        raise GraphRefused(f"must have exactly the fields {', '.join(names)}", where=where)
    return value


def _list(value: Any, where: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise GraphRefused("must be a list", where=where)
    if len(value) > most:
        raise GraphRefused(f"{len(value)} entries, allowed are {most}", where=where)
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise GraphRefused("a name must be 1 to 200 letters, digits, '_', '.' or '-'", where=where)
    return value


def _dtype(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in ITEM_BYTES:
        raise GraphRefused(f"an element type must be one of {sorted(ITEM_BYTES)}", where=where)
    return value


def _size(value: Any, where: str, limits: GraphLimits) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limits.max_tensor_elements:
        raise GraphRefused(f"a size must be an integer in [1, {limits.max_tensor_elements}]", where=where)
    return value
