"""``galaxy job check``, ``post``, ``cancel`` and ``collect``: what requesters do with jobs."""

from __future__ import annotations

from pathlib import Path
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
    JobArgument,
)
from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused
from galaxylearning.messages.plan import MAX_EVALUATORS

if TYPE_CHECKING:
    from galaxylearning.nodes.requester import PostedJob

FileArgument = Annotated[Path, typer.Argument(help="The job file, Python that sets 'job'.")]


def check(
    file: FileArgument,
    seats: Annotated[
        int, typer.Option(help="How many evaluators the job will have.", min=1, max=MAX_EVALUATORS)
    ] = 3,
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
    from galaxylearning.bootstrap import load_settings
    from galaxylearning.cli.job_file import compile_file, require_step
    from galaxylearning.cli.keys import address_named, load_identity
    from galaxylearning.cli.running import posting_site
    from galaxylearning.nodes import requester
    from galaxylearning.protocol import calls
    from galaxylearning.simulation.prepare import terms_without_chain

    place = Home(home)
    seats = [address_named(place, name.strip(), "--evaluators") for name in evaluators.split(",")]
    if len(set(seats)) != len(seats):
        raise ConfigRefused("one evaluator is named twice", where="--evaluators")
    compiled = compile_file(file)
    name, signer, sealing = load_identity(place, account)
    require_step(compiled, terms_without_chain(compiled, seats=len(seats)))
    stagger_s = load_settings(place).stagger_ms / 1000

    async def run() -> PostedJob:
        async with posting_site(place, chain, signer, f"requester-{name}") as site:
            return await requester.post(
                site, compiled, evaluators=seats, sealing_key=sealing, copy=copy, stagger_s=stagger_s
            )

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
    from galaxylearning.cli.running import acted

    facts = acted(Home(home), chain, account, lambda site: cancel_job(site, job))
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("Cancelled", [("job", job), ("refunded", output.tokens(facts["refunded"]))])


def collect(
    job: JobArgument,
    file: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")],
    harden: Annotated[
        Path | None,
        typer.Option(help="The job file, with whose test rows hidden triggers are trained out."),
    ] = None,
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Fetch the trained model of a settled job: safetensors, under the names of the job file's own module.

    Its schema goes beside it (model.schema.json): gl.inputs_of and gl.answers_of take it. With --harden the
    weights are trained on, on this machine, with the test rows, so that marks which data owners may have
    taught the model in secret seldom work; they are then others than those that the chain names. A large
    model takes long: 2,000 steps of up to 160 rows.

    Example: galaxy job collect 1 -o model.safetensors --harden my-job/job.py
    """
    from galaxylearning.cli.job_actions import read_job
    from galaxylearning.cli.job_file import compile_file
    from galaxylearning.cli.job_hardened import check_job_file, hardened, told
    from galaxylearning.cli.keys import load_identity
    from galaxylearning.cli.running import reading_site
    from galaxylearning.crypto.digest import blake3_digest
    from galaxylearning.messages.terms import Terms, encode_schema
    from galaxylearning.nodes import requester
    from galaxylearning.storage.files import replace_whole

    _require_free(file)
    schema_file = file.with_suffix(".schema.json")
    compiled = None if harden is None else compile_file(harden)
    _, signer, sealing = load_identity(Home(home), account)

    async def run() -> tuple[bytes, Terms]:
        async with reading_site(Home(home), chain, signer) as site:
            model = await requester.collect(site, job, sealing)
            return model, (await read_job(site, job)).terms

    settled, terms = anyio.run(run)
    described = encode_schema(terms.schema)
    _require_free(schema_file, but=described)
    model, tested = settled, None
    if compiled is not None:
        check_job_file(terms, compiled, str(harden))
        model, tested = hardened(settled, terms, compiled)
        _require_free(file)
    replace_whole(schema_file, described)
    replace_whole(file, model)
    facts: dict[str, Any] = {
        "file": str(file),
        "bytes": len(model),
        "file_digest": blake3_digest(model).hex(),
        "model_digest": blake3_digest(settled).hex(),
        "schema_file": str(schema_file),
        "hardened": tested,
    }
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("Trained model", {**facts, "hardened": told(tested)}.items())


def _require_free(file: Path, *, but: bytes | None = None) -> None:
    """Nothing is written over, except the same as is there: as a schema of a model that was collected before,
    or that the disk had no room for.
    """
    from galaxylearning.storage.files import read_whole

    if not file.parent.is_dir():
        raise ConfigRefused("there is no such folder", where=str(file.parent))
    if not file.exists():
        return
    if but is None:
        raise ConfigRefused("there is such a file already", where=str(file))
    if read_whole(file, max_bytes=len(but)) != but:
        raise ConfigRefused("there is such a file already, with something else in it", where=str(file))
