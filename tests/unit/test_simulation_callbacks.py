"""What callbacks write, that it is there after every round, and what a full disk leaves behind."""

from __future__ import annotations

import csv
import importlib.util
import json
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, StorageError
from galaxylearning.simulation import callback_trackers
from galaxylearning.simulation.callbacks import (
    CSV_FIELDS,
    Callback,
    Callbacks,
    CsvCallback,
    JsonlCallback,
    MlflowCallback,
    TensorBoardCallback,
)
from galaxylearning.simulation.history import History, RoundRecord, RunEnd, RunInfo


def info(first_round: int = 0) -> RunInfo:
    return RunInfo("digits", ("anna", "ben"), ("honest", "zero"), 4, "nats", first_round, {"seed": 7})


def record(round_index: int, *, accuracy: float | None = 0.5) -> RoundRecord:
    return RoundRecord(
        round_index,
        -1.0 / (round_index + 1),
        accuracy,
        0.25,
        np.array([4, 3], np.int8),
        np.array([0.1, 0.0]),
        np.array([0.01, 0.0]),
        2.0,
    )


def play(callback: Callback, rounds: range, *, ends: bool = True) -> None:
    history = History(2)
    callback.on_start(info(rounds.start))
    for round_index in rounds:
        history = history.plus(record(round_index))
        callback.on_round(history.rounds[-1])
    if ends:
        callback.on_end(RunEnd("finished", history, (5, 0)))
    callback.close()
    callback.close()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def disk_of(n_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond ``n_bytes``, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# ---- CSV


def test_csv_has_a_line_for_each_round(tmp_path: Path) -> None:
    path = tmp_path / "made" / "rounds.csv"
    play(CsvCallback(path), range(3))
    rows = rows_of(path)
    assert tuple(rows[0]) == CSV_FIELDS
    assert [row["round_index"] for row in rows] == ["0", "1", "2"]
    assert [float(row["utility"]) for row in rows] == [-1.0, -0.5, -1 / 3]
    assert rows[0]["present"] == "2"
    assert rows[0]["rejected"] == "1"


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    callback = CsvCallback(tmp_path / "rounds.csv")
    callback.on_start(info())
    callback.on_round(record(0, accuracy=None))
    assert rows_of(tmp_path / "rounds.csv")[0]["accuracy"] == ""
    callback.close()


@pytest.mark.parametrize("kind", [CsvCallback, JsonlCallback])
def test_every_round_is_in_the_file_at_once(tmp_path: Path, kind: Callable[[Path], Callback]) -> None:
    path = tmp_path / "log"
    callback = kind(path)
    callback.on_start(info())
    for round_index in range(3):
        before = path.stat().st_size
        callback.on_round(record(round_index))
        assert path.read_bytes()[before:].endswith(b"\n")
    callback.close()


def test_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    play(CsvCallback(path), range(3))
    play(CsvCallback(path), range(1))
    assert [row["round_index"] for row in rows_of(path)] == ["0"]


def test_a_resumed_run_goes_on_where_its_checkpoint_was(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    play(CsvCallback(path), range(3), ends=False)
    whole = tmp_path / "whole.csv"
    play(CsvCallback(whole), range(4))
    with path.open("a") as file:
        file.write("3,-0.25,0.")  # killed in the middle of a line
    play(CsvCallback(path), range(2, 4))
    assert path.read_bytes() == whole.read_bytes()


def test_a_resumed_run_whose_file_is_gone_begins_one(tmp_path: Path) -> None:
    play(CsvCallback(tmp_path / "rounds.csv"), range(2, 4))
    assert [row["round_index"] for row in rows_of(tmp_path / "rounds.csv")] == ["2", "3"]


def test_another_file_is_not_resumed_into(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n")
    with pytest.raises(StorageError, match="no record of a run"):
        CsvCallback(path).on_start(info(2))
    assert path.read_text() == "dear diary\n"


# ---- JSON lines


def test_json_lines_tell_the_whole_story(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    play(JsonlCallback(path), range(2))
    start, first, second, end = lines_of(path)
    assert start["event"] == "start"
    assert start["behaviours"] == ["honest", "zero"]
    assert start["settings"] == {"seed": 7}
    assert first["statuses"] == "AR"
    assert second["values"] == [0.1, 0.0]
    assert end == {
        "event": "end",
        "reason": "finished",
        "rounds": 2,
        "best_round": 1,
        "paid": "5",
        "pays": ["5", "0"],
    }


def test_json_lines_can_leave_out_single_owners(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    play(JsonlCallback(path, with_owners=False), range(1))
    start, first, end = lines_of(path)
    assert start["owners"] == 2
    assert "values" not in first
    assert first["accepted"] == 1
    assert "pays" not in end


def test_resumed_json_lines_say_that_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    play(JsonlCallback(path), range(3))
    play(JsonlCallback(path), range(1, 3))
    lines = lines_of(path)
    assert [line["event"] for line in lines] == ["start", "round", "start", "round", "round", "end"]
    assert [line["round_index"] for line in lines if line["event"] == "round"] == [0, 1, 2]
    assert lines[2]["first_round"] == 1


# ---- disks


@pytest.mark.parametrize("kind", [CsvCallback, JsonlCallback, TensorBoardCallback])
def test_a_full_disk_is_named_and_leaves_whole_records(
    tmp_path: Path, kind: Callable[[Path], Callback]
) -> None:
    path = tmp_path / "log"
    callback = kind(path)
    callback.on_start(info())
    callback.on_round(record(0))
    file = next(path.iterdir()) if path.is_dir() else path
    good = file.read_bytes()
    with (
        disk_of(len(good) + 20),
        pytest.raises(StorageError, match="could not write: File too large") as caught,
    ):
        callback.on_round(record(1))
    assert str(path) in str(caught.value)
    assert file.read_bytes() == good
    callback.on_round(record(1))
    assert file.read_bytes().startswith(good)
    assert len(file.read_bytes()) > len(good)
    callback.close()


@pytest.mark.parametrize("kind", [CsvCallback, JsonlCallback, TensorBoardCallback])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, kind: Callable[[Path], Callback]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        kind(tmp_path / "file" / "log").on_start(info())


@pytest.mark.parametrize("kind", [CsvCallback, JsonlCallback, TensorBoardCallback])
def test_rounds_before_the_start_and_after_the_end_are_refused(
    tmp_path: Path, kind: Callable[[Path], Callback]
) -> None:
    callback = kind(tmp_path / "log")
    with pytest.raises(StorageError, match="was not begun"):
        callback.on_round(record(0))
    callback.close()
    callback.on_start(info())
    callback.close()
    with pytest.raises(StorageError, match="is closed already"):
        callback.on_round(record(0))


# ---- several


class Telling:
    """Writes down what it is told, and fails where it shall."""

    def __init__(self, name: str, story: list[str], *, fails: str = "") -> None:
        self._name, self._story, self._fails = name, story, fails

    def _tell(self, what: str) -> None:
        self._story.append(f"{self._name} {what}")
        if what == self._fails:
            raise StorageError(f"{what} failed", where=self._name)

    def on_start(self, info: RunInfo) -> None:  # noqa: ARG002
        self._tell("start")

    def on_round(self, record: RoundRecord) -> None:  # noqa: ARG002
        self._tell("round")

    def on_end(self, end: RunEnd) -> None:  # noqa: ARG002
        self._tell("end")

    def close(self) -> None:
        self._tell("close")


def test_callbacks_are_called_in_order() -> None:
    story: list[str] = []
    both = Callbacks([Telling("a", story), Telling("b", story)])
    both.on_start(info())
    both.on_round(record(0))
    both.on_end(RunEnd("finished", History(2)))
    both.close()
    steps = ("start", "round", "end", "close")
    assert story == [f"{name} {what}" for what in steps for name in "ab"]


def test_all_are_closed_whatever_one_raises() -> None:
    story: list[str] = []
    three = Callbacks(
        [Telling("a", story, fails="close"), Telling("b", story, fails="round"), Telling("c", story)]
    )
    with pytest.raises(StorageError, match="b: round failed"):
        three.on_round(record(0))
    with pytest.raises(StorageError, match="a: close failed"):
        three.close()
    assert story[-3:] == ["a close", "b close", "c close"]


def test_no_callbacks_are_callbacks() -> None:
    none = Callbacks()
    none.on_start(info())
    none.close()


# ---- TensorBoard and MLflow


def frames(path: Path) -> list[bytes]:
    """The records of a TFRecord file, with their lengths checked."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        assert len(found[-1]) == length
        data = data[16 + length :]
    return found


def test_tensorboard_gets_every_curve_at_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    callback = TensorBoardCallback(tmp_path)
    callback.on_start(info(2))
    callback.on_round(record(2))
    (file,) = tmp_path.iterdir()
    parsed = [events.Event.FromString(frame) for frame in frames(file)]
    assert parsed[0].file_version == "brain.Event:2"
    assert parsed[1].step == 2
    assert parsed[1].session_log.status == events.SessionLog.START, "hides steps that are done again"
    curves = {value.tag: value for event in parsed for value in event.summary.value}
    assert curves["utility"].simple_value == pytest.approx(-1 / 3)
    assert curves["accuracy"].simple_value == 0.5
    assert curves["owners/rejected"].simple_value == 1
    assert curves["values"].histo.num == 2
    assert {event.step for event in parsed[1:]} == {2}
    callback.close()


@pytest.mark.parametrize("kind", [TensorBoardCallback, lambda _: MlflowCallback("http://127.0.0.1:9", "x")])
def test_without_its_library_a_callback_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], Callback]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name.partition('.')[0]!r}")

    monkeypatch.setattr(callback_trackers, "import_module", missing)
    with pytest.raises(ConfigRefused, match=r"pip install -e '\.\[(tensorboard|mlflow)\]'"):
        kind(tmp_path)


needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"
)


@needs_mlflow
def test_mlflow_gets_every_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow  # type: ignore[import-not-found,unused-ignore]

    uri = (tmp_path / "runs").as_uri()
    play(MlflowCallback(uri, "tests"), range(3))
    client = mlflow.MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([place.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["behaviours"] == "honest, zero"
    assert run.data.params["seed"] == "7"
    assert run.data.metrics["paid"] == 5
    curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "utility")]
    assert curve == [(0, -1.0), (1, -0.5), (2, -1 / 3)]
    play(MlflowCallback(uri, "tests"), range(1), ends=False)
    assert {one.info.status for one in client.search_runs([place.experiment_id])} == {"FINISHED", "FAILED"}


@needs_mlflow
def test_an_address_that_mlflow_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="mlflow nowhere:"):
        MlflowCallback("nowhere://at/all", "tests")
