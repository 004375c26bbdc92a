"""The commands that help and documents print for ``galaxy simulate``, on what ``galaxy new`` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from galaxylearning.cli import load_command
from machines import galaxy

ROOT = Path(__file__).parents[2]


def printed() -> list[str]:
    """Every command with a partition, of the help, README.md and docs/simulator.md, on one line each."""
    texts = [load_command("simulate").help]
    texts += [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/simulator.md")]
    found = []
    for text in texts:
        whole = re.sub(r"\\?\n *--", " --", text)
        found += re.findall(r"galaxy simulate my-job/job.py (.*--partition [^#\n]*)", whole)
    return found


def write_rows(path: Path, sample: Path, rows: int) -> None:
    """A file of so many rows, made of those of the sample."""
    header, *lines = sample.read_text().splitlines()
    path.write_text("\n".join([header, *(lines[row % len(lines)] for row in range(rows))]) + "\n")


def test_help_and_documents_print_commands_to_try() -> None:
    assert len(printed()) >= 4


@pytest.mark.parametrize("arguments", printed())
def test_a_printed_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    monkeypatch.chdir(tmp_path)
    galaxy("new", "my-job")
    write_rows(tmp_path / "rows.csv", tmp_path / "my-job" / "owner.csv", 2_000)
    typed = ("simulate", "my-job/job.py", *arguments.split(), "--rounds", "1", "--no-plot")
    found = json.loads(galaxy(*typed, "--format", "json"))
    assert len(found["owners"]) == int(arguments.split("--owners ")[1].split()[0])
