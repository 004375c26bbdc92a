"""What a collected model says of the rows of a file: use.py model.safetensors model.schema.json rows.csv"""

import sys

import torch
from safetensors.torch import load_file
from torch import nn

import galaxylearning as gl

weights, schema, rows = sys.argv[1:]
inputs = torch.from_numpy(gl.inputs_of(rows, schema))  # scaled as in training; the file needs no label

# The module of job.py again: the collected file holds its weights, not its code.
model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 2))
model.load_state_dict(load_file(weights))

with torch.no_grad():
    outputs = model.eval()(inputs)
print(*gl.answers_of(outputs.numpy(), schema), sep="\n")  # class names; numbers in the label's own unit
