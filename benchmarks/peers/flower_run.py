"""The workloads on Flower's simulation (Ray backend, Message API), in Flower's own environment.

Run as: python -m benchmarks.peers.flower_run W1|W2

Aggregation, messages and scheduling are Flower's. Two things are ours: who takes part follows the workload's
schedule instead of chance, so that the final weights can be compared, and each worker process keeps the rows
it has read, so that Flower is charged for its engine and not for reading files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

import flwr
from benchmarks import data, workloads
from benchmarks.peers.flower_client import client
from benchmarks.peers.networks import network
from benchmarks.peers.say import say
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

server = ServerApp()
outcome: dict[str, Any] = {}


class Scheduled(FedAvg):
    """Federated averaging where the workload says who takes part, not chance."""

    def __init__(self, work: workloads.Workload) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=work.per_round, min_available_nodes=work.owners
        )
        self._work, self._schedule = work, data.schedule(work)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the round's owners, each by a node of its own; the message names the owner."""
        if self._work.per_round == self._work.owners:
            return super().configure_train(server_round, arrays, config, grid)
        nodes = sorted(grid.get_node_ids())
        return [
            message
            for owner in self._schedule[server_round - 1].tolist()
            for message in self._construct_messages(
                RecordDict(
                    {"arrays": arrays, "config": ConfigRecord({"work": self._work.name, "owner": owner})}
                ),
                [nodes[owner]],
                "train",
            )
        ]


@server.main()
def serve(grid: Grid, _context: Context) -> None:
    """Run all rounds and keep the clock readings between them."""
    work = workloads.WORKLOADS[sys.argv[1]]
    while len(list(grid.get_node_ids())) < work.owners:
        time.sleep(0.01)
    net = network(work, data.initial_weights(work))
    marks: list[float] = []

    def mark(_round: int, _arrays: ArrayRecord) -> None:
        marks.append(time.perf_counter())

    result = Scheduled(work).start(
        grid=grid,
        initial_arrays=ArrayRecord(net.state_dict()),
        num_rounds=work.rounds,
        train_config=ConfigRecord({"work": work.name}),
        evaluate_fn=mark,
    )
    outcome["marks"], outcome["weights"] = marks, result.arrays.to_torch_state_dict()


def main(name: str) -> None:
    """Run the simulation with one core to a worker and say what came out."""
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=workloads.WORKLOADS[name].owners,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    weights = {key: value.numpy() for key, value in outcome["weights"].items()}
    say(flwr.__version__, outcome["marks"], weights)


if __name__ == "__main__":
    main(sys.argv[1])
