"""``galaxy receipt``: whole amounts whatever the terminal's width, and a file that cannot be written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from galaxylearning.cli import output, receipt
from galaxylearning.config import Home
from galaxylearning.units import Address
from machines import galaxy

NORTH = Address("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")
SOUTH = Address("0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf")
AMOUNT = 355_056_134_473_989_012_345


def round_of(index: int, status: str, reason: str, **numbers: float) -> dict[str, Any]:
    worth = {"value": 0.0, "handed_down": 0.0, "charge": 0.0} | numbers
    return {"round_index": index, "status": status, "reason": reason, **worth}


def made(amount: int, *, is_paid: bool, fee: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "data_owner": NORTH,
        "terms": {"bounty": str(1_000 * 10**18), "target_gain": 0.5},
        "rounds": [
            round_of(0, "accepted", "", value=0.2, handed_down=0.06),
            round_of(1, "rejected", "far", charge=0.01),
        ],
        "twins": [],
        "value": 0.25,
        "value_unit": "nats",
        "reason": "",
        "owed": {"value": str(amount - fee), "participation_fee": str(fee)},
        "payout": {"amount": str(amount), "is_paid": is_paid, "is_expired": False},
        "verdict": "ok",
    } | changes


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Job 1, of two data owners, read without a chain."""

    _reading(monkeypatch, {NORTH: made(AMOUNT, is_paid=True), SOUTH: made(AMOUNT, is_paid=False)})
    monkeypatch.setattr(output, "console", lambda: Console(width=80, highlight=False))
    monkeypatch.setenv("GALAXY_HOME", str(tmp_path))


def _reading(monkeypatch: pytest.MonkeyPatch, found: Mapping[Address, Mapping[str, Any]]) -> None:
    async def receipts(_home: Home, _job: int, _chain: str | None) -> Mapping[Address, Mapping[str, Any]]:
        return found

    monkeypatch.setattr(receipt, "_receipts", receipts)


def test_amounts_are_whole_tokens_and_never_cut() -> None:
    shown = galaxy("receipt", 1)
    assert shown.count("355.056134473989012345") == 2
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    cells = [line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")[1].strip() for line in shown.splitlines()[4:-1]]
    assert "".join(cells) == NORTH + SOUTH


def test_what_values_are_counted_in_follows_from_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "values in nats per sample" in galaxy("receipt", 1)
    _reading(monkeypatch, {NORTH: made(AMOUNT, is_paid=True, value_unit="units of l1")})
    shown = galaxy("receipt", 1)
    assert "values in units of l1 per sample" in shown
    assert "nats" not in shown


def test_what_is_owed_but_not_paid_is_told() -> None:
    assert "not yet" in galaxy("receipt", 1)
    assert "nothing owed" not in galaxy("receipt", 1)


def test_what_nobody_fetched_in_time_is_not_told_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    payout = {"amount": str(AMOUNT), "is_paid": False, "is_expired": True}
    _reading(monkeypatch, {NORTH: made(AMOUNT, is_paid=False, payout=payout)})
    shown = galaxy("receipt", 1)
    assert "no, expired" in shown
    assert "not yet" not in shown


def test_fees_have_a_column_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fee" not in galaxy("receipt", 1)
    _reading(monkeypatch, {NORTH: made(AMOUNT, is_paid=True, fee=25 * 10**17)})
    shown = galaxy("receipt", 1)
    assert "its fee" in shown
    assert "2.5" in shown


@pytest.mark.parametrize("format", ["table", "json"])
def test_what_does_not_hold_is_shown_and_ends_like_an_audit(
    monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    verdict = "the score tables give a payout of 1; settled was another"
    _reading(monkeypatch, {NORTH: made(AMOUNT, is_paid=True, verdict=verdict)})
    said = galaxy("receipt", 1, "--format", format, code=8)
    assert said == f"galaxy: receipt of {NORTH}: {verdict}\n"


def test_one_receipt_says_what_each_round_was_worth_and_why() -> None:
    shown = galaxy("receipt", 1, "--data-owner", NORTH)
    lines = [line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")[1:-1] for line in shown.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert ["1", "accepted", "+0.20000", "+0.06000", "", ""] in cells
    assert ["2", "rejected", "+0.00000", "", "-0.01000", "far"] in cells
    assert "Round by round" not in galaxy("receipt", 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "a value of 0.5: 0.25000 is worth 500. All values together come to more than the bounty"),
        ({}, "so each is paid 71.0% of its worth"),
        ({"owed": {"value": str(500 * 10**18), "participation_fee": "0"}}, "0.25000 is worth 500\n"),
        ({"value": -0.1}, "a value of 0 or less is paid nothing\n"),
        ({"twins": [[NORTH, SOUTH]]}, f"under the name of {SOUTH}: paid as one"),
        ({"reason": "luck"}, ". luck\n"),
    ],
)
def test_how_a_value_became_money_is_told(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=400, highlight=False))
    monkeypatch.setattr(receipt, "console", output.console)
    _reading(monkeypatch, {NORTH: made(AMOUNT, is_paid=True) | changes})
    assert said in galaxy("receipt", 1, "--data-owner", NORTH)


def test_json_keeps_smallest_units() -> None:
    shown = json.loads(galaxy("receipt", 1, "--format", "json"))
    assert [one["payout"]["amount"] for one in shown] == [str(AMOUNT)] * 2


def test_a_receipt_is_written_or_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    galaxy("receipt", 1, "--data-owner", NORTH, "-o", file)
    assert json.loads(file.read_text())["payout"]["amount"] == str(AMOUNT)
    said = galaxy("receipt", 1, "-o", tmp_path / "none" / "y.json", code=6)
    assert said.startswith("galaxy: ")
    assert len(said.splitlines()) == 1
