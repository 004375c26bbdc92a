"""Drawing in a process of its own: what is sent is drawn, what fails is told, and nobody is left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galaxylearning.errors import StorageError
from galaxylearning.simulation.drawing import Drawer
from galaxylearning.simulation.history import History, RoundRecord, RunInfo
from galaxylearning.simulation.report import Report, make_report


def a_run() -> tuple[History, Report]:
    record = RoundRecord(0, -0.5, 0.75, 0.1, np.array([4, 3], np.int8), np.array([0.1, 0.0]), np.zeros(2))
    history = History(2, (record,))
    info = RunInfo("<job> & sons", ("owner-0", "owner-1"), ("honest", "zero"), 1, "nats")
    return history, make_report(
        info,
        history,
        rows=[5, 6],
        values=history.values(),
        errors=history.errors(),
        pays=[10**18, 0],
        bounty=10**19,
    )


def test_a_report_survives_its_document() -> None:
    _, report = a_run()
    assert Report.from_document(report.to_document()) == report
    with pytest.raises(ValueError, match="format"):
        Report.from_document({**report.to_document(), "format": "another"})


def test_a_run_is_drawn(tmp_path: Path) -> None:
    history, report = a_run()
    drawer = Drawer()
    assert drawer.draw(history, report, tmp_path) == ("plot.png", "plot.html")
    drawer.close()
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "&lt;job&gt; &amp; sons" in (tmp_path / "plot.html").read_text()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    history, report = a_run()
    (tmp_path / "plot.png").mkdir()
    drawer = Drawer()
    with pytest.raises(StorageError, match=r"drawing failed: .*plot\.png"):
        drawer.draw(history, report, tmp_path)
    drawer.close()


def test_a_drawer_that_is_not_needed_ends() -> None:
    drawer = Drawer()
    drawer.close()
    drawer.close()
    assert drawer._process.returncode is not None
