"""Whoever follows a run: one call when it begins, one after every round, one when it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from galaxylearning.errors import StorageError
from galaxylearning.graph.document import nesting
from galaxylearning.simulation.callback_files import Appender, kept_bytes
from galaxylearning.simulation.callback_trackers import MlflowCallback, TensorBoardCallback
from galaxylearning.simulation.history import MAX_NESTING, STATUS_NAMES, RoundRecord, RunEnd, RunInfo

__all__ = [
    "Callback",
    "Callbacks",
    "CsvCallback",
    "JsonlCallback",
    "MlflowCallback",
    "TensorBoardCallback",
]

CSV_FIELDS: Final = ("round_index", "utility", "accuracy", "loss", "seconds", "present", *STATUS_NAMES)


class Callback(Protocol):
    """Follows one run; what it raises stops the run."""

    def on_start(self, info: RunInfo) -> None:
        """Before the first round; a resumed run begins at ``info.first_round``: keep what lies before it."""
        ...

    def on_round(self, record: RoundRecord) -> None:
        """After every round."""
        ...

    def on_end(self, end: RunEnd) -> None:
        """After the last round, however the run ended."""
        ...

    def close(self) -> None:
        """Let go of files and connections; may be called twice, and without ``on_end`` before."""
        ...


class Callbacks:
    """Several callbacks as one, called in their order; all are closed, whatever the others raise."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = tuple(callbacks)

    def on_start(self, info: RunInfo) -> None:
        """See ``Callback.on_start``."""
        for callback in self._callbacks:
            callback.on_start(info)

    def on_round(self, record: RoundRecord) -> None:
        """See ``Callback.on_round``."""
        for callback in self._callbacks:
            callback.on_round(record)

    def on_end(self, end: RunEnd) -> None:
        """See ``Callback.on_end``."""
        for callback in self._callbacks:
            callback.on_end(end)

    def close(self) -> None:
        """See ``Callback.close``."""
        with ExitStack() as stack:
            for callback in reversed(self._callbacks):
                stack.callback(callback.close)


class CsvCallback:
    """One line a round: :data:`CSV_FIELDS`; what is not known is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Appender | None = None

    def on_start(self, info: RunInfo) -> None:
        """Begin a new file, or go on after the rounds before ``info.first_round``.

        Raises:
            StorageError: the file cannot be written, or is not such a file and a run is to go on in it.
        """
        header = _line(CSV_FIELDS)
        keep = 0
        if info.first_round:
            keep = kept_bytes(self._path, lambda line: line == header or _csv_round(line) < info.first_round)
            _require_head(self._path, keep, header)
        self._file = Appender(self._path, keep=keep)
        if not keep:
            self._file.append(header)

    def on_round(self, record: RoundRecord) -> None:
        """Add a line.

        Raises:
            StorageError: the disk is full or failed; the lines before stay.
        """
        document = record.to_document(with_owners=False)
        _opened(self._file, self._path).append(
            _line(["" if document[name] is None else document[name] for name in CSV_FIELDS])
        )

    def on_end(self, end: RunEnd) -> None:
        """Nothing more to say."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class JsonlCallback:
    """One JSON object a line: ``{"event": "start"}``, ``"round"`` and ``"end"``, with what goes with each.

    ``with_owners=False`` leaves out what every single data owner did.
    """

    def __init__(self, path: Path, *, with_owners: bool = True) -> None:
        self._path, self._with_owners = path, with_owners
        self._file: Appender | None = None

    def on_start(self, info: RunInfo) -> None:
        """Begin a new file, or go on after the rounds before ``info.first_round``.

        Raises:
            StorageError: the file cannot be written.
        """
        keep = (
            kept_bytes(self._path, lambda line: _is_before(line, info.first_round)) if info.first_round else 0
        )
        self._file = Appender(self._path, keep=keep)
        self._write(
            {
                "event": "start",
                "job": info.job,
                "rounds": info.rounds,
                "first_round": info.first_round,
                "settings": dict(info.settings),
                "owners": list(info.owners) if self._with_owners else len(info.owners),
                "behaviours": list(info.behaviours) if self._with_owners else sorted(set(info.behaviours)),
            }
        )

    def on_round(self, record: RoundRecord) -> None:
        """Add a line.

        Raises:
            StorageError: the disk is full or failed; the lines before stay.
        """
        self._write({"event": "round", **record.to_document(with_owners=self._with_owners)})

    def on_end(self, end: RunEnd) -> None:
        """Add the last line.

        Raises:
            StorageError: the disk is full or failed; the lines before stay.
        """
        best = end.history.best()
        document: dict[str, object] = {
            "event": "end",
            "reason": end.reason,
            "rounds": len(end.history),
            "best_round": None if best is None else best.round_index,
            "paid": str(sum(end.pays)),
        }
        if self._with_owners:
            document["pays"] = [str(pay) for pay in end.pays]
        self._write(document)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, document: dict[str, object]) -> None:
        text = json.dumps(document, allow_nan=False, default=str)
        _opened(self._file, self._path).append(text.encode() + b"\n")


def _opened(file: Appender | None, path: Path) -> Appender:
    if file is None:
        raise StorageError("was not begun: on_start comes before on_round", where=str(path))
    return file


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _csv_round(line: bytes) -> float:
    """The round a line is about; infinity if it is about none."""
    first = line.partition(b",")[0]
    return int(first) if first.isdigit() and len(first) < 19 else float("inf")


def _require_head(path: Path, keep: int, header: bytes) -> None:
    if keep == 0 and path.exists() and path.stat().st_size:
        raise StorageError(
            f"is no record of a run, which begins with {header.decode().strip()}; it was left alone",
            where=str(path),
        )


def _is_before(line: bytes, first_round: int) -> bool:
    """Whether a line is a start, or about a round before ``first_round``."""
    try:
        if nesting(line) > MAX_NESTING:
            return False
        document = json.loads(line)
        if document["event"] == "start":
            return True
        return bool(document["event"] == "round" and document["round_index"] < first_round)
    except (ValueError, KeyError, TypeError):
        return False
