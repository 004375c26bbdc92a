"""What noise means in figures: room among the integers, releases, budgets; and plans that cannot keep it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.errors import ConfigRefused, GraphRefused, JobRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning.accounting import Release, epsilon
from galaxylearning.learning.private import noisy_integers
from galaxylearning.messages.plan import Noise, Plan
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.privacy import (
    Spending,
    check_protectable,
    example_noise,
    job_epsilon,
    models_release,
    over_budget,
    release_of,
    share_variance,
    spent_epsilon,
    unprotected_rounds,
    update_range,
)
from galaxylearning.protocol.updates import quantizer, train_for_owner, train_update
from plain_rounds import make_terms

LOCAL = Noise("local", 1.2, example_clip=0.5)
CENTRAL = Noise("central", 2.0)


def plan(noise: Noise | None = LOCAL, **changes: Any) -> Plan:
    values: dict[str, Any] = {"rounds": 10, "steps": 20, "batch_size": 16, "clip_norm": 1.5, "noise": noise}
    return Plan(**(values | changes))


def test_local_noise_leaves_the_integers_as_they_are() -> None:
    assert update_range(plan(), None) == update_range(plan(None), 9) == 1.5
    assert quantizer(plan()) == quantizer(plan(None))
    assert example_noise(LOCAL).multiplier == 1.2
    assert release_of(plan(), 320) == Release(1.2, 20, 16, 320)
    assert release_of(plan(steps=None, epochs=2), 320) == Release(1.2, 40, 16, 320)
    assert models_release(plan()) is None


def test_central_noise_makes_room_and_is_shared() -> None:
    given = plan(CENTRAL, minimum_owners=16, gate=False)
    # Each of 16 shares is 2 / sqrt(16) = half the clipped norm; sqrt(900) + 10 of them fit beside it.
    assert update_range(given, 900) == pytest.approx(1.5 * 21)
    norm = quantizer(given, 900).scale * 1.5
    assert norm == pytest.approx(32767 / 21)
    assert share_variance(given, 900) == math.ceil((norm / 2) ** 2)
    with pytest.raises(ValueError, match="needs to know the number of parameters"):
        quantizer(given)
    # Exchanging an owner's rows moves its update by up to twice the norm.
    assert release_of(given, 5) == Release(2.0 / (2 * 4))
    assert models_release(given) == Release(1.0)
    assert models_release(plan(CENTRAL, minimum_owners=16)) is None


def test_without_noise_nothing_bounds_what_is_told() -> None:
    assert release_of(plan(None), 10) is None
    assert job_epsilon(plan(None), 10) == math.inf
    with pytest.raises(ValueError, match="only central"):
        share_variance(plan(), 9)
    with pytest.raises(ValueError, match="clips no examples"):
        example_noise(CENTRAL)


def test_a_job_costs_what_its_rounds_release() -> None:
    assert job_epsilon(plan(), 320) == epsilon([(Release(1.2, 20, 16, 320), 10)], 1e-5)
    assert job_epsilon(plan(), 3_200) < job_epsilon(plan(), 320)


@pytest.mark.parametrize(
    ("noise", "changes"),
    [
        (Noise("central", 0.05), {"bits": 8}),
        (Noise("central", 100.0), {"bits": 8}),
        (Noise("central", 1000.0), {"bits": 16, "minimum_owners": 1}),
        (Noise("central", 0.05), {"bits": 8, "minimum_owners": 100}),
    ],
)
def test_bits_without_room_for_the_noise_are_refused(noise: Noise, changes: dict[str, Any]) -> None:
    for use in (update_range, quantizer, share_variance):
        with pytest.raises(ConfigRefused, match=r"plan\.bits: \d+ bits leave a clipped norm of"):
            use(plan(noise, **changes), 100)


def test_more_steps_than_a_round_may_have_are_refused_and_named() -> None:
    with pytest.raises(JobRefused, match=r"plan\.epochs: steps must be from 1 to 1000000, not 10000000"):
        release_of(plan(steps=None, epochs=10_000, batch_size=1), 1_000)


# ---- budgets


def budget(limit: float, *spendings: Spending, noise: Noise | None = LOCAL) -> str | None:
    return over_budget(plan(noise), 320, spendings, job="chain/jobs/9", max_epsilon=limit, delta=1e-5)


def test_a_job_within_what_is_left_passes_and_one_beyond_is_refused_with_figures() -> None:
    cost = job_epsilon(plan(), 320)
    release = release_of(plan(), 320)
    assert budget(cost) is None
    assert f"{cost:.3g}" in str(budget(cost * 0.999))
    before = Spending("chain/jobs/8", "0xa", release, reserved=10, rounds=10, is_open=False)
    both = spent_epsilon([before, before], 1e-5)
    assert cost < both < 2 * cost
    assert budget(both, before) is None
    told = str(budget(both * 0.999, before))
    assert told == (
        f"epsilon would reach {both:.3g} at delta 1e-05: {cost:.3g} is spent or reserved, the job's "
        f"10 rounds alone are {cost:.3g}; the policy allows {both * 0.999:g} in all"
    )


def test_what_is_reserved_counts_until_the_job_is_over() -> None:
    release, cost = release_of(plan(), 320), job_epsilon(plan(), 320)
    going = Spending("chain/jobs/8", "0xa", release, reserved=10, rounds=1, is_open=True)
    over = Spending("chain/jobs/8", "0xa", release, reserved=10, rounds=1, is_open=False)
    assert (going.charged, over.charged) == (10, 1)
    assert budget(1.2 * cost, going) is not None
    assert budget(1.2 * cost, over) is None


def test_what_a_job_has_reserved_itself_is_not_counted_twice() -> None:
    mine = Spending("chain/jobs/9", "0xa", release_of(plan(), 320), reserved=10, rounds=3, is_open=True)
    assert budget(job_epsilon(plan(), 320), mine) is None


def test_a_limit_refuses_jobs_without_noise() -> None:
    assert budget(1e6, noise=None) == (
        "the plan adds no noise: no epsilon bounds what it tells; 1e+06 in all is allowed"
    )


def test_rounds_without_noise_are_counted_apart() -> None:
    bare = Spending("chain/jobs/3", "0xa", None, reserved=5, rounds=4, is_open=False)
    assert unprotected_rounds([bare]) == 4
    assert spent_epsilon([bare], 1e-5) == 0.0
    assert budget(job_epsilon(plan(), 320), bare) is None


# ---- updates


def rows_of(count: int) -> Rows:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, count)
    return Rows((rng.normal(0, 1, (count, 2)) + labels[:, None]).astype(np.float32), labels.astype(np.int64))


def small_model(*layers: nn.Module) -> FlatModel:
    torch.manual_seed(0)
    graph, weights = compile_model(nn.Sequential(*layers), (torch.zeros(3, 2),), loss="cross_entropy")
    return FlatModel(graph, weights)


def owner_update(noise: Noise | None, seed: int, **changes: Any) -> Any:
    model = small_model(nn.Linear(2, 2))
    terms, rng = make_terms(plan(noise, **changes)), np.random.default_rng(1)
    return train_for_owner(
        model, terms, model.initial(), rows_of(40), rng=rng, entropy=seeded_entropy(seed)
    ), train_update(model, terms, model.initial(), rows_of(40), rng=np.random.default_rng(1))


def test_an_update_without_noise_is_the_plain_one() -> None:
    found, plain = owner_update(None, 1)
    assert (found[0] == plain[0]).all()


@pytest.mark.parametrize("noise", [LOCAL, CENTRAL])
def test_noise_is_the_owners_own_and_stays_within_the_bits(noise: Noise) -> None:
    one, plain = owner_update(noise, 1, minimum_owners=9)
    other, _ = owner_update(noise, 2, minimum_owners=9)
    again, _ = owner_update(noise, 1, minimum_owners=9)
    assert (one[0] == again[0]).all()
    assert (one[0] != other[0]).any()
    assert (one[0] != plain[0]).any()
    assert np.abs(one[0]).max() <= 32767
    assert one[1].size == 0


def test_a_noisy_update_fits_the_norm_that_masked_ones_may_have() -> None:
    given = plan(CENTRAL, minimum_owners=4, bits=20)
    for parameters in (6, 700, 5_000):
        scale, variance = quantizer(given, parameters), share_variance(given, parameters)
        full = np.full(parameters, 9.0, np.float32)
        found = noisy_integers(full, scale, given.clip_norm, variance, entropy=seeded_entropy(parameters))
        assert 0.1 * scale.levels < math.sqrt(int((found.astype(np.int64) ** 2).sum())) < scale.levels


def test_batch_statistics_are_refused_before_anything_is_trained() -> None:
    model = small_model(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(GraphRefused, match=r"plan\.noise: federated buffers .* GroupNorm"):
        check_protectable(model)
    check_protectable(small_model(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 2)))
    params, buffers = model.initial()
    rows = rows_of(3)
    with pytest.raises(GraphRefused, match="batch statistics mix the samples"):
        model.example_gradients(params, buffers, (rows.inputs,), rows.labels, rng=np.random.default_rng(0))
