"""A dense graph as a model: what ``FlatModel`` computes with tensors, computed with numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from galaxylearning.errors import DataRefused, GraphRefused
from galaxylearning.graph.dense_frames import FlatFrame, Group
from galaxylearning.graph.dense_losses import Targets, losses, losses_and_slope
from galaxylearning.graph.dense_program import DenseProgram
from galaxylearning.graph.dense_weights import check_arrays, dense_weights_to_bytes
from galaxylearning.graph.document import ModelGraph, StateEntry
from galaxylearning.graph.labels import prepare_labels
from galaxylearning.graph.model import F32, F64, Array

_EVALUATION_ROWS = 1024


class DenseModel:
    """Implements ``Model`` for dense graphs; digits agree with ``FlatModel`` up to float32 rounding.

    Raises:
        GraphRefused: the graph is not dense, contradicts itself, or the weights do not match it.
    """

    def __init__(self, graph: ModelGraph, weights: Mapping[str, Array]) -> None:
        program = DenseProgram.of(graph)
        if program is None:
            raise GraphRefused(f"is not dense: {DenseProgram.why_not(graph)}", where="graph")
        check_arrays(graph, weights)
        self.graph, self.program = graph, program
        self.parameter_count, self.buffer_count = program.parameter_count, program.buffer_count
        self._initial = {name: np.array(array) for name, array in weights.items()}
        self._trainable = [entry for entry in graph.state if entry.trainable]
        self._federated = [
            entry for entry in graph.state if entry.kind == "buffer" and entry.federate in ("mean", "sum")
        ]

    def initial(self) -> tuple[F32, F32]:
        """The initial weights as (params [P], buffers [B])."""
        return self._joined(self._trainable), self._joined(self._federated)

    def gradient(
        self,
        params: F32,
        buffers: F32,
        inputs: tuple[Array, ...],
        labels: Array,
        *,
        rng: np.random.Generator | None = None,  # noqa: ARG002  nothing dense draws
    ) -> tuple[float, F32, F32]:
        """Mean loss over the batch, its gradient [P], and the buffers, which a dense graph does not change.

        Raises:
            DataRefused: inputs or labels are not what the graph takes.
            ValueError: params or buffers have a wrong length or type.
        """
        self._check_vectors(params, buffers)
        rows = self._checked(inputs, labels)
        targets = self._targets(rows, labels)
        weights = np.full(len(rows), 1 / len(rows), np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            frame = self._frame(params, buffers, rows)
            outputs = self.program.forward(frame)
            slope = self._output_slope(frame)
            loss = losses_and_slope(self.program.loss, outputs, targets, weights, slope).mean()
            return float(loss), self._differentiate(frame), np.array(buffers)

    def per_sample_loss(self, params: F32, buffers: F32, inputs: tuple[Array, ...], labels: Array) -> F64:
        """Loss of each sample, float64 [n], computed in double precision from the outputs.

        Raises:
            DataRefused, ValueError: as :meth:`gradient`.
        """
        self._check_vectors(params, buffers)
        rows = self._checked(inputs, labels)
        found = []
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for part, answers in _chunks(rows, labels):
                targets = self._targets(part, answers)
                outputs = self.program.forward(self._frame(params, buffers, part))
                found.append(losses(self.program.loss, outputs.astype(np.float64), targets))
        return np.concatenate(found)

    def gradient_eval(
        self, params: F32, buffers: F32, inputs: tuple[Array, ...], labels: Array, *, clip: float | None
    ) -> F64:
        """Gradient of the summed loss, float64 [P].

        With ``clip`` a sample counts min(loss, clip): one whose loss is above it contributes nothing.

        Raises:
            DataRefused, ValueError: as :meth:`gradient`, and ``clip`` must be above 0.
        """
        if clip is not None and not clip > 0.0:
            raise ValueError("clip must be above 0")
        self._check_vectors(params, buffers)
        rows = self._checked(inputs, labels)
        total = np.zeros(self.parameter_count)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for part, answers in _chunks(rows, labels):
                targets = self._targets(part, answers)
                frame = self._frame(params, buffers, part)
                outputs = self.program.forward(frame).astype(np.float64)
                slope = np.empty_like(outputs)
                each = losses_and_slope(self.program.loss, outputs, targets, np.ones(len(part)), slope)
                if clip is not None:
                    slope[:, each > clip] = 0
                self._output_slope(frame)[...] = slope
                total += self._differentiate(frame)
        return total

    def predict(self, params: F32, buffers: F32, inputs: tuple[Array, ...]) -> Array:
        """The graph's outputs, [n, features].

        Raises:
            DataRefused, ValueError: as :meth:`gradient`.
        """
        self._check_vectors(params, buffers)
        rows = self._checked(inputs, None)
        frozen = self.program.frozen(self._initial, buffers)
        outputs: Array = self.program.outputs(params[None], rows, frozen=frozen)[0]
        return outputs

    def state_bytes(self, params: F32, buffers: F32) -> bytes:
        """The whole model as canonical safetensors: these vectors, and the initial value of all other state.

        Raises:
            GraphRefused: a value is not finite.
            ValueError: params or buffers have a wrong length or type.
        """
        self._check_vectors(params, buffers)
        arrays = dict(self._initial)
        for entries, vector in ((self._trainable, params), (self._federated, buffers)):
            start = 0
            for entry in entries:
                arrays[entry.name] = vector[start : start + entry.elements].reshape(entry.shape)
                start += entry.elements
        return dense_weights_to_bytes(self.graph, arrays)

    # ---- inside

    def _joined(self, entries: list[StateEntry]) -> F32:
        return np.concatenate([np.empty(0, np.float32), *(self._initial[e.name].ravel() for e in entries)])

    def _frame(self, params: F32, buffers: F32, rows: F32) -> FlatFrame:
        program = self.program
        columns = rows.reshape(len(rows), -1).T

        def make(value: int) -> F32:
            return columns if value == 0 else np.empty((program.widths[value], len(rows)), np.float32)

        return FlatFrame(
            program.laid_out(program.value_places, make),
            [],
            [Group(0, 1, len(rows), 0)],
            np.zeros(1, np.int64),
            program.frozen(self._initial, buffers),
            params,
            np.zeros((1, self.parameter_count), np.float32),
        )

    def _output_slope(self, frame: FlatFrame) -> F32:
        """Make room for derivatives; gives that by the output."""
        program, columns = self.program, frame.values[0].shape[1]

        def make(value: int) -> F32:
            width = program.widths[value] if program.live[value] or value == program.output else 0
            return np.empty((width, columns), np.float32)

        frame.slopes = program.laid_out(program.slope_places, make)
        return frame.slopes[program.output]

    def _differentiate(self, frame: FlatFrame) -> F32:
        self.program.backward(frame)
        gradient: F32 = frame.gradients[0]
        return gradient

    def _targets(self, rows: F32, labels: Array) -> Targets:
        prepared = prepare_labels(self.program.loss, labels, (len(rows), self.program.outputs_count))
        return Targets.of(self.program.loss, prepared)

    def _check_vectors(self, params: F32, buffers: F32) -> None:
        for name, vector, size in (
            ("params", params, self.parameter_count),
            ("buffers", buffers, self.buffer_count),
        ):
            if vector.dtype != np.float32 or vector.shape != (size,):
                raise ValueError(f"{name} must be float32 [{size}], not {vector.dtype} {list(vector.shape)}")

    def _checked(self, inputs: tuple[Array, ...], labels: Array | None) -> F32:
        declared = self.graph.inputs[0]
        if len(inputs) != 1:
            raise DataRefused(f"the graph takes 1 input, not {len(inputs)}", where="inputs")
        rows = inputs[0]
        where = f"input {declared.name}"
        if rows.dtype != np.float32:
            raise DataRefused(f"must be float32, not {rows.dtype}", where=where)
        if not rows.ndim or not len(rows) or rows.shape[1:] != self.program.input_shape:
            shape = ", ".join(["n", *map(str, self.program.input_shape)])
            raise DataRefused(f"must have shape [{shape}] with n >= 1, not {list(rows.shape)}", where=where)
        if labels is not None and (not labels.ndim or len(labels) != len(rows)):
            raise DataRefused(f"must hold one entry for each of {len(rows)} rows", where="labels")
        return rows


def _chunks(rows: F32, labels: Array) -> Iterator[tuple[F32, Array]]:
    for start in range(0, len(rows), _EVALUATION_ROWS):
        yield rows[start : start + _EVALUATION_ROWS], labels[start : start + _EVALUATION_ROWS]
