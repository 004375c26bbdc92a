"""Pictures and pages of runs of every size: drawn, escaped, the same every time, touching nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from galaxylearning.errors import StorageError
from galaxylearning.simulation import plots
from galaxylearning.simulation.history import History, RoundRecord, RunInfo
from galaxylearning.simulation.plot_page import in_millionths
from galaxylearning.simulation.plots import HONEST_COLOUR, MOST_GROUPS, colours, draw
from galaxylearning.simulation.report import Report, make_report

SVG = "{http://www.w3.org/2000/svg}"
BEHAVIOURS = ("honest", "honest", "zero", "alie:z=1.5", "label-noise")


def run(
    owners: int,
    rounds: int,
    *,
    names: tuple[str, ...] = (),
    behaviours: tuple[str, ...] = (),
    has_accuracy: bool = True,
) -> tuple[History, Report]:
    rng = np.random.default_rng(owners + rounds)
    history = History(owners)
    for index in range(rounds):
        history = history.plus(
            RoundRecord(
                index,
                -2.0 / (index + 1),
                index / rounds if has_accuracy else None,
                0.01,
                rng.integers(0, 5, owners).astype(np.int8),
                rng.normal(size=owners),
                np.abs(rng.normal(size=owners)),
            )
        )
    who = names or tuple(f"owner-{position}" for position in range(owners))
    does = behaviours or tuple(BEHAVIOURS[position % 5] for position in range(owners))
    info = RunInfo("digits", who, does, rounds, "units of mse")
    pays = [int(10**18 * max(0.0, value)) for value in history.values().tolist()]
    return history, make_report(
        info,
        history,
        rows=[9] * owners,
        values=history.values(),
        errors=history.errors(),
        pays=pays,
        bounty=10**24,
    )


def drawn(folder: Path, history: History, report: Report) -> tuple[Path, str]:
    png, html = folder / "out" / "run.png", folder / "out" / "run.html"
    draw(history, report, png=png, html=html)
    assert sorted(path.name for path in png.parent.iterdir()) == ["run.html", "run.png"]
    return png, html.read_text()


def svg_of(page: str) -> ElementTree.Element:
    """The picture in a page; fails unless it is well-formed."""
    return ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314


def texts_of(page: str) -> list[str]:
    return ["".join(text.itertext()) for text in svg_of(page).iter(f"{SVG}text")]


class Outline(HTMLParser):
    """Tables of a page: captions, header scopes and cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scopes: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.rows += tag == "tr"
        self.scopes.extend(value or "" for key, value in attrs if key == "scope")


@pytest.mark.parametrize(
    ("owners", "rounds"), [(1, 1), (1, 0), (7, 3), (40, 50), (41, 2), (400, 3), (401, 3), (10_000, 2)]
)
def test_runs_of_every_size_are_drawn(tmp_path: Path, owners: int, rounds: int) -> None:
    png, page = drawn(tmp_path, *run(owners, rounds))
    with Image.open(png) as image:
        image.load()
        assert image.width == 1430
        assert 600 < image.height < 2000
        assert len(image.getcolors(1 << 24) or ()) > 10
    assert f"{owners:,} data owner" in " ".join(texts_of(page))
    assert len(page) < 3_000_000


def test_few_data_owners_are_all_named_with_what_they_do(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, *run(7, 3))
    texts = texts_of(page)
    for wanted in (
        "owner-0",
        "zero | owner-2",
        "alie:z=1.5 | owner-3",
        "label-noise | owner-4",
        "Pay",
        "accepted",
    ):
        assert wanted in texts


def test_what_values_are_counted_in_stands_on_picture_and_page(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, *run(7, 3))
    texts = texts_of(page)
    assert "units of mse off the loss of a hidden sample, as paid for" in texts
    assert "utility: minus the loss, units of mse per sample" in texts
    assert "value paid for, in units of mse per hidden sample" in page


def test_many_data_owners_are_shown_by_behaviour(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, *run(1000, 2))
    texts = texts_of(page)
    for wanted in ("honest (400)", "zero (200)", "alie:z=1.5 (200)"):
        assert wanted in texts
    assert not any("owner-" in text for text in texts)


def test_without_accuracy_there_is_no_second_axis(tmp_path: Path) -> None:
    assert "accuracy, %" in texts_of(drawn(tmp_path, *run(3, 3))[1])
    assert "accuracy, %" not in texts_of(drawn(tmp_path, *run(3, 3, has_accuracy=False))[1])


HOSTILE = (
    "</svg><script>alert(1)</script>",
    "$\\frac{1}{0}$",
    "\x1b[31mred\x00",
    "医院 😀 \u202e",
    "x" * 5000,
    "<img src=http://evil.example/x>",
    "_^{}%",
    "",
)


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    history, report = run(8, 2, names=HOSTILE, behaviours=("honest", '"><b>', *("zero",) * 6))
    _, page = drawn(tmp_path, history, report)
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;/svg&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    texts = texts_of(page)
    assert any("$\\frac{1}{0}$" in text for text in texts), "no formula is made of it"
    assert max(map(len, texts)) < 100


def test_a_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, *run(50, 3))
    assert re.findall(r"""(?:href|src)=["'](?!#|data:)""", page) == []
    assert set(re.findall(r"https?://[^\"'<> ]+", page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'" in page


def test_a_page_has_tables_that_can_be_read_aloud(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, *run(7, 3))
    outline = Outline()
    outline.feed(page)
    assert outline.tags.count("caption") == outline.tags.count("table") == 3
    assert outline.scopes.count("row") == 4 + 7 + 3
    assert outline.scopes.count("col") == 7 + 12 + 9
    assert 'role="img"' in page
    assert 'lang="en"' in page


def test_a_long_table_is_folded_and_says_so(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, *run(1500, 1))
    outline = Outline()
    outline.feed(page)
    assert outline.rows == (1 + 4) + (1 + 1001) + (1 + 1)
    assert "1,000 best and worst paid of 1,500" in page


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    first, page = drawn(tmp_path, *run(12, 4))
    before = first.read_bytes()
    again, same = drawn(tmp_path, *run(12, 4))
    assert again.read_bytes() == before
    assert same == page


def test_the_users_own_plotting_is_left_alone(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 7.5, "text.usetex": True, "font.size": 40}):
        before = dict(matplotlib.rcParams)
        png, _ = drawn(tmp_path, *run(3, 2))
        assert dict(matplotlib.rcParams) == before
    data = png.read_bytes()
    assert drawn(tmp_path, *run(3, 2))[0].read_bytes() == data, "nor does it leak into the picture"


ALONE = """
import sys
from pathlib import Path
import numpy as np
from galaxylearning.simulation import plots, report
from galaxylearning.simulation.history import History, RoundRecord, RunInfo

assert "matplotlib" not in sys.modules
one = np.ones(1)
history = History(1, (RoundRecord(0, -1.0, 0.5, 0.1, np.ones(1, np.int8), one, one),))
info = RunInfo("job", ("anna",), ("honest",), 1, "nats")
made = report.make_report(info, history, rows=[1], values=one, errors=one, pays=[1], bounty=1)
plots.draw(history, made, png=Path(sys.argv[1]), html=Path(sys.argv[2]))
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""


def test_no_window_system_is_asked_for_and_nothing_is_imported_early(tmp_path: Path) -> None:
    """In a process of its own, since others may have imported pyplot in this one."""
    files = [str(tmp_path / "a.png"), str(tmp_path / "a.html")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *files],
        env={**os.environ, "PYTHONPATH": str(Path(plots.__file__).parents[2])},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "a.png").exists()


def test_every_behaviour_has_a_colour_until_there_are_too_many() -> None:
    few = colours(run(5, 1)[1])
    assert few["honest"] == HONEST_COLOUR
    assert len(set(few.values())) == len(few) == 4
    kinds = ("honest", *(f"slow:factor={n}" for n in range(2, 40)))
    many = colours(run(len(kinds), 1, behaviours=kinds)[1])
    assert len(set(many.values())) == len(many) == MOST_GROUPS - 1


def test_more_behaviours_than_colours_are_drawn_as_others(tmp_path: Path) -> None:
    kinds = tuple(f"slow:factor={n}" for n in range(2, 62))
    _, page = drawn(tmp_path, *run(60, 2, behaviours=kinds))
    assert "others (46)" in texts_of(page)


def test_a_file_that_cannot_be_written_is_named_and_an_old_one_stays(tmp_path: Path) -> None:
    history, report = run(3, 2)
    old = tmp_path / "run.png"
    old.write_bytes(b"old")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        draw(history, report, png=tmp_path / "file" / "run.png", html=tmp_path / "run.html")
    assert old.read_bytes() == b"old"
    assert not (tmp_path / "run.html").exists()


@pytest.mark.parametrize(
    ("units", "wanted"),
    [
        (0, "0.000000"),
        (10**18, "1.000000"),
        (1_234 * 10**18 + 5 * 10**17, "1,234.500000"),
        (10**12 - 1, "0.000000"),
    ],
)
def test_tokens_are_rounded_down(units: int, wanted: str) -> None:
    assert in_millionths(units) == wanted
