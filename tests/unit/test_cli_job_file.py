"""Job files: the template on one's own CSV, the suggested target gain, and every way to get one wrong."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from galaxylearning.cli import job_checks, main
from galaxylearning.cli.job_checks import checked, show_checked
from galaxylearning.cli.job_file import Trial, compile_file, try_training
from galaxylearning.errors import DataRefused, GalaxyError, JobRefused, UnsupportedModel
from galaxylearning.nodes.posting import Bearable
from galaxylearning.nodes.seating import Seating
from galaxylearning.storage.schemas import schema_of


@pytest.fixture
def job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A job file from the template."""
    with pytest.raises(SystemExit):
        main(["new", str(tmp_path / "mine")])
    capsys.readouterr()
    return tmp_path / "mine" / "job.py"


def changed(job: Path, old: str, new: str) -> Path:
    text = job.read_text()
    assert old in text
    job.write_text(text.replace(old, new))
    return job


def write_table(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


def test_the_template_compiles_as_it_is(job: Path) -> None:
    compiled = compile_file(job)
    assert compiled.cost.parameters == 1538
    assert len(compiled.test) == 160


def test_the_template_works_on_another_csv(job: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{i},{rng.normal():.3f},{'red' if rng.random() < 0.5 else 'blue'},{i % 3}" for i in range(90)]
    write_table(job.parent / "mine.csv", "id,weight,colour,species", rows)
    changed(job, '"test.csv"', '"mine.csv"')
    changed(job, 'label="diagnosis")', 'label="species", only=("weight", "colour"))')
    compiled = compile_file(job)
    assert compiled.test.inputs.shape == (90, 3)
    assert compiled.job.schema.label.classes == ("0", "1", "2")


def test_one_column_may_be_named_without_a_list(job: Path) -> None:
    one = schema_of(job.parent / "test.csv", label="diagnosis", only="size_mm")
    assert [column.name for column in one.features] == ["size_mm"]
    assert one == schema_of(job.parent / "test.csv", label="diagnosis", only=["size_mm"])


def test_a_folder_with_a_space_is_shown_as_it_is_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["new", str(tmp_path / "a b")])
    assert f"Try it: galaxy simulate '{tmp_path}/a b/job.py'" in capsys.readouterr().out


def test_the_template_works_for_a_number(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{i / 10},{(i * 37) % 11},{i / 7 + 1.5}" for i in range(80)]
    write_table(job.parent / "test.csv", "a,b,price", rows)
    changed(job, 'label="diagnosis"', 'label="price"')
    changed(job, '"cross_entropy"', '"mse"')
    trial = try_training(compile_file(job))
    assert trial.gain > 0
    facts = checked(compile_file(job), 3, trial)
    assert facts["runs"]["value_unit"] == "units of mse"
    show_checked(facts)
    shown = " ".join(capsys.readouterr().out.split())
    assert "target gain 0.4 units of mse per sample" in shown
    assert f"suggested target gain {trial.gain:.3g} units of mse per sample" in shown


def test_the_suggested_gain_is_what_a_training_improves(job: Path) -> None:
    compiled = compile_file(job)
    trial = try_training(compiled)
    assert trial == try_training(compiled)
    assert trial.steps == 5 * 2 * 5
    assert 0.6 < trial.untrained_loss < 0.9
    assert 0.1 < trial.gain < trial.untrained_loss
    facts = checked(compiled, 5, trial)
    assert facts["escrow"] == str((1_000 + 5 * 10) * 10**18)
    assert facts["trial"]["suggested_target_gain"] == trial.gain


def test_a_masked_model_with_too_few_projections_is_told_of(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(compile_file(job), 3, None)["warning"] is None
    changed(job, "256", "64")
    changed(job, "epochs=2", "epochs=1")
    compiled = compile_file(job)
    facts = checked(compiled, 3, None)
    # 6 * 64 + 2 = 386 parameters: 386 // 64 - 2 = 4 numbers may be opened.
    assert "4 projections of an update of 386 parameters" in facts["warning"]
    show_checked(facts)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Take a model of 1,088 parameters or more" in shown
    assert "5 rounds of 1 epoch, batches of 16" in shown
    assert "same data twice not looked for" in shown
    assert "its own value above zero" in shown
    changed(job, "64", "320")
    show_checked(checked(compile_file(job), 3, None))
    shown = " ".join(capsys.readouterr().out.split())
    # 6 * 320 + 2 = 1,922 parameters: 28 numbers, of which the gate has 15.
    assert "same data twice looked for in 13 projections of each update" in shown
    changed(job, 'privacy="masked"', 'privacy="sealed"')
    assert checked(compile_file(job), 3, None)["warning"] is None


def test_labels_at_random_leave_the_loss_of_a_coin(job: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [f"{rng.normal():.3f},{'M' if rng.random() < 0.5 else 'B'}" for _ in range(2_000)]
    write_table(job.parent / "test.csv", "x,diagnosis", rows)
    trial = try_training(compile_file(job))
    assert abs(trial.trained_loss - math.log(2)) < 0.03


def test_a_diverging_training_names_the_learning_rate(job: Path) -> None:
    changed(job, 'loss="cross_entropy"', 'loss="mse"')
    changed(job, 'label="diagnosis"', 'label="texture"')
    changed(job, "learning_rate=0.05", "learning_rate=1000.0, clip_norm=1e6")
    with pytest.raises(JobRefused, match=r"plan\.learning_rate: 1000 given; .* take a smaller one"):
        try_training(compile_file(job))


NOISE = "learning_rate=1000.0, noise=gl.Noise(kind='local', multiplier=1.0, example_clip=1.0)"


@pytest.mark.parametrize(
    "command", ["check --no-trial", f"post --evaluators {','.join('0x' + d * 40 for d in '123')}"]
)
def test_a_job_whose_hidden_set_gives_no_step_is_refused_before_anything_is_sent(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("GALAXY_PASSPHRASE", "secret")
    monkeypatch.setenv("GALAXY_HOME", str(job.parent / "home"))
    with pytest.raises(SystemExit):
        main(["wallet", "new"])
    changed(job, 'loss="cross_entropy"', 'loss="mse"')
    changed(job, 'label="diagnosis"', 'label="texture"')
    changed(job, "learning_rate=0.05", NOISE)
    name, *more = command.split()
    with pytest.raises(SystemExit) as stopped:
        main(["job", name, str(job), *more])
    said = capsys.readouterr().err
    assert stopped.value.code == 3
    assert "plan.learning_rate: 1000 given; with it training on the hidden set diverges, or changes" in said
    changed(job, "masked", "sealed")
    changed(job, "noise=", "gate=False, noise=")
    with pytest.raises(SystemExit):
        main(["job", "check", str(job), "--no-trial"])
    assert "compiles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("job = gl.Job(", "task = gl.Job(", JobRefused, "must set 'job'"),
        ("import torch\n", "import torch\nundefined_name\n", JobRefused, r"job\.py, line 4: NameError"),
        ("job = gl.Job(", "job = gl.Job((", JobRefused, r"job\.py, line \d+: SyntaxError"),
        ('label="diagnosis"', 'label="nothing"', DataRefused, "nothing"),
        ('TEST = "test.csv"', 'TEST = "gone.csv"', DataRefused, r"gone\.csv"),
        ('loss="cross_entropy"', 'loss="hinge"', UnsupportedModel, "hinge"),
        ("epochs=2", "epochs=0", JobRefused, r"plan\.epochs"),
        (
            "epochs=2",
            "epoch=2",
            JobRefused,
            r"job\.py, line \d+: TypeError: .* 'epoch'; did you mean 'epochs'\?; allowed in gl\.Plan: rounds",
        ),
        (
            'title="mine"',
            'titel="mine"',
            JobRefused,
            r"mean 'title'\?; allowed in gl\.Job: title, model, loss",
        ),
        (
            "target_gain=",
            "gain=",
            JobRefused,
            r"'gain'.*; allowed in gl\.Price: bounty, target_gain, fee_per_se",
        ),
        (
            "owners=5, p",
            "owner=5, p",
            JobRefused,
            r"mean 'owners'\?; allowed in gl\.Simulation: data, owners",
        ),
        ("label=", "lable=", JobRefused, r"mean 'label'\?; allowed in gl\.schema_of: path, label"),
        (
            "job = gl.Job(",
            "gl.Windows(xyz=1)\njob = gl.Job(",
            JobRefused,
            r"'xyz'; allowed in gl\.Windows: enrol_s, round_s",
        ),
        (
            "job = gl.Job(",
            "gl.Plan(rounds=1, epochs=1), str(gl.Price(rounds=1))\njob = gl.Job(",
            JobRefused,
            r"'rounds'.*; allowed in gl\.Price: bounty",
        ),
        ("job = gl.Job(", "gl.Noise(xyz=1)\njob = gl.Job(", JobRefused, r"'xyz'; allowed in gl\.Noise: kind"),
        (
            "job = gl.Job(",
            "False and gl.Plan(xyz=1)\nstr(str(gl.Windows(xyz=1)))\njob = gl.Job(",
            JobRefused,
            r"'xyz'; allowed in gl\.Windows: ",
        ),
        ("job = gl.Job(", "gl.Masking(xyz=1)\njob = gl.Job(", JobRefused, r"'xyz'; allowed in gl\.Masking: "),
        ("job = gl.Job(", "(lambda a: a)(xyz=1)\njob = gl.Job(", JobRefused, r"keyword argument 'xyz'$"),
        ("job = gl.Job(", "dict(int=int)['int'](xyz=1)\njob = gl.Job(", JobRefused, r"TypeError: .*'xyz'"),
        ('bounty="1000"', "bounty=0.5", JobRefused, "bounty"),
        ("target_gain=0.4", "target_gain=0", JobRefused, r"price\.target_gain: 0\.0 given"),
        ("target_gain=0.4", "target_gain=float('nan')", JobRefused, r"price\.target_gain"),
        ('bounty="1000"', 'bounty="0"', JobRefused, r"price\.bounty"),
        ('title="mine"', 'title=""', JobRefused, "title: '' given"),
        ("    loss=", '    privacy="open",\n    loss=', JobRefused, "privacy"),
        (
            'len(schema.label.classes or "1")',
            "3",
            JobRefused,
            r"^model: a row gives outputs of shape \[3\]; the label 'diagnosis' has 2 classes",
        ),
        (
            'len(schema.label.classes or "1")',
            "1_100_000, device='meta'",
            JobRefused,
            r"^model: parameters and buffers take 1,130,804,096 bytes; data owners allow 1,073,741,824",
        ),
        ("    nn.ReLU(),", "    torch.nn.Bilinear(2, 2, 2),", UnsupportedModel, "forward"),
    ],
)
def test_every_mistake_is_told_with_its_place(
    job: Path, old: str, new: str, error: type[GalaxyError], said: str
) -> None:
    changed(job, old, new)
    before, path = os.getcwd(), list(sys.path)
    with pytest.raises(error, match=said):
        checked(compile_file(job), 3, None)
    assert os.getcwd() == before
    assert sys.path == path


def test_a_committee_that_could_not_be_posted_to_is_refused(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["job", "check", str(job), "--no-trial", "--seats", "1"])
    assert stopped.value.code == 3
    assert "evaluators: 1 given; allowed: at least 3 with privacy 'masked'" in capsys.readouterr().err
    compiled = compile_file(job)
    with pytest.raises(JobRefused, match="evaluators: 16 given; allowed: 1 to 15"):
        checked(compiled, 16, None)
    changed(job, 'privacy="masked"', 'privacy="sealed"')
    assert checked(compile_file(job), 1, None)["escrow"] == str(1_010 * 10**18)


def test_too_few_rows_are_refused(job: Path) -> None:
    lines = (job.parent / "test.csv").read_text().splitlines()[:40]
    (job.parent / "test.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(JobRefused, match="at least 64"):
        compile_file(job)


def test_a_folder_is_no_job_file_and_the_one_in_it_is_named(job: Path, tmp_path: Path) -> None:
    with pytest.raises(JobRefused) as refused:
        compile_file(job.parent)
    assert str(refused.value) == f"{job.parent}: is a folder; allowed: {job}"
    with pytest.raises(JobRefused, match="is a folder; allowed: a file of Python that sets 'job'"):
        compile_file(tmp_path)


def test_a_committee_is_asked_about_within_its_bounds(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["job", "check", str(job), "--no-trial", "--seats", "16"])
    assert stopped.value.code == 2
    assert "less than or equal to 15" in capsys.readouterr().err


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobRefused, match=r"gone\.py: there is no such file"):
        compile_file(tmp_path / "gone.py")


@pytest.mark.parametrize("command", ["simulate", "job check", "job post"])
def test_a_job_file_that_exits_is_an_error(
    job: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    changed(job, "import torch\n", "import torch, sys\nsys.exit(0)\n")
    more = ["--evaluators", "0x" + "1" * 40] if command == "job post" else []
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), str(job), *more])
    assert stopped.value.code == 3
    assert re.search(r"job\.py, line 4: ends the program", capsys.readouterr().err)


def test_a_job_file_can_be_interrupted(job: Path) -> None:
    changed(job, "import torch\n", "import torch\nraise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        compile_file(job)


def test_a_module_beside_the_job_file_can_be_imported(job: Path) -> None:
    (job.parent / "my_layers_for_test.py").write_text("WIDTH = 64\n")
    changed(
        job,
        "import galaxylearning as gl\n",
        "import galaxylearning as gl\nimport my_layers_for_test as mine\n",
    )
    changed(job, "256)", "mine.WIDTH)")
    changed(job, "nn.Linear(256,", "nn.Linear(mine.WIDTH,")
    assert compile_file(job).cost.parameters == 3 * 64 + 64 + 64 * 2 + 2


def test_windows_that_are_over_before_the_evaluators_waits_are_refused(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = "enrol_s=60, round_s=66, anchor_s=6, commit_s=66, reveal_s=6, settle_s=12, claim_s=6"
    changed(job, "    price=gl.Price", f"    windows=gl.Windows({windows}),\n    price=gl.Price")
    facts = checked(compile_file(job), 3, None)
    assert "windows.reveal_s: 6 given; at least 60 here" in facts["warning"]
    changed(job, "reveal_s=6, settle_s=12", "reveal_s=60, settle_s=60")
    assert checked(compile_file(job), 3, None)["warning"] is None
    changed(job, "commit_s=66", "commit_s=65")
    with pytest.raises(SystemExit) as stopped:
        main(["job", "check", str(job), "--no-trial"])
    assert stopped.value.code == 3
    assert "windows.commit_s: 65 given; allowed: at least 66." in capsys.readouterr().err


def test_a_job_that_takes_more_than_evaluators_give_by_default_is_told_of(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_checks, "ANY_SEAT", Seating(bearable=Bearable(memory_bytes=1 << 20)))
    warning = checked(compile_file(job), 3, None)["warning"]
    assert "unless their operators allow more than by default: plan: the job would take some" in warning


def test_a_training_that_improves_nothing_suggests_nothing(job: Path) -> None:
    compiled = compile_file(job)
    assert checked(compiled, 3, Trial(0.5, 0.5, 10))["trial"]["suggested_target_gain"] is None
    assert checked(compiled, 3, None)["trial"] is None


def test_the_readme_beside_the_template_plays_as_many_data_owners_as_it_begins_with(job: Path) -> None:
    text = (job.parent / "README.md").read_text()
    wanted = compile_file(job).job.plan.maximum_owners
    (numbers,) = re.findall(r"for n in ([\d ]+); do", text)
    assert len(numbers.split()) == wanted == 5
    folder = job.parent.as_posix()
    for typed in re.findall(r"(?:simulate|check|post|add|awk .*') (\S+\.(?:py|csv))", text):
        assert typed.startswith(f"{folder}/")
    (deal,) = re.findall(r"^ *(awk .*)$", text, re.MULTILINE)
    for n in numbers.split():
        subprocess.run(["/bin/sh", "-c", f"n={n}; {deal}"], check=True)
    dealt = [(job.parent / f"owner-{n}.csv").read_text().splitlines() for n in numbers.split()]
    header, *rows = (job.parent / "owner.csv").read_text().splitlines()
    assert {part[0] for part in dealt} == {header}
    assert sorted(row for part in dealt for row in part[1:]) == sorted(rows)
