"""What each behaviour sends, alone and in concert: against hand-computed numbers and the law it promises."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from behaviour_cases import HONEST, chance, view
from galaxylearning.learning.vectors import F32
from galaxylearning.simulation.behaviours import (
    Absent,
    Alie,
    Behaviour,
    Honest,
    InnerProduct,
    LastStep,
    Malformed,
    Mimic,
    MinMax,
    MinSum,
    Noise,
    Scaled,
    SignFlip,
    Zero,
    behaviour_names,
    parse_behaviour,
)
from galaxylearning.simulation.behaviours_attack import largest_distance, largest_z

# ---- everybody for himself


def test_simple_behaviours_by_hand() -> None:
    seen = view([[1.0, -2.0], [0.5, 0.0]], last=[0.25, -4.0])
    assert Honest().update(seen, rng=chance()).tolist() == [[1.0, -2.0], [0.5, 0.0]]
    assert SignFlip().update(seen, rng=chance()).tolist() == [[-1.0, 2.0], [-0.5, 0.0]]
    assert Scaled(-3.0).update(seen, rng=chance()).tolist() == [[-3.0, 6.0], [-1.5, 0.0]]
    assert Zero().update(seen, rng=chance()).tolist() == [[0.0, 0.0]] * 2
    assert LastStep(2.0).update(seen, rng=chance()).tolist() == [[0.5, -8.0]] * 2
    assert np.isnan(Malformed().update(seen, rng=chance())).all()
    assert np.isposinf(Malformed("inf").update(seen, rng=chance())).all()
    mixed = Malformed("alternate").update(seen, rng=chance())
    assert np.isnan(mixed[:, 0]).all()
    assert np.isposinf(mixed[:, 1]).all()


def test_the_last_step_does_not_exist_in_the_first_round() -> None:
    assert LastStep(noise=1.0).update(view([[1.0, 1.0]]), rng=chance()).tolist() == [[0.0, 0.0]]


def test_a_scaled_update_too_large_for_the_wire_is_infinite_and_warns_nobody() -> None:
    assert np.isposinf(Scaled(1e12).update(view([[1e30, 1e30]]), rng=chance())).all()


def test_noise_has_the_norm_it_promises_and_differs_between_data_owners() -> None:
    seen = view(np.zeros((200, 400)).tolist(), clip=3.0)
    sent = Noise(0.5).update(seen, rng=chance(1))
    norms = np.linalg.norm(sent.astype(np.float64), axis=1)
    assert np.sqrt(np.mean(norms**2)) == pytest.approx(1.5, rel=0.02)
    assert len(np.unique(sent[:, 0])) == 200


def test_a_disguised_replay_is_the_step_plus_noise_of_the_stated_size() -> None:
    step = chance(2).normal(size=500)
    seen = view(np.zeros((100, 500)).tolist(), last=step.tolist())
    extra = LastStep(noise=0.1).update(seen, rng=chance(3)) - step
    assert np.sqrt(np.mean(np.sum(extra**2, axis=1))) == pytest.approx(0.1 * np.linalg.norm(step), rel=0.03)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_absence_has_its_probability(probability: float) -> None:
    away = Absent(probability).absent(5, np.arange(4000, dtype=np.int64), rng=chance(4))
    assert away.mean() == pytest.approx(probability, abs=0.03)
    assert not Honest().absent(5, np.arange(10, dtype=np.int64), rng=chance()).any()


def test_who_does_not_train_says_so() -> None:
    names = [name for name in behaviour_names() if not parse_behaviour(name).trains]
    assert names == [
        "absent",
        "zero",
        "noise",
        "last-step",
        "alie",
        "ipm",
        "min-max",
        "min-sum",
        "mimic",
        "nan",
    ]
    assert parse_behaviour("alie:knowledge=own").trains
    assert parse_behaviour("absent:0.5").trains


# ---- in concert


def test_alie_by_hand() -> None:
    """Mean (2, 3), population deviations sqrt(2/3) and sqrt(2)."""
    sent = Alie(1.5).update(view([[0.0, 0.0]] * 2, HONEST), rng=chance())
    wanted = [2 - 1.5 * (2 / 3) ** 0.5, 3 - 1.5 * 2**0.5]
    np.testing.assert_allclose(sent, [wanted] * 2, rtol=1e-6)


def test_alie_goes_as_far_as_the_counts_allow() -> None:
    """The paper's example: 50 workers of whom 24 are corrupted need 2 more, so z is the 92.3 % quantile."""
    assert largest_z(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert largest_z(50, 24) == pytest.approx(1.426, abs=1e-3)
    assert largest_z(10, 1) == 0.0, "one among ten has to stay on the mean"
    assert largest_z(10, 8) == 0.0
    assert 0 < largest_z(100, 90) < 2


@pytest.mark.parametrize("seed", range(5))
def test_alie_stays_within_z_deviations(seed: int) -> None:
    honest = chance(seed).normal(size=(20, 30))
    saboteurs = 4 + 2 * seed
    sent = Alie().update(view(np.zeros((saboteurs, 30)).tolist(), honest.tolist()), rng=chance())
    gap = np.abs(sent - honest.mean(axis=0)) / honest.std(axis=0)
    np.testing.assert_allclose(gap, largest_z(20 + saboteurs, saboteurs), atol=1e-4)
    assert (sent == sent[0]).all()


def test_inner_product_manipulation_by_hand() -> None:
    sent = InnerProduct(0.5).update(view([[9.0, 9.0]], HONEST), rng=chance())
    np.testing.assert_allclose(sent, [[-1.0, -1.5]])
    mean = np.mean(HONEST, axis=0)
    assert float(sent[0] @ mean) < 0


def test_min_max_by_hand() -> None:
    """Honest 0 and 2 on a line: mean 1, way -1, furthest apart 2, so the update may lie at 0 (2 from 2)."""
    sent = MinMax().update(view([[5.0]], [[0.0], [2.0]]), rng=chance())
    np.testing.assert_allclose(sent, [[0.0]], atol=1e-7)


def test_min_sum_by_hand() -> None:
    """Honest 0 and 2: the most remote has sum 4; (1-g)^2 + (1+g)^2 = 4 gives g = 1."""
    sent = MinSum().update(view([[5.0]], [[0.0], [2.0]]), rng=chance())
    np.testing.assert_allclose(sent, [[0.0]], atol=1e-7)


def farthest(point: F32, honest: F32) -> float:
    return float(np.max(np.linalg.norm(honest.astype(np.float64) - point, axis=1)))


def remoteness(point: F32, honest: F32) -> float:
    return float(np.sum(np.linalg.norm(honest.astype(np.float64) - point, axis=1) ** 2))


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", range(4))
def test_min_max_and_min_sum_keep_their_bound_and_could_go_no_further(seed: int, direction: str) -> None:
    honest = (chance(seed).normal(size=(12, 40)) + 0.3).astype(np.float32)
    seen = view(np.zeros((3, 40)).tolist(), honest.tolist())
    mean = honest.astype(np.float64).mean(axis=0)
    pairs = np.linalg.norm(honest[:, None].astype(np.float64) - honest[None], axis=2)
    for name, measure, bound in (
        ("min-max", farthest, pairs.max()),
        ("min-sum", remoteness, (pairs**2).sum(axis=1).max()),
    ):
        sent = parse_behaviour(f"{name}:direction={direction}").update(seen, rng=chance())[0]
        beyond = mean + 1.001 * (sent - mean)
        assert measure(sent, honest) == pytest.approx(bound, rel=1e-5)
        assert measure(beyond, honest) > bound
        assert float(np.linalg.norm(sent - mean)) > 0.1


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("piece", [1, 32, 1 << 20])
def test_the_largest_distance_is_found_however_the_matrix_is_cut(
    monkeypatch: pytest.MonkeyPatch, piece: int, spread: float
) -> None:
    """``spread`` makes some updates much longer, so that the others are not all compared."""
    rng = chance(7)
    updates = (rng.normal(size=(60, 21)) * np.exp(spread * rng.normal(size=(60, 1)))).astype(np.float32)
    monkeypatch.setattr("galaxylearning.simulation.behaviours_attack.SLICE", piece)
    monkeypatch.setattr("galaxylearning.simulation.behaviours_base.SLICE", piece)
    pairs = np.linalg.norm(updates[:, None].astype(np.float64) - updates[None], axis=2)
    assert largest_distance(updates) == pytest.approx(pairs.max() ** 2, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_updates_have_distances_too(count: int) -> None:
    assert largest_distance(np.full((count, 3), 0.1, np.float32)) == pytest.approx(0, abs=1e-12)
    apart = np.arange(count, dtype=np.float32)[:, None]
    assert largest_distance(apart) == pytest.approx((count - 1) ** 2)


@pytest.mark.parametrize("kind", [Alie(2.0), MinMax(), MinSum(), MinMax(direction="unit")])
def test_equal_honest_updates_leave_nothing_but_to_send_them(kind: Behaviour) -> None:
    np.testing.assert_allclose(kind.update(view([[9.0, 9.0]], [[0.1, 0.7]] * 3), rng=chance()), [[0.1, 0.7]])


@pytest.mark.parametrize(
    "kind", [Alie(knowledge="own"), InnerProduct(knowledge="own"), MinMax(knowledge="own")]
)
def test_without_knowledge_of_the_others_the_own_updates_stand_in(kind: Behaviour) -> None:
    assert not kind.needs_honest
    assert kind.trains
    sent = kind.update(view(HONEST), rng=chance())
    knowing = parse_behaviour(kind.name).update(view([[0.0, 0.0]] * 3, HONEST, size=3), rng=chance())
    np.testing.assert_array_equal(sent, knowing)


def test_mimics_copy_always_the_same_honest_data_owner() -> None:
    seen = view([[0.0, 0.0]] * 2, HONEST, honest_owners=[4, 6, 9])
    assert Mimic(6).update(seen, rng=chance()).tolist() == [[3.0, 2.0]] * 2
    assert Mimic(7).update(seen, rng=chance()).tolist() == [[2.0, 5.0]] * 2, "the next that is there"
    assert Mimic(10).update(seen, rng=chance()).tolist() == [[1.0, 2.0]] * 2, "round the end"
    assert Mimic().update(view([[8.0, 8.0]], []), rng=chance()).tolist() == [[0.0, 0.0]], "nobody to copy"


@pytest.mark.parametrize("name", [*behaviour_names()])
def test_no_behaviour_changes_what_it_is_shown_and_all_give_one_float32_row_each(name: str) -> None:
    seen = view([[1.0, 2.0], [3.0, 4.0]], HONEST, last=[0.5, 0.5])
    before = replace(seen, own=seen.own.copy(), honest=None if seen.honest is None else seen.honest.copy())
    sent = parse_behaviour(name).update(seen, rng=chance())
    assert sent.shape == (2, 2)
    assert sent.dtype == np.float32
    np.testing.assert_array_equal(seen.own, before.own)
    assert seen.honest is not None
    assert before.honest is not None
    np.testing.assert_array_equal(seen.honest, before.honest)
