// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyJobs} from "../src/GalaxyJobs.sol";
import {GalaxyTypes, Phase, TokenNotSupported} from "../src/GalaxyTypes.sol";
import {JobFunds} from "../src/JobFunds.sol";
import {JobStore} from "../src/JobStore.sol";
import {ExceedsTotal, PayoutProof} from "../src/PayoutProof.sol";
import {DemoToken} from "../src/dev/DemoToken.sol";
import {Base} from "./support/Base.sol";
import {MoodyToken} from "./support/Tokens.sol";
import {eq, vm, within, yes} from "./support/Vm.sol";

/// @dev Settlement, payouts, claims, fees and refunds.
contract SettlingTest is Base {
    function moodyJob() private returns (uint256 jobId, MoodyToken moody) {
        moody = new MoodyToken();
        JobStore.JobParameters memory p = parameters();
        p.token = address(moody);
        jobId = inSettled(p);
    }

    function staked(uint256 i) private view returns (uint256 amount) {
        (, amount,,,) = registry.evaluator(evaluator(i));
    }

    function claim(uint256 jobId, uint256 i) private {
        PayoutProof.Payout[] memory list = payouts();
        jobs.claim(jobId, i, list[i].account, list[i].amount, proofOf(jobId, list, i));
    }

    function test_a_settlement_fixes_everything() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, ALL);
        GalaxyTypes.Settlement memory s = settlement(jobId, 900 ether, 0);
        bytes memory signatures = signed(GalaxyTypes.hash(s), 3);
        vm.warp(START + 1 minutes);
        vm.expectEmit(true, true, true, true);
        emit GalaxyJobs.JobSettled(jobId, s.payoutRoot, 900 ether, 4, MODEL, 0);
        jobs.settle(s, signatures);
        JobStore.JobView memory j = jobs.job(jobId);
        yes(j.phase == Phase.Settled, "settled");
        eq(j.payoutRoot, s.payoutRoot);
        eq(j.total, 900 ether);
        eq(j.payees, 4);
        eq(j.modelDigest, MODEL);
        eq(j.feesOwed, 3 * FEE);
        eq(j.refundable, 100 ether);
        eq(j.phaseStart, START + 1 minutes);
        eq(j.deadline, START + 1 minutes + CLAIM_WINDOW);
        checkConservation(jobId);
        for (uint256 i = 0; i < 3; ++i) {
            (,, uint128 locked,,) = registry.evaluator(evaluator(i));
            eq(locked, 0);
            eq(staked(i), 10 * STAKE);
        }
        vm.expectRevert(abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Settled));
        jobs.settle(s, signatures);
    }

    function test_seats_that_did_not_reveal_or_are_faulty_are_slashed() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, 3);
        vm.warp(START + WINDOW);
        settle(settlement(jobId, 1000 ether, 0), 3);
        eq(staked(2), 9 * STAKE);
        eq(token.balanceOf(registry.BURN_ADDRESS()), STAKE);
        eq(jobs.job(jobId).refundable, FEE);

        vm.warp(START);
        jobId = inRevealing(parameters());
        reveal(jobId, ALL);
        settle(settlement(jobId, 1000 ether, 2), 5);
        eq(staked(1), 9 * STAKE);
        eq(jobs.job(jobId).faultySeats, 2);
        eq(jobs.job(jobId).feesOwed, 2 * FEE);
        eq(jobs.job(jobId).refundable, FEE);
    }

    function test_a_seat_nobody_took_is_not_slashed_and_earns_nothing() public {
        uint256 jobId = post(parameters());
        takeSeats(jobId, 3);
        anchorCohort(jobId, 4);
        anchorRound(jobId);
        anchorRound(jobId);
        commit(jobId, 3);
        reveal(jobId, 3);
        settle(settlement(jobId, 1000 ether, 0), 3);
        eq(staked(2), 10 * STAKE);
        eq(jobs.job(jobId).refundable, FEE);
    }

    function test_settling_waits_for_reveals_or_their_deadline() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, 3);
        GalaxyTypes.Settlement memory s = settlement(jobId, 1000 ether, 0);
        bytes memory signatures = signed(GalaxyTypes.hash(s), 3);
        vm.expectRevert(abi.encodeWithSelector(JobStore.TooEarly.selector, START + WINDOW));
        jobs.settle(s, signatures);
    }

    function test_only_seats_that_revealed_and_are_not_faulty_settle() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, 3);
        vm.warp(START + WINDOW);
        GalaxyTypes.Settlement memory s = settlement(jobId, 1000 ether, 0);
        bytes memory signatures = signed(GalaxyTypes.hash(s), 5);
        vm.expectRevert(abi.encodeWithSelector(JobStore.SeatNotEligible.selector, evaluator(2)));
        jobs.settle(s, signatures);
        s.faultySeats = 1;
        signatures = signed(GalaxyTypes.hash(s), 3);
        vm.expectRevert(abi.encodeWithSelector(JobStore.SeatNotEligible.selector, evaluator(0)));
        jobs.settle(s, signatures);
        signatures = signed(GalaxyTypes.hash(s), 2);
        vm.expectRevert(abi.encodeWithSelector(JobStore.QuorumMissing.selector, 2));
        jobs.settle(s, signatures);
        bytes32 hash = jobsDigest(GalaxyTypes.hash(s));
        (uint256 low, uint256 high) = (evaluatorKeys[1], 0xBAD);
        if (vm.addr(high) < vm.addr(low)) (low, high) = (high, low);
        signatures = abi.encodePacked(signedBy(low, hash), signedBy(high, hash));
        vm.expectRevert(abi.encodeWithSelector(JobStore.SeatNotEligible.selector, vm.addr(0xBAD)));
        jobs.settle(s, signatures);
    }

    function test_a_settlement_out_of_range_is_refused() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, ALL);
        GalaxyTypes.Settlement[4] memory bad;
        for (uint256 i = 0; i < 4; ++i) {
            bad[i] = settlement(jobId, 1000 ether, 0);
        }
        bad[0].total = 1000 ether + 1;
        bad[1].payees = 5;
        bad[2].payees = 0;
        bad[3].faultySeats = 8;
        for (uint256 i = 0; i < 4; ++i) {
            bytes memory signatures = signed(GalaxyTypes.hash(bad[i]), ALL);
            vm.expectRevert(abi.encodePacked(JobStore.InvalidSettlement.selector));
            jobs.settle(bad[i], signatures);
        }
        GalaxyTypes.Settlement memory s = settlement(jobId, 0, 0);
        s.payees = 0;
        settle(s, ALL);
        eq(jobs.job(jobId).refundable, BOUNTY);
    }

    function test_payouts_are_pushed_once() public {
        uint256 jobId = inSettled(parameters());
        for (uint256 i = 4; i > 0; --i) {
            vm.expectEmit(true, true, true, true);
            emit JobFunds.Paid(jobId, i - 1, payee(i - 1), i * 100 ether);
        }
        payAll(jobId);
        payAll(jobId);
        for (uint256 i = 0; i < 4; ++i) {
            eq(token.balanceOf(payee(i)), (i + 1) * 100 ether);
            yes(jobs.isPaid(jobId, i), "marked");
        }
        yes(!jobs.isPaid(jobId, 4), "not marked");
        eq(jobs.job(jobId).paid, 1000 ether);
        checkConservation(jobId);
    }

    function test_claims_and_pushes_do_not_pay_twice() public {
        uint256 jobId = inSettled(parameters());
        claim(jobId, 2);
        eq(token.balanceOf(payee(2)), 300 ether);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyPaid.selector));
        this.claimAgain(jobId, 2);
        payAll(jobId);
        eq(token.balanceOf(payee(2)), 300 ether);
        vm.expectRevert(abi.encodePacked(JobStore.AlreadyPaid.selector));
        this.claimAgain(jobId, 0);
    }

    function claimAgain(uint256 jobId, uint256 i) external {
        claim(jobId, i);
    }

    function test_only_what_was_settled_is_paid() public {
        uint256 jobId = inSettled(parameters());
        PayoutProof.Payout[] memory list = payouts();
        bytes32[] memory proof = proofOf(jobId, list, 0);
        bytes memory refusal = abi.encodePacked(JobStore.InvalidProof.selector);
        vm.expectRevert(refusal);
        jobs.claim(jobId, 0, STRANGER, 100 ether, proof);
        vm.expectRevert(refusal);
        jobs.claim(jobId, 0, payee(0), 100 ether + 1, proof);
        vm.expectRevert(refusal);
        jobs.claim(jobId, 1, payee(0), 100 ether, proof);
        list[1].account = STRANGER;
        vm.expectRevert(refusal);
        this.payAgain(jobId, list);
        uint256 other = inSettled(parameters());
        vm.expectRevert(refusal);
        jobs.claim(other, 0, payee(0), 100 ether, proof);
    }

    function payAgain(uint256 jobId, PayoutProof.Payout[] calldata list) external {
        payWith(jobId, list);
    }

    function test_a_chunk_has_1_to_256_payouts() public {
        uint256 jobId = inSettled(parameters());
        bytes memory refusal = abi.encodePacked(JobStore.InvalidPayouts.selector);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = jobs.job(jobId).payoutRoot;
        vm.expectRevert(refusal);
        jobs.pay(jobId, new PayoutProof.Payout[](0), proof, new bool[](0));
        vm.expectRevert(refusal);
        jobs.pay(jobId, new PayoutProof.Payout[](257), proof, new bool[](0));
        vm.expectRevert(refusal);
        jobs.pay(jobId, payouts(), proof, new bool[](256 * 18 + 1));
        vm.expectRevert(abi.encodePacked(JobStore.InvalidProof.selector));
        jobs.pay(jobId, payouts(), proof, new bool[](3));
    }

    function test_nothing_is_paid_before_settlement() public {
        uint256 jobId = inRevealing(parameters());
        bytes memory refusal = abi.encodeWithSelector(JobStore.WrongPhase.selector, Phase.Revealing);
        vm.expectRevert(refusal);
        this.payAgain(jobId, payouts());
        vm.expectRevert(refusal);
        this.claimAgain(jobId, 0);
        vm.expectRevert(refusal);
        jobs.payFees(jobId);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToRefund.selector));
        jobs.refund(jobId);
    }

    function settleWith(PayoutProof.Payout[] memory list, uint256 total, uint32 payees)
        private
        returns (uint256 jobId)
    {
        jobId = inRevealing(parameters());
        reveal(jobId, ALL);
        settle(GalaxyTypes.Settlement(jobId, rootFor(jobId, list), total, payees, MODEL, 0), ALL);
    }

    function test_a_tree_that_promises_too_much_cannot_take_more_than_the_total() public {
        PayoutProof.Payout[] memory list = payouts();
        list[3].amount = 400 ether + 1;
        uint256 jobId = settleWith(list, 1000 ether, 4);
        vm.expectRevert(abi.encodePacked(ExceedsTotal.selector));
        this.payAgain(jobId, list);
        for (uint256 i = 0; i < 3; ++i) {
            jobs.claim(jobId, i, list[i].account, list[i].amount, proofOf(jobId, list, i));
        }
        bytes32[] memory proof = proofOf(jobId, list, 3);
        vm.expectRevert(abi.encodePacked(ExceedsTotal.selector));
        jobs.claim(jobId, 3, list[3].account, list[3].amount, proof);
        list[3].amount = type(uint256).max;
        jobId = settleWith(list, 1000 ether, 4);
        vm.expectRevert(abi.encodePacked(ExceedsTotal.selector));
        this.payAgain(jobId, list);
    }

    function test_an_index_beyond_the_payees_is_refused() public {
        PayoutProof.Payout[] memory list = payouts();
        uint256 jobId = settleWith(list, 1000 ether, 3);
        vm.expectRevert(abi.encodePacked(ExceedsTotal.selector));
        this.payAgain(jobId, list);
        bytes32[] memory proof = proofOf(jobId, list, 3);
        vm.expectRevert(abi.encodePacked(ExceedsTotal.selector));
        jobs.claim(jobId, 3, list[3].account, list[3].amount, proof);
    }

    function test_two_leaves_with_one_index_are_paid_once() public {
        PayoutProof.Payout[] memory list = payouts();
        list[1].index = 0;
        uint256 jobId = settleWith(list, 1000 ether, 4);
        payWith(jobId, list);
        eq(token.balanceOf(payee(0)), 100 ether);
        eq(token.balanceOf(payee(1)), 0);
        eq(jobs.job(jobId).paid, 800 ether);
    }

    function test_marks_in_different_words_are_kept() public {
        JobStore.JobParameters memory p = parameters();
        p.maxOwners = 1000;
        uint256 jobId = post(p);
        takeSeats(jobId, ALL);
        anchorCohort(jobId, 1000);
        anchorRound(jobId);
        anchorRound(jobId);
        commit(jobId, ALL);
        reveal(jobId, ALL);
        PayoutProof.Payout[] memory list = payouts();
        (list[0].index, list[1].index, list[2].index, list[3].index) = (999, 0, 998, 1);
        settle(GalaxyTypes.Settlement(jobId, rootFor(jobId, list), 1000 ether, 1000, MODEL, 0), ALL);
        jobs.claim(jobId, 0, list[1].account, list[1].amount, proofOf(jobId, list, 1));
        payWith(jobId, list);
        for (uint256 i = 0; i < 4; ++i) {
            yes(jobs.isPaid(jobId, list[i].index), "marked");
            eq(token.balanceOf(list[i].account), list[i].amount);
        }
        yes(!jobs.isPaid(jobId, 2) && !jobs.isPaid(jobId, 997), "others are not");
    }

    function test_one_payee_the_token_refuses_does_not_stop_the_others() public {
        for (uint256 m = 1; m < 7; ++m) {
            (uint256 jobId, MoodyToken moody) = moodyJob();
            moody.setMood(payee(1), MoodyToken.Mood(m));
            vm.expectEmit(true, true, true, true);
            emit JobFunds.PaymentFailed(jobId, 1, payee(1), 200 ether);
            payAll(jobId);
            yes(!jobs.isPaid(jobId, 1) && jobs.isPaid(jobId, 0) && jobs.isPaid(jobId, 3), "marks");
            eq(moody.balanceOf(payee(3)), 400 ether);
            eq(jobs.job(jobId).paid, 800 ether);
            checkConservation(jobId);
            if (m < 3) {
                vm.expectRevert();
                this.claimAgain(jobId, 1);
            }
            moody.setMood(payee(1), MoodyToken.Mood.Fair);
            claim(jobId, 1);
            eq(moody.balanceOf(payee(1)), 200 ether);
        }
    }

    function test_a_token_that_vanished_pays_nobody() public {
        uint256 jobId = inSettled(parameters());
        vm.etch(address(token), "");
        vm.expectRevert(abi.encodePacked(TokenNotSupported.selector));
        this.payAgain(jobId, payouts());
        vm.expectRevert();
        this.claimAgain(jobId, 0);
        jobs.payFees(jobId);
        eq(jobs.job(jobId).feesPaid, 0);
    }

    function test_a_token_cannot_reenter() public {
        (uint256 jobId, MoodyToken moody) = moodyJob();
        PayoutProof.Payout[] memory list = payouts();
        bytes[] memory calls = new bytes[](9);
        calls[0] = abi.encodeCall(
            jobs.claim, (jobId, 0, list[0].account, list[0].amount, proofOf(jobId, list, 0))
        );
        calls[1] = abi.encodeCall(jobs.refund, (jobId));
        calls[2] = abi.encodeCall(jobs.payFees, (jobId));
        calls[3] = abi.encodeCall(jobs.expire, (jobId));
        calls[4] = abi.encodeCall(jobs.postJob, (parameters()));
        calls[5] = abi.encodeCall(jobs.depositBond, (jobId, STRANGER));
        calls[6] = abi.encodeCall(jobs.returnBond, (jobId, STRANGER));
        calls[7] = abi.encodeCall(jobs.cancel, (jobId));
        calls[8] = abi.encodeCall(jobs.takeSeat, (jobId));
        moody.setReentry(address(jobs), calls);
        for (uint256 i = 0; i < 4; ++i) {
            moody.setMood(payee(i), MoodyToken.Mood.Reenters);
        }
        claim(jobId, 1);
        payAll(jobId);
        yes(!moody.hasReentered(), "re-entered");
        eq(jobs.job(jobId).paid, 1000 ether);
    }

    function test_fees_go_to_good_seats_once() public {
        uint256 jobId = inSettled(parameters());
        vm.expectEmit(true, true, true, true);
        emit JobFunds.FeePaid(jobId, 0, evaluator(0), FEE);
        jobs.payFees(jobId);
        for (uint256 i = 0; i < 3; ++i) {
            eq(token.balanceOf(evaluator(i)), FEE);
        }
        eq(jobs.job(jobId).feesPaid, 3 * FEE);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToPay.selector));
        jobs.payFees(jobId);
    }

    function test_one_seat_the_token_refuses_does_not_stop_the_others() public {
        for (uint256 m = 1; m < 7; ++m) {
            (uint256 jobId, MoodyToken moody) = moodyJob();
            moody.setMood(evaluator(1), MoodyToken.Mood(m));
            vm.expectEmit(true, true, true, true);
            emit JobFunds.PaymentFailed(jobId, 1, evaluator(1), FEE);
            jobs.payFees(jobId);
            eq(jobs.job(jobId).feesPaid, 2 * FEE);
            checkConservation(jobId);
            moody.setMood(evaluator(1), MoodyToken.Mood.Fair);
            jobs.payFees(jobId);
            eq(moody.balanceOf(evaluator(1)), FEE);
            eq(jobs.job(jobId).feesPaid, 3 * FEE);
        }
    }

    function test_without_fees_there_is_nothing_to_pay() public {
        JobStore.JobParameters memory p = parameters();
        p.feePerSeat = 0;
        uint256 jobId = inSettled(p);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToPay.selector));
        jobs.payFees(jobId);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToRefund.selector));
        jobs.refund(jobId);
    }

    function test_the_rest_is_refunded_once_to_the_requester() public {
        uint256 jobId = inRevealing(parameters());
        reveal(jobId, ALL);
        settle(settlement(jobId, 1000 ether, 1), 6);
        vm.prank(STRANGER);
        jobs.refund(jobId);
        eq(token.balanceOf(REQUESTER), FEE);
        eq(jobs.job(jobId).refunded, FEE);
        vm.expectRevert(abi.encodePacked(JobStore.NothingToRefund.selector));
        jobs.refund(jobId);
        payAll(jobId);
        jobs.payFees(jobId);
        eq(token.balanceOf(address(jobs)), 0);
        checkConservation(jobId);
    }

    function testFuzz_money_is_conserved(uint96 bounty, uint96 fee, uint256 total, uint8 revealed, uint8 faulty)
        public
    {
        JobStore.JobParameters memory p = parameters();
        p.bounty = uint128(bounty) + 1;
        p.feePerSeat = fee;
        uint256 jobId = inRevealing(p);
        revealed = revealed & 7;
        reveal(jobId, revealed);
        vm.warp(START + WINDOW);
        faulty = faulty & 7;
        total = within(total, 0, p.bounty);
        GalaxyTypes.Settlement memory s =
            GalaxyTypes.Settlement(jobId, rootFor(jobId, payouts()), total, 4, MODEL, faulty);
        uint256 good = revealed & ~uint256(faulty);
        bytes memory signatures = signed(GalaxyTypes.hash(s), good);
        uint256 goodSeats = (good & 1) + ((good >> 1) & 1) + (good >> 2);
        if (goodSeats < 2) {
            vm.expectRevert(abi.encodeWithSelector(JobStore.QuorumMissing.selector, 2));
            jobs.settle(s, signatures);
            return;
        }
        jobs.settle(s, signatures);
        checkConservation(jobId);
        eq(jobs.job(jobId).feesOwed, goodSeats * fee);
        uint256 seatsSlashed = 3 - goodSeats;
        eq(token.balanceOf(registry.BURN_ADDRESS()), seatsSlashed * STAKE);
        if (fee > 0) jobs.payFees(jobId);
        if (jobs.job(jobId).refundable > 0) jobs.refund(jobId);
        checkConservation(jobId);
        eq(DemoToken(p.token).balanceOf(address(jobs)), total);
    }
}
