"""Operations whose meaning depends on the mode, on chance, or on the state, for the interpreter.

Dropout is drawn here from the caller's generator; running statistics are cloned before they are written.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from galaxylearning.graph.document import DEFAULT_LIMITS, Node, Ref
from galaxylearning.graph.infer import argument_of
from galaxylearning.graph.operations import (
    ATTENTION,
    BATCH_STATISTICS,
    DROPOUTS,
    FACTORIES,
    OPERATIONS,
    RECURRENT,
    Operation,
)


class Run:
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


def draws(node: Node) -> bool:
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


def writes_statistics(node: Node) -> bool:
    flag = BATCH_STATISTICS.get(node.op)
    if flag is None:
        return False
    operation = OPERATIONS[node.op]
    return (
        bool(argument_of(node, operation, flag)) and argument_of(node, operation, "running_mean") is not None
    )


def implementation(
    node: Node, operation: Operation, slots: Mapping[tuple[str, str], int], train: bool
) -> tuple[Callable[..., Any], bool]:
    """The function to call, and whether it takes the run as its first argument."""
    op = node.op
    if op in DROPOUTS:
        if train and draws(node):
            return (_dropout if op == "aten.dropout.default" else _feature_dropout), True
        return _identity, False
    if op == ATTENTION:
        return (_attention_with_dropout, True) if train and draws(node) else (_attention, False)
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
    def make(run: Run, *args: Any, **kwargs: Any) -> torch.Tensor:
        return call(*args, device=run.device, **kwargs)

    return make


def _updater(name: str, slot: int) -> Callable[..., torch.Tensor]:
    def update(run: Run, buffer: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        changed = value.to(buffer.dtype).expand_as(buffer)
        run.buffers[name] = changed.detach()
        run.values[slot] = changed
        return changed

    return update


def _dropout(run: Run, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:  # noqa: ARG001
    return input * run.keep_mask(tuple(input.shape), p, input)


def _feature_dropout(run: Run, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:  # noqa: ARG001
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
    run: Run,
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
        run: Run,
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

    def normalise(run: Run, *args: Any) -> torch.Tensor:
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
