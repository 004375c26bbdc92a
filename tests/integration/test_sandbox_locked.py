"""The locked worker as a trainer: what the thread gives, to the last bit, and a name for each cap it hits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from architectures import BUILDERS, CLASSES
from galaxylearning.errors import ConfigRefused, DataRefused, GraphRefused, UpdateRefused, WorkerRefused
from galaxylearning.graph import compile_model, weights_to_bytes
from galaxylearning.learning.plan import MAX_STEPS
from galaxylearning.messages.plan import Noise
from galaxylearning.messages.terms import Terms
from galaxylearning.ports import Trainer
from galaxylearning.protocol.consent import OwnerPolicy, policy_from_json
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.updates import check_trained
from galaxylearning.sandbox import Caps, LockedTrainer, ThreadTrainer
from galaxylearning.storage.checkpoints import CheckpointFolder, FileCheckpoint
from plain_terms import ACCOUNT, PLAN, terms_of

Update = tuple[NDArray[np.int32], NDArray[np.int32]]
Model = tuple[bytes, bytes, Rows]


def build(module: nn.Module, sample: Callable[[int], torch.Tensor], **options: Any) -> Model:
    """Graph, weights and 24 rows."""
    graph, weights = compile_model(module, (sample(3),), loss="cross_entropy", **options)
    rows = Rows(sample(24).numpy(), np.arange(24) % CLASSES)
    return graph.to_bytes(), weights_to_bytes(graph, weights), rows


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    torch.manual_seed(1)
    return {name: build(make(), sample) for name, (make, sample) in BUILDERS.items()}


class Policy:
    """Caps that a test may change."""

    def __init__(self) -> None:
        self.caps = Caps()

    def __call__(self) -> Caps:
        return self.caps


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy()


@pytest.fixture(scope="module")
def locked(policy: Policy) -> Iterator[LockedTrainer]:
    trainer = LockedTrainer(policy)
    yield trainer
    trainer.close()


@asynccontextmanager
async def capped(policy: Policy, **caps: Any) -> AsyncIterator[None]:
    policy.caps = replace(Caps(), **caps)
    try:
        yield
    finally:
        policy.caps = Caps()


async def train(
    trainer: Trainer, model: Model, terms: Terms | None = None, *, round_index: int = 0
) -> Update:
    graph, state, rows = model
    return await trainer.train(
        graph, state, terms or terms_of(), rows, round_index=round_index, data_owner=ACCOUNT
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_a_locked_worker_gives_what_the_thread_gives(
    locked: LockedTrainer, models: dict[str, Model], name: str
) -> None:
    async def both() -> None:
        thread = ThreadTrainer()
        graph = models[name][0]
        assert await locked.measure(graph, batch_size=8) == await thread.measure(graph, batch_size=8)
        for round_index in range(2):
            wanted = await train(thread, models[name], round_index=round_index)
            found = await train(locked, models[name], round_index=round_index)
            for mine, theirs in zip(found, wanted, strict=True):
                assert mine.dtype == np.int32
                assert mine.tobytes() == theirs.tobytes()
            assert np.abs(found[0]).max() > 0

    anyio.run(both)


class Shifted(nn.Module):
    """Its buffers enter the update, so that it tells whether they go on from where they were."""

    seen: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, CLASSES)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.seen
        self.seen = seen + x.mean(0)
        self.count = self.count + 1
        out: torch.Tensor = self.layer(x + seen)
        return out


@pytest.fixture(scope="module")
def shifted() -> Model:
    def sample(rows: int) -> torch.Tensor:
        return torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows))

    return build(Shifted(), sample, federate={"seen": "keep_local", "count": "keep_local"})


def test_buffers_that_stay_with_their_owner_come_back_to_the_next_round(
    locked: LockedTrainer, shifted: Model
) -> None:
    model = shifted

    async def two_jobs() -> None:
        thread = ThreadTrainer()
        facts = await locked.measure(model[0], batch_size=8)
        assert (facts.buffers, facts.local_bytes) == (0, 2 * 4 + 8)
        for seed in (3, 4):  # two jobs: the second begins anew
            for round_index in range(2):
                wanted = await train(thread, model, terms_of(seed=seed), round_index=round_index)
                found = await train(locked, model, terms_of(seed=seed), round_index=round_index)
                assert found[0].tobytes() == wanted[0].tobytes()
        anew = await train(ThreadTrainer(), model, terms_of(seed=3), round_index=1)
        onwards = await train(locked, model, terms_of(seed=3), round_index=1)
        assert onwards[0].tobytes() != anew[0].tobytes()

    anyio.run(two_jobs)


class Noting(CheckpointFolder):
    """Checkpoints due at every pass; notes what is saved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, monotonic_s=lambda: 0.0, every_s=0.0)
        self.saved: list[tuple[str, bytes]] = []

    def of(self, name: str) -> FileCheckpoint:
        one = super().of(name)
        save = one.save

        def noted(state: bytes) -> None:
            self.saved.append((name, state))
            save(state)

        one.save = noted  # type: ignore[method-assign]
        return one


def test_buffers_that_stay_outlive_the_node_and_a_worker(shifted: Model, tmp_path: Path) -> None:
    """A new trainer on the same disk goes on from the last round, and within one from the last pass."""

    async def rounds(kept: Noting, *indices: int) -> list[bytes]:
        async with LockedTrainer(Caps, checkpoints=kept, keep_every_s=1e-9) as trainer:
            return [
                (await train(trainer, shifted, LONG, round_index=index))[0].tobytes() for index in indices
            ]

    async def main() -> None:
        whole, parted = Noting(tmp_path / "whole"), Noting(tmp_path / "parted")
        wanted = await rounds(whole, 0, 1)
        assert await rounds(parted, 0) + await rounds(parted, 1) == wanted
        # The first pass of round 1 is on disk, its end is not.
        cut = Noting(tmp_path / "cut")
        after, first = whole.saved[3], whole.saved[4]
        for name, state in (after, first):
            cut.of(name).save(state)
        cut.saved.clear()
        assert await rounds(cut, 1) == wanted[1:]
        assert len(cut.saved) == len(whole.saved[4:]) - 1

    anyio.run(main)


@pytest.mark.parametrize(
    "noise", [Noise("local", 1.0, example_clip=1.0), Noise("central", 0.5)], ids=lambda noise: noise.kind
)
@pytest.mark.parametrize("name", ["mlp", "group-norm-cnn", "transformer"])
def test_noise_is_made_in_the_worker(
    locked: LockedTrainer, models: dict[str, Model], name: str, noise: Noise
) -> None:
    terms = terms_of(msgspec.structs.replace(PLAN, noise=noise))

    async def twice() -> None:
        one, other = await train(locked, models[name], terms), await train(locked, models[name], terms)
        facts = await locked.measure(models[name][0], batch_size=8)
        assert one[0].size == other[0].size == facts.cost.parameters
        assert not np.array_equal(one[0], other[0])
        check_trained(terms, *one)

    anyio.run(twice)


def test_what_the_worker_finds_keeps_its_name(locked: LockedTrainer, models: dict[str, Model]) -> None:
    graph, state, rows = models["mlp"]

    async def refused() -> None:
        with pytest.raises(GraphRefused, match="canonical"):
            await locked.measure(graph + b" ", batch_size=8)
        with pytest.raises(GraphRefused, match="document"):
            await locked.measure(b"[" * 100_000, batch_size=8)
        with pytest.raises(GraphRefused, match="weights"):
            await train(locked, (graph, state[:-1], rows))
        with pytest.raises(DataRefused, match="input"):
            await train(locked, (graph, state, Rows(rows.inputs[:, :3], rows.labels)))
        wild = msgspec.structs.replace(PLAN, learning_rate=1e3, steps=60)
        unbounded = (*models["low-rank-adapter"][:2], Rows(np.full_like(rows.inputs, 3e38), rows.labels))
        with pytest.raises(UpdateRefused, match="at step "):
            await train(locked, unbounded, terms_of(wild))
        await train(locked, models["mlp"])

    anyio.run(refused)


def test_a_training_that_meters_well_and_takes_too_long_is_ended(
    locked: LockedTrainer, models: dict[str, Model], policy: Policy
) -> None:
    async def too_long() -> None:
        long = msgspec.structs.replace(PLAN, steps=MAX_STEPS)
        await locked.measure(models["mlp"][0], batch_size=8)
        async with capped(policy, training_s=1):
            with pytest.raises(WorkerRefused, match="not done after 1 s, the most allowed") as caught:
                await train(locked, models["mlp"], terms_of(long))
        assert caught.value.cap == "maximum_training_s"
        await train(locked, models["mlp"])

    anyio.run(too_long)


def test_a_training_that_wants_too_much_memory_is_ended(
    locked: LockedTrainer, models: dict[str, Model], policy: Policy
) -> None:
    graph, state, rows = models["transformer"]
    many = Rows(np.repeat(rows.inputs, 3000, axis=0), np.repeat(rows.labels, 3000))
    large = terms_of(msgspec.structs.replace(PLAN, batch_size=65_536, steps=1))

    async def too_large() -> None:
        async with capped(policy, memory_bytes=64 << 20):
            with pytest.raises(WorkerRefused, match="wanted more than 67,108,864 bytes") as caught:
                await train(locked, (graph, state, many), large)
            assert caught.value.cap == "maximum_memory_bytes"
            # The rows alone are more than that.
            more = Rows(np.zeros((600_000, 7, 5), np.float32), np.zeros(600_000, np.int64))
            with pytest.raises(WorkerRefused, match="maximum_memory_bytes"):
                await train(locked, (graph, state, more))
        await train(locked, models["transformer"])

    anyio.run(too_large)


def test_an_update_that_is_too_long_is_refused_before_anything_is_trained(
    locked: LockedTrainer, models: dict[str, Model], policy: Policy
) -> None:
    async def too_long() -> None:
        facts = await locked.measure(models["mlp"][0], batch_size=8)
        exact = 4 * facts.cost.parameters
        async with capped(policy, output_bytes=exact - 1):
            with pytest.raises(WorkerRefused, match=rf"has {exact:,} bytes, {exact - 1:,} allowed") as caught:
                await train(locked, models["mlp"])
        assert caught.value.cap == "maximum_output_bytes"
        async with capped(policy, output_bytes=exact):
            await train(locked, models["mlp"])

    anyio.run(too_long)


def test_an_update_that_training_cannot_give_is_refused() -> None:
    levels = 2 ** (PLAN.bits - 1) - 1
    none = np.zeros(0, np.int32)
    just = np.array([levels, 0, 0], np.int32)
    check_trained(terms_of(), just, none)
    for wrong in (just + np.int32(1), np.array([levels, levels, 0], np.int32), -just - np.int32(1)):
        with pytest.raises(UpdateRefused):
            check_trained(terms_of(), wrong, none)
    with pytest.raises(UpdateRefused, match="buffer"):
        check_trained(terms_of(), just, np.array([-(2**31)], np.int32))


def test_caps_are_those_of_the_policy() -> None:
    assert Caps.of(OwnerPolicy()) == Caps()
    text = b'{"maximum_training_s": 5, "maximum_memory_bytes": 1048576, "maximum_output_bytes": 7, '
    assert Caps.of(policy_from_json(text + b'"sandbox": "best-effort"}')) == Caps(
        5, 1 << 20, 7, "best-effort"
    )
    for wrong in (
        b'{"maximum_training_s": 0}',
        b'{"maximum_training_s": 2592001}',
        b'{"maximum_memory_bytes": 1048575}',
        b'{"maximum_output_bytes": -1}',
        b'{"sandbox": "off"}',
        b'{"sandbox": null}',
    ):
        with pytest.raises(ConfigRefused):
            policy_from_json(wrong)


LONG = terms_of(msgspec.structs.replace(PLAN, steps=9))
"""Three passes over 24 rows."""


class Kept:
    """Checkpoints in memory, due whenever asked for, beginning with these."""

    def __init__(self, *states: bytes) -> None:
        self.states = list(states)

    def of(self, name: str) -> Kept:
        assert name == f"{LONG.digest.hex()}/0/{ACCOUNT}"
        return self

    def discard(self, name: str) -> None:
        """Nothing is forgotten."""

    def load(self) -> bytes | None:
        return self.states[-1] if self.states else None

    def is_due(self) -> bool:
        return True

    def save(self, state: bytes) -> None:
        self.states.append(state)


def test_a_worker_goes_on_from_what_another_one_kept(models: dict[str, Model]) -> None:
    """To the same bytes; what is no checkpoint of this training, whatever it is, changes nothing."""

    async def run(kept: Kept) -> Update:
        async with LockedTrainer(Caps, checkpoints=kept, keep_every_s=1e-9) as trainer:
            return await train(trainer, models["mlp"], LONG)

    async def main() -> None:
        whole = Kept()
        wanted = await run(whole)
        passes = len(whole.states)
        assert passes == 3
        for states in (whole.states[:1], [b"junk"], [bytes(1 << 24)], [whole.states[0][:-1]]):
            again = Kept(*states)
            found = await run(again)
            assert [part.tobytes() for part in found] == [part.tobytes() for part in wanted]
            new = len(again.states) - 1
            assert new == (passes - 1 if states == whole.states[:1] else passes)

    anyio.run(main)
