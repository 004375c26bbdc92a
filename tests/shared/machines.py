"""Commands of galaxy, typed in this process or run in processes of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from galaxylearning import bootstrap
from galaxylearning.cli import main
from galaxylearning.config import Home

PASSPHRASE = "correct horse"
PATIENCE_S = 240
SOURCES = str(Path(bootstrap.__file__).parents[1])


def galaxy(*arguments: object, code: int = 0) -> str:
    """Type a command in this process; its standard output (its standard error where it should fail)."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        main([str(argument) for argument in arguments])
    assert stopped.value.code == code, err.getvalue() + out.getvalue()
    return err.getvalue() if code else out.getvalue()


class Machines:
    """Processes of ``galaxy``, each with a log; all are killed in the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **os.environ,
            "PYTHONPATH": SOURCES,
            "OMP_NUM_THREADS": "1",
            "GALAXY_PASSPHRASE": PASSPHRASE,
        }
        self.running: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, *arguments: object) -> subprocess.Popen[str]:
        with (self.root / f"{name}.log").open("w") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "galaxylearning.cli", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
            )
        return self.running[name]

    def first_line(self, name: str) -> Any:
        """The first line of JSON that a process prints."""
        output = self.running[name].stdout
        assert output is not None
        assert select.select([output], [], [], PATIENCE_S)[0], f"{name} says nothing"
        line = output.readline()
        assert line, (self.root / f"{name}.log").read_text()
        return json.loads(line)

    def ended(self, name: str) -> list[Any]:
        """The lines of JSON of a process that ends well by itself."""
        out, _ = self.running[name].communicate(timeout=PATIENCE_S)
        assert self.running[name].returncode == 0, (self.root / f"{name}.log").read_text() + out
        return [json.loads(line) for line in out.splitlines()]

    def kill(self, name: str) -> None:
        """SIGKILL, as ``kill -9``."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


def in_a_hurry(home: Path) -> None:
    """Look around often, and take turns quickly."""
    settings = bootstrap.load_settings(Home(home))
    bootstrap.save_settings(Home(home), msgspec.structs.replace(settings, poll_ms=150, stagger_ms=600))


def write_job(folder: Path, *changes: tuple[str, str]) -> Path:
    """The template as ``galaxy new`` writes it, with each first text of a pair made the second."""
    galaxy("new", folder)
    file = folder / "job.py"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return file


def split_rows(file: Path, names: Sequence[str]) -> list[Path]:
    """One data owner's file dealt out to several, in the folder above it."""
    header, *rows = file.read_text().splitlines()
    found = []
    for number, name in enumerate(names):
        found.append(file.parents[1] / f"{name}.csv")
        found[-1].write_text("\n".join([header, *rows[number :: len(names)]]) + "\n")
    return found
