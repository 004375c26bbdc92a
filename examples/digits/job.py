"""Written digits, as images of 8 x 8; run prepare.py first. An array is described by hand."""

import torch
from torch import nn

import galaxylearning as gl

schema = gl.Schema(
    features=(),
    arrays=(gl.ArrayField(name="image", shape=(1, 8, 8), dtype="float32"),),
    label=gl.Column(name="digit", kind="category", classes=tuple("0123456789")),
)

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
