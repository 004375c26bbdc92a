"""``galaxy data`` and ``galaxy new``: what they show, keep and refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from galaxylearning import bootstrap
from galaxylearning.cli import main
from galaxylearning.config import Home
from galaxylearning.learning.accounting import Release, epsilon
from galaxylearning.storage.datasets import DatasetCatalog

PATIENTS = "size,age,note,diagnosis\n1.5,40,x,M\n2.5,50,y,B\n3.5,60,x,M\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "patients.csv"
    path.write_text(PATIENTS)
    return path


def type_command(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Standard output of a command, or standard error where it should fail."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert stopped.value.code == code, said.err
    return said.err if code else said.out


def test_a_data_set_is_described_kept_and_forgotten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path
) -> None:
    home = tmp_path / "home"
    options = ("--unit", "size=mm", "--map", "M=malignant", "--map", "B=benign", "--only", "size, age")
    added = json.loads(
        type_command(
            capsys, "data", "add", file, "--label", "diagnosis", "--name", "biopsies", *options,
            "--kind", "age=number", "--home", home, "--format", "json",
        )
    )  # fmt: skip
    columns = {column["name"]: column for column in added["columns"]}
    assert set(columns) == {"size", "age", "diagnosis"}
    assert columns["size"]["unit"] == "mm"
    assert columns["size"]["mean"] == 2.5
    assert columns["age"]["kind"] == "number"
    assert columns["diagnosis"]["classes"] == ["benign", "malignant"]
    assert columns["diagnosis"]["is_label"]
    listed = json.loads(type_command(capsys, "data", "list", "--home", home, "--format", "json"))
    assert listed == [added]
    catalogue = DatasetCatalog(Home(home).catalogue)
    salt = catalogue.get("biopsies").salt.hex()
    catalogue.close()
    assert salt not in json.dumps(listed)
    assert "biopsies" in type_command(capsys, "data", "list", "--home", home)
    removed = type_command(capsys, "data", "remove", "biopsies", "--home", home, "--format", "json")
    assert json.loads(removed) == {"name": "biopsies", "file": added["file"], "is_revoked": False}
    assert json.loads(type_command(capsys, "data", "list", "--home", home, "--format", "json")) == []
    assert file.read_text() == PATIENTS


def test_what_a_data_set_told_is_shown_with_what_is_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path
) -> None:
    home = Home(tmp_path / "home")
    options = ("--label", "diagnosis", "--name", "biopsies", "--only", "size", "--home", home.root)
    type_command(capsys, "data", "add", file, *options)
    fresh = json.loads(
        type_command(capsys, "data", "show", "biopsies", "--home", home.root, "--format", "json")
    )
    assert fresh["privacy"] == {
        "epsilon_spent": 0.0,
        "epsilon_left": None,
        "max_epsilon": None,
        "delta": 1e-6,
        "unprotected_rounds": 0,
        "jobs": [],
    }
    home.policy.write_text('{"max_epsilon": 50, "delta": 1e-5}')
    release = Release(1.0, 4, 16, 48)
    catalogue = DatasetCatalog(home.catalogue)
    book = bootstrap.open_privacy_book(home, catalogue)
    book.reserve("biopsies", "1/0xjobs/1", "0xa", release, 5)
    book.reserve("biopsies", "1/0xjobs/2", "0xb", None, 3)
    book.spend("biopsies", "1/0xjobs/2", 0)
    book.close()
    catalogue.close()
    spent = epsilon([(release, 5)], 1e-5)
    listed = json.loads(type_command(capsys, "data", "list", "--home", home.root, "--format", "json"))[0]
    told = listed["privacy"]
    assert (told["epsilon_spent"], told["epsilon_left"]) == (spent, 50 - spent)
    assert told["unprotected_rounds"] == 1
    assert [(job["reserved"], job["rounds"], job["epsilon"]) for job in told["jobs"]] == [
        (5, 0, spent),
        (3, 1, None),
    ]
    shown = type_command(capsys, "data", "show", "biopsies", "--home", home.root)
    assert f"{spent:.3g} at delta 1e-05, {50 - spent:.3g} left; 1 round without noise" in shown
    assert "unbounded" in shown
    assert "'gone'" in type_command(capsys, "data", "show", "gone", "--home", home.root, code=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--label", "nothing", "--name", "n"), "'nothing'"),
        (("--label", "diagnosis", "--name", ""), "data set name"),
        (("--label", "diagnosis", "--name", "n", "--unit", "mm"), "--unit"),
        (("--label", "diagnosis", "--name", "n", "--unit", "weight=kg"), "weight"),
        (("--label", "diagnosis", "--name", "n", "--map", "M=malignant"), "'B'"),
        (("--label", "diagnosis", "--name", "n", "--kind", "age=float"), "float"),
        (("--label", "diagnosis", "--name", "n", "--only", "size,weight"), "weight"),
        (("--label", "diagnosis", "--name", "n", "--kind", "note=number"), "note"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path, options: tuple[str, ...], said: str
) -> None:
    told = type_command(capsys, "data", "add", file, *options, "--home", tmp_path / "home", code=3)
    assert said in told
    assert told.count("\n") == 1
    assert (
        json.loads(type_command(capsys, "data", "list", "--home", tmp_path / "home", "--format", "json"))
        == []
    )


def test_an_array_is_shown_with_its_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "images.npz"
    np.savez(file, image=np.zeros((4, 1, 8, 8), np.float32), kind=np.array(["a", "b", "a", "b"]))
    shown = type_command(
        capsys, "data", "add", file, "--label", "kind", "--name", "images", "--home", tmp_path / "home"
    )
    assert "float32 [1, 8, 8] a row" in shown


def test_a_missing_file_and_a_missing_data_set_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--label", "x", "--name", "n", "--home", tmp_path)
    assert "gone.csv" in type_command(capsys, "data", "add", tmp_path / "gone.csv", *options, code=3)
    assert "'gone'" in type_command(capsys, "data", "remove", "gone", "--home", tmp_path, code=3)
    assert "'gone'" in type_command(capsys, "data", "match", "gone", 1, "--home", tmp_path, code=3)


def test_a_new_job_has_a_short_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    type_command(capsys, "new", tmp_path / "my-job")
    text = (tmp_path / "my-job" / "job.py").read_text()
    assert len(text.splitlines()) <= 40
    assert "@" not in text
    assert {path.name for path in (tmp_path / "my-job").iterdir()} == {
        "README.md",
        "job.py",
        "owner.csv",
        "test.csv",
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [("my-job", "my-job"), ("a b", "'a b'"), ("x $(touch pwned)/my job", "'x $(touch pwned)/my job'")],
)
def test_commands_to_copy_are_quoted_where_they_must_be(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    shown: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    type_command(capsys, "new", name)
    title = Path(name).name
    read_me = (tmp_path / name / "README.md").read_text()
    assert read_me.startswith(f"# {title}\n")
    commands = [line for line in read_me.splitlines() if name in line and line.startswith("    ")]
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command.partition("#")[0].replace(">", " "))
        assert any(word.startswith(f"{name}/") for word in words), command
        assert command.count(shown) == command.count(name), command
    docstring, *_ = (tmp_path / name / "job.py").read_text().splitlines()
    quoted = f"{shlex.quote(title)}/job.py"
    assert docstring == f'"""{title}: a training job. Try it with: galaxy simulate {quoted}"""'


@pytest.mark.parametrize("name", ["", ".", "..", "-x", 'a"b', "a\nb", "x" * 65])
def test_a_malformed_name_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["new", "--", name])
    assert stopped.value.code == 3
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "already" in type_command(capsys, "new", tmp_path / "mine", code=3)
