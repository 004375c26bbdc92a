"""The model graph as a value, and its one canonical JSON form.

Holds no operation's meaning: what a node may be is in ``operations``, what it yields in ``infer``. Imports no
tensor library, so that a graph can be read and run by one that has none.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.units import Digest

VERSION = 1

ITEM_BYTES: dict[str, int] = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Element types a graph may speak of, with their sizes. Complex and quantised types are left out."""

LOSS_NAMES = ("cross_entropy", "nll", "bce_with_logits", "mse", "l1", "huber")

StateKind: TypeAlias = Literal["parameter", "buffer", "constant"]
Federate: TypeAlias = Literal["mean", "sum", "keep_local", "skip"]


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """What a data owner is willing to look at. Counts, bytes and elements; every bound is inclusive."""

    max_document_bytes: int = 4 << 20
    max_nodes: int = 8192
    max_state_entries: int = 8192
    max_inputs: int = 16
    max_rank: int = 8
    max_list: int = 1024
    max_integer: int = 1 << 31
    max_tensor_elements: int = 1 << 31
    max_state_bytes: int = 8 << 30
    max_activation_bytes: int = 1 << 40
    max_flops: int = 1 << 60
    max_steps: int = 1 << 16
    """Longest sequence of a recurrent operation."""
    max_parts: int = 1 << 16
    """Tensors that all nodes with several results give together."""


DEFAULT_LIMITS = GraphLimits()


@dataclass(frozen=True, slots=True)
class Ref:
    """Points at an earlier node, a state entry or an input."""

    kind: Literal["node", "state", "input"]
    name: str


@dataclass(frozen=True, slots=True)
class ElementType:
    """An element type as an argument."""

    name: str


Argument: TypeAlias = "bool | int | float | str | Ref | ElementType | tuple[Argument, ...] | None"


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor of the caller's; ``shape[0]`` is None, the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One tensor the model carries.

    ``federate`` says what becomes of it between rounds: ``mean`` and ``sum`` over the cohort, ``keep_local``
    stays where it was trained, ``skip`` stays at the job's initial value. A trainable parameter is ``mean``.
    """

    name: str
    kind: StateKind
    trainable: bool
    federate: Federate
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the tensor's payload in bytes."""
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Node:
    """One application of an allowed operation."""

    name: str
    op: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A model that is data: inputs, declared state, a list of allowed operations, one output, a named
    loss.
    """

    version: int
    inputs: tuple[Input, ...]
    state: tuple[StateEntry, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    loss: str

    def to_bytes(self) -> bytes:
        """Canonical JSON: ASCII, sorted keys, no whitespace. Equal graphs give equal bytes."""
        document = {
            "version": self.version,
            "inputs": [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in self.inputs],
            "state": [
                {
                    "name": e.name,
                    "kind": e.kind,
                    "trainable": e.trainable,
                    "federate": e.federate,
                    "dtype": e.dtype,
                    "shape": list(e.shape),
                }
                for e in self.state
            ],
            "nodes": [
                {
                    "name": n.name,
                    "op": n.op,
                    "args": [encode_argument(a) for a in n.args],
                    "kwargs": {key: encode_argument(a) for key, a in n.kwargs},
                }
                for n in self.nodes
            ],
            "outputs": [encode_argument(r) for r in self.outputs],
            "loss": self.loss,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return text.encode("ascii")

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical bytes, 32 bytes."""
        return blake3_digest(self.to_bytes())

    @staticmethod
    def from_bytes(data: bytes, limits: GraphLimits = DEFAULT_LIMITS) -> ModelGraph:
        """Decode and check a document from a stranger; nothing of it is executed or allocated.

        Raises:
            GraphRefused: the bytes are not the canonical form of a graph within ``limits``; names the field.
        """
        from galaxylearning.graph.infer import decode_graph

        return decode_graph(data, limits)

    def entry(self, name: str) -> StateEntry:
        """The state entry of that name.

        Raises:
            KeyError: there is none.
        """
        for entry in self.state:
            if entry.name == name:
                return entry
        raise KeyError(name)


_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def nesting(text: bytes) -> int:
    """How deep the lists and objects of a JSON text are nested; brackets within strings count as well.

    Asked before a text is parsed: the parser recurses, and how deep it may do so is not ours to know.
    """
    depth = deepest = 0
    for bracket in text.translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def encode_argument(argument: Argument) -> Any:
    """An argument as JSON: scalars as they are, everything else as a one-key object or a list."""
    if isinstance(argument, Ref):
        return {argument.kind: argument.name}
    if isinstance(argument, ElementType):
        return {"dtype": argument.name}
    if isinstance(argument, tuple):
        return [encode_argument(item) for item in argument]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": repr(argument)}
    return argument
