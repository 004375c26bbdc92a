"""A requester's job file: run, because it is the user's own code, and its test set read beside it."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import inspect
import re
import runpy
import sys
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from galaxylearning.errors import GalaxyError, JobRefused
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import Job
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.storage.datasets import load_table
from galaxylearning.storage.tables import ReadOptions, in_file

MAX_JOB_FILE_BYTES: Final = 1 << 20
_UNKNOWN_NAME: Final = re.compile(r"[Uu]nexpected keyword argument '(\w+)'$")


@dataclass(frozen=True, slots=True, eq=False)
class JobFile:
    """What a job file set: its ``job``, everything else by name, and the test set as rows and raw columns."""

    job: Job
    names: Mapping[str, Any]
    test: Rows
    columns: Mapping[str, NDArray[Any]]
    folder: Path


def read_job_file(path: Path) -> JobFile:
    """Run a job file and read its test set. Names of files in it are relative to its folder.

    Raises:
        JobRefused: no such file, an error in it (with its line), or no ``job`` in it.
        GalaxyError: as ``load_table`` and ``encode_rows``.
    """
    if path.is_dir():
        inside = path / "job.py"
        file = str(inside) if inside.is_file() else "a file of Python that sets 'job'"
        raise JobRefused(f"is a folder; allowed: {file}", where=str(path))
    if not path.is_file():
        raise JobRefused("there is no such file", where=str(path))
    _check_source(path)
    folder = path.resolve().parent
    with _inside(folder):
        names = _run(path)
        job = names.get("job")
        if not isinstance(job, Job):
            raise JobRefused("must set 'job' to a galaxylearning.Job", where=str(path))
        test, columns = read_test_set(job)
    return JobFile(job, names, test, columns, folder)


def read_test_set(job: Job) -> tuple[Rows, Mapping[str, NDArray[Any]]]:
    """The hidden test set of a job: as the model takes it, and as it lies in its file.

    Raises:
        GalaxyError: as ``load_table`` and ``encode_rows``.
    """
    schema = job.schema
    wanted = [column.name for column in schema.features] + [field.name for field in schema.arrays]
    path = Path(job.test_data)
    table = load_table(path, ReadOptions(only=(*wanted, schema.label.name)))
    with in_file(path.name):
        return encode_rows(schema, table.columns), table.columns


def _check_source(path: Path) -> None:
    """Refuse what Python would run and nobody could read: archives with a ``__main__``, compiled code.

    A job file is code, and its user's own. A model or data set from somebody else is neither.
    """
    with path.open("rb") as file:
        start = file.read(MAX_JOB_FILE_BYTES + 1)
    if path.suffix != ".py" or len(start) > MAX_JOB_FILE_BYTES or b"\0" in start or zipfile.is_zipfile(path):
        raise JobRefused(
            f"is no job file; Python source of at most {MAX_JOB_FILE_BYTES} bytes in a file .py allowed",
            where=str(path),
        )


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in ``folder``, whose modules can be imported."""
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _run(path: Path) -> Mapping[str, Any]:
    try:
        return runpy.run_path(path.name)
    except GalaxyError:
        raise
    except SystemExit as stopped:
        raise JobRefused(
            f"ends the program (exit code {stopped.code!r:.40}); a job file must run to its end",
            where=_place(path, stopped),
        ) from stopped
    except Exception as error:  # whatever the user's file raises is told with its line
        told = f"{type(error).__name__}: {error}{_allowed_names(path, error)}"
        raise JobRefused(told, where=_place(path, error)) from error


def _allowed_names(path: Path, error: Exception) -> str:
    """What a function or class takes, and the nearest name, where ``error`` is that it was given another.

    msgspec does not say of which class it speaks: the call is looked up in the job file.
    """
    unknown = _UNKNOWN_NAME.search(str(error)) if isinstance(error, TypeError) else None
    ours = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == path.name
    ]
    if unknown is None or not ours:
        return ""
    frame, line = ours[-1]
    scope = frame.f_globals | frame.f_locals
    for call in ast.walk(ast.parse(Path(path.name).read_bytes())):
        if not isinstance(call, ast.Call) or not call.lineno <= line <= (call.end_lineno or call.lineno):
            continue
        if unknown[1] in [keyword.arg for keyword in call.keywords]:
            name = ast.unparse(call.func)
            with contextlib.suppress(KeyError, AttributeError, ValueError, TypeError):
                allowed = list(inspect.signature(_named(name, scope)).parameters)
                if unknown[1] in allowed:  # Another call on the same line, which may be given it.
                    continue
                near = difflib.get_close_matches(unknown[1], allowed, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                return f"{hint}; allowed in {name}: {', '.join(allowed)}"
    return ""


def _named(name: str, scope: Mapping[str, Any]) -> Any:
    first, *rest = name.split(".")
    return functools.reduce(getattr, rest, scope[first])


def _place(path: Path, error: BaseException) -> str:
    """File and line of the job file where ``error`` came from."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{path}, line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path.name
    ]
    return f"{path}, line {lines[-1]}" if lines else str(path)
