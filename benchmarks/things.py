"""A small job that plays are about: telling round things from square ones by height and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from galaxylearning.crypto.digest import blake3_digest, keccak
from galaxylearning.crypto.ring import DEGREE, pack, unpack
from galaxylearning.messages.plan import Masking, Plan
from galaxylearning.messages.terms import Column, Schema, Terms, Windows
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.member import Member
from galaxylearning.ports import OfferedDataset
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job
from galaxylearning.protocol.matching import DatasetColumn
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.secagg.plan import MaskingPlan

COLUMNS: Final = ("height", "width")
SCHEMA: Final = Schema(
    features=tuple(Column(name, "number", unit="mm", mean=10.0, std=2.0) for name in COLUMNS),
    label=Column("kind", "category", classes=("round", "square")),
)
DATASET: Final = "things"
TEST_ROWS: Final = 160
PLAN: Final = Plan(
    rounds=2, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=2, maximum_owners=4
)
MASKING: Final = Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=9)
"""For five evaluators and ``MASKED_HIDDEN`` units."""
HIDDEN: Final = 4
MASKED_HIDDEN: Final = 256


def windows(seconds: int) -> Windows:
    """Every phase takes so long at most; claims are open for a month."""
    return Windows(seconds, seconds, seconds, seconds, seconds, seconds, 30 * 86_400)


def clouds(rows: int, *, seed: int) -> Mapping[str, NDArray[Any]]:
    """Heights and widths in millimetres of two kinds of things."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, rows)
    kinds[:2] = 0, 1
    centres = np.where(kinds == 1, 11.5, 8.5)
    found: dict[str, NDArray[Any]] = {name: centres + rng.normal(0, 1.5, rows) for name in COLUMNS}
    found["kind"] = np.array(["round", "square"], dtype=object)[kinds]
    return found


def seed_of(name: str) -> int:
    """A seed that follows from somebody's name."""
    return int.from_bytes(keccak(name.encode())[:4])


def compiled_job(
    hidden: int = HIDDEN,
    *,
    activation: type[nn.Module] = nn.ReLU,
    test_rows: int = TEST_ROWS,
    test_seed: int = 0,
    **changes: Any,
) -> CompiledJob:
    """A small network on two columns, priced so that the bounty is not spent to the end.

    ``changes`` are those of the job.
    """
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, hidden), activation(), nn.Linear(hidden, 2))
    job = Job(
        title="Kinds of things",
        model=model,
        loss="cross_entropy",
        schema=SCHEMA,
        plan=PLAN,
        price=Price(bounty="1000", target_gain=0.8),
        test_data="",
        windows=windows(600),
        seed=1,
        privacy="sealed",
    )
    return compile_job(replace(job, **changes), encode_rows(SCHEMA, clouds(test_rows, seed=test_seed)))


class MemoryShelf:
    """One data set in memory (``ports.DatasetShelf``), its columns as the schema describes them."""

    def __init__(self, name: str, schema: Schema, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = columns
        described = (*schema.features, schema.label)
        self._offer = OfferedDataset(
            name=DATASET,
            commitment=blake3_digest(name.encode()),
            schema_digest=blake3_digest(b"schema"),
            n_rows=len(columns[schema.label.name]),
            columns=tuple(
                DatasetColumn(c.name, c.kind, c.unit, c.minimum, c.maximum, c.classes) for c in described
            ),
        )

    def offered(self) -> Sequence[OfferedDataset]:
        """The one there is."""
        return (self._offer,)

    def columns(self, name: str) -> Mapping[str, NDArray[Any]]:
        """Its columns; there is no other data set."""
        del name
        return self._columns

    def record_use(self, name: str, job_id: int, round_index: int) -> None:
        """Nobody counts these uses."""


class LyingMember(Member):
    """Answers about every data owner, and every sum, with something else that is well-formed."""

    async def _words(self, *given: Any) -> bytes | None:
        words = await super()._words(*given)
        if words is None:
            return None
        _, asked, _, questions = given
        ring = self.plan.ring
        width = questions[0].count if questions else DEGREE
        residues = unpack(ring, words, width=width, where=asked.topic, is_absent_allowed=True)
        return pack(ring, (residues + 1) % np.array(ring.primes)[:, None])


def evaluator_with(kind: type[Member]) -> type[EvaluatorNode]:
    """An evaluator that takes part in openings as such a member."""

    class Seat(SeatedJob):
        def member(self, plan: MaskingPlan) -> Member:
            return kind(
                self.site, self.board, self.terms, self.job_id, self.key, plan, stagger_s=self.stagger_s
            )

    class Evaluator(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return Seat(self, self._view, job_id, terms)

    return Evaluator
