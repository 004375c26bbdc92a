"""What commands print: tables for people, JSON for programs. What strangers wrote is made harmless here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from galaxylearning.units import in_tokens

if TYPE_CHECKING:
    from galaxylearning.nodes.site import Progress

PIPE_WIDTH: Final = 160


def console() -> Console:
    """Where people read: the width of the terminal, wide where there is none."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


def print_line(document: Any) -> None:
    """One JSON document on one line of standard output, at once."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def harmless(text: object) -> str:
    """Text of a stranger without anything that could move a terminal's cursor or look like markup."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "", whole: str = ""
) -> None:
    """A table; ``right`` names the columns, parted by commas, that are aligned to the right.

    Where it is too wide, all columns are folded but those that ``whole`` names.
    """
    table = Table(title=Text(harmless(title), style="bold"), title_justify="left")
    for column in columns:
        is_right = column in right.split(",")
        table.add_column(
            Text(column),
            justify="right" if is_right else "left",
            overflow="fold",
            no_wrap=column in whole.split(","),
        )
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    console().print(table)


def print_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line."""
    table = Table(
        title=Text(harmless(title), style="bold"), title_justify="left", show_header=False, box=None
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(harmless(value)))
    console().print(table)


def tokens(units: int | str) -> str:
    """An amount of smallest units in whole tokens, exactly."""
    return in_tokens(int(units))


def moment(at: int) -> str:
    """A Unix time for people."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def print_plain(text: str) -> None:
    """One line for people, at once; harmless whoever wrote it."""
    sys.stdout.write(harmless(text) + "\n")
    sys.stdout.flush()


def tell_progress(progress: Progress) -> None:
    """One line on standard error, beside a command's result."""
    sys.stderr.write(harmless(f"job {progress.job_id}  {progress.actor}: {progress.step}") + "\n")
    sys.stderr.flush()
