"""Laws of trees, signatures and envelopes, for any input."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from galaxylearning.crypto.merkle import (
    MerkleTree,
    node_hash,
    verify_multiproof,
    verify_proof,
)
from galaxylearning.crypto.seal import SealContext, SealingKey, open_sealed, seal, sealed_bytes
from galaxylearning.crypto.sign import CURVE_ORDER, address_of, recover_signer, sign_digest
from galaxylearning.errors import BlobRefused, MessageRefused
from galaxylearning.units import Address

KEYS = [SealingKey(hashlib.shake_256(bytes([i])).digest(96)) for i in range(4)]
WORDS = st.binary(min_size=32, max_size=32)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: Address("0x" + raw.hex()))
CONTEXTS = st.builds(
    SealContext,
    chain_id=st.integers(0, 2**256 - 1),
    contract=ADDRESSES,
    job_id=st.integers(0, 2**256 - 1),
    round_index=st.integers(0, 2**32 - 1),
    kind=st.from_regex(r"[a-z0-9][a-z0-9-]{0,63}", fullmatch=True),
    sender=ADDRESSES,
)


def _solidity_multiproof(
    leaves: Sequence[bytes], proof: Sequence[bytes], flags: Sequence[bool]
) -> bytes | None:
    """OpenZeppelin's processMultiProof, written out with its array indices; None where it reverts."""
    if len(leaves) + len(proof) != len(flags) + 1:
        return None
    hashes: list[bytes] = [b""] * len(flags)
    leaf_at = hash_at = proof_at = 0
    for i, flag in enumerate(flags):
        pair = []
        for is_second in (False, True):
            if is_second and not flag:
                if proof_at >= len(proof):
                    return None
                pair.append(proof[proof_at])
                proof_at += 1
            elif leaf_at < len(leaves):
                pair.append(leaves[leaf_at])
                leaf_at += 1
            else:
                if hash_at >= len(hashes):
                    return None
                # Reading a slot that is not filled yet gives zero in Solidity, never a root.
                pair.append(hashes[hash_at] or bytes(32))
                hash_at += 1
        hashes[i] = node_hash(*pair)
    if flags:
        return hashes[-1] if proof_at == len(proof) else None
    return leaves[0] if leaves else proof[0]


@given(st.lists(WORDS, min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_every_subset_of_every_tree_can_be_proven(words: list[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(["bytes32"], [(word,) for word in words])
    subset = data.draw(st.lists(st.integers(0, len(words) - 1), unique=True))
    found = tree.multiproof(subset)
    assert sorted(found.indices) == sorted(subset)
    leaves = [tree.leaf(i) for i in found.indices]
    assert verify_multiproof(tree.root, leaves, found.proof, found.proof_flags)
    assert _solidity_multiproof(leaves, found.proof, found.proof_flags) == tree.root
    for i in subset:
        assert verify_proof(tree.root, tree.leaf(i), tree.proof(i))
    assert sorted(tree.tree_order()) == list(range(len(words)))


@given(st.lists(WORDS, unique=True, max_size=20), st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_root_does_not_depend_on_the_order_of_the_values(words: list[bytes], random: object) -> None:
    shuffled = list(words)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    values = [(word,) for word in words]
    assert MerkleTree(["bytes32"], values).root == MerkleTree(["bytes32"], [(w,) for w in shuffled]).root


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6), st.lists(st.booleans(), max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_multiproof_is_judged_as_solidity_judges_it(
    leaves: list[bytes], proof: list[bytes], flags: list[bool]
) -> None:
    root = _solidity_multiproof(leaves, proof, flags)
    if root is None:
        assert not verify_multiproof(bytes(32), leaves, proof, flags)
    else:
        is_whole = verify_multiproof(root, leaves, proof, flags)
        # Where the two differ the proof reads slots that are not filled: this side refuses those.
        assert is_whole or _reads_ahead(leaves, flags)
        assert not verify_multiproof(hashlib.sha256(root).digest(), leaves, proof, flags)


def _reads_ahead(leaves: Sequence[bytes], flags: Sequence[bool]) -> bool:
    waiting = len(leaves)
    for flag in flags:
        if waiting < (2 if flag else 1):
            return True
        waiting -= 1 if flag else 0
    return False


@given(st.integers(1, CURVE_ORDER - 1), WORDS)
@settings(max_examples=40, deadline=None)
def test_signing_and_recovering_are_inverse(secret: int, digest: bytes) -> None:
    key = secret.to_bytes(32, "big")
    assert recover_signer(digest, sign_digest(key, digest)) == address_of(key)


@given(st.integers(1, CURVE_ORDER - 1), WORDS, st.integers(0, 519))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_never_leaves_the_signer(secret: int, digest: bytes, bit: int) -> None:
    key = secret.to_bytes(32, "big")
    altered = bytearray(sign_digest(key, digest))
    altered[bit // 8] ^= 1 << bit % 8
    try:
        found = recover_signer(digest, bytes(altered))
    except MessageRefused:
        return
    assert found != address_of(key)


@given(st.binary(max_size=3000), st.sets(st.integers(0, 3), min_size=1), CONTEXTS)
@settings(max_examples=40, deadline=None)
def test_the_named_recipients_and_only_they_open_an_envelope(
    plaintext: bytes, named: set[int], context: SealContext
) -> None:
    stream = hashlib.shake_256(plaintext).digest
    blob = seal(plaintext, [KEYS[i].public for i in named], context, entropy=stream)
    assert len(blob) == sealed_bytes(len(plaintext), len(named))
    for i, key in enumerate(KEYS):
        if i in named:
            assert open_sealed(blob, key, context, max_bytes=3000) == plaintext
        else:
            with pytest.raises(BlobRefused):
                open_sealed(blob, key, context, max_bytes=3000)


@given(CONTEXTS, CONTEXTS)
@settings(max_examples=60, deadline=None)
def test_different_contexts_have_different_bytes(one: SealContext, other: SealContext) -> None:
    assume(one != other)
    assert one.canonical_bytes() != other.canonical_bytes()


@given(st.binary(max_size=4000))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(blob: bytes) -> None:
    context = SealContext(1, Address("0x" + "11" * 20), 1, 0, "update", Address("0x" + "22" * 20))
    with pytest.raises(BlobRefused):
        open_sealed(blob, KEYS[0], context, max_bytes=10_000)
