"""One round as the data owners play it: trained by an engine, bent by each one's behaviour, made integers.

The same code serves a simulation without a chain and the data owners' nodes of one with a chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.engines.engine import Engine, Trained
from galaxylearning.learning import Quantizer, quantise_rows
from galaxylearning.learning.exact import IntRows, require_rows
from galaxylearning.learning.private import noisy_integers
from galaxylearning.learning.quantise import row_type
from galaxylearning.learning.vectors import F32, F64, I32, I64
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.privacy import share_variance
from galaxylearning.protocol.updates import BUFFER_BITS, BUFFER_RANGE, quantizer
from galaxylearning.simulation.behaviours import Cast, Scene, perform

SHARES = 0x54A8
"""Sets the simulated entropy of shares apart from others made of the same numbers."""
NOT_FINITE = "the update is not finite"


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What reaches the evaluators: row ``k`` is of ``owners[k]``, ascending.

    ``parameters`` int16 or int32 [m, P] and ``buffers`` int32 [m, B] are clipped and quantised.
    ``malformed`` names those whose update cannot be read, and why; they have no row.
    """

    owners: I64
    parameters: IntRows
    buffers: I32
    malformed: Mapping[int, str]


class Players:
    """All identities of a cast."""

    def __init__(self, cast: Cast, engine: Engine, plan: Plan, *, seed: int) -> None:
        self.cast, self._engine, self._plan, self._seed = cast, engine, plan, seed
        self._has_shares = plan.noise is not None and plan.noise.kind == "central"
        self._buffer_scale = Quantizer(BUFFER_BITS, BUFFER_RANGE)

    def _noisy(self, updates: F32, owners: I64, round_index: int) -> I32:
        """Integers with a share of central noise, which repeats with the job's seed: nobody is behind it."""
        found: I32 = np.empty(updates.shape, np.int32)
        size, clip = updates.shape[1], self._plan.clip_norm
        scale, variance = quantizer(self._plan, size), share_variance(self._plan, size)
        for row, update, owner in zip(found, updates, owners.tolist(), strict=True):
            entropy = seeded_entropy(self._seed, round_index, owner, SHARES)
            row[:] = noisy_integers(update, scale, clip, variance, entropy=entropy)
        return found

    def play(
        self, params: F32, buffers: F32, senders: I64, round_index: int, last_step: F64 | None
    ) -> Played:
        """What ``senders`` (ascending positions) send when they receive this model.

        Raises:
            GalaxyError: the engine failed as a whole.
        """
        scale = quantizer(self._plan, params.size)
        ints = np.zeros((len(senders), params.size), row_type(self._plan.bits))
        changes: I32 = np.zeros((len(senders), buffers.size), np.int32)
        malformed: dict[int, str] = {}
        trainees = senders[self.cast.trains[senders]]
        trained = self._engine.train(params, buffers, trainees, round_index) if trainees.size else iter(())
        scene = Scene(round_index, params, buffers, self._plan.clip_norm, last_step)
        for part in perform(self.cast, trained, scene, senders=senders):
            kept, reasons = _readable(part)
            malformed |= reasons
            places = np.searchsorted(senders, part.owners)
            updates, after = part.updates, part.buffers
            if not kept.all():
                places, updates, after = places[kept], updates[kept], after[kept]
            if self._has_shares:
                ints[places] = self._noisy(updates, senders[places], round_index)
            elif places.size and places[-1] - places[0] == places.size - 1:
                here = slice(places[0], places[-1] + 1)
                quantise_rows(updates, scale, self._plan.clip_norm, out=ints[here])
            else:
                ints[places] = quantise_rows(updates, scale, self._plan.clip_norm)
            if buffers.size:
                changes[places] = quantise_rows(after - buffers, self._buffer_scale, None)
        sent = require_rows(ints, "updates")
        if not malformed:
            return Played(senders, sent, changes, malformed)
        rest = ~np.isin(senders, np.fromiter(malformed, np.int64))
        return Played(senders[rest], sent[rest], changes[rest], malformed)


def _readable(part: Trained) -> tuple[np.ndarray, dict[int, str]]:
    """Which rows can be made integers, and why the others cannot."""
    finite = np.isfinite(part.updates).all(axis=1) & np.isfinite(part.buffers).all(axis=1)
    failed = np.isin(part.owners, np.fromiter(part.failures, np.int64, len(part.failures)))
    reasons = {int(who): NOT_FINITE for who in part.owners[~finite]} | dict(part.failures)
    return finite & ~failed, reasons
