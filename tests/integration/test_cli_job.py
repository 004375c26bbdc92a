"""A whole paid job typed at the command line, on a job file written by ``galaxy new``.

The chain, the blob store, a requester, three evaluators and two data owners, each in a home and a process of
its own.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import anyio
from safetensors.numpy import load

import galaxylearning as gl
from galaxylearning import bootstrap
from galaxylearning.chain.signer import KeySigner
from galaxylearning.chain.transport import Transport
from galaxylearning.config import Home
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.messages.terms import decode_schema
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.site import keep_going
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.storage.keystore import KeyStore
from machines import PASSPHRASE, PATIENCE_S, Machines, galaxy, in_a_hurry, split_rows, write_job

EVALUATORS = ("e1", "e2", "e3")
OWNERS = ("north", "east", "south")


def relay_registrations(home: Path, name: str, wanted: int) -> None:
    """Relay what data owners signed, until so many data sets are registered; pushes no payments."""

    async def run() -> None:
        async with bootstrap.open_world(Home(home)) as world:
            signer = KeySigner(KeyStore(Home(home).keys).load_account(name, PASSPHRASE))
            site = bootstrap.site_of(world, signer, MemoryJournal())
            relayer, view = RelayerNode(site, jobs=()), ChainView(world.ledger, world.blobs)

            async def turn() -> bool:
                await relayer.turn()
                await view.refresh()
                return len(view.datasets) >= wanted

            with anyio.fail_after(PATIENCE_S):
                await keep_going(site, turn)

    anyio.run(run)


def transactions_of(url: str, address: str) -> int:
    async def count() -> int:
        transport = Transport(url)
        try:
            return int(await transport.request("eth_getTransactionCount", address, "latest"), 16)
        finally:
            await transport.close()

    return anyio.run(count)


def test_a_job_from_the_template_to_the_last_payment(machines: Machines, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    machines.start("chain", "chain", "--home", hub, "--port", 0, "--format", "json")
    machines.start("store", "store", "serve", "--home", hub, "--port", 0, "--format", "json")
    chain, store = machines.first_line("chain"), machines.first_line("store")
    url = chain["served_at"]

    addresses = {}
    for name in ("requester", *EVALUATORS, *OWNERS):
        home = tmp_path / name
        galaxy("chain", "join", url, "--jobs", chain["jobs"], "--store", store["served_at"], "--home", home)
        in_a_hurry(home)
        made = galaxy("wallet", "new", name, "--light", "--home", home, "--format", "json")
        addresses[name] = json.loads(made)["address"]
    for name in ("requester", *EVALUATORS):
        galaxy("wallet", "fund", "--home", tmp_path / name)
    for name in EVALUATORS:
        galaxy("evaluator", "register", "--stake", "60", "--home", tmp_path / name)

    # The requester: check, then post in a process of its own.
    file = write_job(tmp_path / "my-job", ("rounds=5", "rounds=2"), ("maximum_owners=5", "maximum_owners=3"))
    checked = json.loads(galaxy("job", "check", file, "--format", "json"))
    assert checked["runs"]["parameters"] == 3 * 256 + 256 + 256 * 2 + 2
    assert checked["trial"]["suggested_target_gain"] > 0.05
    seats = ",".join(addresses[name] for name in EVALUATORS)
    requester = tmp_path / "requester"
    short = "    windows=gl.Windows(9, 9, 9, 9, 9, 9, 9),\n    price="
    hasty = write_job(tmp_path / "hasty", ("    price=", short))
    machines.start(
        "post", "job", "post", file, "--evaluators", seats, "--home", requester, "--format", "json"
    )
    posted = json.loads(machines.running["post"].communicate(timeout=PATIENCE_S)[0])
    assert posted["job"] == "1"
    assert int(posted["escrow"]) == 1_030 * 10**18
    # That something was posted before excuses nothing.
    said = galaxy("job", "post", hasty, "--evaluators", seats, "--home", requester, code=3)
    assert "windows.round_s: 9 given; allowed: at least" in said

    machines.start("watch", "job", "watch", 1, "--until-settled", "--home", requester, "--format", "json")
    first = machines.first_line("watch")
    assert (first["phase"], first["enrolled"], first["minimum_owners"]) == ("enrolling", 0, 3)
    assert (first["seats_taken"], first["seats"], first["fewest_seats"]) == (0, 3, 3)

    # Three data owners: describe, match, accept, run.
    for name, rows in zip(OWNERS, split_rows(tmp_path / "my-job" / "owner.csv", OWNERS), strict=True):
        home = tmp_path / name
        galaxy("data", "add", rows, "--label", "diagnosis", "--name", "patients", "--home", home)
        matched = json.loads(galaxy("data", "match", "patients", 1, "--home", home, "--format", "json"))
        assert matched["is_match"]
        rows.rename(rows.with_suffix(".away"))
        accepted = json.loads(galaxy("job", "accept", 1, "--home", home, "--format", "json"))
        assert "its file is not there any more" in accepted["datasets"][0]["refusal"]
        rows.with_suffix(".away").rename(rows)
        accepted = json.loads(galaxy("job", "accept", 1, "--home", home, "--format", "json"))
        assert accepted["datasets"] == [{"name": "patients", "refusal": None}]
        machines.start(name, "owner", "run", "--job", 1, "--home", home, "--format", "json")
    for name in EVALUATORS:
        options = ("--stake", "60", "--job", 1, "--no-relayer", "--format", "json")
        machines.start(name, "evaluator", "run", *options, "--home", tmp_path / name)
    relay_registrations(requester, "requester", len(OWNERS))

    watched = machines.ended("watch")
    assert watched[-1]["phase"] == "settled"
    assert {1, 2, 3} & {step.get("enrolled") for step in watched}
    steps = [step["step"] for name in EVALUATORS for step in machines.ended(name)]
    assert steps.count("round anchored") == 2
    assert "model released" in steps
    for name in OWNERS:
        told = machines.ended(name)
        steps = [step["step"] for step in told]
        assert steps == ["started", "enrolled", "update sent", "update sent", "job settled"]
        assert (told[0]["facts"]["account"], told[0]["facts"]["data_sets"]) == (addresses[name], "1")
        assert "galaxy receipt 1" in told[-1]["facts"]["detail"]

    # One data owner's payout is claimed; a relayer pushes the rest. Nobody is paid twice.
    shown = json.loads(galaxy("job", "show", 1, "--home", requester, "--format", "json"))
    assert (shown["paid"], shown["payees"]) == ("0", 3)
    listed = json.loads(galaxy("job", "parties", 1, "--home", requester, "--format", "json"))
    owners = {row["account"]: row["status"] for row in listed if row["role"] == "data owner"}
    assert owners == {addresses[name]: "in the cohort" for name in OWNERS}
    north = ("job", "claim", 1, "--account", addresses["north"], "--as", "requester", "--home", requester)
    claimed = json.loads(galaxy(*north, "--format", "json"))
    assert int(claimed["amount"]) > 0
    assert "was paid already" in galaxy(*north, code=7)
    assert "not paid by this job" in galaxy(
        "job", "claim", 1, "--account", addresses["e1"], "--home", requester, code=3
    )
    galaxy("evaluator", "run", "--stake", "60", "--job", 1, "--home", tmp_path / "e1")
    galaxy("job", "watch", 1, "--home", requester)

    shown = json.loads(galaxy("job", "show", 1, "--home", requester, "--format", "json"))
    assert int(shown["paid"]) + int(shown["fees_paid"]) + int(shown["refunded"]) == int(posted["escrow"])
    assert int(shown["fees_paid"]) == 30 * 10**18
    received = 0
    for name in OWNERS:
        owned = json.loads(galaxy("wallet", "show", "--home", tmp_path / name, "--format", "json"))
        received += int(owned["tokens"])
        assert transactions_of(url, addresses[name]) == 0
        if name == "north":
            assert owned["tokens"] == claimed["amount"]
    assert received == int(shown["paid"]) == int(shown["payouts"])

    # Afterwards.
    model = tmp_path / "model.safetensors"
    collected = json.loads(galaxy("job", "collect", 1, "-o", model, "--home", requester, "--format", "json"))
    assert sum(tensor.size for tensor in load(model.read_bytes()).values()) == 1538
    assert collected["bytes"] == model.stat().st_size
    assert collected["model_digest"] == blake3_digest(model.read_bytes()).hex()
    schema = gl.schema_of(tmp_path / "my-job" / "test.csv", label="diagnosis")
    assert decode_schema(Path(collected["schema_file"]).read_bytes()) == schema
    collect = ("job", "collect", 1, "--home", requester, "-o")
    assert "already" in galaxy(*collect, model, code=3)
    assert "already" in galaxy(*collect, ".", code=3)
    # What is there may be collected again, but nothing else is written over.
    model.unlink()
    galaxy(*collect, model)
    # The same model again, with hidden triggers trained out.
    job_file, hardened = tmp_path / "my-job" / "job.py", tmp_path / "hardened.safetensors"
    told = json.loads(galaxy(*collect, hardened, "--harden", job_file, "--format", "json"))
    assert (told["model_digest"], told["bytes"]) == (collected["model_digest"], collected["bytes"])
    assert collected["file_digest"] == collected["model_digest"]
    assert told["file_digest"] == blake3_digest(hardened.read_bytes()).hex() != told["model_digest"]
    assert load(hardened.read_bytes()).keys() == load(model.read_bytes()).keys()
    before, after = told["hardened"]["before"], told["hardened"]["after"]
    assert before.keys() == after.keys() == {"loss", "accuracy"}
    assert after["accuracy"] > 0.75
    assert collected["hardened"] is None
    again = tmp_path / "again.safetensors"
    shown = " ".join(galaxy(*collect, again, "--harden", job_file).split())
    assert f"with {told['hardened']['test_rows']} test rows." in shown
    assert again.read_bytes() == hardened.read_bytes()
    foreign = job_file.with_name("foreign.py")
    foreign.write_text(job_file.read_text().replace("256", "255"))
    refused = (*collect, tmp_path / "refused.safetensors", "--harden")
    assert "its model is not this job's" in galaxy(*refused, foreign, code=3)
    # The schema is made of the test rows: others may be scaled otherwise.
    rows = job_file.with_name("test.csv")
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[-1] + "\n")
    assert "not this job's" in galaxy(*refused, job_file, code=3)
    assert "no such folder" in galaxy(*collect, tmp_path / "none" / "model.safetensors", code=3)
    assert not list(tmp_path.glob("refused*"))
    other = tmp_path / "other.schema.json"
    other.write_text("{}")
    assert "something else" in galaxy(*collect, tmp_path / "other.safetensors", code=3)
    assert other.read_text() == "{}"
    assert "enrolling" in galaxy("job", "cancel", 1, "--home", requester, code=7)
    assert "enrolling" in galaxy("job", "accept", 1, "--home", tmp_path / "north", code=7)
    listed = json.loads(galaxy("job", "list", "--home", requester, "--format", "json"))
    assert [(job["job"], job["phase"]) for job in listed] == [("1", "settled")]
    galaxy("audit", 1, "--home", requester)
    galaxy("store", "check", "--home", hub)
    for name in ("chain", "store"):
        machines.running[name].send_signal(signal.SIGINT)
        machines.running[name].communicate(timeout=PATIENCE_S)
        assert machines.running[name].returncode == 130
    assert not (hub / bootstrap.SERVED_CHAIN).exists()
