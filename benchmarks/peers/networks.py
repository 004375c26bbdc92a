"""The two networks as PyTorch modules, for every system that takes those."""

from __future__ import annotations

import torch
from benchmarks.data import F32
from benchmarks.workloads import Workload
from torch import nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)


class Dense(nn.Module):
    """MLP 64-32-10."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10] of inputs [n, 64]."""
        logits: torch.Tensor = self.fc2(F.relu(self.fc1(inputs)))
        return logits


class Convolutional(nn.Module):
    """LeNet for three channels of 32x32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10] of inputs [n, 3, 32, 32]."""
        maps = F.max_pool2d(F.relu(self.conv1(inputs)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        hidden = F.relu(self.fc2(F.relu(self.fc1(maps.flatten(1)))))
        logits: torch.Tensor = self.fc3(hidden)
        return logits


def network(work: Workload, weights: dict[str, F32]) -> nn.Module:
    """The network of ``work`` with these weights."""
    made = Dense() if work.name == "W1" else Convolutional()
    made.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return made
