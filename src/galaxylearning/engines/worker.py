"""One worker: trains one data owner after the other, exactly as the reference engine does.

Runs in a forked process that holds the model; rows come and results go through shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from galaxylearning.engines.channel import (
    MAX_TEXT,
    Channel,
    Closed,
    Diverged,
    Done,
    Message,
    Task,
    refusal,
    unpack_rng,
)
from galaxylearning.engines.shared_memory import Layout, SharedMemory
from galaxylearning.errors import GalaxyError, UpdateRefused
from galaxylearning.learning.local import train_local
from galaxylearning.learning.plan import LocalPlan

if TYPE_CHECKING:
    from galaxylearning.graph.flat import FlatModel


class Worker:
    """A model, where rows and results lie, and what to do with them."""

    def __init__(
        self, index: int, model: FlatModel, plan: LocalPlan, layout: Layout, memory: SharedMemory
    ) -> None:
        self._model, self._plan = model, plan
        self._places = layout.places(memory, index)
        self._params, self._state = layout.params(memory), layout.state(memory)
        self._updates, self._states = layout.updates(memory), layout.states(memory)

    def serve(self, channel: Channel, is_needed: Callable[[], bool]) -> None:
        """Work until the other side closes the channel or ``is_needed`` says no."""
        while True:
            try:
                task, _ = channel.wait(is_needed)
                if not isinstance(task, Task):
                    return
                channel.send(self.train(task))
            except Closed:
                return

    def train(self, task: Task) -> Message:
        """Train one owner; its update and buffers are in the task's slot when ``Done`` is returned."""
        inputs, labels = (array[: task.rows] for array in self._places[task.place])
        try:
            found = train_local(
                self._model.bind((inputs,), labels),
                self._params,
                self._state,
                task.rows,
                self._plan,
                rng=unpack_rng(task.rng),
            )
        except UpdateRefused as refused:
            return Diverged(task.number, str(refused)[:MAX_TEXT])
        except (GalaxyError, ValueError) as error:
            return refusal(task.number, error)
        np.copyto(self._updates[task.slot], found.update)
        np.copyto(self._states[task.slot], found.buffers)
        return Done(task.number, found.steps, found.first_loss, found.last_loss)
