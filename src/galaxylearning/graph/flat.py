"""The bridge to numpy: a graph's trainable parameters and federated buffers as two flat float32 vectors.

Everything above the graph (training, aggregation, contribution) sees only arrays; this is where they meet
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import DataRefused, GraphRefused
from galaxylearning.graph.document import DEFAULT_LIMITS, GraphLimits, ModelGraph
from galaxylearning.graph.infer import infer
from galaxylearning.graph.losses import batch_loss, check_labels, per_sample
from galaxylearning.graph.model import NO_EXAMPLES
from galaxylearning.graph.program import Program
from galaxylearning.graph.tensors import DTYPES
from galaxylearning.graph.weights import check_tensors, weights_from_bytes, weights_size, weights_to_bytes
from galaxylearning.units import Digest

Vector = npt.NDArray[np.float32]
Array: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = npt.NDArray[np.int64]
BoundGradient: TypeAlias = Callable[[Vector, Vector, Rows, np.random.Generator], tuple[float, Vector, Vector]]

MAX_EVALUATION_ROWS = 1024
EVALUATION_BYTES = 256 << 20
"""Evaluation goes in batches of at most this many rows and, about, this many bytes of activations."""


class _Labels:
    """Labels of many rows, checked and converted once, when the outputs' shape is known.

    Where some of them are unacceptable, those that are used are checked by the batch, and only they refused.
    """

    def __init__(self, loss: str, labels: Array) -> None:
        self._loss, self._labels = loss, labels
        self._shape: torch.Size | None = None
        self._prepared: torch.Tensor | None = None

    def take(self, rows: Rows, chosen: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The targets of ``rows``, which ``chosen`` names as well, for outputs of this shape."""
        shape = outputs.shape
        if shape[1:] != self._shape:
            self._shape, self._prepared = shape[1:], None
            with suppress(DataRefused):
                self._prepared = check_labels(self._loss, self._labels, (len(self._labels), *shape[1:]))
        if self._prepared is None:
            return check_labels(self._loss, self._labels[rows], tuple(shape))
        return self._prepared.index_select(0, chosen)


class FlatModel:
    """A graph with its initial weights, seen as flat vectors.

    ``params`` is float32 [P]: the trainable parameters in order of name, each in row-major order.
    ``buffers`` is float32 [B]: the buffers that federate by mean or sum, likewise. Buffers that are kept
    local live in this object and change with every :meth:`gradient`; all other state keeps its initial
    value. One object serves one thread; torch stays on one thread from here on, so that sums have one order.

    Raises:
        GraphRefused: graph or weights are not acceptable, or do not match.
    """

    def __init__(
        self, graph: ModelGraph, weights: Mapping[str, torch.Tensor], limits: GraphLimits = DEFAULT_LIMITS
    ) -> None:
        check_tensors(graph, weights)
        torch.set_num_threads(1)
        self.graph = graph
        self.program = Program(graph, limits)
        self._initial = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
        self._trainable = [entry for entry in graph.state if entry.trainable]
        self._federated = [
            entry for entry in graph.state if entry.kind == "buffer" and entry.federate in ("mean", "sum")
        ]
        self._local = {e.name for e in graph.state if e.federate == "keep_local"}
        self._sizes = [entry.elements for entry in self._trainable]
        self._buffer_sizes = [entry.elements for entry in self._federated]
        self.parameter_count = sum(self._sizes)
        self.buffer_count = sum(self._buffer_sizes)
        # The state every pass reads: parameters are leaves, refilled in place before each pass.
        self._state = {name: tensor.clone() for name, tensor in self._initial.items()}
        self._leaves = [self._state[entry.name].requires_grad_() for entry in self._trainable]
        self._leaf_views = _views(self._leaves)
        joined = torch.zeros(self.parameter_count)
        self._gradient: Vector = joined.numpy()
        self._gradient_views = [
            piece.view(leaf.shape)
            for piece, leaf in zip(joined.split_with_sizes(self._sizes), self._leaves, strict=True)
        ]
        self._buffer_views = _views([self._state[entry.name] for entry in self._federated])
        sample_bytes = infer(graph, 1, limits).activation_bytes
        self._rows = max(1, min(MAX_EVALUATION_ROWS, EVALUATION_BYTES // max(1, sample_bytes)))

    # ---- training

    def initial(self) -> tuple[Vector, Vector]:
        """The initial weights as (params [P], buffers [B])."""
        return (
            _joined([self._initial[e.name] for e in self._trainable]),
            _joined([self._initial[e.name] for e in self._federated]),
        )

    def gradient(
        self,
        params: Vector,
        buffers: Vector,
        inputs: tuple[Array, ...],
        labels: Array,
        *,
        rng: np.random.Generator | None = None,
    ) -> tuple[float, Vector, Vector]:
        """Mean loss over the batch in training mode, its gradient [P], and the buffers after the pass [B].

        ``rng`` draws dropout masks; equal generators give equal results.

        Raises:
            DataRefused: inputs or labels are not what the graph takes.
            GraphRefused: an operation failed on them.
            ValueError: params or buffers have a wrong length or type, or ``rng`` is missing.
        """
        tensors = self._tensors(inputs, labels)

        def targets(outputs: torch.Tensor) -> torch.Tensor:
            return check_labels(self.graph.loss, labels, tuple(outputs.shape))

        loss, gradient, after = self._step(params, buffers, tensors, targets, rng)
        return loss, gradient.copy(), after

    def bind(self, inputs: tuple[Array, ...], labels: Array) -> BoundGradient:
        """:meth:`gradient` over row numbers of these arrays, which are checked once, not at every step.

        What is returned takes (params, buffers, rows int64[b] within the arrays, rng) and gives what
        :meth:`gradient` gives for those rows, to the digit; the next gradient is written over it. The arrays
        must not change meanwhile.

        Raises:
            DataRefused: inputs or labels are not what the graph takes; values of labels are looked at as they
                are used.
        """
        self._check_inputs(inputs, labels)
        pools = [torch.from_numpy(_own(array)) for array in inputs]
        prepared = _Labels(self.graph.loss, labels)

        def gradient(
            params: Vector, buffers: Vector, rows: Rows, rng: np.random.Generator
        ) -> tuple[float, Vector, Vector]:
            chosen = torch.from_numpy(_own(rows))
            tensors = [pool.index_select(0, chosen) for pool in pools]
            return self._step(
                params, buffers, tensors, lambda outputs: prepared.take(rows, chosen, outputs), rng
            )

        return gradient

    def _step(
        self,
        params: Vector,
        buffers: Vector,
        tensors: list[torch.Tensor],
        targets: Callable[[torch.Tensor], torch.Tensor],
        rng: np.random.Generator | None,
    ) -> tuple[float, Vector, Vector]:
        self._load(params, buffers)
        outputs, changed = self.program(self._state, *tensors, train=True, rng=rng)
        loss = batch_loss(self.graph.loss, outputs, targets(outputs))
        gradient = self._differentiate(loss)
        for name in self._local & changed.keys():
            self._state[name] = changed[name]
        after = np.array(buffers, dtype=np.float32)
        start = 0
        for entry, size in zip(self._federated, self._buffer_sizes, strict=True):
            if entry.name in changed:
                after[start : start + size] = changed[entry.name].reshape(-1).numpy()
            start += size
        return loss.item(), gradient, after

    def example_gradients(
        self,
        params: Vector,
        buffers: Vector,
        inputs: tuple[Array, ...],
        labels: Array,
        *,
        rng: np.random.Generator | None = None,
    ) -> Vector:
        """Gradient of each sample's own loss in training mode, float32 [n, P]; dropout masks are shared.

        Raises:
            GraphRefused: the graph uses batch statistics, so that no sample has a gradient of its own; or as
                :meth:`gradient`.
            DataRefused, ValueError: as :meth:`gradient`.
        """
        # Loaded by who needs it: what differentiates functions takes a while to load.
        from galaxylearning.graph.examples import per_example

        if self.program.has_batch_statistics:
            raise GraphRefused(NO_EXAMPLES, where="graph")
        tensors = self._tensors(inputs, labels)
        self._load(params, buffers)
        with torch.no_grad():
            one, _ = self.program(self._state, *(tensor[:1] for tensor in tensors), train=False)
        targets = check_labels(self.graph.loss, labels, (len(labels), *one.shape[1:]))
        found = np.empty((len(labels), self.parameter_count), np.float32)
        for low in range(0, len(found), self._rows):
            here = slice(low, low + self._rows)
            found[here] = per_example(
                self.program,
                self._state,
                [entry.name for entry in self._trainable],
                [tensor[here] for tensor in tensors],
                targets[here],
                rng,
            )
        return found

    # ---- evaluation

    def per_sample_loss(
        self, params: Vector, buffers: Vector, inputs: tuple[Array, ...], labels: Array
    ) -> npt.NDArray[np.float64]:
        """Loss of each sample in evaluation mode, float64 [n], computed in double precision from the outputs.

        Raises:
            DataRefused, GraphRefused, ValueError: as :meth:`gradient`.
        """
        self._load(params, buffers)
        losses = [np.empty(0)]
        with torch.no_grad():
            for chunk, part in self._chunks(inputs, labels):
                losses.append(self._sample_losses(chunk, part).numpy())
        return np.concatenate(losses)

    def gradient_eval(
        self,
        params: Vector,
        buffers: Vector,
        inputs: tuple[Array, ...],
        labels: Array,
        *,
        clip: float | None,
    ) -> npt.NDArray[np.float64]:
        """Gradient of the summed loss in evaluation mode, float64 [P].

        With ``clip`` a sample counts min(loss, clip): one whose loss is above it contributes nothing.

        Raises:
            DataRefused, GraphRefused, ValueError: as :meth:`gradient`, and ``clip`` must be above 0.
        """
        if clip is not None and not clip > 0.0:
            raise ValueError("clip must be above 0")
        self._load(params, buffers)
        total = np.zeros(self.parameter_count)
        for chunk, part in self._chunks(inputs, labels):
            losses = self._sample_losses(chunk, part)
            total += self._differentiate((losses if clip is None else losses.clamp(max=clip)).sum())
        return total

    def predict(self, params: Vector, buffers: Vector, inputs: tuple[Array, ...]) -> Array:
        """The graph's outputs in evaluation mode, [n, ...].

        Raises:
            DataRefused, GraphRefused, ValueError: as :meth:`gradient`.
        """
        self._load(params, buffers)
        parts = []
        with torch.no_grad():
            for chunk, _ in self._chunks(inputs, None):
                outputs, _ = self.program(self._state, *self._tensors(chunk, None), train=False)
                parts.append(outputs.numpy())
        return np.concatenate(parts)

    # ---- whole state

    def state_bytes(self, params: Vector, buffers: Vector) -> bytes:
        """The whole model as canonical safetensors: these vectors, and the initial value of all other state.

        Raises:
            GraphRefused: a value is not finite.
            ValueError: params or buffers have a wrong length or type.
        """
        return weights_to_bytes(self.graph, self._tensors_of(params, buffers))

    def from_state_bytes(self, data: bytes) -> tuple[Vector, Vector]:
        """(params, buffers) of a state that :meth:`state_bytes` wrote.

        Raises:
            GraphRefused: not this graph's state, or state that never changes differs from the initial one.
        """
        tensors = weights_from_bytes(self.graph, data, max_bytes=weights_size(self.graph))
        moving = {entry.name for entry in (*self._trainable, *self._federated)}
        for entry in self.graph.state:
            if entry.name not in moving and not torch.equal(tensors[entry.name], self._initial[entry.name]):
                raise GraphRefused("must be the job's initial value", where=f"weights {entry.name}")
        return (
            _joined([tensors[e.name] for e in self._trainable]),
            _joined([tensors[e.name] for e in self._federated]),
        )

    def local_bytes(self) -> bytes:
        """The buffers that stay with their data owner, as they are now: raw bytes in order of name."""
        return b"".join(_raw(self._state[name]) for name in sorted(self._local))

    def restore_local(self, data: bytes) -> None:
        """Go on from buffers that :meth:`local_bytes` of the same graph gave.

        Raises:
            ValueError: another number of bytes.
        """
        sizes = {name: len(_raw(self._state[name])) for name in sorted(self._local)}
        if len(data) != sum(sizes.values()):
            raise ValueError(f"{len(data)} bytes; {sum(sizes.values())} of local buffers are needed")
        start = 0
        for name, size in sizes.items():
            held = self._state[name]
            part = torch.frombuffer(bytearray(data[start : start + size]), dtype=held.dtype) if size else held
            self._state[name] = part.view(held.shape).clone()
            start += size

    def digest(self, params: Vector, buffers: Vector) -> Digest:
        """BLAKE3 of :meth:`state_bytes`."""
        return blake3_digest(self.state_bytes(params, buffers))

    # ---- inside

    def _load(self, params: Vector, buffers: Vector) -> None:
        """Copy both vectors into the tensors every pass reads; their memory stays where it is, so results
        repeat.
        """
        _check_vector(params, self.parameter_count, "params")
        _check_vector(buffers, self.buffer_count, "buffers")
        for view, place in self._leaf_views:
            view[...] = params[place]
        for view, place in self._buffer_views:
            view[...] = buffers[place]

    def _tensors_of(self, params: Vector, buffers: Vector) -> dict[str, torch.Tensor]:
        _check_vector(params, self.parameter_count, "params")
        _check_vector(buffers, self.buffer_count, "buffers")
        tensors = dict(self._initial)
        for entries, vector in ((self._trainable, params), (self._federated, buffers)):
            start = 0
            for entry in entries:
                piece = vector[start : start + entry.elements].reshape(entry.shape)
                tensors[entry.name] = torch.tensor(piece, dtype=torch.float32)
                start += entry.elements
        return tensors

    def _differentiate(self, loss: torch.Tensor) -> Vector:
        """The gradient, in memory that the next one takes again."""
        parts: Sequence[torch.Tensor | None] = [None] * len(self._leaves)
        if loss.requires_grad:
            parts = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        whole = [
            torch.zeros_like(view) if part is None else part
            for part, view in zip(parts, self._gradient_views, strict=True)
        ]
        torch._foreach_copy_(self._gradient_views, whole)
        return self._gradient

    def _sample_losses(self, inputs: tuple[Array, ...], labels: Array | None) -> torch.Tensor:
        if labels is None:
            raise DataRefused("are missing", where="labels")
        outputs, _ = self.program(self._state, *self._tensors(inputs, labels), train=False)
        targets = check_labels(self.graph.loss, labels, tuple(outputs.shape))
        if targets.is_floating_point():
            targets = targets.double()
        return per_sample(self.graph.loss, outputs.double(), targets)

    def _chunks(
        self, inputs: tuple[Array, ...], labels: Array | None
    ) -> Iterator[tuple[tuple[Array, ...], Array | None]]:
        self._check_inputs(inputs, labels)
        count = len(inputs[0])
        for start in range(0, count, self._rows):
            end = start + self._rows
            yield tuple(x[start:end] for x in inputs), None if labels is None else labels[start:end]

    def _tensors(self, inputs: tuple[Array, ...], labels: Array | None) -> list[torch.Tensor]:
        """Inputs as tensors of their own, aligned memory, checked against the graph."""
        self._check_inputs(inputs, labels)
        tensors = []
        for array, wanted in zip(inputs, self.graph.inputs, strict=True):
            tensor = torch.empty(array.shape, dtype=DTYPES[wanted.dtype])
            tensor.numpy()[...] = array
            tensors.append(tensor)
        return tensors

    def _check_inputs(self, inputs: tuple[Array, ...], labels: Array | None) -> None:
        declared = self.graph.inputs
        if len(inputs) != len(declared):
            raise DataRefused(f"the graph takes {len(declared)} inputs, not {len(inputs)}", where="inputs")
        rows = len(inputs[0]) if inputs[0].ndim else 0
        for array, wanted in zip(inputs, declared, strict=True):
            where = f"input {wanted.name}"
            if array.dtype != wanted.dtype:
                raise DataRefused(f"must be {wanted.dtype}, not {array.dtype}", where=where)
            if rows == 0 or array.shape != (rows, *wanted.shape[1:]):
                shape = ", ".join("n" if size is None else str(size) for size in wanted.shape)
                raise DataRefused(
                    f"must have shape [{shape}] with n >= 1, not {list(array.shape)}", where=where
                )
        if labels is not None and (not labels.ndim or len(labels) != rows):
            raise DataRefused(f"must hold one entry for each of {rows} rows", where="labels")


def _joined(tensors: list[torch.Tensor]) -> Vector:
    return np.concatenate([np.empty(0, np.float32), *(t.detach().reshape(-1).numpy() for t in tensors)])


def _views(tensors: list[torch.Tensor]) -> list[tuple[Vector, slice]]:
    """Each tensor's memory as a flat array, with its place in the joined vector."""
    views = []
    start = 0
    for tensor in tensors:
        view = tensor.detach().reshape(-1).numpy()
        views.append((view, slice(start, start + view.size)))
        start += view.size
    return views


def _own(array: Array) -> Array:
    """The array, or a copy where it cannot be shared with a tensor."""
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


def _check_vector(vector: Vector, size: int, name: str) -> None:
    if vector.dtype != np.float32 or vector.shape != (size,):
        raise ValueError(f"{name} must be float32 [{size}], not {vector.dtype} {list(vector.shape)}")


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
