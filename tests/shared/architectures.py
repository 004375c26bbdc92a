"""The six architectures that everything which runs a graph is tried on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

CLASSES = 3


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(self.embed(x)).mean(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embed(tokens))
        out: torch.Tensor = self.head(states[:, -1])
        return out


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 16).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 8) * 0.3)
        self.up = nn.Parameter(torch.zeros(16, 2))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted = self.base(x) + 0.5 * (x @ self.down.t() @ self.up.t())
        out: torch.Tensor = self.head(torch.relu(adapted))
        return out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def batch_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def group_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.GroupNorm(4, 8),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def floats(*shape: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def tokens(batch: int) -> torch.Tensor:
    return torch.randint(0, 20, (batch, 7), generator=torch.Generator().manual_seed(batch))


BUILDERS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], torch.Tensor]]] = {
    "mlp": (mlp, floats(8)),
    "batch-norm-cnn": (batch_norm_cnn, floats(1, 8, 8)),
    "group-norm-cnn": (group_norm_cnn, floats(3, 9, 9)),
    "transformer": (Transformer, floats(7, 5)),
    "embedding-lstm": (Recurrent, tokens),
    "low-rank-adapter": (LowRank, floats(8)),
}
