// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {GalaxyRegistry} from "./GalaxyRegistry.sol";
import {InvalidSignature, Phase} from "./GalaxyTypes.sol";
import {Signatures} from "./Signatures.sol";

/// @title What GalaxyJobs remembers, its events, its refusals and its views
abstract contract JobStore is EIP712, ReentrancyGuard {
    using BitMaps for BitMaps.BitMap;

    /// @notice What a requester posts. Immutable from then on. Amounts in the token's smallest unit, windows in s.
    struct JobParameters {
        address token;
        bytes32 termsDigest;
        uint128 bounty;
        uint128 feePerSeat;
        uint128 bondPerIdentity;
        uint128 seatStake;
        uint32 rounds;
        uint32 minOwners;
        uint32 maxOwners;
        uint32 enrolWindow;
        uint32 roundWindow;
        uint32 anchorWindow;
        uint32 commitWindow;
        uint32 revealWindow;
        uint32 settleWindow;
        uint32 claimWindow;
        address[] evaluators;
    }

    /// @notice Everything recorded about a job.
    /// @dev `phaseStart`: since when the phase (in Training: the round) runs. `deadline`: when its ordinary window
    /// ends. `expiresAt`: from when `expire` works, 0 if never. `refundable`: owed to the requester and not yet sent.
    struct JobView {
        address requester;
        address token;
        bytes32 termsDigest;
        Phase phase;
        uint32 roundIndex;
        uint32 rounds;
        uint32 minOwners;
        uint32 maxOwners;
        uint32 cohortSize;
        bytes32 cohortRoot;
        uint8 quorum;
        uint8 seatsTaken;
        uint8 commits;
        uint8 reveals;
        uint64 phaseStart;
        uint64 deadline;
        uint64 expiresAt;
        uint128 bounty;
        uint128 feePerSeat;
        uint128 bondPerIdentity;
        uint128 seatStake;
        bytes32 payoutRoot;
        uint32 payees;
        uint256 total;
        uint256 paid;
        uint256 feesOwed;
        uint256 feesPaid;
        uint256 refundable;
        uint256 refunded;
        uint256 bondsHeld;
        bool claimsExpired;
        bytes32 directHead;
        bytes32 history;
        bytes32 modelDigest;
        uint256 faultySeats;
        uint32 enrolWindow;
        uint32 roundWindow;
        uint32 anchorWindow;
        uint32 commitWindow;
        uint32 revealWindow;
        uint32 settleWindow;
        uint32 claimWindow;
        address[] evaluators;
    }

    /// @dev The first word holds what anchoring a round and paying need most.
    struct Job {
        Phase phase;
        uint8 seats;
        uint8 quorum;
        uint40 phaseStart;
        uint16 roundIndex;
        uint16 rounds;
        uint24 cohortSize;
        uint24 minOwners;
        uint24 maxOwners;
        uint24 payees;
        uint32 roundWindow;
        bool claimsExpired;
        address requester;
        uint32 enrolWindow;
        uint32 anchorWindow;
        uint32 commitWindow;
        address token;
        uint32 revealWindow;
        uint32 settleWindow;
        uint32 claimWindow;
        uint128 bounty;
        uint128 feePerSeat;
        uint128 bondPerIdentity;
        uint128 seatStake;
        uint8 seatsTaken;
        uint8 commits;
        uint8 reveals;
        uint16 feeSeats; // bit i: seat i has earned its fee and has not been sent it
        uint16 faultySeats;
        uint128 feesOwed; // fees earned at settlement
        uint128 total;
        uint128 paid;
        uint128 feesPaid;
        uint128 bondsHeld;
        uint256 refundable;
        uint256 refunded;
        bytes32 termsDigest;
        bytes32 cohortRoot;
        bytes32 directHead;
        bytes32 history;
        bytes32 payoutRoot;
        bytes32 modelDigest;
        address[] evaluators;
    }

    struct Seat {
        uint8 place; // index in `evaluators` plus 1; 0: not taken
        bool standsBy; // said that it is there and cannot score yet
        bytes32 committed;
        bytes32 revealed;
    }

    uint256 internal constant MAX_SEATS = 15;
    uint256 internal constant MAX_PAYOUTS = 256; // as many as a word has bits
    uint256 internal constant MAX_FLAGS = 256 * 18; // more than 256 leaves need in a tree of 100,000
    uint256 internal constant SIGNATURE_BYTES = 65;
    /// @dev Stands for an empty history, so that the first round's anchor need not pay for a fresh storage word.
    bytes32 internal constant EMPTY_HISTORY = bytes32(uint256(1));

    GalaxyRegistry internal immutable _registry;

    /// @notice How many jobs were posted. Ids run from 1.
    uint256 public jobCount;

    mapping(uint256 jobId => Job) internal _jobs;
    mapping(uint256 jobId => mapping(address evaluator => Seat)) internal _seats;
    mapping(uint256 jobId => mapping(address dataOwner => address payer)) internal _bondPayers;
    mapping(uint256 jobId => mapping(address dataOwner => bool)) internal _hasEnrolled;
    /// @dev The owner's last direct update, as `_directEntry` packs it. Rounds only grow: one word per owner will do.
    mapping(uint256 jobId => mapping(address dataOwner => uint256)) internal _lastDirectEntry;
    mapping(uint256 jobId => BitMaps.BitMap) internal _isPaid;

    error RegistryMismatch();
    /// @param field The field of JobParameters at fault, in ASCII.
    error InvalidParameter(bytes32 field);
    error WrongPhase(Phase phase);
    error TooEarly(uint256 opensAt);
    error TooLate(uint256 closedAt);
    error NotRequester();
    error NotNamedEvaluator();
    error NotRegistered(address evaluator);
    error SeatAlreadyTaken();
    error NotSeated(address account);
    error SeatNotEligible(address account);
    error SignersNotAscending();
    error QuorumMissing(uint256 quorum);
    error WrongTerms();
    error WrongRound(uint32 roundIndex);
    error DatasetNotUsable();
    error AlreadyEnrolled();
    error AlreadySubmitted();
    error DirectEntriesMissing(bytes32 directHead);
    error SizeOutOfRange();
    error AlreadyStandingBy();
    error AlreadyCommitted();
    error NotCommitted();
    error CommitmentMismatch();
    error AlreadyRevealed();
    error InvalidSettlement();
    error NoBondAsked();
    error AlreadyBonded();
    error BondMissing();
    error NotEquivocation();
    error NotTerminal();
    error ClaimsAreOver();
    error InvalidPayouts();
    error InvalidProof();
    error AlreadyPaid();
    error NothingToPay();
    error NothingToRefund();
    error NothingToExpire();

    /// @notice The registry of evaluators and data sets.
    /// @return The registry.
    function registry() external view returns (GalaxyRegistry) {
        return _registry;
    }

    /// @notice Whether the payout with this index has been sent.
    /// @param jobId The job.
    /// @param index Of the leaf in the payout tree.
    /// @return Whether it has.
    function isPaid(uint256 jobId, uint256 index) external view returns (bool) {
        return _isPaid[jobId].get(index);
    }

    /// @notice An evaluator's seat: its index among the named, whether it is taken, what it committed and revealed.
    /// @dev Reverts with NotNamedEvaluator for anybody else.
    /// @param jobId The job.
    /// @param evaluator Whose seat.
    /// @return index Among the named evaluators.
    /// @return taken Whether it sits there.
    /// @return committed Its commitment; 0 where there is none.
    /// @return revealed The digest of its scores; 0 where it did not reveal.
    function seat(uint256 jobId, address evaluator)
        external
        view
        returns (uint256 index, bool taken, bytes32 committed, bytes32 revealed)
    {
        Seat storage seat_ = _seats[jobId][evaluator];
        return (
            _indexOf(_jobs[jobId].evaluators, evaluator), seat_.place != 0, seat_.committed, seat_.revealed
        );
    }

    /// @notice Everything recorded about a job. For an unknown one, the phase is None.
    /// @param jobId The job.
    /// @return v The record.
    function job(uint256 jobId) external view returns (JobView memory v) {
        Job storage j = _jobs[jobId];
        v.requester = j.requester;
        v.token = j.token;
        v.termsDigest = j.termsDigest;
        v.phase = j.phase;
        v.roundIndex = j.roundIndex;
        v.rounds = j.rounds;
        v.minOwners = j.minOwners;
        v.maxOwners = j.maxOwners;
        v.cohortSize = j.cohortSize;
        v.cohortRoot = j.cohortRoot;
        v.quorum = j.quorum;
        v.seatsTaken = j.seatsTaken;
        v.commits = j.commits;
        v.reveals = j.reveals;
        v.phaseStart = j.phaseStart;
        (v.deadline, v.expiresAt) = _deadlines(j);
        v.bounty = j.bounty;
        v.feePerSeat = j.feePerSeat;
        v.bondPerIdentity = j.bondPerIdentity;
        v.seatStake = j.seatStake;
        v.payoutRoot = j.payoutRoot;
        v.payees = j.payees;
        v.total = j.total;
        v.paid = j.paid;
        v.feesOwed = j.feesOwed;
        v.feesPaid = j.feesPaid;
        v.refundable = j.refundable;
        v.refunded = j.refunded;
        v.bondsHeld = j.bondsHeld;
        v.claimsExpired = j.claimsExpired;
        v.directHead = j.directHead;
        v.history = j.history == EMPTY_HISTORY ? bytes32(0) : j.history;
        v.modelDigest = j.modelDigest;
        v.faultySeats = j.faultySeats;
        v.enrolWindow = j.enrolWindow;
        v.roundWindow = j.roundWindow;
        v.anchorWindow = j.anchorWindow;
        v.commitWindow = j.commitWindow;
        v.revealWindow = j.revealWindow;
        v.settleWindow = j.settleWindow;
        v.claimWindow = j.claimWindow;
        v.evaluators = j.evaluators;
    }

    /// @dev The end of the current phase's window, and from when `expire` works. (0, 0) where neither exists.
    function _deadlines(Job storage j) internal view returns (uint64 deadline, uint64 expiresAt) {
        uint64 start = j.phaseStart;
        Phase phase = j.phase;
        if (phase == Phase.Enrolling) {
            deadline = start + j.enrolWindow;
            expiresAt = deadline + j.anchorWindow;
        } else if (phase == Phase.Training) {
            deadline = start + j.roundWindow;
            expiresAt = deadline + j.anchorWindow;
        } else if (phase == Phase.Committing) {
            deadline = start + j.commitWindow;
            expiresAt = deadline;
        } else if (phase == Phase.Revealing) {
            deadline = start + j.revealWindow;
            expiresAt = deadline + j.settleWindow;
        } else if (phase == Phase.Settled && !j.claimsExpired) {
            deadline = start + j.claimWindow;
            expiresAt = deadline;
        }
    }

    /// @dev An update's round plus 1 in the upper 32 bits, its struct hash without its last 32 bits below them.
    function _directEntry(uint32 roundIndex, bytes32 structHash) internal pure returns (uint256) {
        return (uint256(roundIndex) + 1) << 224 | uint256(structHash) >> 32;
    }

    /// @dev The job, if it is in `phase`.
    function _jobIn(uint256 jobId, Phase phase) internal view returns (Job storage j) {
        j = _jobs[jobId];
        if (j.phase != phase) revert WrongPhase(j.phase);
    }

    function _checkBefore(uint256 closesAt) internal view {
        if (block.timestamp >= closesAt) revert TooLate(closesAt);
    }

    function _checkSince(uint256 opensAt) internal view {
        if (block.timestamp < opensAt) revert TooEarly(opensAt);
    }

    function _indexOf(address[] storage evaluators, address evaluator) internal view returns (uint256) {
        uint256 count = evaluators.length;
        for (uint256 i = 0; i < count; ++i) {
            if (evaluators[i] == evaluator) return i;
        }
        revert NotNamedEvaluator();
    }

    /// @dev Who signed `structHash`: at least `quorum` 65-byte signatures, strictly ascending by signer.
    function _signers(uint256 quorum, bytes32 structHash, bytes calldata signatures)
        internal
        view
        returns (address[] memory signers)
    {
        uint256 count = signatures.length / SIGNATURE_BYTES;
        if (signatures.length % SIGNATURE_BYTES != 0 || count > MAX_SEATS) revert InvalidSignature();
        if (count < quorum) revert QuorumMissing(quorum);
        signers = new address[](count);
        bytes32 digest = _hashTypedDataV4(structHash);
        address previous = address(0);
        for (uint256 i = 0; i < count; ++i) {
            address signer =
                Signatures.signerOf(digest, signatures[i * SIGNATURE_BYTES:(i + 1) * SIGNATURE_BYTES]);
            if (signer <= previous) revert SignersNotAscending();
            previous = signer;
            signers[i] = signer;
        }
    }

    /// @dev Checks that a quorum of taken seats signed `structHash`.
    function _checkAnchor(uint256 jobId, uint256 quorum, bytes32 structHash, bytes calldata signatures)
        internal
        view
    {
        address[] memory signers = _signers(quorum, structHash, signatures);
        for (uint256 i = 0; i < signers.length; ++i) {
            if (_seats[jobId][signers[i]].place == 0) revert NotSeated(signers[i]);
        }
    }
}
