"""Simulated jobs with noise: which engine trains them, what the report says, with and without a chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import galaxylearning as gl
from galaxylearning.cli.job_facts import noise_facts
from galaxylearning.errors import ConfigRefused, JobRefused
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.privacy import job_epsilon, models_release
from galaxylearning.simulation.run import Options

LOCAL = gl.Noise("local", 0.8, example_clip=1.0)
CENTRAL = gl.Noise("central", 0.5)


def clouds(rows: int, *, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    kinds = np.arange(rows) % 2
    points = np.where(kinds, 1.2, -1.2)[:, None] + rng.normal(0, 1.4, (rows, 2))
    return Rows(points.astype(np.float32), kinds.astype(np.int64))


def write_rows(path: Path, rows: Rows) -> Path:
    names = ("round", "square")
    lines = [f"{a:.4f},{b:.4f},{names[k]}" for (a, b), k in zip(rows.inputs, rows.labels, strict=True)]
    path.write_text("height,width,kind\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def job(tmp_path: Path) -> gl.Job:
    test = write_rows(tmp_path / "test.csv", clouds(160, seed=1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))
    return gl.Job(
        title="Kinds of things",
        model=model,
        loss="cross_entropy",
        schema=gl.schema_of(test, label="kind"),
        test_data=test,
        plan=gl.Plan(rounds=2, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=4),
        price=gl.Price(bounty="1000", target_gain=0.6),
        privacy="sealed",
    )


def noisy(job: gl.Job, noise: gl.Noise | None, **changes: object) -> gl.Job:
    return replace(job, plan=msgspec.structs.replace(job.plan, noise=noise, **changes))


def owners(count: int = 6) -> list[Rows]:
    return [clouds(30 + 10 * who, seed=10 + who) for who in range(count)]


@pytest.mark.parametrize("engine", ["auto", "stacked", "workers"])
def test_an_engine_that_cannot_add_noise_gives_way_to_the_reference(job: gl.Job, engine: str) -> None:
    told: list[str] = []
    found = gl.simulate(
        noisy(job, LOCAL), owners(), options=Options(engine=engine), tell=told.append, rounds=1
    )
    assert found.engine == "reference"
    name = "the others" if engine == "auto" else engine
    assert f"engine reference: {name} cannot add privacy noise" in told
    plain = gl.simulate(noisy(job, None), owners(), options=Options(engine="stacked"), rounds=1)
    assert plain.engine == "stacked"
    assert plain.model_digest != found.model_digest


def test_the_report_tells_epsilon_by_rows_and_the_run_repeats(job: gl.Job) -> None:
    given = noisy(job, LOCAL)
    found, again = gl.simulate(given, owners()), gl.simulate(given, owners())
    assert found.model_digest == again.model_digest
    assert gl.simulate(given, owners(), seed=9).model_digest != found.model_digest
    told = found.report.privacy
    assert told is not None
    assert (told.epsilon_least, told.epsilon_most) == (
        job_epsilon(given.plan, 80),
        job_epsilon(given.plan, 30),
    )
    assert told.epsilon_least < told.epsilon_most
    assert told.epsilon_of_models is None
    assert gl.simulate(noisy(job, None), owners(), rounds=1).report.privacy is None


@pytest.mark.parametrize("gate", [False, True])
def test_shares_of_noise_are_added_whatever_the_engine(job: gl.Job, gate: bool) -> None:
    given = noisy(job, CENTRAL, gate=gate, clip_norm=1.0)
    found = gl.simulate(given, owners())
    assert found.engine == "stacked"
    told = found.report.privacy
    assert told is not None
    assert told.epsilon_most == told.epsilon_least == job_epsilon(given.plan, 1)
    assert (told.epsilon_of_models is None) == gate
    if told.epsilon_of_models is not None:
        assert told.epsilon_of_models < told.epsilon_most


@pytest.mark.parametrize("noise", [LOCAL, CENTRAL])
def test_masked_jobs_take_noise_too_and_charge_the_share(job: gl.Job, noise: gl.Noise) -> None:
    model = nn.Sequential(nn.Linear(2, 80), nn.ReLU(), nn.Linear(80, 2))
    given = replace(noisy(job, noise), model=model, privacy="masked")
    found = gl.simulate(given, owners())
    assert sum(row.accepted for row in found.report.owners) > 0
    told = found.report.privacy
    assert told is not None
    assert told.epsilon_of_models is None
    assert told.epsilon_most == job_epsilon(given.plan, 30)


def test_noise_that_does_not_fit_the_bits_is_refused_before_anything_is_trained(job: gl.Job) -> None:
    with pytest.raises(ConfigRefused, match=r"plan\.bits: 8 bits leave .* are needed with 32 parameters"):
        gl.simulate(noisy(job, CENTRAL, bits=8), owners())


def test_with_a_chain_noise_gives_the_same_model_and_report(job: gl.Job, tmp_path: Path) -> None:
    paths = [write_rows(tmp_path / f"rows-{who}.csv", rows) for who, rows in enumerate(owners(4))]
    given = noisy(job, LOCAL, maximum_owners=4)
    without = gl.simulate(given, gl.Simulation(data=tuple(paths)), rounds=1)
    with_chain = gl.simulate(given, gl.Simulation(data=tuple(paths)), chain="embedded:", rounds=1)
    assert with_chain.model_digest == without.model_digest
    assert with_chain.report.privacy == without.report.privacy
    assert with_chain.chain is not None
    assert with_chain.chain["audit"] == "ok"


def test_batch_statistics_are_refused_before_anything_is_trained(job: gl.Job) -> None:
    model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(JobRefused, match="GroupNorm or LayerNorm"):
        gl.simulate(replace(noisy(job, LOCAL), model=model), owners())


def test_what_a_job_asks_is_told_before_it_is_accepted(job: gl.Job) -> None:
    assert noise_facts(job.plan) is None
    local = noise_facts(noisy(job, LOCAL).plan)
    assert local is not None
    assert local["protects"].startswith("each row")
    assert local["epsilon_by_rows"]["1000"] == job_epsilon(noisy(job, LOCAL).plan, 1000)
    central = noise_facts(noisy(job, CENTRAL, gate=False).plan)
    assert central is not None
    assert list(central["epsilon_by_rows"]) == ["100"]
    assert models_release(noisy(job, CENTRAL, gate=False).plan) is not None
    assert central["epsilon_of_models"] < central["epsilon_by_rows"]["100"]
    endless = noise_facts(noisy(job, LOCAL, steps=None, epochs=10_000, batch_size=1).plan)
    assert endless is not None
    assert endless["epsilon_by_rows"]["10000"] is None
