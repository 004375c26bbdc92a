"""What noisy releases add up to: epsilon at a delta, by Rényi accounting of the dp-accounting library.

Rényi bounds hold for the discrete Gaussian as for the real one, add up over rounds, jobs and years, and cost
the same however many releases there were. The library takes a while to load: it is imported by who asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from galaxylearning.learning.local import MAX_ROWS
from galaxylearning.learning.plan import MAX_STEPS
from galaxylearning.learning.vectors import require_integer, require_number

if TYPE_CHECKING:
    from dp_accounting import DpEvent

ORDERS: Final = (*range(2, 65), *range(72, 129, 8), 160, 192, 256, 384, 512, 1024)
"""Orders of the Rényi divergence that are tried; whole ones, for which subsampling has a finite sum."""
FINE_ORDERS: Final = (*(1.0 + step / 20 for step in range(1, 200)), *ORDERS[9:])
"""Where nothing is subsampled, the divergence has a closed form at every order."""
MAX_TIMES: Final = 10**9


@dataclass(frozen=True, slots=True)
class Release:
    """Something about the rows that left them: ``steps`` Gaussian mechanisms, one after the other.

    ``multiplier`` is the noise's standard deviation over the sensitivity. Each step looks at every row with
    probability ``expected / rows``, at all of them where that is 1 or more.

    Raises:
        ValueError: naming the field and what is allowed.
    """

    multiplier: float
    steps: int = 1
    expected: int = 1
    rows: int = 1

    def __post_init__(self) -> None:
        require_number(self.multiplier, "multiplier", low=1e-6, high=1e6, error=ValueError)
        require_integer(self.steps, "steps", low=1, high=MAX_STEPS, error=ValueError)
        require_integer(self.expected, "expected", low=1, high=MAX_ROWS, error=ValueError)
        require_integer(self.rows, "rows", low=1, high=MAX_ROWS, error=ValueError)

    @property
    def sampling_rate(self) -> float:
        """Probability that a step looks at a row, in (0, 1]."""
        return min(1.0, self.expected / self.rows)


def epsilon(releases: Iterable[tuple[Release, int]], delta: float) -> float:
    """The epsilon of all ``releases`` together, each made so many times, at ``delta``.

    Infinite where the noise is so small that no bound of use exists.

    Raises:
        ValueError: ``delta`` outside (0, 1), or a number of times out of range.
    Source: Mironov, "Rényi Differential Privacy" (arXiv 1702.07476); Mironov, Talwar, Zhang, "Rényi
        Differential Privacy of the Sampled Gaussian Mechanism" (arXiv 1908.10530); Canonne, Kamath, Steinke
        (arXiv 2004.00010), theorem 14, for the discrete Gaussian, and proposition 12 for delta.
    """
    require_number(delta, "delta", low=0, high=1, low_open=True, high_open=True, error=ValueError)
    counts: dict[Release, int] = {}
    for release, times in releases:
        counts[release] = counts.get(release, 0) + require_integer(
            times, "times", low=0, high=MAX_TIMES, error=ValueError
        )
    return _epsilon(frozenset(item for item in counts.items() if item[1]), delta)


@lru_cache(maxsize=1024)
def _epsilon(counts: frozenset[tuple[Release, int]], delta: float) -> float:
    """Kept, for a node asks the same at every turn."""
    if not counts:
        return 0.0
    from dp_accounting import SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    is_sampled = any(release.expected < release.rows for release, _ in counts)
    accountant = RdpAccountant(list(ORDERS if is_sampled else FINE_ORDERS))
    # In one order, so that equal releases give equal digits.
    for release, times in sorted(counts, key=repr):
        accountant.compose(SelfComposedDpEvent(_event(release), release.steps * times))
    found = float(accountant.get_epsilon(delta))
    return math.inf if math.isnan(found) else found


def _event(release: Release) -> DpEvent:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    event = GaussianDpEvent(release.multiplier)
    if release.expected >= release.rows:
        return event
    return PoissonSampledDpEvent(release.sampling_rate, event)
