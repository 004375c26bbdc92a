"""Who takes part in a simulation and how: what a job file may set as ``simulation``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import require_integer, require_number
from galaxylearning.messages.fields import shown
from galaxylearning.messages.plan import MAX_DATA_OWNERS
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.availability import Availability
from galaxylearning.simulation.partition import Partitioner

MAX_WINDOW = 1e6


@dataclass(frozen=True, slots=True)
class Simulation:
    """The data owners of a simulated job.

    ``data`` is a file or folder with all owners' rows (CSV, Parquet, npz, a Hugging Face folder), ``Rows`` in
    memory, or a list of such, one for each owner; left out, half of the job's test set is dealt out and the
    other half stays hidden. ``partitioner`` (``"dirichlet:alpha=0.5"`` or a partitioner) deals the rows out
    to ``owners`` by the column ``partition_by``, the label unless given. ``behaviours`` are assignments such
    as ``"sign-flip@0,3"`` or ``"alie@x20"``; ``availability`` says who is there (``"random:0.8"``, a trace).
    ``per_round`` owners are drawn each round of those present, all of them unless given. Whoever takes longer
    than ``window`` times the normal duration of a round comes too late.

    Raises:
        ConfigRefused: naming the field and what is allowed.
    """

    data: str | Path | Rows | Sequence[str | Path | Rows] | None = None
    owners: int = 10
    partitioner: str | Partitioner = "iid"
    partition_by: str | None = None
    behaviours: Sequence[str] = ()
    availability: str | Availability = "always"
    per_round: int | None = None
    window: float = 2.0

    def __post_init__(self) -> None:
        require_integer(self.owners, "owners", low=1, high=MAX_DATA_OWNERS)
        require_number(self.window, "window", low=1, high=MAX_WINDOW)
        if self.per_round is not None:
            require_integer(self.per_round, "per_round", low=1, high=MAX_DATA_OWNERS)
        self._check_data()
        if isinstance(self.behaviours, str):
            raise ConfigRefused(
                'must be a list of assignments such as ["zero@0"], not text', where="behaviours"
            )
        if not isinstance(self.behaviours, Sequence) or not all(isinstance(x, str) for x in self.behaviours):
            _refuse("behaviours", self.behaviours, 'a list of assignments such as ["zero@0"]')
        if not _is_text_or_has(self.partitioner, "split"):
            _refuse("partitioner", self.partitioner, 'text such as "dirichlet:alpha=0.5", or a partitioner')
        if not _is_text_or_has(self.availability, "present", "delay"):
            _refuse("availability", self.availability, 'text such as "random:0.8", or an availability')
        if not isinstance(self.partition_by, str | None):
            _refuse("partition_by", self.partition_by, "the name of a column, or None")

    def _check_data(self) -> None:
        if self.data is None or isinstance(self.data, str | Path | Rows):
            return
        if not isinstance(self.data, Sequence):
            _refuse("data", self.data, "a file or folder, Rows, or a list of such, one for each data owner")
        if not self.data:
            raise ConfigRefused("must hold at least one data owner's rows", where="data")
        for position, one in enumerate(self.data):
            if not isinstance(one, str | Path | Rows):
                _refuse(f"data[{position}]", one, "a file or folder, or Rows")


def _is_text_or_has(value: object, *methods: str) -> bool:
    """Whether ``value`` is text, or an object (no class) with these methods."""
    has_them = all(callable(getattr(value, name, None)) for name in methods)
    return isinstance(value, str) or (has_them and not isinstance(value, type))


def _refuse(field: str, value: object, allowed: str) -> NoReturn:
    raise ConfigRefused(f"{shown(value)} given; allowed: {allowed}", where=field)
