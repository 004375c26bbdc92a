"""A job as its requester writes it: exact prices, and what does not fit together is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import DataRefused, GalaxyError, JobRefused, UnsupportedModel
from galaxylearning.messages.plan import Masking, Plan
from galaxylearning.messages.terms import Column, Schema
from galaxylearning.protocol.hidden_set import MIN_TEST_ROWS, Rows
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job, smallest_units, terms_of
from galaxylearning.units import Address, Digest

TOKEN = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
REQUESTER = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
SEATS = [(Address(f"0x{n:040d}"), Digest(bytes([n]) * 32)) for n in (3, 1, 2)]
SCHEMA = Schema((Column("x", "number"), Column("z", "number")), Column("y", "category", classes=("a", "b")))
PLAN = Plan(rounds=2, steps=2, batch_size=8)
ETHER = 10**18


def rows(n: int = 96, *, width: int = 2, classes: int = 2) -> Rows:
    rng = np.random.default_rng(0)
    return Rows(rng.normal(size=(n, width)).astype(np.float32), np.arange(n, dtype=np.int64) % classes)


def make_job(**changes: Any) -> Job:
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "title": "Two clouds",
        "model": nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)),
        "loss": "cross_entropy",
        "schema": SCHEMA,
        "plan": PLAN,
        "price": Price(bounty="100", target_gain=0.5),
        "test_data": "test.csv",
        "seed": 5,
        "privacy": "sealed",
    }
    return Job(**(fields | changes))


# ---- types


def test_an_amount_too_large_is_told_with_the_limit() -> None:
    assert smallest_units(10**30, 18, "x") == 10**48
    with pytest.raises(JobRefused, match=r"allowed: a number from 0 to 10\^30 with at most 18 decimals"):
        smallest_units("9" * 40, 18, "price.bounty")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("title", 5, "title: 5 given; allowed: text"),
        ("model", "resnet", r"model: 'resnet' given; allowed: a torch\.nn\.Module"),
        ("model", nn.Linear, r"model: type given; allowed: a torch\.nn\.Module"),
        ("loss", None, "loss: None given; allowed: text"),
        ("schema", None, r"schema: None given; allowed: a galaxylearning\.Schema"),
        ("plan", {"rounds": 1}, r"plan: dict given; allowed: a galaxylearning\.Plan"),
        ("price", {"bounty": "1"}, r"price: dict given; allowed: a galaxylearning\.Price"),
        ("test_data", 5, "test_data: 5 given; allowed: the path of a data file"),
        ("privacy", None, "privacy: None given; allowed: 'sealed', 'masked'"),
        ("windows", 60, r"windows: 60 given; allowed: a galaxylearning\.Windows"),
        ("federate", "mean", "federate: 'mean' given; allowed: a mapping"),
        ("seed", -1, r"seed: -1 given; allowed: a whole number from 0 to 2\^63-1"),
        ("seed", 1 << 63, "seed: 9223372036854775808 given"),
        ("seed", "a", "seed: 'a' given"),
        ("seed", True, "seed: True given"),
    ],
)
def test_a_field_of_another_type_is_named_with_what_is_allowed(field: str, value: Any, said: str) -> None:
    with pytest.raises(JobRefused, match=f"^{said}"):
        make_job(**{field: value})


def test_a_target_gain_that_is_no_number_is_refused() -> None:
    with pytest.raises(JobRefused, match=r"^price\.target_gain: '0\.4' given; allowed: a number"):
        Price(bounty="1", target_gain="0.4")  # type: ignore[arg-type]


# ---- money


@pytest.mark.parametrize(
    ("amount", "decimals", "units"),
    [
        ("1000", 18, 1000 * ETHER),
        ("0.5", 18, ETHER // 2),
        ("0.000000000000000001", 18, 1),
        ("1e3", 6, 10**9),
        (" 7 ", 0, 7),
        (3, 2, 300),
        (0, 18, 0),
        ("0", 18, 0),
        ("-0", 18, 0),
        (Decimal("0.1"), 18, ETHER // 10),
        ("1" + "0" * 30, 18, 10**48),
        ("123456789012345678901234567890." + "123456789" * 2, 18, int("1234567890" * 3 + "123456789" * 2)),
    ],
)
def test_amounts_become_smallest_units_exactly(
    amount: str | int | Decimal, decimals: int, units: int
) -> None:
    assert smallest_units(amount, decimals, "price.bounty") == units


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "ten",
        "1,000",
        "0x10",
        "-1",
        "-0.5",
        "0.0000000000000000001",
        "1e-19",
        "nan",
        "sNaN",
        "inf",
        "-inf",
        "1e31",
        "1e999999999",
        "1e-999999999",
        "1." + "0" * 150 + "1",
        "0." + "3" * 10_000,
        "9" * 10_000,
        0.1,
        1.0,
        True,
        None,
        [1],
        Decimal("0.0000000000000000001"),
    ],
)
def test_amounts_that_are_not_exact_are_refused_and_name_the_field(amount: Any) -> None:
    with pytest.raises(JobRefused, match=r"^price\.bond: ") as caught:
        smallest_units(amount, 18, "price.bond")
    assert len(str(caught.value)) < 250


def test_a_price_is_stated_in_smallest_units_and_floats_never_become_money() -> None:
    price = Price(bounty="1000", target_gain=0.25, fee_per_seat="0.5", bond=2).in_units(TOKEN, 18)
    assert (price.bounty, price.fee_per_seat, price.bond) == (
        str(1000 * ETHER),
        str(ETHER // 2),
        str(2 * ETHER),
    )
    assert (price.seat_stake, price.participation_fee) == (str(50 * ETHER), "0")
    assert (price.token, price.target_gain) == (TOKEN, 0.25)
    for name in ("bounty", "fee_per_seat", "participation_fee", "bond", "seat_stake"):
        with pytest.raises(JobRefused, match=rf"price\.{name}: 0\.5 given; allowed: .* as text"):
            Price(**{"bounty": "1", "target_gain": 1.0} | {name: 0.5}).in_units(TOKEN, 18)  # type: ignore[arg-type]
    with pytest.raises(JobRefused, match=r"price\.bounty"):
        Price(bounty="0", target_gain=1.0).in_units(TOKEN, 18)
    with pytest.raises(JobRefused, match=r"price\.target_gain"):
        Price(bounty="1", target_gain=0.0).in_units(TOKEN, 18)


# ---- compiling


@pytest.fixture(scope="module")
def compiled() -> CompiledJob:
    return compile_job(make_job(), rows())


def test_a_job_compiles_to_a_graph_that_is_the_model(compiled: CompiledJob) -> None:
    module, test = make_job().model, rows()
    found = compiled.model.predict(*compiled.model.initial(), (test.inputs,))
    with torch.no_grad():
        np.testing.assert_array_equal(found, module(torch.from_numpy(test.inputs)).numpy())
    assert compiled.cost.parameters == sum(p.numel() for p in module.parameters())
    assert compiled.model_bytes == compile_job(make_job(), rows()).model_bytes


def test_the_terms_of_a_job_name_everything_by_digest(compiled: CompiledJob) -> None:
    facts: dict[str, Any] = {
        "requester": REQUESTER,
        "requester_key": Digest(bytes([7]) * 32),
        "evaluators": SEATS,
        "token": TOKEN,
        "decimals": 18,
        "model_blob": Digest(bytes([8]) * 32),
        "test_blob": Digest(bytes([9]) * 32),
        "test_digest": Digest(bytes([10]) * 32),
    }
    terms = terms_of(compiled, **facts)
    assert [seat.address for seat in terms.evaluators] == [address for address, _ in sorted(SEATS)]
    assert terms.evaluators[0].sealing_key_digest == "01" * 32
    assert terms.model_digest == blake3_digest(compiled.model_bytes).hex()
    assert (terms.model, terms.test_set, terms.test_rows, terms.seed) == ("08" * 32, "09" * 32, 96, 5)
    assert terms.graph == compiled.graph.digest.hex()
    assert terms.price.bounty == str(100 * ETHER)
    assert terms.digest == terms_of(compiled, **facts | {"evaluators": SEATS[::-1]}).digest
    for evaluators in ([], [SEATS[0], SEATS[0]], [(Address("0x1"), SEATS[0][1])]):
        with pytest.raises(JobRefused, match="evaluators"):
            terms_of(compiled, **facts | {"evaluators": evaluators})


class Branching(nn.Module):
    """What a graph cannot express: a path that depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool((x.sum() > 0).item()) else -x


NUMBER = Schema((Column("x", "number"), Column("z", "number")), Column("y", "number"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "cross_entropy"},
            "loss: 'cross_entropy' given; the label 'y' is a number; allowed: 'mse'",
        ),
        (
            {"model": nn.Linear(2, 3)},
            r"model: .* outputs of shape \[3\]; the label 'y' is one number",
        ),
        (
            {"model": nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))},
            r"of shape \[\]; .* shape \[1\]",
        ),
    ],
)
def test_a_label_that_is_a_number_has_one_output_and_a_loss_of_numbers(
    changes: dict[str, Any], message: str
) -> None:
    plain = rows()
    numbers = Rows(plain.inputs, plain.labels.astype(np.float32)[:, None])
    fitting: dict[str, Any] = {"loss": "mse", "schema": NUMBER, "model": nn.Linear(2, 1)}
    assert compile_job(make_job(**fitting), numbers).model.parameter_count == 3
    with pytest.raises(JobRefused, match=message):
        compile_job(make_job(**fitting | changes), numbers)


@pytest.mark.parametrize(
    ("changes", "test", "error", "message"),
    [
        ({"privacy": "blind"}, rows(), JobRefused, "privacy: 'blind' given; allowed: 'sealed', 'masked'"),
        ({"privacy": "masked"}, rows(), JobRefused, "privacy: 'masked' given; a model of 17 parameters"),
        ({"masking": Masking(threshold=1)}, rows(), JobRefused, "masking: given; allowed only with"),
        ({}, rows(MIN_TEST_ROWS - 1), JobRefused, f"test_data: {MIN_TEST_ROWS - 1} rows"),
        ({"loss": "hinge"}, rows(), GalaxyError, "loss"),
        ({"model": Branching()}, rows(), UnsupportedModel, "item|data-dependent|export"),
        ({}, rows(width=3), UnsupportedModel, "input has 3 features, weight takes 2"),
        ({}, rows(classes=3), DataRefused, "class numbers"),
        ({"loss": "mse"}, rows(), JobRefused, r"shape \[2\]; the label 'y' is one number with loss 'mse'"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    changes: dict[str, Any], test: Rows, error: type[GalaxyError], message: str
) -> None:
    with pytest.raises(error, match=message):
        compile_job(make_job(**changes), test)


def test_a_model_whose_loss_is_not_finite_before_training_is_refused() -> None:
    job = make_job()
    with torch.no_grad():
        next(iter(job.model.parameters())).mul_(torch.inf)
    with pytest.raises(GalaxyError, match="finite"):
        compile_job(job, rows())
    assert compile_job(make_job(), rows(MIN_TEST_ROWS)).test is not None
