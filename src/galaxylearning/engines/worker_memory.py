"""What the workers engine needs in memory, worked out before anything is allocated."""

from __future__ import annotations

from galaxylearning.engines.memory import MIB
from galaxylearning.engines.shared_memory import Layout
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.plan import LocalPlan

ZYGOTE_BYTES = 240 * MIB
"""An interpreter with the tensor library loaded, once for all workers."""
WORKER_BYTES = 20 * MIB
"""What a forked worker changes of it, with the kernels' own buffers."""

_VECTORS = 6
"""Parameter-sized vectors of plain SGD: leaves, gradient (parts, joined), weights, update, a temporary."""


def shared_bytes(layout: Layout, weights_bytes: int) -> int:
    """What exists once: the zygote with the initial weights, the round's model, the slots."""
    places = layout.workers * 2 * layout.place_bytes
    return ZYGOTE_BYTES + 2 * weights_bytes + layout.size - places


def worker_bytes(layout: Layout, weights_bytes: int, activation_bytes: int, plan: LocalPlan) -> int:
    """What each worker takes: its places, its state, the optimiser's vectors, two passes' activations.

    ``activation_bytes`` are those of the largest batch, of the forward pass; the gradients of them take as
    much again.
    """
    vectors = _VECTORS + (2 if plan.optimizer == "adam" else 1)
    batch = min(plan.batch_size, layout.rows) * (layout.row.input_bytes + layout.row.label_bytes)
    own = 2 * layout.place_bytes + batch + weights_bytes + 2 * activation_bytes
    return WORKER_BYTES + own + 4 * vectors * layout.parameters


def fitting_workers(shared: int, each: int, budget: int, *, least: int, most: int) -> int:
    """How many workers fit ``budget`` bytes, at most ``most``.

    Raises:
        ConfigRefused: fewer than ``least``; says how many MiB those would need.
    """
    if shared + least * each > budget:
        raise ConfigRefused(
            f"{least} worker{'s' if least > 1 else ''} of this model would need "
            f"{-(-(shared + least * each) // MIB)} MiB, the budget is {budget // MIB} MiB",
            where="memory budget",
        )
    return min(most, (budget - shared) // max(1, each))
