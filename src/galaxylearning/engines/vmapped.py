"""Whole cohorts as one batch of models, by ``torch.func.vmap``: for accelerators, and the same on a CPU.

Every data owner has weights of its own; one pass through the graph computes all of their gradients. Batches
of different sizes share a pass by weights: a row that only fills up a batch counts 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.func import grad_and_value, vmap

from galaxylearning.engines.batching import padded_batches, shapes_of
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import TOLERANCE_LEVELS, Trained, Training, require_state
from galaxylearning.engines.lowering import (
    Convolutions,
    Lowering,
    Precision,
    has_conv2d,
    is_recurrent,
    lowered,
    why_not_stackable,
)
from galaxylearning.engines.measures import levels_apart
from galaxylearning.engines.memory import MIB, require_budget
from galaxylearning.engines.optimisers import Optimiser, Tensors
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.vmapped_setup import StateLayout, checked_labels, device_of
from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.graph.document import DEFAULT_LIMITS, ModelGraph
from galaxylearning.graph.flat import FlatModel
from galaxylearning.graph.infer import infer
from galaxylearning.graph.losses import per_sample
from galaxylearning.graph.program import Program
from galaxylearning.graph.weights import weights_from_bytes, weights_size
from galaxylearning.learning.vectors import F32, I64, require_number

Wanted: TypeAlias = Literal["float32", "bfloat16", "auto"]

_SAMPLE = 4
"""So many data owners decide whether bfloat16 is precise enough."""
_TIMED = 32
"""At most so many data owners decide how convolutions are computed."""
_ACTIVATION_COPIES = 3
"""A training step holds its activations, their gradients and the parts being worked on."""


class VmappedEngine:
    """Implements ``Engine`` for graphs in which rows do not influence each other.

    ``precision="auto"`` takes bfloat16 for products if a few data owners' integer updates (clipped to
    ``clip_norm``, 16 bits) then stay within half the tolerance between engines, else float32.
    ``convolutions`` are grouped or unfolded as asked, or by timing both on an accelerator. What was taken is
    in ``precision``, ``convolutions`` and, for people, ``chosen``. ``budget_mib`` bounds what the engine adds
    to the process; on an accelerator those are the results, and ``device_budget_mib`` (the same unless given)
    bounds what it holds there.

    Raises:
        ConfigRefused: the graph cannot be trained like this (and why), the device is not there, or a single
            data owner does not fit the budget.
        DataRefused: rows or labels are not what the graph takes; names the data owner.
        GraphRefused: graph or weights are not acceptable.
    """

    name = "vmapped"

    def __init__(
        self,
        graph: ModelGraph,
        weights: bytes,
        cohort: Cohort,
        training: Training,
        *,
        device: str = "cuda",
        precision: Wanted = "float32",
        budget_mib: float = 1024.0,
        device_budget_mib: float | None = None,
        clip_norm: float = 1.0,
        convolutions: Convolutions | None = None,
    ) -> None:
        _require_options(precision, convolutions, clip_norm, budget_mib, device_budget_mib)
        reason = why_not_stackable(graph)
        if reason is not None:
            raise ConfigRefused(f"cannot train all data owners at once: {reason}", where="engine vmapped")
        self._device = device_of(device)
        self._graph, self._cohort, self._training = graph, cohort, training
        self._weights = weights_from_bytes(graph, weights, max_bytes=weights_size(graph))
        self._program = Program(graph)
        self._layout = StateLayout(graph)
        self._is_recurrent = is_recurrent(graph)
        self._steps, self._widths = shapes_of(cohort.counts, training.plan)
        self._clip_norm = clip_norm
        self._flat: FlatModel | None = None
        torch.set_num_threads(1)
        labels = checked_labels(graph, cohort)
        self.precision: Precision = "float32"
        self.convolutions: Convolutions = convolutions or "grouped"
        patches = self._probe()
        time_both = convolutions is None and self._device.type == "cuda" and has_conv2d(graph)
        if not (time_both or convolutions == "unfolded"):
            patches = 0
        self._plan_memory(budget_mib, budget_mib if device_budget_mib is None else device_budget_mib, patches)
        self._inputs = self._resident(cohort.pool.inputs)
        self._labels = torch.from_numpy(labels).to(self._device)
        notes = [self._time_convolutions()] if time_both else []
        if precision != "float32":
            notes.append(self._settle_precision(precision))
        self.chosen = "; ".join([f"vmapped on {self._device}", *notes])

    # ---- the interface

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """See ``Engine.train``."""
        require_state(params, buffers, parameters=self._layout.parameters, n_buffers=self._layout.buffers)
        self._cohort.require_owners(owners)
        for start in range(0, len(owners), self._window):
            yield self._train_window(params, buffers, owners[start : start + self._window], round_index)

    def close(self) -> None:
        """Let go of the device's memory; training is over."""
        self._inputs = self._labels = torch.empty(0)
        self._flat = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- a window of data owners, given back at once

    def _train_window(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Trained:
        start, fixed = self._layout.tensors(self._weights, params, buffers, self._device)
        size = len(owners)
        # Falling numbers of steps keep those still training in front; like batches next to each other.
        order = np.lexsort((-self._widths[owners], -self._steps[owners]))
        updates = torch.empty(
            (size, self._layout.parameters), dtype=torch.float32, pin_memory=self._device.type == "cuda"
        )
        losses = np.empty((size, 2))
        sound = np.empty(size, np.bool_)
        first = 0
        while first < size:
            part = order[first : first + self._chunk]
            try:
                self._train_chunk(start, fixed, owners[part], round_index, part, updates, losses, sound)
            except torch.OutOfMemoryError:
                self._halve()
                continue
            first += len(part)
        found = Trained(
            owners,
            updates.numpy(),
            np.broadcast_to(buffers, (size, buffers.size)),
            self._steps[owners],
            losses,
        )
        return found if sound.all() else self._retrain(found, sound, params, buffers, round_index)

    def _train_chunk(
        self,
        start: Tensors,
        fixed: Tensors,
        owners: I64,
        round_index: int,
        places: I64,
        updates: torch.Tensor,
        losses: np.ndarray[Any, Any],
        sound: np.ndarray[Any, Any],
    ) -> None:
        """Train ``owners`` and write what they gave at ``places`` of the last three arguments."""
        size, width = len(owners), int(self._widths[owners].max())
        current = {name: tensor.expand(size, *tensor.shape).clone() for name, tensor in start.items()}
        optimiser = Optimiser(self._training.plan, start, current)
        ends = torch.empty((size, 2), device=self._device)
        finite = torch.ones(size, dtype=torch.bool, device=self._device)
        with lowered(self.precision, self.convolutions, is_recurrent=self._is_recurrent):
            run = padded_batches(self._cohort, self._training, owners.tolist(), round_index, width)
            for step, (rows, weights) in enumerate(run, start=1):
                active = len(rows)
                slopes, loss = self._gradients(
                    {name: tensor[:active] for name, tensor in current.items()}, fixed, rows, weights
                )
                ends[:active, 1] = loss
                if step == 1:
                    ends[:, 0] = loss
                finite[:active] &= torch.isfinite(loss)
                optimiser.step(slopes, active, step)
        flat = torch.cat([(current[name] - start[name]).reshape(size, -1) for name in start], 1)
        finite &= torch.isfinite(flat).all(1)
        updates[torch.from_numpy(places)] = flat.cpu()
        losses[places] = ends.cpu().numpy()
        sound[places] = finite.cpu().numpy()

    def _gradients(
        self, current: Tensors, fixed: Tensors, rows: I64, weights: F32
    ) -> tuple[Tensors, torch.Tensor]:
        """Every active owner's gradient and loss over its own rows."""
        where = torch.from_numpy(rows).to(self._device)
        shares = torch.from_numpy(weights).to(self._device)
        if self._inputs.device == self._device:
            inputs = self._inputs[where]
        else:
            inputs = self._inputs[torch.from_numpy(rows)].to(self._device)

        def loss(
            params: Tensors, batch: torch.Tensor, targets: torch.Tensor, share: torch.Tensor
        ) -> torch.Tensor:
            outputs, _ = self._program({**fixed, **params}, batch, train=True)
            return (per_sample(self._graph.loss, outputs, targets) * share).sum()

        slopes, values = vmap(grad_and_value(loss))(current, inputs, self._labels[where], shares)
        return slopes, values

    def _retrain(
        self, found: Trained, sound: np.ndarray[Any, Any], params: F32, buffers: F32, round_index: int
    ) -> Trained:
        """Ask the reference about data owners whose training was not finite: it knows the step."""
        if self._flat is None:
            self._flat = FlatModel(self._graph, self._weights)
        engine = ReferenceEngine(self._flat, self._cohort, self._training)
        steps, failures = found.steps.copy(), {}
        for place in np.flatnonzero(~sound).tolist():
            owner = int(found.owners[place])
            try:
                alone = engine.train_one(params, buffers, owner, round_index)
            except UpdateRefused as refused:
                failures[owner] = str(refused)
                found.updates[place], steps[place] = 0.0, 0
                found.losses[place] = np.nan
            else:
                found.updates[place] = alone.update
                found.losses[place] = alone.first_loss, alone.last_loss
        kept = np.array(found.buffers)
        kept[[int(owner) in failures for owner in found.owners]] = 0.0
        return Trained(found.owners, found.updates, kept, steps, found.losses, failures)

    # ---- getting ready

    def _probe(self) -> int:
        """Make sure that a row's output depends on no other row; give the bytes of patches a row unfolds to.

        Tried on real rows and weights moved a little, so that nothing is hidden by zeros.
        """
        rng = np.random.default_rng(0)
        state = {}
        for entry in self._graph.state:
            tensor = self._weights[entry.name].detach()
            if tensor.is_floating_point():
                noise = torch.from_numpy(rng.standard_normal(entry.shape)).to(tensor.dtype)
                tensor = tensor + 0.05 * noise
            state[entry.name] = tensor.to(self._device)
        rows = self._cohort.index[: min(3, len(self._cohort.index))]
        few = torch.from_numpy(np.ascontiguousarray(self._cohort.pool.inputs[rows]))
        more = torch.cat([few, *[few[:1]] * 4])
        with torch.no_grad(), lowered("float32", "unfolded", is_recurrent=self._is_recurrent) as mode:
            alone, _ = self._program(state, few.to(self._device), train=True)
            beside, _ = self._program(state, more.to(self._device), train=True)
        if not torch.allclose(alone, beside[: len(few)], rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ConfigRefused(
                "cannot train all data owners at once: rows of a batch influence each other",
                where="engine vmapped",
            )
        patches = mode.patch_bytes if isinstance(mode, Lowering) else 0
        return patches // (len(few) + len(more))

    def _plan_memory(self, budget_mib: float, device_budget_mib: float, patch_bytes: int) -> None:
        """How many data owners train at once (``_chunk``) and are given back at once (``_window``).

        On an accelerator results take half of the process's budget, and the pool may take half of the
        device's; on a CPU results take a quarter, and the pool is the caller's.
        """
        width = int(self._widths.max())
        pool = self._cohort.pool.inputs
        update = 4 * self._layout.parameters
        one = update * (5 + Optimiser.vectors(self._training.plan))
        activations = infer(self._graph, width, DEFAULT_LIMITS).activation_bytes
        one += _ACTIVATION_COPIES * (activations + width * patch_bytes)
        one += 2 * width * (pool.nbytes // max(1, len(pool)))
        budget, state = int(budget_mib * MIB), self._layout.state_bytes
        if self._device.type == "cpu":
            require_budget((one + update + state) / MIB, budget_mib, "training one data owner")
            self._is_resident = False
            window = (budget - state) // 4 // update
            left = budget - state - min(window, len(self._cohort)) * update
        else:
            require_budget(2 * update / MIB, budget_mib, "one data owner's result")
            require_budget((one + state) / MIB, device_budget_mib, "training one data owner on the device")
            on_device = int(device_budget_mib * MIB)
            self._is_resident = pool.nbytes + state + one <= on_device and pool.nbytes <= on_device // 2
            window = budget // 2 // update
            left = on_device - state - (pool.nbytes if self._is_resident else 0)
        self._window = int(max(1, min(len(self._cohort), window)))
        self._chunk = int(max(1, min(len(self._cohort), left // one)))

    def _resident(self, inputs: np.ndarray[Any, Any]) -> torch.Tensor:
        """The pool's inputs on the device if they may stay there, else as they lie."""
        tensor = torch.from_numpy(inputs if inputs.flags.writeable else inputs.copy())
        return tensor.to(self._device) if self._is_resident else tensor

    def _halve(self) -> None:
        """After the device ran out of memory: fewer data owners at once, for good.

        Raises:
            ConfigRefused: it was a single one.
        """
        torch.cuda.empty_cache()
        if self._chunk == 1:
            raise ConfigRefused("the device cannot hold the training of one data owner", where="budget_mib")
        self._chunk //= 2

    def _time_convolutions(self) -> str:
        """Train a few data owners both ways and keep the faster one."""
        owners = np.arange(min(_TIMED, self._chunk), dtype=np.int64)
        seconds: dict[Convolutions, float] = {}
        ways: tuple[Convolutions, ...] = ("grouped", "unfolded")
        for way in ways:
            self.convolutions = way
            for _ in range(2):
                begun = time.perf_counter()
                self._sample(owners)
                seconds[way] = time.perf_counter() - begun
        self.convolutions = min(ways, key=seconds.__getitem__)
        told = ", ".join(f"{way} {1e3 * seconds[way]:.1f} ms" for way in ways)
        return f"convolutions {self.convolutions} ({len(owners)} owners: {told})"

    def _settle_precision(self, wanted: Wanted) -> str:
        """Set ``precision`` as wanted or, for auto, as measured; give the reason."""
        if wanted != "auto":
            self.precision = "bfloat16"
            return "bfloat16 as asked"
        owners = np.unique(np.linspace(0, len(self._cohort) - 1, _SAMPLE).astype(np.int64))
        exact = self._sample(owners)
        self.precision = "bfloat16"
        narrow = self._sample(owners)
        worst = 0
        for one, other in zip(exact, narrow, strict=True):
            worst = max(worst, levels_apart(one, other, self._clip_norm))
        if worst > TOLERANCE_LEVELS // 2:
            self.precision = "float32"
        return f"{self.precision} (bfloat16 moves integers by up to {worst} levels)"

    def _sample(self, owners: I64) -> F32:
        params, buffers = self._layout.initial(self._weights)
        # A copy, because the results' memory is used again.
        return np.concatenate([found.updates.copy() for found in self.train(params, buffers, owners, 0)])


def _require_options(
    precision: str,
    convolutions: str | None,
    clip_norm: float,
    budget_mib: float,
    device_budget_mib: float | None,
) -> None:
    if precision not in ("float32", "bfloat16", "auto"):
        raise ConfigRefused(f"must be float32, bfloat16 or auto, not {precision!r}", where="precision")
    if convolutions not in (None, "grouped", "unfolded"):
        raise ConfigRefused(f"must be grouped or unfolded, not {convolutions!r}", where="convolutions")
    require_number(clip_norm, "clip_norm", low=0, high=1e6, low_open=True)
    for name, budget in (("budget_mib", budget_mib), ("device_budget_mib", device_budget_mib)):
        if budget is not None:
            require_number(budget, name, low=0, high=1 << 30, low_open=True)
