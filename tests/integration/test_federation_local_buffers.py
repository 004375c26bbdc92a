"""Buffers that stay with their data owner outlive its node: started again, it trains on from there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
import torch
from benchmarks.things import compiled_job
from torch import nn

from galaxylearning.errors import StorageError
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.sandbox.local_buffers import LocalBuffers
from galaxylearning.simulation.stage import sealing_key
from galaxylearning.storage.checkpoints import CheckpointFolder, FileCheckpoint
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.storage.shelf import CatalogueShelf
from plain_terms import ACCOUNT, terms_of

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town


class Killed(BaseException):
    """``kill -9``: nothing of ours may catch it."""


class Shifted(nn.Module):
    """A linear model of the rows, moved by what it saw of rows before: its update tells what it remembers."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.seen
        self.seen = 0.9 * seen + 0.1 * x.mean(0)
        found: torch.Tensor = self.linear(x + seen)
        return found


class MortalCheckpoints(CheckpointFolder):
    """Checkpoints due at every pass; the process dies once so many were written."""

    def __init__(self, folder: Path, *, dies_after: int) -> None:
        super().__init__(folder, monotonic_s=lambda: 0.0, every_s=0.0)
        self.left = dies_after

    def of(self, name: str) -> FileCheckpoint:
        one = super().of(name)
        save = one.save

        def mortal(state: bytes) -> None:
            save(state)
            self.left -= 1
            if self.left == 0:
                raise Killed

        one.save = mortal  # type: ignore[method-assign]
        return one


@pytest.fixture(scope="module")
def compiled() -> CompiledJob:
    torch.manual_seed(5)
    return compiled_job(model=Shifted(), federate={"seen": "keep_local"})


def add_east(stage: Stage, kept: CheckpointFolder) -> None:
    """A data owner whose node has a new trainer each time it is started; its disk stays."""
    journal = MemoryJournal()

    def make() -> DataOwnerNode:
        return DataOwnerNode(
            stage.site("east", journal=journal),
            sealing_key("east"),
            shelf=CatalogueShelf(DatasetCatalog(stage.folder / "east" / "data.sqlite")),
            trainer=ThreadTrainer(checkpoints=kept),
            policy=lambda: OwnerPolicy(requesters=("*",), datasets=("*",)),
            jobs=frozenset([stage.job_id]),
            checkpoints=kept,
        )

    stage.cast("east", make)


async def _model(
    town: Town,
    compiled: CompiledJob,
    folder: Path,
    kept: CheckpointFolder,
    disturb: Callable[[Stage], Callable[[], Awaitable[None]]] | None = None,
) -> str:
    async with town.stage(folder) as stage:
        await stage.post(compiled)
        stage.killed = Killed
        for name in ("north", "east", "south", "west"):
            stage.add_owner(name)
        add_east(stage, kept)
        for name in stage.evaluators:
            stage.add_evaluator(name)
        stage.add_relayer()
        await stage.play(between=None if disturb is None else disturb(stage))
        return (await stage.outcome()).model


def restarting(stage: Stage) -> Callable[[], Awaitable[None]]:
    """Start the node again between the two rounds."""
    is_done = False

    async def between() -> None:
        nonlocal is_done
        sent = await stage.state()
        if sent.round_index == 1 and not is_done:
            is_done = True
            stage.nodes["east"] = stage.makers["east"]()

    return between


def test_a_node_that_starts_again_has_its_buffers(town: Town, compiled: CompiledJob, tmp_path: Path) -> None:
    def folder(name: str, **more: int) -> CheckpointFolder:
        if more:
            return MortalCheckpoints(tmp_path / name, **more)
        return CheckpointFolder(tmp_path / name, monotonic_s=lambda: 0.0)

    model = partial(_model, town, compiled)
    quiet = anyio.run(partial(model, tmp_path / "1", folder("quiet")))
    again = anyio.run(partial(model, tmp_path / "2", folder("again"), restarting))
    assert again == quiet
    for writes in (1, 2, 3, 4):  # After the pass of each round, and with what it left on disk.
        name = f"killed-{writes}"
        mortal = folder(name, dies_after=writes)
        assert anyio.run(partial(model, tmp_path / f"3-{writes}", mortal)) == quiet
        assert isinstance(mortal, MortalCheckpoints)
        assert mortal.left < 0
        assert list((tmp_path / name).iterdir()) == []


def test_buffers_are_found_by_round_and_old_ones_go(tmp_path: Path) -> None:
    terms = terms_of()
    for kept in (None, CheckpointFolder(tmp_path / "kept", monotonic_s=lambda: 0.0)):
        local = LocalBuffers(kept)
        assert local.before(terms, 3, ACCOUNT, size=4) is None
        local.keep(terms, 0, ACCOUNT, b"zero")
        local.keep(terms, 2, ACCOUNT, b"two!")
        assert local.before(terms, 1, ACCOUNT, size=4) == local.before(terms, 2, ACCOUNT, size=4) == b"zero"
        local.keep(terms, 2, ACCOUNT, b"TWO!")  # Trained again.
        assert local.before(terms, 3, ACCOUNT, size=4) == b"TWO!"
        assert local.before(terms, 3, ACCOUNT, size=5) is None
        local.keep(terms, 3, ACCOUNT, b"thre")
        assert local.before(terms, 1, ACCOUNT, size=4) is None
        assert local.before(terms, 3, ACCOUNT, size=4) == b"TWO!"
        if kept is not None:
            assert len(list((tmp_path / "kept").iterdir())) == 2
            assert LocalBuffers(kept).before(terms, 4, ACCOUNT, size=4) == b"thre"


def test_buffers_that_the_disk_does_not_keep_are_no_training(tmp_path: Path) -> None:
    kept = CheckpointFolder(tmp_path / "kept", monotonic_s=lambda: 0.0, max_bytes=3)
    with pytest.raises(StorageError, match="could not be kept"):
        LocalBuffers(kept).keep(terms_of(), 0, ACCOUNT, b"zero")
