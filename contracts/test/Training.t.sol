// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyJobs} from "../src/GalaxyJobs.sol";
import {GalaxyTypes, InvalidSignature, Phase, ZeroDigest} from "../src/GalaxyTypes.sol";
import {JobStore} from "../src/JobStore.sol";
import {Base} from "./support/Base.sol";
import {eq, vm, yes} from "./support/Vm.sol";

/// @dev Rounds, direct updates, commits and reveals.
contract TrainingTest is Base {
    uint256 private constant OWNER_KEY = 0xB0B;

    function update(uint256 jobId, uint32 roundIndex) private pure returns (GalaxyTypes.Update memory) {
        return GalaxyTypes.Update(jobId, roundIndex, TERMS, vm.addr(OWNER_KEY), MODEL, keccak256("update"));
    }

    function test_rounds_chain_their_history() public {
        uint256 jobId = inTraining(parameters());
        bytes32 history = 0;
        for (uint32 i = 0; i < 2; ++i) {
            GalaxyTypes.RoundAnchor memory a = roundAnchor(jobId, 4);
            history = keccak256(abi.encode(history, GalaxyTypes.hash(a)));
            bytes memory signatures = signed(GalaxyTypes.hash(a), 3);
            vm.expectEmit(true, true, true, true);
            emit GalaxyJobs.RoundAnchored(jobId, i, a.root, 4, 0, MODEL, history);
            jobs.anchorRound(a, signatures);
            eq(jobs.job(jobId).history, history);
            eq(jobs.job(jobId).roundIndex, i + 1);
        }
        yes(jobs.job(jobId).phase == Phase.Committing, "all rounds done");
        eq(jobs.job(jobId).deadline, START + WINDOW);
    }

    function test_a_round_with_all_need_not_wait_and_one_with_enough_must() public {
        uint256 jobId = inTraining(parameters());
        GalaxyTypes.RoundAnchor memory a = roundAnchor(jobId, 3);
        bytes memory signatures = signed(GalaxyTypes.hash(a), ALL);
        vm.warp(START + WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooEarly.selector, START + WINDOW));
        jobs.anchorRound(a, signatures);
        vm.warp(START + WINDOW);
        jobs.anchorRound(a, signatures);
        eq(jobs.job(jobId).roundIndex, 1);
        eq(jobs.job(jobId).deadline, START + 2 * WINDOW);
        a = roundAnchor(jobId, 2);
        signatures = signed(GalaxyTypes.hash(a), ALL);
        vm.warp(START + 2 * WINDOW);
        jobs.anchorRound(a, signatures);
        eq(jobs.job(jobId).roundIndex, 2);
    }

    function test_a_round_out_of_turn_or_range_is_refused() public {
        uint256 jobId = inTraining(parameters());
        GalaxyTypes.RoundAnchor memory a = roundAnchor(jobId, 4);
        a.roundIndex = 1;
        bytes memory signatures = signed(GalaxyTypes.hash(a), ALL);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongRound.selector, 0));
        jobs.anchorRound(a, signatures);
        for (uint32 count = 1; count < 6; count += 4) {
            a = roundAnchor(jobId, count);
            signatures = signed(GalaxyTypes.hash(a), ALL);
            vm.expectRevert(abi.encodePacked(JobStore.SizeOutOfRange.selector));
            jobs.anchorRound(a, signatures);
        }
        a = roundAnchor(jobId, 4);
        signatures = signed(GalaxyTypes.hash(a), 1);
        vm.expectRevert(abi.encodeWithSelector(JobStore.QuorumMissing.selector, 2));
        jobs.anchorRound(a, signatures);
        uint256 other = post(parameters());
        a.jobId = other;
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Enrolling));
        jobs.anchorRound(a, signatures);
    }

    function test_signatures_of_another_job_do_not_anchor() public {
        uint256 first = inTraining(parameters());
        uint256 second = inTraining(parameters());
        GalaxyTypes.RoundAnchor memory a = roundAnchor(first, 4);
        bytes memory signatures = signed(GalaxyTypes.hash(a), 3);
        a.jobId = second;
        vm.expectRevert();
        jobs.anchorRound(a, signatures);
    }

    function test_direct_updates_cannot_be_left_out() public {
        uint256 jobId = inTraining(parameters());
        GalaxyTypes.RoundAnchor memory stale = roundAnchor(jobId, 4);
        bytes memory staleSignatures = signed(GalaxyTypes.hash(stale), ALL);
        GalaxyTypes.Update memory u = update(jobId, 0);
        bytes32 head = keccak256(abi.encode(bytes32(0), GalaxyTypes.hash(u)));
        bytes memory signature = signedBy(OWNER_KEY, jobsDigest(GalaxyTypes.hash(u)));
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.UpdateSubmittedDirectly(jobId, 0, u.dataOwner, u, signature, head);
        jobs.submitUpdateDirectly(u, signature);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadySubmitted.selector));
        jobs.submitUpdateDirectly(u, signature);
        vm.expectRevert(abi.encodeWithSelector(JobStore.DirectEntriesMissing.selector, head));
        jobs.anchorRound(stale, staleSignatures);
        anchorRound(jobId);
        eq(jobs.job(jobId).directHead, bytes32(0));
        u = update(jobId, 1);
        vm.prank(u.dataOwner);
        jobs.submitUpdateDirectly(u, "");
        eq(jobs.job(jobId).directHead, keccak256(abi.encode(bytes32(0), GalaxyTypes.hash(u))));
    }

    function test_a_direct_update_must_be_right() public {
        uint256 jobId = inTraining(parameters());
        GalaxyTypes.Update memory u = update(jobId, 1);
        vm.startPrank(u.dataOwner);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongRound.selector, 0));
        jobs.submitUpdateDirectly(u, "");
        u = update(jobId, 0);
        u.termsDigest = MODEL;
        vm.expectRevert(abi.encodePacked(JobStore.WrongTerms.selector));
        jobs.submitUpdateDirectly(u, "");
        u = update(jobId, 0);
        vm.warp(START + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooLate.selector, START + WINDOW));
        jobs.submitUpdateDirectly(u, "");
        vm.stopPrank();
        vm.warp(START);
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.submitUpdateDirectly(u, "");
        u.jobId = post(parameters());
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Enrolling));
        jobs.submitUpdateDirectly(u, "");
    }

    function test_scores_are_committed_then_revealed() public {
        uint256 jobId = inCommitting(parameters());
        commit(jobId, 3);
        yes(jobs.job(jobId).phase == Phase.Committing, "one is missing");
        eq(jobs.job(jobId).commits, 2);
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.PhaseChanged(jobId, Phase.Committing, Phase.Revealing);
        commit(jobId, 4);
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.ScoresRevealed(jobId, evaluator(0), SCORES);
        reveal(jobId, 1);
        eq(jobs.job(jobId).reveals, 1);
        (,, bytes32 committed, bytes32 revealed) = jobs.seat(jobId, evaluator(0));
        eq(committed, commitment(jobId, evaluator(0)));
        eq(revealed, SCORES);
    }

    function test_a_commitment_must_be_right() public {
        uint256 jobId = inCommitting(parameters());
        vm.expectRevert(abi.encodeWithSelector(JobStore.NotSeated.selector, STRANGER));
        vm.prank(STRANGER);
        jobs.commitScores(jobId, TERMS);
        vm.startPrank(evaluator(0));
        vm.expectRevert(abi.encodePacked(ZeroDigest.selector));
        jobs.commitScores(jobId, 0);
        jobs.commitScores(jobId, TERMS);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyCommitted.selector));
        jobs.commitScores(jobId, TERMS);
        vm.stopPrank();
        vm.warp(START + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooLate.selector, START + WINDOW));
        vm.prank(evaluator(1));
        jobs.commitScores(jobId, TERMS);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Committing));
        vm.prank(evaluator(0));
        jobs.revealScores(jobId, SCORES, SALT);
    }

    function test_a_reveal_must_match() public {
        uint256 jobId = inRevealing(parameters());
        vm.expectRevert(abi.encodePacked(JobStore.NotCommitted.selector));
        vm.prank(STRANGER);
        jobs.revealScores(jobId, SCORES, SALT);
        vm.startPrank(evaluator(0));
        vm.expectRevert(abi.encodePacked(ZeroDigest.selector));
        jobs.revealScores(jobId, 0, SALT);
        vm.expectRevert(abi.encodePacked(JobStore.CommitmentMismatch.selector));
        jobs.revealScores(jobId, SCORES, TERMS);
        vm.expectRevert(abi.encodePacked(JobStore.CommitmentMismatch.selector));
        jobs.revealScores(jobId, TERMS, SALT);
        jobs.revealScores(jobId, SCORES, SALT);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyRevealed.selector));
        jobs.revealScores(jobId, SCORES, SALT);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Revealing));
        jobs.commitScores(jobId, TERMS);
        vm.stopPrank();
        vm.warp(START + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooLate.selector, START + WINDOW));
        vm.prank(evaluator(1));
        jobs.revealScores(jobId, SCORES, SALT);
    }

    function test_a_copied_commitment_cannot_be_revealed() public {
        uint256 jobId = inCommitting(parameters());
        bytes32 copied = commitment(jobId, evaluator(0));
        commit(jobId, 5);
        vm.startPrank(evaluator(1));
        jobs.commitScores(jobId, copied);
        vm.expectRevert(abi.encodePacked(JobStore.CommitmentMismatch.selector));
        jobs.revealScores(jobId, SCORES, SALT);
        vm.stopPrank();
    }

    function testFuzz_only_what_was_committed_is_revealed(bytes32 scores, bytes32 salt, bytes32 other) public {
        vm.assume(scores != 0 && other != 0 && other != scores);
        uint256 jobId = inCommitting(parameters());
        bytes32 committed =
            keccak256(abi.encode(block.chainid, address(jobs), jobId, evaluator(0), scores, salt));
        commit(jobId, 6);
        vm.startPrank(evaluator(0));
        jobs.commitScores(jobId, committed);
        vm.expectRevert(abi.encodePacked(JobStore.CommitmentMismatch.selector));
        jobs.revealScores(jobId, other, salt);
        jobs.revealScores(jobId, scores, salt);
        vm.stopPrank();
        (,,, bytes32 revealed) = jobs.seat(jobId, evaluator(0));
        eq(revealed, scores);
    }
}
