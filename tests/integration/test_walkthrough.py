"""The commands of docs/walkthrough.md, typed as they stand there: from nothing to a paid, audited job."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load

from machines import in_a_hurry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "walkthrough.md"
PATIENCE_S = 240
PORTS = ("8545", "8787")


def blocks(text: str) -> list[tuple[bool, str]]:
    """The page's blocks of commands in order: whether it needs a terminal of its own, and what is typed."""
    found = re.findall(r"^```sh( terminal)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(bool(terminal), commands.strip()) for terminal, commands in found]


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Desk:
    """A shell in which blocks are typed one after the other, and the terminals beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exports: list[str] = []
        self.terminals: list[subprocess.Popen[bytes]] = []
        commands = folder / "bin"
        commands.mkdir()
        for name, target in (("galaxy", "-m galaxylearning.cli"), ("python", "")):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {target} "$@"\n')
            script.chmod(0o755)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GALAXY_")},
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
        }

    def type(self, commands: str) -> str:
        """Run a block to its end; what it printed."""
        self.exports += [line for line in commands.splitlines() if line.startswith("export ")]
        done = subprocess.run(
            ["bash", "-euc", "\n".join([*self.exports, commands])],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def open(self, command: str) -> None:
        """Start a block in a terminal of its own."""
        with (self.folder / f"terminal-{len(self.terminals)}.log").open("wb") as log:
            self.terminals.append(
                subprocess.Popen(
                    ["bash", "-euc", "\n".join([*self.exports, f"exec {command}"])],
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def logs(self) -> str:
        """What the terminals show, the end of each."""
        return "\n".join(path.read_text()[-2_000:] for path in sorted(self.folder.glob("terminal-*.log")))

    def wait_for_ports(self, ports: list[str]) -> None:
        """Until somebody listens on each."""
        deadline = time.monotonic() + PATIENCE_S
        while ports:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", int(ports[0]))) == 0:
                    ports = ports[1:]
                    continue
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def close(self) -> None:
        """Interrupt every terminal, as a user would."""
        for process in self.terminals:
            process.send_signal(signal.SIGINT)
        for process in self.terminals:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.close()


def test_the_page_leads_to_a_paid_and_audited_job(desk: Desk, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "tumours", tmp_path / "examples" / "tumours")
    ports = free_ports(len(PORTS))
    text = PAGE.read_text()
    for shown, taken in zip(PORTS, ports, strict=True):
        assert shown in text
        text = text.replace(shown, taken)
    said = []
    served = False
    for is_terminal, commands in blocks(text):
        if is_terminal:
            desk.open(commands)
            continue
        if not served and len(desk.terminals) == len(PORTS):
            desk.wait_for_ports(ports)
            served = True
        said.append(desk.type(commands))
        for settings in tmp_path.glob("*/galaxy.json"):
            if settings.parent.name != "market":
                in_a_hurry(settings.parent)

    assert len(desk.terminals) == 8
    checked, used = said[-2:]
    assert checked.count("Verdict: ok") == 2, checked
    assert "computed again" in checked
    rows = (tmp_path / "examples" / "tumours" / "north.csv").read_text().splitlines()[1:]
    answers = used.split()
    right = sum(row.endswith(f",{answer}") for row, answer in zip(rows, answers, strict=True))
    assert right > 0.85 * len(rows), used
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["payout"]["is_paid"]
    assert int(receipt["payout"]["amount"]) > 0
    assert (
        sum(t.size for t in load((tmp_path / "model.safetensors").read_bytes()).values()) == 64 * 31 + 2 * 65
    )
