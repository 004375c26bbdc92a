"""What every measured program says at its end: one JSON line that the measuring parent reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from benchmarks.data import Array, checksums
from benchmarks.measuring import PREFIX


def say(version: str, marks: Sequence[float], weights: dict[str, Array], **extra: object) -> None:
    """Print the result; ``marks`` are clock readings in seconds before the first and after every round."""
    magnitude, placed = checksums(weights)
    rounds = [after - before for before, after in pairwise(marks)]
    result = {"version": version, "rounds": rounds, "checksum": magnitude, "checksum_placed": placed}
    print(PREFIX + json.dumps(result | extra), flush=True)
