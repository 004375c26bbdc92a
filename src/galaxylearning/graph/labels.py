"""Labels as each named loss takes them; knows no tensor library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import DataRefused
from galaxylearning.graph.document import LOSS_NAMES

CLASS_LOSSES = frozenset({"cross_entropy", "nll"})
"""Losses whose labels are class numbers; outputs are [n, classes, ...]."""

LABEL_DTYPE: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {name: np.dtype(np.int64 if name in CLASS_LOSSES else np.float32) for name in LOSS_NAMES}
)
"""Element type of the labels that each loss takes."""


def label_shape(loss: str, output_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the labels that go with outputs of ``output_shape``."""
    return (output_shape[0], *output_shape[2:]) if loss in CLASS_LOSSES else output_shape


def prepare_labels(loss: str, labels: npt.NDArray[Any], output_shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Labels as a contiguous array of exactly the shape, type and range the loss needs.

    Integers of any width are taken for class numbers and real targets, floats for real targets. For real
    targets, ``[n]`` goes with outputs ``[n, 1]``.

    Raises:
        DataRefused: the labels have another type or shape, or a value outside the range.
    """
    wanted = label_shape(loss, output_shape)
    kind = labels.dtype.kind
    if loss in CLASS_LOSSES:
        if kind not in "iu":
            raise DataRefused(f"{loss} takes integer class numbers, not {labels.dtype}", where="labels")
        if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= output_shape[1]):
            raise DataRefused(f"class numbers must be in [0, {output_shape[1] - 1}]", where="labels")
    elif kind not in "iufb":
        raise DataRefused(f"{loss} takes numbers, not {labels.dtype}", where="labels")
    if labels.shape != wanted:
        if not (loss not in CLASS_LOSSES and wanted[-1:] == (1,) and labels.shape == wanted[:-1]):
            raise DataRefused(f"shape must be {list(wanted)}, not {list(labels.shape)}", where="labels")
        labels = labels.reshape(wanted)
    converted = np.ascontiguousarray(labels, dtype=LABEL_DTYPE[loss])
    if loss == "bce_with_logits" and converted.size and not (converted.min() >= 0 and converted.max() <= 1):
        raise DataRefused("targets must be in [0, 1]", where="labels")
    return converted
