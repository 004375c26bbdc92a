// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyJobs} from "../src/GalaxyJobs.sol";
import {GalaxyRegistry} from "../src/GalaxyRegistry.sol";
import {GalaxyTypes} from "../src/GalaxyTypes.sol";
import {JobFunds} from "../src/JobFunds.sol";
import {JobStore} from "../src/JobStore.sol";
import {PayoutProof} from "../src/PayoutProof.sol";
import {Base} from "./support/Base.sol";
import {eq, vm} from "./support/Vm.sol";

/// @dev Nodes and auditors know what happened from events alone: those that no other test looks at.
contract EventsTest is Base {
    function expected() private {
        vm.expectEmit(true, true, true, true);
    }

    function test_an_evaluators_stake_is_told_step_by_step() public {
        bytes32 key = keccak256("key");
        token.mint(STRANGER, 5);
        vm.startPrank(STRANGER);
        token.approve(address(registry), 5);
        expected();
        emit GalaxyRegistry.EvaluatorRegistered(STRANGER, key);
        registry.registerEvaluator(key);
        expected();
        emit GalaxyRegistry.StakeDeposited(STRANGER, 5);
        registry.depositStake(5);
        expected();
        emit GalaxyRegistry.WithdrawalRequested(STRANGER, 2, uint64(START) + UNBONDING);
        registry.requestWithdrawal(2);
        vm.warp(START + UNBONDING);
        expected();
        emit GalaxyRegistry.StakeWithdrawn(STRANGER, 2);
        registry.withdraw();
        vm.stopPrank();
        vm.startPrank(address(jobs));
        expected();
        emit GalaxyRegistry.StakeLocked(STRANGER, 3);
        registry.lockStake(STRANGER, 3);
        expected();
        emit GalaxyRegistry.StakeReleased(STRANGER, 1);
        registry.releaseStake(STRANGER, 1);
        expected();
        emit GalaxyRegistry.StakeSlashed(STRANGER, 2);
        expected();
        emit GalaxyRegistry.StakeBurned(2);
        registry.slashStake(STRANGER, 2);
        vm.stopPrank();
    }

    function test_a_data_sets_consent_is_told() public {
        bytes32 commitment = keccak256("commitment");
        bytes32 id = GalaxyTypes.datasetId(STRANGER, commitment);
        vm.startPrank(STRANGER);
        expected();
        emit GalaxyRegistry.DatasetRegistered(id, STRANGER, commitment, SCHEMA);
        registry.registerDataset(GalaxyTypes.DatasetRegistration(STRANGER, commitment, SCHEMA), "");
        expected();
        emit GalaxyRegistry.DatasetRevoked(id, STRANGER);
        registry.revokeDataset(GalaxyTypes.DatasetRevocation(STRANGER, id), "");
        vm.stopPrank();
    }

    function test_a_seats_commitment_is_told() public {
        uint256 jobId = inCommitting(parameters());
        bytes32 committed = commitment(jobId, evaluator(1));
        expected();
        emit GalaxyJobs.ScoresCommitted(jobId, evaluator(1), committed);
        vm.prank(evaluator(1));
        jobs.commitScores(jobId, committed);
    }

    function test_standing_by_is_told() public {
        uint256 jobId = inCommitting(parameters());
        expected();
        emit GalaxyJobs.StoodBy(jobId, evaluator(1));
        vm.prank(evaluator(1));
        jobs.standBy(jobId);
    }

    function test_a_claim_is_told() public {
        uint256 jobId = inSettled(parameters());
        PayoutProof.Payout memory last = payouts()[3];
        bytes32[] memory proof = proofOf(jobId, payouts(), 3);
        expected();
        emit JobFunds.Paid(jobId, 3, last.account, last.amount);
        jobs.claim(jobId, 3, last.account, last.amount, proof);
    }

    function test_a_bond_and_a_refund_are_told() public {
        JobStore.JobParameters memory p = parameters();
        p.bondPerIdentity = 5;
        uint256 jobId = post(p);
        token.mint(STRANGER, 5);
        vm.startPrank(STRANGER);
        token.approve(address(jobs), 5);
        expected();
        emit JobFunds.BondDeposited(jobId, payee(0), STRANGER, 5);
        jobs.depositBond(jobId, payee(0));
        vm.stopPrank();
        vm.warp(START + 100);
        vm.prank(REQUESTER);
        jobs.cancel(jobId);
        eq(jobs.job(jobId).phaseStart, START + 100);
        expected();
        emit JobFunds.BondReturned(jobId, payee(0), STRANGER, 5);
        jobs.returnBond(jobId, payee(0));
        expected();
        emit JobFunds.Refunded(jobId, REQUESTER, uint256(BOUNTY) + 3 * uint256(FEE));
        jobs.refund(jobId);
    }
}
