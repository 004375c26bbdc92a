"""A training that is cut off and goes on from its checkpoint ends in the same bytes as one that is not."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from galaxylearning.learning.checkpoint import LocalState
from galaxylearning.learning.local import LocalResult, train_local
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.private import ExampleNoise, train_private
from galaxylearning.learning.vectors import F32, I64

ROWS, SIZE = 22, 5
PLANS = {
    "epochs, momentum": LocalPlan(epochs=5, batch_size=8, momentum=0.9, weight_decay=0.01),
    "steps, adam": LocalPlan(steps=17, batch_size=8, optimizer="adam", prox_mu=0.1),
    "steps, plain": LocalPlan(steps=17, batch_size=8),
    "stored": LocalPlan(epochs=5, batch_size=8, order="stored"),
    "batches of everything": LocalPlan(steps=9, batch_size=64),
}


class Cut(Exception):  # noqa: N818
    """The process ends here."""


@dataclass
class Kept:
    """A checkpoint in memory that is due at every pass."""

    states: list[bytes] = field(default_factory=list)
    loaded: int = 0

    def load(self) -> bytes | None:
        self.loaded += bool(self.states)
        return self.states[-1] if self.states else None

    def is_due(self) -> bool:
        return True

    def save(self, state: bytes) -> None:
        self.states.append(state)


class Slope:
    """A gradient that draws chance, as dropout does, counts its calls, and may cut the training off."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.calls, self._cut_at = 0, cut_at

    def __call__(
        self, params: F32, buffers: F32, rows: I64, rng: np.random.Generator
    ) -> tuple[float, F32, F32]:
        self.calls += 1
        if self.calls == self._cut_at:
            raise Cut
        noise = rng.standard_normal(SIZE).astype(np.float32)
        slope = params * np.float32(0.1) + noise + np.float32(rows.sum() / 100)
        return float(np.abs(slope).sum()), slope, (buffers + np.float32(rows.mean())).astype(np.float32)


def trained(
    plan: LocalPlan, slope: Slope, kept: Kept | None, seed: int = 3, local: LocalState | None = None
) -> LocalResult:
    """One training from a fixed start."""
    start, buffers = np.linspace(-1, 1, SIZE, dtype=np.float32), np.ones(2, np.float32)
    rng = np.random.default_rng(seed)
    return train_local(slope, start, buffers, ROWS, plan, rng=rng, checkpoint=kept, local=local)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("cut_at", [2, 4, 8, 9])
def test_a_training_goes_on_to_the_same_bytes(name: str, cut_at: int) -> None:
    plan, kept = PLANS[name], Kept()
    whole = trained(plan, Slope(), None)
    with pytest.raises(Cut):
        trained(plan, Slope(cut_at), kept)
    rest = Slope()
    found = trained(plan, rest, kept)
    per_pass = -(-ROWS // plan.batch_size)
    assert rest.calls == whole.steps - (cut_at - 1) // per_pass * per_pass
    assert found.update.tobytes() == whole.update.tobytes()
    assert found.buffers.tobytes() == whole.buffers.tobytes()
    assert (found.steps, found.first_loss, found.last_loss) == (
        whole.steps,
        whole.first_loss,
        whole.last_loss,
    )


class Remembering(Slope):
    """A gradient that depends on what its model saw before, which stays with the data owner."""

    def __init__(self, cut_at: int | None = None, seen: float = 0.5) -> None:
        super().__init__(cut_at)
        self.seen = seen

    def __call__(
        self, params: F32, buffers: F32, rows: I64, rng: np.random.Generator
    ) -> tuple[float, F32, F32]:
        loss, slope, after = super().__call__(params, buffers, rows, rng)
        slope = slope + np.float32(self.seen)
        self.seen = 0.5 * self.seen + float(rows.mean()) / 10
        return loss, slope, after

    def local_bytes(self) -> bytes:
        return np.float64(self.seen).tobytes()

    def restore_local(self, data: bytes) -> None:
        self.seen = float(np.frombuffer(data, np.float64)[0])


@pytest.mark.parametrize("name", PLANS)
def test_what_stays_with_the_data_owner_goes_on_as_well(name: str) -> None:
    plan, kept = PLANS[name], Kept()
    whole, rest = Remembering(), Remembering()
    wanted = trained(plan, whole, None, local=whole)
    cut = Remembering(cut_at=9)
    with pytest.raises(Cut):
        trained(plan, cut, kept, local=cut)
    found = trained(plan, rest, kept, local=rest)
    assert rest.calls < whole.calls
    assert found.update.tobytes() == wanted.update.tobytes()
    assert rest.seen == whole.seen


def test_a_checkpoint_from_another_local_state_counts_as_none() -> None:
    plan, kept = PLANS["steps, adam"], Kept()
    one = Remembering()
    trained(plan, one, kept, local=one)
    other, alone = Remembering(seen=0.25), Remembering(seen=0.25)
    found, wanted = trained(plan, other, kept, local=other), trained(plan, alone, None, local=alone)
    assert found.update.tobytes() == wanted.update.tobytes()
    assert other.seen == alone.seen


def test_nothing_is_saved_before_it_is_due() -> None:
    class Never(Kept):
        def is_due(self) -> bool:
            return False

    kept = Never()
    trained(PLANS["steps, adam"], Slope(), kept)
    assert kept.states == []


def test_a_checkpoint_of_another_training_counts_as_none() -> None:
    plan = PLANS["steps, adam"]
    kept = Kept()
    trained(plan, Slope(), kept)
    for other in (replace(plan, learning_rate=0.2), replace(plan, steps=18), PLANS["steps, plain"]):
        slope = Slope()
        trained(other, slope, kept)
        assert slope.calls == other.steps
    slope = Slope()
    trained(plan, slope, kept, seed=4)
    assert slope.calls == plan.steps


def test_a_damaged_checkpoint_counts_as_none() -> None:
    plan = PLANS["steps, adam"]
    whole, kept = trained(plan, Slope(), None), Kept()
    with pytest.raises(Cut):
        trained(plan, Slope(8), kept)
    good = kept.states[-1]
    fields: dict[str, Any] = msgspec.msgpack.decode(good)
    assert set(fields) >= {"parameters", "queue", "rng", "memory", "step"}
    far = np.array([ROWS], np.int64).tobytes()
    changes = (
        {"parameters": fields["parameters"][:-4]},
        {"memory": fields["memory"][:1]},
        {"queue": far},
        {"queue": b"\0" * 7},
        {"queue": np.array([-1], np.int64).tobytes()},
        {"step": 0},
        {"rng": "{}"},
        {"rng": "[" * 4_000},
        {"rng": fields["rng"].replace("PCG64", "MT19937")},
        {"rng": " " * 5_000},
        {"buffers": b""},
        {"run": bytes(32)},
        {"more": 1},
    )
    bad = [msgspec.msgpack.encode(fields | change) for change in changes]
    for data in (b"", good[:-1], good[1:], os.urandom(64), *bad):
        slope = Slope()
        found = trained(plan, slope, Kept([data]))
        assert slope.calls == plan.steps
        assert found.update.tobytes() == whole.update.tobytes()


def test_a_private_training_takes_its_remaining_steps_only() -> None:
    plan, noise = LocalPlan(steps=17, batch_size=8), ExampleNoise(1.0, 1.0)
    calls = 0

    def gradients(params: F32, buffers: F32, rows: I64, rng: np.random.Generator) -> F32:
        return np.ones((rows.size, SIZE), np.float32)

    def entropy(n_bytes: int) -> bytes:
        nonlocal calls
        calls += 1
        return os.urandom(n_bytes)

    def run(kept: Kept) -> LocalResult:
        start = np.zeros(SIZE, np.float32)
        rng = np.random.default_rng(1)
        return train_private(
            gradients,
            start,
            np.zeros(0, np.float32),
            ROWS,
            plan,
            noise,
            rng=rng,
            entropy=entropy,
            checkpoint=kept,
        )

    first = Kept()
    assert run(first).steps == 17
    assert len(first.states) == 5  # the passes of three steps within 17
    again = Kept(first.states[:4])
    result = run(again)
    assert again.loaded == 1
    assert len(again.states) == 5
    assert result.steps == 17
    assert math.isnan(result.last_loss)
