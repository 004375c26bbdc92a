"""How accurate a demo's models are: the federated one, and what others could have trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxylearning.graph import FlatModel
from galaxylearning.learning import train_local
from galaxylearning.messages.terms import Schema
from galaxylearning.protocol.gradients import mean_gradient
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.protocol.updates import local_plan
from galaxylearning.simulation.hospitals import Cast, Hospital, Records


def rows_of(cast: Cast, schema: Schema, records: Records) -> Rows:
    """Records as the job's model takes them."""
    columns: dict[str, NDArray[Any]] = {name: records.values[:, i] for i, name in enumerate(cast.columns)}
    columns[cast.label] = np.array(records.labels, dtype=object)
    return encode_rows(schema, columns)


class Accuracies:
    """The federated model beside what each hospital, or all their data in one place, would have given."""

    def __init__(self, cast: Cast, compiled: CompiledJob, seed: int) -> None:
        self._cast, self._compiled, self._seed = cast, compiled, seed
        self._model: FlatModel = compiled.model

    def of(self, params: NDArray[np.float32], buffers: NDArray[np.float32]) -> float:
        """Accuracy of a model on the whole hidden test set."""
        test = self._compiled.test
        found = self._model.predict(params, buffers, (test.inputs,))
        return float((np.argmax(found, axis=-1) == test.labels).mean())

    def alone(self) -> dict[str, float]:
        """Every hospital that has honest records of its own, trained alone with the job's plan."""
        return {
            hospital.name: self._trained(hospital.records)
            for hospital in self._own_records()
            if hospital.behaviour != "noisy"
        }

    def pooled(self) -> float:
        """All true records in one place, which nobody could have had."""
        kept = [hospital.records for hospital in self._own_records() if hospital.behaviour != "noisy"]
        values = np.concatenate([records.values for records in kept])
        return self._trained(Records(values, tuple(label for records in kept for label in records.labels)))

    def _own_records(self) -> list[Hospital]:
        seen: list[Hospital] = []
        for hospital in self._cast.hospitals:
            if all(other.records is not hospital.records for other in seen):
                seen.append(hospital)
        return seen

    def _trained(self, records: Records) -> float:
        rows = rows_of(self._cast, self._compiled.job.schema, records)
        plan = self._compiled.job.plan
        once = local_plan(plan)
        whole = replace(once, steps=(once.steps or 1) * plan.rounds)
        params, buffers = self._model.initial()
        rng = np.random.default_rng([self._seed, 0xA10E])
        result = train_local(mean_gradient(self._model, rows), params, buffers, len(rows), whole, rng=rng)
        return self.of(params + result.update, result.buffers)
