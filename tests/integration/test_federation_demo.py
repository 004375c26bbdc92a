"""``galaxy demo`` as people type it: its JSON, the same on anvil, and what it refuses."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from galaxylearning.cli import main as galaxy
from galaxylearning.errors import ConfigRefused, QuorumMissing
from galaxylearning.simulation import federation

if TYPE_CHECKING:
    from tests.integration.conftest import DemoRun

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def anvil() -> Iterator[str]:
    """A fresh anvil; its URL."""
    found = sorted((REPOSITORY / "contracts/node_modules").glob("**/bin/anvil"))
    if not found:
        pytest.fail("anvil is missing: run `npm ci` in contracts/ (npm package @foundry-rs/anvil)")
    command = [str(found[0]), "--port", "0", "--hardfork", "prague"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Listening on "):
                yield "http://" + line.removeprefix("Listening on ").strip()
                break
        process.kill()


def test_the_demo_prints_its_json_and_nothing_else(demo_run: DemoRun) -> None:
    found = demo_run.document
    assert (found["chain"], found["privacy"]) == ("embedded:", "masked")
    assert [row["round_index"] for row in found["rounds"]] == [0, 1]
    assert all(row["gas"] > 0 for row in found["rounds"])
    behaviours = [row["behaviour"] for row in found["payouts"]]
    assert behaviours == ["honest", "free-rider", "noisy", "twin", "twin"]
    escrow = {name: int(amount) for name, amount in found["escrow"].items()}
    assert escrow["deposited"] == escrow["paid"] + escrow["fees"] + escrow["refunded"]
    assert sum(int(row["payout"]) for row in found["payouts"]) == escrow["paid"]
    assert found["transactions"]["data_owner"] == 0
    assert found["audit"] == "ok"
    assert found["final"]["accuracy"] > 0.8


def test_on_anvil_the_demo_ends_alike_and_costs_the_same(
    demo_run: DemoRun, anvil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, *demo_run.arguments, "--chain", anvil, "--home", str(tmp_path / "home")) == 0
    found, expected = json.loads(capsys.readouterr().out), demo_run.document
    assert found["chain"] == anvil
    assert found["escrow"]["deposited"] == expected["escrow"]["deposited"]
    assert (found["audit"], found["privacy"]) == ("ok", "masked")
    assert found["transactions"]["data_owner"] == 0
    # Another chain has other randomness, so norms are estimated by other projections: alike, not the same.
    for here, there in zip(found["payouts"], expected["payouts"], strict=True):
        assert here["data_owner"] == there["data_owner"]
        assert here["value"] == pytest.approx(there["value"], rel=0.4, abs=0.01)
    for name, gas in expected["gas"].items():
        # Signatures and digests have zero bytes now and then, which cost less as call data.
        assert found["gas"][name] == pytest.approx(gas, rel=0.01), name


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        galaxy(list(arguments))
    return int(ended.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must fail says, in bounded time."""
    start = monotonic()
    code = run(capsys, "demo", "--format", "json", *arguments)
    shown = capsys.readouterr()
    assert code != 0
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert monotonic() - start < 60
    return f"{code} {shown.err}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist"], "allowed: breast-cancer, digits"),
        (["--owners", "4"], "allowed: 5 to"),
        (["--owners", "1000"], "allowed: 5 to"),
        (["--rounds", "0"], "allowed: 1 to 200"),
        (["--rounds", "201"], "allowed: 1 to 200"),
        (["--seed", "-1"], "allowed: 0 to"),
        (["--privacy", "blind"], "allowed: masked, sealed"),
        (["--kill-member", "6"], "at most 2 different numbers from 1 to 5"),
        (["--kill-member", "1", "--kill-member", "2", "--kill-member", "3"], "at most 2 different"),
        (["--kill-member", "1@0"], "1@0 given; allowed after the @: 1 to 10"),
        (["--kill-member", "1@11"], "1@11 given; allowed after the @: 1 to 10"),
        (["--kill-member", "2@3", "--rounds", "2"], "2@3 given; allowed after the @: 1 to 2"),
        (["--kill-member", "one"], "allowed: I or I@ROUNDS"),
        (["--chain", "ftp://localhost"], "chain"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_by_name(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("demo.json", "precious.txt"):
        (home / name).write_text("{}")
    said = refused(capsys, *arguments, "--home", str(home))
    assert said.startswith(f"{ConfigRefused.exit_code} ")
    assert message in said
    assert arguments[0].removeprefix("--") in said
    # An earlier demo is not removed for a demo that cannot be.
    assert sorted(path.name for path in home.iterdir()) == ["demo.json", "precious.txt"]


def test_a_demo_that_does_not_end_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "TIME_LIMIT_S", 0.1)
    said = refused(capsys, "--owners", "5", "--rounds", "1", "--home", str(tmp_path / "home"))
    assert said.startswith(f"{QuorumMissing.exit_code} ")
    assert "job 1: is not over after 0.1 s" in said


def test_a_home_that_is_not_a_demos_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "photographs.txt"
    kept.write_text("precious")
    assert "not a demo's" in refused(capsys, "--home", str(tmp_path))
    assert kept.read_text() == "precious"
    assert "not a demo's" in refused(capsys, "--home", str(kept))
    assert kept.read_text() == "precious"


def test_a_chain_that_does_not_answer_is_named_in_bounded_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        said = refused(capsys, "--chain", f"http://127.0.0.1:{port}", "--home", str(tmp_path / "home"))
    assert said.startswith("5 ")
    assert str(port) in said
