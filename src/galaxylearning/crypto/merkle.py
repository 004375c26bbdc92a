"""OpenZeppelin's StandardMerkleTree: the same roots, proofs and multiproofs as its JavaScript library.

A leaf is keccak(keccak(abi.encode(values))), so that no inner node can pass for a leaf; leaves are sorted
by hash; the tree is an array in which node i has the children 2i+1 and 2i+2 and the leaves fill the end,
backwards; a pair is hashed in ascending order.

Source: @openzeppelin/merkle-tree 1.0; OpenZeppelin Contracts 5, utils/cryptography/MerkleProof.sol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import MessageRefused
from galaxylearning.units import ZERO_DIGEST, Digest


def leaf_hash(types: Sequence[str], value: Sequence[Any]) -> bytes:
    """Hash of one leaf: keccak(keccak(abi.encode(types, value))), 32 bytes.

    Raises:
        MessageRefused: a value does not fit its ABI type.
    """
    return _leaf_hasher(types)(tuple(value))


def _leaf_hasher(types: Sequence[str]) -> Callable[[tuple[Any, ...]], bytes]:
    # Many commands import this module and build no tree: they need not wait for the ABI's library.
    from eth_abi.exceptions import EncodingError
    from eth_abi.registry import registry

    encoder = cast(Callable[[tuple[Any, ...]], bytes], registry.get_encoder(f"({','.join(types)})"))

    def hash_leaf(value: tuple[Any, ...]) -> bytes:
        try:
            encoded = encoder(value)
        except EncodingError as error:
            raise MessageRefused(f"does not fit ({', '.join(types)}): {error}", where="leaf") from error
        return keccak(keccak(encoded))

    return hash_leaf


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: keccak of its two children in ascending order."""
    return keccak(left + right if left < right else right + left)


@dataclass(frozen=True, slots=True)
class MultiProof:
    """Proof of several leaves at once.

    ``indices`` are value indices in the order in which the leaves must be handed to the verifier.
    """

    indices: tuple[int, ...]
    proof: tuple[bytes, ...]
    proof_flags: tuple[bool, ...]


class MerkleTree:
    """A tree over ``values``, each a tuple of the given ABI ``types``.

    Leaves are sorted by hash, as the library does by default; with ``sort_leaves`` false they keep the order
    of the values (its option ``sortLeaves: false``). Without values the root is 32 zero bytes.
    """

    __slots__ = ("_nodes", "_positions")

    def __init__(
        self, types: Sequence[str], values: Sequence[tuple[Any, ...]], *, sort_leaves: bool = True
    ) -> None:
        hash_leaf = _leaf_hasher(types)
        hashes = [hash_leaf(tuple(value)) for value in values]
        count = len(hashes)
        nodes = [b""] * max(2 * count - 1, 0)
        positions = [0] * count
        order = sorted(range(count), key=hashes.__getitem__) if sort_leaves else range(count)
        for rank, index in enumerate(order):
            positions[index] = len(nodes) - 1 - rank
            nodes[positions[index]] = hashes[index]
        for position in range(count - 2, -1, -1):
            nodes[position] = node_hash(nodes[2 * position + 1], nodes[2 * position + 2])
        self._nodes = nodes
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def root(self) -> bytes:
        """32 bytes; all zero for an empty tree."""
        return self._nodes[0] if self._nodes else bytes(ZERO_DIGEST)

    def leaf(self, index: int) -> bytes:
        """Hash of the leaf of value ``index``, 32 bytes."""
        return self._nodes[self._position(index)]

    def proof(self, index: int) -> list[bytes]:
        """Siblings from the leaf of value ``index`` up to the root."""
        position = self._position(index)
        siblings = []
        while position > 0:
            siblings.append(self._nodes[_sibling(position)])
            position = (position - 1) // 2
        return siblings

    def tree_order(self) -> list[int]:
        """Value indices as the leaves stand from left to right: neighbours share most of their proofs."""
        count = len(self._positions)
        # The deepest level begins at 2^d - 1 and lies to the left of the leaves one level up.
        deepest = (1 << (2 * count - 1).bit_length() - 1) - 1
        return sorted(range(count), key=lambda i: (self._positions[i] < deepest, self._positions[i]))

    def multiproof(self, indices: Sequence[int]) -> MultiProof:
        """One proof for all of ``indices``; the leaves must be passed in the order it states.

        Raises:
            ValueError: an index twice or out of range.
        """
        if len(set(indices)) != len(indices):
            raise ValueError("cannot prove a value twice in one proof")
        ordered = sorted(indices, key=self._position, reverse=True)
        pending = deque(self._position(index) for index in ordered)
        proof: list[bytes] = []
        flags: list[bool] = []
        while pending and pending[0] > 0:
            position = pending.popleft()
            sibling = _sibling(position)
            is_pending = bool(pending) and pending[0] == sibling
            flags.append(is_pending)
            if is_pending:
                pending.popleft()
            else:
                proof.append(self._nodes[sibling])
            pending.append((position - 1) // 2)
        if not ordered:
            proof.append(self.root)
        return MultiProof(tuple(ordered), tuple(proof), tuple(flags))

    def _position(self, index: int) -> int:
        if not 0 <= index < len(self._positions):
            raise ValueError(f"no value {index} in a tree of {len(self._positions)}")
        return self._positions[index]


def _sibling(position: int) -> int:
    return position - 1 if position % 2 == 0 else position + 1


def verify_proof(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` leads from ``leaf`` (a hash) to ``root``.

    Source: MerkleProof.verify of OpenZeppelin Contracts.
    """
    node = leaf
    for sibling in proof:
        if len(sibling) != 32:
            return False
        node = node_hash(node, sibling)
    return len(leaf) == 32 and node == root


def verify_multiproof(
    root: bytes, leaves: Sequence[bytes], proof: Sequence[bytes], proof_flags: Sequence[bool]
) -> bool:
    """Whether ``proof`` and ``proof_flags`` lead from ``leaves`` (hashes, in the proof's order) to ``root``.

    Source: MerkleProof.multiProofVerify of OpenZeppelin Contracts; what it reverts on is False here.
    """
    if len(leaves) + len(proof) != len(proof_flags) + 1:
        return False
    if any(len(node) != 32 for node in (*leaves, *proof)):
        return False
    if len(proof_flags) == 0:
        return (leaves[0] if leaves else proof[0]) == root
    pending = deque(leaves)
    rest = deque(proof)
    for flag in proof_flags:
        source = pending if flag else rest
        if not pending or (flag and len(pending) < 2) or not source:
            return False
        first = pending.popleft()
        pending.append(node_hash(first, source.popleft()))
    return not rest and len(pending) == 1 and pending[0] == root


def digest_tree_root(leaves: Sequence[Digest]) -> bytes:
    """Root of the StandardMerkleTree over ``[bytes32]``: how cohorts and rounds are anchored.

    Raises:
        MessageRefused: a leaf is not 32 bytes.
    """
    for index, leaf in enumerate(leaves):
        if len(leaf) != 32:
            raise MessageRefused(f"must have 32 bytes, not {len(leaf)}", where=f"leaf {index}")
    return MerkleTree(["bytes32"], [(leaf,) for leaf in leaves]).root
