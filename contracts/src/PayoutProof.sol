// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {TokenNotSupported} from "./GalaxyTypes.sol";
import {TokenTransfers} from "./TokenTransfers.sol";

/// @dev A payout tree promises more than its settlement said.
error ExceedsTotal();

/// @title Multiproofs of OpenZeppelin's standard Merkle tree, made cheap for many payouts at once
/// @notice Accepts exactly what OpenZeppelin's MerkleProof.multiProofVerify accepts for at least one leaf (a fuzz
/// test compares the two), at a quarter of its gas.
library PayoutProof {
    /// @dev Selector of ExceedsTotal(), for assembly.
    uint256 private constant EXCEEDS_TOTAL = 0x3d195053;

    /// @notice One leaf of a payout tree.
    struct Payout {
        uint256 index;
        address account;
        uint256 amount;
    }

    /// @notice The leaf of one payout: keccak(keccak(chain id, contract, job, index, account, amount)).
    function leaf(uint256 jobId, uint256 index, address account, uint256 amount) internal view returns (bytes32) {
        return keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(this), jobId, index, account, amount)))
        );
    }

    /// @notice The leaves of `payouts`, at least one, in a queue with room for `steps` inner nodes behind them.
    /// @dev The first three of a leaf's words are the same for all and written once.
    function queueOf(uint256 jobId, Payout[] calldata payouts, uint256 steps)
        internal
        view
        returns (bytes32[] memory queue)
    {
        queue = new bytes32[](payouts.length + steps);
        bytes memory words = abi.encode(block.chainid, address(this), jobId, uint256(0), uint256(0), uint256(0));
        assembly ("memory-safe") {
            let target := add(queue, 0x20)
            let payout := payouts.offset
            for { let left := payouts.length } left { left := sub(left, 1) } {
                calldatacopy(add(words, 0x80), payout, 0x60)
                mstore(0x00, keccak256(add(words, 0x20), 0xc0))
                mstore(target, keccak256(0x00, 0x20))
                target := add(target, 0x20)
                payout := add(payout, 0x60)
            }
        }
    }

    /// @notice Marks payouts as paid.
    /// @dev Neighbours whose marks share a word cost one read and one write together: put leaves in order of index.
    /// Reverts with ExceedsTotal where an index or the sum is out of range.
    /// @param payouts 1 to 256.
    /// @param marks The bitmap of paid indices.
    /// @param payees Every index must be below this.
    /// @param unpaid What the settlement still has to give.
    /// @return fresh Which were not paid before; the lowest bit stands for the last payout.
    /// @return rest What the settlement has to give after these.
    function mark(
        Payout[] calldata payouts,
        mapping(uint256 => uint256) storage marks,
        uint256 payees,
        uint256 unpaid
    ) internal returns (uint256 fresh, uint256 rest) {
        rest = unpaid;
        assembly ("memory-safe") {
            let payout := payouts.offset
            // The slot of the word at hand is 0 before the first; no keccak-256 ends there.
            let place := not(0)
            let slot := 0
            let word := 0
            for { let left := payouts.length } left { left := sub(left, 1) } {
                let index := calldataload(payout)
                if xor(shr(8, index), place) {
                    if slot { sstore(slot, word) }
                    place := shr(8, index)
                    mstore(0x00, place)
                    mstore(0x20, marks.slot)
                    slot := keccak256(0x00, 0x40)
                    word := sload(slot)
                }
                // 1, shifted to the place of the index.
                // slither-disable-next-line incorrect-shift
                let bit := shl(and(index, 0xff), 1)
                fresh := add(fresh, fresh)
                if iszero(and(word, bit)) {
                    let amount := calldataload(add(payout, 0x40))
                    if or(gt(amount, rest), iszero(lt(index, payees))) {
                        mstore(0x00, EXCEEDS_TOTAL)
                        revert(0x1c, 0x04)
                    }
                    rest := sub(rest, amount)
                    fresh := or(fresh, 1)
                    word := or(word, bit)
                }
                payout := add(payout, 0x60)
            }
            sstore(slot, word)
        }
    }

    /// @notice Whether the first `leaves` entries of `queue` are leaves of the tree with this root.
    /// @dev Each step takes a node from the queue and hashes it with the next one (where its flag is set) or with the
    /// next of `proof`, and appends the result. The queue has room for exactly one result per flag.
    function verify(
        bytes32[] calldata proof,
        bool[] calldata proofFlags,
        bytes32 root,
        bytes32[] memory queue,
        uint256 leaves
    ) internal pure returns (bool isValid) {
        if (leaves + proof.length != proofFlags.length + 1) return false;
        assembly ("memory-safe") {
            let head := add(queue, 0x20)
            let tail := add(head, shl(5, leaves))
            let sibling := proof.offset
            let flag := proofFlags.offset
            for { let end := add(flag, shl(5, proofFlags.length)) } lt(flag, end) { flag := add(flag, 0x20) } {
                let left := mload(head)
                head := add(head, 0x20)
                let right := 0
                switch calldataload(flag)
                case 0 {
                    right := calldataload(sibling)
                    sibling := add(sibling, 0x20)
                }
                default {
                    right := mload(head)
                    head := add(head, 0x20)
                }
                let place := shl(5, lt(right, left))
                mstore(place, left)
                mstore(xor(place, 0x20), right)
                mstore(tail, keccak256(0x00, 0x40))
                tail := add(tail, 0x20)
            }
            // With the whole of `proof` used there were leaves - 1 set flags: the queue never ran out of nodes.
            isValid := and(eq(sibling, add(proof.offset, shl(5, proof.length))), eq(mload(sub(tail, 0x20)), root))
        }
    }

    /// @notice Sends each payout whose bit is set, from the last to the first, and logs each that was sent.
    /// @dev TokenTransfers.trySend and an event for each, without copying anything twice: a transfer's arguments are
    /// two neighbouring words of the payout. They were proven as whole words, so that bits beyond an address would
    /// have made another leaf. The free memory pointer and the zero slot are borrowed, and put back.
    /// @param fresh The lowest bit stands for the last payout.
    /// @param paidTopic Selector of Paid(uint256 indexed, uint256 indexed, address indexed, uint256).
    /// @return failed Bit i says that payout i could not be sent.
    function send(Payout[] calldata payouts, uint256 fresh, IERC20 token, uint256 jobId, bytes32 paidTopic)
        internal
        returns (uint256 failed)
    {
        // A call to an account without code succeeds and moves nothing.
        if (address(token).code.length == 0) revert TokenNotSupported();
        uint256 gasLimit = TokenTransfers.TRANSFER_GAS;
        uint256 selector = uint32(IERC20.transfer.selector);
        assembly ("memory-safe") {
            let kept := mload(0x40)
            mstore(0x00, selector)
            let payout := add(payouts.offset, mul(payouts.length, 0x60))
            for {} fresh { fresh := shr(1, fresh) } {
                payout := sub(payout, 0x60)
                if and(fresh, 1) {
                    calldatacopy(0x20, add(payout, 0x20), 0x40)
                    let isSent := call(gasLimit, token, 0, 0x1c, 0x44, 0x60, 0x20)
                    // True, or nothing at all, as old tokens answer.
                    isSent :=
                        and(isSent, or(iszero(returndatasize()), and(gt(returndatasize(), 0x1f), eq(mload(0x60), 1))))
                    switch isSent
                    case 0 {
                        // 1, shifted to the place of the payout.
                        // slither-disable-next-line incorrect-shift
                        failed := or(failed, shl(div(sub(payout, payouts.offset), 0x60), 1))
                    }
                    default { log4(0x40, 0x20, paidTopic, jobId, calldataload(payout), mload(0x20)) }
                }
            }
            mstore(0x40, kept)
            mstore(0x60, 0)
        }
    }
}
