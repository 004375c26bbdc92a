"""How much a worker may take, from the data owner's policy."""

from __future__ import annotations

from dataclasses import dataclass

from galaxylearning.protocol.consent import OwnerPolicy, Sandbox

MEASURING_S = 30
"""Checking and metering a graph takes milliseconds; it never gets more than this, or than training gets."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits on one training.

    ``training_s`` seconds of wall time and of CPU time; ``memory_bytes`` on top of what the libraries take,
    rows and model included; ``output_bytes`` of update. ``sandbox`` says whether a machine will do that
    cannot lock the worker.
    """

    training_s: int = 3600
    memory_bytes: int = 8 << 30
    output_bytes: int = 2 << 30
    sandbox: Sandbox = "required"

    @classmethod
    def of(cls, policy: OwnerPolicy) -> Caps:
        """The caps that a policy sets."""
        return cls(
            policy.maximum_training_s,
            policy.maximum_memory_bytes,
            policy.maximum_output_bytes,
            policy.sandbox,
        )
