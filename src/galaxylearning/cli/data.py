"""``galaxy data``: a home's data sets, described and committed to; the files stay where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
    pairs,
)
from galaxylearning.config import Home
from galaxylearning.errors import DataRefused
from galaxylearning.units import how_many

if TYPE_CHECKING:
    from galaxylearning.protocol.matching import MatchReport
    from galaxylearning.storage.columns import ColumnInfo
    from galaxylearning.storage.datasets import DatasetCatalog, DatasetEntry
    from galaxylearning.storage.tables import Kind

app = typer.Typer(
    help="Data sets: they are described here and stay where they are.\n\n"
    "Example: galaxy data add patients.csv --label diagnosis --name biopsies",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or npz (without objects).")],
    label: Annotated[str, typer.Option(help="The column to be learnt.")],
    name: Annotated[str, typer.Option(help="What the data set is called here.")],
    unit: Annotated[list[str] | None, typer.Option(help="column=unit; may be repeated.")] = None,
    map: Annotated[
        list[str] | None, typer.Option(help="from=to: a label value in the file and its class; all or none.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Columns to use beside the label, parted by commas; all if left out.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="column=number|integer|category, where it is guessed wrong.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    format: FormatOption = Format.TABLE,
) -> None:
    """Read a data file, show what it is, and register it in this home under a secret salt.

    Example: galaxy data add patients.csv --label diagnosis --name biopsies --map M=malignant --map B=benign
    """
    from galaxylearning.cli.data_privacy import budgets

    catalogue = _catalogue(Home(home))
    try:
        entry = catalogue.add(
            name,
            file,
            label,
            pairs(unit, "--unit"),
            pairs(map, "--map"),
            kinds=cast("dict[str, Kind]", pairs(kind, "--kind")),
            only=None if only is None else [column.strip() for column in only.split(",")],
            entropy=os.urandom,
        )
        budget = budgets(Home(home), catalogue, [entry.name])[0]
    finally:
        catalogue.close()
    if format is Format.JSON:
        output.print_json(_facts(entry, budget))
        return
    output.print_table(
        f"{entry.name}: {how_many(entry.n_rows, 'row')}, label {entry.label}",
        ("column", "kind", "unit", "least", "mean", "most", "classes or shape"),
        [
            (
                column.name,
                column.kind,
                column.unit or "",
                _number(column.minimum),
                _number(column.mean),
                _number(column.maximum),
                _shape(column) if column.kind == "array" else _classes(column.classes),
            )
            for column in entry.columns
        ],
        right="least,mean,most",
    )


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, format: FormatOption = Format.TABLE) -> None:
    """List the data sets of this home.

    Example: galaxy data list --format json
    """
    from galaxylearning.cli.data_privacy import budget_line, budgets

    catalogue = _catalogue(Home(home))
    try:
        entries = list(catalogue.list())
        found = list(zip(entries, budgets(Home(home), catalogue, [e.name for e in entries]), strict=True))
    finally:
        catalogue.close()
    if format is Format.JSON:
        output.print_json([_facts(entry, budget) for entry, budget in found])
        return
    output.print_table(
        "Data sets",
        ("name", "rows", "columns", "label", "epsilon spent, left", "file", "commitment"),
        [
            (
                entry.name,
                entry.n_rows,
                len(entry.columns),
                entry.label,
                budget_line(budget),
                entry.path,
                entry.commitment.hex(),
            )
            for entry, budget in found
        ],
        right="rows,columns",
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    home: HomeOption = DEFAULT_HOME,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show a data set and every job it served: what it told, and what the policy leaves.

    Example: galaxy data show biopsies
    """
    from galaxylearning.cli.data_privacy import JOB_COLUMNS, budget_line, budgets, job_rows

    catalogue = _catalogue(Home(home))
    try:
        entry = catalogue.get(name)
        budget = budgets(Home(home), catalogue, [name])[0]
    finally:
        catalogue.close()
    if format is Format.JSON:
        output.print_json(_facts(entry, budget))
        return
    output.print_facts(
        entry.name,
        [
            ("file", entry.path),
            ("rows", entry.n_rows),
            ("label", entry.label),
            ("commitment", entry.commitment.hex()),
            ("epsilon", budget_line(budget)),
        ],
    )
    output.print_table("What it told", JOB_COLUMNS, job_rows(budget), right="rounds,reserved,epsilon")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Also withdraw it from the chain's registry, for good.")
    ] = False,
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Forget a data set; its file is left alone. With --revoke no job can use it again.

    A revocation is signed here and relayed by anybody: it costs no coins.

    Example: galaxy data remove biopsies --revoke
    """
    catalogue = _catalogue(Home(home))
    try:
        entry = catalogue.get(name)
        if revoke:
            from galaxylearning import bootstrap
            from galaxylearning.cli.keys import load_signer

            signer = load_signer(Home(home), account)

            async def run() -> None:
                async with bootstrap.open_world(Home(home), signer=signer, chain=chain) as world:
                    await bootstrap.post_revocation(world, signer, entry.commitment, entry.schema_digest)

            anyio.run(run)
        catalogue.remove(name)
    finally:
        catalogue.close()
    if format is Format.JSON:
        output.print_json({"name": name, "file": entry.path, "is_revoked": revoke})
        return
    output.console().print(
        f"forgot {output.harmless(name)}; the file {entry.path} is left alone", markup=False
    )


@app.command()
def match(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Compare a data set with what a job wants, column by column; exit code 3 if they do not match.

    Example: galaxy data match biopsies 1
    """
    from galaxylearning import bootstrap
    from galaxylearning.cli.keys import blob_signer
    from galaxylearning.nodes.chain_view import ChainView
    from galaxylearning.protocol.matching import match_schema
    from galaxylearning.storage.shelf import offered_dataset

    catalogue = _catalogue(Home(home))
    try:
        offered = offered_dataset(catalogue.get(name))
    finally:
        catalogue.close()

    async def run() -> MatchReport:
        reader = blob_signer(Home(home))
        async with bootstrap.open_world(Home(home), signer=reader, chain=chain) as world:
            view = ChainView(world.ledger, world.blobs, only=job)
            await view.refresh()
            terms = await view.head_terms(job)
        return match_schema(terms.schema, offered.columns, arrays=offered.arrays)

    report = anyio.run(run)
    if format is Format.JSON:
        rows = [
            {"column": r.column, "wanted": r.wanted, "found": r.found, "problem": r.problem, "note": r.note}
            for r in report.rows
        ]
        output.print_json({"is_match": report.is_match, "columns": rows})
    else:
        output.print_table(
            f"{name} and what job {job} wants",
            ("column", "wanted", "found", "what differs"),
            [(r.column, r.wanted, r.found, r.problem or r.note or "") for r in report.rows],
        )
    if not report.is_match:
        first = report.problems[0]
        raise DataRefused(
            f"{len(report.problems)} of {len(report.rows)} columns do not match; the first: {first.problem}",
            where=output.harmless(first.column),
        )


def _catalogue(home: Home) -> DatasetCatalog:
    from galaxylearning.storage.datasets import DatasetCatalog

    return DatasetCatalog(home.catalogue)


def _facts(entry: DatasetEntry, budget: dict[str, Any]) -> dict[str, Any]:
    """What may be shown of a data set: everything but its salt; and what it told."""
    return {
        "name": entry.name,
        "file": entry.path,
        "label": entry.label,
        "rows": entry.n_rows,
        "commitment": entry.commitment.hex(),
        "schema_digest": entry.schema_digest.hex(),
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "unit": column.unit,
                "minimum": column.minimum,
                "maximum": column.maximum,
                "mean": column.mean,
                "std": column.std,
                "classes": column.classes,
                "missing": column.missing,
                "shape": column.shape,
                "dtype": column.dtype,
                "is_label": column.is_label,
            }
            for column in entry.columns
        ],
        "privacy": budget,
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _shape(array: ColumnInfo) -> str:
    return f"{array.dtype} {list(array.shape or ())} a row"


def _classes(classes: tuple[str, ...] | None) -> str:
    if classes is None:
        return ""
    shown = ", ".join(classes[:8])
    return shown if len(classes) <= 8 else f"{shown} and {len(classes) - 8} more"
