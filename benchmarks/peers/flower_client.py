"""What runs in Flower's workers: a module of its own, so that they import it instead of being sent it."""

from __future__ import annotations

from functools import cache

import torch
from benchmarks import data, workloads
from benchmarks.peers.networks import network
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)

client = ClientApp()


@cache
def _at_hand(name: str) -> tuple[workloads.Workload, data.Rows, torch.nn.Module]:
    torch.set_num_threads(1)
    work = workloads.WORKLOADS[name]
    return work, data.load(work), network(work, data.initial_weights(work))


@client.train()
def train(message: Message, context: Context) -> Message:
    """One data owner's round: one pass over the rows as they lie."""
    config = message.content["config"]
    work, rows, net = _at_hand(str(config["work"]))
    owner = int(config.get("owner", context.node_config["partition-id"]))
    inputs, labels = map(torch.from_numpy, rows.owner(owner))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
    for first in range(0, len(labels), work.batch_size):
        part = slice(first, first + work.batch_size)
        optimizer.zero_grad()
        F.cross_entropy(net(inputs[part]), labels[part]).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(net.state_dict()),
        "metrics": MetricRecord({"num-examples": len(labels)}),
    }
    return Message(content=RecordDict(content), reply_to=message)
