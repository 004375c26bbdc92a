"""What runs in Flower's workers: SecAgg+ between two mods that read the clock and count what is sent."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.serde import message_to_proto
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

FOLDER = "GALAXY_BENCH_FOLDER"
PARAMETERS = "GALAXY_BENCH_PARAMETERS"
RECORD = "secaggplus"  # the name of the mod's configuration record

_inside_s = [0.0]
"""CPU seconds of the training function in the current call: not part of the protocol."""


def outer(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Time one stage of the protocol and write it down with the size of the answer as it goes on the wire."""
    before = _stage(message)
    _inside_s[0] = 0.0
    start = time.thread_time()
    reply = call_next(message, context)
    spent = time.thread_time() - start - _inside_s[0]
    record = {
        "node": str(message.metadata.dst_node_id),
        "stage": before,
        "cpu_s": spent,
        "sent_bytes": len(message_to_proto(reply).SerializeToString()),
    }
    name = f"{record['node']}-{before}-{time.time_ns()}.json"
    (Path(os.environ[FOLDER]) / name).write_text(json.dumps(record), encoding="utf-8")
    return reply


def _stage(message: Message) -> str:
    for record in message.content.config_records.values():
        if "stage" in record:
            return str(record["stage"])
    return "none"


def inner(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Keep the clock of the training function itself, so that it can be taken off."""
    start = time.thread_time()
    reply = call_next(message, context)
    _inside_s[0] += time.thread_time() - start
    return reply


client = ClientApp(mods=[outer, secaggplus_mod, inner])


@client.train()
def train(message: Message, context: Context) -> Message:
    """No training: a fixed vector of the owner's own."""
    parameters = int(os.environ[PARAMETERS])
    seed = int(context.node_config["partition-id"])
    vector = np.random.default_rng(seed).standard_normal(parameters).astype(np.float32) * np.float32(0.1)
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector]), 10, {})
    return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)
