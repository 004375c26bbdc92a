"""Money at the command line, on an embedded chain: what holds stake and escrow, and how they come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from galaxylearning import bootstrap
from galaxylearning.chain.evm import EvmLedger
from galaxylearning.cli.keys import load_signer
from galaxylearning.config import Home
from galaxylearning.ports import Call, Receipt, Signer
from galaxylearning.protocol import calls
from galaxylearning.storage.journal import MemoryJournal
from machines import galaxy, write_job

TOKEN = 10**18
DELAY_S = bootstrap.UNBONDING_S
EVALUATORS = ("e1", "e2", "e3")


class Killed(BaseException):
    """``kill -9``: nothing of ours may catch it."""


class Clock:
    """The chain's time, which stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_900_000_000

    def __call__(self) -> int:
        return self.now


def asked(*arguments: object) -> Any:
    """What a command prints as JSON."""
    return json.loads(galaxy(*arguments, "--format", "json"))


def withdrawn(*arguments: object) -> Any:
    """What the command says of e1's stake, in whole tokens."""
    found = asked("evaluator", "withdraw", *arguments, "--as", "e1")
    names = ("amount", "staked", "free", "locked", "withdrawing")
    return {**found, **{name: int(found[name]) / TOKEN for name in names}}


def row() -> Any:
    """What anybody sees of e1."""
    address = {one["name"]: one["address"] for one in asked("wallet", "list")}["e1"]
    return next(one for one in asked("evaluator", "list") if one["address"] == address)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(bootstrap, "chain_clock", made)
    return made


@pytest.fixture
def home(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose e1 has staked 60 of 100 tokens."""
    monkeypatch.setenv("GALAXY_PASSPHRASE", "secret")
    monkeypatch.setenv("GALAXY_HOME", str(tmp_path / "home"))
    galaxy("chain", "deploy")
    galaxy("wallet", "new", "e1", "--light")
    galaxy("wallet", "fund", "e1", "--tokens", "100")
    galaxy("evaluator", "register", "--as", "e1", "--stake", "60")
    return tmp_path / "home"


def kill(monkeypatch: pytest.MonkeyPatch, function: str, *, is_sent: bool) -> Callable[[], None]:
    """Die when this function is called, before or after the transaction; returns what ends that."""
    real = EvmLedger.submit

    async def submit(self: EvmLedger, call: Call, signer: Signer) -> Receipt:
        if call.function == function and not is_sent:
            raise Killed
        receipt = await real(self, call, signer)
        if call.function == function:
            raise Killed
        return receipt

    monkeypatch.setattr(EvmLedger, "submit", submit)
    return lambda: monkeypatch.setattr(EvmLedger, "submit", real)


def test_stake_comes_back_after_the_delay_by_the_same_command(home: Path, clock: Clock) -> None:
    assert withdrawn()["step"] == "nothing"
    told = galaxy("evaluator", "withdraw", "61", "--as", "e1", code=3)
    assert "AMOUNT: 61 given; at most 60 allowed" in told
    assert "allowed" in galaxy("evaluator", "withdraw", "5", "--all", "--as", "e1", code=3)
    assert "AMOUNT" in galaxy("evaluator", "withdraw", "some", "--as", "e1", code=3)

    first = withdrawn("25")
    assert (first["step"], first["amount"], first["free"], first["withdrawing"]) == ("asked", 25, 35, 25)
    due = first["withdrawable_at"]
    assert DELAY_S <= due - clock.now <= DELAY_S + 10
    assert row() == {**row(), "withdrawing": str(25 * TOKEN), "free": str(35 * TOKEN), "withdrawable_at": due}
    assert f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC" in galaxy("evaluator", "list")

    # To ask again changes nothing: above all, the delay does not begin anew.
    clock.now += DELAY_S // 2
    for again in (("25",), (), ("--all",)):
        assert withdrawn(*again) == {**first, "step": "waiting"}

    clock.now = due
    last = withdrawn("25")
    assert (last["step"], last["amount"], last["staked"], last["withdrawing"]) == ("withdrawn", 25, 35, 0)
    assert last["withdrawable_at"] is None
    assert asked("wallet", "show", "e1")["tokens"] == str(65 * TOKEN)
    assert withdrawn()["step"] == "nothing"
    assert "35" in galaxy("evaluator", "withdraw", "--as", "e1")


def test_another_amount_takes_the_place_of_what_was_asked_for_and_none_cancels_it(
    home: Path, clock: Clock
) -> None:
    due = withdrawn("25")["withdrawable_at"]
    clock.now += 1_000
    more = withdrawn("--all")
    assert (more["step"], more["amount"]) == ("waiting", 25)
    more = withdrawn("60")
    assert (more["step"], more["amount"], more["free"]) == ("asked", 60, 0)
    assert more["withdrawable_at"] >= due + 1_000
    gone = withdrawn("0")
    assert (gone["step"], gone["amount"], gone["free"], gone["withdrawing"]) == ("cancelled", 60, 60, 0)
    clock.now += 2 * DELAY_S
    assert withdrawn("0")["step"] == "nothing"
    assert withdrawn()["step"] == "nothing"
    assert asked("wallet", "show", "e1")["staked"] == str(60 * TOKEN)


def test_what_a_seat_holds_comes_back_when_its_job_is_over(home: Path, clock: Clock, tmp_path: Path) -> None:
    for name in ("requester", "e2", "e3"):
        galaxy("wallet", "new", name, "--light")
        galaxy("wallet", "fund", name, "--tokens", "2000")
    for name in ("e2", "e3"):
        galaxy("evaluator", "register", "--as", name, "--stake", "60")
    galaxy("job", "post", write_job(tmp_path / "mine"), "--as", "requester", "--evaluators", "e1,e2,e3")

    async def sit_down() -> None:
        place = Home(home)
        signer = load_signer(place, "e1")
        async with bootstrap.open_world(place, signer=signer) as world:
            await bootstrap.site_of(world, signer, MemoryJournal()).submit(calls.take_seat(1))

    anyio.run(sit_down)
    seat = int(asked("job", "show", 1)["price"]["seat_stake"]) // TOKEN
    assert 0 < seat < 60
    assert row() == {**row(), "locked": str(seat * TOKEN), "jobs": ["1"], "free": str((60 - seat) * TOKEN)}
    assert f"{seat} in job 1" in galaxy("evaluator", "list")
    told = galaxy("evaluator", "withdraw", "60", "--as", "e1", code=3)
    assert f"at most {60 - seat} allowed" in told
    assert f"{seat} of them are locked" in told

    first = withdrawn("--all")
    assert (first["step"], first["amount"], first["jobs"]) == ("asked", 60 - seat, ["1"])
    galaxy("job", "cancel", 1, "--as", "requester")
    assert (withdrawn()["jobs"], withdrawn()["free"]) == ([], seat)
    clock.now = first["withdrawable_at"]
    assert withdrawn("--all")["staked"] == seat
    # The rest is a wish of its own.
    second = withdrawn("--all")
    assert (second["step"], second["amount"], second["free"]) == ("asked", seat, 0)
    clock.now = second["withdrawable_at"]
    assert withdrawn("--all")["staked"] == 0
    assert asked("wallet", "show", "e1")["tokens"] == str(100 * TOKEN)


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_command_that_was_killed_is_typed_again(
    home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    def killed(function: str) -> None:
        live = kill(monkeypatch, function, is_sent=is_sent)
        with pytest.raises(Killed):
            galaxy("evaluator", "withdraw", "25", "--as", "e1")
        live()

    killed("requestWithdrawal")
    clock.now += 100
    found = withdrawn("25")
    assert (found["step"], found["amount"]) == ("waiting" if is_sent else "asked", 25)
    clock.now = found["withdrawable_at"]
    killed("withdraw")
    found = withdrawn("25")
    assert (found["step"], found["amount"], found["staked"], found["withdrawing"]) == ("withdrawn", 25, 35, 0)
    assert asked("wallet", "show", "e1")["tokens"] == str(65 * TOKEN)
    # That was told: as much again is another wish.
    assert withdrawn("25")["step"] == "asked"


def test_a_job_that_nobody_moves_on_is_closed_by_its_requester(
    home: Path, clock: Clock, tmp_path: Path
) -> None:
    for name in ("requester", "e2", "e3"):
        galaxy("wallet", "new", name, "--light")
        galaxy("wallet", "fund", name, "--tokens", "2000")
    for name in ("e2", "e3"):
        galaxy("evaluator", "register", "--as", name, "--stake", "60")
    post = ("job", "post", write_job(tmp_path / "mine"), "--as", "requester", "--evaluators", "e1,e2,e3")
    posted = asked(*post)
    assert "the job is enrolling; allowed once it is over, or in" in galaxy(
        "job", "close", 1, "--as", "requester", code=7
    )
    windows = asked("job", "show", 1)["windows"]
    clock.now += windows["enrol_s"] + windows["anchor_s"] + 60
    closed = asked("job", "close", 1, "--as", "e2")
    assert (closed["phase"], closed["refunded"]) == ("aborted", posted["escrow"])
    assert asked("wallet", "show", "requester")["tokens"] == str(2_000 * TOKEN)
    assert asked("job", "close", 1, "--as", "requester") == {**closed, "refunded": "0"}
    assert "aborted" in galaxy("job", "close", 1, "--as", "requester")
