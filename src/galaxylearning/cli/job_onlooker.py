"""``galaxy job list``, ``show``, ``watch`` and ``parties``: what anybody can see of jobs."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    JobArgument,
)
from galaxylearning.config import Home
from galaxylearning.errors import GalaxyError
from galaxylearning.units import how_many


def list_(
    home: HomeOption = DEFAULT_HOME, chain: ChainOption = None, format: FormatOption = Format.TABLE
) -> None:
    """List the jobs on the chain.

    Example: galaxy job list --format json
    """
    from galaxylearning.cli.running import reading_site
    from galaxylearning.nodes.chain_view import ChainView

    async def run() -> list[dict[str, Any]]:
        async with reading_site(Home(home), chain) as site:
            view = ChainView(site.ledger, site.blobs)
            await view.refresh()
            return [await _row(view, job_id) for job_id in view.head_job_ids]

    rows = anyio.run(run)
    if format is Format.JSON:
        output.print_json(rows)
        return
    output.print_table(
        "Jobs",
        ("job", "title", "phase", "rounds", "data owners", "bounty", "requester"),
        [
            (row["job"], row["problem"], "", "", "", "", "")
            if "problem" in row
            else (
                row["job"],
                row["title"],
                row["phase"],
                f"{row['rounds_anchored']}/{row['rounds']}",
                row["cohort"],
                output.tokens(row["bounty"]),
                row["requester"],
            )
            for row in rows
        ],
        right="job,rounds,data owners,bounty",
    )


async def _row(view: Any, job_id: int) -> dict[str, Any]:
    """One job in a list; what cannot be read is told in its place."""
    try:
        state, terms = await view.head_state(job_id), await view.head_terms(job_id)
    except GalaxyError as error:
        if error.exit_code not in (3, 4, 7):
            raise
        return {"job": str(job_id), "problem": output.harmless(error)}
    return {
        "job": str(job_id),
        "title": terms.title,
        "phase": state.phase.name.lower(),
        "rounds_anchored": state.round_index,
        "rounds": state.rounds,
        "cohort": state.cohort_size,
        "bounty": terms.price.bounty,
        "requester": terms.requester,
        "deadline": state.deadline,
    }


def show(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show a job's terms, price and privacy, what would run, what leaves the machine, and where it stands.

    Example: galaxy job show 1 --home .galaxy/demo
    """
    from galaxylearning.cli import job_facts
    from galaxylearning.cli.job_actions import read_job
    from galaxylearning.cli.running import reading_site

    async def run() -> dict[str, Any]:
        async with reading_site(Home(home), chain) as site:
            return (await read_job(site, job)).facts()

    facts = anyio.run(run)
    if format is Format.JSON:
        output.print_json(facts)
        return
    output.print_facts(f"Job {job}", job_facts.summary(facts))
    columns = ("column", "role", "kind", "unit", "classes or shape")
    output.print_table("What a data set must have", columns, job_facts.column_rows(facts["schema"]))


def watch(
    job: JobArgument,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="Stop as soon as the payouts are fixed, paid or not.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Tell each step of a job until everybody is paid or the escrow went back.

    With --format json every step is one line of JSON.

    Example: galaxy job watch 1
    """
    from galaxylearning.cli import job_facts
    from galaxylearning.cli.running import reading_site
    from galaxylearning.nodes.board import Board
    from galaxylearning.nodes.chain_view import ChainView
    from galaxylearning.nodes.parties import enrolled
    from galaxylearning.nodes.site import keep_going
    from galaxylearning.protocol.machine import Phase

    told: dict[str, Any] = {}

    async def run() -> None:
        async with reading_site(Home(home), chain) as site:
            view, board = ChainView(site.ledger, site.blobs, only=job), Board(site, job)

            async def turn() -> bool:
                nonlocal told
                await view.refresh()
                state = await view.head_state(job)
                facts = job_facts.state_facts(state, view.now)
                if state.phase is Phase.ENROLLING:
                    facts["enrolled"] = len(await enrolled(board, view, state))
                if {**facts, "now": 0} != told:
                    told = {**facts, "now": 0}
                    _tell(job, facts, format)
                return job_facts.is_over(state) or (until_settled and job_facts.is_settled(state))

            await keep_going(site, turn)

    anyio.run(run)


def _tell(job: int, facts: dict[str, Any], format: Format) -> None:
    if format is Format.JSON:
        output.print_line({"job": str(job), **facts})
        return
    from galaxylearning.cli.job_facts import enrolling_line

    owners = how_many(facts["cohort"], "data owner")
    if "enrolled" in facts:
        owners = enrolling_line(facts)
    tokens = output.tokens
    output.console().print(
        f"job {job}  {facts['phase']}: {owners}, {facts['rounds_anchored']} of "
        f"{how_many(facts['rounds'], 'round')}, {how_many(facts['committed'], 'score')} committed, "
        f"{facts['revealed']} revealed, paid {tokens(facts['paid'])} of {tokens(facts['payouts'])}, "
        f"fees {tokens(facts['fees_paid'])}, refunded {tokens(facts['refunded'])}",
        soft_wrap=True,
    )


def parties(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show who takes part in a job, what is awaited of each, and what it last said.

    Example: galaxy job parties 1
    """
    from galaxylearning.cli.running import reading_site
    from galaxylearning.nodes.chain_view import ChainView
    from galaxylearning.nodes.parties import parties as read_parties

    async def run() -> list[dict[str, str]]:
        async with reading_site(Home(home), chain) as site:
            view = ChainView(site.ledger, site.blobs, only=job)
            await view.refresh()
            state, terms = await view.state(job), await view.terms(job)
            return [
                {"role": one.role, "account": one.account, "status": one.status, "awaited": one.awaited}
                for one in await read_parties(site, view, terms, state)
            ]

    rows = anyio.run(run)
    if format is Format.JSON:
        output.print_json(rows)
    else:
        columns = ("role", "account", "status", "awaited")
        output.print_table(f"Parties of job {job}", columns, [tuple(row.values()) for row in rows])
