"""Server optimisers against the paper's formulas, and their state's bytes."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning import ServerOptimizer, ServerState


def run(optimizer: ServerOptimizer, start: float, updates: list[float]) -> list[float]:
    state, params = optimizer.init(1), np.array([start], np.float32)
    path = []
    for update in updates:
        state, params = optimizer.apply(state, params, np.array([update]))
        path.append(float(params[0]))
    return path


def test_fedavg_adds_the_mean() -> None:
    assert run(ServerOptimizer("fedavg"), 1.0, [0.5, -0.25]) == [1.5, 1.25]
    assert run(ServerOptimizer("fedavg", learning_rate=0.5), 1.0, [0.5]) == [1.25]


def test_fedavgm_by_hand() -> None:
    # m = 1, 1.5, 0.75
    assert run(ServerOptimizer("fedavgm", momentum=0.5), 0.0, [1.0, 1.0, 0.0]) == [1.0, 2.5, 3.25]


def test_fedadam_follows_the_paper() -> None:
    optimizer = ServerOptimizer("fedadam", learning_rate=0.1, momentum=0.9, beta2=0.99, tau=0.01)
    w, m, v = 0.0, 0.0, 0.01**2
    expected = []
    for d in (0.3, -0.1, 0.2):
        m = 0.9 * m + 0.1 * d
        v = 0.99 * v + 0.01 * d * d
        w = float(np.float32(w + 0.1 * m / (math.sqrt(v) + 0.01)))
        expected.append(w)
    assert run(optimizer, 0.0, [0.3, -0.1, 0.2]) == pytest.approx(expected, rel=1e-7)


def test_fedyogi_follows_the_paper() -> None:
    optimizer = ServerOptimizer("fedyogi", learning_rate=0.1, momentum=0.9, beta2=0.5, tau=0.1)
    w, m, v = 0.0, 0.0, 0.1**2
    expected = []
    for d in (0.3, -0.01, 0.2):
        m = 0.9 * m + 0.1 * d
        v = v - 0.5 * d * d * math.copysign(1.0, v - d * d)
        w = float(np.float32(w + 0.1 * m / (math.sqrt(v) + 0.1)))
        expected.append(w)
    assert run(optimizer, 0.0, [0.3, -0.01, 0.2]) == pytest.approx(expected, rel=1e-7)


def test_a_round_without_an_update_leaves_fedavg_unmoved() -> None:
    assert run(ServerOptimizer("fedavg"), 1.25, [0.0]) == [1.25]


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_the_state_survives_its_bytes(name: str) -> None:
    optimizer = ServerOptimizer(name)
    params = np.linspace(-1, 1, 5, dtype=np.float32)
    state, params = optimizer.apply(optimizer.init(5), params, np.linspace(0.1, 0.5, 5))
    again = ServerState.from_bytes(state.to_bytes())
    assert again.to_bytes() == state.to_bytes()
    assert (again.name, again.size, again.rounds) == (name, 5, 1)
    one = optimizer.apply(state, params, np.full(5, -0.2))
    two = optimizer.apply(again, params, np.full(5, -0.2))
    assert one[1].tobytes() == two[1].tobytes()
    assert one[0].to_bytes() == two[0].to_bytes()


def test_any_other_bytes_are_not_a_state() -> None:
    good = ServerOptimizer("fedadam").init(2).to_bytes()
    for cut in range(len(good)):
        with pytest.raises(UpdateRefused, match="server state"):
            ServerState.from_bytes(good[:cut])
    nan, minus = struct.pack("<d", math.nan), struct.pack("<d", -1.0)
    bad = [good + b"\0", b"X" + good[1:], good[:5] + b"\x09" + good[6:], good[:-8] + nan, good[:-8] + minus]
    bad.append(good[:14] + struct.pack("<Q", 2**60) + good[22:])
    for data in bad:
        with pytest.raises(UpdateRefused, match="server state"):
            ServerState.from_bytes(data)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "sgd"}, "server_optimizer"),
        ({"learning_rate": 0.0}, "server_learning_rate"),
        ({"learning_rate": math.nan}, "server_learning_rate"),
        ({"momentum": 1.0}, "server_momentum"),
        ({"beta2": 1.0}, "beta2"),
        ({"tau": 0.0}, "tau"),
        ({"tau": True}, "tau"),
    ],
)
def test_a_bad_optimizer_names_its_field(changes: dict[str, Any], field: str) -> None:
    fields: dict[str, Any] = {"name": "fedadam"} | changes
    with pytest.raises(ConfigRefused, match=field):
        ServerOptimizer(**fields)


@pytest.mark.parametrize(
    "mean",
    [
        np.array([1.0, math.nan]),
        np.array([1.0, math.inf]),
        np.ones(3),
        np.ones((2, 1)),
        np.ones(2, np.float32),
        [1.0, 1.0],
        np.full(2, 1e300),
    ],
)
@pytest.mark.parametrize("name", ["fedavg", "fedyogi"])
def test_a_bad_mean_update_is_refused(name: str, mean: Any) -> None:
    optimizer = ServerOptimizer(name)
    with pytest.raises(UpdateRefused, match="mean_update"):
        optimizer.apply(optimizer.init(2), np.zeros(2, np.float32), mean)


def test_a_state_of_another_optimizer_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="fedavg"):
        ServerOptimizer("fedavg").apply(
            ServerOptimizer("fedadam").init(1), np.zeros(1, np.float32), np.zeros(1)
        )
