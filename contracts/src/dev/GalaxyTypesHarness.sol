// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {GalaxyTypes} from "../GalaxyTypes.sol";

/// @title The EIP-712 hashes of every message, for other languages to compare theirs with
/// @notice `hashX` is the struct hash; `digestX` is what is signed for the given contract on this chain.
contract GalaxyTypesHarness {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    string private constant JOBS = "GalaxyJobs";
    string private constant REGISTRY = "GalaxyRegistry";

    /// @notice Struct hash of a DatasetRegistration.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashDatasetRegistration(GalaxyTypes.DatasetRegistration calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a DatasetRegistration.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestDatasetRegistration(GalaxyTypes.DatasetRegistration calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(REGISTRY, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a DatasetRevocation.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashDatasetRevocation(GalaxyTypes.DatasetRevocation calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a DatasetRevocation.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestDatasetRevocation(GalaxyTypes.DatasetRevocation calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(REGISTRY, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a Enrolment.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashEnrolment(GalaxyTypes.Enrolment calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a Enrolment.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestEnrolment(GalaxyTypes.Enrolment calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a Update.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashUpdate(GalaxyTypes.Update calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a Update.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestUpdate(GalaxyTypes.Update calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a CohortAnchor.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashCohortAnchor(GalaxyTypes.CohortAnchor calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a CohortAnchor.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestCohortAnchor(GalaxyTypes.CohortAnchor calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a RoundOpening.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashRoundOpening(GalaxyTypes.RoundOpening calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a RoundOpening.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestRoundOpening(GalaxyTypes.RoundOpening calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a RoundAnchor.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashRoundAnchor(GalaxyTypes.RoundAnchor calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a RoundAnchor.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestRoundAnchor(GalaxyTypes.RoundAnchor calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a MaskedAnswer.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashMaskedAnswer(GalaxyTypes.MaskedAnswer calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a MaskedAnswer.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestMaskedAnswer(GalaxyTypes.MaskedAnswer calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a AnswerSet.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashAnswerSet(GalaxyTypes.AnswerSet calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a AnswerSet.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestAnswerSet(GalaxyTypes.AnswerSet calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a Settlement.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashSettlement(GalaxyTypes.Settlement calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a Settlement.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestSettlement(GalaxyTypes.Settlement calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a Presence.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashPresence(GalaxyTypes.Presence calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a Presence.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestPresence(GalaxyTypes.Presence calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    /// @notice Struct hash of a Credential.
    /// @param message Its fields.
    /// @return Of 32 bytes.
    function hashCredential(GalaxyTypes.Credential calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    /// @notice What is signed of a Credential.
    /// @param message Its fields.
    /// @param verifyingContract The contract it is signed for.
    /// @return An EIP-712 digest.
    function digestCredential(GalaxyTypes.Credential calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function _digest(string memory name, address verifyingContract, bytes32 structHash)
        private
        view
        returns (bytes32)
    {
        bytes32 separator = keccak256(
            abi.encode(
                DOMAIN_TYPEHASH, keccak256(bytes(name)), keccak256("1"), block.chainid, verifyingContract
            )
        );
        return MessageHashUtils.toTypedDataHash(separator, structHash);
    }
}
