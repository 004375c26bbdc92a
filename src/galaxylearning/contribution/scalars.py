"""Values where nobody sees an update: from one product of each with a public vector, and what the gate knows.

The product with the integrated gradient is the value. Its standard error would take a product for every block
of the hidden set; here it is estimated from how the gradient's blocks differ *along* the hidden-set step and
*across* it, for an update of this length and this cosine to that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from galaxylearning.contribution.path import PathScorer, PathValue
from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import F64, I64, require_vector, stable_dot


@dataclass(frozen=True, slots=True)
class UnitErrors:
    """Standard errors of ``<G, u>`` for updates u of length 1, over the choice of the hidden set.

    ``along`` is that of the hidden-set step, ``across`` the root mean square over directions at right angles
    to it, in units of the loss per sample and unit of a parameter.
    """

    along: float
    across: float

    @classmethod
    def of(cls, scorer: PathScorer, step: F64, samples: F64) -> UnitErrors:
        """From the hidden-set step f64[P] and gradients of parts of the gating half f64[k, P].

        Those parts stand for data owners: what single ones have beside the step is where updates lie across
        it. The gating half shares no row with the paying one, whose spread is measured.

        Raises:
            DataRefused: another type or size, or numbers that are not finite.
        """
        direction = require_vector(step, "step", np.float64, error=DataRefused)
        if not isinstance(samples, np.ndarray) or samples.ndim != 2 or samples.shape[1] != direction.size:
            raise DataRefused(f"must be a matrix of {direction.size} columns", where="samples")
        unit = _unit(direction)
        apart = []
        for index, sample in enumerate(samples):
            row = require_vector(sample, f"samples[{index}]", np.float64, error=DataRefused)
            across = _unit(row - stable_dot(row, unit) * unit)
            apart.append(scorer.error_along(across) ** 2)
        return cls(scorer.error_along(unit), float(np.sqrt(np.mean(apart))) if apart else 0.0)

    def errors(self, lengths: F64, cosines: F64) -> F64:
        """Standard errors f64[m] of updates of these lengths f64[m] and cosines f64[m] to the step."""
        part = np.clip(cosines, -1.0, 1.0) ** 2
        found: F64 = lengths * np.sqrt(part * self.along**2 + (1.0 - part) * self.across**2)
        return found


def values_of_scalars(
    scalars: I64, shares: F64, *, unit: float, errors: F64, gain_estimate: float
) -> PathValue:
    """Values of updates of which only ``<g, x>`` is known, int64[m], for one public integer vector g.

    ``unit`` is what one of these is worth in units of the loss per sample, ``errors`` f64[m] are the standard
    errors of that, both before the share f64[m].
    """
    return PathValue(shares * unit * scalars + 0.0, np.abs(shares * errors) + 0.0, gain_estimate)


def _unit(vector: F64) -> F64:
    """Scaled to length 1; zero stays zero."""
    largest = float(np.max(np.abs(vector), initial=0.0))
    if largest == 0.0:
        return vector
    scaled = vector / largest
    found: F64 = scaled / np.sqrt(stable_dot(scaled, scaled))
    return found
