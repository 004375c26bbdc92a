"""One paid job, each actor on its own ports; those that are to die are processes of their own.

The chain, the clock and whoever survives live in the process that runs the job. A victim is a fork of it
with the real journal, outbox, store and trainer, wired as the command line wires them; it asks for the chain
over a pipe, and is made again on its files when it was killed. Virtual time, so nothing waits.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.kills.actors import JOB_ID, STEP_S, Actor, Place
from benchmarks.kills.mortal import (
    Reaper,
    Target,
    remember_sealing,
)
from benchmarks.kills.town import Clock, Town
from benchmarks.kills.victim import Victim

from galaxylearning import bootstrap
from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.evm import connect
from galaxylearning.nodes.auditor import Auditor
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.ports import Call, Event
from galaxylearning.simulation.stage import sealing_key, signer
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal

MOST_TURNS: Final = 300


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
        for one in cast.values():
            if isinstance(one, Victim):
                one.end()
                await _take_up(place, one.name)
        facts = await _facts(place, blobs)
        if is_audited:
            facts["audit"] = await _audited(place, blobs, clock)
    finally:
        for one in cast.values():
            if isinstance(one, Victim):
                one.end()
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
    said = ("answers", "sets", "blobs", "keys", "shown", "release", "models")
    limits |= dict.fromkeys(said, len(town.evaluators))
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
