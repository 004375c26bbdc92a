"""``galaxy simulate``: a job file, tried on simulated data owners before money is committed to it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import Format, FormatOption
from galaxylearning.errors import ConfigRefused
from galaxylearning.units import TOKEN_DECIMALS, how_many

if TYPE_CHECKING:
    from galaxylearning.simulation.callbacks import Callback
    from galaxylearning.simulation.history import RoundRecord
    from galaxylearning.simulation.report import PrivacyFacts
    from galaxylearning.simulation.result import SimulationResult

INTERRUPTED = 130
FOLD = 40
ROUNDS = "rounds.jsonl"


def simulate(
    job: Annotated[Path, typer.Argument(help="The job file; it may set 'simulation' beside 'job'.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV, Parquet, npz or a Hugging Face folder with all rows; repeated: one an owner; half of "
            "the test set if left out."
        ),
    ] = None,
    owners: Annotated[
        int | None, typer.Option(help="How many data owners the rows are dealt out to; 10 if left out.")
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            help="How: iid, dirichlet:alpha=0.5, pathological:num_classes_per_partition=2 …; iid if left out."
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Column to partition by; the label if left out.")] = None,
    behave: Annotated[
        list[str] | None,
        typer.Option(help="Who misbehaves, e.g. sign-flip@0,3 or alie@x20 or scaled:factor=5@7. Repeatable."),
    ] = None,
    availability: Annotated[
        str | None,
        typer.Option(help="Who is there: always (if left out), random:0.8, a CSV or JSONL trace …"),
    ] = None,
    per_round: Annotated[
        int | None, typer.Option(help="Owners drawn each round; all of them if left out.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds; the plan's if left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the job's if left out.")] = None,
    engine: Annotated[
        str, typer.Option(help="auto, stacked, workers, vmapped, reference, debug or ray.")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes or threads; one a core if left out.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, for --engine ray; one on this machine if left out.")
    ] = None,
    memory_mib: Annotated[
        int, typer.Option(help="The most memory the run may take, in MiB, the interpreter included.")
    ] = 4096,
    chain: Annotated[
        str,
        typer.Option(help="embedded: plays the whole protocol on a chain, in virtual time; empty: no chain."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; 'simulation' beside the job file if left out."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints/--no-checkpoints", help="Keep what --resume needs, every round."),
    ] = True,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many rounds without a better model; the best is kept.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="Values beside the paid ones: shapley, banzhaf, retraining-shapley, retraining-banzhaf."
        ),
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Also log to this TensorBoard folder.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="Also log to this MLflow tracking URI.")] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw plot.png and plot.html.")] = True,
    format: FormatOption = Format.TABLE,
) -> None:
    """Train, judge and pay simulated data owners exactly as the job would, without a chain or with one.

    Writes report.json, owners.csv, rounds.csv, plot.png, plot.html, model.safetensors and, without a chain,
    best.safetensors to --out. Ctrl-C stops after the round at hand; --resume goes on from there.

    Where the job file sets 'simulation', what it sets holds in place of these defaults.

    Example: galaxy simulate my-job/job.py --owners 20 --partition inner-dirichlet:0.3,partition_sizes=8
    --behave alie@20%
    """
    teller = _Teller(is_quiet=format is Format.JSON)
    teller.line(f"{job}: compiling")
    from galaxylearning.simulation.drawing import Drawer

    # The job files of one folder keep their results apart.
    name = "simulation" if job.stem == "job" else f"simulation-{job.stem}"
    folder = _folder(out if out is not None else job.parent / name)
    changes: dict[str, Any] = {
        "data": None if not data else data[0] if len(data) == 1 else tuple(data),
        "owners": owners,
        "partitioner": partition,
        "partition_by": by,
        "behaviours": None if not behave else tuple(behave),
        "availability": availability,
        "per_round": per_round,
    }
    with ExitStack() as stack:
        drawer = stack.enter_context(closing(Drawer())) if plot else None
        with _uncollected():
            from galaxylearning.simulation.api import simulate_file
            from galaxylearning.simulation.run import Options
        found = simulate_file(
            job,
            {name: value for name, value in changes.items() if value is not None},
            chain=chain,
            rounds=rounds,
            seed=seed,
            options=Options(
                engine=engine,
                workers=workers,
                memory_mib=memory_mib,
                patience=patience,
                checkpoints=folder / "checkpoints" if checkpoints else None,
                resume=resume,
                ray_address=ray_address,
                dump=folder / "failure.npz" if engine == "debug" else None,
                compare=tuple(compare or ()),
                callbacks=tuple(_callbacks(folder, tensorboard, mlflow, job.stem)),
            ),
            tell=teller.line,
            on_round=teller.round,
        )
        files = found.write(folder, plot=False)
        if drawer is not None:
            files += drawer.draw(found.history, found.report, folder)
    if format is Format.JSON:
        output.print_json(found.to_document())
    else:
        _show(found, folder, files)
    if found.reason == "interrupted":
        typer.echo(f"stopped after round {len(found.history)}; --resume goes on", err=True)
        sys.exit(INTERRUPTED)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while large libraries load, nor of them ever after: it takes a fifth of the time
    in which they load, and half a second when the process ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _folder(folder: Path) -> Path:
    """The folder of the results; one that holds something else is left alone."""
    from galaxylearning.simulation.result import MARKER

    # The last two are there from the first round on, however the run ended.
    is_ours = any((folder / name).exists() for name in (MARKER, ROUNDS, "checkpoints"))
    if folder.is_dir() and any(folder.iterdir()) and not is_ours:
        raise ConfigRefused(
            "holds something that is not a simulation's; choose another --out", where=str(folder)
        )
    return folder


def _callbacks(folder: Path, tensorboard: Path | None, mlflow: str | None, name: str) -> Iterator[Callback]:
    from galaxylearning.simulation import callbacks

    yield callbacks.CsvCallback(folder / "rounds.csv")
    yield callbacks.JsonlCallback(folder / ROUNDS)
    if tensorboard is not None:
        yield callbacks.TensorBoardCallback(tensorboard)
    if mlflow is not None:
        yield callbacks.MlflowCallback(mlflow, name)


class _Teller:
    """One line for each step; on standard error where standard output is for a program."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._stream = sys.stderr if is_quiet else sys.stdout

    def line(self, text: str) -> None:
        """Say it at once."""
        self._stream.write(output.harmless(text) + "\n")
        self._stream.flush()

    def round(self, record: RoundRecord, rounds: int) -> None:
        """What a round came to."""
        counts = {name: count for name, count in record.counts.items() if name != "present"}
        accuracy = "" if record.accuracy is None else f"accuracy {record.accuracy:.3f}  "
        others = "".join(
            f", {counts[status]} {status}" for status in counts if status != "accepted" and counts[status]
        )
        self.line(
            f"round {record.round_index + 1:>3} of {rounds}  {accuracy}loss {-record.utility:.4f}  "
            f"{counts['accepted']} accepted{others}  {record.seconds:.2f} s"
        )


def _show(found: SimulationResult, folder: Path, files: Sequence[str]) -> None:
    from galaxylearning.simulation.report import MEASURED, behaviour_table, owner_table

    report = found.report
    columns, rows = owner_table(report, fold=FOLD, money=_money)
    unit = f"{report.value_unit} per hidden sample"
    title = f"{report.job}: who did what, and what it earned; values in {unit}"
    output.print_table(title, columns, rows, right=MEASURED)
    if len(report.behaviours) > 1:
        columns, rows = behaviour_table(report, money=_money)
        output.print_table("By behaviour", columns, rows, right=MEASURED)
    if found.references:
        names = {row.position: row.name for row in report.owners}
        path = found.history.values()
        output.print_table(
            f"Values in {unit}: as summed over the rounds, and by reference",
            ("name", "path", *found.references),
            [
                (names[i], f"{path[i]:+.5f}", *(f"{v[i]:+.5f}" for v in found.references.values()))
                for i in range(len(names))
            ],
            right=",".join(("path", *found.references)),
        )
    facts: list[tuple[str, object]] = [
        ("rounds", f"{report.rounds}, {report.reason}; best after round {_best(found)}"),
        ("accuracy", "none: counted for classes" if report.accuracy is None else f"{report.accuracy:.3f}"),
        ("paid", f"{_money(report.paid)} of {_money(report.bounty)}; {_money(found.refunded)} goes back"),
        ("model", f"{found.model_digest} ({found.engine} engine, {found.seconds:.1f} s)"),
    ]
    if report.privacy is not None:
        facts.append(("epsilon", _epsilon(report.privacy)))
    if found.twins:
        facts.append(("same data under several names", "; ".join(", ".join(group) for group in found.twins)))
    if found.chain is not None:
        facts.append(
            (
                "chain",
                f"audit {found.chain['audit']} ({how_many(found.chain['checks'], 'check')}); "
                f"{how_many(found.chain['data_owner_transactions'], 'transaction')} by data owners",
            )
        )
    facts += [("note", note) for note in found.notes]
    facts.append((f"in {folder}", ", ".join(files)))
    output.print_facts("", facts)


def _best(found: SimulationResult) -> str:
    best = found.report.best_round
    return "none" if best is None else str(best + 1)


def _epsilon(privacy: PrivacyFacts) -> str:
    """What the noise came to."""
    least, most = privacy.epsilon_least, privacy.epsilon_most
    figures = f"{most:.3g}" if least == most else f"{least:.3g} to {most:.3g}, by a data owner's rows"
    models = privacy.epsilon_of_models
    return f"{figures}, at delta {privacy.delta:g} ({privacy.kind} noise)" + (
        "" if models is None else f"; {models:.3g} for who sees only models"
    )


def _money(units: int) -> str:
    """An amount in whole tokens, to three decimals."""
    return f"{Decimal(units).scaleb(-TOKEN_DECIMALS):,.3f}"
