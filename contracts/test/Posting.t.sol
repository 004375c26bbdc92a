// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {GalaxyJobs} from "../src/GalaxyJobs.sol";
import {GalaxyRegistry} from "../src/GalaxyRegistry.sol";
import {GalaxyTypes, InvalidSignature, Phase, TokenNotSupported} from "../src/GalaxyTypes.sol";
import {JobStore} from "../src/JobStore.sol";
import {DemoToken} from "../src/dev/DemoToken.sol";
import {Base} from "./support/Base.sol";
import {FeeToken, ShrinkingToken, SilentToken} from "./support/Tokens.sol";
import {eq, vm, within, yes} from "./support/Vm.sol";

/// @dev Posting, seats, bonds, direct enrolment and the cohort.
contract PostingTest is Base {
    uint256 private constant OWNER_KEY = 0xB0B;

    function refused(JobStore.JobParameters memory p, bytes32 field) private {
        vm.expectRevert(abi.encodeWithSelector(JobStore.InvalidParameter.selector, field));
        jobs.postJob(p);
    }

    function dataOwner() private pure returns (address) {
        return vm.addr(OWNER_KEY);
    }

    function registered() private returns (bytes32) {
        vm.prank(dataOwner());
        registry.registerDataset(GalaxyTypes.DatasetRegistration(dataOwner(), TERMS, SCHEMA), "");
        return keccak256(abi.encode(dataOwner(), TERMS));
    }

    function enrolment(uint256 jobId, bytes32 datasetId) private pure returns (GalaxyTypes.Enrolment memory) {
        return GalaxyTypes.Enrolment(jobId, TERMS, dataOwner(), datasetId, keccak256("key"), 0);
    }

    function test_the_registry_must_name_these_jobs() public {
        vm.expectRevert(abi.encodePacked(JobStore.RegistryMismatch.selector));
        new GalaxyJobs(registry);
    }

    function test_posting_escrows_bounty_and_fees() public {
        token.mint(REQUESTER, BOUNTY + 3 * FEE);
        vm.startPrank(REQUESTER);
        token.approve(address(jobs), BOUNTY + 3 * FEE);
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.JobPosted(1, REQUESTER, TERMS, BOUNTY, 3 * FEE);
        uint256 jobId = jobs.postJob(parameters());
        vm.stopPrank();
        eq(jobId, 1);
        eq(jobs.jobCount(), 1);
        eq(token.balanceOf(address(jobs)), BOUNTY + 3 * FEE);
        eq(address(jobs.registry()), address(registry));
        JobStore.JobView memory j = jobs.job(jobId);
        eq(j.requester, REQUESTER);
        eq(j.token, address(token));
        eq(j.termsDigest, TERMS);
        yes(j.phase == Phase.Enrolling, "phase");
        eq(j.quorum, 2);
        eq(j.rounds, 2);
        eq(j.enrolWindow, WINDOW);
        eq(j.roundWindow, WINDOW);
        eq(j.anchorWindow, WINDOW);
        eq(j.commitWindow, WINDOW);
        eq(j.revealWindow, WINDOW);
        eq(j.settleWindow, WINDOW);
        eq(j.claimWindow, CLAIM_WINDOW);
        eq(j.phaseStart, START);
        eq(j.deadline, START + WINDOW);
        eq(j.expiresAt, START + 2 * WINDOW);
        eq(j.bounty, BOUNTY);
        eq(j.feePerSeat, FEE);
        eq(j.seatStake, STAKE);
        eq(j.minOwners, 2);
        eq(j.maxOwners, 4);
        eq(j.claimWindow, CLAIM_WINDOW);
        eq(j.evaluators.length, 3);
        eq(j.evaluators[2], evaluator(2));
        yes(jobs.job(2).phase == Phase.None, "unknown");
        checkConservation(jobId);
    }

    function test_parameters_out_of_range_are_refused() public {
        JobStore.JobParameters memory p = parameters();
        p.termsDigest = 0;
        refused(p, "termsDigest");
        p = parameters();
        p.bounty = 0;
        refused(p, "bounty");
        p = parameters();
        p.rounds = 0;
        refused(p, "rounds");
        p.rounds = 10_001;
        refused(p, "rounds");
        p = parameters();
        p.minOwners = 0;
        refused(p, "minOwners");
        p.minOwners = 5;
        refused(p, "minOwners");
        p = parameters();
        p.maxOwners = 100_001;
        refused(p, "maxOwners");
        p = parameters();
        p.bounty = type(uint128).max;
        refused(p, "feePerSeat");
    }

    function test_windows_out_of_range_are_refused() public {
        for (uint256 round = 0; round < 2; ++round) {
            uint32 bad = round == 0 ? 0 : uint32(365 days + 1);
            JobStore.JobParameters memory p = parameters();
            p.enrolWindow = bad;
            refused(p, "enrolWindow");
            p = parameters();
            p.roundWindow = bad;
            refused(p, "roundWindow");
            p = parameters();
            p.anchorWindow = bad;
            refused(p, "anchorWindow");
            p = parameters();
            p.commitWindow = bad;
            refused(p, "commitWindow");
            p = parameters();
            p.revealWindow = bad;
            refused(p, "revealWindow");
            p = parameters();
            p.settleWindow = bad;
            refused(p, "settleWindow");
            p = parameters();
            p.claimWindow = bad;
            refused(p, "claimWindow");
        }
    }

    function test_evaluators_are_ascending_registered_and_at_most_fifteen() public {
        JobStore.JobParameters memory p = parameters();
        p.evaluators = new address[](0);
        refused(p, "evaluators");
        p.evaluators = new address[](16);
        refused(p, "evaluators");
        p = parameters();
        (p.evaluators[0], p.evaluators[1]) = (p.evaluators[1], p.evaluators[0]);
        refused(p, "evaluators");
        p = parameters();
        p.evaluators[1] = p.evaluators[0];
        refused(p, "evaluators");
        p = parameters();
        p.evaluators[2] = address(type(uint160).max);
        vm.expectRevert(abi.encodeWithSelector(JobStore.NotRegistered.selector, p.evaluators[2]));
        jobs.postJob(p);
    }

    function test_fifteen_seats_and_the_widest_parameters_are_accepted() public {
        JobStore.JobParameters memory p = parameters();
        p.evaluators = new address[](15);
        for (uint256 i = 0; i < 15; ++i) {
            p.evaluators[i] = address(uint160(i + 1));
            vm.prank(p.evaluators[i]);
            registry.registerEvaluator(TERMS);
        }
        (p.rounds, p.maxOwners, p.minOwners, p.claimWindow) = (10_000, 100_000, 100_000, 365 days);
        JobStore.JobView memory j = jobs.job(post(p));
        eq(j.quorum, 8);
        eq(j.rounds, 10_000);
        eq(j.maxOwners, 100_000);
        eq(j.minOwners, 100_000);
    }

    function test_tokens_that_do_not_move_the_whole_amount_are_refused() public {
        JobStore.JobParameters memory p = parameters();
        bytes memory refusal = abi.encodePacked(TokenNotSupported.selector);
        p.token = STRANGER;
        vm.expectRevert(refusal);
        jobs.postJob(p);
        vm.expectRevert(refusal);
        jobs.postJobWithPermit(p, START, 27, 0, 0);
        DemoToken[2] memory bad = [DemoToken(new FeeToken()), DemoToken(new ShrinkingToken())];
        for (uint256 i = 0; i < 2; ++i) {
            bad[i].mint(address(this), 10 * BOUNTY);
            bad[i].approve(address(jobs), 10 * BOUNTY);
            p.token = address(bad[i]);
            vm.expectRevert(refusal);
            jobs.postJob(p);
        }
    }

    function test_a_token_that_answers_nothing_is_accepted() public {
        SilentToken silent = new SilentToken();
        silent.mint(REQUESTER, 2 * BOUNTY);
        JobStore.JobParameters memory p = parameters();
        p.token = address(silent);
        vm.startPrank(REQUESTER);
        uint256 jobId = jobs.postJob(p);
        jobs.cancel(jobId);
        vm.stopPrank();
        jobs.refund(jobId);
        eq(silent.balanceOf(REQUESTER), 2 * BOUNTY);
    }

    function test_posting_by_permit_even_when_somebody_used_the_permit_before() public {
        JobStore.JobParameters memory p = parameters();
        uint256 escrow = BOUNTY + 3 * FEE;
        for (uint256 turn = 0; turn < 2; ++turn) {
            token.mint(dataOwner(), escrow);
            bytes32 permit = keccak256(
                abi.encode(
                    keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                    dataOwner(),
                    address(jobs),
                    escrow,
                    token.nonces(dataOwner()),
                    START
                )
            );
            (uint8 v, bytes32 r, bytes32 s) =
                vm.sign(OWNER_KEY, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), permit)));
            if (turn == 1) token.permit(dataOwner(), address(jobs), escrow, START, v, r, s);
            vm.prank(dataOwner());
            eq(jobs.postJobWithPermit(p, START, v, r, s), turn + 1);
        }
    }

    function test_a_named_evaluator_takes_its_seat_once() public {
        uint256 jobId = post(parameters());
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.SeatTaken(jobId, evaluator(1));
        takeSeats(jobId, 2);
        (uint256 index, bool taken, bytes32 committed, bytes32 revealed) = jobs.seat(jobId, evaluator(1));
        eq(index, 1);
        yes(taken && committed == 0 && revealed == 0, "taken");
        (, taken,,) = jobs.seat(jobId, evaluator(0));
        yes(!taken, "not taken");
        (,, uint128 locked,,) = registry.evaluator(evaluator(1));
        eq(locked, STAKE);
        eq(jobs.job(jobId).seatsTaken, 1);
        vm.prank(evaluator(1));
        vm.expectRevert(abi.encodePacked(JobStore.SeatAlreadyTaken.selector));
        jobs.takeSeat(jobId);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodePacked(JobStore.NotNamedEvaluator.selector));
        jobs.takeSeat(jobId);
        vm.expectRevert(abi.encodePacked(JobStore.NotNamedEvaluator.selector));
        jobs.seat(jobId, STRANGER);
        vm.prank(evaluator(0));
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.None));
        jobs.takeSeat(jobId + 1);
    }

    function test_a_seat_needs_stake_and_the_enrolling_phase() public {
        JobStore.JobParameters memory p = parameters();
        p.seatStake = 10 * STAKE + 1;
        uint256 jobId = post(p);
        vm.prank(evaluator(0));
        vm.expectRevert(
            abi.encodeWithSelector(GalaxyRegistry.InsufficientStake.selector, 10 * STAKE, 10 * STAKE + 1)
        );
        jobs.takeSeat(jobId);
        jobId = post(parameters());
        takeSeats(jobId, 3);
        anchorCohort(jobId, 4);
        vm.prank(evaluator(2));
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Training));
        jobs.takeSeat(jobId);
    }

    function test_a_bond_goes_back_to_its_payer_when_the_job_is_over() public {
        JobStore.JobParameters memory p = parameters();
        p.bondPerIdentity = 5 ether;
        uint256 jobId = post(p);
        token.mint(STRANGER, 10 ether);
        vm.startPrank(STRANGER);
        token.approve(address(jobs), 10 ether);
        jobs.depositBond(jobId, dataOwner());
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyBonded.selector));
        jobs.depositBond(jobId, dataOwner());
        vm.stopPrank();
        eq(jobs.job(jobId).bondsHeld, 5 ether);
        vm.expectRevert(abi.encodePacked(JobStore.NotTerminal.selector));
        jobs.returnBond(jobId, dataOwner());
        vm.prank(REQUESTER);
        jobs.cancel(jobId);
        vm.expectRevert(abi.encodePacked(JobStore.BondMissing.selector));
        jobs.returnBond(jobId, STRANGER);
        jobs.returnBond(jobId, dataOwner());
        eq(token.balanceOf(STRANGER), 10 ether);
        eq(jobs.job(jobId).bondsHeld, 0);
        vm.expectRevert(abi.encodePacked(JobStore.BondMissing.selector));
        jobs.returnBond(jobId, dataOwner());
        jobs.refund(jobId);
        eq(token.balanceOf(address(jobs)), 0);
    }

    function test_no_bond_is_taken_where_none_is_asked_or_enrolling_is_over() public {
        uint256 jobId = post(parameters());
        vm.expectRevert(abi.encodePacked(JobStore.NoBondAsked.selector));
        jobs.depositBond(jobId, dataOwner());
        takeSeats(jobId, ALL);
        anchorCohort(jobId, 4);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Training));
        jobs.depositBond(jobId, dataOwner());
    }

    function test_direct_enrolments_are_chained() public {
        uint256 jobId = post(parameters());
        GalaxyTypes.Enrolment memory e = enrolment(jobId, registered());
        bytes32 structHash = GalaxyTypes.hash(e);
        bytes32 head = keccak256(abi.encode(bytes32(0), structHash));
        bytes memory signature = signedBy(OWNER_KEY, jobsDigest(structHash));
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.EnrolledDirectly(jobId, dataOwner(), e, signature, head);
        jobs.enrolDirectly(e, signature);
        eq(jobs.job(jobId).directHead, head);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyEnrolled.selector));
        jobs.enrolDirectly(e, signature);

        vm.startPrank(STRANGER);
        registry.registerDataset(GalaxyTypes.DatasetRegistration(STRANGER, TERMS, SCHEMA), "");
        e.dataOwner = STRANGER;
        e.datasetId = keccak256(abi.encode(STRANGER, TERMS));
        jobs.enrolDirectly(e, "");
        vm.stopPrank();
        eq(jobs.job(jobId).directHead, keccak256(abi.encode(head, GalaxyTypes.hash(e))));
    }

    function test_a_direct_enrolment_must_be_right() public {
        uint256 jobId = post(parameters());
        GalaxyTypes.Enrolment memory e = enrolment(jobId, registered());
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.enrolDirectly(e, "");
        bytes memory signature = signedBy(0xBAD, jobsDigest(GalaxyTypes.hash(e)));
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.enrolDirectly(e, signature);
        signature = new bytes(66);
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.enrolDirectly(e, signature);
        e.termsDigest = MODEL;
        vm.startPrank(dataOwner());
        vm.expectRevert(abi.encodePacked(JobStore.WrongTerms.selector));
        jobs.enrolDirectly(e, "");
        e.termsDigest = TERMS;
        e.datasetId = MODEL;
        vm.expectRevert(abi.encodePacked(JobStore.DatasetNotUsable.selector));
        jobs.enrolDirectly(e, "");
        e = enrolment(jobId, keccak256(abi.encode(dataOwner(), TERMS)));
        registry.revokeDataset(GalaxyTypes.DatasetRevocation(dataOwner(), e.datasetId), "");
        vm.expectRevert(abi.encodePacked(JobStore.DatasetNotUsable.selector));
        jobs.enrolDirectly(e, "");
        vm.warp(START + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooLate.selector, START + WINDOW));
        jobs.enrolDirectly(e, "");
        vm.stopPrank();
    }

    function test_a_direct_enrolment_needs_the_bond_where_one_is_asked() public {
        JobStore.JobParameters memory p = parameters();
        p.bondPerIdentity = 5 ether;
        GalaxyTypes.Enrolment memory e = enrolment(post(p), registered());
        token.mint(dataOwner(), 5 ether);
        vm.startPrank(dataOwner());
        vm.expectRevert(abi.encodePacked(JobStore.BondMissing.selector));
        jobs.enrolDirectly(e, "");
        token.approve(address(jobs), 5 ether);
        jobs.depositBond(e.jobId, dataOwner());
        jobs.enrolDirectly(e, "");
        vm.stopPrank();
        yes(jobs.job(e.jobId).directHead != 0, "enrolled");
    }

    function test_a_quorum_anchors_the_cohort() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, ALL);
        vm.warp(START + WINDOW);
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, 3);
        bytes memory signatures = signed(GalaxyTypes.hash(a), 6);
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.CohortAnchored(jobId, a.root, 3, 0);
        jobs.anchorCohort(a, signatures);
        JobStore.JobView memory j = jobs.job(jobId);
        yes(j.phase == Phase.Training, "training");
        eq(j.cohortSize, 3);
        eq(j.cohortRoot, a.root);
        eq(j.history, bytes32(0));
        eq(j.deadline, START + 2 * WINDOW);
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Training));
        jobs.anchorCohort(a, signatures);
    }

    function test_a_full_cohort_need_not_wait() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, ALL);
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, 3);
        bytes memory signatures = signed(GalaxyTypes.hash(a), ALL);
        vm.warp(START + WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooEarly.selector, START + WINDOW));
        jobs.anchorCohort(a, signatures);
        a.size = 4;
        jobs.anchorCohort(a, signed(GalaxyTypes.hash(a), ALL));
        eq(jobs.job(jobId).cohortSize, 4);
    }

    function test_a_cohort_of_a_wrong_size_is_refused() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, ALL);
        vm.warp(START + WINDOW);
        uint32[2] memory sizes = [uint32(1), 5];
        for (uint256 i = 0; i < 2; ++i) {
            GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, sizes[i]);
            bytes memory signatures = signed(GalaxyTypes.hash(a), ALL);
            vm.expectRevert(abi.encodePacked(JobStore.SizeOutOfRange.selector));
            jobs.anchorCohort(a, signatures);
        }
        anchorCohort(jobId, 2);
        eq(jobs.job(jobId).cohortSize, 2);
    }

    function test_direct_enrolments_cannot_be_left_out() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, ALL);
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, 4);
        bytes memory signatures = signed(GalaxyTypes.hash(a), ALL);
        GalaxyTypes.Enrolment memory e = enrolment(jobId, registered());
        vm.prank(dataOwner());
        jobs.enrolDirectly(e, "");
        bytes32 head = jobs.job(jobId).directHead;
        vm.expectRevert(abi.encodeWithSelector(JobStore.DirectEntriesMissing.selector, head));
        jobs.anchorCohort(a, signatures);
        anchorCohort(jobId, 4);
        eq(jobs.job(jobId).directHead, bytes32(0));
    }

    function test_only_a_quorum_of_taken_seats_anchors() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, 3);
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, 4);
        bytes32 hash = GalaxyTypes.hash(a);
        bytes memory signatures = signed(hash, 1);
        vm.expectRevert(abi.encodeWithSelector(JobStore.QuorumMissing.selector, 2));
        jobs.anchorCohort(a, signatures);
        vm.expectRevert(abi.encodeWithSelector(JobStore.QuorumMissing.selector, 2));
        jobs.anchorCohort(a, "");
        signatures = signed(hash, 5);
        vm.expectRevert(abi.encodeWithSelector(JobStore.NotSeated.selector, evaluator(2)));
        jobs.anchorCohort(a, signatures);
        signatures = abi.encodePacked(signed(hash, 1), signed(hash, 1));
        vm.expectRevert(abi.encodePacked(JobStore.SignersNotAscending.selector));
        jobs.anchorCohort(a, signatures);
        signatures = abi.encodePacked(signed(hash, 2), signed(hash, 1));
        vm.expectRevert(abi.encodePacked(JobStore.SignersNotAscending.selector));
        jobs.anchorCohort(a, signatures);
        signatures = abi.encodePacked(signed(hash, 3), uint8(1));
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.anchorCohort(a, signatures);
        signatures = new bytes(16 * 65);
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.anchorCohort(a, signatures);
        signatures = new bytes(2 * 65);
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.anchorCohort(a, signatures);
    }

    function test_a_signature_counts_in_one_form_only() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, 3);
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, 4);
        bytes32 hash = jobsDigest(GalaxyTypes.hash(a));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(evaluatorKeys[0], hash);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory mirrored = abi.encodePacked(r, bytes32(order - uint256(s)), v ^ 7);
        bytes memory signatures = abi.encodePacked(mirrored, signedBy(evaluatorKeys[1], hash));
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        jobs.anchorCohort(a, signatures);
    }

    function testFuzz_parameters_in_range_are_kept(uint32 rounds, uint32 min, uint32 max, uint32 window, uint96 fee)
        public
    {
        JobStore.JobParameters memory p = parameters();
        p.rounds = uint32(within(rounds, 1, 10_000));
        p.maxOwners = uint32(within(max, 1, 100_000));
        p.minOwners = uint32(within(min, 1, p.maxOwners));
        p.settleWindow = uint32(within(window, 1, 365 days));
        p.feePerSeat = fee;
        uint256 jobId = post(p);
        JobStore.JobView memory j = jobs.job(jobId);
        eq(j.rounds, p.rounds);
        eq(j.maxOwners, p.maxOwners);
        eq(j.minOwners, p.minOwners);
        eq(j.settleWindow, p.settleWindow);
        eq(token.balanceOf(address(jobs)), uint256(BOUNTY) + 3 * uint256(fee));
        eq(IERC20(j.token).balanceOf(REQUESTER), 0);
    }
}
