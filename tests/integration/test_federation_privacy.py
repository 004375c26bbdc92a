"""A whole job with noise: who has a budget joins within it and is charged before it sends, deaths or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from galaxylearning.errors import JobRefused
from galaxylearning.learning.accounting import Release
from galaxylearning.messages.plan import Noise
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.ports import Journal
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.job import compile_job
from galaxylearning.protocol.machine import Phase
from galaxylearning.protocol.privacy import Spending, job_epsilon, spent_epsilon
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.simulation.stage import EVALUATORS, sealing_key, signer
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.storage.privacy_book import SqlitePrivacyBook
from galaxylearning.storage.shelf import CatalogueShelf

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

NOISE = Noise("local", 0.8, example_clip=1.0)


class Killed(BaseException):
    """``kill -9``: nothing of ours may catch it."""


class Grave:
    """Where a trainer dies: before or after it trained, in a round, once each."""

    def __init__(self, *moments: tuple[int, str]) -> None:
        self.left, self.trained = list(moments), 0

    def pass_by(self, round_index: int, moment: str) -> None:
        """Die here, unless this has happened before."""
        if (round_index, moment) in self.left:
            self.left.remove((round_index, moment))
            raise Killed


class MortalTrainer(ThreadTrainer):
    """Trains for real; may die around it."""

    def __init__(self, grave: Grave) -> None:
        super().__init__()
        self._grave = grave

    async def train(self, *arguments: Any, round_index: int, **named: Any) -> Any:
        self._grave.pass_by(round_index, "before")
        found = await super().train(*arguments, round_index=round_index, **named)
        self._grave.trained += 1
        self._grave.pass_by(round_index, "after")
        return found


def open_book(folder: Path) -> tuple[DatasetCatalog, SqlitePrivacyBook]:
    catalogue = DatasetCatalog(folder / "data.sqlite")
    return catalogue, SqlitePrivacyBook(
        folder / "privacy.sqlite", lambda name: catalogue.get(name).content_digest
    )


def add_owner(
    stage: Stage,
    name: str,
    *,
    limit: float | None,
    grave: Grave | None = None,
    has_book: bool = True,
    home: str | None = None,
) -> None:
    """A data owner with a budget; its book and journal are read again from their files after a death."""
    folder = stage.folder / (home or name)
    if home is None:
        stage.add_owner(name)
    policy = OwnerPolicy(
        requesters=(signer("requester").address,), datasets=("things",), max_epsilon=limit, delta=1e-5
    )
    journal: Journal = MemoryJournal()

    def make() -> DataOwnerNode:
        catalogue, book = open_book(folder)
        return DataOwnerNode(
            stage.site(name, journal=journal),
            sealing_key(name),
            shelf=CatalogueShelf(catalogue),
            trainer=MortalTrainer(grave or Grave()),
            policy=lambda: policy,
            jobs=frozenset([stage.job_id]),
            book=book if has_book else None,
        )

    stage.cast(name, make)


def add_crew(stage: Stage) -> None:
    for name in EVALUATORS:
        stage.add_evaluator(name)
    stage.add_relayer()


def spendings(stage: Stage, name: str) -> list[Spending]:
    _, book = open_book(stage.folder / name)
    try:
        return list(book.spendings("things"))
    finally:
        book.close()


def test_budgets_hold_and_a_node_that_dies_is_charged_once_a_round(town: Town, tmp_path: Path) -> None:
    plan = msgspec.structs.replace(town.compiled.job.plan, noise=NOISE)
    cost = job_epsilon(plan, 48)
    grave = Grave((0, "before"), (0, "after"), (1, "after"))

    async def main() -> None:
        async with town.stage(tmp_path / "stage", plan=plan) as stage:
            stage.killed = Killed
            add_owner(stage, "north", limit=cost * 1.001, grave=grave)
            add_owner(stage, "east", limit=None)
            add_owner(stage, "south", limit=cost * 0.999)
            add_owner(stage, "west", limit=100.0, has_book=False)
            add_crew(stage)
            state = await stage.play()
            assert state.phase is Phase.SETTLED
            assert state.cohort_size == 2
            assert (await stage.audit()).verdict == "ok"
            release = Release(0.8, plan.steps or 0, plan.batch_size, 48)
            place = f"{stage.ledger.chain_id}/{stage.ledger.address_of('jobs')}/{stage.job_id}"
            for name in ("north", "east"):
                job = f"{place}/{(await stage.terms()).digest.hex()}/{stage.account(name)}"
                assert spendings(stage, name) == [
                    Spending(job, signer("requester").address, release, 2, 2, is_open=False)
                ]
            assert (grave.left, grave.trained, stage.deaths) == ([], 4, 3)
            assert spendings(stage, "south") == spendings(stage, "west") == []
            told = stage.told("not enrolled")
            assert any(f"epsilon would reach {cost:.3g} at delta 1e-05: 0 is spent" in one for one in told)
            assert "things: the policy limits epsilon, but this node keeps no book of it" in told

    anyio.run(main)


@pytest.mark.parametrize(("share", "joined"), [(1.001, {"north"}), (3.0, {"north", "south"})])
def test_two_accounts_of_one_home_are_two_charges(
    town: Town, tmp_path: Path, share: float, joined: set[str]
) -> None:
    """``galaxy owner run --as north`` and ``--as south`` with one ``--home``: one file, one book."""
    plan = msgspec.structs.replace(town.compiled.job.plan, noise=NOISE)
    limit = job_epsilon(plan, 48) * share

    async def main() -> None:
        async with town.stage(tmp_path / "stage", plan=plan) as stage:
            add_owner(stage, "north", limit=limit)
            add_owner(stage, "south", limit=limit, home="north")
            add_owner(stage, "east", limit=None)
            add_crew(stage)
            state = await stage.play()
            assert state.phase is Phase.SETTLED
            found = spendings(stage, "north")
            accounts = {stage.account(name) for name in joined}
            assert {one.job.rpartition("/")[2] for one in found} == accounts
            assert [one.rounds for one in found] == [2] * len(joined)
            assert state.cohort_size == 1 + len(joined)
            assert spent_epsilon(found, 1e-5) <= limit

    anyio.run(main)


def test_a_chain_that_was_begun_anew_starts_charges_of_its_own(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        for number in range(2):
            async with town.stage(tmp_path / f"stage-{number}", title=f"Job {number}") as stage:
                stage.folder = tmp_path / "home"
                stage.folder.mkdir(exist_ok=True)
                for name in ("north", "east"):
                    add_owner(stage, name, limit=None)
                add_crew(stage)
                await stage.play()
        assert [one.rounds for one in spendings(stage, "north")] == [2, 2]

    anyio.run(main)


def test_a_limit_keeps_out_of_jobs_without_noise_and_others_are_counted(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            add_owner(stage, "north", limit=1e6)
            add_owner(stage, "east", limit=None)
            stage.add_owner("south")
            add_crew(stage)
            state = await stage.play()
            assert state.cohort_size == 2
            assert spendings(stage, "north") == []
            assert [(one.release, one.rounds) for one in spendings(stage, "east")] == [(None, 2)]
            assert any("the plan adds no noise" in one for one in stage.told("not enrolled"))

    anyio.run(main)


def test_a_limit_that_falls_in_the_middle_of_a_job_ends_it_before_training(
    town: Town, tmp_path: Path
) -> None:
    plan = msgspec.structs.replace(town.compiled.job.plan, noise=NOISE)
    limits = [1e3]

    async def main() -> None:
        async with town.stage(tmp_path / "stage", plan=plan) as stage:
            for name in ("north", "east", "south"):
                add_owner(stage, name, limit=1e3)
            catalogue, book = open_book(stage.folder / "south")
            stage.nodes["south"] = DataOwnerNode(
                stage.site("south"),
                sealing_key("south"),
                shelf=CatalogueShelf(catalogue),
                trainer=ThreadTrainer(),
                policy=lambda: OwnerPolicy(
                    requesters=("*",), datasets=("*",), max_epsilon=limits[0], delta=1e-5
                ),
                jobs=frozenset([stage.job_id]),
                book=book,
            )
            add_crew(stage)

            async def fall() -> None:
                if (await stage.state()).round_index == 1:
                    limits[0] = 0.5

            state = await stage.play(between=fall)
            assert state.phase is Phase.SETTLED
            assert [one.rounds for one in spendings(stage, "south")] == [1]
            assert [one.rounds for one in spendings(stage, "north")] == [2]
            assert any("the policy allows 0.5 in all" in one for one in stage.told("given up"))

    anyio.run(main)


@pytest.mark.parametrize("noise", [NOISE, Noise("central", 1.0)])
def test_a_model_with_batch_statistics_cannot_be_posted_with_noise(town: Town, noise: Noise) -> None:
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    plan = msgspec.structs.replace(town.compiled.job.plan, noise=noise)
    with torch.random.fork_rng(), pytest.raises(JobRefused, match="use GroupNorm or LayerNorm"):
        compile_job(replace(town.compiled.job, plan=plan, model=model), town.compiled.test)


def test_masked_updates_carry_shares_of_noise_as_any_other(masked_town: Town, tmp_path: Path) -> None:
    noise = Noise("central", 0.3)
    plan = msgspec.structs.replace(masked_town.compiled.job.plan, noise=noise, rounds=1)

    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage", plan=plan) as stage:
            state = await stage.play()
            assert state.phase is Phase.SETTLED
            table = next(iter((await stage.tables()).values()))
            statuses = [owner.status for owner in table.rounds[0].owners]
            # No honest owner's noise is taken for a poisoned or unreadable update.
            assert "malformed" not in statuses
            assert statuses.count("accepted") >= 3
            assert (await stage.audit()).verdict == "ok"

    anyio.run(main)
