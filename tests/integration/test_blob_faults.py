"""A few of every kind of blob fault; ``make blob-faults`` runs thousands."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks is no installed package: it lies beside the tests

from benchmarks.blob_faults.__main__ import run  # noqa: E402
from benchmarks.blob_faults.trials import damaged  # noqa: E402

from galaxylearning.storage.replicated_blobs import altered_kind  # noqa: E402


def test_every_fault_is_found_named_and_repaired() -> None:
    told: list[str] = []
    rows = anyio.run(run, 1, 7, told.append)
    assert [line for line in told if "VIOLATION" in line] == []
    assert rows[-1] == {"row": "all faults", "count": len(rows) - 1, "violations": 0, "target": 0}
    assert len(rows) == 3 * (5 + 5 + 1) + 1 + 1


@pytest.mark.parametrize("kind", ["flipped", "truncated", "swapped"])
def test_damage_is_recognised_and_never_the_blob_itself(kind: str) -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        data, other = rng.bytes(32), rng.bytes(32 if seed % 2 else 33)
        found = damaged(data, kind, other, rng)
        assert found is not None
        assert found != data
        assert altered_kind(found, data) == kind
