"""The reference engine for those who look for a fault: it stops at the first one and says all it knows.

What a data owner's rows look like goes into the report, so this engine is for data one may look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from galaxylearning.engines.cohort import Array, Cohort, owner_rng
from galaxylearning.engines.engine import Trained, Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.errors import GalaxyError, UpdateRefused
from galaxylearning.graph.document import ModelGraph, Node, Ref
from galaxylearning.graph.losses import batch_loss, check_labels
from galaxylearning.graph.model import Model
from galaxylearning.graph.modes import Run
from galaxylearning.graph.program import Program
from galaxylearning.graph.weights import weights_from_bytes, weights_size
from galaxylearning.learning.local import LocalResult, train_local
from galaxylearning.learning.vectors import F32, I64
from galaxylearning.protocol.hidden_set import Rows

_SHOWN = 5
"""So many values or positions are printed of an array."""


class TrainingFailed(GalaxyError):  # noqa: N818  named like the errors of the package
    """A data owner's training failed; ``report`` is what was found."""

    exit_code = 3

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True, slots=True)
class Report:
    """The first failure: at which owner (position in the cohort), step (from 1) and rows (the owner's own).

    ``node`` is the first node of the graph whose result, or whose result's gradient, was not finite, if one
    was found. ``inputs`` and ``labels`` describe the batch; ``parameters_norm`` is the L2 norm before the
    step. ``dump`` is where the batch was written, or why it was not.
    """

    owner: int
    step: int
    rows: tuple[int, ...]
    reason: str
    node: str | None
    inputs: str
    labels: str
    parameters_norm: float
    dump: str | None = None

    def __str__(self) -> str:
        lines = [
            f"owner {self.owner}, step {self.step}: {self.reason}",
            f"  rows {_listed(self.rows)}",
            f"  inputs {self.inputs}",
            f"  labels {self.labels}",
            f"  parameters have norm {self.parameters_norm:.6g}",
        ]
        if self.node is not None:
            lines.append(f"  first at {self.node}")
        if self.dump is not None:
            lines.append(f"  dump: {self.dump}")
        return "\n".join(lines)


class DebugEngine(ReferenceEngine):
    """Implements ``Engine`` like the reference, but raises :class:`TrainingFailed` at the first failure.

    A loss, gradient, buffer or parameter that is not finite is one, and anything that the graph raises.
    With ``dump`` the batch and the parameters of the failed step are written there (npz: ``inputs``,
    ``labels``, ``rows``, ``params``, ``buffers``, ``graph`` as bytes, ``owner``, ``step``).
    """

    name = "debug"

    def __init__(self, model: Model, cohort: Cohort, training: Training, *, dump: Path | None = None) -> None:
        super().__init__(model, cohort, training)
        self._dump = dump

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """See ``Engine.train``.

        Raises:
            TrainingFailed: the first failure of any data owner.
        """
        return super().train(params, buffers, owners, round_index)

    def train_one(self, params: F32, buffers: F32, owner: int, round_index: int) -> LocalResult:
        """Train one data owner.

        Raises:
            TrainingFailed: training failed.
        """
        rows, watch = self._cohort.rows(owner), _Watch(owner)

        def gradient(
            current: F32, state: F32, batch: I64, rng: np.random.Generator
        ) -> tuple[float, F32, F32]:
            watch.begin(batch, current, state, rng)
            part = rows.take(batch)
            try:
                answer = self._model.gradient(current, state, (part.inputs,), part.labels, rng=rng)
            # Whatever the graph raises is what this engine is there to report.
            except Exception as error:
                raise self._failed(watch, part, f"{type(error).__name__}: {error}") from error
            fault = _fault(current, *answer)
            if fault is not None:
                raise self._failed(watch, part, fault)
            return answer

        rng = owner_rng(self._training.seed, round_index, self._cohort.identities[owner])
        try:
            return train_local(gradient, params, buffers, len(rows), self._training.plan, rng=rng)
        except UpdateRefused as refused:
            # The last step led out of float32; the batch that did it is the last one.
            raise self._failed(watch, rows.take(watch.rows), str(refused)) from refused

    def _failed(self, watch: _Watch, part: Rows, reason: str) -> TrainingFailed:
        node = None
        if bool(np.isfinite(watch.params).all()) and bool(np.isfinite(watch.buffers).all()):
            state = self._model.state_bytes(watch.params, watch.buffers)
            rng = np.random.default_rng()
            rng.bit_generator.state = watch.chance
            node = first_fault(self._model.graph, state, part, rng=rng)
        report = Report(
            owner=watch.owner,
            step=watch.step,
            rows=tuple(watch.rows.tolist()),
            reason=reason,
            node=node,
            inputs=described(part.inputs),
            labels=described(part.labels),
            parameters_norm=float(np.linalg.norm(watch.params.astype(np.float64))),
            dump=None if self._dump is None else _written(self._dump, watch, part, self._model.graph),
        )
        return TrainingFailed(report)


class _Watch:
    """What a step started from."""

    def __init__(self, owner: int) -> None:
        self.owner, self.step = owner, 0
        self.rows: I64 = np.empty(0, np.int64)
        self.params: F32 = np.empty(0, np.float32)
        self.buffers: F32 = np.empty(0, np.float32)
        self.chance: Any = np.random.default_rng(0).bit_generator.state

    def begin(self, rows: I64, params: F32, buffers: F32, rng: np.random.Generator) -> None:
        self.step += 1
        self.rows, self.params, self.buffers = rows, params.copy(), buffers.copy()
        self.chance = rng.bit_generator.state


def _fault(params: F32, loss: float, gradient: F32, buffers: F32) -> str | None:
    if not bool(np.isfinite(params).all()):
        return f"the parameters are not finite after the step before ({_places(params)})"
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not bool(np.isfinite(gradient).all()):
        return f"the gradient is not finite ({_places(gradient)})"
    if not bool(np.isfinite(buffers).all()):
        return f"the buffers are not finite ({_places(buffers)})"
    return None


def described(array: Array) -> str:
    """Element type, shape, range, first values and where an array is not finite, in one line."""
    text = f"{array.dtype} {list(array.shape)}"
    if not array.size:
        return text
    flat = array.reshape(-1)
    shown = ", ".join(f"{value:.6g}" for value in flat[:_SHOWN].tolist())
    known = flat[np.isfinite(flat)] if array.dtype.kind == "f" else flat
    span = f"from {known.min():.6g} to {known.max():.6g}" if known.size else "without a finite value"
    text += f" {span}, first {shown}"
    return text if known.size == flat.size else f"{text}, not finite: {_places(array)}"


def _places(array: Array) -> str:
    """Where an array is not finite: how often, and the first positions."""
    where = np.argwhere(~np.isfinite(array))
    first = ", ".join(str(place[0] if len(place) == 1 else place) for place in where[:_SHOWN].tolist())
    return f"{len(where)} of {array.size}, at {first}{', ...' if len(where) > _SHOWN else ''}"


def _listed(rows: tuple[int, ...]) -> str:
    return ", ".join(map(str, rows[:64])) + (f", ... ({len(rows)} rows)" if len(rows) > 64 else "")


def _written(path: Path, watch: _Watch, part: Rows, graph: ModelGraph) -> str:
    """Where the step was written, or why it was not: the failure itself is what has to be told."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(
                file,
                inputs=part.inputs,
                labels=part.labels,
                rows=watch.rows,
                params=watch.params,
                buffers=watch.buffers,
                graph=np.frombuffer(graph.to_bytes(), np.uint8),
                owner=watch.owner,
                step=watch.step,
            )
    except OSError as error:
        return f"not written to {path}: {error.strerror}"
    return str(path)


# ---- node by node


def first_fault(graph: ModelGraph, state: bytes, rows: Rows, *, rng: np.random.Generator) -> str | None:
    """The node of a training pass that first gave, or failed to give, a finite result; None if all did.

    If every result is finite but a gradient is not, that is the gradient's first such node, seen from the
    loss. ``state`` is the whole model as canonical safetensors; ``rng`` draws the dropout masks.
    """
    program = Program(graph)
    tensors = weights_from_bytes(graph, state, max_bytes=weights_size(graph))
    inputs = torch.from_numpy(np.array(rows.inputs))
    seen: dict[str, torch.Tensor] = {}
    fault = _forward_fault(program, tensors, inputs, rng, seen)
    if fault is not None:
        return fault
    output = seen.get(graph.outputs[0].name)
    if output is None:
        return None
    try:
        loss = batch_loss(graph.loss, output, check_labels(graph.loss, rows.labels, tuple(output.shape)))
    except GalaxyError as error:
        return f"the loss ({error})"
    if not bool(torch.isfinite(loss)):
        return f"the loss {graph.loss}: {float(loss.detach())}"
    return _backward_fault(graph, loss, seen, tensors)


def _forward_fault(
    program: Program,
    tensors: dict[str, torch.Tensor],
    inputs: torch.Tensor,
    rng: np.random.Generator,
    seen: dict[str, torch.Tensor],
) -> str | None:
    """Walk through the prepared steps as the program does, but look at every result; kept in ``seen``."""
    try:
        values = program._arguments(tensors, (inputs,))
    except (ValueError, GalaxyError) as error:
        return f"the inputs ({error})"
    run = Run(values, rng, inputs.device)
    for step in program._steps[True]:
        args = step.args.copy()
        for position, slot in step.fills:
            args[position] = values[slot]
        for position, template, fills in step.nested:
            args[position] = [*template]
            for index, slot in fills:
                args[position][index] = values[slot]
        kwargs = {**step.kwargs, **{key: values[slot] for key, slot in step.kwarg_fills}}
        place = f"node {step.name} ({step.op})"
        try:
            result = step.call(run, *args, **kwargs) if step.takes_run else step.call(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError) as error:
            return f"{place}: {str(error).splitlines()[0][:200]}"
        values[step.slot] = result
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                if not bool(torch.isfinite(part).all()):
                    return f"{place}: {described(part.detach().numpy())}"
                seen[step.name] = part
                if part.requires_grad:
                    part.retain_grad()
    return None


def _backward_fault(
    graph: ModelGraph, loss: torch.Tensor, seen: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]
) -> str | None:
    if not loss.requires_grad:
        return None
    loss.backward()  # type: ignore[no-untyped-call]
    for node in reversed(graph.nodes):
        slope = seen[node.name].grad if node.name in seen else None
        if slope is not None and not bool(torch.isfinite(slope).all()):
            takers = ", ".join(_takers(graph.nodes, Ref("node", node.name))) or f"the loss {graph.loss}"
            return f"the gradient by node {node.name} ({node.op}), which comes from {takers}"
    for entry in graph.state:
        slope = tensors[entry.name].grad
        if slope is not None and not bool(torch.isfinite(slope).all()):
            takers = ", ".join(_takers(graph.nodes, Ref("state", entry.name)))
            return f"the gradient by parameter {entry.name}, which comes from {takers}"
    return None


def _takers(nodes: tuple[Node, ...], wanted: Ref) -> Iterator[str]:
    """The nodes that take a value as an argument."""
    for node in nodes:
        for argument in (*node.args, *(value for _, value in node.kwargs)):
            if argument == wanted or (isinstance(argument, tuple) and wanted in argument):
                yield f"node {node.name} ({node.op})"
                break
