"""Shared memory, the messages between the workers engine's processes, and what it needs in memory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from galaxylearning.engines.channel import (
    MAX_MESSAGE_BYTES,
    Channel,
    Closed,
    Diverged,
    Done,
    Refused,
    Setup,
    pack_rng,
    raise_refusal,
    refusal,
    unpack_rng,
)
from galaxylearning.engines.memory import MIB
from galaxylearning.engines.shared_memory import PLACES, Layout, RowShape, SharedMemory
from galaxylearning.engines.worker_memory import (
    WORKER_BYTES,
    ZYGOTE_BYTES,
    fitting_workers,
    shared_bytes,
    worker_bytes,
)
from galaxylearning.errors import ConfigRefused, DataRefused, GraphRefused, UpdateRefused
from galaxylearning.learning.plan import LocalPlan

Ends = tuple[Channel, Channel]
LAYOUT = Layout(5, 3, 4, 2, 7, RowShape("<f4", (3, 2), "|u1", ()))
DONE = Done(1, 2, 0.5, 0.25)


@pytest.fixture
def ends() -> Iterator[Ends]:
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours)
        yield channel, theirs
        channel.close()


def test_both_mappings_of_a_descriptor_see_one_memory() -> None:
    memory = SharedMemory.create(LAYOUT.size)
    other = SharedMemory(os.dup(memory.fd), LAYOUT.size)
    LAYOUT.params(memory)[...] = [1, 2, 3, 4, 5]
    other.write(b"abc", LAYOUT.size - 3)
    memory.close_descriptor()
    memory.close_descriptor()
    other.close_descriptor()
    assert LAYOUT.params(other).tolist() == [1, 2, 3, 4, 5]
    assert memory.read(LAYOUT.size - 3, 3) == b"abc"


def test_memory_without_memfd_is_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    memory = SharedMemory.create(4096)
    memory.write(b"here", 0)
    assert SharedMemory(os.dup(memory.fd), 4096).read(0, 4) == b"here"
    assert os.fstat(memory.fd).st_nlink == 0


def test_no_two_arrays_of_a_layout_overlap() -> None:
    memory = SharedMemory.create(LAYOUT.size)
    arrays = [LAYOUT.params(memory), LAYOUT.state(memory), LAYOUT.updates(memory), LAYOUT.states(memory)]
    for worker in range(LAYOUT.workers):
        places = LAYOUT.places(memory, worker)
        assert len(places) == PLACES
        for inputs, labels in places:
            arrays += [inputs, labels]
    assert [array.shape for array in arrays[:6]] == [(5,), (3,), (4, 5), (4, 3), (7, 3, 2), (7,)]
    for number, array in enumerate(arrays, 1):
        array[...] = number
    for number, array in enumerate(arrays, 1):
        assert (array == number).all()
        assert array.ctypes.data % 64 == 0


def test_a_model_without_buffers_has_empty_rows_for_them() -> None:
    layout = Layout(5, 0, 2, 1, 1, RowShape("<f4", (), "<i8", ()))
    memory = SharedMemory.create(layout.size)
    assert layout.state(memory).shape == (0,)
    assert layout.states(memory).shape == (2, 0)


def test_messages_arrive_as_they_were_sent_with_their_descriptors(ends: Ends) -> None:
    left, right = ends
    memory = SharedMemory.create(16)
    setup = Setup(1, 2, LAYOUT, LocalPlan(learning_rate=float(np.float64(0.5)), steps=3), 1, 2**40)
    left.send(setup, [memory.fd])
    left.send(DONE)
    got, descriptors = right.receive(timeout_s=5)
    assert got == setup
    (received,) = descriptors
    memory.write(b"x", 0)
    assert SharedMemory(received, 16).read(0, 1) == b"x"
    assert right.receive(timeout_s=5) == (DONE, [])
    with pytest.raises(TimeoutError):
        right.receive(timeout_s=0.001)


def test_numbers_of_numpy_in_a_plan_are_sent_as_plain_ones(ends: Ends) -> None:
    left, right = ends
    plan = LocalPlan(learning_rate=np.float64(0.25), steps=np.int64(3))  # type: ignore[arg-type]
    left.send(Setup(1, 2, LAYOUT, plan, 1, 1))
    got, _ = right.receive(timeout_s=5)
    assert isinstance(got, Setup)
    assert got.plan == LocalPlan(learning_rate=0.25, steps=3)
    with pytest.raises(TypeError, match="object cannot be sent"):
        left.send(Done(1, 2, object(), 0.0))  # type: ignore[arg-type]


def test_a_closed_channel_is_noticed_on_both_sides(ends: Ends) -> None:
    left, right = ends
    assert not left.is_hung_up()
    right.send(DONE)
    right.close()
    right.close()
    assert left.is_hung_up()
    assert left.receive(timeout_s=5) == (DONE, [])
    with pytest.raises(Closed):
        left.receive(timeout_s=5)
    with pytest.raises(Closed):
        left.send(DONE)


def test_waiting_ends_when_nobody_needs_the_answer(ends: Ends) -> None:
    left, right = ends
    answers = iter([True, False])
    with pytest.raises(Closed, match="nobody"):
        left.wait(lambda: next(answers), every_s=0.001)
    right.send(DONE)
    assert left.wait(lambda: False, every_s=5) == (DONE, [])


@pytest.mark.parametrize(
    "data",
    [
        (MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"),
        b"\x03\x00\x00\x00abc",
        b"\x03\x00\x00\x00a",
        b"\x03\x00",
        b"\x01\x00\x00\x00\x80",
    ],
)
def test_nonsense_ends_the_conversation(data: bytes, raw: tuple[Channel, socket.socket]) -> None:
    channel, other = raw
    other.sendall(data)
    other.close()
    with pytest.raises(Closed):
        channel.receive(timeout_s=5)


def test_half_a_message_is_not_waited_for(raw: tuple[Channel, socket.socket]) -> None:
    channel, other = raw
    other.sendall(b"\x03\x00\x00\x00a")
    with pytest.raises(Closed, match="half"):
        channel.wait(lambda: True, every_s=0.001)


def test_a_message_that_is_too_long_is_not_sent(ends: Ends) -> None:
    left, _ = ends
    with pytest.raises(ValueError, match="at most 65536"):
        left.send(Diverged(1, "x" * MAX_MESSAGE_BYTES))


def test_a_generator_continues_where_it_was_made() -> None:
    rng = np.random.default_rng([3, 2**160, 1])
    packed = pack_rng(rng)
    assert len(packed) == 32
    assert unpack_rng(packed).permutation(50).tolist() == rng.permutation(50).tolist()
    used = np.random.default_rng(1)
    used.random(dtype=np.float32)  # leaves half a draw behind
    with pytest.raises(ValueError, match="fresh"):
        pack_rng(used)
    with pytest.raises(ValueError, match="fresh"):
        pack_rng(np.random.Generator(np.random.MT19937(0)))


@pytest.mark.parametrize("kind", [ConfigRefused, DataRefused, GraphRefused, UpdateRefused])
def test_errors_keep_class_and_text(kind: type[ConfigRefused]) -> None:
    with pytest.raises(kind, match=r"^labels: are missing$"):
        raise_refusal(refusal(1, kind("are missing", where="labels")))
    with pytest.raises(ValueError, match="n_rows"):
        raise_refusal(refusal(1, ValueError("n_rows")))
    with pytest.raises(ValueError, match=r"^unheard of$"):
        raise_refusal(Refused(1, "SystemExit", "unheard of"))


def test_needs_add_up() -> None:
    plan = LocalPlan(steps=1, batch_size=2)
    assert shared_bytes(LAYOUT, 100) == ZYGOTE_BYTES + 200 + LAYOUT.size - 4 * LAYOUT.place_bytes
    # Seven vectors of five numbers; a batch is two rows of six floats and a byte.
    own = 2 * LAYOUT.place_bytes + 2 * (24 + 1) + 100 + 2 * 1000 + 4 * 7 * 5
    assert worker_bytes(LAYOUT, 100, 1000, plan) == WORKER_BYTES + own
    adam = LocalPlan(optimizer="adam", steps=1, batch_size=2)
    assert worker_bytes(LAYOUT, 100, 1000, adam) - worker_bytes(LAYOUT, 100, 1000, plan) == 4 * 5


def test_as_many_workers_as_fit_but_not_fewer_than_asked_for() -> None:
    budget = 100 * MIB
    assert fitting_workers(40 * MIB, 20 * MIB, budget, least=1, most=8) == 3
    assert fitting_workers(40 * MIB, 20 * MIB, budget, least=3, most=3) == 3
    with pytest.raises(ConfigRefused, match=r"memory budget: 4 workers .* 120 MiB, the budget is 100 MiB"):
        fitting_workers(40 * MIB, 20 * MIB, budget, least=4, most=8)
    with pytest.raises(ConfigRefused, match="1 worker of this model would need 140 MiB"):
        fitting_workers(40 * MIB, 100 * MIB, budget, least=1, most=1)
