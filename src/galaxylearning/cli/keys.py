"""Passphrases and keys of a home, for the commands that sign or open something."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused, KeyUnavailable

if TYPE_CHECKING:
    from galaxylearning.chain.signer import KeySigner
    from galaxylearning.crypto.seal import SealingKey
    from galaxylearning.storage.keystore import KeyStore
    from galaxylearning.units import Address

PASSPHRASE_VARIABLE: Final = "GALAXY_PASSPHRASE"  # noqa: S105 - the name of a variable
PASSPHRASE_FILE_VARIABLE: Final = "GALAXY_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
MAX_PASSPHRASE_BYTES: Final = 4_096
DEFAULT_NAME: Final = "default"


def passphrase(*, is_new: bool = False) -> str:
    """The passphrase of this home's keys, or what is typed (twice for a new key).

    ``GALAXY_PASSPHRASE`` holds it, or ``GALAXY_PASSPHRASE_FILE`` names a file whose first line it is, as
    service managers hand out secrets.

    Raises:
        KeyUnavailable: neither is set and nobody is there to be asked, or the file has no passphrase.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given:
        return given
    if file := os.environ.get(PASSPHRASE_FILE_VARIABLE):
        return _first_line(file)
    if not sys.stdin.isatty():
        raise KeyUnavailable(
            f"set {PASSPHRASE_VARIABLE} or {PASSPHRASE_FILE_VARIABLE}, or type it at a terminal",
            where="passphrase",
        )
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new, err=True))


def _first_line(file: str) -> str:
    try:
        with Path(file).open("rb") as found:
            lines = found.read(MAX_PASSPHRASE_BYTES + 1).splitlines()
        text = lines[0].decode() if lines else ""
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnavailable(f"{file} cannot be read: {error}", where=PASSPHRASE_FILE_VARIABLE) from error
    if not text or len(lines[0]) > MAX_PASSPHRASE_BYTES:
        raise KeyUnavailable(
            f"the first line of {file} must have 1 to {MAX_PASSPHRASE_BYTES} bytes",
            where=PASSPHRASE_FILE_VARIABLE,
        )
    return text


def open_keys(home: Home, *, light: bool = False) -> KeyStore:
    """The keystore of a home."""
    from galaxylearning.storage.keystore import KeyStore

    return KeyStore(home.keys, light=light)


def account_name(home: Home, name: str | None) -> str:
    """``name`` itself; the only account's, or ``default``, where none is given.

    Raises:
        ConfigRefused: there is no account, or there are several and none was chosen.
    """
    if name is not None:
        return name
    known = list(open_keys(home).accounts())
    if len(known) == 1:
        return known[0]
    if DEFAULT_NAME in known:
        return DEFAULT_NAME
    if not known:
        raise ConfigRefused("there is no account here yet; make one with 'galaxy wallet new'", where="--as")
    raise ConfigRefused(f"choose one of {', '.join(known[:20])}", where="--as")


def load_signer(home: Home, name: str | None) -> KeySigner:
    """The key of an account.

    Raises:
        ConfigRefused, KeyUnavailable: no such account, or a wrong passphrase.
    """
    from galaxylearning.chain.signer import KeySigner

    chosen = account_name(home, name)
    return KeySigner(open_keys(home).load_account(chosen, passphrase()))


def blob_signer(home: Home) -> KeySigner | None:
    """The key that the settings name for requests to blob servers; None where they name none.

    Raises:
        ConfigRefused, KeyUnavailable: no such account, or a wrong passphrase.
    """
    from galaxylearning import bootstrap

    account = bootstrap.load_settings(home).blob_access.account
    return load_signer(home, account) if account else None


def load_identity(home: Home, name: str | None) -> tuple[str, KeySigner, SealingKey]:
    """Name, signing key and sealing key of an account; raises as ``load_signer``."""
    from galaxylearning.chain.signer import KeySigner

    chosen, keys, secret = account_name(home, name), open_keys(home), passphrase()
    signer = KeySigner(keys.load_account(chosen, secret))
    return chosen, signer, keys.load_sealing_key(chosen, secret)


def address_named(home: Home, given: str, where: str) -> Address:
    """An address as it is, or that of the account of this name.

    Raises:
        ConfigRefused: neither; names this home's accounts.
    """
    from eth_utils.address import is_hex_address

    known = open_keys(home).accounts()
    if given in known and not (given.startswith("0x") and is_hex_address(given)):
        return known[given]
    names = (
        f"of an account of this home ({', '.join(list(known)[:20])})"
        if known
        else "of an account (none here)"
    )
    return parse_address(given, where, or_else=f", or the name {names}")


def parse_address(given: str, where: str, *, or_else: str = "") -> Address:
    """The address that is given; ``or_else`` is what an error says may be given in its place.

    Raises:
        ConfigRefused: it is none, or has a wrong checksum.
    """
    from eth_utils.address import is_checksum_address, is_hex_address, to_checksum_address

    from galaxylearning.units import Address

    if given.startswith("0x") and is_hex_address(given):
        is_one_case = given[2:] in (given[2:].lower(), given[2:].upper())
        if is_one_case or is_checksum_address(given):
            return Address(to_checksum_address(given))
        raise ConfigRefused(f"{given} has a wrong checksum: a letter was mistyped", where=where)
    raise ConfigRefused(f"{given[:60]!r} given; allowed: 0x and 40 hexadecimal digits{or_else}", where=where)
