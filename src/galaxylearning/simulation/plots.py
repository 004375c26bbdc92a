"""A picture of a run as PNG, and a page that holds it as SVG beside a table that can be read aloud.

Figures are made without pyplot: no window system is asked for and nothing of the user's own plotting changes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.simulation.history import History, OwnerStatus
from galaxylearning.simulation.plot_page import headline, page
from galaxylearning.simulation.report import OwnerRow, Report
from galaxylearning.storage.files import make_folder, replace_whole, storage_errors
from galaxylearning.units import TOKEN_DECIMALS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

MOST_NAMED: Final = 40
"""Up to so many data owners each have a bar and a name; more are shown by behaviour."""
MOST_IN_MAP: Final = 400
"""Up to so many have a line each in the map of statuses; of more, the counts are stacked."""
MOST_GROUPS: Final = 16
NAME_LENGTH: Final = 26
OTHERS: Final = "others"
INK: Final = "#22303c"
GRID: Final = "#d9e0e6"
HONEST_COLOUR: Final = "#4c78a8"
COLOURS: Final = (
    "#d1495b",
    "#e8963e",
    "#3f8f4f",
    "#8e6bbd",
    "#2f9e9e",
    "#a5673f",
    "#c9a400",
    "#d576b0",
    "#6b7a88",
    "#7f1d1d",
    "#1f5f5b",
    "#5b3a8c",
    "#9bb53c",
    "#ff8c69",
    "#3a3a3a",
)
OTHERS_COLOUR: Final = "#9aa7b2"
STATUS_COLOURS: Final = {
    OwnerStatus.ACCEPTED: "#54a24b",
    OwnerStatus.REJECTED: "#f2a541",
    OwnerStatus.MALFORMED: "#c73e4f",
    OwnerStatus.DROPPED: "#8e9aa5",
    OwnerStatus.ABSENT: "#e8edf1",
}
SETTINGS: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa7b2",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "galaxy",
}


def draw(history: History, report: Report, *, png: Path, html: Path) -> None:
    """Draw a run: progress, who was accepted when, value and pay of every data owner.

    The same run gives the same files. Pay is drawn in whole tokens.

    Raises:
        StorageError: a file cannot be written; a file that was there stays as it was.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(13, _height(report)), layout="constrained")
        _fill(figure, history, report)
        picture, vector = io.BytesIO(), io.StringIO()
        with storage_errors("draw", png):
            figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
            # The layout is found.
            figure.set_layout_engine("none")
            figure.savefig(
                vector, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"), None)
            )
    for path, data in (
        (png, picture.getvalue()),
        (html, page(history, report, vector.getvalue()).encode()),
    ):
        make_folder(path.parent)
        replace_whole(path, data)


def colours(report: Report) -> dict[str, str]:
    """A colour for every behaviour that has one of its own; the rest are drawn as others."""
    names = sorted(row.behaviour for row in report.behaviours)
    found = {"honest": HONEST_COLOUR} if "honest" in names else {}
    others = [name for name in names if name != "honest"]
    kept = others if len(names) <= MOST_GROUPS else others[: MOST_GROUPS - 2]
    return found | dict(zip(kept, COLOURS, strict=False))


def _height(report: Report) -> float:
    groups = min(len(report.behaviours), MOST_GROUPS)
    lines = len(report.owners) if len(report.owners) <= MOST_NAMED else 1.6 * groups
    return 4.6 + max(2.6, 0.24 * lines + 1.0)


def _fill(figure: Figure, history: History, report: Report) -> None:
    top = 3.9
    axes: Any = figure.subplots(2, 2, height_ratios=(top, _height(report) - top), width_ratios=(1, 1))
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=13, fontweight="bold")
    _draw_progress(axes[0, 0], history, report.value_unit)
    _draw_statuses(axes[0, 1], history, report)
    tokens = [float(row.pay) / 10.0**TOKEN_DECIMALS for row in report.owners]
    values = [row.value for row in report.owners]
    if len(report.owners) <= MOST_NAMED:
        errors = np.array([row.error for row in report.owners])
        _draw_bars(axes[1, 0], report, np.array(values), errors, names=True)
        _draw_bars(axes[1, 1], report, np.array(tokens), None, names=False)
        title = "Value of each data owner's updates, with standard error"
    else:
        _draw_boxes(axes[1, 0], report, np.array(values), names=True)
        _draw_boxes(axes[1, 1], report, np.array(tokens), names=False)
        title = "Value by behaviour: median, quartiles, 5 % to 95 %"
    axes[1, 0].set(title=title, xlabel=f"{report.value_unit} off the loss of a hidden sample, as paid for")
    axes[1, 1].set(title="Pay", xlabel="tokens")
    axes[1, 1].sharey(axes[1, 0])


def _draw_progress(axes: Axes, history: History, unit: str) -> None:
    """Utility and, on an axis of its own, accuracy."""
    rounds = [record.round_index + 1 for record in history.rounds]
    axes.set(title="Progress", xlabel="round", ylabel=f"utility: minus the loss, {unit} per sample")
    axes.grid(color=GRID, linewidth=0.7)
    marker = "o" if len(rounds) <= 40 else None
    axes.plot(
        rounds,
        [record.utility for record in history.rounds],
        color=HONEST_COLOUR,
        marker=marker,
        markersize=3.5,
        label="utility",
    )
    axes.yaxis.label.set_color(HONEST_COLOUR)
    axes.xaxis.set_major_locator(_whole_numbers())
    if rounds:
        axes.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
    known = [(n, record.accuracy) for n, record in zip(rounds, history.rounds, strict=True)]
    known = [(n, accuracy) for n, accuracy in known if accuracy is not None]
    if not known:
        return
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    right.plot(
        [n for n, _ in known],
        [100 * (accuracy or 0) for _, accuracy in known],
        color="#b35900",
        marker=None if marker is None else "s",
        markersize=3,
        linestyle="--",
        label="accuracy",
    )
    right.set_ylabel("accuracy, %", color="#b35900")


def _draw_statuses(axes: Axes, history: History, report: Report) -> None:
    """What became of every update: a map with a line for each data owner, or counts where they are many."""
    from matplotlib.patches import Patch

    axes.set(title="What became of each update", xlabel="round")
    axes.xaxis.set_major_locator(_whole_numbers())
    if history.rounds and len(report.owners) <= MOST_IN_MAP:
        _draw_map(axes, history, report)
    elif history.rounds:
        rounds = [record.round_index + 1 for record in history.rounds]
        counts = np.array([np.bincount(record.statuses, minlength=5) for record in history.rounds])
        base = np.zeros(len(rounds))
        for status in reversed(OwnerStatus):
            axes.bar(rounds, counts[:, status], bottom=base, width=1.0, color=STATUS_COLOURS[status])
            base += counts[:, status]
        axes.set(ylabel="data owners", xlim=(rounds[0] - 0.5, rounds[-1] + 0.5), ylim=(0, history.owners))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    handles = [
        Patch(facecolor=STATUS_COLOURS[status], edgecolor="#9aa7b2", label=status.name.lower())
        for status in reversed(OwnerStatus)
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=5,
        frameon=False,
        handlelength=1.0,
        handletextpad=0.5,
    )


def _draw_map(axes: Axes, history: History, report: Report) -> None:
    """A line for each data owner: in the bars' order if they are few, by behaviour if not."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    first, last = history.rounds[0].round_index + 1, history.rounds[-1].round_index + 1
    groups = _groups(report)
    is_named = len(report.owners) <= MOST_NAMED
    places = (
        list(range(len(report.owners))) if is_named else [at for group in groups.values() for at in group]
    )
    order = [report.owners[place].position for place in places]
    axes.imshow(
        np.array([record.statuses[order] for record in history.rounds]).T,
        cmap=ListedColormap([STATUS_COLOURS[status] for status in OwnerStatus]),
        norm=BoundaryNorm(np.arange(len(OwnerStatus) + 1) - 0.5, len(OwnerStatus)),
        aspect="auto",
        interpolation="nearest",
        extent=(first - 0.5, last + 0.5, len(order) - 0.5, -0.5),
    )
    if is_named:
        axes.set_ylabel("data owners in the order below")
        axes.set_yticks([])
        return
    ends = np.cumsum([len(group) for group in groups.values()])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="white", linewidth=1.2)
    wide = [(name, end - len(group) / 2) for (name, group), end in zip(groups.items(), ends, strict=True)]
    shown = [(name, at) for name, at in wide if len(groups[name]) >= 0.035 * len(order)]
    axes.set_yticks([at for _, at in shown], [_drawable(name) for name, _ in shown], fontsize=7.5)
    axes.tick_params(axis="y", length=0)


def _groups(report: Report) -> dict[str, list[int]]:
    """Places of the data owners in the report by behaviour, the best paid behaviour first."""
    palette = colours(report)
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(report.owners):
        groups.setdefault(row.behaviour if row.behaviour in palette else OTHERS, []).append(place)
    return groups


def _whole_numbers() -> Locator:
    """Ticks at rounds, not between them."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def _draw_bars(
    axes: Axes,
    report: Report,
    numbers: NDArray[np.float64],
    errors: NDArray[np.float64] | None,
    *,
    names: bool,
) -> None:
    """One bar for each data owner, the best paid on top."""
    palette = colours(report)
    places = np.arange(len(numbers))
    axes.barh(
        places,
        numbers,
        height=0.72,
        color=[palette.get(row.behaviour, OTHERS_COLOUR) for row in report.owners],
        xerr=errors,
        error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 2},
    )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_ylim(len(numbers) - 0.4, -0.6)
    if names:
        axes.set_yticks(places, [_label(row) for row in report.owners])
        for text, row in zip(axes.get_yticklabels(), report.owners, strict=True):
            text.set_color(INK if row.behaviour == "honest" else palette.get(row.behaviour, INK))
    axes.tick_params(axis="y", length=0, labelleft=names)


def _draw_boxes(axes: Axes, report: Report, numbers: NDArray[np.float64], *, names: bool) -> None:
    """One box for each behaviour: 5, 25, 50, 75 and 95 % of its data owners."""
    palette = colours(report)
    groups = _groups(report)
    for line, (name, places) in enumerate(groups.items()):
        low, first, middle, third, high = np.quantile(numbers[places], (0.05, 0.25, 0.5, 0.75, 0.95))
        colour = palette.get(name, OTHERS_COLOUR)
        axes.hlines(line, low, high, color=colour, linewidth=2)
        axes.barh(line, third - first, left=first, height=0.55, color=colour, alpha=0.55, edgecolor=colour)
        axes.plot([middle], [line], marker="|", markersize=13, markeredgewidth=2.2, color=INK)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    if names:
        labels = [f"{_drawable(name)} ({len(places):,})" for name, places in groups.items()]
        axes.set_yticks(range(len(groups)), labels)
    axes.tick_params(axis="y", length=0, labelleft=names)


def _title(report: Report) -> str:
    parts = [headline(report, _drawable(report.job))]
    if report.accuracy is not None:
        parts.append(f"accuracy {report.accuracy:.1%}")
    if report.reason != "finished":
        parts.append(report.reason)
    return ", ".join(parts)


def _label(row: OwnerRow) -> str:
    """The name, and what it does unless it is honest."""
    name = _drawable(row.name)
    return name if row.behaviour == "honest" else f"{_drawable(row.behaviour)} | {name}"


def _drawable(text: str) -> str:
    """Text as the font can draw it, at most ``NAME_LENGTH`` characters; what it lacks becomes a box."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    plain = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "\u25a1" for c in text)
    return plain if len(plain) <= NAME_LENGTH else plain[: NAME_LENGTH - 1] + "…"
