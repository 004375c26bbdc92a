"""``galaxy audit``: recompute a job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
from galaxylearning.contribution import OTHER_UNITS
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.errors import AuditFailed, BlobDamaged, BlobMissing, ConfigRefused
from galaxylearning.messages.terms import Terms, loss_unit
from galaxylearning.nodes.auditor import Auditor, AuditReport, with_storage_problems


def audit(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    key: Annotated[
        str | None, typer.Option(help="An evaluator's sealing key in this home; opens what is sealed.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(
            help="Compare with another value: banzhaf, shapley, banzhaf-sampled, shapley-sampled, "
            "leave-one-out, distance-to-mean."
        ),
    ] = None,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Recompute every round, score and payment of a job from the chain's log and the blobs.

    Anybody can check signatures, roots, score tables against themselves and the chain, medians, payouts and
    money. With the sealing key of an evaluator (found in a demo's home by itself) updates and test set
    are opened, every model and score is computed again, and what a committee opened of masked updates is held
    against that evaluator's shares. Exit code 8 if anything does not hold.

    Example: galaxy audit 1 --home .galaxy/demo
    """
    report, references = anyio.run(audit_home, Home(home), job, key, value, chain)
    if format is Format.JSON:
        typer.echo(json.dumps(as_json(report, references)))
    else:
        show(report, references, output.console())
    if report.problems:
        first = report.problems[0]
        raise AuditFailed(f"{first.detail}: {first.problem}", where=first.check)


@dataclass(frozen=True, slots=True)
class References:
    """Values of every data owner by name, and what each of these names is counted in."""

    units: Mapping[str, str]
    values: Mapping[str, Mapping[str, float]]


async def audit_home(
    home: Home, job_id: int, key_name: str | None = None, value: str | None = None, chain: str | None = None
) -> tuple[AuditReport, References | None]:
    """Audit a job of a home; with ``value`` also that value of every data owner beside the one that paid.

    Raises:
        GalaxyError: the home's chain or blobs cannot be opened at all.
    """
    from galaxylearning import bootstrap, stores
    from galaxylearning.chain.evm import KeySigner
    from galaxylearning.cli.keys import blob_signer
    from galaxylearning.nodes.chain_view import ChainView
    from galaxylearning.protocol.scoring import reference_values
    from galaxylearning.storage.journal import MemoryJournal

    async with bootstrap.open_world(home, signer=blob_signer(home), chain=chain) as world:
        signer = KeySigner(bootstrap.entropy(32))
        site = bootstrap.site_of(world, signer, MemoryJournal())
        view = ChainView(world.ledger, world.blobs, only=job_id)
        await view.refresh()
        problems = stores.blob_problems(world.blobs)
        sealing_key = None
        try:
            sealing_key = find_key(home, await view.terms(job_id), key_name)
        except (BlobMissing, BlobDamaged):
            if not problems:
                raise  # Else the report says so, with the blob's name.
        auditor = Auditor(site, job_id, key=sealing_key)
        report = with_storage_problems(await auditor.run(), problems)
        if value is None:
            return report, None
        if auditor.computation is None:
            raise ConfigRefused("needs an evaluator's sealing key", where="value")
        found = reference_values(auditor.computation, value)
        unit = f"{loss_unit(auditor.computation.terms.loss)} per sample"
        return report, References({"path": unit, value: OTHER_UNITS.get(value, unit)}, found)


def find_key(home: Home, terms: Terms, name: str | None) -> SealingKey | None:
    """A sealing key in this home that is one of the job's evaluators', or None where there is none.

    Raises:
        KeyUnavailable: the key that was asked for is not there, or its passphrase is wrong.
    """
    seats = {bytes.fromhex(seat.sealing_key_digest) for seat in terms.evaluators}
    from galaxylearning.simulation import demo_keys

    for candidate in demo_keys.evaluator_keys(home):
        if candidate.digest in seats:
            return candidate
    if name is None:
        return None
    from galaxylearning.cli.keys import passphrase
    from galaxylearning.storage.keystore import KeyStore

    return KeyStore(home.keys).load_sealing_key(name, passphrase())


def as_json(report: AuditReport, references: References | None) -> dict[str, Any]:
    """The report as plain values."""
    document: dict[str, Any] = {
        "job": str(report.job_id),
        "verdict": report.verdict,
        "is_full": report.is_full,
        "findings": [
            {
                "check": finding.check,
                "detail": finding.detail,
                "problem": finding.problem,
                "is_skipped": finding.is_skipped,
            }
            for finding in report.findings
        ],
    }
    if references is not None:
        document["values"] = references.values
        document["value_units"] = references.units
    return document


def show(report: AuditReport, references: References | None, console: Console) -> None:
    """The report as a table."""
    table = Table(title=f"Audit of job {report.job_id}", title_justify="left")
    table.add_column("")
    table.add_column("check")
    table.add_column("what was found")
    for finding in report.findings:
        is_fine = finding.problem is None
        text = finding.detail if is_fine else f"{finding.detail}: {finding.problem}"
        mark = "[yellow]not checked[/]" if finding.is_skipped else "[green]ok[/]"
        table.add_row(mark if is_fine else "[red]FAILED[/]", finding.check, escape(text))
    console.print(table)
    if references is not None:
        values = Table(title="Values", title_justify="left")
        values.add_column("data owner")
        for name, unit in references.units.items():
            values.add_column(f"{name}, {unit}", justify="right")
        for who, row in references.values.items():
            values.add_row(who, *(f"{row[name]:.5f}" for name in references.units))
        console.print(values)
    kind = "everything was computed again" if report.is_full else "sealed data were not opened"
    console.print(f"Verdict: [bold]{report.verdict}[/] ({kind})")
    if any(finding.is_skipped for finding in report.findings):
        console.print(
            "The rest is checked with the key of one of the job's evaluators, at its home: galaxy audit "
            f"{report.job_id} --key NAME",
            soft_wrap=True,
        )
