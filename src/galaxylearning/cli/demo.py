"""``galaxy demo``: a whole paid federation on this machine."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from galaxylearning.cli.options import Format, FormatOption
from galaxylearning.config import EMBEDDED
from galaxylearning.errors import AuditFailed, ConfigRefused
from galaxylearning.messages.terms import loss_unit
from galaxylearning.units import TOKEN_DECIMALS, how_many

if TYPE_CHECKING:
    from galaxylearning.nodes.auditor import AuditReport
    from galaxylearning.nodes.site import Progress as Step
    from galaxylearning.simulation.demo_outcome import Federation


def demo(
    data: Annotated[str, typer.Option(help="breast-cancer or digits.")] = "breast-cancer",
    owners: Annotated[int, typer.Option(help="How many identities take part, the twin among them.")] = 12,
    rounds: Annotated[int, typer.Option(help="Rounds of training.")] = 10,
    seed: Annotated[
        int, typer.Option(help="Fixes who holds what, the model and every statistical choice.")
    ] = 1,
    privacy: Annotated[
        str, typer.Option(help="masked: nobody sees one hospital's update. sealed: the evaluators do.")
    ] = "masked",
    kill_member: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I[@ROUNDS]",
            help="Evaluator I (1 to 5) vanishes for good after so many rounds: 1 (if left out) to --rounds. "
            "At most two may.",
        ),
    ] = None,
    no_twin: Annotated[bool, typer.Option("--no-twin", help="Leave the twin out.")] = False,
    chain: Annotated[
        str, typer.Option(help="URL of an EVM node with an unlocked account; a chain of its own if left out.")
    ] = EMBEDDED,
    home: Annotated[Path, typer.Option(help="Where everything is kept; replaced at each run.")] = Path(
        ".galaxy/demo"
    ),
    format: FormatOption = Format.TABLE,
) -> None:
    """Twelve hospitals train a model for a requester and are paid by contribution, offline, on real data.

    Five evaluators judge. Among the hospitals: a free rider that sends noise, one whose labels are shuffled,
    and a twin (one hospital's data under two names). Everything is real: contracts on an EVM, sealed models
    and updates, training, payment, audit.

    Example: galaxy demo --data digits --seed 3 --format json
    """
    start = time.monotonic()
    console = Console(stderr=format is Format.JSON, quiet=format is Format.JSON)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=rounds + 3, detail="loading the engine")
        from galaxylearning.cli.audit import audit_home
        from galaxylearning.simulation import federation

        options = federation.Options(
            data=data,
            owners=owners,
            rounds=rounds,
            seed=seed,
            has_twin=not no_twin,
            chain=chain,
            privacy=privacy,
            killed=tuple(_vanishing(given) for given in kill_member or ()),
        )
        folder = federation.prepare_home(home, options)
        bar.update(task, description="deploying contracts", detail="evaluators register and stake")
        watch = _Watch(bar, task, console, rounds)
        found = anyio.run(_run, folder, options, watch)
        bar.update(task, description="auditing", detail="recomputing every round, score and payment")
        report, _ = anyio.run(audit_home, folder, found.job_id)
    seconds = time.monotonic() - start
    document = as_json(found, report, chain=chain, seconds=seconds)
    if format is Format.JSON:
        typer.echo(json.dumps(document))
    else:
        _show(found, document, report, home, console)
    if report.problems:
        raise AuditFailed(str(report.problems[0].problem), where=report.problems[0].check)


def _vanishing(given: str) -> tuple[int, int]:
    """Read ``I`` or ``I@ROUNDS``."""
    number, _, rounds = given.partition("@")
    if not number.isdecimal() or len(given) > 9 or not (rounds.isdecimal() or given == number):
        raise ConfigRefused(
            f"{given[:40]!r} given; allowed: I or I@ROUNDS, such as 2 or 2@3", where="kill-member"
        )
    return int(number), int(rounds or 1)


async def _run(folder: Any, options: Any, watch: _Watch) -> Federation:
    from galaxylearning.simulation import federation

    return await federation.run(folder, options, report=watch)


class _Watch:
    """Turns the nodes' progress into a bar and a line per round."""

    def __init__(self, bar: Progress, task: Any, console: Console, rounds: int) -> None:
        self._bar, self._task, self._console, self._rounds = bar, task, console, rounds
        self._seen: set[int] = set()
        self._enrolled = 0

    def __call__(self, step: Step) -> None:
        if step.step == "job posted":
            self._console.print(f"job {step.job_id} posted, bounty in escrow ({step.facts['gas']:,} gas)")
            self._bar.update(self._task, advance=1, description="enrolling", detail="owners consent and sign")
        elif step.step == "enrolled":
            self._enrolled += 1
            self._bar.update(self._task, detail=how_many(self._enrolled, "data owner") + " signed")
        elif step.step == "update sent":
            self._bar.update(self._task, description="training", detail=step.facts["detail"])
        elif step.step == "round federated" and step.facts["round_index"] not in self._seen:
            self._seen.add(step.facts["round_index"])
            accuracy = step.facts["correct"] / step.facts["rows"]
            self._console.print(
                f"round {step.facts['round_index'] + 1:>3} of {self._rounds}: accuracy {accuracy:.3f}, "
                f"{how_many(step.facts['accepted'], 'update')} accepted"
            )
            self._bar.update(self._task, advance=1, description="training")
        elif step.step == "paid":
            self._bar.update(self._task, advance=1, description="settled", detail="paying by contribution")
        elif step.step == "vanished":
            self._console.print(f"{step.actor} vanished after {how_many(step.facts['after'], 'round')}")
        elif step.step in ("given up", "not enrolled"):
            self._console.print(f"{step.actor}: {step.step}: {step.facts}")


def as_json(found: Federation, report: AuditReport, *, chain: str, seconds: float) -> dict[str, Any]:
    """Everything the demo has to say, as plain values; amounts are decimal strings of smallest units."""
    state, table = found.state, found.score_table
    gas = found.gas["rounds"]
    rows = found.terms.test_rows
    return {
        "job": str(found.job_id),
        "chain": chain,
        "privacy": found.terms.privacy,
        "value_unit": loss_unit(found.terms.loss),
        "seconds": round(seconds, 3),
        "model_digest": state.model_digest.hex(),
        "rounds": [
            {
                "round_index": scores.round_index,
                "utility": found.mean_utility(scores.utility_after),
                "accuracy": scores.correct / rows,
                "gas": gas[scores.round_index],
            }
            for scores in table.rounds
        ],
        "final": {
            "accuracy": found.accuracy_final,
            "accuracy_pooled": found.accuracy_pooled,
            "accuracy_alone_mean": sum(found.accuracy_alone.values()) / len(found.accuracy_alone),
        },
        "payouts": [
            {
                "data_owner": row.data_owner,
                "name": row.name,
                "behaviour": row.behaviour,
                "value": row.value,
                "standard_error": row.standard_error,
                "payout": str(row.payout),
                "accuracy_alone": found.accuracy_alone.get(row.name),
                "why": row.why,
            }
            for row in found.payouts
        ],
        "escrow": {
            "deposited": str(state.escrow),
            "paid": str(state.paid),
            "fees": str(state.fees_paid),
            "refunded": str(state.refunded),
        },
        "gas": {
            key: found.gas[key] for key in ("post", "cohort", "per_round", "settle", "per_payee", "total")
        },
        "transactions": dict(found.transactions),
        "audit": report.verdict,
    }


def _show(
    found: Federation, document: dict[str, Any], report: AuditReport, home: Path, console: Console
) -> None:
    final = document["final"]
    console.print(f"\n[bold]{found.terms.title}[/]: what the data could do, and never left home for")
    accuracy = Table(show_header=False)
    accuracy.add_row("untrained", f"{found.accuracy_before:.3f}")
    accuracy.add_row("a hospital alone, on average", f"{final['accuracy_alone_mean']:.3f}")
    accuracy.add_row("[bold]federated and paid for[/]", f"[bold]{final['accuracy']:.3f}[/]")
    accuracy.add_row("all data in one place (nobody could)", f"{final['accuracy_pooled']:.3f}")
    console.print(accuracy)
    unit = f"1/1000 {document['value_unit']}"
    payouts = Table(
        title=f"Who contributed what ({unit} per test sample), and was paid what (GDC)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("hospital", "behaviour"):
        payouts.add_column(column, no_wrap=True)
    for column in ("alone", "value", "paid"):
        payouts.add_column(column, justify="right", no_wrap=True)
    payouts.add_column("why")
    for row in document["payouts"]:
        alone = row["accuracy_alone"]
        payouts.add_row(
            row["name"],
            row["behaviour"],
            "" if alone is None else f"{alone:.3f}",
            f"{1000 * row['value']:.1f} ± {1000 * row['standard_error']:.1f}",
            _tokens(row["payout"]),
            row["why"],
        )
    console.print(payouts)
    escrow, gas = document["escrow"], document["gas"]
    console.print(
        f"escrow {_tokens(escrow['deposited'])} = paid {_tokens(escrow['paid'])} + fees "
        f"{_tokens(escrow['fees'])} + refunded {_tokens(escrow['refunded'])} GDC, to the smallest unit"
    )
    console.print(
        f"gas: post {gas['post']:,}, cohort {gas['cohort']:,}, round {gas['per_round']:,}, "
        f"settle {gas['settle']:,}, payee {gas['per_payee']:,}; in total {gas['total']:,}. "
        f"Transactions by data owners: {document['transactions']['data_owner']}"
    )
    where = "everything was computed again" if report.is_full else "sealed data were not opened"
    console.print(f"audit: [bold]{report.verdict}[/] ({how_many(len(report.findings), 'check')}; {where})")
    console.print(f"{document['seconds']:.1f} s. Now try:")
    for command in ("audit", "receipt", "job show"):
        console.print(f"  galaxy {command} {found.job_id} --home {home}", soft_wrap=True)


def _tokens(units: str) -> str:
    return f"{Decimal(units).scaleb(-TOKEN_DECIMALS):,.2f}"
