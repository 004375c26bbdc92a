// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Phase} from "../src/GalaxyTypes.sol";
import {JobStore} from "../src/JobStore.sol";
import {Laws} from "./support/Laws.sol";
import {eq, yes} from "./support/Vm.sol";

/// @dev Laws of what is recorded: what never changes, what stands when, and to whom money may go.
contract JobLawsTest is Laws {
    function invariant_the_terms_of_a_job_never_change() public view {
        checkJobs(lawTerms);
    }

    function lawTerms(uint256 id, JobStore.JobView memory j) private view {
        yes(handler.firstTerms(id) == handler.termsOf(j), "the terms changed");
    }

    function invariant_an_anchored_cohort_never_changes() public view {
        checkJobs(lawCohort);
    }

    function lawCohort(uint256 id, JobStore.JobView memory j) private view {
        if (j.cohortSize != 0) yes(handler.firstCohort(id) == handler.cohortOf(j), "the cohort changed");
        yes((j.cohortSize == 0) == (j.cohortRoot == 0), "a cohort has a size and a root");
        if (j.phase == Phase.Enrolling) eq(j.cohortSize, 0);
        if (j.phase != Phase.Enrolling && j.phase != Phase.Aborted) yes(j.cohortSize != 0, "nobody takes part");
    }

    function invariant_there_are_no_jobs_but_those_posted() public view {
        uint256 count = jobs.jobCount();
        yes(count <= handler.MAX_JOBS(), "more jobs than were posted");
        yes(jobs.job(0).phase == Phase.None, "job 0");
        yes(jobs.job(count + 1).phase == Phase.None, "a job that nobody posted");
    }

    function invariant_a_settlement_is_recorded_once_settled() public view {
        checkJobs(lawSettlement);
    }

    function lawSettlement(uint256, JobStore.JobView memory j) private pure {
        bool isSettled = j.phase == Phase.Settled;
        yes(isSettled == (j.payoutRoot != 0), "a payout root");
        yes(isSettled == (j.modelDigest != 0), "a model");
        yes(isSettled || (j.payees == 0 && j.faultySeats == 0), "payees or faults before settlement");
        yes(j.payees <= j.cohortSize, "more payees than took part");
        yes(j.faultySeats < 8, "a fault of nobody's seat");
    }

    function invariant_fees_are_whole_and_of_good_seats() public view {
        checkJobs(lawFees);
    }

    function lawFees(uint256 id, JobStore.JobView memory j) private view {
        uint256 good = 0;
        for (uint256 i = 0; i < 3; ++i) {
            (uint256 index,,, bytes32 revealed) = jobs.seat(id, handler.evaluatorAt(i));
            if (revealed != 0 && j.faultySeats & (1 << index) == 0) ++good;
        }
        if (j.phase == Phase.Settled) eq(j.feesOwed, good * j.feePerSeat);
        if (j.feePerSeat != 0) eq(j.feesPaid % j.feePerSeat, 0);
    }

    function invariant_fees_reach_evaluators_only() public view {
        for (uint256 t = 1; t < 3; ++t) {
            address token = handler.tokens(t);
            uint256 held = 0;
            for (uint256 i = 0; i < 3; ++i) {
                held += IERC20(token).balanceOf(handler.evaluatorAt(i));
            }
            uint256 sent = 0;
            for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
                JobStore.JobView memory j = jobs.job(id);
                if (j.token == token) sent += j.feesPaid;
            }
            eq(held, sent);
        }
    }

    function invariant_refunds_reach_the_requester_only() public view {
        for (uint256 t = 0; t < 3; ++t) {
            address token = handler.tokens(t);
            uint256 sent = 0;
            for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
                JobStore.JobView memory j = jobs.job(id);
                if (j.token == token) sent += j.refunded;
            }
            eq(IERC20(token).balanceOf(handler.requester()), sent);
        }
    }

    function invariant_bonds_are_whole() public view {
        checkJobs(lawBonds);
    }

    function lawBonds(uint256 id, JobStore.JobView memory j) private view {
        (,,,, uint256 bonds, uint256 returned,,,,) = handler.ghosts(id);
        uint256 gone = returned + handler.bondsForfeited(id);
        if (j.bondPerIdentity == 0) {
            eq(j.bondsHeld + bonds, 0);
        } else {
            eq(j.bondsHeld % j.bondPerIdentity, 0);
            eq(j.bondsHeld, j.claimsExpired ? 0 : bonds - gone);
        }
    }

    function invariant_a_quorum_is_a_majority() public view {
        checkJobs(lawQuorum);
    }

    function lawQuorum(uint256, JobStore.JobView memory j) private pure {
        uint256 seats = j.evaluators.length;
        yes(2 * uint256(j.quorum) > seats && j.quorum <= seats, "quorum");
        yes(j.seatsTaken <= seats && j.reveals <= j.commits && j.commits <= j.seatsTaken, "seats");
        if (j.phase == Phase.Revealing || j.phase == Phase.Settled) yes(j.commits >= j.quorum, "scores of too few");
    }

    function invariant_nothing_is_paid_beyond_the_payees() public view {
        checkJobs(lawIndexes);
    }

    function lawIndexes(uint256 id, JobStore.JobView memory j) private view {
        for (uint256 i = j.payees; i < uint256(j.payees) + 8; ++i) {
            yes(!jobs.isPaid(id, i), "a payout that nobody was promised");
        }
    }

    function invariant_no_phase_begins_in_the_future() public view {
        checkJobs(lawClock);
    }

    function lawClock(uint256, JobStore.JobView memory j) private view {
        yes(j.phaseStart <= block.timestamp && j.phaseStart != 0, "a phase began in the future");
    }

    function invariant_claims_that_expired_leave_nothing() public view {
        checkJobs(lawExpired);
    }

    function lawExpired(uint256, JobStore.JobView memory j) private pure {
        if (!j.claimsExpired) return;
        yes(j.phase == Phase.Settled, "claims expired before there were any");
        eq(j.bondsHeld, 0);
    }

    function invariant_withdrawals_wait_at_most_the_unbonding_period() public view {
        for (uint256 i = 0; i < 3; ++i) {
            (bytes32 key,,, uint128 leaving, uint64 withdrawableAt) = registry.evaluator(handler.evaluatorAt(i));
            yes(key != 0, "an evaluator lost its key");
            yes(leaving == 0 || withdrawableAt != 0, "a withdrawal without a time");
            yes(withdrawableAt <= block.timestamp + registry.unbondingPeriod(), "a withdrawal waits too long");
        }
    }

    function invariant_no_coins_are_held() public view {
        eq(address(jobs).balance + address(registry).balance, 0);
    }
}
