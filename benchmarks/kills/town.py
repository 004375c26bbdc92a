"""Where the jobs are played: contracts on a chain in memory, accounts with tokens, data owners with files."""

from __future__ import annotations

import asyncio
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import anyio
import msgspec
import torch
from benchmarks import things
from benchmarks.kills.mortal import Chance

from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.ports import Call
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.simulation.stage import GAS_MONEY_WEI, GENESIS_S, SUPPLY, signer
from galaxylearning.storage.datasets import DatasetCatalog

Privacy = Literal["sealed", "masked"]
WINDOW_S: Final = 900
OWNERS: Final = ("east", "north", "south")
DIRECT: Final = "south"


@dataclass(slots=True)
class Clock:
    """The job's clock, moved by whoever runs it."""

    time_s: int

    def monotonic_s(self) -> float:
        """Seconds of virtual time."""
        return float(self.time_s)

    async def sleep(self, _seconds: float) -> None:
        """Time stands still during a turn: sleep until cancelled."""
        await anyio.sleep_forever()


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
    data = things.clouds(48, seed=things.seed_of(owner))
    with (folder / "things.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*things.COLUMNS, "kind"])
        writer.writerows(zip(*(data[name] for name in (*things.COLUMNS, "kind")), strict=True))
    catalogue = DatasetCatalog(folder / "data.sqlite")
    catalogue.add(
        "things",
        folder / "things.csv",
        "kind",
        kinds=dict.fromkeys(things.COLUMNS, "number"),
        units=dict.fromkeys(things.COLUMNS, "mm"),
        entropy=Chance(0, owner),
    )
    catalogue.close()


def _compiled(privacy: Privacy) -> CompiledJob:
    plan = msgspec.structs.replace(things.PLAN, maximum_owners=len(OWNERS))
    if privacy == "sealed":
        return things.compiled_job(plan=plan, windows=things.windows(WINDOW_S))
    return things.compiled_job(
        things.MASKED_HIDDEN,
        plan=msgspec.structs.replace(plan, minimum_owners=3),
        windows=things.windows(WINDOW_S),
        privacy="masked",
        masking=things.MASKING,
    )


def clock_at_genesis() -> Clock:
    """A clock at the chain's beginning."""
    return Clock(GENESIS_S)
