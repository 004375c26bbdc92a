"""``galaxy evaluator``: a staked member of the committees that open, federate, score and attest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    AsOption,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    MetricsOption,
    smallest_units,
)
from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused

if TYPE_CHECKING:
    from galaxylearning.nodes.stake import Stake

app = typer.Typer(
    help="Run an evaluator's node.\n\nExample: galaxy evaluator run --as carol",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

StakeOption = Annotated[
    str, typer.Option(help="Whole tokens to have staked; what is missing is deposited from the account.")
]


@app.callback()
def evaluator() -> None:
    """Run an evaluator's node."""


@app.command()
def register(
    account: AsOption = None,
    stake: StakeOption = "100",
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Register as an evaluator and stake, without running; requesters can name this account from then on.

    Example: galaxy evaluator register --as carol --stake 100
    """
    from galaxylearning import bootstrap
    from galaxylearning.cli.keys import load_identity
    from galaxylearning.nodes import evaluator as node
    from galaxylearning.storage.journal import MemoryJournal

    place = Home(home)
    units = smallest_units(stake, "--stake")
    _, signer, sealing = load_identity(place, account)

    async def enter() -> None:
        async with bootstrap.open_world(place, signer=signer, chain=chain) as world:
            await node.register(bootstrap.site_of(world, signer, MemoryJournal()), sealing, units)

    anyio.run(enter)
    facts = {"evaluator": signer.address, "stake": str(units)}
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("Evaluator", [("address", signer.address), ("staked at least", stake)])


@app.command("list")
def list_(
    addresses: Annotated[
        bool, typer.Option("--addresses", help="Print the addresses only, parted by commas.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the evaluators that are registered on the chain, in order of registration, with their stake.

    Of the stake some is free, some is locked in jobs until they are over, and some may be on its way back to
    its evaluator. Registering is open to anybody: look at who they are before you name them in a job.

    Example: galaxy evaluator list --format json
    """
    from galaxylearning.cli.running import reading_site
    from galaxylearning.nodes.stake import read_stake, seats_held
    from galaxylearning.ports import Call

    async def read() -> list[dict[str, Any]]:
        async with reading_site(Home(home), chain) as site:
            rows = []
            for address, jobs in (await seats_held(site.ledger)).items():
                known = await site.ledger.read(Call("registry", "evaluator", (address,)))
                rows.append(
                    {
                        "address": address,
                        **_stake_facts(await read_stake(site.ledger, address), jobs),
                        "sealing_key_digest": bytes(known["sealingKeyDigest"]).hex(),
                    }
                )
            return rows

    rows = anyio.run(read)
    if addresses:
        output.console().print(",".join(row["address"] for row in rows), soft_wrap=True)
    elif format is Format.JSON:
        output.print_json(rows)
    else:
        columns = ("address", "staked", "free", "locked", "on its way back", "sealing key")
        cells = [(r["address"], *(v for _, v in _stake_lines(r)), r["sealing_key_digest"]) for r in rows]
        output.print_table("Evaluators", columns, cells, right="staked,free")


@app.command()
def withdraw(
    amount: Annotated[
        str | None, typer.Argument(help="Whole tokens to have back; 0 cancels what was asked for.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that no job holds.")] = False,
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Get stake back: ask for it and, when the delay is over, fetch it by the same command.

    While it waits no seat is taken with it. What a seat holds is free again when its job is over. Another
    amount takes the place of what was asked for, and the delay begins anew. A node that is started with a
    larger --stake than is left stakes again what is missing.

    Example: galaxy evaluator withdraw --all --as carol
    """
    from galaxylearning.cli.keys import load_identity
    from galaxylearning.cli.running import posting_site
    from galaxylearning.nodes import stake as stakes

    if everything and amount is not None:
        raise ConfigRefused("an amount and --all are given; one of them allowed", where="AMOUNT")
    wanted: stakes.Wanted = (
        stakes.ALL if everything else None if amount is None else smallest_units(amount, "AMOUNT")
    )
    place = Home(home)
    name, signer, _ = load_identity(place, account)

    async def step() -> dict[str, Any]:
        async with posting_site(place, chain, signer, f"stake-{name}") as site:
            done, about = await stakes.withdraw(site, wanted)
            jobs = (await stakes.seats_held(site.ledger)).get(signer.address, ())
            left = await stakes.read_stake(site.ledger, signer.address)
            facts = {"evaluator": signer.address, "step": done, "amount": str(about)}
            return facts | _stake_facts(left, jobs)

    facts = anyio.run(step)
    if format is Format.JSON:
        output.print_json(facts)
        return
    about = output.tokens(facts["amount"])
    title = {
        "asked": f"Asked for {about} tokens",
        "waiting": f"{about} tokens are waited for",
        "withdrawn": f"{about} tokens are back",
        "cancelled": f"{about} tokens stay",
        "nothing": "Nothing was asked for",
    }[facts["step"]]
    output.print_facts(title, [("address", signer.address), *_stake_lines(facts)])


def _stake_facts(stake: Stake, jobs: Sequence[int]) -> dict[str, Any]:
    """A stake as plain values; ``jobs`` hold what is locked of it."""
    return {
        "staked": str(stake.staked),
        "free": str(stake.free),
        "locked": str(stake.locked),
        "jobs": [str(job) for job in jobs],
        "withdrawing": str(stake.withdrawing),
        "withdrawable_at": stake.withdrawable_at if stake.withdrawing else None,
    }


def _stake_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A stake for people."""
    where = f" in job {', '.join(facts['jobs'])}" if facts["jobs"] else ""
    at = facts["withdrawable_at"]
    return [
        ("staked", output.tokens(facts["staked"])),
        ("free", output.tokens(facts["free"])),
        ("locked", output.tokens(facts["locked"]) + where),
        (
            "on its way back",
            output.tokens(facts["withdrawing"]) + ("" if at is None else f" from {output.moment(at)} on"),
        ),
    ]


@app.command()
def run(
    account: AsOption = None,
    stake: StakeOption = "100",
    no_relayer: Annotated[
        bool, typer.Option("--no-relayer", help="Do not relay registrations nor push payments.")
    ] = False,
    most_relay_gas: Annotated[
        int,
        typer.Option(
            min=0,
            help="The relayer spends at most so much gas a day (UTC), and at most half of it on "
            "registrations and jobs of others.",
        ),
    ] = 20_000_000,
    least_coins: Annotated[
        str,
        typer.Option(help="The relayer sends nothing while the account has fewer: they are the evaluator's."),
    ] = "0.1",
    job: Annotated[
        list[int] | None,
        typer.Option(help="Serve only this job and stop when it is over; may be repeated."),
    ] = None,
    least_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take no seat in a job that gives fewer seconds to commit, to reveal or to settle: being "
            "late costs the stake. 60, or what finality, staggers and the job may take, if left out.",
        ),
    ] = None,
    requester: Annotated[
        list[str] | None,
        typer.Option(
            help="Take seats in this requester's jobs only; may be repeated; anybody's if left out."
        ),
    ] = None,
    most_memory_gib: Annotated[
        float, typer.Option(min=1, help="Take no seat in a job that would take more memory, updates aside.")
    ] = 8,
    most_teraflops: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Take no seat in a job of which one round takes more computing, in 10^12 FLOPs: meanwhile "
            "this evaluator does nothing for its other jobs. One core does some 0.03 a second.",
        ),
    ] = 100,
    metrics_port: MetricsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Register and stake where needed and there are tokens, then serve every job that names this account.

    A relayer runs along: it pays the gas for what data owners signed and for the payments they are owed,
    within --most-relay-gas; what is left over waits for the next day.

    Example: galaxy evaluator run --as carol --stake 100
    """
    from galaxylearning import bootstrap
    from galaxylearning.cli.health import NodeHealth, serve_health
    from galaxylearning.cli.keys import address_named, load_identity
    from galaxylearning.cli.running import node_site
    from galaxylearning.nodes.evaluator import EvaluatorNode
    from galaxylearning.nodes.evaluator import register as enter_registry
    from galaxylearning.nodes.posting import Bearable
    from galaxylearning.nodes.purse import Allowance
    from galaxylearning.nodes.relayer import RelayerNode
    from galaxylearning.nodes.seating import Seating

    place = Home(home)
    units = smallest_units(stake, "--stake")
    served = [address_named(place, one, "--requester") for one in requester] if requester else None
    name, signer, sealing = load_identity(place, account)
    allowance = Allowance(gas=most_relay_gas, least_wei=smallest_units(least_coins, "--least-coins"))
    bearable = Bearable(int(most_memory_gib * (1 << 30)), int(most_teraflops * 10**12))
    seating = Seating(least_window, served, bearable)
    health = NodeHealth(format, f"evaluator {name}")

    async def serve() -> None:
        async with (
            bootstrap.open_world(place, signer=signer, chain=chain, node=f"evaluator-{name}") as world,
            node_site(world, signer, f"evaluator-{name}", health) as site,
            serve_health(health, metrics_port),
        ):
            await enter_registry(site, sealing, units, is_serving=True)
            stagger_s = world.settings.stagger_ms / 1000
            async with anyio.create_task_group() as group:
                node = EvaluatorNode(
                    site,
                    sealing,
                    jobs=job,
                    stagger_s=stagger_s,
                    seating=seating,
                )
                group.start_soon(node.run)
                if not no_relayer:
                    group.start_soon(RelayerNode(site, jobs=job, allowance=allowance).run)

    anyio.run(serve)
