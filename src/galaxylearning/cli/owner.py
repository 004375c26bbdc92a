"""``galaxy owner``: a data owner's node, beside the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from galaxylearning.cli.options import (
    ADD_HINT,
    DEFAULT_HOME,
    AsOption,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    MetricsOption,
)
from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused

if TYPE_CHECKING:
    from galaxylearning.messages.records import CredentialRecord
    from galaxylearning.nodes.site import Progress
    from galaxylearning.protocol.consent import OwnerPolicy
    from galaxylearning.sandbox.locks import Locks
    from galaxylearning.units import Address

app = typer.Typer(
    help="Run a data owner's node.\n\nExample: galaxy owner run --as hospital",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def owner() -> None:
    """Run a data owner's node."""


@app.command()
def run(
    account: AsOption = None,
    job: Annotated[
        list[int] | None,
        typer.Option(help="Serve only this job and stop when it is over; may be repeated."),
    ] = None,
    credential: Annotated[
        Path | None, typer.Option(help="Credential of this account, for jobs that admit by credential.")
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Also say everything on chain: for who is being left out.")
    ] = False,
    metrics_port: MetricsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Offer this home's data sets to the jobs that its owner allows, train for them, and be paid.

    What is allowed stands in HOME/policy.json; a job accepted with 'galaxy job accept' is allowed too.
    Without either, every job is refused. The node signs and publishes; it sends no transaction and needs no
    coins. With --direct it also enrols and submits on chain, where nobody can leave it out, and pays the gas.
    Models train in a locked worker process; 'galaxy doctor' says what it can and cannot do on this machine.

    Example: galaxy owner run --as hospital
    """
    from galaxylearning import bootstrap
    from galaxylearning.cli.health import NodeHealth, serve_health
    from galaxylearning.cli.keys import load_identity
    from galaxylearning.cli.running import node_site
    from galaxylearning.nodes.data_owner import DataOwnerNode
    from galaxylearning.storage.datasets import DatasetCatalog
    from galaxylearning.storage.shelf import CatalogueShelf

    place = Home(home)
    name, signer, sealing = load_identity(place, account)
    health = NodeHealth(format, f"owner {name}")
    bootstrap.read_policy(place)
    catalogue = DatasetCatalog(place.catalogue)
    shelf = CatalogueShelf(catalogue)
    book = bootstrap.open_privacy_book(place, catalogue)
    vouched = None if credential is None else own_credential(credential, signer.address)

    policy = watched_policy(place, health.report)
    checkpoints = bootstrap.open_checkpoints(place, f"owner-{name}")

    async def serve() -> None:
        async with (
            bootstrap.open_world(place, signer=signer, chain=chain, node=f"owner-{name}") as world,
            node_site(world, signer, f"owner-{name}", health) as site,
            serve_health(health, metrics_port),
            bootstrap.locked_trainer(policy, checkpoints) as trainer,
        ):
            health.report(started(name, signer.address, site.ledger.chain_id, len(shelf.offered())))
            locks = (await trainer.ready()).locks
            if locks.open:
                health.report(not_locked(locks))
            await DataOwnerNode(
                site,
                sealing,
                shelf=shelf,
                trainer=trainer,
                policy=policy,
                credential=vouched,
                jobs=None if job is None else frozenset(job),
                is_direct=direct,
                book=book,
                checkpoints=checkpoints,
            ).run()

    try:
        anyio.run(serve)
    finally:
        book.close()
        catalogue.close()


def own_credential(file: Path, address: Address) -> CredentialRecord:
    """The credential in a file, which speaks of this account.

    Raises:
        ConfigRefused: it cannot be read, is none, or speaks of another account.
    """
    from galaxylearning.cli.credential import read_credential

    record = read_credential(file)
    if record.data_owner != address:
        raise ConfigRefused(
            f"is for {record.data_owner}; a credential of {address} allowed", where="--credential"
        )
    return record


@app.command()
def policy(home: HomeOption = DEFAULT_HOME, format: FormatOption = Format.TABLE) -> None:
    """Show what this home's owner allows, with the default wherever HOME/policy.json says nothing.

    Example: galaxy owner policy --format json
    """
    import msgspec

    from galaxylearning import bootstrap
    from galaxylearning.cli import output

    found = msgspec.to_builtins(bootstrap.read_policy(Home(home)))
    if format is Format.JSON:
        output.print_json(found)
        return
    output.print_facts("Policy", ((name, policy_words(value)) for name, value in found.items()))


def policy_words(value: object) -> str:
    """A value of a policy for people."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def started(name: str, address: Address, chain_id: int, datasets: int) -> Progress:
    """Who offers how much to which chain, as the first step of the node; without data sets, what to do."""
    from galaxylearning.nodes.site import Progress

    facts: dict[str, object] = {"name": name, "chain": chain_id, "data_sets": datasets}
    if not datasets:
        facts["hint"] = ADD_HINT
    return Progress(0, f"data owner {address}", "started", facts)


def not_locked(locks: Locks) -> Progress:
    """What the policy lets a worker do that this machine cannot lock, as the first step of the node."""
    from galaxylearning.nodes.site import Progress
    from galaxylearning.sandbox.locks import STOPS

    facts = {name: f"nothing makes sure that a worker {STOPS[name]}" for name in locks.open}
    return Progress(0, "data owner", "the worker is not fully locked", facts)


def watched_policy(home: Home, report: Callable[[Progress], None]) -> Callable[[], OwnerPolicy]:
    """The policy as it stands now. One that cannot be read allows nothing until it can be read again."""
    from galaxylearning import bootstrap
    from galaxylearning.nodes.site import Progress
    from galaxylearning.protocol.consent import OwnerPolicy

    told = ""

    def current() -> OwnerPolicy:
        nonlocal told
        try:
            found = bootstrap.read_policy(home)
        except ConfigRefused as error:
            if told != str(error):
                told = str(error)
                report(Progress(0, "data owner", "policy unreadable, nothing is allowed", {"error": told}))
            return OwnerPolicy()
        told = ""
        return found

    return current
