"""The requester's side: an ``nn.Module`` becomes a model graph, with ``torch.export`` as front end.

What cannot be expressed is refused here, with the operation's name and the line of the user's model.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Mapping
from typing import Any, cast, get_args

import torch
from torch import nn

from galaxylearning.errors import GraphRefused, UnsupportedModel
from galaxylearning.graph.document import (
    DEFAULT_LIMITS,
    VERSION,
    Federate,
    Input,
    ModelGraph,
    StateEntry,
    StateKind,
)
from galaxylearning.graph.infer import PROBE_BATCH, infer
from galaxylearning.graph.losses import LOSSES
from galaxylearning.graph.lowered import Lowered
from galaxylearning.graph.program import Program
from galaxylearning.graph.sequential import lower_sequential
from galaxylearning.graph.tensors import DTYPE_NAMES


def compile_model(
    module: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    *,
    loss: str,
    federate: Mapping[str, str] | None = None,
) -> tuple[ModelGraph, dict[str, torch.Tensor]]:
    """Compile a module that maps a batch to one tensor; returns the graph and its initial weights.

    The first dimension of every example input is the batch and stays open. ``module`` is not changed. State
    that the output does not depend on is left out. ``federate`` maps a buffer's name, or a glob, to
    ``mean``, ``sum``, ``keep_local`` or ``skip``; by default a float32 buffer that training changes (running
    statistics) is ``mean``, every other buffer ``skip``.

    Raises:
        UnsupportedModel: the module does something a graph cannot say; names the operation, the line of the
            user's model if known, and what to use instead.
    """
    if loss not in LOSSES:
        raise UnsupportedModel(f"must be one of {sorted(LOSSES)}, not {loss!r}", where="loss")
    if not isinstance(module, nn.Module):
        raise UnsupportedModel(f"must be a torch.nn.Module, not {type(module).__name__}", where="model")
    examples = _examples(example_inputs)
    try:
        private = copy.deepcopy(module).cpu().train()
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModel(f"the module cannot be copied: {error}") from error
    lowered = lower_sequential(private, examples)
    if lowered is None:
        from galaxylearning.graph import lower

        lowered = lower.lower(private, examples)
    state = _declare(private, lowered, federate or {})
    inputs = tuple(
        Input(name, DTYPE_NAMES[x.dtype], (None, *x.shape[1:]))
        for name, x in zip(lowered.inputs, examples, strict=True)
    )
    graph = ModelGraph(VERSION, inputs, state, lowered.nodes, (lowered.output,), loss)
    weights = {entry.name: lowered.tensors[entry.name].requires_grad_(entry.trainable) for entry in state}
    for batch in (PROBE_BATCH, 2):
        try:
            infer(graph, batch, DEFAULT_LIMITS)
        except GraphRefused as error:
            raise UnsupportedModel(lowered.located(error)) from error
    if ModelGraph.from_bytes(graph.to_bytes()) != graph:
        raise UnsupportedModel("the graph does not survive its own encoding")
    _check_agreement(private, graph, weights, examples)
    return graph, weights


def _examples(example_inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    if not isinstance(example_inputs, tuple) or not example_inputs:
        raise UnsupportedModel("must be a tuple of at least one tensor", where="example_inputs")
    examples = []
    for index, x in enumerate(example_inputs):
        where = f"example_inputs[{index}]"
        if not isinstance(x, torch.Tensor) or x.dim() == 0 or x.shape[0] == 0:
            raise UnsupportedModel("must be a tensor whose first dimension is the batch", where=where)
        if x.dtype not in DTYPE_NAMES or x.dtype == torch.bfloat16:
            allowed = sorted(set(DTYPE_NAMES.values()) - {"bfloat16"})
            raise UnsupportedModel(f"element type must be one of {allowed}, not {x.dtype}", where=where)
        if x.shape[0] != example_inputs[0].shape[0]:
            raise UnsupportedModel("all inputs must have the same batch", where=where)
        x = x.detach().cpu()
        # A batch of one would be taken for a constant.
        examples.append(torch.cat([x, x, x]) if x.shape[0] == 1 else x.clone())
    return tuple(examples)


def _declare(module: nn.Module, lowered: Lowered, federate: Mapping[str, str]) -> tuple[StateEntry, ...]:
    trainable = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    buffers = [name for name, kind in lowered.state.items() if kind == "buffer"]
    for pattern, choice in federate.items():
        if choice not in get_args(Federate):
            raise UnsupportedModel(
                f"must be one of {list(get_args(Federate))}, not {choice!r}", where=f"federate {pattern}"
            )
        if not any(fnmatch.fnmatchcase(name, pattern) for name in buffers):
            raise UnsupportedModel(f"matches none of the buffers {buffers}", where=f"federate {pattern}")
    entries = []
    for name, kind in sorted(lowered.state.items()):
        tensor = lowered.tensors[name]
        if tensor.dtype not in DTYPE_NAMES:
            raise UnsupportedModel(f"element type {tensor.dtype} cannot travel; use a real type", where=name)
        trains = kind == "parameter" and name in trainable
        choice = "mean" if trains else "skip"
        if kind == "buffer":
            if name in lowered.updated and tensor.dtype == torch.float32:
                choice = "mean"
            chosen = [c for pattern, c in federate.items() if pattern == name]
            chosen += [c for pattern, c in federate.items() if fnmatch.fnmatchcase(name, pattern)]
            choice = chosen[0] if chosen else choice
        if choice in ("mean", "sum") and tensor.dtype != torch.float32:
            raise UnsupportedModel(
                "what trains or federates must be float32; call .float() on the model", where=name
            )
        entries.append(
            StateEntry(
                name,
                cast(StateKind, kind),
                trains,
                cast(Federate, choice),
                DTYPE_NAMES[tensor.dtype],
                tuple(tensor.shape),
            )
        )
    if not any(entry.trainable for entry in entries):
        raise UnsupportedModel("no trainable parameter reaches the output", where="parameters")
    return tuple(entries)


def _check_agreement(
    module: nn.Module,
    graph: ModelGraph,
    weights: Mapping[str, torch.Tensor],
    examples: tuple[torch.Tensor, ...],
) -> None:
    """The graph and the module must agree in evaluation mode; otherwise the module has behaviour the graph
    lost.
    """
    program = Program(graph)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            expected: Any = module.eval()(*(x.clone() for x in examples))
            got, _ = program(weights, *examples, train=False)
    except GraphRefused as error:
        raise UnsupportedModel(f"the graph does not run on the example: {error}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    same = expected.shape == got.shape and expected.dtype == got.dtype
    if not same or not torch.allclose(expected, got, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise UnsupportedModel(
            "the module behaves differently in eval mode in a way the graph cannot say (dropout that is "
            "always on, random numbers, or a branch on self.training); use nn.Dropout and nn.BatchNorm for "
            "what depends on the mode"
        )
