"""Written digits, as images of 8 x 8; run prepare.py first."""

import torch
from torch import nn

import galaxylearning as gl

schema = gl.schema_of("test.npz", label="digit")  # one array, float32 [1, 8, 8] a row, and ten classes

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.GroupNorm(4, 16),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16 * 4 * 4, 10),
)

job = gl.Job(
    title="Written digits",
    model=model,
    loss="cross_entropy",
    schema=schema,
    test_data="test.npz",
    plan=gl.Plan(
        rounds=6,
        epochs=1,
        batch_size=32,
        learning_rate=0.1,
        momentum=0.5,
        clip_norm=5.0,
        minimum_owners=3,
        maximum_owners=3,
    ),
    price=gl.Price(bounty="500", target_gain=2.0),
)
