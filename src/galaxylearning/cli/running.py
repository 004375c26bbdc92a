"""Running nodes from the command line: their home, key and journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from galaxylearning.config import Home

if TYPE_CHECKING:
    from galaxylearning.bootstrap import World
    from galaxylearning.cli.health import NodeHealth
    from galaxylearning.nodes.site import Site
    from galaxylearning.ports import Signer


@asynccontextmanager
async def node_site(world: World, signer: Signer, journal: str, health: NodeHealth) -> AsyncIterator[Site]:
    """The ports of a node with a journal of its own, which is let go when the block ends.

    Raises:
        StorageError: another process runs this very node.
    """
    from galaxylearning import bootstrap

    with bootstrap.open_journal(world.home, journal) as kept:
        yield bootstrap.site_of(world, signer, kept, report=health.report, pulse=health.pulse)


@asynccontextmanager
async def posting_site(home: Home, chain: str | None, signer: Signer, name: str) -> AsyncIterator[Site]:
    """The ports for a command that must not do twice what it was killed in: journal and outbox of its own.

    Raises:
        ConfigRefused, LedgerUnreachable: the home or its chain cannot be used.
        StorageError: another process does the same with this account.
    """
    from galaxylearning import bootstrap
    from galaxylearning.cli import output

    async with bootstrap.open_world(home, signer=signer, node=name, chain=chain) as world:
        with bootstrap.open_journal(world.home, name) as journal:
            yield bootstrap.site_of(world, signer, journal, report=output.tell_progress)


@asynccontextmanager
async def reading_site(home: Home, chain: str | None, signer: Signer | None = None) -> AsyncIterator[Site]:
    """The ports for a command that keeps nothing; it signs with a throw-away key unless ``signer`` is given.

    Raises:
        ConfigRefused, LedgerUnreachable: the home or its chain cannot be used.
    """
    from galaxylearning import bootstrap
    from galaxylearning.chain.signer import KeySigner
    from galaxylearning.cli.keys import blob_signer
    from galaxylearning.crypto.sign import new_private_key
    from galaxylearning.storage.journal import MemoryJournal

    asking = signer or blob_signer(home)
    async with bootstrap.open_world(home, signer=asking, chain=chain) as world:
        if signer is None:
            signer = KeySigner(new_private_key(entropy=bootstrap.entropy))
        yield bootstrap.site_of(world, signer, MemoryJournal())


def acted(
    home: Home, chain: str | None, account: str | None, act: Callable[[Site], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """What ``act`` tells of what it did; an account of the home signs and pays the gas, and nothing is kept.

    Raises:
        ConfigRefused, LedgerUnreachable: the home, its chain or the account cannot be used.
        GalaxyError: as ``act``.
    """
    from galaxylearning.cli.keys import load_signer

    signer = load_signer(home, account)

    async def run() -> dict[str, Any]:
        async with reading_site(home, chain, signer) as site:
            return await act(site)

    return anyio.run(run)
