"""Runs in TensorBoard and MLflow; both libraries are optional and imported only where they are asked for."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from galaxylearning.errors import ConfigRefused, StorageError
from galaxylearning.simulation.callback_files import Appender
from galaxylearning.simulation.history import STATUS_NAMES, RoundRecord, RunEnd, RunInfo

BINS: Final = 30
MAX_PARAMETER: Final = 500
"""The longest value of a parameter that MLflow stores everywhere."""
END_STATUS: Final = {
    "finished": "FINISHED",
    "stopped early": "FINISHED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


class TensorBoardCallback:
    """Curves of utility, accuracy, loss and statuses, and the distribution of values, as a TensorBoard log.

    The library's own writer hands records to a thread that dies in silence on a full disk; here they are
    written, framed as TFRecords, by whoever calls.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is written before ``on_start``.

        Raises:
            ConfigRefused: tensorboardX is not installed.
        """
        self._folder = folder
        self._events = _optional("tensorboardX.proto.event_pb2", "tensorboard")
        self._summary = _optional("tensorboardX.summary", "tensorboard")
        self._checksum = _optional("tensorboardX.record_writer", "tensorboard").masked_crc32c
        self._file: Appender | None = None

    def on_start(self, info: RunInfo) -> None:
        """Begin a file of this run; a resumed run hides the steps of an earlier file that it does again.

        Raises:
            StorageError: the file cannot be written.
        """
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.galaxy.{os.getpid()}.{info.first_round}"
        self._file = Appender(self._folder / name)
        self._write(self._event(file_version="brain.Event:2"))
        if info.first_round:
            began = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(self._event(step=info.first_round, session_log=began))

    def on_round(self, record: RoundRecord) -> None:
        """Add the round's numbers.

        Raises:
            StorageError: the disk is full or failed; the rounds before stay.
        """
        summaries = [self._summary.scalar(name, number) for name, number in _numbers(record).items()]
        if len(record.values):
            summaries.append(self._summary.histogram("values", record.values, BINS))
        frames = [self._event(step=record.round_index, summary=one) for one in summaries]
        self._write(*frames)

    def on_end(self, end: RunEnd) -> None:
        """Nothing more to say."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _event(self, **fields: Any) -> Any:
        return self._events.Event(wall_time=time.time(), **fields)

    def _write(self, *events: Any) -> None:
        if self._file is None:
            raise StorageError("was not begun: on_start comes before on_round", where=str(self._folder))
        self._file.append(b"".join(self._framed(event.SerializeToString()) for event in events))

    def _framed(self, data: bytes) -> bytes:
        """A TFRecord: length, its checksum, the data, their checksum."""
        length = struct.pack("<Q", len(data))
        return (
            length
            + struct.pack("<I", self._checksum(length))
            + data
            + struct.pack("<I", self._checksum(data))
        )


class MlflowCallback:
    """One MLflow run: settings as parameters, one value a round of every metric, what was paid at the end."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Nothing is sent before ``on_start``.

        Raises:
            ConfigRefused: mlflow is not installed, or does not take ``uri``.
        """
        self._uri, self._experiment = uri, experiment
        self._entities = _optional("mlflow.entities", "mlflow")
        self._failures = _optional("mlflow.exceptions", "mlflow").MlflowException
        mlflow = _optional("mlflow", "mlflow")
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
        except (self._failures, OSError, ValueError) as error:
            raise ConfigRefused(str(error).strip()[:400], where=f"mlflow {uri}") from error
        self._run = ""

    def on_start(self, info: RunInfo) -> None:
        """Begin a run of the experiment, which is made if it does not exist.

        Raises:
            StorageError: the server did not do it.
        """
        settings = {
            "rounds": info.rounds,
            "first_round": info.first_round,
            "owners": len(info.owners),
            "behaviours": ", ".join(sorted(set(info.behaviours))),
            **info.settings,
        }
        with self._stored():
            found = self._client.get_experiment_by_name(self._experiment)
            place = found.experiment_id if found else self._client.create_experiment(self._experiment)
            self._run = self._client.create_run(place, run_name=info.job).info.run_id
            self._client.log_batch(
                self._run,
                params=[
                    self._entities.Param(key, str(value)[:MAX_PARAMETER]) for key, value in settings.items()
                ],
            )

    def on_round(self, record: RoundRecord) -> None:
        """Send the round's numbers.

        Raises:
            StorageError: the server did not take them.
        """
        self._send(_numbers(record), record.round_index)

    def on_end(self, end: RunEnd) -> None:
        """Send what was paid, and end the run.

        Raises:
            StorageError: the server did not take it.
        """
        best = end.history.best()
        totals = {"paid": float(sum(end.pays))}
        if best is not None:
            totals |= {"best_utility": best.utility, "best_round": float(best.round_index)}
        self._send(totals, len(end.history))
        run, self._run = self._run, ""
        with self._stored():
            self._client.set_terminated(run, END_STATUS[end.reason])

    def close(self) -> None:
        """A run that did not end is marked as failed.

        Raises:
            StorageError: the server did not take it.
        """
        run, self._run = self._run, ""
        if run:
            with self._stored():
                self._client.set_terminated(run, END_STATUS["failed"])

    def _send(self, numbers: dict[str, float], step: int) -> None:
        if not self._run:
            raise StorageError("was not begun: on_start comes first", where=f"mlflow {self._uri}")
        now = time.time_ns() // 10**6
        metrics = [self._entities.Metric(name, number, now, step) for name, number in numbers.items()]
        with self._stored():
            self._client.log_batch(self._run, metrics=metrics)

    @contextmanager
    def _stored(self) -> Iterator[None]:
        try:
            yield
        except (self._failures, OSError) as error:
            raise StorageError(str(error).strip()[:400], where=f"mlflow {self._uri}") from error


def _numbers(record: RoundRecord) -> dict[str, float]:
    """Every curve of a run by name."""
    found = {"utility": record.utility, "accuracy": record.accuracy, "loss": record.loss}
    numbers = {name: number for name, number in found.items() if number is not None}
    counts = record.counts
    statuses = {f"owners/{name}": float(counts[name]) for name in ("present", *STATUS_NAMES)}
    return {**numbers, "seconds": record.seconds, "value": float(record.values.sum()), **statuses}


def _optional(module: str, extra: str) -> ModuleType:
    """A module of an optional library.

    Raises:
        ConfigRefused: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigRefused(
            f"needs more; from a checkout: pip install -e '.[{extra}]' ({error})", where=extra
        ) from error
