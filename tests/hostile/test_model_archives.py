"""Malicious archives offered wherever a model, weights, data, a job or settings come from somebody else.

Nothing in them runs, each is refused with a reason, and neither time nor memory is theirs to decide. Run as
a program, the file offers all of them to all readers under a cap on memory, an alarm, and a hook that hears
of every unpickled name, every program started and every connection.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from galaxylearning.chain.deployment import Deployment
from galaxylearning.cli import main as type_in
from galaxylearning.config import settings_from_json
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealContext, SealingKey, open_sealed
from galaxylearning.errors import DataRefused, GalaxyError, JobRefused
from galaxylearning.graph import ModelGraph, weights_from_bytes
from galaxylearning.graph.dense_weights import dense_weights_from_bytes
from galaxylearning.learning.quantise import decode_update
from galaxylearning.learning.server import ServerState
from galaxylearning.messages import records as r
from galaxylearning.messages.terms import decode_schema, decode_terms
from galaxylearning.protocol.consent import policy_from_json
from galaxylearning.protocol.rows import rows_from_bytes
from galaxylearning.simulation.availability_traces import read_presence
from galaxylearning.simulation.checkpoint import read_checkpoint
from galaxylearning.simulation.history import History
from galaxylearning.storage.datasets import load_table
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.job_file import read_job_file
from galaxylearning.storage.keystore import KeyStore
from galaxylearning.storage.tables import ReadOptions, TableLimits
from galaxylearning.units import Address
from hostile_weights import weights_graph
from malicious_archives import ARCHIVES, MARK, Canary

GRAPH = weights_graph()
KEY = SealingKey(bytes(96))
ONE, OTHER = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
CONTEXT = SealContext(31337, ONE, 1, 0, "initial-model", OTHER)
MAX_BYTES = 1 << 22
LIMITS = ReadOptions(limits=TableLimits(max_unpacked_bytes=1 << 22))
SECONDS = 5
MEMORY_BYTES = 512 << 20
HARMLESS = {
    "Parquet with a pickled type": {"Parquet file", "copied data set", "data file"},
    "Arrow with a pickled type": {"saved data set"},
}
"""Sound numbers under metadata that nobody reads, and the readers to whom they are data like any other."""

FROM_BYTES: dict[str, Callable[[bytes], object]] = {
    "graph": ModelGraph.from_bytes,
    "weights": lambda data: weights_from_bytes(GRAPH, data, max_bytes=MAX_BYTES),
    "dense weights": lambda data: dense_weights_from_bytes(GRAPH, data, max_bytes=MAX_BYTES),
    "hidden test set": lambda data: rows_from_bytes(data, n_rows=4),
    "sealed model": lambda data: open_sealed(data, KEY, CONTEXT, max_bytes=MAX_BYTES),
    "update": lambda data: decode_update(data, 15, 16),
    "update body": lambda data: r.decode(data, r.UpdateBody, max_bytes=MAX_BYTES),
    "masked body": lambda data: r.decode(data, r.MaskedBody, max_bytes=MAX_BYTES),
    "score table": lambda data: r.decode(data, r.ScoreTable, max_bytes=MAX_BYTES),
    "server state": ServerState.from_bytes,
    "terms": decode_terms,
    "schema": decode_schema,
    "settings": settings_from_json,
    "policy": policy_from_json,
    "deployment": lambda data: Deployment.from_json(data.decode("latin-1")),
    "history": lambda data: History.from_json(data.decode("latin-1")),
}


def _checkpoint(folder: Path, data: bytes) -> None:
    """Without a digest, and with one that is right."""
    for content in (data, data + blake3_digest(data)):
        (folder / "000003.checkpoint").write_bytes(content)
        if read_checkpoint(folder, 3) is not None:
            return
    raise DataRefused("no sound checkpoint")  # what the reader says by None


def _account(folder: Path, data: bytes) -> object:
    store = KeyStore(folder, light=True)
    (folder / "accounts" / "own.json").write_bytes(data)
    return store.load_account("own", "passphrase")


def _named(name: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, data: bytes) -> object:
        (folder / name).write_bytes(data)
        return load_table(folder / name, LIMITS)

    return read


def _in_folder(name: str) -> Callable[[Path, bytes], object]:
    """A Hugging Face data set with the archive in the place of one of its files."""

    def read(folder: Path, data: bytes) -> object:
        if name != "train.parquet":
            (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
        (folder / name).write_bytes(data)
        return read_huggingface(folder, LIMITS)

    return read


def _trace(folder: Path, data: bytes) -> object:
    (folder / "trace.jsonl").write_bytes(data)
    return read_presence(folder / "trace.jsonl")


FROM_FILES: dict[str, Callable[[Path, bytes], object]] = {
    "npz file": _named("data.npz"),
    "Parquet file": _named("data.parquet"),
    "saved data set": _in_folder("d.arrow"),
    "state of a data set": _in_folder("state.json"),
    "copied data set": _in_folder("train.parquet"),
    "trace": _trace,
    "checkpoint": _checkpoint,
    "account": _account,
}


def offer(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """Offer one archive to every reader: who took it, and every refusal that says too little or too much."""
    suffix, build = ARCHIVES[name]
    canary = Canary(folder / "executed")
    data = build(canary)
    taken, unclear = [], []

    def attempt(reader: str, read: Callable[[], object]) -> None:
        try:
            read()
            taken.append(reader)
        except GalaxyError as error:
            if not 10 <= len(str(error)) <= 1_000:
                unclear.append(f"{reader}: {str(error)[:200]}")

    for reader, from_bytes in FROM_BYTES.items():
        attempt(reader, partial(from_bytes, data))
    for number, (reader, from_file) in enumerate(FROM_FILES.items()):
        place = folder / str(number)
        place.mkdir()
        attempt(reader, partial(from_file, place, data))
    own = folder / f"archive{suffix}"
    own.write_bytes(data)
    attempt("data file", lambda: load_table(own, LIMITS))
    attempt("job file", lambda: read_job_file(own))
    if b"\0" in data:  # what is not text is no job file under any name
        source = folder / "job.py"
        source.write_bytes(data)
        attempt("job file in disguise", lambda: read_job_file(source))
    return taken, unclear


def executed(folder: Path) -> bool:
    """Whether anything in an archive ran."""
    return (folder / "executed").exists() or MARK in os.environ


def test_the_marks_would_be_seen(tmp_path: Path) -> None:
    canary = Canary(tmp_path / "executed")
    assert not executed(tmp_path)
    try:
        exec(canary.code.partition("; socket")[0])  # noqa: S102
        assert executed(tmp_path)
    finally:
        del os.environ[MARK]
    (tmp_path / "executed").unlink()
    eval(canary.expression)  # noqa: S307
    assert executed(tmp_path)


def test_there_are_enough_archives() -> None:
    canary = Canary(Path("/nowhere/executed"))
    distinct = {build(canary) for _, build in ARCHIVES.values()}
    assert len(distinct) >= len(ARCHIVES) - 1 >= 50


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_nothing_in_an_archive_runs_and_each_reader_says_why_not(name: str, tmp_path: Path) -> None:
    taken, unclear = offer(name, tmp_path)
    assert not executed(tmp_path)
    assert set(taken) <= HARMLESS.get(name, set())
    assert unclear == []
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {"passwd", "evil.exe", "weights", "0-0.zip"}


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_the_command_line_refuses_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suffix, build = ARCHIVES[name]
    file = tmp_path / f"archive{suffix}"
    file.write_bytes(build(Canary(tmp_path / "executed")))
    arguments = ["data", "add", file, "--label", "y", "--name", "n", "--home", tmp_path / "home"]
    with pytest.raises(SystemExit) as stopped:
        type_in([str(argument) for argument in arguments])
    said = capsys.readouterr()
    is_taken = "data file" in HARMLESS.get(name, ())
    assert stopped.value.code == (0 if is_taken else 3), said.err
    assert "Traceback" not in said.err + said.out
    assert is_taken or said.err.startswith("galaxy: ")
    assert not executed(tmp_path)


@pytest.mark.parametrize(
    "name", ["zip with a program", "zip behind Python source", "torch.export", "compiled Python"]
)
def test_an_archive_is_no_job_file(name: str, tmp_path: Path) -> None:
    """Python would run an archive's ``__main__``, or compiled code, whatever the file is called."""
    file = tmp_path / "job.py"
    file.write_bytes(ARCHIVES[name][1](Canary(tmp_path / "executed")))
    with pytest.raises(JobRefused, match=r"Python source of at most \d+ bytes in a file \.py allowed"):
        read_job_file(file)
    assert not executed(tmp_path)


def test_all_archives_and_readers_together_stay_within_time_and_memory() -> None:
    path = os.pathsep.join(("src", "tests/shared"))
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["heard"] == []
    assert report["seconds"].keys() == ARCHIVES.keys()
    assert {name: spent for name, spent in report["seconds"].items() if spent > SECONDS} == {}
    assert report["peak_bytes"] < MEMORY_BYTES


WATCHED = ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "socket.connect")


def main() -> None:
    """Offer everything under a cap on memory and an alarm; print what was heard and what it took as JSON."""
    heard: list[str] = []
    is_listening = False

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if is_listening and event in WATCHED:
            heard.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(listen)
    seconds: dict[str, float] = {}
    root = Path(tempfile.mkdtemp(prefix="archives-"))
    try:
        (root / "warm").mkdir()
        offer("torch.save", root / "warm")  # what readers import late is imported now: modules are marshalled
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
        for number, name in enumerate(ARCHIVES):
            folder = root / str(number)
            folder.mkdir()
            signal.alarm(60)
            start, is_listening = time.process_time(), True
            offer(name, folder)
            seconds[name], is_listening = time.process_time() - start, False
            signal.alarm(0)
            if executed(folder):
                heard.append(f"{name} ran")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    with open("/proc/self/status", encoding="ascii") as file:  # getrusage would tell of the parent as well
        peak_bytes = int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) * 1024
    sys.stdout.write(json.dumps({"heard": heard, "seconds": seconds, "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
