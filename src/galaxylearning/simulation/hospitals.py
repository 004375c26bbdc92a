"""The demo's cast: hospitals with unequal, skewed shares of a real data set, some of them dishonest.

Breast tumours (569 biopsies, 30 measurements) and digits (1,797 scans of 8 x 8) come with scikit-learn:
nothing is downloaded. Everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import distribution
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused

Behaviour = Literal["honest", "free-rider", "noisy", "twin"]
DATA: Final = ("breast-cancer", "digits")
CELL_NUCLEUS: Final = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)
TEST_PART: Final = 0.3
MIN_HOSPITALS: Final = 5
MIN_ROWS: Final = 14
MIN_ROWS_ON_AVERAGE: Final = 16
SKEW: Final = 4.0
"""Concentration of the Dirichlet that deals out each class: the smaller, the more lopsided."""
FREE_RIDER, NOISY, TWIN = 1, 2, 3


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Rows as a hospital keeps them: raw measurements f64[n, d] and the diagnosis of each, as text."""

    values: NDArray[np.float64]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Hospital:
    """One identity that takes part. A twin has another's records."""

    name: str
    behaviour: Behaviour
    records: Records


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """Who takes part, and what the requester keeps to itself."""

    columns: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    hospitals: tuple[Hospital, ...]
    test: Records


def make_cast(data: str, owners: int, *, seed: int, has_twin: bool = True) -> Cast:
    """Deal a data set out to ``owners`` identities (one of them a twin) and a hidden test set.

    Without its twin the same hospitals hold the same rows, and there is one identity less.

    Raises:
        ConfigRefused: an unknown data set, or a number of owners that its rows do not allow.
    """
    values, targets, columns, label, classes = load_packaged(data)
    rng = np.random.default_rng([seed, 0xCA57])
    order = rng.permutation(len(values))
    values, targets = values[order], targets[order]
    n_test = int(len(values) * TEST_PART)
    most = (len(values) - n_test) // MIN_ROWS_ON_AVERAGE
    if not MIN_HOSPITALS <= owners <= most:
        raise ConfigRefused(f"{owners} given; allowed: {MIN_HOSPITALS} to {most} with {data}", where="owners")
    parts = _deal(targets[n_test:], owners - 1, len(classes), rng)
    names = np.array(classes)

    def records(rows: NDArray[np.int64]) -> Records:
        return Records(values[rows], tuple(str(name) for name in names[targets[rows]]))

    hospitals = []
    for index, part in enumerate(parts):
        kept = records(np.sort(part) + n_test)
        behaviour: Behaviour = "honest"
        if index == FREE_RIDER:
            behaviour = "free-rider"
        elif index == NOISY:
            behaviour = "noisy"
            kept = Records(kept.values, tuple(kept.labels[i] for i in rng.permutation(len(kept.labels))))
        elif index == TWIN and has_twin:
            behaviour = "twin"
        hospitals.append(Hospital(f"hospital-{index + 1:02d}", behaviour, kept))
    if has_twin:
        hospitals.append(Hospital(f"hospital-{owners:02d}", "twin", hospitals[TWIN].records))
    return Cast(columns, label, classes, tuple(hospitals), records(np.arange(n_test, dtype=np.int64)))


def load_packaged(
    data: str,
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...], str, tuple[str, ...]]:
    """Values, classes by number, column names, label name, class names.

    The files inside scikit-learn are read as they are: importing it would take longer than a round.
    """
    classes: tuple[str, ...]
    if data == "breast-cancer":
        table = np.loadtxt(_packaged("breast_cancer.csv"), delimiter=",", skiprows=1)
        columns = tuple(f"{part}_{of}" for of in ("mean", "error", "worst") for part in CELL_NUCLEUS)
        label, classes = "diagnosis", ("malignant", "benign")
    elif data == "digits":
        table = np.loadtxt(_packaged("digits.csv.gz"), delimiter=",")
        columns = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
        label, classes = "digit", tuple(f"digit {number}" for number in range(10))
    else:
        raise ConfigRefused(f"{data[:60]!r} given; allowed: {', '.join(DATA)}", where="data")
    return table[:, :-1], table[:, -1].astype(np.int64), columns, label, classes


def _packaged(name: str) -> str:
    path = distribution("scikit-learn").locate_file(f"sklearn/datasets/data/{name}")
    return str(path)


def _deal(
    targets: NDArray[np.int64], hospitals: int, classes: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows of each hospital: unequal sizes, classes by a Dirichlet; the noisy one's share is not skewed."""
    fair = [np.flatnonzero(targets == c) for c in range(classes)]
    noisy = np.concatenate([rows[: max(1, len(rows) // hospitals)] for rows in fair])
    rest = [rows[max(1, len(rows) // hospitals) :] for rows in fair]
    least = MIN_ROWS
    for attempt in range(1, 1001):
        sizes = np.maximum(rng.dirichlet(np.full(hospitals, 3.0)), 0.04)
        sizes[NOISY] = 0.0
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(hospitals)]
        for rows in rest:
            chance = rng.dirichlet(np.full(hospitals, SKEW)) * sizes
            owner = rng.choice(hospitals, len(rows), p=chance / chance.sum())
            for hospital in range(hospitals):
                parts[hospital].append(rows[owner == hospital])
        dealt = [np.concatenate(part) for part in parts]
        dealt[NOISY] = noisy
        if min(len(part) for part in dealt) >= least:
            return dealt
        if attempt % 100 == 0:
            least = max(2, least - 2)
    raise ConfigRefused("the rows cannot be dealt out to so many", where="owners")
