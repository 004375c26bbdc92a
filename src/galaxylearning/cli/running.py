"""Running nodes from the command line: their home, key, journal, and a line for each step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from galaxylearning.cli import output
from galaxylearning.cli.options import Format
from galaxylearning.config import Home

if TYPE_CHECKING:
    from galaxylearning.bootstrap import World
    from galaxylearning.nodes.site import Progress, Site
    from galaxylearning.ports import Signer


def reporter(format: Format) -> Callable[[Progress], None]:
    """What prints the steps of a node."""
    return output.print_progress_json if format is Format.JSON else output.print_progress


@asynccontextmanager
async def node_site(
    world: World, signer: Signer, journal: str, report: Callable[[Progress], None]
) -> AsyncIterator[Site]:
    """The ports of a node with a journal of its own, which is let go when the block ends.

    Raises:
        StorageError: another process runs this very node.
    """
    from galaxylearning import bootstrap
    from galaxylearning.storage.journal import SqliteJournal

    kept = bootstrap.open_journal(world.home, journal)
    try:
        yield bootstrap.site_of(world, signer, kept, report=report)
    finally:
        if isinstance(kept, SqliteJournal):
            kept.close()


@asynccontextmanager
async def reading_site(home: Home, chain: str | None, signer: Signer | None = None) -> AsyncIterator[Site]:
    """The ports for a command that keeps nothing; it signs with a throw-away key unless ``signer`` is given.

    Raises:
        ConfigRefused, LedgerUnreachable: the home or its chain cannot be used.
    """
    from galaxylearning import bootstrap
    from galaxylearning.chain.signer import KeySigner
    from galaxylearning.crypto.sign import new_private_key
    from galaxylearning.storage.journal import MemoryJournal

    async with bootstrap.open_world(home, chain=chain) as world:
        if signer is None:
            signer = KeySigner(new_private_key(entropy=bootstrap.entropy))
        yield bootstrap.site_of(world, signer, MemoryJournal())
