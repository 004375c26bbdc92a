"""What models are worth on hidden rows: minus the mean clipped loss, or the share of right classes."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np

from galaxylearning.contribution.games import MAX_EXACT_PLAYERS
from galaxylearning.contribution.measure import MAX_CLIP
from galaxylearning.engines.stack_losses import correct_predictions, sample_losses
from galaxylearning.engines.stacks import StackNet
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph.labels import CLASS_LOSSES, prepare_labels
from galaxylearning.graph.model import Model
from galaxylearning.learning.vectors import F32, F64, require_number
from galaxylearning.protocol.hidden_set import Rows

Utility: TypeAlias = Literal["loss", "accuracy", "both"]

LOSS, ACCURACY = 0, 1
"""Rows of an array of both utilities."""


def coalition_name(mask: int) -> str:
    """The coalition of a bit mask as people read it: the positions of its data owners."""
    return f"coalition {[i for i in range(mask.bit_length()) if mask >> i & 1]}"


def require_few(count: int, field: str) -> int:
    """Refuse no data owner, and more than all of whose coalitions can be looked at.

    Raises:
        DataRefused: none.
        ConfigRefused: more than 20.
    """
    if count < 1:
        raise DataRefused("at least one data owner is needed", where=field)
    if count > MAX_EXACT_PLAYERS:
        raise ConfigRefused(
            f"all coalitions of at most {MAX_EXACT_PLAYERS} data owners can be valued, not of {count}",
            where=field,
        )
    return count


def require_utility(utility: str, loss: str) -> None:
    """Refuse a utility of no known name, and an accuracy where there are no classes.

    Raises:
        ConfigRefused: naming what is allowed.
    """
    names = get_args(Utility)
    if utility not in names:
        raise ConfigRefused(f"must be one of {', '.join(names)}, not {utility!r}", where="utility")
    if utility != "loss" and loss not in CLASS_LOSSES:
        raise ConfigRefused(f"must be loss for a model trained by {loss}", where="utility")


def require_pairs(rows: Rows) -> None:
    """Refuse rows that have not one label each.

    Raises:
        DataRefused: naming both numbers.
    """
    if len(rows.inputs) != len(rows.labels):
        raise DataRefused(
            f"must be {len(rows.inputs)}, one for each row, not {len(rows.labels)}", where="labels"
        )


class HiddenRows:
    """Rows that models are measured on, taken in once; ``loss_clip`` bounds each row's loss from above.

    Raises:
        ConfigRefused: ``loss_clip`` outside (0, 1e6].
        DataRefused: no row, or not one label for each.
    """

    def __init__(self, rows: Rows, loss_clip: float) -> None:
        self.loss_clip = require_number(loss_clip, "loss_clip", low=0, high=MAX_CLIP, low_open=True)
        if not len(rows):
            raise DataRefused("at least one hidden row is needed", where="rows")
        require_pairs(rows)
        self.rows = rows

    def utilities(self, model: Model, params: F32, buffers: F32, utility: Utility, where: str) -> F64:
        """Both utilities f64[2] of one model, the one that is not asked for NaN.

        Raises:
            DataRefused: it is not finite; the message begins with ``where``.
        """
        found = np.full(2, np.nan)
        inputs, labels = (self.rows.inputs,), self.rows.labels
        if utility != "accuracy":
            losses = model.per_sample_loss(params, buffers, inputs, labels)
            found[LOSS] = -np.minimum(losses, self.loss_clip).mean()
        if utility != "loss":
            outputs = model.predict(params, buffers, inputs)
            wanted = prepare_labels(model.graph.loss, labels, outputs.shape)
            if bool(np.isfinite(outputs).all()):
                found[ACCURACY] = np.mean(np.argmax(outputs, axis=1) == wanted)
        asked = chosen(found, utility)
        if not bool(np.isfinite(asked).all()):
            raise DataRefused("the model's loss or outputs are not finite", where=f"utility of {where}")
        return found


class StackedRows(HiddenRows):
    """Hidden rows as stacks of models take them.

    Raises:
        ConfigRefused, DataRefused: as ``HiddenRows``; rows or labels that the graph does not take.
    """

    def __init__(self, net: StackNet, rows: Rows, loss_clip: float) -> None:
        super().__init__(rows, loss_clip)
        self._net, self.inputs, self._labels = net, net.rows(rows.inputs), net.labels(rows.labels)

    def tiles(self, size: int) -> list[slice]:
        """The rows in pieces of at most ``size``."""
        return [slice(start, start + size) for start in range(0, len(self.inputs), size)]

    def add(self, outputs: F32, tile: slice, utility: Utility, totals: F64) -> None:
        """Add the scores of models with ``outputs`` f32[c, M, rows of the tile] to ``totals`` f64[2, M].

        Sums of clipped losses and counts of right classes; NaN where outputs are not finite.
        """
        labels = self._labels[tile]
        if utility != "accuracy":
            losses = sample_losses(self._net.loss, outputs, labels)
            totals[LOSS] += np.minimum(losses, self.loss_clip, out=losses).sum(axis=1)
        if utility != "loss":
            totals[ACCURACY] += correct_predictions(outputs, labels)
            totals[ACCURACY, ~np.isfinite(outputs).all(axis=(0, 2))] = np.nan

    def finish(self, totals: F64) -> F64:
        """Totals over all tiles, f64[2, M], as utilities."""
        found: F64 = totals * np.array([[-1.0], [1.0]]) / len(self.inputs)
        return found

    @staticmethod
    def needed_bytes(net: StackNet, models: int, rows: int) -> int:
        """Bytes that :meth:`add` takes for a moment."""
        return models * rows * (8 * (3 * net.classes + 4) + net.classes)


def chosen(found: F64, utility: Utility) -> F64:
    """Of both utilities f64[2, ...], what was asked for: f64[...], or both."""
    if utility == "both":
        return found
    one: F64 = found[LOSS if utility == "loss" else ACCURACY]
    return one
