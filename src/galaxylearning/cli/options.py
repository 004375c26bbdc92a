"""Options that commands share."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from galaxylearning.errors import ConfigRefused
from galaxylearning.units import TOKEN_DECIMALS

DEFAULT_HOME: Final = Path(".galaxy")
MAX_LINES_BYTES: Final = 1 << 20
ADD_HINT: Final = (
    "No data set is offered from this home: galaxy data add FILE --label COLUMN --name NAME adds one."
)

_AMOUNT: Final = re.compile(rf"([0-9]{{1,30}})(?:\.([0-9]{{1,{TOKEN_DECIMALS}}}))?")


class Format(StrEnum):
    """How a command shows what it read."""

    TABLE = "table"
    JSON = "json"


HomeOption: TypeAlias = Annotated[
    Path, typer.Option("--home", envvar="GALAXY_HOME", help="Folder with settings, keys, chain and blobs.")
]
ChainOption: TypeAlias = Annotated[
    str | None, typer.Option("--chain", help="URL of an EVM node; what the home's settings say if left out.")
]
FormatOption: TypeAlias = Annotated[
    Format, typer.Option("--format", help="json prints one JSON document and nothing else.")
]
AsOption: TypeAlias = Annotated[
    str | None, typer.Option("--as", help="Name of the account; may be left out where there is one.")
]
MetricsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        help="Port on localhost for /metrics (Prometheus), /live and /ready; 0 picks a free one.",
        min=0,
        max=65_535,
    ),
]
TlsCertOption: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-cert", help="Certificate (chain) in PEM; serves https.")
]
TlsKeyOption: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-key", help="Private key of the certificate, in PEM, not encrypted.")
]
ProxyOption: TypeAlias = Annotated[
    bool,
    typer.Option("--behind-proxy", help="A proxy in front speaks TLS; nobody else reaches this."),
]
JobArgument: TypeAlias = Annotated[int, typer.Argument(help="Number of the job.", min=1)]


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """``["a=b", ...]`` as a mapping; what is left of the last ``=`` is the name.

    Raises:
        ConfigRefused: no ``=``, an empty side, or a name given twice.
    """
    found: dict[str, str] = {}
    for value in values or ():
        name, _, given = value.rpartition("=")
        if not name or not given:
            raise ConfigRefused(f"{value[:80]!r} given; allowed: name=value", where=option)
        if name in found:
            raise ConfigRefused(f"{name[:80]!r} is given twice", where=option)
        found[name] = given
    return found


def smallest_units(amount: str, option: str) -> int:
    """Whole tokens (or coins) as an integer of smallest units, exactly.

    Raises:
        ConfigRefused: not a plain decimal number of at most 30 digits and 18 decimals.
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise ConfigRefused(
            f"{amount[:60]!r} given; allowed: a number from 0 to below 10^30 with at most "
            f"{TOKEN_DECIMALS} decimals",
            where=option,
        )
    whole, part = match.group(1), match.group(2) or ""
    return int(whole) * 10**TOKEN_DECIMALS + int(part.ljust(TOKEN_DECIMALS, "0"))


def read_lines(file: Path, option: str) -> list[str]:
    """The lines of a small file, without blank ones and comments (``#``).

    Raises:
        ConfigRefused: it cannot be read, is too large, or has no lines.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_LINES_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigRefused(f"{file} cannot be read: {error}", where=option) from error
    if len(data) > MAX_LINES_BYTES:
        raise ConfigRefused(f"{file} must have at most {MAX_LINES_BYTES} bytes", where=option)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ConfigRefused(f"{file} has no lines", where=option)
    return lines
