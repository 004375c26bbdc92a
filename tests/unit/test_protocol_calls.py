"""Calls and events agree with the contracts' committed ABIs, name by name and type by type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode

import galaxylearning
from galaxylearning.errors import MessageRefused
from galaxylearning.messages import terms as t
from galaxylearning.messages import typed
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol import calls
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.evidence import Equivocation
from galaxylearning.protocol.settlement import payout_chunks, payout_tree
from galaxylearning.units import ZERO_DIGEST, Address, Digest

ABI_FOLDER = Path(galaxylearning.__file__).parent / "chain" / "abi"
A = [Address(f"0x{n:040d}") for n in range(1, 10)]
HEX = "ab" * 32
SIGNATURE = bytes(65)
LOGS_THAT_MOVE_NO_JOB = {"PaymentFailed", "EIP712DomainChanged"}


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


def abi(kind: str, contract: str) -> dict[str, dict[str, Any]]:
    entries = json.loads((ABI_FOLDER / f"{contract}.json").read_text())["abi"]
    return {entry["name"]: entry for entry in entries if entry["type"] == kind}


def type_of(item: dict[str, Any]) -> str:
    kind = str(item["type"])
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(type_of(part) for part in item["components"]) + ")" + kind.removeprefix("tuple")


TERMS = t.Terms(
    title="t",
    description="",
    requester=A[8],
    evaluators=(t.EvaluatorSeat(A[0], HEX, HEX), t.EvaluatorSeat(A[1], HEX, HEX)),
    schema=t.Schema((t.Column("x", "number"),), t.Column("y", "number")),
    plan=Plan(rounds=2, epochs=1, minimum_owners=3, maximum_owners=4),
    price=t.Price(A[7], "1000", "10", 0.5, bond="6", seat_stake="7"),
    admission=t.Admission(),
    windows=t.Windows(enrol_s=11, round_s=12, anchor_s=13, commit_s=14, reveal_s=15, settle_s=16, claim_s=17),
    graph=HEX,
    loss="mse",
    model=HEX,
    model_digest=HEX,
    test_set=HEX,
    test_set_digest=HEX,
    requester_key=HEX,
    test_rows=100,
    seed=1,
)
TREE = payout_tree(31337, A[6], 7, {account: n + 1 for n, account in enumerate(A)})
SIGNED = {A[1]: b"\2" * 65, A[0]: b"\1" * 65}
ENROLMENT = typed.Enrolment(7, d(1), A[0], d(2), d(3), ZERO_DIGEST)
UPDATE = typed.Update(7, 0, d(1), A[0], d(2), d(3))

JOBS_CALLS = [
    calls.post_job(TERMS),
    calls.post_job_with_permit(TERMS, 5, 27, d(1), d(2)),
    calls.take_seat(7),
    calls.deposit_bond(7, A[0]),
    calls.return_bond(7, A[0]),
    calls.forfeit_bond(Equivocation(UPDATE, SIGNATURE, d(4), b"")),
    calls.enrol_directly(ENROLMENT, SIGNATURE),
    calls.anchor_cohort(typed.CohortAnchor(7, d(1), 3, ZERO_DIGEST), SIGNED),
    calls.submit_update_directly(UPDATE),
    calls.anchor_round(typed.RoundAnchor(7, 0, d(1), 3, ZERO_DIGEST, d(2)), SIGNED),
    calls.stand_by(7),
    calls.commit_scores(7, d(1)),
    calls.reveal_scores(7, d(1), d(2)),
    calls.settle(typed.Settlement(7, d(1), 10, 2, d(2), 0), SIGNED),
    calls.pay(7, payout_chunks(TREE, 4)[0]),
    calls.claim(TREE, A[4]),
    calls.pay_fees(7),
    calls.refund(7),
    calls.cancel(7),
    calls.expire(7),
]
REGISTRY_CALLS = [
    calls.register_evaluator(d(1)),
    calls.deposit_stake(5),
    calls.deposit_stake_with_permit(5, 6, 27, d(1), d(2)),
    calls.request_withdrawal(5),
    calls.withdraw(),
    calls.register_dataset(typed.DatasetRegistration(A[0], d(1), d(2)), SIGNATURE),
    calls.revoke_dataset(typed.DatasetRevocation(A[0], d(1))),
]


@pytest.mark.parametrize(
    ("contract", "call"),
    [("GalaxyJobs", call) for call in JOBS_CALLS] + [("GalaxyRegistry", call) for call in REGISTRY_CALLS],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_arguments_fit_the_abi(contract: str, call: calls.FunctionCall) -> None:
    function, arguments = call
    inputs = abi("function", contract)[function]["inputs"]
    assert len(encode([type_of(item) for item in inputs], arguments)) >= 32 * len(inputs)


def test_every_function_that_changes_a_job_has_a_builder() -> None:
    writing = {
        name
        for name, entry in abi("function", "GalaxyJobs").items()
        if entry["stateMutability"] == "nonpayable"
    }
    assert {function for function, _ in JOBS_CALLS} == writing


def test_job_parameters_stand_in_the_structs_order() -> None:
    components = abi("function", "GalaxyJobs")["postJob"]["inputs"][0]["components"]
    values = dict(zip([part["name"] for part in components], calls.job_parameters(TERMS), strict=True))
    assert values == {
        "token": A[7],
        "termsDigest": TERMS.digest,
        "bounty": 1000,
        "feePerSeat": 10,
        "bondPerIdentity": 6,
        "seatStake": 7,
        "rounds": 2,
        "minOwners": 3,
        "maxOwners": 4,
        "enrolWindow": 11,
        "roundWindow": 12,
        "anchorWindow": 13,
        "commitWindow": 14,
        "revealWindow": 15,
        "settleWindow": 16,
        "claimWindow": 17,
        "evaluators": (A[0], A[1]),
    }
    assert calls.escrow(TERMS) == 1020


def test_signatures_are_joined_ascending_by_signer() -> None:
    assert calls.join_signatures(SIGNED) == b"\1" * 65 + b"\2" * 65
    assert calls.join_signatures({}) == b""


def test_only_a_payee_can_claim() -> None:
    assert calls.claim(TREE, A[0])[1][:4] == (7, 0, A[0], 1)
    with pytest.raises(ValueError, match="not paid"):
        calls.claim(TREE, Address(f"0x{77:040d}"))


def sample(item: dict[str, Any]) -> Any:
    kind = item["type"]
    if kind == "tuple":
        return {part["name"]: sample(part) for part in item["components"]}
    return {"address": A[0], "bytes32": d(1), "bytes": SIGNATURE}.get(kind, 3)


LOGS = sorted(set(abi("event", "GalaxyJobs")) - LOGS_THAT_MOVE_NO_JOB)


@pytest.mark.parametrize("name", LOGS)
def test_every_log_of_the_contract_becomes_an_event(name: str) -> None:
    inputs = abi("event", "GalaxyJobs")[name]["inputs"]
    arguments = {item["name"]: sample(item) for item in inputs}
    event = ev.event_from_log(name, arguments, at=5)
    assert event is not None
    assert (type(event).__name__, event.job_id, event.at) == (name, 3, 5)
    with pytest.raises(MessageRefused):
        ev.event_from_log(name, arguments | {"jobId": -1}, at=5)


@pytest.mark.parametrize("name", LOGS)
def test_a_log_with_malformed_arguments_is_refused(name: str) -> None:
    inputs = abi("event", "GalaxyJobs")[name]["inputs"]
    for arguments in ({"jobId": 7}, {item["name"]: "nonsense" for item in inputs} | {"jobId": 7}):
        with pytest.raises(MessageRefused):
            ev.event_from_log(name, arguments, at=5)


def test_logs_that_move_no_job_are_no_events() -> None:
    for name in (*LOGS_THAT_MOVE_NO_JOB, "Transfer"):
        assert ev.event_from_log(name, {"jobId": 7}, at=5) is None


def test_a_phase_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MessageRefused, match="0 to 6"):
        ev.event_from_log("JobAborted", {"jobId": 7, "from": 7}, at=5)
