"""Laws of the payout arithmetic: conservation, order, scale, and no money from nothing."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.protocol.settlement import payout_amounts, payout_tree
from galaxylearning.units import Address

accounts = st.integers(1, 10**6).map(lambda n: Address(f"0x{n:040d}"))
values = st.dictionaries(accounts, st.integers(-(2**62), 2**62), max_size=12)
small_values = st.dictionaries(accounts, st.integers(-50, 50), max_size=12)
bounties = st.integers(0, 2**128 - 1) | st.integers(0, 1000)
targets = st.integers(1, 2**62) | st.integers(1, 200)


@given(values | small_values, bounties, targets)
def test_never_more_than_the_bounty_and_never_less_than_the_floor(
    worth: dict[Address, int], bounty: int, target: int
) -> None:
    amounts = payout_amounts(worth, bounty=bounty, target_gain=target)
    exact = {a: Fraction(bounty * max(v, 0), target) for a, v in worth.items()}
    total = sum(exact.values(), Fraction(0))
    scale = min(Fraction(1), Fraction(bounty) / total) if total else Fraction(1)
    assert sum(amounts.values()) == total * scale // 1
    assert sum(amounts.values()) <= bounty
    assert all(abs(amounts[a] - exact[a] * scale) < 1 for a in worth)


@given(values | small_values, bounties, targets)
def test_more_value_never_earns_less(worth: dict[Address, int], bounty: int, target: int) -> None:
    amounts = payout_amounts(worth, bounty=bounty, target_gain=target)
    ranked = sorted(worth, key=lambda a: worth[a])
    for lower, higher in pairwise(ranked):
        if worth[lower] < worth[higher]:
            assert amounts[lower] <= amounts[higher]
        else:
            assert abs(amounts[lower] - amounts[higher]) <= 1
    assert all(amounts[a] == 0 for a in worth if worth[a] <= 0)


@given(values | small_values, bounties, targets, st.randoms(use_true_random=False))
def test_order_does_not_matter(worth: dict[Address, int], bounty: int, target: int, shuffle: Random) -> None:
    items = list(worth.items())
    shuffle.shuffle(items)
    assert payout_amounts(dict(items), bounty=bounty, target_gain=target) == payout_amounts(
        worth, bounty=bounty, target_gain=target
    )


@given(values | small_values, bounties, targets, st.integers(1, 1000))
def test_only_the_ratio_of_value_to_target_matters(
    worth: dict[Address, int], bounty: int, target: int, factor: int
) -> None:
    scaled = {a: v * factor for a, v in worth.items()}
    assert payout_amounts(scaled, bounty=bounty, target_gain=target * factor) == payout_amounts(
        worth, bounty=bounty, target_gain=target
    )


@given(small_values, st.integers(0, 10), targets, st.sets(accounts, max_size=8), st.integers(0, 10**6))
def test_participation_fees_are_paid_whole_and_the_bounty_still_holds(
    worth: dict[Address, int], fee: int, target: int, participants: set[Address], spare: int
) -> None:
    bounty = fee * len(participants) + spare
    amounts = payout_amounts(
        worth, bounty=bounty, target_gain=target, participation_fee=fee, participants=participants
    )
    assert sum(amounts.values()) <= bounty
    assert all(amounts[a] >= fee for a in participants if fee)


@given(st.dictionaries(accounts, st.integers(0, 2**100), max_size=20))
def test_the_tree_pays_exactly_the_amounts(amounts: dict[Address, int]) -> None:
    contract = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
    tree = payout_tree(31337, contract, 1, amounts)
    assert {row.account: row.amount for row in tree.rows} == {a: v for a, v in amounts.items() if v}
    assert [row.index for row in tree.rows] == list(range(len(tree.rows)))
    assert tree.total == sum(amounts.values())
