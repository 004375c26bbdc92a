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

    function hashDatasetRegistration(GalaxyTypes.DatasetRegistration calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestDatasetRegistration(GalaxyTypes.DatasetRegistration calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(REGISTRY, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashDatasetRevocation(GalaxyTypes.DatasetRevocation calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestDatasetRevocation(GalaxyTypes.DatasetRevocation calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(REGISTRY, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashEnrolment(GalaxyTypes.Enrolment calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestEnrolment(GalaxyTypes.Enrolment calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashUpdate(GalaxyTypes.Update calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestUpdate(GalaxyTypes.Update calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashCohortAnchor(GalaxyTypes.CohortAnchor calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestCohortAnchor(GalaxyTypes.CohortAnchor calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashRoundOpening(GalaxyTypes.RoundOpening calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestRoundOpening(GalaxyTypes.RoundOpening calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashRoundAnchor(GalaxyTypes.RoundAnchor calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestRoundAnchor(GalaxyTypes.RoundAnchor calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashMaskedAnswer(GalaxyTypes.MaskedAnswer calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestMaskedAnswer(GalaxyTypes.MaskedAnswer calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashAnswerSet(GalaxyTypes.AnswerSet calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestAnswerSet(GalaxyTypes.AnswerSet calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashSettlement(GalaxyTypes.Settlement calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestSettlement(GalaxyTypes.Settlement calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashPresence(GalaxyTypes.Presence calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

    function digestPresence(GalaxyTypes.Presence calldata message, address verifyingContract)
        external
        view
        returns (bytes32)
    {
        return _digest(JOBS, verifyingContract, GalaxyTypes.hash(message));
    }

    function hashCredential(GalaxyTypes.Credential calldata message) external pure returns (bytes32) {
        return GalaxyTypes.hash(message);
    }

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
