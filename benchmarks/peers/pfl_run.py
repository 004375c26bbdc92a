"""The workloads on pfl-research's simulation (one process), in its own environment.

Run as: python -m benchmarks.peers.pfl_run W1|W2

Local training, weighting by rows and aggregation are pfl's; who takes part follows the workload's schedule.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from benchmarks import data, workloads
from benchmarks.peers.networks import network
from benchmarks.peers.say import say
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)


class Clock(TrainingProcessCallback):
    """Keeps a clock reading after every round."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def after_central_iteration(
        self,
        aggregate_metrics: Metrics,  # noqa: ARG002 (pfl names the arguments)
        model: PyTorchModel,  # noqa: ARG002
        *,
        central_iteration: int,  # noqa: ARG002
    ) -> tuple[bool, Metrics]:
        """Note the time; never stop early."""
        self.marks.append(time.perf_counter())
        return False, Metrics()


def main(name: str) -> None:
    """Train by the workload's schedule and say what came out."""
    torch.set_num_threads(1)
    work = workloads.WORKLOADS[name]
    rows = data.load(work)
    net: Any = network(work, data.initial_weights(work))
    net.loss = lambda inputs, labels, **_: F.cross_entropy(net(inputs), labels)
    net.metrics = lambda *_, **__: {}
    model = PyTorchModel(
        model=net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    owned = [list(map(torch.from_numpy, rows.owner(owner))) for owner in range(work.owners)]
    chosen = iter([int(owner) for part in data.schedule(work) for owner in part])
    owners = FederatedDataset(
        lambda owner: Dataset(raw_data=owned[owner], user_id=str(owner)), lambda: next(chosen)
    )
    clock = Clock()
    clock.marks.append(time.perf_counter())
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=work.rounds + 1,
            train_cohort_size=work.per_round,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=owners, val_data=owners, postprocessors=[WeightByDatapoints()]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=work.learning_rate, local_num_epochs=1, local_batch_size=work.batch_size
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=1000),
        callbacks=[clock],
    )
    weights = {key: value.detach().numpy() for key, value in net.state_dict().items()}
    say(version("pfl"), clock.marks, weights)


if __name__ == "__main__":
    main(sys.argv[1])
