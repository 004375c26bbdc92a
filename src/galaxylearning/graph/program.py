"""The interpreter: a graph prepared once, then applied to state and inputs without changing either.

Dropout is done here, from a generator the caller hands in, so that training is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import DEFAULT_LIMITS, ElementType, GraphLimits, ModelGraph, Node, Ref
from galaxylearning.graph.infer import PROBE_BATCH, infer
from galaxylearning.graph.modes import Run, draws, implementation, writes_statistics
from galaxylearning.graph.operations import OPERATIONS, Operation
from galaxylearning.graph.tensors import DTYPES

_MAX_ADMITTED = 1024
_RUNTIME_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class _Step:
    """A prepared node. ``fills`` are (position, slot), ``nested`` are (position, template, fills)."""

    name: str
    op: str
    call: Callable[..., Any]
    takes_run: bool
    args: list[Any]
    fills: tuple[tuple[int, int], ...]
    nested: tuple[tuple[int, list[Any], tuple[tuple[int, int], ...]], ...]
    kwargs: dict[str, Any]
    kwarg_fills: tuple[tuple[str, int], ...]
    slot: int
    frees: tuple[int, ...]


class Program:
    """``program(state, *inputs, train=...) -> (outputs, buffers)``.

    ``state`` maps every state entry's name to a tensor and is never written. ``buffers`` holds the new
    values of the buffers that training changes (running statistics, counters); it is empty in eval mode.
    Works under ``torch.func.grad``, ``vmap`` and ``vmap(grad)`` unless the graph uses batch statistics;
    under ``vmap`` all samples share one dropout mask.

    Raises:
        GraphRefused: the graph breaks a rule or a limit.
    """

    __slots__ = (
        "_admitted",
        "_inputs",
        "_limits",
        "_output",
        "_size",
        "_state",
        "_steps",
        "graph",
        "has_batch_statistics",
        "has_dropout",
    )

    def __init__(self, graph: ModelGraph, limits: GraphLimits = DEFAULT_LIMITS) -> None:
        infer(graph, PROBE_BATCH, limits)
        self.graph = graph
        self._limits = limits
        self._admitted: set[int] = {PROBE_BATCH}
        slots: dict[tuple[str, str], int] = {}
        for entry in graph.state:
            slots["state", entry.name] = len(slots)
        for given in graph.inputs:
            slots["input", given.name] = len(slots)
        for node in graph.nodes:
            slots["node", node.name] = len(slots)
        self._size = len(slots)
        self._state = tuple((e.name, DTYPES[e.dtype], torch.Size(e.shape)) for e in graph.state)
        self._inputs = tuple((x.name, DTYPES[x.dtype], x.shape[1:]) for x in graph.inputs)
        output = graph.outputs[0]
        self._output = slots[output.kind, output.name]
        self._steps = {train: _prepare(graph, slots, train) for train in (False, True)}
        self.has_dropout = any(draws(node) for node in graph.nodes)
        self.has_batch_statistics = any(writes_statistics(node) for node in graph.nodes)

    def __call__(
        self,
        state: Mapping[str, torch.Tensor],
        *inputs: torch.Tensor,
        train: bool,
        rng: np.random.Generator | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Apply the graph. ``rng`` draws the dropout masks and is needed when training a graph that has
        dropout.

        Raises:
            GraphRefused: this batch size is not possible, or an operation failed; ``where`` is the node.
            ValueError: state, inputs or ``rng`` are missing, or have another shape or type.
        """
        if train and rng is None and self.has_dropout:
            raise ValueError("a graph with dropout needs rng to train")
        values = self._arguments(state, inputs)
        run = Run(values, rng, inputs[0].device)
        step: _Step | None = None
        try:
            for step in self._steps[train]:
                args = step.args.copy()
                for position, slot in step.fills:
                    args[position] = values[slot]
                for position, template, fills in step.nested:
                    items = template.copy()
                    for index, slot in fills:
                        items[index] = values[slot]
                    args[position] = items
                kwargs = step.kwargs
                if step.kwarg_fills:
                    kwargs = {**kwargs, **{key: values[slot] for key, slot in step.kwarg_fills}}
                values[step.slot] = (
                    step.call(run, *args, **kwargs) if step.takes_run else step.call(*args, **kwargs)
                )
                for slot in step.frees:
                    values[slot] = None
        except _RUNTIME_ERRORS as error:
            where = "graph" if step is None else f"node {step.name} ({step.op})"
            raise GraphRefused(str(error).split("\n", 1)[0][:300], where=where) from error
        return values[self._output], run.buffers

    def _arguments(self, state: Mapping[str, torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> list[Any]:
        """State and inputs in their slots, of exactly the shapes the graph was checked with.

        Native kernels do not check everything, so a batch size is followed through the graph before
        its first use.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"takes {len(self._inputs)} inputs, not {len(inputs)}")
        values: list[Any] = []
        for name, dtype, shape in self._state:
            held = state.get(name)
            if held is None or held.shape != shape or held.dtype != dtype:
                raise ValueError(f"state must hold {name}, {dtype} with shape {list(shape)}")
            values.append(held)
        batch = inputs[0].shape[0] if inputs[0].dim() else 0
        for tensor, (name, dtype, rest) in zip(inputs, self._inputs, strict=True):
            if tensor.dtype != dtype or tuple(tensor.shape) != (batch, *rest):
                raise ValueError(f"input {name} must be {dtype} with shape [{batch}, *{list(rest)}]")
            values.append(tensor)
        if batch not in self._admitted:
            infer(self.graph, batch, self._limits)
            if len(self._admitted) < _MAX_ADMITTED:
                self._admitted.add(batch)
        values.extend([None] * (self._size - len(values)))
        return values


# ---- preparing


def _prepare(graph: ModelGraph, slots: Mapping[tuple[str, str], int], train: bool) -> tuple[_Step, ...]:
    live = _live(graph, train)
    steps: list[_Step] = []
    kept = [node for node in graph.nodes if node.name in live]
    last_use: dict[int, int] = {}
    for index, node in enumerate(kept):
        last_use[slots["node", node.name]] = index
        for reference in _references(node):
            if reference.kind == "node":
                last_use[slots["node", reference.name]] = index
    output = graph.outputs[0]
    last_use.pop(slots[output.kind, output.name], None)
    frees: dict[int, list[int]] = {}
    for slot, index in last_use.items():
        frees.setdefault(index, []).append(slot)
    for index, node in enumerate(kept):
        steps.append(_step(node, slots, train, tuple(frees.get(index, ()))))
    return tuple(steps)


def _live(graph: ModelGraph, train: bool) -> set[str]:
    """Names of the nodes whose results matter: the output's ancestors and, in training, the buffers'
    updates.
    """
    output = graph.outputs[0]
    live = {output.name} if output.kind == "node" else set()
    for node in reversed(graph.nodes):
        if train and (node.op == "state.update" or writes_statistics(node)):
            live.add(node.name)
        if node.name not in live:
            continue
        references = _references(node)
        if node.op == "state.update" and not train:
            references = references[:1]
        live.update(reference.name for reference in references if reference.kind == "node")
    return live


def _references(node: Node) -> list[Ref]:
    found: list[Ref] = []
    for argument in (*node.args, *(value for _, value in node.kwargs)):
        if isinstance(argument, Ref):
            found.append(argument)
        elif isinstance(argument, tuple):
            found.extend(item for item in argument if isinstance(item, Ref))
    return found


def _step(node: Node, slots: Mapping[tuple[str, str], int], train: bool, frees: tuple[int, ...]) -> _Step:
    operation = OPERATIONS[node.op]
    call, takes_run = implementation(node, operation, slots, train)
    positional, named = _arranged(node, operation)
    args: list[Any] = []
    fills: list[tuple[int, int]] = []
    nested: list[tuple[int, list[Any], tuple[tuple[int, int], ...]]] = []
    for position, argument in enumerate(positional):
        template, inner = _template(argument, slots)
        args.append(template)
        if isinstance(argument, Ref):
            fills.append((position, inner[0][1]))
        elif inner:
            nested.append((position, template, inner))
    kwargs: dict[str, Any] = {}
    kwarg_fills: list[tuple[str, int]] = []
    for key, argument in named.items():
        if isinstance(argument, Ref):
            kwarg_fills.append((key, slots[argument.kind, argument.name]))
        else:
            kwargs[key] = argument
    return _Step(
        name=node.name,
        op=node.op,
        call=call,
        takes_run=takes_run,
        args=args,
        fills=tuple(fills),
        nested=tuple(nested),
        kwargs=kwargs,
        kwarg_fills=tuple(kwarg_fills),
        slot=slots["node", node.name],
        frees=frees,
    )


def _arranged(node: Node, operation: Operation) -> tuple[list[Any], dict[str, Any]]:
    """The node's arguments as the operation is called: every positional one in place, defaults filled in."""
    given = dict(node.kwargs)
    positional: list[Any] = list(node.args)
    ordinary = [p for p in operation.parameters if not p.is_keyword_only]
    positional.extend(given.pop(p.name, p.default) for p in ordinary[len(positional) :])
    return [_native(a) for a in positional], {key: _native(a) for key, a in given.items()}


def _native(argument: Any) -> Any:
    """An element type as PyTorch's; anything else as it is."""
    return DTYPES[argument.name] if isinstance(argument, ElementType) else argument


def _template(argument: Any, slots: Mapping[tuple[str, str], int]) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """The argument with references left open, and (index, slot) of each of them."""
    if isinstance(argument, Ref):
        return None, ((0, slots[argument.kind, argument.name]),)
    if not isinstance(argument, tuple):
        return argument, ()
    template = [None if isinstance(item, Ref) else item for item in argument]
    return template, tuple((i, slots[a.kind, a.name]) for i, a in enumerate(argument) if isinstance(a, Ref))
