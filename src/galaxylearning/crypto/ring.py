"""The ring R_q = Z_q[X]/(X^2048 + 1)."""

from __future__ import annotations

from typing import Final

DEGREE: Final = 2048
"""N: coefficients of a polynomial."""
