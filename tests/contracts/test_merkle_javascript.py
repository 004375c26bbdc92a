"""OpenZeppelin's JavaScript trees, ours and the chain's verification agree."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from web3.exceptions import ContractCustomError
from web3.logs import DISCARD

from galaxylearning.crypto.merkle import verify_multiproof, verify_proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.contracts.conftest import Deployment

    from galaxylearning.crypto.merkle import MerkleTree

LEAF_TYPES = ["uint256", "address", "uint256", "uint256", "address", "uint256"]
SIZES = (1, 2, 3, 7, 8, 33)
TOTAL = 10**21


def javascript(contracts: str, trees: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What OpenZeppelin's library makes of the trees."""
    request = json.dumps({"types": LEAF_TYPES, "trees": trees})
    command = ["node", "scripts/merkle_vectors.js"]
    answer = subprocess.run(
        command, cwd=contracts, input=request, text=True, capture_output=True, check=True, timeout=60
    )
    vectors: list[dict[str, Any]] = json.loads(answer.stdout)
    return vectors


def unhex(words: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(word.removeprefix("0x")) for word in words]


def as_json(leaf: tuple[Any, ...]) -> list[str]:
    return [str(value) for value in leaf]


@pytest.mark.parametrize("sort_leaves", [True, False])
def test_roots_and_proofs_are_openzeppelins(
    deployment: Deployment, contracts_folder: str, sort_leaves: bool
) -> None:
    ours: list[tuple[MerkleTree, list[int]]] = []
    trees = []
    for size in SIZES:
        payouts = deployment.payouts(7, size, total=TOTAL)
        subset = list(range(0, size, 2))
        values = [as_json(leaf) for leaf in deployment.leaves(7, payouts)]
        trees.append({"sort_leaves": sort_leaves, "values": values, "subset": subset})
        ours.append((deployment.payout_tree(7, payouts, sort_leaves=sort_leaves), subset))
    for (tree, subset), theirs in zip(ours, javascript(contracts_folder, trees), strict=True):
        root = unhex([theirs["root"]])[0]
        assert tree.root == root
        for index, proof in enumerate(theirs["proofs"]):
            assert tree.proof(index) == unhex(proof)
            assert verify_proof(root, tree.leaf(index), unhex(proof))
        multiproof, their_multiproof = tree.multiproof(subset), theirs["multiproof"]
        assert list(multiproof.proof) == unhex(their_multiproof["proof"])
        assert list(multiproof.proof_flags) == their_multiproof["proof_flags"]
        leaves = [tree.leaf(index) for index in multiproof.indices]
        assert verify_multiproof(root, leaves, multiproof.proof, multiproof.proof_flags)


@pytest.mark.parametrize("sort_leaves", [True, False])
def test_the_chain_pays_by_openzeppelins_proofs(
    deployment: Deployment, contracts_folder: str, sort_leaves: bool
) -> None:
    owners = 9
    job_id, _ = deployment.post(owners=owners, rounds=1)
    deployment.take_seats(job_id)
    deployment.anchor_cohort(job_id, owners=owners)
    deployment.anchor_round(job_id, 0, owners=owners)
    deployment.commit_and_reveal(job_id)
    payouts = deployment.payouts(job_id, owners, total=TOTAL)
    values = [as_json(leaf) for leaf in deployment.leaves(job_id, payouts)]
    request = [{"sort_leaves": sort_leaves, "values": values, "subset": [0, 3, 4, 8]}]
    (theirs,) = javascript(contracts_folder, request)
    root = unhex([theirs["root"]])[0]
    total = sum(amount for _, _, amount in payouts)
    deployment.settle(job_id, root, total=total, payees=owners)
    multiproof = theirs["multiproof"]
    chunk = [payouts[int(leaf[3])] for leaf in multiproof["leaves"]]
    proof = unhex(multiproof["proof"])
    pay = deployment.jobs.functions.pay(job_id, chunk, proof, multiproof["proof_flags"])
    receipt = deployment.send(pay, deployment.requester)
    paid = deployment.jobs.events.Paid().process_receipt(receipt, DISCARD)
    assert sorted(event["args"]["index"] for event in paid) == [0, 3, 4, 8]
    claim = deployment.jobs.functions.claim(job_id, *payouts[5], unhex(theirs["proofs"][5]))
    deployment.send(claim, deployment.requester)
    for index, account, amount in payouts:
        expected = amount if index in (0, 3, 4, 5, 8) else 0
        assert deployment.token.functions.balanceOf(account).call() == expected
    index, account, amount = payouts[6]
    wrong = deployment.jobs.functions.claim(job_id, index, account, amount + 1, unhex(theirs["proofs"][6]))
    with pytest.raises(ContractCustomError) as refusal:
        wrong.call()
    assert refusal.value.data == deployment.selector("InvalidProof()")
