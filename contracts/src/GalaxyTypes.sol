// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice The phases of a job, in the order of its life. `Settled` and `Aborted` are terminal.
enum Phase {
    None,
    Enrolling,
    Training,
    Committing,
    Revealing,
    Settled,
    Aborted
}

/// @dev Refusals that both contracts use.
error InvalidSignature();
error TokenNotSupported();
error ZeroDigest();
error ZeroAmount();

/// @title Everything an actor signs, as EIP-712 structs, and their hashes
/// @notice All fields are static, so `abi.encode(typeHash, struct)` is the EIP-712 encoding of the struct.
library GalaxyTypes {
    struct DatasetRegistration {
        address dataOwner;
        bytes32 commitment;
        bytes32 schemaDigest;
    }

    struct DatasetRevocation {
        address dataOwner;
        bytes32 datasetId;
    }

    struct Enrolment {
        uint256 jobId;
        bytes32 termsDigest;
        address dataOwner;
        bytes32 datasetId;
        bytes32 sealingKeyDigest;
        bytes32 credentialDigest;
    }

    struct Update {
        uint256 jobId;
        uint32 roundIndex;
        bytes32 termsDigest;
        address dataOwner;
        bytes32 modelDigest;
        bytes32 updateDigest;
    }

    struct CohortAnchor {
        uint256 jobId;
        bytes32 root;
        uint32 size;
        bytes32 directHead;
    }

    struct RoundOpening {
        uint256 jobId;
        uint32 roundIndex;
        bytes32 modelDigest;
        bytes32 parcelDigest;
    }

    struct RoundAnchor {
        uint256 jobId;
        uint32 roundIndex;
        bytes32 root;
        uint32 count;
        bytes32 directHead;
        bytes32 modelDigest;
    }

    struct MaskedAnswer {
        uint256 jobId;
        uint32 roundIndex;
        uint32 phase;
        bytes32 questionsDigest;
        bytes32 answerDigest;
    }

    struct AnswerSet {
        uint256 jobId;
        uint32 roundIndex;
        uint32 phase;
        bytes32 questionsDigest;
        bytes32 answersRoot;
    }

    struct Settlement {
        uint256 jobId;
        bytes32 payoutRoot;
        uint256 total;
        uint32 payees;
        bytes32 modelDigest;
        uint256 faultySeats;
    }

    struct Presence {
        uint256 jobId;
        uint32 roundIndex;
        address account;
        uint32 activity;
        uint64 seenAt;
    }

    struct Credential {
        bytes32 scope;
        bytes32 subject;
        address dataOwner;
        uint64 expiresAt;
    }

    bytes32 internal constant DATASET_REGISTRATION_TYPEHASH =
        keccak256("DatasetRegistration(address dataOwner,bytes32 commitment,bytes32 schemaDigest)");
    bytes32 internal constant DATASET_REVOCATION_TYPEHASH =
        keccak256("DatasetRevocation(address dataOwner,bytes32 datasetId)");
    bytes32 internal constant ENROLMENT_TYPEHASH = keccak256(
        "Enrolment(uint256 jobId,bytes32 termsDigest,address dataOwner,bytes32 datasetId,bytes32 sealingKeyDigest,bytes32 credentialDigest)"
    );
    bytes32 internal constant UPDATE_TYPEHASH = keccak256(
        "Update(uint256 jobId,uint32 roundIndex,bytes32 termsDigest,address dataOwner,bytes32 modelDigest,bytes32 updateDigest)"
    );
    bytes32 internal constant COHORT_ANCHOR_TYPEHASH =
        keccak256("CohortAnchor(uint256 jobId,bytes32 root,uint32 size,bytes32 directHead)");
    bytes32 internal constant ROUND_OPENING_TYPEHASH =
        keccak256("RoundOpening(uint256 jobId,uint32 roundIndex,bytes32 modelDigest,bytes32 parcelDigest)");
    bytes32 internal constant ROUND_ANCHOR_TYPEHASH = keccak256(
        "RoundAnchor(uint256 jobId,uint32 roundIndex,bytes32 root,uint32 count,bytes32 directHead,bytes32 modelDigest)"
    );
    bytes32 internal constant MASKED_ANSWER_TYPEHASH = keccak256(
        "MaskedAnswer(uint256 jobId,uint32 roundIndex,uint32 phase,bytes32 questionsDigest,bytes32 answerDigest)"
    );
    bytes32 internal constant ANSWER_SET_TYPEHASH = keccak256(
        "AnswerSet(uint256 jobId,uint32 roundIndex,uint32 phase,bytes32 questionsDigest,bytes32 answersRoot)"
    );
    bytes32 internal constant SETTLEMENT_TYPEHASH = keccak256(
        "Settlement(uint256 jobId,bytes32 payoutRoot,uint256 total,uint32 payees,bytes32 modelDigest,uint256 faultySeats)"
    );
    bytes32 internal constant PRESENCE_TYPEHASH =
        keccak256("Presence(uint256 jobId,uint32 roundIndex,address account,uint32 activity,uint64 seenAt)");
    bytes32 internal constant CREDENTIAL_TYPEHASH =
        keccak256("Credential(bytes32 scope,bytes32 subject,address dataOwner,uint64 expiresAt)");

    /// @notice Identifies a data set by its owner and its salted commitment.
    function datasetId(address dataOwner, bytes32 commitment) internal pure returns (bytes32) {
        return keccak256(abi.encode(dataOwner, commitment));
    }

    function hash(DatasetRegistration memory r) internal pure returns (bytes32) {
        return keccak256(abi.encode(DATASET_REGISTRATION_TYPEHASH, r));
    }

    function hash(DatasetRevocation memory r) internal pure returns (bytes32) {
        return keccak256(abi.encode(DATASET_REVOCATION_TYPEHASH, r));
    }

    function hash(Enrolment memory e) internal pure returns (bytes32) {
        return keccak256(abi.encode(ENROLMENT_TYPEHASH, e));
    }

    function hash(Update memory u) internal pure returns (bytes32) {
        return keccak256(abi.encode(UPDATE_TYPEHASH, u));
    }

    function hash(CohortAnchor memory a) internal pure returns (bytes32) {
        return keccak256(abi.encode(COHORT_ANCHOR_TYPEHASH, a));
    }

    function hash(RoundOpening memory o) internal pure returns (bytes32) {
        return keccak256(abi.encode(ROUND_OPENING_TYPEHASH, o));
    }

    function hash(RoundAnchor memory a) internal pure returns (bytes32) {
        return keccak256(abi.encode(ROUND_ANCHOR_TYPEHASH, a));
    }

    function hash(MaskedAnswer memory a) internal pure returns (bytes32) {
        return keccak256(abi.encode(MASKED_ANSWER_TYPEHASH, a));
    }

    function hash(AnswerSet memory a) internal pure returns (bytes32) {
        return keccak256(abi.encode(ANSWER_SET_TYPEHASH, a));
    }

    function hash(Settlement memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(SETTLEMENT_TYPEHASH, s));
    }

    function hash(Presence memory p) internal pure returns (bytes32) {
        return keccak256(abi.encode(PRESENCE_TYPEHASH, p));
    }

    function hash(Credential memory c) internal pure returns (bytes32) {
        return keccak256(abi.encode(CREDENTIAL_TYPEHASH, c));
    }
}
