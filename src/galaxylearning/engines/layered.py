"""Stacks of models made of linear layers in a row: many models on the same rows in few, large products.

Coalitions and retrained federations differ in their weights, not in the rows they see. So the first layer of
M models is one product ``[M * out, in] x [in, rows]``, and its gradient another. Knows no owner and no game.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from galaxylearning.engines.stack_losses import output_delta
from galaxylearning.engines.stacks import Array, Stack
from galaxylearning.errors import DataRefused
from galaxylearning.graph.document import ModelGraph, Node, Ref, StateEntry
from galaxylearning.graph.labels import CLASS_LOSSES, prepare_labels
from galaxylearning.learning.vectors import F32

Activation: TypeAlias = Literal["none", "relu", "tanh", "sigmoid"]

_ACTIVATIONS: dict[str, Activation] = {
    "aten.relu.default": "relu",
    "aten.tanh.default": "tanh",
    "aten.sigmoid.default": "sigmoid",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear layer and what follows it.

    ``weight`` and ``bias`` say where ``[outputs, inputs]`` and ``[outputs]`` begin in the parameters [P].
    """

    weight: int
    bias: int | None
    inputs: int
    outputs: int
    activation: Activation


@dataclass(frozen=True, slots=True)
class LayeredNet:
    """A graph of linear layers with relu, tanh or sigmoid between them, all of whose weights train.

    Implements ``StackNet``; its docstrings say what is not said here.
    """

    layers: tuple[Layer, ...]
    parameters: int
    loss: str
    input_name: str
    input_shape: tuple[int, ...]

    @classmethod
    def of(cls, graph: ModelGraph) -> LayeredNet | None:
        """The layers of ``graph``; None when it is made of anything else."""
        return _recognise(graph)

    @property
    def classes(self) -> int:
        """Width of the output."""
        return self.layers[-1].outputs

    def part_shapes(self) -> list[tuple[int, ...]]:
        """Shape of every part of one model: the first layer with its bias as last column, then the others."""
        first = self.layers[0]
        shapes: list[tuple[int, ...]] = [(first.outputs, first.inputs + (first.bias is not None))]
        for layer in self.layers[1:]:
            shapes.append((layer.outputs, layer.inputs))
            if layer.bias is not None:
                shapes.append((layer.outputs,))
        return shapes

    def stack_over(self, flat: F32, models: int) -> Stack:
        """The first ``models * P`` numbers of ``flat`` as a stack."""
        parts, start = [], 0
        for shape in self.part_shapes():
            size = models * math.prod(shape)
            parts.append(flat[start : start + size].reshape(models, *shape))
            start += size
        return Stack(flat[:start], tuple(parts))

    def load(self, params: F32) -> Stack:
        """A stack of the models with parameters ``params`` f32[M, P], which are copied."""
        models = len(params)
        stack = self.stack_over(np.empty(models * self.parameters, np.float32), models)
        parts = list(stack.parts)
        for index, layer in enumerate(self.layers):
            part, size = parts.pop(0), layer.outputs * layer.inputs
            weight = params[:, layer.weight : layer.weight + size]
            part[..., : layer.inputs] = weight.reshape(models, layer.outputs, layer.inputs)
            if layer.bias is not None:
                bias = part[..., layer.inputs] if index == 0 else parts.pop(0)
                bias[...] = params[:, layer.bias : layer.bias + layer.outputs]
        return stack

    def rows(self, inputs: Array) -> F32:
        """Rows as the first layer takes them, f32[n, in], with a last column of ones where it has a bias.

        Raises:
            DataRefused: another type or shape, or no row.
        """
        where = f"input {self.input_name}"
        if inputs.dtype != np.float32:
            raise DataRefused(f"must be float32, not {inputs.dtype}", where=where)
        if not inputs.size or inputs.shape[1:] != self.input_shape:
            wanted = ", ".join(["n", *map(str, self.input_shape)])
            raise DataRefused(
                f"must have shape [{wanted}] with n >= 1, not {list(inputs.shape)}", where=where
            )
        flat = inputs.reshape(len(inputs), -1)
        if self.layers[0].bias is None:
            return np.ascontiguousarray(flat)
        rows = np.ones((len(flat), flat.shape[1] + 1), np.float32)
        rows[:, :-1] = flat
        return rows

    def labels(self, labels: Array) -> Array:
        """Labels of n rows, as the loss takes them: class numbers int64[n] or targets f32[n, c].

        Raises:
            DataRefused: another type or shape, or a value out of range.
        """
        n = len(labels) if labels.ndim else 0
        return prepare_labels(self.loss, labels, (n, self.classes))

    def targets(self, labels: Array) -> F32:
        """What the outputs of n rows should have been, f32[n, c]: class numbers become one-hot rows."""
        prepared = self.labels(labels)
        if self.loss in CLASS_LOSSES:
            return np.eye(self.classes, dtype=np.float32)[prepared]
        targets: F32 = prepared
        return targets

    def shared(self, stack: Stack, rows: F32) -> F32:
        """Products of the rows with every model's first layer, f32[M, out * n]: linear in the parameters."""
        first = stack.parts[0]
        return (first.reshape(-1, first.shape[-1]) @ rows.T).reshape(len(first), -1)

    def shared_bytes(self, models: int, rows: int) -> int:
        """Size of what :meth:`shared` gives."""
        return 4 * models * self.layers[0].outputs * rows

    def work(self, models: int, rows: int) -> LayeredWork:
        """Memory for passes over up to so many models and rows."""
        return LayeredWork(self, models, rows)

    def work_bytes(self, models: int, rows: int) -> int:
        """Bytes of that memory, and of the parameters that ``mixed`` makes for a moment."""
        hidden = [layer.outputs for layer in self.layers[:-1]]
        per_cell = 4 * (2 * sum(hidden) + self.classes + max(hidden, default=0) + 1) + max(hidden, default=0)
        return models * rows * per_cell + 4 * rows + 4 * models * self.parameters


class LayeredWork:
    """Arrays for passes over stacks of up to ``models`` models and ``rows`` rows; one thread's own."""

    def __init__(self, net: LayeredNet, models: int, rows: int) -> None:
        self._net = net
        cells = models * rows
        self._outputs = [np.empty(cells * layer.outputs, np.float32) for layer in net.layers]
        widest = max((layer.outputs for layer in net.layers[:-1]), default=0)
        self._zeros = np.zeros(cells * widest, np.float32)
        self._deltas = [np.empty(cells * layer.outputs, np.float32) for layer in net.layers[:-1]]
        self._mask = np.empty(cells * widest, np.bool_)
        self._sums = np.empty(cells, np.float32)
        self._ones = np.ones((rows, 1), np.float32)

    def forward(self, stack: Stack, rows: F32) -> F32:
        """Outputs f32[c, M, n] of every model on ``rows`` f32[n, in] (as ``LayeredNet.rows`` gives them)."""
        models, n = len(stack), len(rows)
        first = stack.parts[0]
        flat = first.reshape(-1, first.shape[-1])
        np.matmul(flat, rows.T, out=self._output(0, models, n).reshape(len(flat), n))
        return self._finish(stack.parts[1:], models, n)

    def mixed(self, source: Stack, shared: F32, factors: F32, rows: F32) -> F32:
        """Outputs f32[c, M, n] of mixtures of the models of ``source``: see ``StackWork.mixed``."""
        models, n = len(factors), len(rows)
        np.matmul(factors, shared, out=self._output(0, models, n).reshape(models, -1))
        later = tuple(
            (factors @ part.reshape(len(part), -1)).reshape(models, *part.shape[1:])
            for part in source.parts[1:]
        )
        return self._finish(later, models, n)

    def gradient(self, stack: Stack, rows: F32, targets: F32, scale: float, out: Stack) -> None:
        """Write ``scale`` times the gradient of every model's mean loss over the batch to ``out``.

        ``rows`` f32[b, in] and ``targets`` f32[b, c] are as the net's methods of these names give them.
        """
        models, n = len(stack), len(rows)
        outputs = self.forward(stack, rows)
        output_delta(self._net.loss, outputs, targets.T[:, None], scale, self._sums[: models * n])
        delta = outputs.transpose(1, 0, 2)
        places = self._places()
        for index in range(len(self._net.layers) - 1, 0, -1):
            layer, (weight, bias) = self._net.layers[index], places[index]
            below = self._output(index - 1, models, n)
            np.matmul(delta, below.transpose(0, 2, 1), out=out.parts[weight])
            if bias is not None:
                np.matmul(delta, self._ones[:n], out=out.parts[bias][..., None])
            passed = self._view(self._deltas[index - 1], models, layer.inputs, n)
            np.matmul(stack.parts[weight].transpose(0, 2, 1), delta, out=passed)
            self._differentiate(self._net.layers[index - 1], below, passed)
            delta = passed
        first = out.parts[0]
        np.matmul(delta.reshape(-1, n), rows, out=first.reshape(-1, first.shape[-1]))

    def _finish(self, later: tuple[F32, ...], models: int, rows: int) -> F32:
        """Outputs f32[c, models, rows] from the first layer's products and the later layers' parts."""
        parts = list(later)
        layers = self._net.layers
        below = self._output(0, models, rows)
        if len(layers) == 1:
            return below.transpose(1, 0, 2)
        self._activate(layers[0], below)
        for index, layer in enumerate(layers[1:], start=1):
            above, weight = self._output(index, models, rows), parts.pop(0)
            np.matmul(weight, below, out=above)
            if layer.bias is not None:
                above += parts.pop(0)[..., None]
            self._activate(layer, above)
            below = above
        return below.transpose(1, 0, 2)

    def _places(self) -> list[tuple[int, int | None]]:
        """Which parts hold each layer's weight and, after the first layer, its bias."""
        places: list[tuple[int, int | None]] = [(0, None)]
        at = 1
        for layer in self._net.layers[1:]:
            places.append((at, None if layer.bias is None else at + 1))
            at += 1 if layer.bias is None else 2
        return places

    def _output(self, index: int, models: int, rows: int) -> F32:
        """Outputs of one layer, f32[models, out, rows]; the last one's lie class by class, so that sums over
        the classes run along memory.
        """
        width, memory = self._net.layers[index].outputs, self._outputs[index]
        if index == 0 or index < len(self._net.layers) - 1:
            return self._view(memory, models, width, rows)
        return memory[: models * width * rows].reshape(width, models, rows).transpose(1, 0, 2)

    @staticmethod
    def _view(memory: F32, models: int, width: int, rows: int) -> F32:
        return memory[: models * width * rows].reshape(models, width, rows)

    def _activate(self, layer: Layer, values: F32) -> None:
        if layer.activation == "relu":
            # Against an array of zeros this runs in wide registers; against one number it does not.
            np.maximum(values, self._zeros[: values.size].reshape(values.shape), out=values)
        elif layer.activation == "tanh":
            np.tanh(values, out=values)
        elif layer.activation == "sigmoid":
            np.negative(values, out=values)
            np.exp(values, out=values)
            values += np.float32(1)
            np.reciprocal(values, out=values)

    def _differentiate(self, layer: Layer, outputs: F32, delta: F32) -> None:
        """Multiply ``delta`` by the slope of the activation, known from its outputs."""
        if layer.activation == "relu":
            mask = self._mask[: outputs.size].reshape(outputs.shape)
            np.greater(outputs, np.float32(0), out=mask)
            delta *= mask
        elif layer.activation == "tanh":
            delta *= np.float32(1) - outputs * outputs
        elif layer.activation == "sigmoid":
            delta *= outputs * (np.float32(1) - outputs)


def _recognise(graph: ModelGraph) -> LayeredNet | None:
    starts, total = {}, 0
    for entry in graph.state:
        if not entry.trainable:
            return None
        starts[entry.name] = total
        total += entry.elements
    entries = {entry.name: entry for entry in graph.state}
    given = graph.inputs[0]
    shape = tuple(size for size in given.shape[1:] if size is not None)
    if len(graph.inputs) != 1 or given.dtype != "float32" or len(shape) != len(given.shape) - 1:
        return None
    layers: list[Layer] = []
    current, width = Ref("input", given.name), shape[0] if len(shape) == 1 else None
    loss = graph.loss
    for position, node in enumerate(graph.nodes):
        if not node.args or node.args[0] != current:
            return None
        if _is_flatten(node) and not layers and shape:
            width = math.prod(shape)
        elif node.op == "aten.linear.default" and width is not None:
            layer = _layer(node, width, entries, starts)
            if layer is None:
                return None
            layers.append(layer)
            width = layer.outputs
        elif node.op in _ACTIVATIONS and layers and layers[-1].activation == "none" and not node.kwargs:
            layers[-1] = _with(layers[-1], _ACTIVATIONS[node.op])
        elif _is_log_softmax(node) and layers and position == len(graph.nodes) - 1 and loss in CLASS_LOSSES:
            loss = "nll of log_softmax"
        else:
            return None
        current = Ref("node", node.name)
    if not layers or graph.outputs != (current,) or entries or layers[-1].activation != "none":
        return None
    if loss == "nll":
        return None
    # Cross-entropy of log-probabilities is that of the numbers they were made of.
    loss = "cross_entropy" if loss == "nll of log_softmax" else loss
    return LayeredNet(tuple(layers), total, loss, given.name, shape)


def _layer(node: Node, width: int, entries: dict[str, StateEntry], starts: dict[str, int]) -> Layer | None:
    """The layer of a linear node; its weights are taken out of ``entries``, since none may be used twice."""
    if len(node.args) not in (2, 3) or node.kwargs:
        return None
    names = [ref.name for ref in node.args[1:] if isinstance(ref, Ref) and ref.kind == "state"]
    has_bias = len(node.args) == 3 and node.args[2] is not None
    if len(names) != 1 + has_bias or len(set(names)) != len(names) or any(n not in entries for n in names):
        return None
    weight = entries.pop(names[0])
    if len(weight.shape) != 2 or weight.shape[1] != width:
        return None
    if has_bias and entries.pop(names[1]).shape != weight.shape[:1]:
        return None
    return Layer(starts[names[0]], starts[names[1]] if has_bias else None, width, weight.shape[0], "none")


def _with(layer: Layer, activation: Activation) -> Layer:
    return Layer(layer.weight, layer.bias, layer.inputs, layer.outputs, activation)


def _is_flatten(node: Node) -> bool:
    return node.op == "aten.flatten.using_ints" and node.args[1:] in ((1,), (1, -1)) and not node.kwargs


def _is_log_softmax(node: Node) -> bool:
    return node.op == "aten.log_softmax.int" and node.args[1:] in ((1,), (-1,)) and not node.kwargs
