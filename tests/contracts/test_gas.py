"""What every step costs, from receipts on anvil, against the committed figures and the promised limits.

To accept new figures: GALAXY_WRITE_GAS=1 pytest tests/contracts/test_gas.py, and commit contracts/gas.json.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from web3.logs import DISCARD

if TYPE_CHECKING:
    from tests.contracts.conftest import Deployment

SNAPSHOT = Path(__file__).resolve().parents[2] / "contracts/gas.json"
BOUNTY = 10**21
CHUNK = 64
PAYEES = 1000
ANCHOR_ROUND_LIMIT = 60_000
PAYEE_LIMIT = 30_000
CLAIM_LIMIT = 100_000
IN_ORDER, BY_HASH = "leaves by index", "leaves by hash"


@pytest.fixture(scope="module")
def measured(deployment: Deployment) -> dict[str, int]:
    """Gas of each step, the largest where a step is repeated; of jobs with 3 owners and with 1000."""
    gas: dict[str, int] = {}
    for owners, order in ((3, IN_ORDER), (PAYEES, IN_ORDER), (PAYEES, BY_HASH)):
        job_id, posted = deployment.post(owners=owners, rounds=2)
        steps = {"postJob": [posted], "takeSeat": deployment.take_seats(job_id)}
        steps[f"anchorCohort, {owners} owners"] = [deployment.anchor_cohort(job_id, owners=owners)]
        for turn in (1, 2):
            anchored = deployment.anchor_round(job_id, turn - 1, owners=owners)
            steps[f"anchorRound {turn} of 2, {owners} owners"] = [anchored]
        steps["commitScores"], steps["revealScores"] = deployment.commit_and_reveal(job_id)
        payouts = deployment.payouts(job_id, owners, total=BOUNTY)
        total = sum(amount for _, _, amount in payouts)
        tree = deployment.payout_tree(job_id, payouts, sort_leaves=order == BY_HASH)
        steps["settle"] = [deployment.settle(job_id, tree.root, total=total, payees=owners)]
        pay_fees = deployment.jobs.functions.payFees(job_id)
        steps["payFees, 3 seats"] = [deployment.send(pay_fees, deployment.requester)]
        refund = deployment.jobs.functions.refund(job_id)
        if total < BOUNTY:
            steps["refund"] = [deployment.send(refund, deployment.requester)]
        if owners == PAYEES:
            places = tree.tree_order()
            chunks = []
            for start in range(0, PAYEES - 1, CHUNK):
                proof = tree.multiproof(places[start : min(start + CHUNK, PAYEES - 1)])
                function = deployment.jobs.functions.pay(
                    job_id, [payouts[i] for i in proof.indices], list(proof.proof), list(proof.proof_flags)
                )
                receipt = deployment.send(function, deployment.requester)
                paid = deployment.jobs.events.Paid().process_receipt(receipt, DISCARD)
                assert len(paid) == len(proof.indices)
                chunks.append(receipt["gasUsed"])
            gas[f"pay, per payee, first chunk of 64, {order}"] = -(-chunks[0] // CHUNK)
            gas[f"pay, per payee, all 999 in chunks of 64, {order}"] = -(-sum(chunks) // (PAYEES - 1))
            last = places[-1]
            claim = deployment.jobs.functions.claim(job_id, *payouts[last], tree.proof(last))
            steps["claim, 1000 leaves"] = [deployment.send(claim, deployment.requester)]
        for name, receipts in steps.items():
            gas[name] = max([gas.get(name, 0)] + [receipt["gasUsed"] for receipt in receipts])
    gas["forfeitBond"] = deployment.forfeit_bond()["gasUsed"]
    return dict(sorted(gas.items()))


def test_gas_is_as_committed(measured: dict[str, int]) -> None:
    if os.environ.get("GALAXY_WRITE_GAS") == "1":
        SNAPSHOT.write_text(json.dumps(measured, indent=1) + "\n")
    assert measured == json.loads(SNAPSHOT.read_text())


def test_anchoring_a_round_keeps_its_limit_whatever_the_cohort(measured: dict[str, int]) -> None:
    anchors = {name: gas for name, gas in measured.items() if name.startswith("anchorRound")}
    assert len(anchors) == 4
    assert max(anchors.values()) <= ANCHOR_ROUND_LIMIT, anchors
    for turn in (1, 2):
        small, large = (anchors[f"anchorRound {turn} of 2, {owners} owners"] for owners in (3, PAYEES))
        # Only the calldata bytes of the count and of the signatures differ.
        assert abs(small - large) < 200


def test_pushing_payouts_keeps_its_limit(measured: dict[str, int]) -> None:
    assert measured[f"pay, per payee, all 999 in chunks of 64, {IN_ORDER}"] <= PAYEE_LIMIT


def test_claiming_keeps_its_limit(measured: dict[str, int]) -> None:
    assert measured["claim, 1000 leaves"] <= CLAIM_LIMIT
