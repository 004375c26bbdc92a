"""Rows, first weights, schedule and checksum of the workloads. Knows numpy only: every system imports it."""

from __future__ import annotations

import gzip
import importlib.util
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from benchmarks.workloads import CACHE, Workload

Array: TypeAlias = npt.NDArray[Any]
F32: TypeAlias = npt.NDArray[np.float32]
I64: TypeAlias = npt.NDArray[np.int64]

DATA_SEED, WEIGHTS_SEED, SCHEDULE_SEED = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All owners' rows, owner after owner, and the hidden test rows.

    Owner ``i`` has ``inputs[offsets[i]:offsets[i + 1]]``, float32 [n, ...], and the labels alike, int64 [n].
    """

    inputs: F32
    labels: I64
    offsets: I64
    test_inputs: F32
    test_labels: I64

    def owner(self, position: int) -> tuple[F32, I64]:
        """Inputs and labels of one data owner."""
        part = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        return self.inputs[part], self.labels[part]

    @property
    def counts(self) -> I64:
        """Rows of every data owner, int64 [owners]."""
        return np.diff(self.offsets)


def prepare(work: Workload, cache: Path = CACHE) -> Path:
    """Write the rows of ``work`` as .npy files under ``cache`` and give the folder.

    Every system then reads the same files, so that none is charged for making the data.
    """
    rows = _digits(work) if work.name == "W1" else _images(work)
    folder = cache / work.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for field in Rows.__dataclass_fields__:
        np.save(folder / f"{field}.npy", getattr(rows, field))
    return folder


def load(work: Workload, cache: Path = CACHE) -> Rows:
    """Rows that :func:`prepare` wrote, mapped: processes share the memory, none can change the file."""
    folder = cache / work.name
    return Rows(*(np.load(folder / f"{field}.npy", mmap_mode="c") for field in Rows.__dataclass_fields__))


def initial_weights(work: Workload) -> dict[str, F32]:
    """Uniform weights within one over the root of the inputs, biases of zero; in the order of shapes."""
    rng = np.random.default_rng(WEIGHTS_SEED)
    weights = {}
    for name, shape in work.shapes:
        if len(shape) == 1:
            weights[name] = np.zeros(shape, np.float32)
        else:
            bound = 1.0 / math.sqrt(math.prod(shape[1:]))
            weights[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return weights


def schedule(work: Workload) -> list[I64]:
    """Which owners take part in each round, int64 [per_round] a round."""
    if work.per_round == work.owners:
        return [np.arange(work.owners) for _ in range(work.rounds)]
    rng = np.random.default_rng(SCHEDULE_SEED)
    return [rng.choice(work.owners, work.per_round, replace=False) for _ in range(work.rounds)]


def checksums(weights: dict[str, Array]) -> tuple[float, float]:
    """Sum of magnitudes, and sum with the weights cos(0), cos(1), ... over the parameters in order of name.

    The first says how far training went, the second that every parameter is in its place.
    """
    flat = np.concatenate([np.asarray(weights[name], np.float64).ravel() for name in sorted(weights)])
    return float(np.abs(flat).sum()), float(flat @ np.cos(np.arange(flat.size)))


def flat_weights(weights: dict[str, F32]) -> F32:
    """The parameters as one vector in order of name, float32 [parameters]."""
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def named_weights(work: Workload, flat: F32) -> dict[str, F32]:
    """The inverse of :func:`flat_weights`."""
    weights, start = {}, 0
    for name, shape in sorted(work.shapes):
        end = start + math.prod(shape)
        weights[name] = flat[start:end].reshape(shape)
        start = end
    return weights


def dirichlet(labels: I64, owners: int, *, alpha: float, rng: np.random.Generator) -> list[I64]:
    """Every owner's rows: each label's spread by a Dirichlet(alpha) draw, again until all have some."""
    while True:
        cuts = []
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            shares = np.cumsum(rng.dirichlet(np.full(owners, alpha)))[:-1]
            cuts.append(np.split(rows, (shares * rows.size).astype(int)))
        parts = [np.concatenate([cut[owner] for cut in cuts]) for owner in range(owners)]
        if min(part.size for part in parts):
            return [rng.permutation(part) for part in parts]


def digits() -> tuple[F32, I64]:
    """The 1,797 digits that scikit-learn carries: inputs in 0..1 [n, 64], labels 0..9 [n].

    Read from its file: importing scikit-learn would take a second and a hundred megabytes.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("scikit-learn is not installed: run this in the environment of make setup")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return (table[:, :64] / 16.0).astype(np.float32), table[:, 64]


def _digits(work: Workload) -> Rows:
    inputs, labels = digits()
    rng = np.random.default_rng(DATA_SEED)
    order = rng.permutation(len(labels))
    test, train = order[:360], order[360:]
    parts = dirichlet(labels[train], work.owners, alpha=0.5, rng=rng)
    rows = train[np.concatenate(parts)]
    return Rows(inputs[rows], labels[rows], _offsets(parts), inputs[test], labels[test])


def _images(work: Workload) -> Rows:
    rng = np.random.default_rng(DATA_SEED)
    prototypes = rng.normal(size=(10, 3, 32, 32)).astype(np.float32)
    owned = [_noisy(prototypes, 50, rng) for _ in range(work.owners)]
    test_inputs, test_labels = _noisy(prototypes, 500, rng)
    return Rows(
        np.concatenate([inputs for inputs, _ in owned]),
        np.concatenate([labels for _, labels in owned]),
        _offsets([labels for _, labels in owned]),
        test_inputs,
        test_labels,
    )


def _noisy(prototypes: F32, count: int, rng: np.random.Generator) -> tuple[F32, I64]:
    labels = rng.integers(0, len(prototypes), count)
    noise = rng.standard_normal((count, *prototypes.shape[1:]), dtype=np.float64)
    return (prototypes[labels] + noise.astype(np.float32)), labels


def _offsets(parts: list[I64]) -> I64:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
