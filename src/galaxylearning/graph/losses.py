"""The named losses: what a job may minimise, per sample and on average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from galaxylearning.graph.labels import prepare_labels

Loss: TypeAlias = Callable[..., torch.Tensor]

LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "cross_entropy": F.cross_entropy,
        "nll": F.nll_loss,
        "bce_with_logits": F.binary_cross_entropy_with_logits,
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "huber": F.huber_loss,
    }
)
"""Name -> function of (outputs, labels, reduction=)."""


def batch_loss(loss: str, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss over the batch; a scalar."""
    return LOSSES[loss](outputs, labels, reduction="mean")


def per_sample(loss: str, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of each sample, shape [n]: the mean over whatever dimensions follow the batch."""
    values = LOSSES[loss](outputs, labels, reduction="none")
    return values if values.dim() == 1 else values.flatten(1).mean(1)


def check_labels(loss: str, labels: np.ndarray, output_shape: tuple[int, ...]) -> torch.Tensor:
    """Labels as a tensor of exactly the shape, type and range the loss needs.

    Raises:
        DataRefused: as ``prepare_labels``.
    """
    converted = prepare_labels(loss, labels, output_shape)
    return torch.from_numpy(converted if converted.flags.writeable else converted.copy())
