"""Checks a whole graph and works out every value's type and shape for one batch size; nothing is allocated.

The one place where references, argument kinds and limits are enforced: documents, compiled models and
metering all pass through ``infer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import galaxylearning.graph.contractions
import galaxylearning.graph.layout
import galaxylearning.graph.pointwise  # noqa: F401  importing these registers their rules
from galaxylearning.errors import GraphRefused
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.document import (
    LOSS_NAMES,
    Argument,
    ElementType,
    GraphLimits,
    ModelGraph,
    Node,
    Ref,
    StateEntry,
)
from galaxylearning.graph.labels import CLASS_LOSSES
from galaxylearning.graph.operations import BATCH_STATISTICS, OPERATIONS, STRINGS, VIEWS, Operation, Parameter
from galaxylearning.graph.specs import FLOPS, RULES, Bound, Outcome, TensorSpec
from galaxylearning.graph.tensors import DTYPES

PROBE_BATCH = 11
"""Batch size at which a graph is followed when it is decoded."""

_SLICE_END = (1 << 63) - 1
_NUMBER_OPERAND = frozenset(
    {"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor", "aten.div.Tensor_mode"}
)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a graph does at one batch size: its output and what computing it takes (bytes, operations)."""

    output: TensorSpec
    state_bytes: int
    activation_bytes: int
    largest_tensor_bytes: int
    flops: int


def decode_graph(data: bytes, limits: GraphLimits) -> ModelGraph:
    """See :meth:`ModelGraph.from_bytes`."""
    graph = read_graph(data, limits)
    infer(graph, PROBE_BATCH, limits)
    return graph


def infer(graph: ModelGraph, batch: int, limits: GraphLimits) -> Trace:
    """Follow the graph symbolically at ``batch`` samples.

    Raises:
        GraphRefused: a reference, argument, shape, type or limit is not acceptable; ``where`` is the node.
    """
    return _Walk(graph, batch, limits).run()


class _Walk:
    __slots__ = ("entries", "graph", "limits", "values")

    def __init__(self, graph: ModelGraph, batch: int, limits: GraphLimits) -> None:
        self.graph = graph
        self.limits = limits
        self.entries: dict[str, StateEntry] = {entry.name: entry for entry in graph.state}
        self.values: dict[tuple[str, str], Outcome] = {}
        for entry in graph.state:
            spec = TensorSpec(DTYPES[entry.dtype], entry.shape)
            self.values["state", entry.name] = self._within(spec, f"state {entry.name}")
        for given in graph.inputs:
            shape = tuple(batch if size is None else size for size in given.shape)
            spec = TensorSpec(DTYPES[given.dtype], shape)
            self.values["input", given.name] = self._within(spec, f"input {given.name}")

    def run(self) -> Trace:
        state_bytes = sum(entry.bytes for entry in self.graph.state)
        self._cap(state_bytes, self.limits.max_state_bytes, "bytes of state", "state")
        largest = max((v.bytes for v in self.values.values() if isinstance(v, TensorSpec)), default=0)
        activation, operations, parts = 0, 0, 0
        for index, node in enumerate(self.graph.nodes):
            where = f"nodes[{index}] {node.name}"
            operation = OPERATIONS.get(node.op)
            if operation is None:
                raise GraphRefused(f"operation {node.op[:80]!r} is not in the allow-list", where=where)
            if ("node", node.name) in self.values:
                raise GraphRefused("the name is used twice", where=where)
            try:
                bound = Bound(node.op, self._bind(node, operation))
                outcome = RULES[node.op](bound)
                self._check_state_writes(node, operation)
            except GraphRefused as error:
                raise GraphRefused(f"{node.op}: {str(error)[:300]}", where=where) from None
            except (OverflowError, ValueError) as error:
                raise GraphRefused(f"{node.op}: a number is out of range ({error})", where=where) from None
            if isinstance(outcome, tuple):
                parts += len(outcome)
                self._cap(parts, self.limits.max_parts, "parts", where)
            self._check_outcome(outcome, where)
            self.values["node", node.name] = outcome
            for spec in outcome if isinstance(outcome, tuple) else (outcome,):
                if isinstance(spec, TensorSpec):
                    largest = max(largest, spec.bytes)
                    activation += 0 if node.op in VIEWS or node.op == "tuple.item" else spec.bytes
            operations += self._flops(bound, outcome)
            self._cap(activation, self.limits.max_activation_bytes, "bytes of activations", where)
            self._cap(operations, self.limits.max_flops, "operations", where)
        return Trace(self._output(), state_bytes, activation, largest, operations)

    # ---- arguments

    def _bind(self, node: Node, operation: Operation) -> dict[str, Any]:
        positional = [p for p in operation.parameters if not p.is_keyword_only]
        if len(node.args) > len(positional):
            raise GraphRefused(f"takes at most {len(positional)} positional arguments, not {len(node.args)}")
        given: dict[str, Argument] = {}
        for parameter, argument in zip(positional, node.args, strict=False):
            given[parameter.name] = argument
        for key, argument in node.kwargs:
            if key in given:
                raise GraphRefused(f"argument {key} is given twice")
            given[key] = argument
        bound: dict[str, Any] = {}
        for parameter in operation.parameters:
            if parameter.name not in given:
                if parameter.is_required:
                    raise GraphRefused(f"argument {parameter.name} is missing")
                if parameter.is_offered:
                    bound[parameter.name] = parameter.default
                continue
            argument = given.pop(parameter.name)
            if not parameter.is_offered:
                raise GraphRefused(f"argument {parameter.name} is not offered")
            bound[parameter.name] = self._resolve(operation, parameter, argument)
        if given:
            raise GraphRefused(f"has no argument {next(iter(given))[:80]!r}")
        return bound

    def _resolve(self, operation: Operation, parameter: Parameter, argument: Argument) -> Any:
        kind = parameter.kind
        if kind.endswith("?"):
            if argument is None:
                return None
            kind = kind[:-1]
        elif argument is None:
            raise GraphRefused(f"argument {parameter.name} must not be null")
        name = parameter.name
        if kind in ("tensors", "ints", "floats"):
            if not isinstance(argument, tuple):
                raise GraphRefused(f"argument {name} must be a list")
            # In a list of optional tensors the '?' belongs to the elements.
            if parameter.kind == "tensors?":
                return tuple(None if item is None else self._tensor(name, item) for item in argument)
            one = {"tensors": self._tensor, "ints": self._integer, "floats": self._number}[kind]
            return tuple(one(name, item) for item in argument)
        if kind == "tensor":
            if name == "other" and operation.name in _NUMBER_OPERAND and not isinstance(argument, Ref):
                return self._number(name, argument)
            value = self._value(name, argument)
            if isinstance(value, int) and name == "other" and operation.name in _NUMBER_OPERAND:
                return value
            return self._tensor(name, argument)
        if kind == "int":
            if operation.name == "aten.slice.Tensor" and argument == _SLICE_END:
                return argument
            return self._integer(name, argument)
        if kind in ("float", "number"):
            return self._number(name, argument)
        if kind == "bool":
            if not isinstance(argument, bool):
                raise GraphRefused(f"argument {name} must be true or false")
            return argument
        if kind == "dtype":
            if not isinstance(argument, ElementType):
                raise GraphRefused(f'argument {name} must be an element type like {{"dtype":"float32"}}')
            return DTYPES[argument.name]
        if kind == "tuple":
            value = self._value(name, argument)
            if not isinstance(value, tuple):
                raise GraphRefused(f"argument {name} must refer to a node that gives several tensors")
            return value
        return self._string(operation, name, argument)

    def _string(self, operation: Operation, name: str, argument: Argument) -> str:
        if not isinstance(argument, str):
            raise GraphRefused(f"argument {name} must be a string")
        allowed = STRINGS.get((operation.name, name))
        if operation.name == "aten.einsum.default":
            return argument
        if allowed is None or argument not in allowed:
            raise GraphRefused(f"argument {name} must be one of {sorted(allowed or ())}")
        return argument

    def _value(self, name: str, argument: Argument) -> Outcome:
        if not isinstance(argument, Ref):
            raise GraphRefused(f"argument {name} must be a reference")
        value = self.values.get((argument.kind, argument.name))
        if value is None:
            raise GraphRefused(
                f"argument {name} refers to {argument.kind} {argument.name[:80]!r}, undefined here"
            )
        return value

    def _tensor(self, name: str, argument: Argument) -> TensorSpec:
        value = self._value(name, argument)
        if not isinstance(value, TensorSpec):
            raise GraphRefused(f"argument {name} must refer to a tensor")
        return value

    def _integer(self, name: str, argument: Argument) -> int:
        value = self._value(name, argument) if isinstance(argument, Ref) else argument
        if isinstance(value, bool) or not isinstance(value, int):
            raise GraphRefused(f"argument {name} must be an integer")
        if abs(value) > self.limits.max_integer:
            raise GraphRefused(f"argument {name} must be within ±{self.limits.max_integer}")
        return value

    def _number(self, name: str, argument: Argument) -> int | float:
        if isinstance(argument, (float, bool)):
            return argument
        if isinstance(argument, (int, Ref)):
            return self._integer(name, argument)
        raise GraphRefused(f"argument {name} must be a number")

    # ---- results

    def _check_state_writes(self, node: Node, operation: Operation) -> None:
        """Only buffers may change, and only through state.update or running statistics."""
        if node.op == "state.update":
            self._buffer("buffer", node.args[0] if node.args else dict(node.kwargs)["buffer"])
        elif node.op in BATCH_STATISTICS:
            names = ("running_mean", "running_var")
            held = [argument_of(node, operation, name) for name in names]
            if (held[0] is None) != (held[1] is None):
                raise GraphRefused("running_mean and running_var go together")
            for name, argument in zip(names, held, strict=True):
                if argument is not None:
                    self._buffer(name, argument)
            if held[0] is not None and held[0] == held[1]:
                raise GraphRefused("running_mean and running_var must differ")

    def _buffer(self, name: str, argument: Argument) -> None:
        entry = (
            self.entries.get(argument.name)
            if isinstance(argument, Ref) and argument.kind == "state"
            else None
        )
        if entry is None or entry.kind != "buffer":
            raise GraphRefused(
                f"argument {name} must refer to a buffer; parameters and constants are never written"
            )

    def _check_outcome(self, outcome: Outcome, where: str) -> None:
        if isinstance(outcome, int):
            if abs(outcome) > self.limits.max_integer:
                raise GraphRefused(f"the result must be within ±{self.limits.max_integer}", where=where)
            return
        for spec in outcome if isinstance(outcome, tuple) else (outcome,):
            self._within(spec, where)

    def _within(self, spec: TensorSpec, where: str) -> TensorSpec:
        if len(spec.shape) > self.limits.max_rank:
            raise GraphRefused(
                f"has {len(spec.shape)} dimensions, allowed are {self.limits.max_rank}", where=where
            )
        if any(size < 1 for size in spec.shape):
            raise GraphRefused(f"shape {list(spec.shape)} must have no dimension below 1", where=where)
        if spec.elements > self.limits.max_tensor_elements:
            raise GraphRefused(
                f"has {spec.elements} elements, allowed are {self.limits.max_tensor_elements}", where=where
            )
        return spec

    def _flops(self, bound: Bound, outcome: Outcome) -> int:
        cost = FLOPS.get(bound.op)
        if cost is not None:
            self._check_steps(bound)
            return cost(bound, outcome)
        if bound.op in VIEWS:
            return 0
        return outcome.elements if isinstance(outcome, TensorSpec) else 0

    def _check_steps(self, bound: Bound) -> None:
        if "hx" in bound.values:
            steps = bound.tensor("input").shape[1 if bound.flag("batch_first") else 0]
            self._cap(steps, self.limits.max_steps, "time steps", bound.op)

    def _output(self) -> TensorSpec:
        output = self.values.get((self.graph.outputs[0].kind, self.graph.outputs[0].name))
        if not isinstance(output, TensorSpec):
            raise GraphRefused("must refer to one tensor that is defined", where="outputs")
        batches = [
            v.shape[0] for key, v in self.values.items() if key[0] == "input" and isinstance(v, TensorSpec)
        ]
        if output.shape[:1] != (batches[0],):
            raise GraphRefused("the first dimension must be the batch", where="outputs")
        if not output.dtype.is_floating_point:
            raise GraphRefused("must be floating point", where="outputs")
        if self.graph.loss not in LOSS_NAMES:
            raise GraphRefused(f"must be one of {sorted(LOSS_NAMES)}", where="loss")
        if self.graph.loss in CLASS_LOSSES and (len(output.shape) < 2 or output.shape[1] < 2):
            raise GraphRefused(f"{self.graph.loss} needs outputs [n, classes >= 2, ...]", where="outputs")
        return output

    def _cap(self, value: int, limit: int, what: str, where: str) -> None:
        if value > limit:
            raise GraphRefused(f"{value} {what}, allowed are {limit}", where=where)


def argument_of(node: Node, operation: Operation, name: str) -> Argument:
    """The node's argument for the named parameter, or the parameter's default."""
    for key, argument in node.kwargs:
        if key == name:
            return argument
    index = operation.parameter_index(name)
    if index < len(node.args):
        return node.args[index]
    default: Argument = operation.parameters[index].default
    return default
