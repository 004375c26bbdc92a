"""A run is drawn in a process of its own, which loads the plotting library while the run goes on.

The run is sent as one JSON document; where it never comes, nothing is drawn and the process ends.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from galaxylearning.errors import ConfigRefused, StorageError
from galaxylearning.simulation.history import History
from galaxylearning.simulation.report import Report

PATIENCE_S: Final = 300
NAMES: Final = ("plot.png", "plot.html")


class Drawer:
    """Begins to load at once; ``draw`` is called once, ``close`` any number of times."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "galaxylearning.simulation.drawing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def draw(self, history: History, report: Report, folder: Path) -> tuple[str, ...]:
        """Draw a run into ``folder``; returns the names of the files.

        Raises:
            StorageError: the files could not be written, or drawing failed or took too long.
        """
        document = {
            "folder": str(folder.resolve()),
            "history": json.loads(history.to_json()),
            "report": report.to_document(),
        }
        try:
            _, said = self._process.communicate(json.dumps(document), timeout=PATIENCE_S)
        except (subprocess.TimeoutExpired, BrokenPipeError) as error:
            raise StorageError(f"drawing failed: {error}", where=str(folder)) from error
        if self._process.returncode:
            last = (said or "no reason given").strip().splitlines()[-1]
            raise StorageError(f"drawing failed: {last[:300]}", where=str(folder))
        return NAMES

    def close(self) -> None:
        """End the process if it has not drawn."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def main() -> None:
    """Wait for a run on standard input, and draw it."""
    gc.disable()  # the process ends before there is anything worth collecting
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401  loaded before it is needed

    from galaxylearning.simulation.plots import draw

    text = sys.stdin.read()
    if not text:
        return
    document = json.loads(text)
    folder = Path(document["folder"])
    png, html = (folder / name for name in NAMES)
    try:
        history = History.from_json(json.dumps(document["history"]))
        draw(history, Report.from_document(document["report"]), png=png, html=html)
    except (StorageError, ConfigRefused) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
