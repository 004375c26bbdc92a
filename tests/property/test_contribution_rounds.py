"""Values and the twin test on real rounds: breast tumours and digits, twelve data owners, unequal shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from galaxylearning.contribution import (
    SentUpdates,
    coalition_game,
    exact_banzhaf,
    merge_twins,
    path_value,
    to_fixed,
    twin_evidence,
    twin_groups,
)
from galaxylearning.errors import ConfigRefused, DataRefused

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

RAW: dict[str, Any] = {
    "breast-cancer": load_breast_cancer(return_X_y=True),
    "digits": load_digits(return_X_y=True),
}


class Model(Protocol):
    size: int

    def start(self, _rng: np.random.Generator, /) -> F64: ...
    def losses(self, w: F64, x: F64, y: I64) -> F64: ...
    def gradient(self, w: F64, x: F64, y: I64) -> F64: ...


def log_softmax(z: F64) -> F64:
    z = z - z.max(1, keepdims=True)
    result: F64 = z - np.log(np.exp(z).sum(1, keepdims=True))
    return result


class Logistic:
    def __init__(self, features: int, classes: int) -> None:
        self.shape, self.size = (features, classes), features * classes

    def start(self, _rng: np.random.Generator) -> F64:
        return np.zeros(self.size)

    def losses(self, w: F64, x: F64, y: I64) -> F64:
        result: F64 = -log_softmax(x @ w.reshape(self.shape))[np.arange(len(y)), y]
        return result

    def gradient(self, w: F64, x: F64, y: I64) -> F64:
        p = np.exp(log_softmax(x @ w.reshape(self.shape)))
        p[np.arange(len(y)), y] -= 1
        result: F64 = (x.T @ p / len(y)).ravel()
        return result


class Perceptron:
    """One hidden layer of 16 rectified units; the last input feature is the constant 1."""

    hidden = 16

    def __init__(self, features: int, classes: int) -> None:
        self.cut = features * self.hidden
        self.shapes = (features, self.hidden), (self.hidden + 1, classes)
        self.size = self.cut + (self.hidden + 1) * classes

    def start(self, rng: np.random.Generator) -> F64:
        scale = np.full(self.size, self.hidden**-0.5)
        scale[: self.cut] = self.shapes[0][0] ** -0.5
        result: F64 = rng.normal(0, 1, self.size) * scale
        return result

    def _forward(self, w: F64, x: F64) -> tuple[F64, F64, F64]:
        top = w[self.cut :].reshape(self.shapes[1])
        h: F64 = np.maximum(x @ w[: self.cut].reshape(self.shapes[0]), 0)
        h = np.concatenate([h, np.ones((len(h), 1))], axis=1)
        return h, top, log_softmax(h @ top)

    def losses(self, w: F64, x: F64, y: I64) -> F64:
        result: F64 = -self._forward(w, x)[2][np.arange(len(y)), y]
        return result

    def gradient(self, w: F64, x: F64, y: I64) -> F64:
        h, top, log_p = self._forward(w, x)
        p = np.exp(log_p)
        p[np.arange(len(y)), y] -= 1
        p /= len(y)
        back: F64 = (p @ top[:-1].T) * (h[:, :-1] > 0)
        return np.concatenate([(x.T @ back).ravel(), (h.T @ p).ravel()])


def shares(rng: np.random.Generator, y: I64, owners: int, skew: str) -> list[I64]:
    """Rows per owner: "equal", "sizes" (unequal sizes), or a Dirichlet concentration over labels."""
    rows = rng.permutation(len(y))
    if skew == "equal":
        return list(np.array_split(rows, owners))
    if skew == "sizes":
        part = np.maximum(rng.dirichlet(np.full(owners, 3.0)), 0.04)
        return list(np.split(rows, (np.cumsum(part / part.sum()) * len(y)).astype(np.int64)[:-1]))
    home = np.empty(len(y), np.int64)
    for label in range(int(y.max()) + 1):
        mine = np.flatnonzero(y == label)
        home[mine] = rng.choice(owners, len(mine), p=rng.dirichlet(np.full(owners, float(skew))))
    parts = [np.flatnonzero(home == owner) for owner in range(owners)]
    return [part if len(part) >= 8 else rng.permutation(len(y))[:8] for part in parts]


@dataclass
class Cohort:
    """Twelve owners: 1 sends noise, 2 has shuffled labels; with a twin, 3 and 11 hold the same data."""

    data: str
    model_type: type[Logistic] | type[Perceptron]
    skew: str
    seed: int
    twin: bool = True
    owners: int = 12
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        x, y = RAW[self.data]
        order = self.rng.permutation(len(x))
        x, y = x[order], y[order].astype(np.int64)
        held = len(x) // 4
        x = (x - x[held:].mean(0)) / (x[held:].std(0) + 1e-9)
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        self.hidden = x[:held], y[:held]
        x, y = x[held:], y[held:]
        parts = shares(self.rng, y, self.owners - self.twin, self.skew)
        self.rows = [(x[part], y[part].copy()) for part in parts]
        self.rows[2] = (self.rows[2][0], self.rng.permutation(self.rows[2][1]))
        if self.twin:
            self.rows.append(self.rows[3])
        self.model = self.model_type(x.shape[1], int(y.max()) + 1)
        self.params = self.model.start(self.rng)
        self.previous = np.zeros(self.model.size)

    def round_updates(self, rate: float = 0.3, steps: int = 10, batch: int = 16) -> list[F64]:
        updates = []
        for owner, (x, y) in enumerate(self.rows):
            if owner == 1:
                updates.append(self.rng.normal(0, 0.02, self.model.size))
                continue
            w = self.params.copy()
            for _ in range(steps):
                rows = self.rng.integers(0, len(y), batch)
                w -= rate * (self.model.gradient(w, x[rows], y[rows]) + 1e-3 * w)
            updates.append(w - self.params)
        norms = [float(np.linalg.norm(update)) for update in updates]
        limit = float(np.median(norms))
        return [u * min(1.0, limit / norm) for u, norm in zip(updates, norms, strict=True)]

    def advance(self, updates: list[F64]) -> F64:
        step: F64 = np.mean(updates, axis=0)
        self.params = self.params + step
        self.previous = step
        return step

    def gradient_blocks(self, w: F64, blocks: int = 4) -> F64:
        x, y = self.hidden
        pieces = np.array_split(np.arange(len(y) // blocks * blocks), blocks)
        return np.array([self.model.gradient(w, x[rows], y[rows]) for rows in pieces])

    def utility(self, w: F64) -> float:
        x, y = self.hidden
        n = len(y) // 4 * 4
        return -float(np.mean(self.model.losses(w, x[:n], y[:n])))


MODELS = pytest.mark.parametrize("model", [Logistic, Perceptron])
DATA = pytest.mark.parametrize("data", ["breast-cancer", "digits"])


@MODELS
@DATA
@pytest.mark.parametrize("skew", ["sizes", "0.5"])
def test_the_path_value_agrees_with_exact_banzhaf_on_real_rounds(
    data: str, model: type[Logistic], skew: str
) -> None:
    cohort = Cohort(data, model, skew, seed=1, twin=False, owners=8)
    path, finer, banzhaf, gain = np.zeros(8), 0.0, np.zeros(8), 0.0
    for _ in range(4):
        updates, start = cohort.round_updates(), cohort.params
        step = cohort.advance(updates)
        found = path_value(cohort.gradient_blocks, start, step, updates, [1 / 8] * 8)
        assert float(np.sum(found.values)) == pytest.approx(found.gain_estimate, rel=1e-5)
        finer += path_value(
            cohort.gradient_blocks, start, step, updates, [1 / 8] * 8, midpoints=8
        ).gain_estimate
        path += found.values
        banzhaf += exact_banzhaf(coalition_game(start, updates, cohort.utility)).values
        gain += cohort.utility(cohort.params) - cohort.utility(start)
    assert np.corrcoef(path, banzhaf)[0, 1] >= 0.98
    # the midpoint rule's error falls with the square of the midpoints: five leave 1.1 % in the roughest case
    assert float(np.sum(path)) == pytest.approx(gain, rel=0.012)
    assert finer == pytest.approx(gain, rel=0.01)
    # the free rider's noise earns nothing beside the median honest owner; shuffled labels earn less than it
    honest = float(np.median(np.delete(path, [1, 2])))
    assert abs(path[1]) < 0.15 * honest
    assert path[2] < 0.5 * honest


@DATA
def test_zero_and_replayed_updates_earn_nothing(data: str) -> None:
    cohort = Cohort(data, Logistic, "sizes", seed=3, twin=False)
    total = np.zeros(14)
    for _ in range(6):
        updates, start, last = cohort.round_updates(), cohort.params, cohort.previous
        step = cohort.advance(updates)
        sent = [*updates, np.zeros_like(step), last.copy()]
        found = path_value(cohort.gradient_blocks, start, step, sent, [1 / 14] * 14, previous_step=last)
        total += found.values
    honest = float(np.median(np.delete(total[:12], [1, 2])))
    assert honest > 0
    assert total[12] == 0.0
    # What is left is the rounding of the gradient to integers.
    assert abs(total[13]) < 1e-6 * honest


@MODELS
@DATA
@pytest.mark.parametrize("skew", ["equal", "sizes", "0.5"])
def test_twins_are_found_and_nobody_else(data: str, model: type[Logistic], skew: str) -> None:
    """With and without twins, noise and shuffled labels around. Fixed seeds, so this cannot be flaky."""
    for seed in (1, 2, 3):
        for twin in (True, False):
            cohort = Cohort(data, model, skew, seed, twin)
            history = []
            for _ in range(8):
                updates = cohort.round_updates()
                history.append({f"owner-{i}": update for i, update in enumerate(updates)})
                cohort.advance(updates)
            expected = (frozenset({"owner-3", "owner-11"}),) if twin else ()
            assert twin_groups(history) == expected


def test_a_merged_twin_earns_what_it_earns_under_one_name() -> None:
    def totals(twin: bool) -> dict[int, int]:
        cohort = Cohort("breast-cancer", Logistic, "sizes", seed=4, twin=twin, owners=11 + twin)
        n = 11 + twin
        total = np.zeros(n)
        for _ in range(8):
            updates, start, last = cohort.round_updates(), cohort.params, cohort.previous
            step = cohort.advance(updates)
            found = path_value(cohort.gradient_blocks, start, step, updates, [1 / n] * n, previous_step=last)
            total += found.values
        return dict(enumerate(to_fixed(total)))

    alone, doubled = totals(False), totals(True)
    unmerged = doubled[3] + doubled[11]
    merged = merge_twins(doubled, [frozenset({3, 11})])
    assert unmerged > 1.4 * alone[3]
    assert 0.85 * alone[3] < merged[3] + merged[11] < 1.1 * alone[3]


def honest_history(rounds: int = 8) -> list[dict[int, F64]]:
    cohort = Cohort("breast-cancer", Logistic, "sizes", seed=5)
    history: list[dict[int, F64]] = []
    for _ in range(rounds):
        updates = cohort.round_updates()
        history.append(dict(enumerate(updates)))
        cohort.advance(updates)
    return history


def test_three_names_are_one_group() -> None:
    history = honest_history()
    rng = np.random.default_rng(0)
    for sent in history:
        sent[20] = sent[3] + rng.normal(0, 1e-3, sent[3].size)
    assert twin_groups(history) == (frozenset({3, 11, 20}),)


def test_twins_that_skip_rounds_are_still_found() -> None:
    history = honest_history(12)
    for index in (0, 3, 6, 9):
        del history[index][3]
    for index in (1, 4, 7, 10):
        del history[index][11]
    assert twin_groups(history) == (frozenset({3, 11}),)


def test_a_copy_with_a_factor_is_found() -> None:
    history = honest_history()
    for sent in history:
        del sent[11]
        sent[20] = 0.5 * sent[4]
    assert twin_groups(history) == (frozenset({4, 20}),)


def test_too_little_to_judge_gives_no_group() -> None:
    history = honest_history()
    assert twin_groups(history[:4]) == ()
    assert twin_groups([]) == ()
    assert twin_groups([{}] * 8) == ()
    assert twin_groups([{key: sent[key] for key in (3, 11, 5)} for sent in history]) == ()
    assert twin_groups([dict.fromkeys(range(6), np.zeros(4))] * 8) == ()
    assert twin_groups([dict.fromkeys(range(6), np.zeros(0))] * 8) == ()


def test_owners_without_data_are_not_judged() -> None:
    history = honest_history()
    for sent in history:
        sent[1] = np.zeros_like(sent[0])
        sent[30] = np.zeros_like(sent[0])
    evidence = twin_evidence(history)
    assert 1 not in evidence.players
    assert 30 not in evidence.players
    assert twin_groups(history) == (frozenset({3, 11}),)


def test_equal_histories_give_equal_bytes_in_any_order_of_names() -> None:
    history = honest_history()
    turned = [dict(reversed(sent.items())) for sent in history]
    assert twin_evidence(history).correlation.tobytes() == twin_evidence(history).correlation.tobytes()
    assert twin_groups(turned) == twin_groups(history)


@pytest.mark.parametrize(
    "bad",
    [
        np.full(4, np.nan),
        np.full(4, np.inf),
        np.full(4, 1e200),
        np.zeros(3),
        np.zeros((4, 1)),
        np.zeros(4, np.float32),
        [0.0] * 4,
    ],
)
def test_a_malformed_update_is_refused(bad: Any) -> None:
    history = [{"a": np.ones(4), "b": bad}]
    with pytest.raises(DataRefused, match=r"history\[0\] update of b"):
        twin_groups(history)


def test_matrices_of_any_type_and_unit_give_the_same_evidence() -> None:
    history = honest_history()
    largest = max(float(np.abs(update).max()) for sent in history for update in sent.values())
    rounded = [{who: np.rint(update / largest * 32767) for who, update in sent.items()} for sent in history]
    reference = twin_evidence(rounded)
    for kind in (np.int16, np.int32, np.float32, np.float64):
        rows: Any = [np.array(list(sent.values())).astype(kind) for sent in rounded]
        sent = [SentUpdates(tuple(one), part) for one, part in zip(rounded, rows, strict=True)]
        found = twin_evidence(sent)
        assert found.players == reference.players
        assert found.correlation.tobytes() == reference.correlation.tobytes()
        assert twin_groups(sent) == (frozenset({3, 11}),)


def test_the_errors_are_those_of_leaving_out_each_round() -> None:
    history = honest_history()
    del history[2][3], history[5][11]
    found = twin_evidence(history)
    left_out = [twin_evidence([*history[:i], *history[i + 1 :]], minimum_rounds=3) for i in range(8)]
    kept = [[one.players.index(who) for who in found.players] for one in left_out]
    replicates = np.array(
        [one.correlation[np.ix_(rows, rows)] for one, rows in zip(left_out, kept, strict=True)]
    )
    spread = np.sum((replicates - replicates.mean(axis=0)) ** 2, axis=0)
    np.testing.assert_allclose(found.standard_error, np.sqrt(spread * 7 / 8), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("players", "updates", "field"),
    [
        (("a",), np.zeros((2, 3)), "players"),
        (("a", "a"), np.zeros((2, 3)), "players"),
        (("a", "b"), np.zeros(2), "updates"),
        (("a", "b"), np.zeros((2, 3), np.int64), "updates"),
        (("a", "b"), [[0.0], [0.0]], "updates"),
        (("a", "b"), np.full((2, 3), np.nan), "updates"),
        (("a", "b"), np.full((2, 3), -np.inf, np.float32), "updates"),
        (("a", "b"), np.full((2, 3), 1e101), "updates"),
    ],
)
def test_a_malformed_matrix_is_refused(players: Any, updates: Any, field: str) -> None:
    with pytest.raises(DataRefused, match=field):
        SentUpdates(players, updates)


def test_rounds_of_different_widths_are_refused() -> None:
    history = [SentUpdates(("a", "b"), np.ones((2, width), np.int16)) for width in (3, 3, 4)]
    with pytest.raises(DataRefused, match=r"3 numbers.*|history\[2\]"):
        twin_evidence(history)


def test_thresholds_out_of_range_are_refused() -> None:
    for name, value in (
        ("correlation", 1.5),
        ("standard_error", 2.0),
        ("shortfall", -1.0),
        ("distinct", 2.0),
        ("outlier", 0.0),
    ):
        with pytest.raises(ConfigRefused, match=name):
            twin_groups([], **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigRefused, match="minimum_rounds"):
        twin_groups([], minimum_rounds=2)


def test_too_many_names_are_refused() -> None:
    with pytest.raises(DataRefused, match="at most 2000"):
        twin_groups([dict.fromkeys(range(2001), np.zeros(1))])
