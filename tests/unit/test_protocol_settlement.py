"""From values to money, with numbers computed by hand."""

from __future__ import annotations

import math

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from galaxylearning.crypto.merkle import verify_multiproof, verify_proof
from galaxylearning.errors import JobRefused
from galaxylearning.protocol.settlement import (
    payout_amounts,
    payout_chunks,
    payout_tree,
    target_gain_fixed,
)
from galaxylearning.units import Address

CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
A, B, C = (Address(f"0x{n:040d}") for n in (1, 2, 3))


def test_each_is_paid_its_part_of_the_target() -> None:
    amounts = payout_amounts({A: 30, B: 20, C: -7}, bounty=1000, target_gain=100)
    assert amounts == {A: 300, B: 200, C: 0}


def test_payouts_are_scaled_down_only_when_they_exceed_the_bounty() -> None:
    assert payout_amounts({A: 60, B: 40}, bounty=1000, target_gain=100) == {A: 600, B: 400}
    assert payout_amounts({A: 90, B: 60}, bounty=1000, target_gain=100) == {A: 600, B: 400}


def test_the_largest_remainder_gets_what_flooring_lost() -> None:
    # 10 * 1/3 = 3.33, 10 * 1.5/3 = 5, 10 * 0.5/3 = 1.67: one unit is left and goes to the last.
    assert payout_amounts({A: 2, B: 3, C: 1}, bounty=10, target_gain=6) == {A: 3, B: 5, C: 2}


def test_ties_go_to_the_lower_address() -> None:
    assert payout_amounts({C: 1, B: 1, A: 1}, bounty=10, target_gain=3) == {A: 4, B: 3, C: 3}


def test_a_participation_fee_comes_first() -> None:
    amounts = payout_amounts(
        {A: 50, B: 0}, bounty=1000, target_gain=100, participation_fee=10, participants=[A, B, C]
    )
    assert amounts == {A: 510, B: 10, C: 10}
    crowded = payout_amounts(
        {A: 50, B: 50}, bounty=1000, target_gain=50, participation_fee=100, participants=[A, B]
    )
    assert crowded == {A: 500, B: 500}


def test_participants_do_not_matter_without_a_fee() -> None:
    assert payout_amounts({A: 1}, bounty=10, target_gain=1, participants=[A, B]) == {A: 10}


def test_nobody_is_paid_for_nothing() -> None:
    assert payout_amounts({}, bounty=10, target_gain=1) == {}
    assert payout_amounts({A: 0, B: -(2**62)}, bounty=10, target_gain=1) == {A: 0, B: 0}


def test_amounts_far_beyond_64_bits_are_exact() -> None:
    bounty = 2**128 - 1
    amounts = payout_amounts({A: 2**62, B: 2**62 - 1}, bounty=bounty, target_gain=1)
    assert sum(amounts.values()) == bounty


@pytest.mark.parametrize(
    ("bounty", "target_gain", "fee", "where"),
    [
        (-1, 1, 0, "price"),
        (1, 0, 0, "target_gain"),
        (1, -5, 0, "target_gain"),
        (1, 1, -1, "price"),
        (1, 1, 1, "participation_fee"),
    ],
)
def test_impossible_prices_are_refused(bounty: int, target_gain: int, fee: int, where: str) -> None:
    with pytest.raises(JobRefused, match=where):
        payout_amounts(
            {A: 1}, bounty=bounty, target_gain=target_gain, participation_fee=fee, participants=[A, B]
        )


def test_the_float_becomes_an_integer_exactly() -> None:
    assert target_gain_fixed(1.0) == 2**40
    assert target_gain_fixed(0.5) == 2**39
    assert target_gain_fixed(1e-6) == 1099512  # 1099511.627776, rounded
    assert target_gain_fixed(2.5 * 2.0**-40) == 2
    assert target_gain_fixed(3.5 * 2.0**-40) == 4
    for bad in (0.0, -1.0, math.nan, math.inf, 2.0**40, 2.0**-42):
        with pytest.raises(JobRefused, match="target_gain"):
            target_gain_fixed(bad)


def test_leaves_carry_their_whole_context() -> None:
    tree = payout_tree(31337, CONTRACT, 7, {C: 5, A: 0, B: 9})
    assert [(row.index, row.account, row.amount) for row in tree.rows] == [(0, B, 9), (1, C, 5)]
    assert tree.total == 14
    kinds = ["uint256", "address", "uint256", "uint256", "address", "uint256"]
    leaf = keccak(keccak(encode(kinds, [31337, CONTRACT, 7, 0, B, 9])))
    assert tree.tree.leaf(0) == leaf
    assert verify_proof(tree.root, leaf, tree.tree.proof(0))
    elsewhere = payout_tree(1, CONTRACT, 7, {B: 9, C: 5})
    assert elsewhere.root != tree.root
    assert not verify_proof(elsewhere.root, leaf, tree.tree.proof(0))


def test_a_tree_of_nobody_has_a_zero_root_and_no_chunks() -> None:
    tree = payout_tree(31337, CONTRACT, 7, {A: 0})
    assert (tree.root, tree.rows, tree.total) == (bytes(32), (), 0)
    assert payout_chunks(tree) == ()
    with pytest.raises(JobRefused, match="payouts"):
        payout_tree(31337, CONTRACT, 7, {A: -1})


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_chunks_pay_everybody_once_with_proofs_that_hold(count: int) -> None:
    amounts = {Address(f"0x{n:040d}"): n for n in range(1, count + 1)}
    tree = payout_tree(31337, CONTRACT, 7, amounts)
    chunks = payout_chunks(tree)
    assert [len(chunk.payouts) for chunk in chunks[:-1]] == [64] * (len(chunks) - 1)
    paid = [payout.index for chunk in chunks for payout in chunk.payouts]
    assert sorted(paid) == list(range(count))
    for chunk in chunks:
        leaves = [tree.tree.leaf(payout.index) for payout in chunk.payouts]
        assert verify_multiproof(tree.root, leaves, chunk.proof, chunk.proof_flags)
        assert not verify_multiproof(bytes(32), leaves, chunk.proof, chunk.proof_flags)
    for size in (0, 257):
        with pytest.raises(ValueError, match="256"):
            payout_chunks(tree, size)
