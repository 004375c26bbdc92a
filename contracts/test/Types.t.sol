// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyTypes} from "../src/GalaxyTypes.sol";
import {GalaxyTypesHarness} from "../src/dev/GalaxyTypesHarness.sol";
import {Base} from "./support/Base.sol";
import {eq, yes} from "./support/Vm.sol";

/// @dev The messages that are only signed off chain, and the digests of the harness, word by word.
contract TypesTest is Base {
    function test_a_round_opening_is_hashed_field_by_field() public pure {
        eq(
            GalaxyTypes.hash(GalaxyTypes.RoundOpening(1, 2, MODEL, TERMS)),
            keccak256(
                abi.encode(
                    keccak256(
                        "RoundOpening(uint256 jobId,uint32 roundIndex,bytes32 modelDigest,bytes32 parcelDigest)"
                    ),
                    1,
                    2,
                    MODEL,
                    TERMS
                )
            )
        );
    }

    function test_an_answer_is_hashed_field_by_field() public pure {
        eq(
            GalaxyTypes.hash(GalaxyTypes.MaskedAnswer(1, 2, 3, MODEL, TERMS)),
            keccak256(
                abi.encode(
                    keccak256(
                        "MaskedAnswer(uint256 jobId,uint32 roundIndex,uint32 phase,bytes32 questionsDigest,bytes32 answerDigest)"
                    ),
                    1,
                    2,
                    3,
                    MODEL,
                    TERMS
                )
            )
        );
    }

    function test_an_answer_set_is_hashed_field_by_field() public pure {
        eq(
            GalaxyTypes.hash(GalaxyTypes.AnswerSet(1, 2, 3, MODEL, TERMS)),
            keccak256(
                abi.encode(
                    keccak256(
                        "AnswerSet(uint256 jobId,uint32 roundIndex,uint32 phase,bytes32 questionsDigest,bytes32 answersRoot)"
                    ),
                    1,
                    2,
                    3,
                    MODEL,
                    TERMS
                )
            )
        );
    }

    function test_a_credential_is_hashed_field_by_field() public pure {
        eq(
            GalaxyTypes.hash(GalaxyTypes.Credential(TERMS, SCHEMA, STRANGER, 3)),
            keccak256(
                abi.encode(
                    keccak256("Credential(bytes32 scope,bytes32 subject,address dataOwner,uint64 expiresAt)"),
                    TERMS,
                    SCHEMA,
                    STRANGER,
                    3
                )
            )
        );
    }

    function test_a_presence_is_hashed_field_by_field() public pure {
        eq(
            GalaxyTypes.hash(GalaxyTypes.Presence(7, 3, STRANGER, 1, 9)),
            keccak256(
                abi.encode(
                    keccak256("Presence(uint256 jobId,uint32 roundIndex,address account,uint32 activity,uint64 seenAt)"),
                    7,
                    3,
                    STRANGER,
                    1,
                    9
                )
            )
        );
    }

    function test_digests_bind_the_contract_they_are_for() public {
        GalaxyTypesHarness harness = new GalaxyTypesHarness();
        GalaxyTypes.DatasetRevocation memory v = GalaxyTypes.DatasetRevocation(STRANGER, TERMS);
        bytes32 hash = harness.hashDatasetRevocation(v);
        eq(harness.digestDatasetRevocation(v, address(registry)), digest("GalaxyRegistry", address(registry), hash));
        yes(harness.digestDatasetRevocation(v, address(jobs)) != jobsDigest(hash), "another name");
        GalaxyTypes.Credential memory c = GalaxyTypes.Credential(TERMS, SCHEMA, STRANGER, 3);
        eq(harness.digestCredential(c, address(jobs)), jobsDigest(harness.hashCredential(c)));
    }
}
