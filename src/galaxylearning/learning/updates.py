"""A round's updates as matrices of integers: what is gated, summed and valued, for any number of owners."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.exact import IntRows, require_rows
from galaxylearning.learning.quantise import MAX_BITS, largest_level, row_type
from galaxylearning.learning.vectors import I32, largest_magnitude, require_integer
from galaxylearning.units import Address


@dataclass(frozen=True, slots=True, eq=False)
class UpdateMatrix:
    """Row ``i`` is the clipped, quantised update of ``owners[i]``.

    ``parameters`` [m, P] are int16 up to 16 ``bits``, int32 above; ``buffers`` int32[m, B] are the changes of
    federated buffers. Two bytes a parameter: 100,000 updates of 2,410 parameters are 482 MB.

    Raises:
        UpdateRefused: arrays of another type, shape or range; an owner who is named twice.
        ConfigRefused: ``bits`` out of range.
    """

    owners: tuple[Address, ...]
    parameters: IntRows
    buffers: I32
    bits: int

    def __post_init__(self) -> None:
        bits = require_integer(self.bits, "bits", low=2, high=MAX_BITS)
        parameters, buffers = (
            require_rows(self.parameters, "parameters"),
            require_rows(self.buffers, "buffers"),
        )
        if parameters.dtype != row_type(bits):
            raise UpdateRefused(
                f"must have type {row_type(bits)}, not {parameters.dtype}", where="parameters"
            )
        if buffers.dtype != np.int32:
            raise UpdateRefused(f"must have type int32, not {buffers.dtype}", where="buffers")
        for field, rows in (("parameters", parameters), ("buffers", buffers)):
            if len(rows) != len(self.owners):
                raise UpdateRefused(f"must have {len(self.owners)} rows, not {len(rows)}", where=field)
        if len(set(self.owners)) != len(self.owners):
            raise UpdateRefused("must name every data owner once", where="owners")
        if (found := largest_magnitude(parameters)) > largest_level(bits):
            raise UpdateRefused(
                f"must lie within ±{largest_level(bits)} ({bits} bits), found ±{found}", where="parameters"
            )
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "buffers", buffers)

    def __len__(self) -> int:
        return len(self.owners)

    def __contains__(self, data_owner: object) -> bool:
        return data_owner in self.owners

    def only(self, data_owners: Collection[Address]) -> UpdateMatrix:
        """The rows of these data owners, in the order they have here."""
        wanted = set(data_owners)
        rows = [i for i, who in enumerate(self.owners) if who in wanted]
        if len(rows) == len(self.owners):
            return self
        return UpdateMatrix(
            tuple(self.owners[i] for i in rows), self.parameters[rows], self.buffers[rows], self.bits
        )
