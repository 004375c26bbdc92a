"""How hard the masks are to break by lattice reduction: a small estimate of our own, for cross-checking.

The primal attack (unique shortest vector) under the geometric series assumption, cost 2^(0.292 b) for a block
size b ("core-SVP", without the polynomial factors that make real attacks dearer). The secret is uniform; the
first n samples turn it into one distributed as the error, as Applebaum et al. (2009) show, so that both parts
of the short vector have the error's size. Figures of the lattice-estimator, which knows more attacks and
better cost models, are in docs/secure-aggregation.md with the way to repeat them.

Source: Alkim, Ducas, Poeppelmann, Schwabe, "Post-quantum key exchange: a new hope" (2016), section 6;
Albrecht, Goepfert, Virdia, Wunderer, "Revisiting the expected cost of solving uSVP" (2017).

Run as: python -m benchmarks.secagg.lattice
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEGREE = 2048
SIGMA = math.sqrt(10.5)
LOG2_NARROW, LOG2_WIDE = 39.9, 47.99


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cheapest attack: block size, dimension of the lattice, and log2 of the classical cost."""

    block_size: int
    dimension: int

    @property
    def bits(self) -> float:
        """log2 of the cost, core-SVP, classical."""
        return 0.292 * self.block_size


def _root_hermite(block_size: int) -> float:
    """log2 of delta for this block size (Chen's formula)."""
    b = float(block_size)
    return math.log2(b / (2 * math.pi * math.e) * (math.pi * b) ** (1 / b)) / (2 * (b - 1))


def primal(dimension: int, log2_q: float, sigma: float) -> Estimate:
    """The block size that finds the secret of LWE with ``dimension`` unknowns and as many samples as wanted.

    Raises:
        ValueError: none up to 2,000 does.
    """
    for block_size in range(60, 2001):
        found = _best_dimension(dimension, log2_q, sigma, block_size)
        if found is not None:
            return Estimate(block_size, found)
    raise ValueError("harder than a block size of 2,000")


def _best_dimension(unknowns: int, log2_q: float, sigma: float, block_size: int) -> int | None:
    delta = _root_hermite(block_size)
    short = math.log2(sigma) + 0.5 * math.log2(block_size)
    for samples in range(unknowns // 4, 2 * unknowns, 8):
        d = unknowns + samples + 1
        if short <= (2 * block_size - d - 1) * delta + log2_q * samples / d:
            return d
    return None


def sigma_within_sum(weights: Sequence[int], sigma: float = SIGMA) -> float:
    """The error that still hides the first of the honest owners with these weights, once their sum is opened.

    Opened with ``sum w x`` is ``sum w e``. Give the attacker all honest errors but two: what stays of them is
    the line ``w_1 e_1 + w_2 e_2 = v``, on which the first moves in steps of ``w_2 / g`` with a deviation of
    ``sigma * g / |(w_1, w_2)|`` steps (g their greatest common divisor). As a step is invertible modulo q,
    this is LWE with an error of that deviation. The best partner counts.
    """
    first, rest = weights[0], weights[1:]
    return max((sigma * math.gcd(first, other) / math.hypot(first, other) for other in rest), default=0.0)


def main() -> None:
    """Print the estimates."""
    print("our own estimate: primal uSVP, geometric series, core-SVP 2^(0.292 b), classical")
    for name, log2_q in (("narrow", LOG2_NARROW), ("wide", LOG2_WIDE)):
        for hints in (0, 33, 128):
            found = primal(DEGREE - hints, log2_q, SIGMA)
            print(
                f"{name:6} log2 q {log2_q}, {hints:3} scalars opened: block size {found.block_size}, "
                f"dimension {found.dimension}, 2^{found.bits:.1f}"
            )
        for weights in ((1, 1), (1, 2), (2, 3), (15, 15), (14, 15)):
            sigma = sigma_within_sum(weights)
            bits = f"2^{primal(DEGREE, log2_q, sigma).bits:.1f}" if sigma >= 0.3 else "broken"
            print(f"{name:6} sum opened over honest weights {weights}: error {sigma:.2f}, {bits}")


if __name__ == "__main__":
    main()
