"""Diagnosis of breast tumours from 30 measurements; run prepare.py first."""

import torch
from torch import nn

import galaxylearning as gl

schema = gl.schema_of("test.csv", label="diagnosis")

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(gl.input_width(schema), 64), nn.ReLU(), nn.Linear(64, 2))

job = gl.Job(
    title="Diagnosis of breast tumours",
    model=model,
    loss="cross_entropy",
    schema=schema,
    test_data="test.csv",
    plan=gl.Plan(rounds=10, epochs=1, batch_size=16, learning_rate=0.1, minimum_owners=3, maximum_owners=3),
    price=gl.Price(bounty="1000", target_gain=0.5),
)
