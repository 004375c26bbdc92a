"""How far engines are apart."""

from __future__ import annotations

import numpy as np

from galaxylearning.learning.quantise import Quantizer, clip_norm
from galaxylearning.learning.vectors import F32

BITS = 16
"""Updates are compared as integers of so many bits."""


def levels_apart(one: F32, other: F32, max_norm: float) -> int:
    """How far the integers of two updates f32[P] differ at most, clipped to ``max_norm`` as a job would."""
    quantizer = Quantizer(BITS, max_norm)
    first, second = (
        quantizer.quantize(clip_norm(update, max_norm)).astype(np.int64) for update in (one, other)
    )
    return int(np.abs(first - second).max(initial=0))
