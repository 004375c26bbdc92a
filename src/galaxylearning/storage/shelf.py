"""A data owner's catalogue as nodes see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from galaxylearning.ports import OfferedDataset
from galaxylearning.protocol.matching import DatasetArray, DatasetColumn
from galaxylearning.storage.columns import ColumnInfo
from galaxylearning.storage.datasets import DatasetCatalog, DatasetEntry


def offered_dataset(entry: DatasetEntry) -> OfferedDataset:
    """A catalogue's entry as it is matched with a job's schema."""
    return OfferedDataset(
        name=entry.name,
        commitment=entry.commitment,
        schema_digest=entry.schema_digest,
        n_rows=entry.n_rows,
        columns=tuple(_column(column) for column in entry.columns if column.kind != "array"),
        arrays=tuple(
            DatasetArray(column.name, column.shape or (), column.dtype or "")
            for column in entry.columns
            if column.kind == "array"
        ),
    )


def _column(column: ColumnInfo) -> DatasetColumn:
    if column.kind == "array":
        raise ValueError(f"{column.name} is an array")
    return DatasetColumn(
        name=column.name,
        kind=column.kind,
        unit=column.unit,
        minimum=column.minimum,
        maximum=column.maximum,
        classes=column.classes,
        missing=column.missing,
    )


class CatalogueShelf:
    """Implements ``ports.DatasetShelf`` over a catalogue; a data set is read from its file once."""

    def __init__(self, catalogue: DatasetCatalog) -> None:
        self._catalogue = catalogue
        self._read: dict[str, Mapping[str, NDArray[Any]]] = {}

    def offered(self) -> Sequence[OfferedDataset]:
        """Everything in the catalogue, by name."""
        return [offered_dataset(entry) for entry in self._catalogue.list()]

    def columns(self, name: str) -> Mapping[str, NDArray[Any]]:
        """The columns of one data set; raises as ``DatasetCatalog.load``."""
        if name not in self._read:
            self._read[name] = self._catalogue.load(name).columns
        return self._read[name]

    def record_use(self, name: str, job_id: int, round_index: int) -> None:
        """Count one use."""
        self._catalogue.record_use(name, job_id, round_index)
