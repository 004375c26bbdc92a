// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {PayoutProof} from "../src/PayoutProof.sol";
import {eq, within, yes} from "./support/Vm.sol";

/// @dev Our multiproof against OpenZeppelin's, on real trees and on noise.
contract PayoutProofTest {
    uint256 private constant JOB = 7;

    function ours(
        PayoutProof.Payout[] calldata payouts,
        bytes32[] calldata proof,
        bool[] calldata flags,
        bytes32 root
    ) external view returns (bool) {
        bytes32[] memory queue = PayoutProof.queueOf(JOB, payouts, flags.length);
        return PayoutProof.verify(proof, flags, root, queue, payouts.length);
    }

    function theirs(bytes32[] calldata proof, bool[] calldata flags, bytes32 root, bytes32[] memory leaves)
        external
        pure
        returns (bool)
    {
        return MerkleProof.multiProofVerifyCalldata(proof, flags, root, leaves);
    }

    function leafOf(PayoutProof.Payout memory p) private view returns (bytes32) {
        return keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(this), JOB, p.index, p.account, p.amount)))
        );
    }

    function compare(
        PayoutProof.Payout[] memory payouts,
        bytes32[] memory proof,
        bool[] memory flags,
        bytes32 root
    ) private view returns (bool isValid) {
        bytes32[] memory leaves = new bytes32[](payouts.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            leaves[i] = leafOf(payouts[i]);
        }
        isValid = this.ours(payouts, proof, flags, root);
        try this.theirs(proof, flags, root, leaves) returns (bool isTheirs) {
            yes(isValid == isTheirs, "differs from OpenZeppelin's");
        } catch {
            yes(!isValid, "OpenZeppelin's refuses it");
        }
    }

    function draw(uint256 seed, uint256 i) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, i)));
    }

    function payoutsFor(uint256 seed, uint256 count) private pure returns (PayoutProof.Payout[] memory payouts) {
        payouts = new PayoutProof.Payout[](count);
        for (uint256 i = 0; i < count; ++i) {
            payouts[i] = PayoutProof.Payout(i, address(uint160(draw(seed, i))), draw(seed, i + 1000));
        }
    }

    function test_the_leaf_is_openzeppelins() public view {
        PayoutProof.Payout memory p = payoutsFor(1, 1)[0];
        eq(PayoutProof.leaf(JOB, p.index, p.account, p.amount), leafOf(p));
    }

    /// @dev Every subset of every tree: nodes as OpenZeppelin lays them out, leaves from the right.
    function testFuzz_subsets_of_trees(uint256 seed, uint8 size, uint256 subset) public view {
        uint256 count = within(size, 1, 40);
        PayoutProof.Payout[] memory all = payoutsFor(seed, count);
        bytes32[] memory nodes = new bytes32[](2 * count - 1);
        bool[] memory isKnown = new bool[](2 * count - 1);
        uint256 chosen = 0;
        for (uint256 i = 0; i < count; ++i) {
            nodes[nodes.length - 1 - i] = leafOf(all[i]);
            if ((subset >> i) & 1 == 1) ++chosen;
        }
        for (uint256 k = count - 1; k > 0; --k) {
            (bytes32 a, bytes32 b) = (nodes[2 * k - 1], nodes[2 * k]);
            nodes[k - 1] = a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
        }
        if (chosen == 0) return;
        PayoutProof.Payout[] memory picked = new PayoutProof.Payout[](chosen);
        uint256 next = 0;
        for (uint256 i = 0; i < count; ++i) {
            if ((subset >> i) & 1 == 0) continue;
            picked[next++] = all[i];
            isKnown[nodes.length - 1 - i] = true;
        }
        (bytes32[] memory proof, bool[] memory flags) = prove(nodes, isKnown);
        yes(compare(picked, proof, flags, nodes[0]), "a true proof is refused");
        picked[seed % chosen].amount ^= 1;
        yes(!compare(picked, proof, flags, nodes[0]), "a false payout is proven");
    }

    /// @dev From the right to the left, as the leaves are consumed: a known node's sibling is known or in the proof.
    function prove(bytes32[] memory nodes, bool[] memory isKnown)
        private
        pure
        returns (bytes32[] memory proof, bool[] memory flags)
    {
        proof = new bytes32[](nodes.length);
        flags = new bool[](nodes.length);
        uint256 proofs = 0;
        uint256 steps = 0;
        for (uint256 i = nodes.length - 1; i > 0; --i) {
            if (!isKnown[i]) continue;
            uint256 sibling = i % 2 == 0 ? i - 1 : i + 1;
            if (isKnown[sibling] && sibling < i) {
                isKnown[sibling] = false;
                flags[steps++] = true;
            } else {
                proof[proofs++] = nodes[sibling];
                ++steps;
            }
            isKnown[(i - 1) / 2] = true;
        }
        assembly {
            mstore(proof, proofs)
            mstore(flags, steps)
        }
    }

    function testFuzz_noise_is_judged_alike(uint256 seed, uint8 count, uint8 proofs, uint8 steps, bool isFitting)
        public
        view
    {
        uint256 leaves = within(count, 1, 8);
        bytes32[] memory proof = new bytes32[](proofs % 8);
        bool[] memory flags = new bool[](isFitting ? leaves + proof.length - 1 : steps % 12);
        for (uint256 i = 0; i < flags.length; ++i) {
            flags[i] = draw(seed, i) & 1 == 1;
        }
        for (uint256 i = 0; i < proof.length; ++i) {
            proof[i] = bytes32(draw(seed, i + 99));
        }
        PayoutProof.Payout[] memory payouts = payoutsFor(seed, leaves);
        compare(payouts, proof, flags, bytes32(seed));
        bytes32[] memory hashed = new bytes32[](leaves);
        for (uint256 i = 0; i < leaves; ++i) {
            hashed[i] = leafOf(payouts[i]);
        }
        // The root that OpenZeppelin finds, where it finds one, must be the one that we accept.
        try this.rootOf(proof, flags, hashed) returns (bytes32 root) {
            yes(compare(payouts, proof, flags, root), "another root");
        } catch {}
    }

    function rootOf(bytes32[] calldata proof, bool[] calldata flags, bytes32[] memory leaves)
        external
        pure
        returns (bytes32)
    {
        return MerkleProof.processMultiProofCalldata(proof, flags, leaves);
    }

    function test_a_leaf_cannot_slip_through_a_gap() public view {
        // One leaf, two siblings: a first flag that pairs the leaf with nothing must not drop it.
        PayoutProof.Payout[] memory payouts = payoutsFor(3, 1);
        bytes32[] memory proof = new bytes32[](2);
        (proof[0], proof[1]) = (bytes32(draw(3, 50)), bytes32(draw(3, 51)));
        bool[] memory flags = new bool[](2);
        flags[0] = true;
        bytes32 zeroPair = keccak256(abi.encode(bytes32(0), proof[0]));
        yes(!compare(payouts, proof, flags, zeroPair), "dropped");
    }
}
