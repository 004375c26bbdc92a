"""A job across processes on anvil: an evaluator and two data owners are killed, a third owner for good."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.reorgs.anvil import running_anvil

from machines import PATIENCE_S, Machines, galaxy, in_a_hurry, split_rows, write_job

EVALUATORS = ("e1", "e2", "e3")
OWNERS = ("north", "east", "south", "west")
WINDOWS = (
    "windows=gl.Windows(enrol_s=120, round_s=30, anchor_s=90, commit_s=60, reveal_s=60, settle_s=90, "
    "claim_s=86_400),"
)


def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def test_a_job_survives_kill_9_and_a_data_owner_that_never_comes_back(
    machines: Machines, tmp_path: Path
) -> None:
    with running_anvil("--block-time", "1") as url:
        market = tmp_path / "market"
        galaxy("chain", "deploy", "--chain", url, "--home", market)
        machines.start("store", "store", "serve", "--home", market, "--port", 0, "--format", "json")
        store = machines.first_line("store")["served_at"]
        invitation = tmp_path / "market.json"
        galaxy("chain", "invite", "--url", url, "--store", store, "-o", invitation, "--home", market)
        for name in ("requester", *EVALUATORS, *OWNERS):
            galaxy("chain", "join", invitation, "--home", tmp_path / name)
            in_a_hurry(tmp_path / name)
            galaxy("wallet", "new", name, "--light", "--home", tmp_path / name)
        for name in ("requester", *EVALUATORS):
            galaxy("wallet", "fund", "--home", tmp_path / name)
        for name in EVALUATORS:
            galaxy("evaluator", "register", "--stake", "60", "--home", tmp_path / name)

        def run(name: str) -> None:
            if name in EVALUATORS:
                machines.start(name, "evaluator", "run", "--stake", "60", "--home", tmp_path / name)
            else:
                machines.start(name, "owner", "run", "--job", 1, "--home", tmp_path / name)

        file = write_job(
            tmp_path / "my-job",
            ("rounds=5", "rounds=2"),
            ("minimum_owners=3, maximum_owners=5", "minimum_owners=3, maximum_owners=4"),
            ("    price=gl.Price", f"    {WINDOWS}\n    price=gl.Price"),
        )
        requester = ("--home", tmp_path / "requester")
        seats = galaxy("evaluator", "list", "--addresses", *requester).strip()
        for name in EVALUATORS:
            run(name)
        galaxy("job", "post", file, "--evaluators", seats, *requester)
        for name, rows in zip(OWNERS, split_rows(tmp_path / "my-job" / "owner.csv", OWNERS), strict=True):
            home = ("--home", tmp_path / name)
            galaxy("data", "add", rows, "--label", "diagnosis", "--name", "patients", *home)
            galaxy("job", "accept", 1, *home)
            run(name)

        def shown() -> dict[str, str]:
            return dict(json.loads(galaxy("job", "show", 1, *requester, "--format", "json")))

        wait_for(lambda: shown()["phase"] == "training", "the cohort is not anchored")
        for name in ("e1", "north", "east", "west"):
            machines.kill(name)
        for name in ("e1", "north", "east"):
            run(name)
        galaxy("job", "watch", 1, *requester)

        end = shown()
        assert end["phase"] == "settled"
        assert int(end["cohort"]) == 4
        assert int(end["paid"]) + int(end["fees_paid"]) + int(end["refunded"]) == int(end["escrow"])
        assert int(end["paid"]) > 0
        assert re.search("Verdict: ok", galaxy("audit", 1, *requester))
        assert re.search("Verdict: ok", galaxy("audit", 1, "--key", "e1", "--home", tmp_path / "e1"))
