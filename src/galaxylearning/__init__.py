"""Galaxy Learning: buy training instead of data.

The names a job file needs; each is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galaxylearning.messages.drand import Drand, quicknet
    from galaxylearning.messages.plan import Masking, Noise, Plan
    from galaxylearning.messages.terms import Admission, ArrayField, Column, Schema, Windows
    from galaxylearning.protocol.job import Job, Price
    from galaxylearning.protocol.rows import input_width
    from galaxylearning.simulation.api import simulate
    from galaxylearning.simulation.settings import Simulation
    from galaxylearning.storage.schemas import answers_of, inputs_of, schema_of

__version__ = "0.1.0"

_HOMES = {
    "Admission": "messages.terms",
    "ArrayField": "messages.terms",
    "Column": "messages.terms",
    "Drand": "messages.drand",
    "Job": "protocol.job",
    "Masking": "messages.plan",
    "Noise": "messages.plan",
    "Plan": "messages.plan",
    "Price": "protocol.job",
    "Schema": "messages.terms",
    "Simulation": "simulation.settings",
    "Windows": "messages.terms",
    "answers_of": "storage.schemas",
    "input_width": "protocol.rows",
    "inputs_of": "storage.schemas",
    "quicknet": "messages.drand",
    "schema_of": "storage.schemas",
    "simulate": "simulation.api",
}

__all__ = [
    "Admission",
    "ArrayField",
    "Column",
    "Drand",
    "Job",
    "Masking",
    "Noise",
    "Plan",
    "Price",
    "Schema",
    "Simulation",
    "Windows",
    "answers_of",
    "input_width",
    "inputs_of",
    "quicknet",
    "schema_of",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"galaxylearning.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
