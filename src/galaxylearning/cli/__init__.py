"""The ``galaxy`` command. A table names the commands; each module is loaded when its command is called.

Expected failures end in one line on standard error and their own exit code; a mistake of ours keeps its
traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from galaxylearning.errors import DiskFull, GalaxyError, LedgerError

INTERRUPTED: Final = 130

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("galaxylearning.cli.demo:demo", "A whole paid federation on this machine, offline."),
    "new": ("galaxylearning.cli.new:new", "Write a job file to begin with."),
    "simulate": ("galaxylearning.cli.simulate:simulate", "Try a job on simulated data owners."),
    "chain": ("galaxylearning.cli.chain:app", "Serve the embedded chain; deploy or join contracts."),
    "store": ("galaxylearning.cli.store:app", "Serve, list and check the blob store."),
    "wallet": ("galaxylearning.cli.wallet:app", "Accounts and their keys."),
    "credential": ("galaxylearning.cli.credential:app", "Vouch for data owners' accounts."),
    "data": ("galaxylearning.cli.data:app", "Data sets: they are described here and stay where they are."),
    "owner": ("galaxylearning.cli.owner:app", "Run a data owner's node."),
    "evaluator": ("galaxylearning.cli.evaluator:app", "Run an evaluator's node."),
    "job": ("galaxylearning.cli.job:app", "Check, post, watch, accept and claim jobs."),
    "audit": ("galaxylearning.cli.audit:audit", "Recompute a job from chain and blobs."),
    "receipt": ("galaxylearning.cli.receipt:receipt", "Make data owners' receipts, checked on the chain."),
    "doctor": ("galaxylearning.cli.doctor:doctor", "Say what is wrong with this machine before a job does."),
}
"""Name -> (where the command is, one line of help). What is named is a ``typer.Typer`` or a function."""


def load_command(name: str) -> Any:
    """The command of this name, its module imported."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name)(target)
        target = single
    command = typer.main.get_command(target)
    command.name = name
    return command


class _LazyGroup(TyperGroup):
    """Lists the commands without importing any, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


app = typer.Typer(cls=_LazyGroup, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from galaxylearning import __version__

        typer.echo(f"galaxy {__version__}")
        raise typer.Exit


@app.callback()
def galaxy(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    """Buy training instead of data: encrypted models travel, data stays, a contract pays by contribution.

    Begin with: galaxy demo
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (``sys.argv`` where none is given) and exit with a documented code."""
    try:
        app(args=None if argv is None else list(argv), prog_name="galaxy")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (GalaxyError, BaseExceptionGroup) as error:
        expected = _expected(error)
        if expected is None:
            raise
        from galaxylearning.cli.output import harmless

        typer.echo(harmless(f"galaxy: {expected}{_remedy(expected)}"), err=True)
        sys.exit(expected.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.stdout = None  # what is left in its buffer cannot be written either
        typer.echo(f"galaxy: could not write: {error.strerror}", err=True)
        sys.exit(DiskFull.exit_code)
    sys.exit(0)


def _remedy(error: GalaxyError) -> str:
    """What to do about a failure whose words are another program's, or nothing."""
    if isinstance(error, LedgerError) and "insufficient funds" in str(error).lower():
        return "; give the account coins for gas ('galaxy wallet fund' on a development chain)"
    return ""


def _expected(error: BaseException) -> GalaxyError | None:
    """The failure to tell, if nothing but expected failures happened (several nodes may fail at once)."""
    if isinstance(error, GalaxyError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [_expected(one) for one in error.exceptions]
        return found[0] if all(found) else None
    return None
