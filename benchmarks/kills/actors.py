"""One actor of a job on its own ports, wired as the command line wires them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.kills.mortal import (
    Chance,
    MortalBook,
    MortalCheckpoints,
    MortalJournal,
    MortalLedger,
    MortalOutbox,
    MortalShelf,
    MortalStore,
    MortalTrainer,
    Reaper,
    Sending,
    Written,
)
from benchmarks.kills.town import Clock, Town, is_direct

from galaxylearning import bootstrap
from galaxylearning.chain.evm import connect
from galaxylearning.chain.outbox import MemoryOutbox
from galaxylearning.config import Home
from galaxylearning.errors import GalaxyError
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.seating import Seating
from galaxylearning.nodes.site import Site, is_passing
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.sandbox.thread import ThreadTrainer
from galaxylearning.simulation.stage import STAKE, sealing_key, signer
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.storage.shelf import CatalogueShelf

STEP_S: Final = 20
JOB_ID: Final = 1
Command = Literal["enter", "post", "turn", "quit"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run happens: its town, its folder, and the seed that all chance in it follows from."""

    town: Town
    folder: Path
    seed: int
    sealed: Path
    """Where sealing is remembered, for seeds that do."""
    is_forgetful: bool = False
    """Whether victims lose their journal and outbox when they die: then the job must notice."""

    @property
    def is_exact(self) -> bool:
        """Whether all secrets follow from the seed, so that every root does; every other seed's do."""
        return self.seed % 2 == 0

    def chance(self, actor: str) -> Chance:
        """An actor's secrets."""
        return Chance(self.seed if self.is_exact else None, actor)

    def home(self, actor: str) -> Home:
        """An actor's home."""
        return Home(self.folder / actor)


class Actor:
    """One actor on its ports."""

    def __init__(self, name: str, place: Place, clock: Clock, reaper: Reaper, *, is_mortal: bool) -> None:
        self.name, self.place, self.clock, self.reaper = name, place, clock, reaper
        self._is_mortal = is_mortal
        self._sending = Sending()
        self._site: Site | None = None
        self._node: Any = None

    async def do(self, command: Command, node: Any) -> Any:
        """Carry out a command; ``node`` is what speaks JSON-RPC."""
        site = await self._opened(node)
        town = self.place.town
        if command == "enter":
            if self.name in town.evaluators:
                await evaluators.register(site, sealing_key(self.name), STAKE)
            return True
        if command == "post":
            posted = await requester.post(
                site,
                town.compiled,
                evaluators=[signer(name).address for name in town.evaluators],
                sealing_key=sealing_key(self.name),
            )
            return posted.job_id
        if self._node is None:
            self._node = self._made(site)
        try:
            return bool(await self._node.turn())
        except GalaxyError as error:
            if not is_passing(error):
                raise
            return False

    async def _opened(self, node: Any) -> Site:
        if self._site is not None:
            return self._site
        chance = self.place.chance(self.name)
        home, reaper = self.place.home(self.name), self.reaper
        if self._is_mortal:
            if self.place.is_forgetful:
                shutil.rmtree(home.root / "journals", ignore_errors=True)
            journal = bootstrap.open_journal(home, self.name)
            outbox = bootstrap.open_outbox(home, self.name)
            kept = Written(journal._database, home.journal(self.name), reaper)
            sent = Written(outbox._database, home.outbox(self.name), reaper)
            mortal_journal = MortalJournal(journal, reaper, chance, kept)
            mortal_outbox = MortalOutbox(outbox, reaper, self._sending, sent)
            node = _Middle(node, reaper, self._sending)
        else:
            mortal_journal = MortalJournal(MemoryJournal(), reaper, chance, None)
            mortal_outbox = MortalOutbox(MemoryOutbox(), reaper, self._sending, None)
        ledger = await connect(node, self.place.town.deployment, outbox=mortal_outbox)
        self._site = Site(
            ledger=MortalLedger(ledger, reaper, self._sending),
            blobs=MortalStore(self.place.folder / "store", reaper),
            clock=self.clock,
            journal=mortal_journal,
            signer=signer(self.name),
            entropy=chance,
        )
        return self._site

    def _made(self, site: Site) -> Any:
        town = self.place.town
        if self.name in town.evaluators:
            return EvaluatorNode(
                site, sealing_key(self.name), jobs=[JOB_ID], stagger_s=STEP_S, seating=Seating(60)
            )
        if self.name == "relayer":
            return RelayerNode(site, jobs=[JOB_ID])
        home = self.place.home(self.name)
        catalogue = DatasetCatalog(home.catalogue)
        book = bootstrap.open_privacy_book(home, catalogue)
        checkpoints = MortalCheckpoints(home.checkpoints(self.name), self.reaper)
        policy = OwnerPolicy(requesters=(signer("requester").address,), datasets=("things",))
        return DataOwnerNode(
            site,
            sealing_key(self.name),
            shelf=MortalShelf(
                CatalogueShelf(catalogue), Written(catalogue._database, home.catalogue, self.reaper)
            ),
            trainer=MortalTrainer(ThreadTrainer(checkpoints=checkpoints), self.reaper),
            checkpoints=checkpoints,
            policy=lambda: policy,
            jobs=frozenset([JOB_ID]),
            is_direct=is_direct(self.name, town),
            book=MortalBook(book, Written(book._database, home.privacy_book, self.reaper)),
        )


class _Middle:
    """The chain behind a pipe; its user may die when a transaction was accepted and nobody was told."""

    def __init__(self, node: Any, reaper: Reaper, sending: Sending) -> None:
        self._node, self._reaper, self._sending = node, reaper, sending

    async def make_request(self, method: str, params: Any) -> Any:
        """One request."""
        answer = await self._node.make_request(method, params)
        if method == "eth_sendRawTransaction":
            self._reaper.at(self._sending.step, "middle")
        return answer
