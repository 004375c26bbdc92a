"""The tree is OpenZeppelin's: same roots, same proofs, same multiproofs as its JavaScript library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi import encode  # type: ignore[attr-defined]

from galaxylearning.crypto.digest import blake3_digest, keccak
from galaxylearning.crypto.merkle import (
    MerkleTree,
    digest_tree_root,
    leaf_hash,
    node_hash,
    verify_multiproof,
    verify_proof,
)
from galaxylearning.errors import MessageRefused

VECTORS = json.loads((Path(__file__).parent / "vectors" / "crypto_merkle.json").read_text())["trees"]


def _from_hex(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value[2:]) for value in values]


def _value(types: list[str], row: list[str]) -> tuple[Any, ...]:
    casts = {"uint256": int, "address": str, "string": str, "bytes32": lambda text: bytes.fromhex(text[2:])}
    return tuple(casts[kind](cell) for kind, cell in zip(types, row, strict=True))  # type: ignore[operator]


def _tree(vector: dict[str, Any]) -> MerkleTree:
    return MerkleTree(vector["types"], [_value(vector["types"], row) for row in vector["values"]])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{len(v['types'])}-fields-{len(v['values'])}")
def test_agrees_with_openzeppelins_library(vector: dict[str, Any]) -> None:
    tree = _tree(vector)
    root = bytes.fromhex(vector["root"][2:])
    assert tree.root == root
    for index, proof in enumerate(vector["proofs"]):
        if proof is not None:
            assert tree.proof(index) == _from_hex(proof)
            assert verify_proof(root, tree.leaf(index), tree.proof(index))
    for expected in vector["multiproofs"]:
        found = tree.multiproof(expected["indices"])
        assert list(found.indices) == expected["order"]
        assert list(found.proof) == _from_hex(expected["proof"])
        assert list(found.proof_flags) == expected["proofFlags"]
        leaves = [tree.leaf(index) for index in found.indices]
        assert verify_multiproof(root, leaves, found.proof, found.proof_flags)


def test_a_leaf_is_hashed_twice_over_the_abi_encoding() -> None:
    types, value = ["string", "uint256"], ("a", 1)
    assert leaf_hash(types, value) == keccak(keccak(encode(types, value)))
    assert leaf_hash(types, value) != keccak(encode(types, value))


def test_a_value_that_does_not_fit_its_type_is_refused() -> None:
    with pytest.raises(MessageRefused, match="leaf"):
        MerkleTree(["uint8"], [(255,), (256,)])
    with pytest.raises(MessageRefused, match="leaf"):
        MerkleTree(["uint8", "uint8"], [(1,)])


def test_an_empty_tree_has_a_zero_root() -> None:
    tree = MerkleTree(["bytes32"], [])
    assert tree.root == bytes(32)
    assert len(tree) == 0
    assert tree.tree_order() == []
    assert digest_tree_root([]) == bytes(32)


def test_the_digest_tree_is_the_tree_over_bytes32() -> None:
    digests = [blake3_digest(bytes([i])) for i in range(5)]
    assert digest_tree_root(digests) == MerkleTree(["bytes32"], [(d,) for d in digests]).root
    assert digest_tree_root(digests) == digest_tree_root(digests[::-1])
    assert digest_tree_root(digests) != digest_tree_root(digests[:4])


def test_a_digest_of_another_length_is_refused() -> None:
    digest = blake3_digest(b"")
    with pytest.raises(MessageRefused, match="leaf 1"):
        digest_tree_root([digest, digest[:31]])  # type: ignore[list-item]


def test_a_pair_is_hashed_in_ascending_order() -> None:
    low, high = bytes(32), b"\x01" * 32
    assert node_hash(low, high) == node_hash(high, low) == keccak(low + high)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_the_tree_is_a_mistake(index: int) -> None:
    tree = MerkleTree(["uint256"], [(i,) for i in range(3)])
    for ask in (tree.leaf, tree.proof, lambda i: tree.multiproof([i])):
        with pytest.raises(ValueError, match="no value"):
            ask(index)


def test_a_value_cannot_be_proven_twice_in_one_proof() -> None:
    with pytest.raises(ValueError, match="twice"):
        MerkleTree(["uint256"], [(i,) for i in range(3)]).multiproof([1, 1])


def test_equal_values_have_proofs_of_their_own() -> None:
    tree = MerkleTree(["uint256"], [(1,), (1,), (2,)])
    proof = tree.multiproof([0, 1])
    assert sorted(proof.indices) == [0, 1]
    assert verify_multiproof(tree.root, [tree.leaf(0), tree.leaf(1)], proof.proof, proof.proof_flags)


def test_a_foreign_or_altered_proof_is_false() -> None:
    tree = MerkleTree(["uint256"], [(i,) for i in range(8)])
    proof = tree.proof(3)
    assert not verify_proof(tree.root, tree.leaf(2), proof)
    assert not verify_proof(bytes(32), tree.leaf(3), proof)
    assert not verify_proof(tree.root, tree.leaf(3), proof[:-1])
    assert not verify_proof(tree.root, tree.leaf(3), [proof[0][:31], *proof[1:]])
    assert not verify_proof(b"short", b"short", [])


def test_a_malformed_multiproof_is_false_and_never_an_exception() -> None:
    tree = MerkleTree(["uint256"], [(i,) for i in range(8)])
    good = tree.multiproof([0, 1, 2])
    leaves = [tree.leaf(i) for i in good.indices]
    flags = list(good.proof_flags)
    assert verify_multiproof(tree.root, leaves, good.proof, flags)
    assert not verify_multiproof(tree.root, leaves[::-1], good.proof, flags)
    assert not verify_multiproof(tree.root, leaves[:2], good.proof, flags)
    assert not verify_multiproof(tree.root, leaves, good.proof, [not flag for flag in flags])
    assert not verify_multiproof(tree.root, leaves, good.proof, flags[:-1])
    assert not verify_multiproof(tree.root, [], [], [])
    assert not verify_multiproof(tree.root, [b""], [], [])
    assert not verify_multiproof(tree.root, [tree.root, tree.root], [], [True])
    assert not verify_multiproof(tree.root, [], [tree.root, tree.root], [False])


def test_contiguous_leaves_share_their_proof() -> None:
    tree = MerkleTree(["uint256"], [(i,) for i in range(1000)])
    order = tree.tree_order()
    assert sorted(order) == list(range(1000))
    longest = max(len(tree.multiproof(order[start : start + 64]).proof) for start in range(0, 1000, 64))
    assert longest <= 2 * 10
    assert len(tree.multiproof(range(64)).proof) > 200
