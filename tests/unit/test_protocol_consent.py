"""What a data owner's policy lets pass: nothing by default, and each limit with its reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from galaxylearning.errors import ConfigRefused
from galaxylearning.graph import Cost
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Admission, Column, EvaluatorSeat, Price, Schema, Terms, Windows
from galaxylearning.protocol.consent import (
    MAX_POLICY_BYTES,
    OwnerPolicy,
    policy_from_json,
    refusal,
    refusal_of_model,
)
from galaxylearning.protocol.matching import DatasetColumn, match_schema

REQUESTER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
STRANGER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
HEX = "ab" * 32
TERMS = Terms(
    title="Biopsies",
    description="",
    requester=REQUESTER,
    requester_key=HEX,
    evaluators=(EvaluatorSeat(f"0x{1:040d}", HEX, HEX),),
    schema=Schema((Column("radius", "number"),), Column("y", "category", classes=("a", "b"))),
    plan=Plan(rounds=10, epochs=1),
    price=Price(token=STRANGER, bounty="1000", fee_per_seat="1", target_gain=0.5),
    admission=Admission(),
    windows=Windows(1, 1, 1, 1, 1, 1, 1),
    graph=HEX,
    loss="cross_entropy",
    model=HEX,
    model_digest=HEX,
    test_set=HEX,
    test_set_digest=HEX,
    test_rows=100,
    seed=1,
)
COST = Cost(parameters=10, state_bytes=40, activation_bytes=100, largest_tensor_bytes=40, flops_forward=500)
COLUMNS = (DatasetColumn("radius", "number"), DatasetColumn("y", "category", classes=("a", "b")))
MATCH = match_schema(TERMS.schema, COLUMNS)
OPEN: dict[str, Any] = {"requesters": (REQUESTER,), "datasets": ("biopsies",)}


def decide(
    *,
    terms: Terms = TERMS,
    cost: Cost = COST,
    buffers: int = 0,
    n_rows: int = 200,
    columns: Any = COLUMNS,
    privacy: str | None = None,
    **policy: Any,
) -> str | None:
    allowed = OwnerPolicy(**policy)
    return refusal(
        allowed,
        terms,
        terms.digest,
        dataset="biopsies",
        n_rows=n_rows,
        report=match_schema(terms.schema, columns),
        privacy=privacy,
    ) or refusal_of_model(allowed, terms.digest, cost, buffers)


def test_the_default_policy_refuses_everything() -> None:
    assert decide() == "the policy does not name this requester, and the job was not accepted by hand"
    assert decide(requesters=("*",)) == "the policy does not offer this data set"
    assert decide(datasets=("*",)) is not None


def test_a_policy_that_names_requester_and_data_set_lets_them_pass() -> None:
    assert decide(**OPEN) is None
    assert decide(requesters=("*",), datasets=("*",)) is None
    assert decide(**OPEN | {"requesters": (STRANGER, REQUESTER)}) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"requesters": (STRANGER,)}, "does not name this requester"),
        ({"datasets": ("others",)}, "does not offer this data set"),
        ({"modes": ()}, "does not allow privacy mode 'sealed'"),
        ({"modes": ("masked",)}, "does not allow privacy mode 'sealed'"),
        ({"minimum_bounty": "1001"}, "the bounty is below the policy's 1001"),
        ({"maximum_rounds": 9}, "10 rounds; the policy allows 9"),
        ({"maximum_state_bytes": 39}, "state would take 40 bytes; the policy allows 39"),
        ({"maximum_activation_bytes": 99}, "activations would take 100 bytes; the policy allows 99"),
        ({"maximum_flops": 499}, "a forward pass would take 500 FLOPs; the policy allows 499"),
    ],
)
def test_each_limit_refuses_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    found = decide(**OPEN | changes)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    "exact",
    [
        {"minimum_bounty": "1000"},
        {"maximum_rounds": 10},
        {"maximum_state_bytes": 40},
        {"maximum_activation_bytes": 100},
        {"maximum_flops": 500},
    ],
)
def test_a_limit_that_is_just_met_lets_pass(exact: dict[str, Any]) -> None:
    assert decide(**OPEN | exact) is None


def test_accepting_by_hand_overrules_the_policy_but_not_the_limits_on_cost_or_the_data() -> None:
    by_hand: dict[str, Any] = {"accepted": (TERMS.digest.hex(),)}
    assert decide(**by_hand) is None
    assert decide(**by_hand, minimum_bounty="10000", maximum_rounds=0, modes=()) is None
    assert decide(accepted=("00" * 32,)) is not None
    assert "state would take" in str(decide(**by_hand, maximum_state_bytes=1))
    assert "does not match" in str(decide(**by_hand, columns=COLUMNS[1:]))
    assert decide(**by_hand, privacy="too much epsilon") == "too much epsilon"


@pytest.mark.parametrize("bounds", [{"minimum": 0.0}, {"maximum": 1e9}])
@pytest.mark.parametrize("part", ["features", "label"])
def test_bounds_in_a_schema_need_a_hand(bounds: dict[str, Any], part: str) -> None:
    bounded = Column("radius", "number", **bounds)
    schema = Schema((bounded,), TERMS.schema.label)
    if part == "label":
        schema = Schema((Column("x", "number"),), bounded)
    terms = msgspec.structs.replace(TERMS, schema=schema, loss="mse" if part == "label" else TERMS.loss)
    columns = (*COLUMNS, DatasetColumn("x", "number"))
    assert decide(**OPEN, terms=terms, columns=columns) == (
        "radius has bounds in the schema; enrolling by itself would tell of its values"
    )
    assert decide(terms=terms, columns=columns, accepted=(terms.digest.hex(),)) is None


def test_federated_buffers_need_a_policy_that_says_so_or_a_hand() -> None:
    assert decide(**OPEN, buffers=3) == (
        "3 federated buffers would leave unclipped; the policy does not allow buffers"
    )
    assert decide(**OPEN, buffers=3, allows_buffers=True) is None
    assert decide(accepted=(TERMS.digest.hex(),), buffers=3) is None


def test_rows_that_would_not_fit_into_memory_are_refused_by_hand_or_not() -> None:
    """A number is 4 bytes, a label of classes 8; the cap is of a mebibyte at least."""
    fits = (1 << 20) // 12
    least: dict[str, Any] = {"maximum_memory_bytes": 1 << 20}
    assert decide(**OPEN, **least, n_rows=fits) is None
    for policy in (OPEN, {"accepted": (TERMS.digest.hex(),)}):
        assert decide(**policy, **least, n_rows=fits + 1) == (
            "its rows would take 1048584 bytes in this schema; maximum_memory_bytes allows 1048576"
        )


def test_data_that_do_not_match_are_reported_column_by_column() -> None:
    found = decide(**OPEN, columns=(DatasetColumn("y", "category", classes=("a", "c")),))
    assert found is not None
    assert found.startswith("the data set does not match the schema: radius: the column is missing; y: ")
    assert MATCH.is_match


def test_a_policy_file_is_read_whole_or_refused() -> None:
    policy = policy_from_json(json.dumps({"requesters": [REQUESTER], "maximum_rounds": 3}).encode())
    assert policy == OwnerPolicy(requesters=(REQUESTER,), maximum_rounds=3)
    assert policy_from_json(b"{}") == OwnerPolicy()
    limited = policy_from_json(b'{"max_epsilon": 3, "delta": 1e-5}')
    assert (limited.max_epsilon, limited.delta) == (3.0, 1e-5)
    assert policy_from_json(b'{"max_epsilon": null}').max_epsilon is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"requester": []}',
        b'{"requesters": "*"}',
        b'{"requesters": [1]}',
        b'{"maximum_rounds": "3"}',
        b'{"maximum_rounds": -1}',
        b'{"maximum_flops": 1.5}',
        b'{"minimum_bounty": 5}',
        b'{"minimum_bounty": "-5"}',
        b'{"minimum_bounty": "1e3"}',
        b'{"max_epsilon": 0}',
        b'{"max_epsilon": -1}',
        b'{"max_epsilon": "1"}',
        b'{"max_epsilon": 1e7}',
        b'{"max_epsilon": NaN}',
        b'{"delta": 0}',
        b'{"delta": 0.02}',
        b'{"delta": null}',
        b'{"requesters": ["\xff"]}',
        b"[" * 50_000,
        b" " * (MAX_POLICY_BYTES + 1),
    ],
)
def test_a_malformed_policy_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigRefused):
        policy_from_json(data)


@pytest.mark.parametrize("amount", ["²", "٣", ""])
def test_an_amount_in_other_digits_is_read_or_refused_and_never_crashes(amount: str) -> None:
    try:
        policy = OwnerPolicy(**OPEN, minimum_bounty=amount)
    except ConfigRefused:
        return
    assert int(policy.minimum_bounty) == 3
