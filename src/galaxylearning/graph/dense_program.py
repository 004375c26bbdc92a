"""A dense graph as a program: what is computed in which order, and which values may share memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.graph.dense_frames import BroadFrame
from galaxylearning.graph.dense_losses import Targets, losses_and_slope
from galaxylearning.graph.dense_ops import (
    Back,
    Detach,
    Frame,
    Matrix,
    Multiply,
    Normalise,
    Operation,
    Product,
    Vector,
)
from galaxylearning.graph.dense_read import Reading, read_dense
from galaxylearning.graph.dense_reader import RECIPROCAL, NotDenseError
from galaxylearning.graph.document import ModelGraph
from galaxylearning.graph.labels import prepare_labels

F32: TypeAlias = npt.NDArray[np.float32]
Array: TypeAlias = npt.NDArray[Any]

_BLOCK_BYTES = 2 << 20
"""Many models go over the same rows in blocks whose values take about this much."""

_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class DenseProgram:
    """What a dense graph computes, made by :meth:`of`.

    Parameters are one vector ``[P]``: the trainable state entries in order of name, each in row-major order.
    ``varies`` says which values depend on it, ``live`` which of those hand a derivative back;
    ``value_places`` and ``slope_places`` give for each value the one whose memory it shares, itself where it
    has its own.
    """

    graph: ModelGraph
    input_shape: tuple[int, ...]
    outputs_count: int
    parameter_count: int
    buffer_count: int
    operations: tuple[Operation, ...]
    backs: tuple[tuple[Operation, Back], ...]
    widths: tuple[int, ...]
    varies: tuple[bool, ...]
    live: tuple[bool, ...]
    value_places: tuple[int, ...]
    slope_places: tuple[int, ...]
    output: int
    untouched: tuple[slice, ...]
    """Parameters that no derivative reaches."""

    # ---- reading

    @staticmethod
    def of(graph: ModelGraph) -> DenseProgram | None:
        """The graph's program, or None if it is not dense; :meth:`why_not` gives the reason.

        Raises:
            GraphRefused: the graph contradicts itself: shapes, arguments or references; names the node.
        """
        try:
            reading = read_dense(graph)
        except NotDenseError:
            return None
        return _arranged(graph, reading)

    @staticmethod
    def why_not(graph: ModelGraph) -> str | None:
        """Why the graph is not dense; None if it is.

        Raises:
            GraphRefused: as :meth:`of`.
        """
        try:
            read_dense(graph)
        except NotDenseError as reason:
            return str(reason)
        return None

    @property
    def features(self) -> int:
        """Numbers in a row of input."""
        return self.widths[0]

    @property
    def loss(self) -> str:
        """The named loss."""
        return self.graph.loss

    # ---- state

    def frozen(self, weights: Mapping[str, Array], buffers: F32 | None = None) -> dict[str, F32]:
        """What the program uses besides parameters, by name: frozen weights, constants, unchanging buffers.

        ``buffers`` ``[B]`` are the federated ones, where they are not those of ``weights``.

        Raises:
            KeyError: ``weights`` lacks an entry.
        """
        held = dict(weights)
        if buffers is not None:
            start = 0
            for entry in self.graph.state:
                if entry.kind == "buffer" and entry.federate in ("mean", "sum"):
                    held[entry.name] = buffers[start : start + entry.elements].reshape(entry.shape)
                    start += entry.elements
        found: dict[str, F32] = {}
        for operation in self.operations:
            used = operation.weight
            if used is None or used.is_trainable:
                continue
            name = used.name
            if name.startswith(RECIPROCAL):
                with np.errstate(divide="ignore"):
                    found[name] = np.reciprocal(held[name.removeprefix(RECIPROCAL)])
            else:
                found[name] = np.ascontiguousarray(held[name])
        return found

    # ---- passes

    def forward(self, frame: Frame) -> F32:
        """Compute all values from value 0, which the frame holds; gives the output."""
        for operation in self.operations:
            operation.forward(frame)
        return frame.values[self.output]

    def backward(self, frame: Frame) -> None:
        """From the derivative by the output, which the frame holds, to those by the parameters."""
        for operation, back in self.backs:
            operation.backward(frame, back)

    def laid_out(self, places: Sequence[int], make: Callable[[int], F32]) -> list[F32]:
        """One array for each value, made by ``make(value)`` where it has memory of its own."""
        arrays: dict[int, F32] = {}
        for place in places:
            if place not in arrays:
                arrays[place] = make(place)
        return [arrays[place] for place in places]

    # ---- many models

    def outputs(self, stack: F32, inputs: Array, *, frozen: Mapping[str, F32] | None = None) -> F32:
        """Outputs ``[M, n, c]`` of M models ``stack`` ``[M, P]`` on the same rows ``[n, ...]``.

        ``frozen`` is :meth:`frozen`'s answer; a program without frozen state needs none.

        Raises:
            ValueError: an argument has another type or shape, or ``frozen`` is missing.
        """
        held = self._checked(stack, inputs, frozen)
        result = np.empty((len(stack), len(inputs), self.outputs_count), np.float32)
        rows = min(len(inputs), _BLOCK_ROWS)
        block = max(1, _BLOCK_BYTES // (4 * max(1, rows) * sum(self.widths)))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for start in range(0, len(inputs), _BLOCK_ROWS):
                flat = inputs[start : start + _BLOCK_ROWS].reshape(-1, self.features).T
                for first in range(0, len(stack), block):
                    part = stack[first : first + block]
                    frame = self._broad(part, flat, held, gradients=None)
                    found = self.forward(frame).swapaxes(-1, -2)
                    result[first : first + block, start : start + _BLOCK_ROWS] = found
        return result

    def gradients(
        self,
        stack: F32,
        inputs: Array,
        labels: Array,
        *,
        out: F32 | None = None,
        frozen: Mapping[str, F32] | None = None,
    ) -> F32:
        """Gradient of the mean loss of M models ``stack`` ``[M, P]`` on the same rows: ``[M, P]``.

        Raises:
            DataRefused: the labels are not what the loss takes.
            ValueError: an argument has another type or shape, or ``frozen`` is missing.
        """
        held = self._checked(stack, inputs, frozen)
        if out is None:
            out = np.empty_like(stack)
        elif out.dtype != np.float32 or out.shape != stack.shape or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous float32 {list(stack.shape)}")
        prepared = prepare_labels(self.loss, labels, (len(inputs), self.outputs_count))
        targets = Targets.of(self.loss, prepared)
        weights = np.full(len(inputs), 1 / max(1, len(inputs)), np.float32)
        flat = inputs.reshape(-1, self.features).T
        block = max(1, _BLOCK_BYTES // (8 * max(1, len(inputs)) * sum(self.widths)))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for first in range(0, len(stack), block):
                part = out[first : first + block]
                frame = self._broad(stack[first : first + block], flat, held, gradients=part)
                found = self.forward(frame)
                if not self.live[self.output]:
                    part[...] = 0
                    continue
                losses_and_slope(self.loss, found, targets, weights, frame.slopes[self.output])
                self.backward(frame)
                for untouched in self.untouched:
                    part[:, untouched] = 0
        return out

    def _checked(self, stack: F32, inputs: Array, frozen: Mapping[str, F32] | None) -> Mapping[str, F32]:
        if stack.dtype != np.float32 or stack.ndim != 2 or stack.shape[1] != self.parameter_count:
            raise ValueError(f"stack must be float32 [M, {self.parameter_count}]")
        if inputs.dtype != np.float32 or inputs.shape[1:] != self.input_shape or not len(inputs):
            raise ValueError(f"inputs must be float32 [n, {', '.join(map(str, self.input_shape))}], n >= 1")
        needed = {
            o.weight.name for o in self.operations if o.weight is not None and not o.weight.is_trainable
        }
        held = {} if frozen is None else frozen
        if needed - set(held):
            raise ValueError(f"frozen must hold {', '.join(sorted(needed))}")
        return held

    def _broad(self, stack: F32, flat: F32, frozen: Mapping[str, F32], gradients: F32 | None) -> BroadFrame:
        """A frame for these models over the columns ``[features, n]``; slopes only with ``gradients``."""
        models, columns = len(stack), flat.shape[1]

        def make(value: int) -> F32:
            if value == 0:
                return flat
            lead = (models,) if self.varies[value] else ()
            return np.empty((*lead, self.widths[value], columns), np.float32)

        def slope(value: int) -> F32:
            return make(value) if self.live[value] else flat

        values = self.laid_out(self.value_places, make)
        slopes = [] if gradients is None else self.laid_out(self.slope_places, slope)
        return BroadFrame(values, slopes, frozen, stack, stack if gradients is None else gradients)


# ---- from operations to a program


def _arranged(graph: ModelGraph, reading: Reading) -> DenseProgram:
    operations = _needed(reading)
    count = len(reading.widths)
    varies, live = [False] * count, [False] * count
    for operation in operations:
        trains = operation.weight is not None and operation.weight.is_trainable
        made = operation.gives
        varies[made] = trains or any(varies[value] for value in operation.takes)
        live[made] = not isinstance(operation, Detach) and (
            trains or any(live[value] for value in operation.takes)
        )
        if isinstance(operation, Normalise):
            varies[operation.spread] = varies[made]
    users = [0] * count
    for operation in operations:
        for value in operation.takes:
            users[value] += 1
    users[reading.output] += 1
    backs = _backs(operations, live, reading.output)
    trainable = [entry for entry in graph.state if entry.trainable]
    used = {
        o.weight.name for o, _ in backs if isinstance(o.weight, (Matrix, Vector)) and o.weight.is_trainable
    }
    untouched, start = [], 0
    for entry in trainable:
        if entry.name not in used:
            untouched.append(slice(start, start + entry.elements))
        start += entry.elements
    buffers = [e.elements for e in graph.state if e.kind == "buffer" and e.federate in ("mean", "sum")]
    return DenseProgram(
        graph=graph,
        input_shape=tuple(size for size in graph.inputs[0].shape[1:] if size is not None),
        outputs_count=reading.widths[reading.output],
        parameter_count=start,
        buffer_count=sum(buffers),
        operations=operations,
        backs=backs,
        widths=reading.widths,
        varies=tuple(varies),
        live=tuple(live),
        value_places=_value_places(operations, varies, users),
        slope_places=_slope_places(operations, live, users),
        output=reading.output,
        untouched=tuple(untouched),
    )


def _needed(reading: Reading) -> tuple[Operation, ...]:
    """The operations that the output depends on."""
    wanted, kept = {reading.output}, []
    for operation in reversed(reading.operations):
        if operation.gives in wanted:
            wanted.update(operation.takes)
            kept.append(operation)
    return tuple(reversed(kept))


def _backs(
    operations: tuple[Operation, ...], live: list[bool], output: int
) -> tuple[tuple[Operation, Back], ...]:
    """The way back: every derivative is complete before it is handed on."""
    written, met, backs = {output}, set(), []
    for operation in reversed(operations):
        # What only a detached value needs has no derivative to hand on.
        if not live[operation.gives] or operation.gives not in written:
            continue
        wants = tuple(live[value] for value in operation.takes)
        first = [False] * len(wants)
        # Operations hand on to their last argument first.
        for position in reversed(range(len(wants))):
            value = operation.takes[position]
            first[position] = value not in written
            if wants[position]:
                written.add(value)
        name = None if operation.weight is None else operation.weight.name
        backs.append((operation, Back(wants, tuple(first), name not in met)))
        met.add(name)
    return tuple(backs)


def _value_places(operations: tuple[Operation, ...], varies: list[bool], users: list[int]) -> tuple[int, ...]:
    places = list(range(len(users)))
    keeps = {operation.gives: operation.keeps_result for operation in operations}
    for operation in operations:
        x = operation.takes[0]
        free = x in keeps and not keeps[x] and users[x] == 1 and varies[x] == varies[operation.gives]
        if operation.may_overwrite and free:
            places[operation.gives] = places[x]
    return tuple(places)


def _slope_places(operations: tuple[Operation, ...], live: list[bool], users: list[int]) -> tuple[int, ...]:
    places = list(range(len(users)))
    for operation in reversed(operations):
        x = operation.takes[0]
        passes = not isinstance(operation, (Product, Multiply, Detach))
        if passes and live[x] and live[operation.gives] and users[x] == 1:
            places[x] = places[operation.gives]
    return tuple(places)
