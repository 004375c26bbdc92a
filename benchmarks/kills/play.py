"""One paid job, each actor on its own ports; those that are to die are processes of their own.

The chain, the clock and whoever survives live in the process that runs the job. A victim is a fork of it
with the real journal, outbox, store and trainer, wired as the command line wires them; it asks for the chain
over a pipe, and is made again on its files when it was killed. Virtual time, so nothing waits.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal

import anyio
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
    Target,
    Written,
    remember_sealing,
)
from benchmarks.kills.town import Town, is_direct

from galaxylearning import bootstrap
from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.embedded import EmbeddedChain, RpcError
from galaxylearning.chain.evm import connect
from galaxylearning.chain.outbox import MemoryOutbox
from galaxylearning.config import Home
from galaxylearning.errors import GalaxyError
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.auditor import Auditor
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.site import Site, is_passing
from galaxylearning.ports import Call, Event
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.sandbox.thread import ThreadTrainer
from galaxylearning.simulation.stage import STAKE, sealing_key, signer
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.storage.shelf import CatalogueShelf

STEP_S: Final = 20
MOST_TURNS: Final = 300
JOB_ID: Final = 1
Command = Literal["enter", "post", "turn", "quit"]


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
            return EvaluatorNode(site, sealing_key(self.name), jobs=[JOB_ID], stagger_s=STEP_S)
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


class _Pipe:
    """The other end's chain, as a web3.py provider."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    async def make_request(self, method: str, params: Any) -> Any:
        """One request."""
        self._line.send(("ask", (method, params)))
        return self._line.recv()


@dataclass
class Victim:
    """An actor in a process of its own, which is killed at its targets one after the other."""

    name: str
    place: Place
    clock: Clock
    chain: EmbeddedChain
    targets: list[Target]
    died: list[Target] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    _line: Connection | None = None
    _pid: int = 0
    _away: int = 0
    _doom: Target | None = None
    _started_s: float | None = None

    async def do(self, command: Command, _node: Any) -> Any:
        """Have the process carry out a command; False where it died of it or is still away.

        Where the others need not wait for what it was doing, it is back before anybody has its turn: were it
        late, the job would rightly be another one.
        """
        if self._away:
            self._away -= 1
            return False
        found = self._carried_out(command)
        while found is None and not self._is_waited_for(self.died[-1]):
            found = self._carried_out(command)
        return False if found is None else found

    def _is_waited_for(self, target: Target) -> bool:
        """Not whoever takes a seat, beyond a quorum; nor for what is said on chain and on the board."""
        return target.step != "send takeSeat" and not is_direct(self.name, self.place.town)

    def _carried_out(self, command: Command) -> Any:
        """What the process answers; None where it died."""
        line = self._line or self._spawned()
        line.send((command, self.clock.time_s))
        while True:
            try:
                kind, what = line.recv()
            except (EOFError, ConnectionResetError):
                self._bury(line, command)
                return None
            if kind == "ask":
                line.send(self._answer(*what))
            elif kind in ("dying", "armed"):
                self._doom = what
            elif kind == "error":
                raise RuntimeError(f"{self.name}: {what}")
            else:
                if self._started_s is not None:
                    self.recoveries_s.append(time.perf_counter() - self._started_s)
                    self._started_s = None
                return what

    def _answer(self, method: str, params: Any) -> Any:
        try:
            return {"jsonrpc": "2.0", "id": 1, "result": self.chain.request(method, params)}
        except RpcError as error:
            return {"jsonrpc": "2.0", "id": 1, "error": error.as_json()}

    def _spawned(self) -> Connection:
        self._started_s = time.perf_counter() if self.died else None
        here, there = Pipe()
        pid = os.fork()
        if pid == 0:
            here.close()
            self._live(there)
        there.close()
        self._line, self._pid = here, pid
        return here

    def _live(self, line: Connection) -> None:
        """The life of the process; never returns."""
        status = 1
        try:
            asyncio.events._set_running_loop(None)
            reaper = Reaper(
                {(target.step, target.moment): target for target in self.targets},
                lambda word, target: line.send((word, target)),
            )
            actor = Actor(self.name, self.place, self.clock, reaper, is_mortal=True)
            loop = asyncio.new_event_loop()
            while True:
                command, self.clock.time_s = line.recv()
                if command == "quit":
                    break
                line.send(("done", loop.run_until_complete(actor.do(command, _Pipe(line)))))
            status = 0
        except EOFError:
            status = 0
        except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
            import traceback

            line.send(("error", f"{error!r}\n{''.join(traceback.format_exception(error))}"))
        finally:
            os._exit(status)

    def _bury(self, line: Connection, command: Command) -> None:
        os.waitpid(self._pid, 0)
        line.close()
        self._line = None
        target, self._doom = self._doom, None
        if target is None:
            raise RuntimeError(f"{self.name} died of something else")
        self.died.append(target)
        self.targets.remove(target)
        is_late = command == "turn" and self._is_waited_for(target)
        self._away = target.variant % 3 if is_late else 0

    def end(self) -> None:
        """Let the process end, and its files be read."""
        if self._line is not None:
            self._line.send(("quit", 0))
            os.waitpid(self._pid, 0)
            self._line.close()
            self._line = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended: ``facts`` are what must be as in the undisturbed run."""

    facts: Mapping[str, Any]
    steps: Mapping[str, tuple[str, ...]]
    died: tuple[Target, ...]
    recoveries_s: tuple[float, ...]


def run(place: Place, targets: Sequence[Target], *, is_audited: bool = False) -> Result:
    """Play one job; runs in a process of its own, on a chain that nobody needs afterwards."""
    return asyncio.run(_run(place, targets, is_audited))


async def _run(place: Place, targets: Sequence[Target], is_audited: bool) -> Result:
    town = place.town
    clock = town.clock
    place.folder.mkdir(parents=True)
    for owner in town.owners:
        shutil.copytree(town.folder / owner, place.folder / owner)
    for actor in town.actors:
        place.home(actor).root.mkdir(exist_ok=True)
    if place.is_exact:
        remember_sealing(place.sealed)
    blobs = FolderBlobStore(place.folder / "store")
    cast: dict[str, Actor | Victim] = {}
    for name in town.actors:
        if mine := [target for target in targets if target.actor == name]:
            cast[name] = Victim(name, place, clock, town.chain, mine)
        else:
            cast[name] = Actor(name, place, clock, Reaper(), is_mortal=False)
    try:
        await _play(cast, town, random.Random(place.seed))  # noqa: S311 - the order of turns
        for actor in cast.values():
            if isinstance(actor, Victim):
                actor.end()
                await _take_up(place, actor.name)
        facts = await _facts(place, blobs)
        if is_audited:
            facts["audit"] = await _audited(place, blobs, clock)
    finally:
        for actor in cast.values():
            if isinstance(actor, Victim):
                actor.end()
    victims = [actor for actor in cast.values() if isinstance(actor, Victim)]
    return Result(
        facts,
        {name: tuple(actor.reaper.steps) for name, actor in cast.items() if isinstance(actor, Actor)},
        tuple(target for victim in victims for target in victim.died),
        tuple(each for victim in victims for each in victim.recoveries_s),
    )


async def _play(cast: Mapping[str, Actor | Victim], town: Town, rng: random.Random) -> None:
    for name in town.evaluators:
        while not await cast[name].do("enter", town.chain):
            town.clock.time_s += STEP_S
    while await cast["requester"].do("post", town.chain) != JOB_ID:
        town.clock.time_s += STEP_S
    order = [name for name in town.actors if name != "requester"]
    rng.shuffle(order)
    for _ in range(MOST_TURNS):
        if all([await cast[name].do("turn", town.chain) for name in order]):
            return
        town.clock.time_s += STEP_S
    raise RuntimeError(f"not done after {MOST_TURNS} turns")


# ---- what must be the same


async def _take_up(place: Place, name: str) -> None:
    """Have what a victim left in its outbox taken up once more: nothing must come of it."""
    with bootstrap.open_outbox(place.home(name), name) as outbox:
        await connect(place.town.chain, place.town.deployment, outbox=outbox)


async def _facts(place: Place, blobs: FolderBlobStore) -> dict[str, Any]:
    town = place.town
    ledger = await connect(town.chain, town.deployment)
    view = ChainView(ledger, blobs)
    await view.refresh()
    state = await view.state(JOB_ID)
    accounts = {signer(name).address: name for name in town.actors}
    accounts[ledger.address_of("jobs")] = "jobs"
    accounts[ledger.address_of("registry")] = "registry"
    facts: dict[str, Any] = {
        "phase": state.phase.name,
        "payout root": state.payout_root.hex() if state.payout_root else "",
        "model": state.model_digest.hex() if state.model_digest else "",
        "events": sorted(_shown(event, is_exact=place.is_exact) for event in view.log),
        "balances": {
            name: int(await ledger.read(Call("token", "balanceOf", (account,))))
            for account, name in sorted(accounts.items())
        },
        "transactions": _transactions(town),
        "blob problems": [f"{one.kind} {one.name}" for one in blobs.check()],
        "said twice": await _said_twice(blobs, town),
        "told": {owner: _told(place, owner) for owner in town.owners},
    }
    return facts


def _shown(event: Event, *, is_exact: bool) -> str:
    """One event with all its arguments, or without those that depend on how something was sealed."""
    kept = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in event.arguments.items()
        if is_exact or not isinstance(value, bytes | dict) or name in ("modelDigest", "payoutRoot")
    }
    return f"{event.name} {sorted(kept.items())!r}"


async def _said_twice(blobs: FolderBlobStore, town: Town) -> list[str]:
    """Topics with more blobs than there are actors to say something there once."""
    limits = {"scores": 1, "payouts": 1} | dict.fromkeys(
        ("bodies", "updates", "enrolments"), len(town.owners)
    )
    limits |= dict.fromkeys(("answers", "sets", "blobs", "release", "models"), len(town.evaluators))
    found = []
    for topic in blobs.topics():
        limit = limits.get(topic.rpartition("/")[2])
        if limit is not None and (count := len(await blobs.list(topic))) > limit:
            found.append(f"{topic}: {count}")
    return found


def _transactions(town: Town) -> dict[str, int]:
    """How often each function was called, by function and outcome, since the town was founded."""
    names = {
        function.selector: name.partition("(")[0]
        for contract in ("jobs", "registry", "token")
        for name, function in codec(contract).functions.items()
    }
    found: Counter[str] = Counter()
    head = int(town.chain.request("eth_blockNumber", []), 16)
    for number in range(town.founded_at + 1, head + 1):
        for one in town.chain.request("eth_getBlockByNumber", [hex(number), True])["transactions"]:
            receipt = town.chain.request("eth_getTransactionReceipt", [one["hash"]])
            name = names.get(bytes.fromhex(one["input"][2:10]), "unknown")
            found[name if receipt["status"] == "0x1" else f"{name} failed"] += 1
    return dict(sorted(found.items()))


def _told(place: Place, owner: str) -> Any:
    """What an owner's books say was told of its rows, and how often they were used."""
    home = place.home(owner)
    catalogue = DatasetCatalog(home.catalogue)
    book = bootstrap.open_privacy_book(home, catalogue)
    try:
        spent = [(each.rounds, each.reserved, each.is_open) for each in book.spendings("things")]
        return spent, catalogue.uses("things", JOB_ID)
    finally:
        book.close()
        catalogue.close()


async def _audited(place: Place, blobs: FolderBlobStore, clock: Clock) -> str:
    """An auditor's verdict, with an evaluator's key."""
    town = place.town
    site = Site(
        ledger=await connect(town.chain, town.deployment),
        blobs=blobs,
        clock=clock,
        journal=MemoryJournal(),
        signer=signer("auditor"),
        entropy=place.chance("auditor"),
    )
    return str((await Auditor(site, JOB_ID, key=sealing_key(town.evaluators[0])).run()).verdict)
