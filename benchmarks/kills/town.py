"""Where the jobs are played: contracts on a chain in memory, accounts with tokens, data owners with files."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np
import torch
from benchmarks.kills.mortal import Chance
from numpy.typing import NDArray
from torch import nn

from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.crypto.digest import keccak
from galaxylearning.messages.plan import Masking, Plan
from galaxylearning.messages.terms import Column, Schema, Windows
from galaxylearning.ports import Call
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.simulation.stage import GAS_MONEY_WEI, GENESIS_S, SUPPLY, signer
from galaxylearning.storage.datasets import DatasetCatalog

if TYPE_CHECKING:
    from benchmarks.kills.play import Clock

Privacy = Literal["sealed", "masked"]
WINDOW_S: Final = 900
COLUMNS: Final = ("height", "width")
SCHEMA: Final = Schema(
    features=tuple(Column(name, "number", unit="mm", mean=10.0, std=2.0) for name in COLUMNS),
    label=Column("kind", "category", classes=("round", "square")),
)
OWNERS: Final = ("east", "north", "south")
DIRECT: Final = "south"


@dataclass(frozen=True, slots=True)
class Town:
    """A chain on which nothing but the contracts, money and accounts are, and a job to post."""

    folder: Path
    chain: EmbeddedChain
    clock: Clock
    deployment: Deployment
    founded_at: int
    compiled: CompiledJob
    evaluators: tuple[str, ...]
    owners: tuple[str, ...] = OWNERS

    @property
    def actors(self) -> tuple[str, ...]:
        """Everybody who takes part."""
        return ("requester", *self.owners, *self.evaluators, "relayer")


def is_direct(owner: str, town: Town) -> bool:
    """Whether a data owner says everything on chain as well."""
    return owner == DIRECT and town.compiled.job.privacy == "sealed"


def founded(folder: Path, privacy: Privacy, clock: Clock) -> Town:
    """Build a town; its chain lives in memory, so that every fork has one of its own."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    seats = tuple(f"evaluator-{number}" for number in range(1, 4 if privacy == "sealed" else 6))
    chain = EmbeddedChain(None, now=lambda: clock.time_s)
    deployment = asyncio.run(_deployed(chain, seats))
    for owner in OWNERS:
        _furnish(folder / owner, owner)
    clock.time_s += 100
    head = int(chain.request("eth_blockNumber", []), 16)
    return Town(folder, chain, clock, deployment, head, _compiled(privacy), seats)


async def _deployed(chain: EmbeddedChain, seats: tuple[str, ...]) -> Deployment:
    for name in ("deployer", "requester", "relayer", DIRECT, *seats):
        await fund(chain, signer(name).address, GAS_MONEY_WEI)
    deployment = await deploy(chain, signer("deployer"), unbonding_s=86_400)
    ledger = await connect(chain, deployment)
    for name in ("requester", *seats):
        await ledger.submit(Call("token", "mint", (signer(name).address, SUPPLY)), signer(name))
    return deployment


def _furnish(folder: Path, owner: str) -> None:
    """A data owner's home: one data set in its catalogue."""
    folder.mkdir()
    data = _clouds(48, seed=int.from_bytes(keccak(owner.encode())[:4]))
    with (folder / "things.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "kind"])
        writer.writerows(zip(*(data[name] for name in (*COLUMNS, "kind")), strict=True))
    catalogue = DatasetCatalog(folder / "data.sqlite")
    catalogue.add(
        "things",
        folder / "things.csv",
        "kind",
        kinds=dict.fromkeys(COLUMNS, "number"),
        units=dict.fromkeys(COLUMNS, "mm"),
        entropy=Chance(0, owner),
    )
    catalogue.close()


def _clouds(rows: int, *, seed: int) -> Mapping[str, NDArray[Any]]:
    """Heights and widths in millimetres of two kinds of things."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, rows)
    kinds[:2] = 0, 1
    centres = np.where(kinds == 1, 11.5, 8.5)
    found: dict[str, NDArray[Any]] = {name: centres + rng.normal(0, 1.5, rows) for name in COLUMNS}
    found["kind"] = np.array(["round", "square"], dtype=object)[kinds]
    return found


def _compiled(privacy: Privacy) -> CompiledJob:
    plan = Plan(
        rounds=2, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=2, maximum_owners=3
    )
    masking = None
    if privacy == "masked":
        plan = msgspec.structs.replace(plan, minimum_owners=3)
        masking = Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=9)
    hidden = 4 if privacy == "sealed" else 256
    torch.manual_seed(1)
    job = Job(
        title="Kinds of things",
        model=nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 2)),
        loss="cross_entropy",
        schema=SCHEMA,
        plan=plan,
        price=Price(bounty="1000", target_gain=0.8),
        test_data="",
        windows=Windows(WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, 30 * 86_400),
        seed=1,
        privacy=privacy,
        masking=masking,
    )
    return compile_job(job, encode_rows(SCHEMA, _clouds(160, seed=0)))


def clock_at_genesis() -> Clock:
    """A clock at the chain's beginning."""
    from benchmarks.kills.play import Clock

    return Clock(GENESIS_S)
