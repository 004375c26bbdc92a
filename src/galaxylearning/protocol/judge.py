"""What a model is worth on the hidden set: its utility and accuracy, and which way it would get better."""

from __future__ import annotations

from typing import Final

import numpy as np

from galaxylearning.contribution import FixedPointUtility, GradientBlocks
from galaxylearning.errors import GraphRefused
from galaxylearning.graph.model import Model
from galaxylearning.learning.vectors import F32, F64
from galaxylearning.messages.terms import CLASS_LOSSES, Terms
from galaxylearning.protocol.hidden_set import SCORE_BLOCKS, HiddenSet, Rows
from galaxylearning.protocol.outcomes import Measured, ModelState

GATING_PARTS: Final = 4
"""So many parts of the gating half stand for data owners where standard errors are estimated."""


class Judge:
    """The hidden set of a job, and how its terms have models judged by it. Holds no model's state.

    A graph may be made to work until its parameters have moved (an index that then lies outside its table).
    A model that does not run has infinite losses, no right answer and a gradient of zeros: the requester
    wastes its own rounds, and no evaluator's stake.
    """

    def __init__(self, terms: Terms, model: Model, hidden: HiddenSet) -> None:
        self._terms, self._model, self._hidden = terms, model, hidden

    def measured(self, state: ModelState) -> Measured:
        """Utility and accuracy of a model of the job."""
        rows = self._hidden.everything
        losses = self.losses(state.params, state.buffers, self._hidden.paying)
        clip = self._terms.plan.loss_clip
        utility = FixedPointUtility().utility(np.nan_to_num(losses, nan=clip, posinf=clip), clip)
        if self._terms.loss not in CLASS_LOSSES:
            return Measured(utility, 0)
        try:
            found = self._model.predict(state.params, state.buffers, (rows.inputs,))
        except GraphRefused:
            return Measured(utility, 0)
        return Measured(utility, int((np.argmax(found, axis=-1) == rows.labels).sum()))

    def losses(self, params: F32, buffers: F32, rows: Rows) -> F64:
        """Loss of each of some rows of the hidden set, f64[n], not clipped; may be infinite or NaN."""
        try:
            return self._model.per_sample_loss(params, buffers, (rows.inputs,), rows.labels)
        except GraphRefused:
            return np.full(len(rows), np.inf)

    def utility(self, params: F64, buffers: F32) -> float:
        """Minus the mean clipped loss on the paying half, in units of the loss per sample."""
        losses = self.losses(params.astype(np.float32), buffers, self._hidden.paying)
        return -float(np.minimum(losses, self._terms.plan.loss_clip).mean())

    def gradient_blocks(self, buffers: F32) -> GradientBlocks:
        """Mean gradient per sample of each block of the paying half, f64[blocks, P], at any parameters.

        A block whose gradient is not finite says of no update whether it is of use: zeros.
        """
        return self._gradients(self._hidden.paying, SCORE_BLOCKS, buffers)

    def gating_gradients(self, state: ModelState) -> F64:
        """Mean gradient per sample of four parts of the gating half, at a model, f64[4, P]."""
        found = self._gradients(self._hidden.gating, GATING_PARTS, state.buffers)
        return found(state.params.astype(np.float64))

    def _gradients(self, rows: Rows, count: int, buffers: F32) -> GradientBlocks:
        blocks = [rows.take(part) for part in np.array_split(np.arange(len(rows), dtype=np.int64), count)]
        rows_per_block = len(rows) / count

        def gradients(params: F64) -> F64:
            point, clip = params.astype(np.float32), self._terms.plan.loss_clip
            found = np.empty((count, params.size))
            for row, block in zip(found, blocks, strict=True):
                try:
                    row[:] = self._model.gradient_eval(
                        point, buffers, (block.inputs,), block.labels, clip=clip
                    )
                except GraphRefused:
                    row[:] = 0.0
                if not np.isfinite(row).all():
                    row[:] = 0.0
            found /= rows_per_block
            return found

        return gradients
