"""``galaxy job``: what requesters, data owners and onlookers do with jobs."""

from __future__ import annotations

from pathlib import Path
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
from galaxylearning.errors import ConfigRefused, GalaxyError

if TYPE_CHECKING:
    from galaxylearning.nodes.requester import PostedJob
    from galaxylearning.units import Address

FileArgument = Annotated[Path, typer.Argument(help="The job file, Python that sets 'job'.")]

app = typer.Typer(
    help="Check, post, watch, accept and claim jobs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def check(
    file: FileArgument,
    seats: Annotated[int, typer.Option(help="How many evaluators the job will have.", min=1, max=256)] = 3,
    no_trial: Annotated[
        bool, typer.Option("--no-trial", help="Do not train to suggest a target gain.")
    ] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Compile a job file; show its schema, what it costs, and a target gain suggested by a quick training.

    What could not be posted is refused. The file is run: it is your own code. Nothing is posted.

    Example: galaxy job check my-job/job.py
    """
    from galaxylearning.cli.job_checks import checked, show_checked
    from galaxylearning.cli.job_file import compile_file, try_training

    compiled = compile_file(file)
    facts = checked(compiled, seats, None if no_trial else try_training(compiled))
    if format is Format.JSON:
        output.print_json(facts)
    else:
        show_checked(facts)


@app.command()
def post(
    file: FileArgument,
    evaluators: Annotated[
        str, typer.Option(help="Registered evaluators, parted by commas: addresses or account names.")
    ],
    account: AsOption = None,
    copy: Annotated[
        int, typer.Option(help="Which of several equal jobs at a time; 2: a second beside the first.", min=1)
    ] = 1,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Compile a job file, seal model and test set to the evaluators, and escrow bounty and fees.

    Afterwards this machine may go offline; 'galaxy job collect' fetches the trained model. Until the job is
    over, posting the same file again finds it on the chain and sends nothing; --copy 2 posts a second one.

    Example: galaxy job post my-job/job.py --evaluators 0x…,0x…,0x…
    """
    from galaxylearning.cli.job_file import compile_file
    from galaxylearning.cli.keys import address_named, load_identity
    from galaxylearning.cli.running import posting_site
    from galaxylearning.nodes import requester
    from galaxylearning.protocol import calls

    place = Home(home)
    seats = [address_named(place, name.strip(), "--evaluators") for name in evaluators.split(",")]
    if len(set(seats)) != len(seats):
        raise ConfigRefused("one evaluator is named twice", where="--evaluators")
    compiled = compile_file(file)
    name, signer, sealing = load_identity(place, account)

    async def run() -> PostedJob:
        async with posting_site(place, chain, signer, f"requester-{name}") as site:
            return await requester.post(site, compiled, evaluators=seats, sealing_key=sealing, copy=copy)

    posted = anyio.run(run)
    facts: dict[str, Any] = {
        "job": str(posted.job_id),
        "requester": signer.address,
        "terms_digest": posted.terms.digest.hex(),
        "escrow": str(calls.escrow(posted.terms)),
        "gas": posted.gas_used,
        "is_new": posted.gas_used is not None,
    }
    if format is Format.JSON:
        output.print_json(facts)
        return
    title = "Posted" if facts.pop("is_new") else f"Already posted as job {posted.job_id}; nothing was sent"
    shown = {**facts, "escrow": f"{output.tokens(facts['escrow'])} tokens"}
    output.print_facts(title, [(name, value) for name, value in shown.items() if value is not None])


@app.command("list")
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


@app.command()
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


@app.command()
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

    owners = f"{facts['cohort']} data owners"
    if "enrolled" in facts:
        owners = enrolling_line(facts)
    output.console().print(
        f"job {job}  {facts['phase']}: {owners}, round {facts['rounds_anchored']} of "
        f"{facts['rounds']}, {facts['committed']} scores committed, {facts['revealed']} revealed, paid "
        f"{output.tokens(facts['paid'])} of {output.tokens(facts['payouts'])}, fees "
        f"{output.tokens(facts['fees_paid'])}, refunded {output.tokens(facts['refunded'])}",
        soft_wrap=True,
    )


@app.command()
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


@app.command()
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


@app.command()
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
    from galaxylearning.cli.keys import address_named, load_signer
    from galaxylearning.cli.running import reading_site

    place = Home(home)
    payee: Address = address_named(place, account, "--account")
    signer = load_signer(place, payer)

    async def run() -> dict[str, Any]:
        async with reading_site(place, chain, signer) as site:
            return await claim_payout(site, job, payee)

    facts = anyio.run(run)
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts(
            "Paid", [("account", payee), ("tokens", output.tokens(facts["amount"])), ("gas", facts["gas"])]
        )


@app.command()
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
    from galaxylearning.cli.keys import address_named, load_signer
    from galaxylearning.cli.running import reading_site

    place = Home(home)
    identity: Address = address_named(place, data_owner, "--data-owner")
    signer = load_signer(place, payer)

    async def run() -> dict[str, Any]:
        async with reading_site(place, chain, signer) as site:
            return await post_bond(site, job, identity)

    facts = anyio.run(run)
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts(
            "Bond",
            [("data owner", identity), ("tokens", output.tokens(facts["amount"])), ("gas", facts["gas"])],
        )


@app.command()
def cancel(
    job: JobArgument,
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Take a job back while data owners still enrol; the escrow returns to its requester.

    Example: galaxy job cancel 1
    """
    from galaxylearning.cli.job_actions import cancel_job
    from galaxylearning.cli.keys import load_signer
    from galaxylearning.cli.running import reading_site

    signer = load_signer(Home(home), account)

    async def run() -> dict[str, Any]:
        async with reading_site(Home(home), chain, signer) as site:
            return await cancel_job(site, job)

    facts = anyio.run(run)
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("Cancelled", [("job", job), ("refunded", output.tokens(facts["refunded"]))])


@app.command()
def collect(
    job: JobArgument,
    file: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")],
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Fetch the trained model of a settled job: safetensors, under the names of the job file's own module.

    Its schema goes beside it (model.schema.json): gl.inputs_of and gl.answers_of take it.

    Example: galaxy job collect 1 -o model.safetensors
    """
    from galaxylearning.cli.job_actions import read_job
    from galaxylearning.cli.keys import load_identity
    from galaxylearning.cli.running import reading_site
    from galaxylearning.crypto.digest import blake3_digest
    from galaxylearning.messages.terms import Schema, encode_schema
    from galaxylearning.nodes import requester
    from galaxylearning.storage.files import read_whole, replace_whole

    if file.exists():
        raise ConfigRefused("there is such a file already", where=str(file))
    schema_file = file.with_suffix(".schema.json")
    _, signer, sealing = load_identity(Home(home), account)

    async def run() -> tuple[bytes, Schema]:
        async with reading_site(Home(home), chain, signer) as site:
            model = await requester.collect(site, job, sealing)
            return model, (await read_job(site, job)).terms.schema

    model, schema = anyio.run(run)
    described = encode_schema(schema)
    # The same schema may be there: of a model that was collected before, or that the disk had no room for.
    if schema_file.exists() and read_whole(schema_file, max_bytes=len(described)) != described:
        raise ConfigRefused("there is such a file already, with something else in it", where=str(schema_file))
    replace_whole(schema_file, described)
    replace_whole(file, model)
    facts = {
        "file": str(file),
        "bytes": len(model),
        "model_digest": blake3_digest(model).hex(),
        "schema_file": str(schema_file),
    }
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("Trained model", facts.items())
