"""Two fixed pieces of federated work that every system is given alike: data, weights, schedule, checksum.

W1 is many small owners of a dense model: scikit-learn's digits cut over 100 data owners by Dirichlet(0.5),
an MLP 64-32-10 (2,410 parameters), everybody takes part in each of 20 rounds. W2 is fewer owners of a
convolution net: synthetic 32x32x3 images, 50 to each of 100 owners, LeNet (62,006 parameters), 20 owners in
each of five rounds. Rows are taken as they lie, without shuffling, so that all systems compute the same and
their final weights can be compared.

Knows no library: whoever measures must not share a library's pages with what is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"

CHECKSUM_TOLERANCE = 1e-3
"""Systems did the same work when their checksums differ by less than this part of the sum of magnitudes."""
PLACED_TOLERANCE = 5e-3
"""The same for the placed sums, over the root of the number of parameters. One data owner in a hundred for
whom a ReLU or maximum falls otherwise within the last bit moves W2's by half of this (docs/engines.md)."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained, by how many, for how long; ``shapes`` name the parameters as PyTorch does."""

    name: str
    owners: int
    per_round: int
    rounds: int
    batch_size: int
    learning_rate: float
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(shape) for _, shape in self.shapes)


W1 = Workload(
    "W1",
    owners=100,
    per_round=100,
    rounds=20,
    batch_size=32,
    learning_rate=0.5,
    shapes=(
        ("fc1.weight", (32, 64)),
        ("fc1.bias", (32,)),
        ("fc2.weight", (10, 32)),
        ("fc2.bias", (10,)),
    ),
)
W2 = Workload(
    "W2",
    owners=100,
    per_round=20,
    rounds=5,
    batch_size=10,
    learning_rate=0.2,
    shapes=(
        ("conv1.weight", (6, 3, 5, 5)),
        ("conv1.bias", (6,)),
        ("conv2.weight", (16, 6, 5, 5)),
        ("conv2.bias", (16,)),
        ("fc1.weight", (120, 400)),
        ("fc1.bias", (120,)),
        ("fc2.weight", (84, 120)),
        ("fc2.bias", (84,)),
        ("fc3.weight", (10, 84)),
        ("fc3.bias", (10,)),
    ),
)
WORKLOADS = {work.name: work for work in (W1, W2)}
