// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyTypes, InvalidSignature, Phase} from "../src/GalaxyTypes.sol";
import {JobFunds} from "../src/JobFunds.sol";
import {JobStore} from "../src/JobStore.sol";
import {Base} from "./support/Base.sol";
import {MoodyToken} from "./support/Tokens.sol";
import {eq, vm, yes} from "./support/Vm.sol";

/// @dev Bonds and the evidence that burns them: two different updates of one round, by one data owner.
contract BondsTest is Base {
    uint256 private constant OWNER_KEY = 0xB0B;
    uint128 private constant BOND = 5 ether;
    bytes32 private constant OTHER = keccak256("other");

    function dataOwner() private pure returns (address) {
        return vm.addr(OWNER_KEY);
    }

    function bonded() private view returns (JobStore.JobParameters memory p) {
        p = parameters();
        p.bondPerIdentity = BOND;
    }

    /// @dev A job of these parameters with the owner's bond posted by a stranger, all seats taken.
    function posted(JobStore.JobParameters memory p) private returns (uint256 jobId) {
        jobId = post(p);
        MoodyToken(p.token).mint(STRANGER, p.bondPerIdentity);
        vm.startPrank(STRANGER);
        MoodyToken(p.token).approve(address(jobs), p.bondPerIdentity);
        jobs.depositBond(jobId, dataOwner());
        vm.stopPrank();
        takeSeats(jobId, ALL);
    }

    function training() private returns (uint256 jobId) {
        jobId = posted(bonded());
        anchorCohort(jobId, 4);
    }

    function update(uint256 jobId, bytes32 digest_) private view returns (GalaxyTypes.Update memory) {
        return GalaxyTypes.Update(jobId, jobs.job(jobId).roundIndex, TERMS, dataOwner(), MODEL, digest_);
    }

    function said(uint256 key, GalaxyTypes.Update memory u) private view returns (bytes memory) {
        return signedBy(key, jobsDigest(GalaxyTypes.hash(u)));
    }

    /// @dev Presents the owner's signatures over two updates of the round under way.
    function forfeit(uint256 jobId) private {
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        bytes memory second = said(OWNER_KEY, update(jobId, OTHER));
        jobs.forfeitBond(u, said(OWNER_KEY, u), OTHER, second);
    }

    function forfeitRefused(uint256 jobId, bytes memory refusal) private {
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        (bytes memory first, bytes memory second) = (said(OWNER_KEY, u), said(OWNER_KEY, update(jobId, OTHER)));
        vm.expectRevert(refusal);
        jobs.forfeitBond(u, first, OTHER, second);
    }

    function test_two_signed_updates_of_one_round_burn_the_bond() public {
        uint256 jobId = training();
        uint256 held = token.balanceOf(address(jobs));
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        (bytes memory first, bytes memory second) = (said(OWNER_KEY, u), said(OWNER_KEY, update(jobId, OTHER)));
        vm.expectEmit(true, true, true, true);
        emit JobFunds.BondForfeited(jobId, dataOwner(), 0, BOND);
        vm.prank(payee(9));
        jobs.forfeitBond(u, first, OTHER, second);
        eq(token.balanceOf(registry.BURN_ADDRESS()), BOND);
        eq(token.balanceOf(address(jobs)), held - BOND);
        eq(jobs.job(jobId).bondsHeld, 0);
        checkConservation(jobId);
    }

    function test_a_bond_is_forfeited_once_and_then_never_returned() public {
        uint256 jobId = training();
        forfeit(jobId);
        bytes memory refusal = abi.encodePacked(JobStore.BondMissing.selector);
        forfeitRefused(jobId, refusal);
        vm.warp(jobs.job(jobId).expiresAt);
        jobs.expire(jobId);
        vm.expectRevert(refusal);
        jobs.returnBond(jobId, dataOwner());
        jobs.refund(jobId);
        eq(token.balanceOf(address(jobs)), 0);
    }

    function test_a_returned_bond_is_not_forfeited() public {
        uint256 jobId = training();
        vm.warp(jobs.job(jobId).expiresAt);
        jobs.expire(jobId);
        jobs.returnBond(jobId, dataOwner());
        forfeitRefused(jobId, abi.encodePacked(JobStore.BondMissing.selector));
        eq(token.balanceOf(STRANGER), BOND);
        eq(token.balanceOf(registry.BURN_ADDRESS()), 0);
    }

    function test_one_bond_is_burned_and_the_other_returned() public {
        uint256 jobId = post(bonded());
        token.mint(STRANGER, 2 * BOND);
        vm.startPrank(STRANGER);
        token.approve(address(jobs), 2 * BOND);
        jobs.depositBond(jobId, dataOwner());
        jobs.depositBond(jobId, payee(0));
        vm.stopPrank();
        takeSeats(jobId, ALL);
        anchorCohort(jobId, 4);
        forfeit(jobId);
        eq(jobs.job(jobId).bondsHeld, BOND);
        vm.warp(jobs.job(jobId).expiresAt);
        jobs.expire(jobId);
        jobs.returnBond(jobId, payee(0));
        eq(token.balanceOf(STRANGER), BOND);
    }

    function test_evidence_counts_in_every_phase_from_training_on() public {
        for (uint256 last = 0; last < 4; ++last) {
            uint256 jobId = training();
            if (last > 0) {
                anchorRound(jobId);
                anchorRound(jobId);
            }
            if (last > 1) commit(jobId, ALL);
            if (last > 2) {
                reveal(jobId, ALL);
                settle(settlement(jobId, 1000 ether, 0), ALL);
            }
            forfeit(jobId);
            eq(token.balanceOf(registry.BURN_ADDRESS()), (last + 1) * BOND);
            checkConservation(jobId);
        }
    }

    function test_no_evidence_counts_before_training_or_after_the_claims() public {
        uint256 jobId = posted(bonded());
        forfeitRefused(jobId, abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Enrolling));
        forfeitRefused(jobId + 1, abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.None));
        anchorCohort(jobId, 4);
        anchorRound(jobId);
        anchorRound(jobId);
        commit(jobId, ALL);
        reveal(jobId, ALL);
        settle(settlement(jobId, 1000 ether, 0), ALL);
        vm.warp(jobs.job(jobId).expiresAt);
        jobs.expire(jobId);
        forfeitRefused(jobId, abi.encodePacked(JobStore.ClaimsAreOver.selector));
    }

    function test_a_job_without_bonds_has_none_to_burn() public {
        forfeitRefused(inTraining(parameters()), abi.encodePacked(JobStore.BondMissing.selector));
    }

    function test_the_same_update_twice_is_no_evidence() public {
        uint256 jobId = training();
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        bytes memory signature = said(OWNER_KEY, u);
        vm.expectRevert(abi.encodePacked(JobStore.NotEquivocation.selector));
        jobs.forfeitBond(u, signature, MODEL, signature);
    }

    function test_both_signatures_must_be_the_owners_over_just_this() public {
        uint256 jobId = training();
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        GalaxyTypes.Update memory other = update(jobId, OTHER);
        bytes memory good = said(OWNER_KEY, u);
        bytes[] memory bad = new bytes[](8);
        bad[0] = said(0xBAD, other);
        bad[1] = good;
        bad[2] = "";
        bad[3] = new bytes(65);
        bad[4] = abi.encodePacked(said(OWNER_KEY, other), uint8(0));
        other.roundIndex = 1;
        bad[5] = said(OWNER_KEY, other);
        other = update(jobId + 1, OTHER);
        bad[6] = said(OWNER_KEY, other);
        other = update(jobId, OTHER);
        other.modelDigest = SCORES;
        bad[7] = said(OWNER_KEY, other);
        other = update(jobId, OTHER);
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
            jobs.forfeitBond(u, good, OTHER, bad[i]);
            vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
            jobs.forfeitBond(other, bad[i], MODEL, good);
        }
        eq(jobs.job(jobId).bondsHeld, BOND);
        forfeit(jobId);
    }

    function test_updates_under_other_terms_are_no_evidence() public {
        uint256 jobId = training();
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        GalaxyTypes.Update memory other = update(jobId, OTHER);
        (u.termsDigest, other.termsDigest) = (MODEL, MODEL);
        (bytes memory first, bytes memory second) = (said(OWNER_KEY, u), said(OWNER_KEY, other));
        vm.expectRevert(abi.encodePacked(JobStore.WrongTerms.selector));
        jobs.forfeitBond(u, first, OTHER, second);
    }

    function test_a_direct_update_needs_no_signature_to_be_shown() public {
        uint256 jobId = training();
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        GalaxyTypes.Update memory third = update(jobId, SCORES);
        bytes memory second = said(OWNER_KEY, update(jobId, OTHER));
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.forfeitBond(u, "", OTHER, second);
        vm.prank(dataOwner());
        jobs.submitUpdateDirectly(u, "");
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.forfeitBond(third, "", OTHER, second);
        vm.prank(dataOwner());
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.forfeitBond(u, "", OTHER, "");
        jobs.forfeitBond(u, "", OTHER, second);
        eq(token.balanceOf(registry.BURN_ADDRESS()), BOND);
    }

    function test_a_direct_update_is_told_from_that_of_another_round() public {
        uint256 jobId = training();
        GalaxyTypes.Update memory first = update(jobId, MODEL);
        vm.prank(dataOwner());
        jobs.submitUpdateDirectly(first, "");
        anchorRound(jobId);
        GalaxyTypes.Update memory u = update(jobId, MODEL);
        GalaxyTypes.Update memory other = update(jobId, OTHER);
        bytes memory second = said(OWNER_KEY, other);
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.forfeitBond(u, "", OTHER, second);
        vm.startPrank(dataOwner());
        jobs.submitUpdateDirectly(u, "");
        vm.expectRevert(abi.encodePacked(JobStore.AlreadySubmitted.selector));
        jobs.submitUpdateDirectly(other, "");
        vm.stopPrank();
        jobs.forfeitBond(u, "", OTHER, second);
        eq(jobs.job(jobId).bondsHeld, 0);
    }

    function test_a_token_that_refuses_the_burn_leaves_the_bond_where_it_is() public {
        JobStore.JobParameters memory p = bonded();
        MoodyToken moody = new MoodyToken();
        p.token = address(moody);
        uint256 jobId = posted(p);
        anchorCohort(jobId, 4);
        moody.setMood(registry.BURN_ADDRESS(), MoodyToken.Mood.Reverts);
        forfeitRefused(jobId, abi.encodeWithSignature("Error(string)", "refused"));
        eq(jobs.job(jobId).bondsHeld, BOND);
        moody.setMood(registry.BURN_ADDRESS(), MoodyToken.Mood.Fair);
        forfeit(jobId);
        eq(moody.balanceOf(registry.BURN_ADDRESS()), BOND);
    }

    function testFuzz_any_two_different_updates_are_evidence(bytes32 model, bytes32 a, bytes32 b) public {
        vm.assume(a != b);
        uint256 jobId = training();
        GalaxyTypes.Update memory u = update(jobId, a);
        u.modelDigest = model;
        bytes memory first = said(OWNER_KEY, u);
        u.updateDigest = b;
        bytes memory second = said(OWNER_KEY, u);
        u.updateDigest = a;
        jobs.forfeitBond(u, first, b, second);
        yes(jobs.job(jobId).bondsHeld == 0, "burned");
    }
}
