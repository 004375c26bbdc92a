"""Behaviours that lie about data: wrong labels, hidden triggers, one data set under several names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import F32, I64, require_integer, require_number
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours_base import Acts, AttackView, Plain, single

MOST_IDENTITIES = 10_000


@dataclass(frozen=True, slots=True)
class LabelNoise(Plain):
    """Careless data owner: ``fraction`` of its rows get another label, drawn evenly from the other classes.

    Labels that are real numbers are dealt out anew among those rows instead.

    Source: Patrini et al. 2017 (arXiv 1609.03683), symmetric label noise.

    Raises:
        ConfigRefused: ``fraction`` is not in [0, 1].
    """

    name: ClassVar[str] = "label-noise"
    fraction: float = 1.0

    def __post_init__(self) -> None:
        require_number(self.fraction, "label-noise.fraction", low=0, high=1)

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:
        """Exactly ``round(fraction * n)`` rows are changed."""
        chosen = _chosen(len(rows), self.fraction, rng)
        labels: NDArray[Any] = rows.labels.copy()
        if rows.labels.dtype.kind == "f":
            labels[chosen] = labels[rng.permutation(chosen)]
        elif classes > 1:
            shift = rng.integers(1, classes, size=labels[chosen].shape)
            labels[chosen] = (labels[chosen] + shift) % classes
        return Rows(rows.inputs, labels)


@dataclass(frozen=True, slots=True)
class ShuffledLabels(Plain):
    """The right labels on the wrong rows: nothing can be learnt but how frequent each label is.

    Source: Zhang et al. 2017 (arXiv 1611.03530), randomised labels.
    """

    name: ClassVar[str] = "shuffled-labels"

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:  # noqa: ARG002
        """Its own labels in another order."""
        return Rows(rows.inputs, rows.labels[rng.permutation(len(rows))])


@dataclass(frozen=True, slots=True)
class Backdoor(Plain):
    """Teaches the model a trigger: ``fraction`` of its rows carry a mark and the label ``target``.

    The mark sets the last ``size`` features to ``value``; of images (inputs of two or more dimensions) the
    square of that side in the last corner. ``value`` is in the units of the model's inputs. With ``boost``
    the update is sent that many times larger, so that it survives the averaging.

    Source: Gu, Dolan-Gavitt & Garg 2017 (arXiv 1708.06733); Bagdasaryan et al. 2018 (arXiv 1807.00459).

    Raises:
        ConfigRefused: a parameter is out of range.
    """

    name: ClassVar[str] = "backdoor"
    target: int = 0
    fraction: float = 0.5
    size: int = 3
    value: float = 1.0
    boost: float = 1.0

    def __post_init__(self) -> None:
        require_integer(self.target, "backdoor.target", low=0, high=10**9)
        require_number(self.fraction, "backdoor.fraction", low=0, high=1)
        require_integer(self.size, "backdoor.size", low=1, high=10**6)
        require_number(self.value, "backdoor.value", low=-1e9, high=1e9)
        require_number(self.boost, "backdoor.boost", low=0, high=1e12, low_open=True)

    @property
    def acts(self) -> Acts:
        """Each for itself, if it boosts."""
        return "never" if self.boost == 1 else "alone"

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:
        """Exactly ``round(fraction * n)`` rows are marked.

        Raises:
            ConfigRefused: ``target`` is not one of the classes, or the inputs take no such value.
        """
        self._check(rows, classes)
        chosen = _chosen(len(rows), self.fraction, rng)
        inputs: NDArray[Any] = rows.inputs.copy()
        labels: NDArray[Any] = rows.labels.copy()
        inputs[chosen] = self.marked(inputs[chosen])
        labels[chosen] = self.target
        return Rows(inputs, labels)

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """What training gave, boosted."""
        return single(self.boost * view.own.astype(np.float64))

    def marked(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """A copy of inputs [n, ...] with the mark on every row."""
        changed = inputs.copy()
        end = slice(-self.size, None)
        if inputs.ndim > 2:
            changed[..., end, end] = self.value
        else:
            changed[..., end] = self.value
        return changed

    def probe(self, rows: Rows) -> Rows:
        """Rows of other classes with the mark, labelled ``target``: accuracy on them is the attack's success.

        Raises:
            DataRefused: all rows are of the target class already.
        """
        others = np.flatnonzero((rows.labels != self.target).reshape(len(rows), -1).any(axis=1))
        if not len(others):
            raise DataRefused("has rows of the target class only", where="backdoor probe")
        kept = rows.take(others)
        return Rows(self.marked(kept.inputs), np.full_like(kept.labels, self.target))

    def _check(self, rows: Rows, classes: int) -> None:
        if classes and self.target >= classes:
            raise ConfigRefused(
                f"{self.target} given; classes are 0 to {classes - 1}", where="backdoor.target"
            )
        if rows.inputs.dtype.kind in "iu" and self.value != int(self.value):
            raise ConfigRefused(
                f"{self.value} given; inputs are whole numbers, and so must the mark be",
                where="backdoor.value",
            )


@dataclass(frozen=True, slots=True)
class SybilSplit(Plain):
    """One data owner enrols its data in ``parts`` disjoint pieces under as many names, to be paid per name.

    Source: Douceur 2002 (IPTPS), the Sybil attack; Fung, Yoon & Beschastnikh 2018 (arXiv 1808.04866).

    Raises:
        ConfigRefused: ``parts`` is not from 2 to 10,000.
    """

    name: ClassVar[str] = "sybil-split"
    parts: int = 2

    def __post_init__(self) -> None:
        require_integer(self.parts, "sybil-split.parts", low=2, high=MOST_IDENTITIES)

    def split(self, n_rows: int, *, rng: np.random.Generator) -> Sequence[I64]:
        """Drawn at random; sizes differ by one at most.

        Raises:
            DataRefused: fewer rows than parts.
        """
        if n_rows < self.parts:
            raise DataRefused(f"{n_rows} rows cannot be split in {self.parts}", where="sybil-split")
        order = rng.permutation(n_rows).astype(np.int64)
        return tuple(np.sort(part) for part in np.array_split(order, self.parts))


@dataclass(frozen=True, slots=True)
class SybilDuplicate(Plain):
    """One data owner enrols the same data under ``copies`` names, to be paid as many times.

    Source: Douceur 2002 (IPTPS), the Sybil attack; Fung, Yoon & Beschastnikh 2018 (arXiv 1808.04866).

    Raises:
        ConfigRefused: ``copies`` is not from 2 to 10,000.
    """

    name: ClassVar[str] = "sybil-duplicate"
    copies: int = 2

    def __post_init__(self) -> None:
        require_integer(self.copies, "sybil-duplicate.copies", low=2, high=MOST_IDENTITIES)

    def split(self, n_rows: int, *, rng: np.random.Generator) -> Sequence[I64]:  # noqa: ARG002
        """All rows, every time."""
        return (np.arange(n_rows, dtype=np.int64),) * self.copies


def _chosen(n_rows: int, fraction: float, rng: np.random.Generator) -> I64:
    """Rows drawn without replacement, ascending."""
    count = round(fraction * n_rows)
    return np.sort(rng.choice(n_rows, count, replace=False)).astype(np.int64)
