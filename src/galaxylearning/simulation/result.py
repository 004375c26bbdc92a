"""What a simulation gives back, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galaxylearning.learning.vectors import F32, F64
from galaxylearning.simulation.history import EndReason, History
from galaxylearning.simulation.plots import draw
from galaxylearning.simulation.report import Report
from galaxylearning.storage.files import make_folder, replace_whole, storage_errors

MARKER = "report.json"


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """A run's outcome. Amounts are smallest units.

    ``params`` f32[P] and ``buffers`` f32[B] are the last model, ``history`` has every round's numbers,
    ``report`` who did what and what it earned. ``model_digest`` is BLAKE3 of the last model as it travels,
    hexadecimal; ``model`` and ``best_model`` are those bytes. With a chain only the last model is released:
    ``best_model`` is None there.
    """

    report: Report
    history: History
    params: F32
    buffers: F32
    model: bytes
    best_model: bytes | None
    model_digest: str
    engine: str
    source: str
    twins: tuple[tuple[str, ...], ...]
    refunded: int
    fees: int
    seconds: float
    chain: Mapping[str, Any] | None = None
    """With a chain: audit, transactions of data owners."""
    references: Mapping[str, F64] = field(default_factory=dict)
    """Other values of the identities, f64[K] in units of the loss per hidden sample, by name."""
    notes: tuple[str, ...] = field(default=())

    @property
    def reason(self) -> EndReason:
        """How the run ended."""
        return self.report.reason

    def to_document(self) -> dict[str, Any]:
        """For JSON: the report, and how it came about."""
        return {
            **self.report.to_document(),
            "model_digest": self.model_digest,
            "engine": self.engine,
            "data": self.source,
            "twins": [list(group) for group in self.twins],
            "refunded": str(self.refunded),
            "fees": str(self.fees),
            "seconds": round(self.seconds, 3),
            "chain": self.chain,
            "references": {name: values.tolist() for name, values in self.references.items()},
            "notes": list(self.notes),
        }

    def write(self, folder: Path, *, plot: bool) -> tuple[str, ...]:
        """Write report, tables, models and pictures; returns the names of the files.

        Raises:
            StorageError: the disk is full or failed; each file is whole or as it was.
        """
        make_folder(folder)
        files = {
            "owners.csv": self.report.to_csv().encode(),
            "history.json": self.history.to_json().encode(),
            "model.safetensors": self.model,
        }
        if self.best_model is not None:
            files["best.safetensors"] = self.best_model
        else:  # that of an earlier run would be taken for this one's
            with storage_errors("delete", folder / "best.safetensors"):
                (folder / "best.safetensors").unlink(missing_ok=True)
        for name, data in files.items():
            replace_whole(folder / name, data)
        names = [*files]
        if plot:
            draw(self.history, self.report, png=folder / "plot.png", html=folder / "plot.html")
            names += ["plot.png", "plot.html"]
        replace_whole(folder / MARKER, json.dumps(self.to_document(), indent=2, allow_nan=False).encode())
        return (MARKER, *names)
