"""``galaxy wallet``: accounts, their keys, and what they own."""

from __future__ import annotations

import os
from typing import Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.keys import DEFAULT_NAME, account_name, address_named, open_keys, passphrase
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    smallest_units,
)
from galaxylearning.config import Home

app = typer.Typer(
    help="Accounts and their keys. Passphrase: GALAXY_PASSPHRASE, or it is asked for.\n\n"
    "Example: galaxy wallet new hospital",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the account.")] = DEFAULT_NAME,
    home: HomeOption = DEFAULT_HOME,
    light: Annotated[
        bool, typer.Option("--light", help="A weaker but quicker passphrase stretch: for tests.")
    ] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Make an account and its sealing key, encrypted under a passphrase.

    A key that is lost cannot be made again: keep a copy of HOME/keys and the passphrase.

    Example: galaxy wallet new hospital
    """
    keys = open_keys(Home(home), light=light)
    secret = passphrase(is_new=True)
    address = keys.create_account(name, secret, entropy=os.urandom)
    sealing = keys.create_sealing_key(name, secret, entropy=os.urandom)
    facts = {"name": name, "address": address, "sealing_key_digest": sealing.digest.hex()}
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("New account", facts.items())


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, format: FormatOption = Format.TABLE) -> None:
    """List the accounts of this home; no passphrase is needed.

    Example: galaxy wallet list --format json
    """
    keys = open_keys(Home(home))
    sealing = keys.sealing_keys()
    rows = [
        {
            "name": name,
            "address": address,
            "sealing_key_digest": sealing[name].hex() if name in sealing else None,
        }
        for name, address in keys.accounts().items()
    ]
    if format is Format.JSON:
        output.print_json(rows)
    else:
        columns = ("name", "address", "sealing_key_digest")
        output.print_table("Accounts", columns, [[row[c] or "" for c in columns] for row in rows])


@app.command()
def fund(
    account: Annotated[
        str | None,
        typer.Argument(help="Name of an account here, or an address; may be left out where there is one."),
    ] = None,
    tokens: Annotated[str, typer.Option(help="Demo tokens to mint, in whole tokens.")] = "10000",
    coins: Annotated[str, typer.Option(help="Native coins for gas.")] = "10",
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Give an account gas money and demo tokens from a development node's unlocked account.

    Data owners need neither. On a real chain, send coins and tokens to the address yourself.

    Example: galaxy wallet fund requester --tokens 5000
    """
    from galaxylearning import bootstrap

    place = Home(home)
    address = address_named(place, account or account_name(place, None), "account")
    units = smallest_units(tokens, "--tokens")
    wei = smallest_units(coins, "--coins")

    async def run() -> dict[str, Any]:
        async with bootstrap.open_world(place, chain=chain) as world:
            is_minted = await bootstrap.fund_account(world, address, wei=wei, token_units=units)
            return {**await bootstrap.balances(world, address), "is_minted": is_minted}

    _show(anyio.run(run), format)


@app.command()
def show(
    account: Annotated[
        str | None,
        typer.Argument(help="Name of an account here, or an address; may be left out where there is one."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show what an account owns: coins, tokens, stake.

    Example: galaxy wallet show requester --format json
    """
    from galaxylearning import bootstrap

    place = Home(home)
    address = address_named(place, account or account_name(place, None), "account")

    async def run() -> dict[str, Any]:
        async with bootstrap.open_world(place, chain=chain) as world:
            return await bootstrap.balances(world, address)

    _show(anyio.run(run), format)


def _show(facts: dict[str, Any], format: Format) -> None:
    if format is Format.JSON:
        output.print_json(facts)
        return
    rows = [
        ("address", facts["address"]),
        ("coins", output.tokens(facts["coins_wei"])),
        ("tokens", output.tokens(facts["tokens"])),
        ("staked", output.tokens(facts["staked"])),
        ("evaluator", "yes" if facts["is_evaluator"] else "no"),
    ]
    if facts.get("is_minted") is False:
        rows.append(("note", "the token is not the demo token: nothing was minted"))
    output.print_facts("Account", rows)
