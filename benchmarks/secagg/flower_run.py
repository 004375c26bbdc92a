"""Flower's SecAgg+ on its own simulation, one message and one CPU second at a time, in Flower's environment.

Run as: python -m benchmarks.secagg.flower_run PARAMETERS CLIENTS SHARES THRESHOLD ROUNDS

Clients do not train. What is counted for a client: the CPU seconds of its thread inside the SecAgg+ mod over
the four stages of a round, its training function taken off, and the bytes of its four answers as protocol
buffers.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import flwr
import numpy as np
from benchmarks.measuring import PREFIX
from benchmarks.secagg.flower_client import FOLDER, PARAMETERS, client
from flwr.app import Context
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

parameters, clients, shares, threshold, rounds = map(int, sys.argv[1:6])
server = ServerApp()
outcome: dict[str, Any] = {}


class Kept(FedAvg):
    """Federated averaging that keeps its last aggregate, to be compared with the true mean."""

    def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        """As the base class."""
        aggregate = super().aggregate_fit(server_round, results, failures)
        outcome["mean"] = aggregate[0]
        return aggregate


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    strategy = Kept(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=ndarrays_to_parameters([np.zeros(parameters, np.float32)]),
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=strategy)
    workflow = SecAggPlusWorkflow(
        num_shares=shares, reconstruction_threshold=threshold, max_weight=100.0, clipping_range=8.0
    )
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)


def main() -> None:
    """Run and say what a client spent and sent in a round."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER], os.environ[PARAMETERS] = folder, str(parameters)
        run_simulation(
            server_app=server,
            client_app=client,
            num_supernodes=clients,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
        records = [json.loads(file.read_text("utf-8")) for file in Path(folder).iterdir()]
    expected = np.mean([_vector(seed) for seed in range(clients)], axis=0)
    error = float(np.abs(parameters_to_ndarrays(outcome["mean"])[0] - expected).max())
    stages = sorted({record["stage"] for record in records})
    result = {
        "version": flwr.__version__,
        "stages": {name: _median(records, name) for name in stages},
        "messages": len(records) / (clients * rounds),
        "cpu_s": sum(_median(records, name)["cpu_s"] for name in stages),
        "sent_bytes": sum(_median(records, name)["sent_bytes"] for name in stages),
        "largest_error": error,
        "clients": clients,
        "shares": shares,
    }
    print(PREFIX + json.dumps(result), flush=True)


def _vector(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(parameters).astype(np.float32) * np.float32(0.1)


def _median(records: list[dict[str, Any]], stage: str) -> dict[str, float]:
    chosen = [record for record in records if record["stage"] == stage]
    return {
        name: statistics.median(float(record[name]) for record in chosen) for name in ("cpu_s", "sent_bytes")
    }


if __name__ == "__main__":
    main()
