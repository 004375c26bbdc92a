"""``galaxy job accept``, ``claim`` and ``bond``: what data owners do with jobs, or others for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import (
    ADD_HINT,
    DEFAULT_HOME,
    AsOption,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    JobArgument,
)
from galaxylearning.config import Home

if TYPE_CHECKING:
    from galaxylearning.units import Address


def accept(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Let this home's data owner take part in a job, under exactly the terms that stand on chain.

    Look at it first with 'galaxy job show'. A running 'galaxy owner run' enrols at its next look.

    Example: galaxy job accept 1
    """
    from galaxylearning.cli.job_actions import accept_job, read_job
    from galaxylearning.cli.job_facts import leaving
    from galaxylearning.cli.running import reading_site

    async def run() -> dict[str, Any]:
        async with reading_site(Home(home), chain) as site:
            return accept_job(Home(home), await read_job(site, job))

    facts = anyio.run(run)
    if format is Format.JSON:
        output.print_json(facts)
        return
    lines = [("terms digest", facts["terms_digest"]), *leaving(facts["leaves"])]
    output.print_facts(f"Accepted job {job}", lines)
    if not facts["datasets"]:
        output.print_plain(ADD_HINT)
        return
    output.print_table(
        "Data sets of this home",
        ("data set", "can take part"),
        [(row["name"], row["refusal"] or "yes") for row in facts["datasets"]],
    )


def claim(
    job: JobArgument,
    account: Annotated[str, typer.Option("--account", help="Who is to be paid: an address or account name.")],
    payer: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Have one payout of a settled job paid, with its proof; any account may pay the gas (--as).

    The money goes to the account that earned it, whoever claims it.

    Example: galaxy job claim 1 --account hospital --as relayer
    """
    from galaxylearning.cli.job_actions import claim_payout
    from galaxylearning.cli.keys import address_named
    from galaxylearning.cli.running import acted

    place = Home(home)
    payee: Address = address_named(place, account, "--account")
    facts = acted(place, chain, payer, lambda site: claim_payout(site, job, payee))
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts(
            "Paid", [("account", payee), ("tokens", output.tokens(facts["amount"])), ("gas", facts["gas"])]
        )


def bond(
    job: JobArgument,
    data_owner: Annotated[str, typer.Option(help="Whose bond: an address or account name.")],
    payer: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Post the bond that a job asks of every identity; it returns to the payer when the job is over.

    It is burned if the data owner signs two different updates of one round, and for nothing else.

    Example: galaxy job bond 1 --data-owner hospital --as sponsor
    """
    from galaxylearning.cli.job_actions import post_bond
    from galaxylearning.cli.keys import address_named
    from galaxylearning.cli.running import acted

    place = Home(home)
    identity: Address = address_named(place, data_owner, "--data-owner")
    facts = acted(place, chain, payer, lambda site: post_bond(site, job, identity))
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts(
            "Bond",
            [("data owner", identity), ("tokens", output.tokens(facts["amount"])), ("gas", facts["gas"])],
        )
