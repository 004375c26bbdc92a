"""``galaxy new``: a folder with a job file to begin with, and made-up data to try it on."""

from __future__ import annotations

import math
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from galaxylearning.cli import output
from galaxylearning.errors import ConfigRefused, StorageError

SAMPLE_ROWS = 160
R4_RATIO = 1.1673039782614187
"""The root of x^5 = x + 1."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def new(
    name: Annotated[str, typer.Argument(help="Folder to make; its last part is the job's title.")],
) -> None:
    """Write NAME/job.py, a training job to begin with, beside made-up data on which it runs as it is.

    Example: galaxy new my-job && galaxy simulate my-job/job.py
    """
    folder = Path(name)
    title = folder.name
    if _NAME.fullmatch(title) is None:
        raise ConfigRefused(
            f"{output.harmless(title[:80])!r} given; allowed: 1 to 64 of letters, digits, space and '._-', "
            "beginning with a letter or digit",
            where="NAME",
        )
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigRefused("there is something of this name already", where=str(folder)) from error
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=str(folder)) from error
    written = {
        "job.py": _template("job.py.txt", title, name),
        "README.md": _template("readme.md.txt", title, name),
        "test.csv": _sample(1),
        "owner.csv": _sample(2),
    }
    for file, text in written.items():
        try:
            (folder / file).write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(error.strerror or str(error), where=str(folder / file)) from error
    output.console().print(
        f"{folder}: {', '.join(written)}\nTry it: galaxy simulate {shlex.quote(str(folder / 'job.py'))}",
        soft_wrap=True,
        markup=False,
    )


def _template(file: str, title: str, name: str) -> str:
    text = (files("galaxylearning.cli") / "templates" / file).read_text(encoding="utf-8")
    text = text.replace("@TITLE@", title).replace("@FOLDER@", shlex.quote(title))
    return text.replace("@NAME@", shlex.quote(Path(name).as_posix()))


def _sample(part: int) -> str:
    """A made-up table: three measurements of a tumour and a diagnosis that follows from them, mostly."""
    lines = ["size_mm,texture,age,diagnosis"]
    for row in range(SAMPLE_ROWS):
        size, texture, age, chance = _spread(part * SAMPLE_ROWS + row)
        is_malignant = size + 0.5 * texture + 0.6 * chance > 1.1
        diagnosis = "malignant" if is_malignant else "benign"
        lines.append(f"{5 + 30 * size:.1f},{10 + 20 * texture:.2f},{30 + round(50 * age)},{diagnosis}")
    return "\n".join(lines) + "\n"


def _spread(row: int) -> tuple[float, float, float, float]:
    """Four numbers in [0, 1), spread evenly over the rows.

    Source: Martin Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018), R4.
    """
    a, b, c, d = (math.modf(0.5 + row / R4_RATIO**power)[0] for power in range(1, 5))
    return a, b, c, d
