"""First trainings on a model of our own, so that everything a training loads is loaded before the lock."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from galaxylearning.errors import ConfigRefused
from galaxylearning.graph import ModelGraph, weights_to_bytes
from galaxylearning.messages.plan import Noise, Plan
from galaxylearning.messages.terms import (
    Admission,
    Column,
    EvaluatorSeat,
    Price,
    Schema,
    Terms,
    Windows,
    encode_terms,
)
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.sandbox.frames import Request, Status, Work
from galaxylearning.sandbox.work import do

# A linear layer, a ReLU and a linear layer, as the compiler writes it.
_GRAPH: Final = (
    b'{"inputs":[{"dtype":"float32","name":"input","shape":[null,2]}],"loss":"cross_entropy","nodes":['
    b'{"args":[{"input":"input"},{"state":"0.weight"},{"state":"0.bias"}],"kwargs":{},"name":"linear_0",'
    b'"op":"aten.linear.default"},{"args":[{"node":"linear_0"}],"kwargs":{},"name":"relu_1",'
    b'"op":"aten.relu.default"},{"args":[{"node":"relu_1"},{"state":"2.weight"},{"state":"2.bias"}],'
    b'"kwargs":{},"name":"linear_2","op":"aten.linear.default"}],"outputs":[{"node":"linear_2"}],"state":['
    b'{"dtype":"float32","federate":"mean","kind":"parameter","name":"0.bias","shape":[3],"trainable":true},'
    b'{"dtype":"float32","federate":"mean","kind":"parameter","name":"0.weight","shape":[3,2],"trainable":true},'
    b'{"dtype":"float32","federate":"mean","kind":"parameter","name":"2.bias","shape":[2],"trainable":true},'
    b'{"dtype":"float32","federate":"mean","kind":"parameter","name":"2.weight","shape":[2,3],"trainable":true}'
    b'],"version":1}'
)


_ACCOUNT: Final = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
_DIGEST: Final = "00" * 32
_NOISES: Final = (
    None,
    Noise(kind="local", multiplier=1.0, example_clip=1.0),
    Noise(kind="central", multiplier=1.0),
)


def warm_up() -> None:
    """Measure it, and train it without noise and with each kind, on two rows.

    What the libraries bring in Python is loaded with the first use of any of it. Starts no thread: without an
    accelerator a gradient is computed on the thread that asks for it.

    Raises:
        ConfigRefused: this installation cannot train.
    """
    torch.set_num_threads(1)
    graph = ModelGraph.from_bytes(_GRAPH)
    state = weights_to_bytes(graph, {entry.name: torch.full(entry.shape, 0.5) for entry in graph.state})
    rows = Rows(np.eye(2, dtype=np.float32), np.arange(2))
    works = [Work(Request("measure", len(_GRAPH), 2), _GRAPH)]
    for noise in _NOISES:
        request = Request("train", len(_GRAPH), data_owner=_ACCOUNT)
        works.append(Work(request, _GRAPH, state, encode_terms(_terms(noise)), b"", rows))
    for work in works:
        status, body = do(work)
        if status is not Status.DONE:
            raise ConfigRefused(body.decode(), where="a first training")
    # Refusing takes other ways through the libraries than accepting does.
    do(Work(Request("measure", 1, 2), b"{"))


def _terms(noise: Noise | None) -> Terms:
    """Terms of no job, as short as they can be."""
    return Terms(
        title="first",
        description="",
        requester=_ACCOUNT,
        requester_key=_DIGEST,
        evaluators=(EvaluatorSeat(_ACCOUNT, _DIGEST, _DIGEST),),
        schema=Schema((Column("x", "number"),), Column("y", "category", classes=("a", "b"))),
        plan=Plan(rounds=1, steps=1, batch_size=2, noise=noise),
        price=Price(token=_ACCOUNT, bounty="1", fee_per_seat="1", target_gain=0.5),
        admission=Admission(),
        windows=Windows(1, 1, 1, 1, 1, 1, 1),
        graph=_DIGEST,
        loss="cross_entropy",
        model=_DIGEST,
        model_digest=_DIGEST,
        test_set=_DIGEST,
        test_set_digest=_DIGEST,
        test_rows=128,
        seed=1,
    )
