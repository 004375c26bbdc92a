// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyJobs} from "../src/GalaxyJobs.sol";
import {GalaxyTypes, Phase} from "../src/GalaxyTypes.sol";
import {JobStore} from "../src/JobStore.sol";
import {PayoutProof} from "../src/PayoutProof.sol";
import {Base} from "./support/Base.sol";
import {eq, vm, yes} from "./support/Vm.sol";

/// @dev The deadline table: every phase has a way out that time and a stranger can take.
contract ExpiryTest is Base {
    function staked(uint256 i) private view returns (uint256 amount) {
        (, amount,,,) = registry.evaluator(evaluator(i));
    }

    /// @dev Nothing to expire one second before `moment`; afterwards a stranger may.
    function expireAt(uint256 jobId, uint256 moment) private {
        eq(jobs.job(jobId).expiresAt, moment);
        vm.warp(moment - 1);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToExpire.selector));
        jobs.expire(jobId);
        vm.warp(moment);
        vm.prank(STRANGER);
        jobs.expire(jobId);
    }

    function checkAborted(uint256 jobId) private {
        yes(jobs.job(jobId).phase == Phase.Aborted, "aborted");
        eq(jobs.job(jobId).expiresAt, 0);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToExpire.selector));
        jobs.expire(jobId);
        vm.prank(STRANGER);
        jobs.refund(jobId);
        eq(token.balanceOf(REQUESTER), BOUNTY + 3 * FEE);
        eq(token.balanceOf(address(jobs)), 0);
        checkConservation(jobId);
        for (uint256 i = 0; i < 3; ++i) {
            (,, uint128 locked,,) = registry.evaluator(evaluator(i));
            eq(locked, 0);
        }
    }

    function test_the_requester_cancels_while_owners_enrol() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, 5);
        vm.expectRevert(abi.encodePacked(JobStore.NotRequester.selector));
        jobs.cancel(jobId);
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.JobAborted(jobId, Phase.Enrolling);
        vm.prank(REQUESTER);
        jobs.cancel(jobId);
        eq(staked(0), 10 * STAKE);
        checkAborted(jobId);
        jobId = inTraining(parameters());
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Training));
        jobs.cancel(jobId);
    }

    function test_an_unknown_job_does_not_expire() public {
        vm.expectRevert(abi.encodePacked(JobStore.NothingToExpire.selector));
        jobs.expire(1);
    }

    function test_enrolling_expires() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, ALL);
        expireAt(jobId, START + 2 * WINDOW);
        eq(staked(0), 10 * STAKE);
        checkAborted(jobId);
    }

    function test_training_without_a_round_is_aborted() public {
        uint256 jobId = inTraining(parameters());
        expireAt(jobId, START + 2 * WINDOW);
        eq(staked(1), 10 * STAKE);
        checkAborted(jobId);
    }

    function test_training_with_a_round_goes_on_to_scores() public {
        uint256 jobId = inTraining(parameters());
        anchorRound(jobId);
        GalaxyTypes.Update memory u = GalaxyTypes.Update(jobId, 1, TERMS, STRANGER, MODEL, MODEL);
        vm.prank(STRANGER);
        jobs.submitUpdateDirectly(u, "");
        expireAt(jobId, START + 2 * WINDOW);
        yes(jobs.job(jobId).phase == Phase.Committing, "committing");
        eq(jobs.job(jobId).directHead, bytes32(0));
        eq(jobs.job(jobId).deadline, START + 3 * WINDOW);
    }

    function test_committing_with_a_quorum_goes_on_to_reveals() public {
        uint256 jobId = inCommitting(parameters());
        commit(jobId, 3);
        expireAt(jobId, START + WINDOW);
        yes(jobs.job(jobId).phase == Phase.Revealing, "revealing");
        reveal(jobId, 3);
        settle(settlement(jobId, 1000 ether, 0), 3);
        eq(staked(2), 9 * STAKE);
        eq(staked(0), 10 * STAKE);
    }

    function test_committing_without_a_quorum_is_aborted_and_the_silent_are_slashed() public {
        uint256 jobId = inCommitting(parameters());
        commit(jobId, 2);
        expireAt(jobId, START + WINDOW);
        eq(staked(0), 9 * STAKE);
        eq(staked(1), 10 * STAKE);
        eq(staked(2), 9 * STAKE);
        eq(token.balanceOf(registry.BURN_ADDRESS()), 2 * STAKE);
        checkAborted(jobId);
    }

    function standBy(uint256 jobId, uint256 i) private {
        vm.prank(evaluator(i));
        jobs.standBy(jobId);
    }

    function test_who_stands_by_keeps_its_stake_where_too_few_commit() public {
        uint256 jobId = inCommitting(parameters());
        standBy(jobId, 0);
        commit(jobId, 2);
        expireAt(jobId, START + WINDOW);
        eq(staked(0), 10 * STAKE);
        eq(staked(1), 10 * STAKE);
        eq(staked(2), 9 * STAKE);
        checkAborted(jobId);
    }

    function test_who_stands_by_keeps_its_stake_where_nothing_is_settled() public {
        uint256 jobId = inCommitting(parameters());
        standBy(jobId, 0);
        commit(jobId, 6);
        expireAt(jobId, START + WINDOW);
        reveal(jobId, 2);
        expireAt(jobId, START + 3 * WINDOW);
        eq(staked(0), 10 * STAKE);
        eq(staked(1), 10 * STAKE);
        eq(staked(2), 9 * STAKE);
        checkAborted(jobId);
    }

    function test_who_commits_after_all_must_reveal() public {
        uint256 jobId = inCommitting(parameters());
        standBy(jobId, 0);
        commit(jobId, ALL);
        yes(jobs.job(jobId).phase == Phase.Revealing, "revealing");
        reveal(jobId, 6);
        expireAt(jobId, START + 2 * WINDOW);
        eq(staked(0), 9 * STAKE);
        eq(staked(1), 10 * STAKE);
        checkAborted(jobId);
    }

    function test_who_stands_by_while_others_settle_is_slashed() public {
        uint256 jobId = inCommitting(parameters());
        standBy(jobId, 2);
        commit(jobId, 3);
        expireAt(jobId, START + WINDOW);
        reveal(jobId, 3);
        settle(settlement(jobId, 1000 ether, 0), 3);
        eq(staked(2), 9 * STAKE);
        eq(staked(0), 10 * STAKE);
    }

    function test_standing_by_is_for_seats_without_scores_in_time_and_once() public {
        uint256 jobId = inTraining(parameters());
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Training));
        vm.prank(evaluator(0));
        jobs.standBy(jobId);
        jobId = inCommitting(parameters());
        vm.expectRevert(abi.encodeWithSelector(JobStore.NotSeated.selector, STRANGER));
        vm.prank(STRANGER);
        jobs.standBy(jobId);
        standBy(jobId, 0);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyStandingBy.selector));
        vm.prank(evaluator(0));
        jobs.standBy(jobId);
        commit(jobId, 2);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyCommitted.selector));
        vm.prank(evaluator(1));
        jobs.standBy(jobId);
        vm.warp(START + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooLate.selector, START + WINDOW));
        vm.prank(evaluator(2));
        jobs.standBy(jobId);
    }

    function test_revealing_is_aborted_and_the_silent_are_slashed() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, 4);
        expireAt(jobId, START + 2 * WINDOW);
        eq(staked(0), 9 * STAKE);
        eq(staked(1), 9 * STAKE);
        eq(staked(2), 10 * STAKE);
        checkAborted(jobId);
    }

    function test_what_nobody_claimed_becomes_the_requesters_once() public {
        JobStore.JobParameters memory p = parameters();
        p.bondPerIdentity = 5 ether;
        uint256 jobId = post(p);
        token.mint(STRANGER, 10 ether);
        vm.startPrank(STRANGER);
        token.approve(address(jobs), 10 ether);
        jobs.depositBond(jobId, payee(0));
        jobs.depositBond(jobId, payee(1));
        vm.stopPrank();
        takeSeats(jobId, ALL);
        anchorCohort(jobId, 4);
        anchorRound(jobId);
        anchorRound(jobId);
        commit(jobId, ALL);
        reveal(jobId, ALL);
        settle(settlement(jobId, 1000 ether, 0), ALL);
        jobs.returnBond(jobId, payee(0));
        PayoutProof.Payout[] memory list = payouts();
        jobs.claim(jobId, 0, list[0].account, list[0].amount, proofOf(jobId, list, 0));
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.ClaimsExpired(jobId, 900 ether + 3 * FEE + 5 ether);
        this.expireFor(jobId, START + CLAIM_WINDOW);
        bytes memory refusal = abi.encodePacked(JobStore.ClaimsAreOver.selector);
        bytes32[] memory proof = proofOf(jobId, list, 1);
        vm.expectRevert(refusal);
        jobs.claim(jobId, 1, list[1].account, list[1].amount, proof);
        vm.expectRevert(refusal);
        jobs.pay(jobId, list, new bytes32[](0), new bool[](3));
        vm.expectRevert(refusal);
        jobs.payFees(jobId);
        vm.expectRevert(refusal);
        jobs.returnBond(jobId, payee(1));
        vm.expectRevert(abi.encodePacked(JobStore.NothingToExpire.selector));
        jobs.expire(jobId);
        jobs.refund(jobId);
        eq(token.balanceOf(REQUESTER), 900 ether + 3 * FEE + 5 ether);
        eq(token.balanceOf(address(jobs)), 0);
        yes(jobs.job(jobId).claimsExpired, "over");
        yes(jobs.job(jobId).phase == Phase.Settled, "still settled");
    }

    function expireFor(uint256 jobId, uint256 moment) external {
        vm.warp(moment);
        vm.prank(STRANGER);
        jobs.expire(jobId);
    }
}
