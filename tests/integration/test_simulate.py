"""Simulated jobs from job file to payout: with and without a chain, interrupted, resumed, and refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import galaxylearning as gl
from galaxylearning.cli import main as galaxy
from galaxylearning.engines.memory import process_rss_mib
from galaxylearning.errors import ConfigRefused, DataRefused, GalaxyError, StorageError
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import behaviour_names
from galaxylearning.simulation.history import OwnerStatus, RoundRecord
from galaxylearning.simulation.run import Options
from machines import galaxy as typed
from simulated_jobs import BOUNTY, JOB_FILE, pays, run, write_job_file, write_rows


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return write_job_file(tmp_path)


# ---- what a run gives


def test_the_command_trains_judges_pays_and_leaves_its_files(job_file: Path) -> None:
    code, found = run(job_file)
    assert code == 0
    assert int(found["paid"]) + int(found["refunded"]) == int(found["bounty"]) == BOUNTY
    assert int(found["paid"]) > 0
    by_name = {row["name"]: row for row in found["owners"]}
    assert by_name["owner-0"]["behaviour"] == "zero"
    assert by_name["owner-1"]["behaviour"] == "sign-flip"
    assert by_name["owner-0"]["rejected"] == by_name["owner-1"]["rejected"] == 4
    assert by_name["owner-0"]["pay"] == by_name["owner-1"]["pay"] == "0"
    assert found["accuracy"] > 0.7
    folder = job_file.parent / "simulation"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"report.json", "owners.csv", "rounds.csv", "rounds.jsonl", "model.safetensors"}
    assert json.loads((folder / "report.json").read_text())["model_digest"] == found["model_digest"]
    assert len((folder / "rounds.csv").read_text().splitlines()) == 5


def test_a_picture_and_a_page_are_drawn(job_file: Path, tmp_path: Path) -> None:
    result = gl.simulate(job_file, rounds=1)
    assert set(result.write(tmp_path / "out", plot=True)) >= {"plot.png", "plot.html"}
    assert (tmp_path / "out" / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "owner-0" in (tmp_path / "out" / "plot.html").read_text()


@pytest.mark.parametrize("privacy", ["sealed", "masked"])
def test_with_a_chain_everything_is_the_same_and_audited(job_file: Path, privacy: str) -> None:
    if privacy == "masked":
        text = job_file.read_text().replace("6)", "256)").replace("(6,", "(256,")
        text = text.replace("minimum_owners=2", "minimum_owners=3").replace('"sealed"', '"masked"')
        job_file.write_text(text)
    without = gl.simulate(job_file, rounds=2)
    with_chain = gl.simulate(job_file, rounds=2, chain="embedded:")
    assert with_chain.model_digest == without.model_digest
    assert pays(with_chain) == pays(without)
    assert with_chain.refunded == without.refunded
    assert with_chain.chain is not None
    assert with_chain.chain["audit"] == "ok"
    assert with_chain.chain["data_owner_transactions"] == 0
    for one, other in zip(with_chain.history.rounds, without.history.rounds, strict=True):
        assert one.statuses.tolist() == other.statuses.tolist()
        assert np.allclose(one.values, other.values, atol=1e-5)


def test_a_chain_takes_batch_statistics_and_bounds_that_a_policy_would_not(job_file: Path) -> None:
    text = job_file.read_text().replace("nn.ReLU()", "nn.BatchNorm1d(6), nn.ReLU()")
    bounded = (
        "import msgspec\nfirst = msgspec.structs.replace(schema.features[0], maximum=1e6)\n"
        "schema = msgspec.structs.replace(schema, features=(first, *schema.features[1:]))\ntorch.manual_seed"
    )
    job_file.write_text(text.replace("torch.manual_seed", bounded, 1))
    told: list[str] = []
    without = gl.simulate(job_file, rounds=1)
    with_chain = gl.simulate(job_file, rounds=1, chain="embedded:", tell=told.append)
    assert with_chain.model_digest == without.model_digest
    assert pays(with_chain) == pays(without)
    (line,) = [line for line in told if ": round federated" in line]
    utility = without.history.rounds[0].utility
    assert f": round federated  round=1  utility={utility:.4f} nats per sample  correct=" in line


def test_a_chain_lives_with_owners_that_are_absent_late_or_unreadable(job_file: Path) -> None:
    settings = gl.Simulation(
        data=job_file.parent / "rows.csv",
        owners=6,
        behaviours=["absent@0", "slow:factor=1.5@1", "slow:factor=9@2", "nan@3"],
    )
    without = gl.simulate(job_file, settings, rounds=2)
    found = gl.simulate(job_file, settings, rounds=2, chain="embedded:")
    assert found.model_digest == without.model_digest
    wanted = [OwnerStatus.ABSENT, OwnerStatus.ACCEPTED, OwnerStatus.DROPPED, OwnerStatus.MALFORMED]
    for record in (*found.history.rounds, *without.history.rounds):
        assert record.statuses[:4].tolist() == wanted


def test_the_same_run_twice_gives_the_same_and_another_seed_another(job_file: Path) -> None:
    one, same, other = gl.simulate(job_file), gl.simulate(job_file), gl.simulate(job_file, seed=5)
    assert (one.model_digest, pays(one)) == (same.model_digest, pays(same))
    assert other.model_digest != one.model_digest


@pytest.mark.parametrize("behaviour", behaviour_names())
def test_every_behaviour_plays_to_the_end_and_is_named(job_file: Path, behaviour: str) -> None:
    settings = gl.Simulation(
        data=job_file.parent / "rows.csv", owners=8, behaviours=[f"{behaviour}@2,3"], window=2
    )
    result = gl.simulate(job_file, settings, rounds=2)
    rows = [row for row in result.report.owners if row.played_by in (2, 3)]
    assert {row.behaviour for row in rows} == {behaviour}
    assert len(rows) == (4 if behaviour.startswith("sybil") else 2)
    assert result.report.paid + result.refunded == BOUNTY


def test_one_data_set_under_two_names_is_found_and_paid_as_one(job_file: Path) -> None:
    settings = gl.Simulation(data=job_file.parent / "rows.csv", owners=6, behaviours=["sybil-duplicate@2"])
    result = gl.simulate(job_file, settings, rounds=24)
    assert result.twins == (("owner-2", "owner-2/2"),)


def test_owners_drawn_each_round_and_a_trace_decide_who_is_there(job_file: Path, tmp_path: Path) -> None:
    settings = gl.Simulation(data=job_file.parent / "rows.csv", owners=6, per_round=3)
    drawn = gl.simulate(job_file, settings)
    assert {record.counts["present"] for record in drawn.history.rounds} == {3}
    trace = tmp_path / "trace.csv"
    trace.write_text("round,owner\n0,1\n0,2\n1,4\n1,5\n")
    found = gl.simulate(job_file, replace(settings, per_round=None, availability=f"trace:{trace}"), rounds=2)
    assert [np.flatnonzero(r.statuses).tolist() for r in found.history.rounds] == [[1, 2], [4, 5]]


def test_rows_in_memory_and_half_of_the_test_set_serve_as_data(job_file: Path) -> None:
    rng = np.random.default_rng(3)
    mine = [
        Rows(rng.normal(size=(20, 2)).astype(np.float32), rng.integers(0, 2, 20).astype(np.int64))
        for _ in range(3)
    ]
    assert gl.simulate(job_file, mine, rounds=1).history.owners == 3
    half = gl.simulate(job_file, gl.Simulation(owners=4), rounds=1)
    assert "half of the test set" in half.source
    assert sum(row.rows for row in half.report.owners) == 80


def test_a_run_stops_when_nothing_gets_better_and_keeps_the_best(job_file: Path) -> None:
    settings = gl.Simulation(data=job_file.parent / "rows.csv", owners=4, behaviours=["sign-flip@0-3"])
    result = gl.simulate(job_file, settings, options=Options(patience=2))
    assert result.reason == "stopped early"
    assert len(result.history) == 2
    trained = gl.simulate(job_file, rounds=6)
    best = trained.history.best()
    assert best is not None
    assert (trained.best_model == trained.model) == (best.round_index == 5)


def test_values_of_coalitions_and_of_retraining_stand_beside_those_paid(job_file: Path) -> None:
    names = ("shapley", "banzhaf", "retraining-shapley")
    settings = gl.Simulation(data=job_file.parent / "rows.csv", owners=5, behaviours=["zero@0"])
    result = gl.simulate(job_file, settings, options=Options(compare=names))
    assert tuple(result.references) == names
    assert result.references["shapley"][0] == result.references["banzhaf"][0] == 0
    first = gl.simulate(job_file, settings, rounds=1, options=Options(compare=names))
    gained = result.history.rounds[-1].utility - first.history.rounds[0].utility
    shapley = result.references["shapley"].sum() - first.references["shapley"].sum()
    assert shapley == pytest.approx(gained, abs=1e-4)
    honest = result.references["shapley"][1:]
    assert np.corrcoef(honest, result.history.values()[1:])[0, 1] > 0.5
    assert result.references["retraining-shapley"].min() > 0  # whoever sends zeros has rows worth training on


def test_a_ray_cluster_of_any_size_changes_nothing(job_file: Path) -> None:
    pytest.importorskip("ray")
    plain = gl.simulate(job_file, rounds=2, options=Options(compare=("shapley",)))
    for workers in (1, 3):
        spread = gl.simulate(
            job_file, rounds=2, options=Options(engine="ray", workers=workers, compare=("shapley",))
        )
        assert (spread.model_digest, pays(spread)) == (plain.model_digest, pays(plain))
        assert spread.references["shapley"].tolist() == plain.references["shapley"].tolist()


# ---- interrupted and resumed


def test_a_resumed_run_ends_as_the_uninterrupted_one(job_file: Path, tmp_path: Path) -> None:
    whole = gl.simulate(job_file)
    folder = tmp_path / "checkpoints"
    gl.simulate(job_file, rounds=2, options=Options(checkpoints=folder))
    seen: list[int] = []

    def watch(record: RoundRecord, _rounds: int) -> None:
        seen.append(record.round_index)

    resumed = gl.simulate(job_file, options=Options(checkpoints=folder, resume=True), on_round=watch)
    assert seen == [2, 3]
    assert (resumed.model_digest, pays(resumed)) == (whole.model_digest, pays(whole))
    assert resumed.best_model == whole.best_model
    torn = sorted(folder.iterdir())[1]
    torn.write_bytes(torn.read_bytes()[:-1])
    again = gl.simulate(job_file, options=Options(checkpoints=folder, resume=True), on_round=watch)
    assert seen == [2, 3, 1, 2, 3]
    assert again.model_digest == whole.model_digest


def test_ctrl_c_settles_what_was_done_and_can_be_resumed(job_file: Path, tmp_path: Path) -> None:
    def press(record: RoundRecord, _rounds: int) -> None:
        if record.round_index == 1:
            raise KeyboardInterrupt

    options = Options(checkpoints=tmp_path / "checkpoints")
    stopped = gl.simulate(job_file, options=options, on_round=press)
    assert stopped.reason == "interrupted"
    assert len(stopped.history) == 2
    assert stopped.report.paid + stopped.refunded == BOUNTY
    resumed = gl.simulate(job_file, options=replace(options, resume=True))
    assert resumed.model_digest == gl.simulate(job_file).model_digest


def test_a_longer_run_is_not_lost_to_a_shorter_one_that_resumes_it(job_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("simulate", job_file, "--out", out, "--no-plot")
    typed(*command, "--rounds", 3)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    told = typed(*command, "--rounds", 2, "--resume", code=3)
    assert "galaxy: rounds: 2 given, and the run to resume has 3 already; allowed: 3 or more" in told
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept
    typed(*command, "--rounds", 2)
    assert json.loads((out / "report.json").read_text())["rounds"] == 2


def test_a_killed_command_goes_on_where_it_was(job_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "galaxylearning.cli", "simulate", str(job_file), "--out", str(out)]
    arguments = ["--rounds", "400", "--no-plot", "--format", "json"]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round   3"):
                process.send_signal(signal.SIGKILL)
                break
    kept = len(list((out / "checkpoints").glob("*.checkpoint")))
    assert 3 <= kept < 400
    _, found = run(job_file, "--out", str(out), "--rounds", str(kept + 2), "--resume")
    _, whole = run(job_file, "--out", str(tmp_path / "whole"), "--rounds", str(kept + 2))
    assert found["model_digest"] == whole["model_digest"]
    assert found["owners"] == whole["owners"]


def test_a_killed_worker_changes_nothing(job_file: Path) -> None:
    whole = gl.simulate(job_file, options=Options(engine="reference"))
    killed: list[int] = []

    def kill(_record: RoundRecord, _rounds: int) -> None:
        for pid in _children(os.getpid()):
            for worker in _children(pid):
                if worker not in killed and len(killed) < 2:
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)

    found = gl.simulate(job_file, options=Options(engine="workers", workers=2), on_round=kill)
    assert killed
    assert found.model_digest == whole.model_digest


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from (int(child) for child in (task / "children").read_text().split())


def test_a_full_disk_leaves_the_last_good_checkpoint(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = tmp_path / "checkpoints", gl.simulate(job_file)
    sync = os.fsync

    def full(descriptor: int) -> None:
        if len(list(folder.glob("*.checkpoint"))) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        gl.simulate(job_file, options=Options(checkpoints=folder))
    monkeypatch.undo()
    assert len(list(folder.iterdir())) == 2
    resumed = gl.simulate(job_file, options=Options(checkpoints=folder, resume=True))
    assert resumed.model_digest == whole.model_digest


# ---- refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--owners", "0"], "owners"),
        (["--partition", "fair"], "partitioner"),
        (["--behave", "saint@0"], "there is no 'saint'"),
        (["--behave", "zero@99"], "positions are 0 to 5"),
        (["--availability", "random:2"], "probability"),
        (["--per-round", "0"], "per_round"),
        (["--memory-mib", "1"], "MiB"),
        (["--engine", "warp"], "engine"),
        (["--chain", "http://x"], "chain"),
        (["--patience", "0"], "patience"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--rounds", "0"], "rounds"),
        (["--compare", "fairness"], "allowed: shapley, banzhaf"),
        (["--compare", "shapley", "--owners", "21"], "coalitions"),
        (["--compare", "shapley", "--resume"], "compare"),
        (["--chain", "embedded:", "--resume"], "not with a chain"),
    ],
)
def test_the_command_says_what_is_wrong(
    job_file: Path, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        galaxy(["simulate", str(job_file), "--no-plot", *arguments])
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ["--engine", "warp"],
        ["--chain", "http://127.0.0.1:8545"],
        ["--compare", "fairness"],
        ["--chain", "embedded:", "--patience", "2"],
    ],
)
def test_options_are_looked_at_before_the_job_file_is_run(job_file: Path, wrong: Sequence[str]) -> None:
    job_file.write_text("open('ran', 'w').close()\n" + job_file.read_text())
    assert "allowed: " in (told := typed("simulate", job_file, *wrong, code=3)) or "not with" in told
    assert not (job_file.parent / "ran").exists()
    assert not (job_file.parent / "simulation").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "model=nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))",
            'model="resnet"',
            "model: 'resnet'",
        ),
        ("plan=gl.Plan(", "plan=dict(", "plan: dict given"),
        ("price=gl.Price(", "price=dict(", "price: dict given"),
        ("schema=schema, test_data", "schema=None, test_data", "schema: None given"),
        ('test_data="test.csv"', "test_data=5", "test_data: 5 given"),
        ('data="rows.csv"', "data=7", "data: 7 given"),
        ('data="rows.csv"', "data=[7]", "data[0]: 7 given"),
        ("owners=6", "partitioner=3", "partitioner: 3 given"),
        ("owners=6", "availability=5", "availability: 5 given"),
        ("owners=6", "partition_by=5", "partition_by: 5 given"),
        ('behaviours=["zero@0", "sign-flip@1"]', "behaviours=[1]", "behaviours: list given"),
    ],
)
def test_a_wrong_type_in_a_job_file_is_one_line(
    job_file: Path, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in JOB_FILE
    job_file.write_text(JOB_FILE.replace(old, new))
    code, _ = run(job_file)
    told = capsys.readouterr().err
    assert code == 3
    assert said in told
    assert "allowed: " in told


def test_a_seed_that_is_none_is_refused(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run(job_file, "--seed", "-1")
    assert code == 3
    assert "seed: -1 given; allowed: a whole number from 0 to 2^63-1" in capsys.readouterr().err
    wrong: Any
    for wrong in (-1, "a", 1.5):
        with pytest.raises(GalaxyError, match=r"seed: .* given; allowed"):
            gl.simulate(job_file, seed=wrong)
    for wrong in ("rows.csv", 2.5):
        with pytest.raises(ConfigRefused, match=r"owners: .* given; allowed"):
            gl.simulate(job_file, wrong)


def test_a_folder_that_is_not_ours_is_left_alone(job_file: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter-1.txt").write_text("once")
    with pytest.raises(SystemExit) as ended:
        galaxy(["simulate", str(job_file), "--out", str(precious)])
    assert ended.value.code == 3
    assert [path.name for path in precious.iterdir()] == ["chapter-1.txt"]


def test_a_run_that_does_not_begin_leaves_nothing(job_file: Path, tmp_path: Path) -> None:
    for wrong in (("--partition", "halves"), ("--engine", "steam"), ("--compare", "guessing")):
        with pytest.raises(SystemExit) as ended:
            galaxy(["simulate", str(job_file), "--out", str(tmp_path / "out"), *wrong])
        assert ended.value.code == 3
    with pytest.raises(SystemExit):
        galaxy(["simulate", str(tmp_path / "gone.py")])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "simulation-gone").exists()


def test_a_run_that_kept_no_checkpoints_and_died_may_be_run_again(job_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "simulate",
        str(job_file),
        "--out",
        str(out),
        "--no-checkpoints",
        "--rounds",
        "1",
        "--no-plot",
    ]
    with pytest.raises(SystemExit):
        galaxy(arguments)
    (out / "report.json").unlink()  # as if it had died before
    with pytest.raises(SystemExit) as ended:
        galaxy(arguments)
    assert ended.value.code == 0


def test_checkpoints_of_another_run_are_not_taken_up(job_file: Path, tmp_path: Path) -> None:
    options = Options(checkpoints=tmp_path / "checkpoints")
    gl.simulate(job_file, rounds=1, options=options)
    with pytest.raises(ConfigRefused, match="another job, data, seed"):
        gl.simulate(job_file, seed=9, options=replace(options, resume=True))


def test_rows_and_labels_that_do_not_fit_the_model_are_refused(job_file: Path) -> None:
    def rows(count: int, *, label: int = 0, width: int = 2) -> Rows:
        return Rows(np.zeros((count, width), np.float32), np.full(count, label, np.int64))

    with pytest.raises(DataRefused, match="owner 1: has no rows"):
        gl.simulate(job_file, [rows(4), rows(0)])
    with pytest.raises(ConfigRefused, match="at least one data owner"):
        gl.simulate(job_file, [])
    with pytest.raises(ConfigRefused, match="must be files with a chain"):
        gl.simulate(job_file, [rows(4), rows(4)], chain="embedded:")
    with pytest.raises(GalaxyError, match=r"\[0, 1\]"):
        gl.simulate(job_file, [rows(4), rows(4, label=7)])
    with pytest.raises(GalaxyError, match=r"must be float32 \[n, 2\]"):
        gl.simulate(job_file, [rows(4, width=3), rows(4, width=3)])


def test_buffers_that_stay_with_their_owner_are_refused(job_file: Path) -> None:
    text = job_file.read_text().replace("nn.ReLU()", "nn.BatchNorm1d(6)")
    job_file.write_text(text.replace('title="Kinds', 'federate={"*running*": "keep_local"}, title="Kinds'))
    with pytest.raises(ConfigRefused, match="stays with its data owner"):
        gl.simulate(job_file)


def test_a_batch_larger_than_the_data_takes_all_rows(job_file: Path) -> None:
    tiny = [Rows(np.ones((3, 2), np.float32), np.array([0, 1, 1], np.int64)) for _ in range(3)]
    assert gl.simulate(job_file, tiny, rounds=1).history.rounds[0].counts["present"] == 3


def test_a_round_beyond_the_budget_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.csv", 130, seed=1)
    torch.manual_seed(0)
    job = gl.Job(
        title="Large",
        model=nn.Sequential(nn.Linear(2, 20_000), nn.ReLU(), nn.Linear(20_000, 2)),
        loss="cross_entropy",
        schema=gl.schema_of(tmp_path / "test.csv", label="kind"),
        test_data=tmp_path / "test.csv",
        plan=gl.Plan(rounds=1, epochs=1),
        price=gl.Price(bounty="1", target_gain=1),
        privacy="sealed",
    )
    rows = Rows(np.zeros((4, 2), np.float32), np.zeros(4, np.int64))
    budget = process_rss_mib() + 1000  # what other tests left in this process is not this run's
    with pytest.raises(ConfigRefused, match=r"9,000 owners' updates of 100,002 .* needs 1\d\d\d\.\d MiB"):
        gl.simulate(job, [rows] * 9000, options=Options(memory_mib=budget, engine="reference"))
