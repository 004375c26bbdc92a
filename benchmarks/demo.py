"""Time the demo as a whole process, and the parts a job's cost is made of; prints the machine's load with it.

Run with: make bench
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import numpy as np
import torch
from torch import nn

from galaxylearning import bootstrap
from galaxylearning.chain.deployment import deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.chain.signer import KeySigner
from galaxylearning.crypto.seal import SealContext, SealingKey, open_sealed, seal
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.ports import Call
from galaxylearning.units import Address

T = TypeVar("T")
MEBIBYTE = 1 << 20
ZERO = Address("0x" + "00" * 20)


def whole_demo(runs: int) -> tuple[str, str]:
    """Wall seconds of ``galaxy demo --format json``, start of the process included."""
    seconds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [str(Path(sys.executable).parent / "galaxy"), "demo", "--format", "json"]
            start = time.perf_counter()
            done = subprocess.run(
                [*command, "--home", f"{folder}/demo"], check=True, capture_output=True, text=True
            )
            seconds.append(time.perf_counter() - start)
            if json.loads(done.stdout)["audit"] != "ok":
                raise SystemExit("the demo's audit failed")
    return (
        "galaxy demo, whole process",
        f"median {statistics.median(seconds):.1f} s, best {min(seconds):.1f} s",
    )


async def _transactions(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        chain = EmbeddedChain(Path(folder) / "chain.sqlite", now=bootstrap.chain_clock)
        signer = KeySigner(bytes(31) + b"\x01")
        await fund(chain, signer.address, bootstrap.GAS_MONEY_WEI)
        ledger = await connect(chain, await deploy(chain, signer, unbonding_s=1))
        start = time.perf_counter()
        for _ in range(count):
            await ledger.submit(Call("token", "mint", (signer.address, 1)), signer)
        rate = count / (time.perf_counter() - start)
        await ledger.close()
        chain.close()
        return rate


def chain_rate() -> tuple[str, str]:
    """Transactions a second: estimated, signed, executed, committed to disk, receipt read."""
    return "embedded chain", f"{anyio.run(_transactions, 200):.0f} transactions/s"


def sealing() -> tuple[str, str]:
    """Sealing and opening 64 MiB for three recipients."""
    keys = [SealingKey.generate(entropy=bootstrap.entropy) for _ in range(3)]
    context = SealContext(1, ZERO, 1, 0, "benchmark", ZERO)
    body = bytes(64 * MEBIBYTE)
    publics = [key.public for key in keys]
    blob, sealed_s = _timed(lambda: seal(body, publics, context, entropy=bootstrap.entropy))
    _, opened_s = _timed(lambda: open_sealed(blob, keys[0], context, max_bytes=len(body)))
    return "sealing, 3 recipients", f"{64 / sealed_s:.0f} MiB/s sealed, {64 / opened_s:.0f} MiB/s opened"


def training() -> tuple[str, str]:
    """One gradient step of a 530-parameter network on the model graph."""
    torch.set_num_threads(1)
    network = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))
    graph, weights = compile_model(network, (torch.zeros(3, 30),), loss="cross_entropy")
    model = FlatModel(graph, weights)
    params, buffers = model.initial()
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(16, 30)).astype(np.float32), rng.integers(0, 2, 16)
    model.gradient(params, buffers, (inputs,), labels, rng=rng)
    _, seconds = _timed(
        lambda: [model.gradient(params, buffers, (inputs,), labels, rng=rng) for _ in range(1000)]
    )
    return "gradient step, batch 16", f"{seconds:.3f} ms"


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main() -> None:
    """Print every figure with the machine it was measured on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of the whole demo (default 3)")
    runs = parser.parse_args().runs
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.2f}")
    for name, figure in (whole_demo(runs), chain_rate(), sealing(), training()):
        print(f"  {name:<28} {figure}", flush=True)


if __name__ == "__main__":
    main()
