"""What a worker does between its lock and its end: follow, meter and train a stranger's graph.

Runs in a process that can do nothing else. What it gives back is an answer of ``frames``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from galaxylearning.errors import GalaxyError
from galaxylearning.graph import FlatModel, ModelGraph, weights_from_bytes
from galaxylearning.messages.terms import decode_terms
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.updates import train_for_owner, training_seed
from galaxylearning.sandbox.facts import facts_of, facts_to_bytes
from galaxylearning.sandbox.frames import ERRORS, Status, Work, error_text
from galaxylearning.units import Address, Entropy

_OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


def do(work: Work, *, entropy: Entropy = os.urandom) -> tuple[Status, bytes]:
    """Measure or train; how it came out, and the numbers or the reason.

    Raises:
        MemoryError: there was not enough, whoever noticed.
    """
    try:
        return Status.DONE, _measure(work) if work.request.kind == "measure" else _train(work, entropy)
    except (RuntimeError, GalaxyError) as error:
        # The tensor library says with a plain RuntimeError that memory ran out.
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError from error
        for status, kind in ERRORS.items():
            if isinstance(error, kind):
                return status, error_text(error)
        raise


class _Kept:
    """A checkpoint that goes through the node: what it sent along, and what is to be sent back."""

    def __init__(self, work: Work, keep: Callable[[bytes], None]) -> None:
        self._work, self._keep = work, keep
        self._last_s = time.monotonic()

    def load(self) -> bytes | None:
        return self._work.checkpoint or None

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= self._work.request.keep_every_s

    def save(self, state: bytes) -> None:
        self._last_s = time.monotonic()
        self._keep(state)


def _measure(work: Work) -> bytes:
    return facts_to_bytes(facts_of(ModelGraph.from_bytes(work.graph), work.request.batch_size))


def _train(work: Work, entropy: Entropy) -> bytes:
    terms = decode_terms(work.terms)
    graph = ModelGraph.from_bytes(work.graph)
    model = FlatModel(graph, weights_from_bytes(graph, work.state, max_bytes=len(work.state)))
    if work.local:
        model.restore_local(work.local)
    parameters, buffers = train_for_owner(
        model,
        terms,
        model.from_state_bytes(work.state),
        Rows(np.zeros(0), np.zeros(0)) if work.rows is None else work.rows,
        rng=training_seed(terms, work.request.round_index, Address(work.request.data_owner)),
        entropy=entropy,
        checkpoint=None if work.keep is None else _Kept(work, work.keep),
        local=model,
    )
    return b"".join(
        (parameters.astype("<i4").tobytes(), buffers.astype("<i4").tobytes(), model.local_bytes())
    )
