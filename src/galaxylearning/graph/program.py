"""The interpreter: a graph prepared once, then applied to state and inputs without changing either.

Dropout is done here, from a generator the caller hands in, so that training is a function of its arguments.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.decode import PROBE_BATCH
from galaxylearning.graph.document import DEFAULT_LIMITS, Argument, GraphLimits, ModelGraph, Node, Ref
from galaxylearning.graph.infer import argument_of, infer
from galaxylearning.graph.operations import (
    ATTENTION,
    BATCH_STATISTICS,
    DROPOUTS,
    FACTORIES,
    OPERATIONS,
    RECURRENT,
    Operation,
)

_RUNTIME_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)


class _Run:
    """One application: the values so far, the generator, and the buffers that changed."""

    __slots__ = ("buffers", "device", "rng", "values")

    def __init__(self, values: list[Any], rng: np.random.Generator | None, device: torch.device) -> None:
        self.values = values
        self.rng = rng
        self.device = device
        self.buffers: dict[str, torch.Tensor] = {}

    def keep_mask(self, shape: tuple[int, ...], p: float, like: torch.Tensor) -> torch.Tensor:
        """Zeros with probability ``p``, elsewhere 1/(1-p)."""
        if self.rng is None:
            raise LookupError("rng")
        kept = self.rng.random(shape, dtype=np.float32) >= p
        return torch.from_numpy(kept).to(device=like.device, dtype=like.dtype).div_(1.0 - p)


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
        "_inputs",
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
        slots: dict[tuple[str, str], int] = {}
        for entry in graph.state:
            slots["state", entry.name] = len(slots)
        for given in graph.inputs:
            slots["input", given.name] = len(slots)
        for node in graph.nodes:
            slots["node", node.name] = len(slots)
        self._size = len(slots)
        self._state = tuple(entry.name for entry in graph.state)
        self._inputs = len(graph.inputs)
        output = graph.outputs[0]
        self._output = slots[output.kind, output.name]
        self._steps = {train: _prepare(graph, slots, train) for train in (False, True)}
        self.has_dropout = any(_draws(node) for node in graph.nodes)
        self.has_batch_statistics = any(_writes_statistics(node) for node in graph.nodes)

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
            GraphRefused: an operation failed on these inputs; ``where`` is the node.
            ValueError: state, inputs or ``rng`` are missing.
        """
        if len(inputs) != self._inputs:
            raise ValueError(f"takes {self._inputs} inputs, not {len(inputs)}")
        if train and rng is None and self.has_dropout:
            raise ValueError("a graph with dropout needs rng to train")
        try:
            values: list[Any] = [state[name] for name in self._state]
        except KeyError as error:
            raise ValueError(f"state has no {error}") from None
        values.extend(inputs)
        values.extend([None] * (self._size - len(values)))
        run = _Run(values, rng, inputs[0].device)
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
        if train and (node.op == "state.update" or _writes_statistics(node)):
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


def _draws(node: Node) -> bool:
    """Whether training this node takes random numbers."""
    operation = OPERATIONS[node.op]
    if node.op in DROPOUTS:
        return bool(argument_of(node, operation, "p")) and bool(argument_of(node, operation, "train"))
    if node.op == ATTENTION:
        return bool(argument_of(node, operation, "dropout_p"))
    if node.op in RECURRENT:
        layers = argument_of(node, operation, "num_layers")
        return bool(argument_of(node, operation, "dropout")) and isinstance(layers, int) and layers > 1
    return False


def _writes_statistics(node: Node) -> bool:
    flag = BATCH_STATISTICS.get(node.op)
    if flag is None:
        return False
    operation = OPERATIONS[node.op]
    return (
        bool(argument_of(node, operation, flag)) and argument_of(node, operation, "running_mean") is not None
    )


def _step(node: Node, slots: Mapping[tuple[str, str], int], train: bool, frees: tuple[int, ...]) -> _Step:
    operation = OPERATIONS[node.op]
    call, takes_run = _implementation(node, operation, slots, train)
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


def _arranged(node: Node, operation: Operation) -> tuple[list[Any], dict[str, Argument]]:
    """The node's arguments as the operation is called: every positional one in place, defaults filled in."""
    given = dict(node.kwargs)
    positional: list[Any] = list(node.args)
    ordinary = [p for p in operation.parameters if not p.is_keyword_only]
    positional.extend(given.pop(p.name, p.default) for p in ordinary[len(positional) :])
    return positional, given


def _template(argument: Any, slots: Mapping[tuple[str, str], int]) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """The argument with references left open, and (index, slot) of each of them."""
    if isinstance(argument, Ref):
        return None, ((0, slots[argument.kind, argument.name]),)
    if not isinstance(argument, tuple):
        return argument, ()
    template = [None if isinstance(item, Ref) else item for item in argument]
    return template, tuple((i, slots[a.kind, a.name]) for i, a in enumerate(argument) if isinstance(a, Ref))


# ---- operations that depend on the mode, on chance, or on the state


def _implementation(
    node: Node, operation: Operation, slots: Mapping[tuple[str, str], int], train: bool
) -> tuple[Callable[..., Any], bool]:
    """The function to call, and whether it takes the run as its first argument."""
    op = node.op
    if op in DROPOUTS:
        if train and _draws(node):
            return (_dropout if op == "aten.dropout.default" else _feature_dropout), True
        return _identity, False
    if op == ATTENTION:
        return (_attention_with_dropout, True) if train and _draws(node) else (_attention, False)
    if op in RECURRENT:
        return _recurrent(operation, train), True
    if op in BATCH_STATISTICS:
        return _batch_statistics(node, operation, slots, train), True
    if op == "state.update":
        buffer = node.args[0] if node.args else dict(node.kwargs)["buffer"]
        if train and isinstance(buffer, Ref):
            return _updater(buffer.name, slots["state", buffer.name]), True
        return _identity, False
    if op in FACTORIES:
        return _factory(operation.call), True
    if op.startswith("int."):
        return _bounded(operation.call), False
    if op == "aten.sym_size.int":
        return _size, False
    if op == "tuple.item":
        return operator.getitem, False
    return operation.call, False


def _identity(value: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return value


def _size(self: torch.Tensor, dim: int) -> int:
    return self.shape[dim]


def _bounded(call: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def bounded(a: int, b: int) -> int:
        result = call(a, b)
        if abs(result) > DEFAULT_LIMITS.max_integer:
            raise ValueError(f"the result must be within ±{DEFAULT_LIMITS.max_integer}")
        return result

    return bounded


def _factory(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(run: _Run, *args: Any, **kwargs: Any) -> torch.Tensor:
        return call(*args, device=run.device, **kwargs)

    return make


def _updater(name: str, slot: int) -> Callable[..., torch.Tensor]:
    def update(run: _Run, buffer: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        changed = value.to(buffer.dtype).expand_as(buffer)
        run.buffers[name] = changed.detach()
        run.values[slot] = changed
        return changed

    return update


def _dropout(run: _Run, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:  # noqa: ARG001
    return input * run.keep_mask(tuple(input.shape), p, input)


def _feature_dropout(run: _Run, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:  # noqa: ARG001
    shape = (*input.shape[:2], *(1 for _ in input.shape[2:]))
    return input * run.keep_mask(shape, p, input)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001
) -> torch.Tensor:
    attend = torch.ops.aten.scaled_dot_product_attention.default
    result: torch.Tensor = attend(query, key, value, attn_mask, 0.0, is_causal, scale=scale)
    return result


def _attention_with_dropout(
    run: _Run,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001
) -> torch.Tensor:
    scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    return (weights * run.keep_mask(tuple(weights.shape), dropout_p, weights)) @ value


def _recurrent(operation: Operation, train: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Recurrent layers; dropout between layers is drawn here, so a training pass goes layer by layer."""
    is_lstm = operation.name == "aten.lstm.input"

    def recur(
        run: _Run,
        input: torch.Tensor,
        hx: Any,
        params: list[torch.Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train_flag: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[torch.Tensor, ...]:
        training = train and train_flag
        if not (training and dropout and num_layers > 1):
            mode = (has_biases, num_layers, 0.0, training, bidirectional, batch_first)
            return tuple(operation.call(input, hx, params, *mode))
        directions = 2 if bidirectional else 1
        per_layer = directions * (4 if has_biases else 2)
        states = hx if is_lstm else (hx,)
        finals: list[list[torch.Tensor]] = [[] for _ in states]
        value = input
        for layer in range(num_layers):
            if layer:
                value = value * run.keep_mask(tuple(value.shape), dropout, value)
            own = [state[layer * directions : (layer + 1) * directions] for state in states]
            weights = params[layer * per_layer : (layer + 1) * per_layer]
            mode = (has_biases, 1, 0.0, True, bidirectional, batch_first)
            value, *ends = operation.call(value, own if is_lstm else own[0], weights, *mode)
            for collected, end in zip(finals, ends, strict=True):
                collected.append(end)
        return (value, *(torch.cat(parts) for parts in finals))

    return recur


def _batch_statistics(
    node: Node, operation: Operation, slots: Mapping[tuple[str, str], int], train: bool
) -> Callable[..., torch.Tensor]:
    """Batch and instance norm: running statistics are cloned before they are written.

    Without running statistics the batch's own are used in both modes, as the modules do.
    """
    flag = operation.parameter_index(BATCH_STATISTICS[operation.name])
    held = [argument_of(node, operation, name) for name in ("running_mean", "running_var")]
    targets = [(ref.name, slots["state", ref.name]) for ref in held if isinstance(ref, Ref)]

    def normalise(run: _Run, *args: Any) -> torch.Tensor:
        values = list(args)
        if targets:
            values[flag] = train and values[flag]
        if targets and values[flag]:
            for position, (name, slot) in zip((3, 4), targets, strict=True):
                changed = values[position].detach().clone()
                values[position] = changed
                run.values[slot] = changed
                run.buffers[name] = changed
        result: torch.Tensor = operation.call(*values)
        return result

    return normalise
