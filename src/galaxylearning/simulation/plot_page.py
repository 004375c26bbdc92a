"""The page of a run: one HTML file without scripts that loads nothing, all text in it escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as escape_markup
from typing import Final

from galaxylearning.simulation.history import History
from galaxylearning.simulation.report import (
    BEHAVIOUR_COLUMNS,
    MEASURED,
    OWNER_COLUMNS,
    Report,
    behaviour_table,
    owner_table,
)
from galaxylearning.units import TOKEN_DECIMALS, how_many

MOST_ROWS: Final = 1000
STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; color: #22303c; background: #fff; margin: 1.5rem; }
main { max-width: 1300px; margin: auto; }
figure { margin: 0 0 1.5rem; } figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; margin: 0 0 1.5rem; font-size: 14px; }
caption { text-align: left; font-weight: 600; font-size: 16px; padding: .4rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #d9e0e6; text-align: left; }
thead th { border-bottom: 2px solid #9aa7b2; position: sticky; top: 0; background: #fff; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } summary { cursor: pointer; margin: .5rem 0; }
"""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(history: History, report: Report, svg: str) -> str:
    """The whole page; ``svg`` is trusted, names and texts are not."""
    title = headline(report, report.job)
    _, owners = owner_table(report, fold=MOST_ROWS, money=in_millionths)
    _, behaviours = behaviour_table(report, money=in_millionths)
    note = (
        f"<p>The table shows the {MOST_ROWS:,} best and worst paid of {len(report.owners):,}.</p>"
        if len(report.owners) > MOST_ROWS
        else ""
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(_summary(report, in_millionths(report.paid), in_millionths(report.bounty)))}</p>",
            '<figure role="img" aria-label="Progress, statuses, value and pay, as in the tables below">',
            svg[svg.index("<svg") :],
            "</figure>",
            _table("Who did what, by behaviour", BEHAVIOUR_COLUMNS, behaviours),
            note,
            _table(
                f"Who did what: value paid for, in {report.value_unit} per hidden sample; pay in tokens",
                OWNER_COLUMNS,
                owners,
            ),
            "<details><summary>Round by round</summary>",
            _table("Rounds", *_rounds(history)),
            "</details></main></body></html>",
            "",
        )
    )


def headline(report: Report, job: str) -> str:
    """What was run, in a few words; ``job`` as it can be shown."""
    owners, rounds = len(report.owners), report.rounds
    return f"{job or 'run'}: {how_many(owners, 'data owner')}, {how_many(rounds, 'round')}"


def escape(text: str) -> str:
    """Text as HTML shows it: no markup, no control characters."""
    return escape_markup("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def in_millionths(units: int) -> str:
    """Smallest units as whole tokens with six decimals, rounded down."""
    scale: int = 10**TOKEN_DECIMALS
    whole, part = divmod(units, scale)
    return f"{whole:,}.{part * 10**6 // scale:06d}"


def _summary(report: Report, paid: str, bounty: str) -> str:
    parts = [f"The run {'was ' if report.reason == 'interrupted' else ''}{report.reason}"]
    if report.utility is not None:
        parts.append(f"utility {report.utility:.5f} {report.value_unit} per sample")
    if report.accuracy is not None:
        parts.append(f"accuracy {report.accuracy:.2%}")
    parts.append(f"{paid} of {bounty} tokens paid")
    return ", ".join(parts) + "."


def _rounds(history: History) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    columns = (
        "round",
        "utility",
        "accuracy",
        "seconds",
        "accepted",
        "rejected",
        "malformed",
        "absent",
        "dropped",
    )
    return columns, [
        (
            str(record.round_index + 1),
            f"{record.utility:.5f}",
            "" if record.accuracy is None else f"{record.accuracy:.2%}",
            f"{record.seconds:.3f}",
            *(f"{record.counts[name]:,}" for name in columns[4:]),
        )
        for record in history.rounds
    ]


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    words = {*MEASURED.split(","), "round", "utility", "accuracy", "seconds"}
    kinds = [' class="number"' if column in words else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(c)}</th>' for c, kind in zip(columns, kinds, strict=True))
    body = "\n".join(_row(row, kinds) for row in rows)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _row(cells: Sequence[str], kinds: Sequence[str]) -> str:
    first, *rest = cells
    row = f'<th scope="row"{kinds[0]}>{escape(first)}</th>'
    return (
        f"<tr>{row}{''.join(f'<td{k}>{escape(c)}</td>' for c, k in zip(rest, kinds[1:], strict=True))}</tr>"
    )
