"""From values to money: who is paid what, the payout tree, and the chunks it is pushed in.

Everything is exact integer arithmetic. ``target_gain_fixed`` is the one place where a float becomes money.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from galaxylearning.crypto.merkle import MerkleTree
from galaxylearning.errors import JobRefused
from galaxylearning.messages.fields import address_key
from galaxylearning.units import Address

FIXED_POINT_BITS: Final = 40
"""Values and the target gain are integers: 2^-40 units of the loss per sample of the hidden test set."""

LEAF_TYPES: Final = ("uint256", "address", "uint256", "uint256", "address", "uint256")
"""Of a payout leaf: chain id, GalaxyJobs, job id, index, account, amount."""

PUSH_CHUNK: Final = 64
MAX_PUSH_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Payout:
    """One leaf of the payout tree; ``index`` numbers the payees from 0 by ascending account."""

    index: int
    account: Address
    amount: int

    def abi_tuple(self) -> tuple[int, Address, int]:
        """As the contract's ``Payout`` struct."""
        return (self.index, self.account, self.amount)


@dataclass(frozen=True, slots=True)
class PayoutTree:
    """The payouts of one job and the Merkle tree whose root is settled on chain."""

    job_id: int
    rows: tuple[Payout, ...]
    tree: MerkleTree

    @property
    def root(self) -> bytes:
        """32 bytes; all zero when nobody is paid."""
        return self.tree.root

    @property
    def total(self) -> int:
        """Sum of all amounts."""
        return sum(row.amount for row in self.rows)


@dataclass(frozen=True, slots=True)
class PayoutChunk:
    """Arguments of one ``pay`` call: leaves in the order the proof wants them."""

    payouts: tuple[Payout, ...]
    proof: tuple[bytes, ...]
    proof_flags: tuple[bool, ...]


def target_gain_fixed(target_gain: float) -> int:
    """The target gain of the terms, in units of the loss per sample, as fixed point: rounded half to even.

    The one function in which a float becomes money: every payout is a multiple of bounty over this integer.

    Raises:
        JobRefused: not finite, or below half a unit.
    """
    if not 0 < target_gain < 2.0**40:
        raise JobRefused(f"{target_gain!r} given; allowed: above 0, below 2^40", where="price.target_gain")
    fixed = round(Fraction(target_gain) * (1 << FIXED_POINT_BITS))
    if fixed == 0:
        raise JobRefused(f"{target_gain!r} given; allowed: at least 2^-40", where="price.target_gain")
    return fixed


def payout_amounts(
    values: Mapping[Address, int],
    *,
    bounty: int,
    target_gain: int,
    participation_fee: int = 0,
    participants: Collection[Address] = (),
) -> dict[Address, int]:
    """What each account is paid, in the token's smallest unit; the sum never exceeds ``bounty``.

    Each of ``participants`` is first owed ``participation_fee``. From what is left of the bounty,
    ``pay_i = bounty * max(value_i, 0) / target_gain``, all scaled by one factor where the sum would exceed
    what is left. The exact fractions are floored; of what flooring lost, whole units go to the largest
    remainders, ties to the lower address, so that the payouts add up to the floor of the exact sum.

    Args:
        values: per account, fixed point, unit 2^-40 units of the loss per sample, any sign.
        bounty: smallest units, at least 0.
        target_gain: fixed point in the same unit, above 0; see ``target_gain_fixed``.
        participation_fee: smallest units for each of ``participants``.
        participants: accounts that did what the participation fee asks for.

    Raises:
        JobRefused: a negative amount, a target gain that is not positive, or fees above the bounty.
    """
    if bounty < 0 or participation_fee < 0:
        raise JobRefused("negative amount given; allowed: 0 or more", where="price")
    if target_gain <= 0:
        raise JobRefused(f"{target_gain} given; allowed: above 0", where="price.target_gain")
    entitled = frozenset(participants) if participation_fee else frozenset()
    available = bounty - participation_fee * len(entitled)
    if available < 0:
        raise JobRefused(
            f"{participation_fee} for each of {len(entitled)} participants exceeds the bounty of {bounty}",
            where="price.participation_fee",
        )
    earned = {account: value for account, value in values.items() if value > 0}
    shares = _apportion(earned, *_rate(sum(earned.values()), bounty, available, target_gain))
    accounts = set(values) | entitled
    return {
        account: shares.get(account, 0) + (participation_fee if account in entitled else 0)
        for account in sorted(accounts, key=address_key)
    }


def _rate(sum_of_values: int, bounty: int, available: int, target_gain: int) -> tuple[int, int]:
    """Amount per unit of value as a fraction: the posted price, or less where it would not fit."""
    if sum_of_values * bounty > available * target_gain:
        return available, sum_of_values
    return bounty, target_gain


def _apportion(values: Mapping[Address, int], numerator: int, denominator: int) -> dict[Address, int]:
    """Floor of each ``value * numerator / denominator``, then largest remainders up to the floored sum."""
    amounts: dict[Address, int] = {}
    remainders: list[tuple[int, int, Address]] = []
    for account, value in values.items():
        amounts[account], remainder = divmod(value * numerator, denominator)
        remainders.append((-remainder, address_key(account), account))
    left = sum(values.values()) * numerator // denominator - sum(amounts.values())
    for _, _, account in sorted(remainders)[:left]:
        amounts[account] += 1
    return amounts


def payout_tree(chain_id: int, contract: Address, job_id: int, amounts: Mapping[Address, int]) -> PayoutTree:
    """The payout tree of a job. Accounts that get nothing are left out.

    Raises:
        JobRefused: a negative amount.
    """
    if any(amount < 0 for amount in amounts.values()):
        raise JobRefused("negative amount given; allowed: 0 or more", where="payouts")
    payees = sorted((account for account, amount in amounts.items() if amount > 0), key=address_key)
    rows = tuple(Payout(index, account, amounts[account]) for index, account in enumerate(payees))
    leaves = [(chain_id, contract, job_id, row.index, row.account, row.amount) for row in rows]
    # In order of index (the library's ``sortLeaves: false``), neighbours share a word of the contract's
    # bitmap of payments: pushing a chunk then costs the same in a tree of any size.
    return PayoutTree(job_id, rows, MerkleTree(LEAF_TYPES, leaves, sort_leaves=False))


def payout_chunks(tree: PayoutTree, size: int = PUSH_CHUNK) -> tuple[PayoutChunk, ...]:
    """Chunks of at most ``size`` payouts, each with one multiproof; neighbours in the tree go together.

    Raises:
        ValueError: ``size`` is not 1 to 256, the contract's cap.
    """
    if not 1 <= size <= MAX_PUSH_CHUNK:
        raise ValueError(f"size {size}; 1 to {MAX_PUSH_CHUNK} allowed")
    order = tree.tree.tree_order()
    chunks = []
    for start in range(0, len(order), size):
        proof = tree.tree.multiproof(order[start : start + size])
        payouts = tuple(tree.rows[index] for index in proof.indices)
        chunks.append(PayoutChunk(payouts, tuple(proof.proof), tuple(proof.proof_flags)))
    return tuple(chunks)
