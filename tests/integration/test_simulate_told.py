"""What a simulation tells: the values that are paid for, what is otherwise than in the job as posted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import galaxylearning as gl
from galaxylearning.cli import main as galaxy
from galaxylearning.errors import ConfigRefused
from simulated_jobs import BOUNTY, pays, run, write_job_file


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return write_job_file(tmp_path)


@pytest.mark.parametrize("chain", ["", "embedded:"])
def test_the_value_that_is_shown_is_the_one_that_is_paid_for(job_file: Path, chain: str) -> None:
    result = gl.simulate(job_file, rounds=2, chain=chain)
    report = result.report
    assert report.paid > 0
    earned = sum(max(row.value, 0.0) for row in report.owners)
    for row in report.owners:
        assert row.pay == pytest.approx(report.paid * max(row.value, 0.0) / earned, rel=1e-6)
    # What two owners sent in vain is charged, so the rounds' own values are others.
    shown = {row.position: row.value for row in report.owners}
    assert not np.allclose(result.history.values(), [shown[i] for i in range(len(shown))], atol=1e-6)


def test_a_job_that_is_judged_by_too_few_projections_says_so(job_file: Path) -> None:
    text = job_file.read_text().replace('privacy="sealed"', 'privacy="masked"')
    job_file.write_text(
        text.replace("nn.Linear(2, 6)", "nn.Linear(2, 72)")
        .replace("nn.Linear(6, 2)", "nn.Linear(72, 2)")
        .replace("minimum_owners=2", "minimum_owners=3")
    )
    _, found = run(job_file, "--rounds", "1")
    # 72 * 5 + 2 = 362 parameters.
    assert ["3 projections of an update of 362 parameters" in note for note in found["notes"]].count(
        True
    ) == 1


def test_the_templates_own_simulation_pays_nearly_the_same_masked_and_sealed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        galaxy(["new", str(tmp_path / "mine")])
    file = tmp_path / "mine" / "job.py"
    masked = gl.simulate(file)
    file.write_text(file.read_text().replace('privacy="masked"', 'privacy="sealed"'))
    sealed = gl.simulate(file)
    told = (*masked.notes, *sealed.notes)
    assert len(told) == 2  # Of the free rider that it plays, and of nothing else.
    assert all("updates did not count: 5 as zero update" in note for note in told)
    assert pays(masked).keys() == pays(sealed).keys()
    assert max(abs(pays(masked)[name] - paid) for name, paid in pays(sealed).items()) < BOUNTY // 10


def test_other_data_owners_than_the_job_takes_are_told(job_file: Path) -> None:
    text = job_file.read_text()
    job_file.write_text(text.replace("minimum_owners=2", "minimum_owners=2, maximum_owners=3"))
    assert _of_owners(job_file) == ["6 data owners are simulated; the job as posted takes 3 at most"]
    job_file.write_text(text.replace("minimum_owners=2", "minimum_owners=7"))
    assert _of_owners(job_file) == ["6 data owners are simulated; the job as posted begins with 7"]
    job_file.write_text(text)
    assert _of_owners(job_file) == []


def _of_owners(job_file: Path) -> list[str]:
    return [note for note in gl.simulate(job_file, rounds=1).notes if "data owners are simulated" in note]


def test_why_updates_did_not_count_is_told(job_file: Path) -> None:
    (note,) = gl.simulate(job_file, rounds=1).notes
    assert note.startswith("2 updates did not count: 1 as ")
    assert "1 as zero update" in note


@pytest.mark.parametrize(("owners", "per_round", "where"), [(2, None, "owners"), (6, 2, "per_round")])
def test_rounds_too_small_for_a_sum_are_refused(
    job_file: Path, owners: int, per_round: int | None, where: str
) -> None:
    settings = gl.Simulation(data=job_file.parent / "rows.csv", owners=owners, per_round=per_round)
    assert gl.simulate(job_file, settings, rounds=1).report.rounds == 1
    job_file.write_text(job_file.read_text().replace('"sealed"', '"masked"').replace("6", "256"))
    with pytest.raises(ConfigRefused, match=rf"^{where}: 2 data owners in a round; allowed: at least 3"):
        gl.simulate(job_file, settings, rounds=1)


def test_with_a_chain_no_model_but_the_last_is_written(job_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert "best.safetensors" in gl.simulate(job_file, rounds=1).write(folder, plot=False)
    assert "best.safetensors" not in gl.simulate(job_file, rounds=1, chain="embedded:").write(
        folder, plot=False
    )
    assert not (folder / "best.safetensors").exists()
    assert (folder / "model.safetensors").exists()


def test_rounds_are_logged_with_a_chain_as_without(job_file: Path) -> None:
    """Those of a run without a chain would be taken for the later run's."""
    folder = job_file.parent / "simulation"
    names = ("rounds.csv", "rounds.jsonl")
    assert run(job_file, "--rounds", "2")[0] == 0
    before = [len((folder / name).read_text().splitlines()) for name in names]
    code, found = run(job_file, "--rounds", "1", "--chain", "embedded:")
    assert (code, found["chain"]["audit"]) == (0, "ok")
    after = [len((folder / name).read_text().splitlines()) for name in names]
    # A head and a line a round; a start, a line a round and an end.
    assert (before, after) == ([3, 4], [2, 3])


def test_a_rounds_time_is_that_of_its_part_of_the_run(job_file: Path) -> None:
    result = gl.simulate(job_file, rounds=2, chain="embedded:")
    times = [record.seconds for record in result.history.rounds]
    assert len(times) == 2
    assert min(times) > 0
    assert sum(times) < result.seconds


def test_job_files_of_one_folder_keep_their_results_apart(job_file: Path) -> None:
    other = job_file.with_name("other.py")
    other.write_text(job_file.read_text().replace("Kinds of things", "Another"))
    for file in (job_file, other):
        assert run(file, "--rounds", "1")[0] == 0
    titles = {
        folder: json.loads((job_file.parent / folder / "report.json").read_text())["job"]
        for folder in ("simulation", "simulation-other")
    }
    assert titles == {"simulation": "Kinds of things", "simulation-other": "Another"}
