"""Gradients of single samples: the graph is a function, so they come from ``vmap(grad)`` over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.losses import batch_loss
from galaxylearning.graph.program import Program

F32: TypeAlias = npt.NDArray[np.float32]
Tensors: TypeAlias = dict[str, torch.Tensor]


def per_example(
    program: Program,
    state: Mapping[str, torch.Tensor],
    trained: Sequence[str],
    inputs: Sequence[torch.Tensor],
    targets: torch.Tensor,
    rng: np.random.Generator | None,
) -> F32:
    """Gradient of every sample's loss with respect to ``trained``, joined in that order, float32 [n, P].

    What cannot be vectorised is worked off sample by sample, with the same result.

    Raises:
        GraphRefused: an operation failed.
    """
    leaves = {name: state[name].detach() for name in trained}

    def loss(params: Tensors, target: torch.Tensor, *sample: torch.Tensor) -> torch.Tensor:
        outputs, _ = program({**state, **params}, *(x[None] for x in sample), train=True, rng=rng)
        return batch_loss(program.graph.loss, outputs, target[None])

    slopes = grad(loss)
    try:
        # The fused kernels of attention have no batched derivatives.
        with sdpa_kernel(SDPBackend.MATH):
            found = vmap(slopes, in_dims=(None, *(0 for _ in range(1 + len(inputs)))))(
                leaves, targets, *inputs
            )
    except (GraphRefused, RuntimeError):
        singles = [slopes(leaves, target, *sample) for target, *sample in zip(targets, *inputs, strict=True)]
        found = {name: torch.stack([single[name] for single in singles]) for name in trained}
    joined = [found[name].reshape(len(targets), -1) for name in trained]
    return torch.cat(joined, dim=1).numpy() if joined else np.empty((len(targets), 0), np.float32)
