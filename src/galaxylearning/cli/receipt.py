"""``galaxy receipt``: what ran on a data owner's data, what it was worth, what was paid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from galaxylearning.cli.options import (
    DEFAULT_HOME,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    JobArgument,
)
from galaxylearning.cli.output import console, print_table, tokens
from galaxylearning.config import Home
from galaxylearning.errors import AuditFailed, ConfigRefused
from galaxylearning.units import Address


def receipt(
    job: JobArgument,
    home: HomeOption = DEFAULT_HOME,
    data_owner: Annotated[
        str | None,
        typer.Option(help="Address or name (of an account here, or in a demo) of one; all where left out."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the receipt (JSON) to this file.")
    ] = None,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Make the receipts of a settled job and check them against the chain and the evaluators' tables.

    With --data-owner also what each round was worth, why, and how that became the payout.
    Exit code 8 where a payout is not what the tables give.

    Example: galaxy receipt 1 --home .galaxy/demo --data-owner hospital-01 -o receipt.json
    """
    found = anyio.run(_receipts, Home(home), job, chain)
    names = _names(Home(home))
    if data_owner is not None:
        wanted = names.get(data_owner, data_owner).lower()
        found = {who: made for who, made in found.items() if who.lower() == wanted}
        if not found:
            raise ConfigRefused(f"{data_owner[:60]!r} is not in the cohort of job {job}", where="data-owner")
    document: Any = next(iter(found.values())) if data_owner is not None else list(found.values())
    if output is not None:
        from galaxylearning.storage.files import replace_whole

        replace_whole(output, (json.dumps(document, indent=2) + "\n").encode())
    if format is Format.JSON:
        typer.echo(json.dumps(document))
    else:
        _show(found, {address: name for name, address in names.items()})
        if data_owner is not None:
            for made in found.values():
                _explain(made)
    for who, made in found.items():
        if made["verdict"] != "ok":
            raise AuditFailed(made["verdict"], where=f"receipt of {who}")


async def _receipts(home: Home, job_id: int, chain: str | None) -> dict[Address, Mapping[str, Any]]:
    from galaxylearning import bootstrap
    from galaxylearning.chain.evm import KeySigner
    from galaxylearning.cli.keys import blob_signer
    from galaxylearning.nodes.receipt import receipts
    from galaxylearning.storage.journal import MemoryJournal

    async with bootstrap.open_world(home, signer=blob_signer(home), chain=chain) as world:
        site = bootstrap.site_of(world, KeySigner(bootstrap.entropy(32)), MemoryJournal())
        return await receipts(site, job_id)


def _names(home: Home) -> dict[str, Address]:
    from galaxylearning.cli.keys import open_keys
    from galaxylearning.simulation import demo_keys

    return {**open_keys(home).accounts(), **demo_keys.names(home)}


def _paid(made: Mapping[str, Any]) -> str:
    if made["payout"].get("is_paid"):
        return "yes"
    if int(made["payout"]["amount"]):
        return "no, expired" if made["payout"].get("is_expired") else "not yet"
    return made["reason"] or "nothing owed"


def _show(found: Mapping[Address, Mapping[str, Any]], names: Mapping[Address, str]) -> None:
    has_fees = any(int(made["owed"]["participation_fee"]) for made in found.values())
    unit = next(iter(found.values()))["value_unit"]
    rows = []
    for who, made in found.items():
        accepted = sum(1 for row in made["rounds"] if row["status"] == "accepted")
        fee = (tokens(made["owed"]["participation_fee"]),) if has_fees else ()
        rows.append(
            (
                f"{names[who]} {who}" if who in names else who,
                f"{accepted} of {len(made['rounds'])}",
                f"{made['value']:.5f}",
                tokens(made["payout"]["amount"]),
                *fee,
                _paid(made),
            )
        )
    print_table(
        f"Receipts, each proven against the settled root; values in {unit} per sample",
        ("data owner", "rounds", "value", "tokens", *(("its fee",) if has_fees else ()), "paid"),
        rows,
        right="rounds,value,tokens,its fee",
        whole="tokens,its fee",
    )


def _explain(made: Mapping[str, Any]) -> None:
    """What each round was worth and why, and how that became money."""
    rows = [
        (
            row["round_index"] + 1,
            row["status"],
            f"{row['value']:+.5f}",
            f"{row['handed_down']:+.5f}" if row["handed_down"] else "",
            f"{-row['charge']:+.5f}" if row["charge"] else "",
            row["reason"],
        )
        for row in made["rounds"]
    ]
    columns = ("round", "status", "value", "handed down", "charged", "why")
    print_table("Round by round", columns, rows, right="round,value,handed down,charged")
    console().print(_price(made), markup=False)


def _price(made: Mapping[str, Any]) -> str:
    """From value to money; what differs from the plain price, and why."""
    bounty, gain = int(made["terms"]["bounty"]), made["terms"]["target_gain"]
    owed, due = int(made["owed"]["value"]), int(bounty * max(made["value"], 0.0) / gain)
    price = f"{tokens(bounty)} tokens are the price of a value of {gain:g}"
    earned = f"{price}: {made['value']:.5f} is worth {tokens(due - due % 10**15)}"
    if made["value"] <= 0:
        earned = f"{price}; a value of 0 or less is paid nothing"
    elif owed < due - due // 1000:
        earned += (
            ". All values together come to more than the bounty, so each is paid "
            f"{owed / due:.1%} of its worth"
        )
    return earned + "".join(f". {text}" for text in _apart(made))


def _apart(made: Mapping[str, Any]) -> list[str]:
    """What else made the value: several names of one data set, or what the total's reason says."""
    others = [who for group in made["twins"] for who in group if who != made["data_owner"]]
    told = [f"The same data came under the name of {', '.join(others)}: paid as one"] if others else []
    return [*told, made["reason"]] if made["reason"] else told
