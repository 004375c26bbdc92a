"""The table of commands, help, and what failures become."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import galaxylearning
from galaxylearning import cli
from galaxylearning.cli import COMMANDS, load_command, main
from galaxylearning.cli.options import Format
from galaxylearning.errors import AuditFailed, ConfigRefused, GalaxyError, LedgerUnreachable

SOURCES = str(Path(galaxylearning.__file__).parents[1])


def type_command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with what is typed for it."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield " ".join(path), command
        return
    for name, found in inner.items():
        yield from leaves(found, (*path, name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_shows_an_example(name: str) -> None:
    found = {name: load_command(name), **dict(leaves(load_command(name), (name,)))}
    for typed, command in found.items():
        assert f"Example: galaxy {typed.split()[0]}" in command.help, typed


def test_every_command_that_asks_a_chain_can_be_told_which() -> None:
    found = {typed: command for name in COMMANDS for typed, command in leaves(load_command(name), (name,))}
    for typed in ("audit", "receipt", "job show", "evaluator list", "wallet show", "doctor"):
        assert "--chain" in {option for one in found[typed].params for option in one.opts}, typed


def test_what_reads_can_print_json() -> None:
    reading: tuple[str, ...] = (
        "chain info",
        "store list",
        "store check",
        "wallet list",
        "wallet show",
        "credential show",
        "data list",
        "data match",
    )
    reading += ("simulate", "job check", "job list", "job show", "job watch", "audit", "receipt", "demo")
    found = {typed: command for name in COMMANDS for typed, command in leaves(load_command(name), (name,))}
    for typed in reading:
        assert any("--format" in parameter.opts for parameter in found[typed].params), typed


def test_every_command_takes_the_same_formats() -> None:
    found = [command for name in COMMANDS for _, command in leaves(load_command(name), (name,))]
    formats = [one for command in found for one in command.params if "--format" in one.opts]
    assert len(formats) > 20
    for one in formats:
        assert one.type_descriptor.annotation is Format


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["job", "--help"], ["data", "list"]])
def test_output_that_cannot_be_written_is_an_expected_failure(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "galaxylearning.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
            env={"PYTHONPATH": SOURCES},
        )
    assert (done.returncode, done.stderr) == (6, "galaxy: could not write: No space left on device\n")


def test_help_lists_the_commands_without_loading_them() -> None:
    code = (
        "import sys\nfrom galaxylearning.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'web3', 'numpy', 'asyncio', 'ethereum'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": SOURCES}
    )
    for name in COMMANDS:
        assert name in shown.stdout


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert type_command("--version") == 0
    assert capsys.readouterr().out == f"galaxy {galaxylearning.__version__}\n"


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert type_command("nope") == 2
    assert "No such command" in capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make ``galaxy new`` fail so."""

    def load(_name: str) -> Any:
        def new() -> None:
            raise error

        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(new)
        return typer.main.get_command(app)

    monkeypatch.setattr(cli, "load_command", load)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigRefused("must be 1", where="field"), 3),
        (LedgerUnreachable("no answer", where="chain"), 5),
        (AuditFailed("differs", where="round 1"), 8),
        (ExceptionGroup("nodes", [ConfigRefused("must be 1", where="field")]), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_expected_failure_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    failing(monkeypatch, error)
    assert type_command("new") == code
    said = capsys.readouterr()
    assert said.out == ""
    if isinstance(error, GalaxyError):
        assert said.err == f"galaxy: {error}\n"


def test_a_failure_cannot_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ConfigRefused("a\x1b[2Jb\nc"))
    assert type_command("new") == 3
    assert capsys.readouterr().err == "galaxy: a\\x1b[2Jb c\n"


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("ours"), ExceptionGroup("nodes", [ConfigRefused("x"), ZeroDivisionError("ours")])],
)
def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["new"])
