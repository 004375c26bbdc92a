"""Behaviours as plug-ins: what data owners do with their data, their updates and their appointments.

Everything to import is here; the parts are in ``behaviours_base`` (what a behaviour is), ``behaviours_free``,
``behaviours_data`` and ``behaviours_attack`` (those built in), ``behaviours_registry`` (names and texts),
``behaviours_cast`` (who plays what) and ``behaviours_round`` (what is sent).
"""

from __future__ import annotations

from galaxylearning.simulation.behaviours_attack import Alie, InnerProduct, Mimic, MinMax, MinSum
from galaxylearning.simulation.behaviours_base import Acts, AttackView, Behaviour, Plain
from galaxylearning.simulation.behaviours_cast import Cast, enlist, parse_assignments
from galaxylearning.simulation.behaviours_data import (
    Backdoor,
    LabelNoise,
    ShuffledLabels,
    SybilDuplicate,
    SybilSplit,
)
from galaxylearning.simulation.behaviours_free import (
    Absent,
    Honest,
    LastStep,
    Malformed,
    Noise,
    Scaled,
    SignFlip,
    Slow,
    Zero,
)
from galaxylearning.simulation.behaviours_registry import (
    Combined,
    behaviour_names,
    describe,
    parse_behaviour,
    register,
    unregister,
)
from galaxylearning.simulation.behaviours_round import Scene, perform

__all__ = [
    "Absent",
    "Acts",
    "Alie",
    "AttackView",
    "Backdoor",
    "Behaviour",
    "Cast",
    "Combined",
    "Honest",
    "InnerProduct",
    "LabelNoise",
    "LastStep",
    "Malformed",
    "Mimic",
    "MinMax",
    "MinSum",
    "Noise",
    "Plain",
    "Scaled",
    "Scene",
    "ShuffledLabels",
    "SignFlip",
    "Slow",
    "SybilDuplicate",
    "SybilSplit",
    "Zero",
    "behaviour_names",
    "describe",
    "enlist",
    "parse_assignments",
    "parse_behaviour",
    "perform",
    "register",
    "unregister",
]
