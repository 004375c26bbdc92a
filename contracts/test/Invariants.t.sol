// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Phase} from "../src/GalaxyTypes.sol";
import {JobStore} from "../src/JobStore.sol";
import {PayoutProof} from "../src/PayoutProof.sol";
import {Laws} from "./support/Laws.sol";
import {MoodyToken} from "./support/Tokens.sol";
import {eq, yes} from "./support/Vm.sol";

/// @dev The laws of the contracts, after any sequence of the handler's actions.
contract InvariantsTest is Laws {
    function escrowOf(JobStore.JobView memory j) private pure returns (uint256) {
        return uint256(j.bounty) + uint256(j.feePerSeat) * j.evaluators.length;
    }

    /// @dev What the contract still owes for a job, bonds included.
    function owed(JobStore.JobView memory j) private pure returns (uint256 amount) {
        amount = j.refundable + j.bondsHeld;
        if (j.phase != Phase.Settled && j.phase != Phase.Aborted) return amount + escrowOf(j);
        if (j.phase == Phase.Settled && !j.claimsExpired) amount += j.total - j.paid + j.feesOwed - j.feesPaid;
    }

    function invariant_no_law_was_seen_broken() public view {
        yes(bytes(handler.broken()).length == 0, handler.broken());
    }

    function invariant_money_is_conserved_per_job() public view {
        checkJobs(lawConserved);
    }

    function lawConserved(uint256 id, JobStore.JobView memory j) private view {
        (,,,, uint256 bonds, uint256 returned,,,,) = handler.ghosts(id);
        uint256 burned = handler.bondsForfeited(id);
        eq(escrowOf(j) + bonds, j.paid + j.feesPaid + j.refunded + returned + burned + owed(j));
    }

    function invariant_the_contract_holds_what_it_owes() public view {
        for (uint256 t = 0; t < 3; ++t) {
            address token = handler.tokens(t);
            uint256 sum = 0;
            for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
                JobStore.JobView memory j = jobs.job(id);
                if (j.token == token) sum += owed(j);
            }
            eq(IERC20(token).balanceOf(address(jobs)), sum);
        }
    }

    function invariant_nobody_is_paid_twice() public view {
        checkJobs(lawPaidOnce);
    }

    function lawPaidOnce(uint256 id, JobStore.JobView memory j) private view {
        PayoutProof.Payout[] memory list = handler.listOf(id);
        uint256 sum = 0;
        for (uint256 i = 0; i < list.length; ++i) {
            uint256 held = IERC20(j.token).balanceOf(list[i].account);
            eq(held, jobs.isPaid(id, i) ? list[i].amount : 0);
            yes(handler.timesPaid(id, i) <= 1, "paid twice");
            sum += held;
        }
        eq(j.paid, sum);
        (,,,,,,,, uint256 ghostPaid,) = handler.ghosts(id);
        eq(j.paid, ghostPaid);
    }

    function invariant_strangers_gain_nothing() public view {
        for (uint256 t = 0; t < 3; ++t) {
            eq(IERC20(handler.tokens(t)).balanceOf(address(handler)), 0);
        }
    }

    function invariant_no_token_reentered() public view {
        yes(!MoodyToken(handler.tokens(1)).hasReentered(), "re-entered");
    }

    function invariant_payouts_stay_within_the_settlement() public view {
        checkJobs(lawWithin);
    }

    function lawWithin(uint256, JobStore.JobView memory j) private pure {
        yes(j.paid <= j.total && j.total <= j.bounty, "payouts exceed the bounty");
        yes(j.feesPaid <= j.feesOwed && j.feesOwed <= 3 * uint256(j.feePerSeat), "fees exceed what was promised");
        if (j.phase != Phase.Settled) eq(j.total + j.feesOwed + uint256(j.payoutRoot), 0);
    }

    function invariant_each_refund_is_sent_once() public view {
        checkJobs(lawRefund);
    }

    function lawRefund(uint256 id, JobStore.JobView memory j) private view {
        (,,,, uint256 bonds,, uint256 refunds,,,) = handler.ghosts(id);
        eq(j.refunded, refunds);
        yes(j.refunded + j.refundable <= escrowOf(j) + bonds, "refunded too much");
        if (j.phase != Phase.Settled && j.phase != Phase.Aborted) eq(j.refunded + j.refundable, 0);
    }

    function invariant_a_job_settles_at_most_once() public view {
        checkJobs(lawSettlesOnce);
    }

    function lawSettlesOnce(uint256 id, JobStore.JobView memory j) private view {
        (,,,,,,, uint256 settlements,,) = handler.ghosts(id);
        eq(settlements, j.phase == Phase.Settled ? 1 : 0);
    }

    function invariant_phases_are_those_seen() public view {
        checkJobs(lawPhase);
    }

    function lawPhase(uint256 id, JobStore.JobView memory j) private view {
        (Phase seen,,,,,,,,,) = handler.ghosts(id);
        yes(seen == j.phase && j.phase != Phase.None, "phase");
    }

    function invariant_rounds_stay_in_range() public view {
        checkJobs(lawRounds);
    }

    function lawRounds(uint256, JobStore.JobView memory j) private pure {
        yes(j.roundIndex <= j.rounds, "too many rounds");
        if (j.phase == Phase.Training) yes(j.roundIndex < j.rounds, "a round too many");
        if (j.phase == Phase.Revealing || j.phase == Phase.Settled) yes(j.roundIndex > 0, "scores without a round");
        yes(j.cohortSize == 0 || (j.minOwners <= j.cohortSize && j.cohortSize <= j.maxOwners), "cohort size");
    }

    function invariant_history_and_direct_entries_are_those_seen() public view {
        checkJobs(lawHeads);
    }

    function lawHeads(uint256 id, JobStore.JobView memory j) private view {
        (, bytes32 head, bytes32 history,,,,,,,) = handler.ghosts(id);
        eq(j.history, history);
        if (j.phase != Phase.Aborted) eq(j.directHead, head);
    }

    function invariant_seats_commit_before_they_reveal() public view {
        checkJobs(lawSeats);
    }

    function lawSeats(uint256 id, JobStore.JobView memory j) private view {
        uint256 taken = 0;
        uint256 commits = 0;
        uint256 reveals = 0;
        for (uint256 i = 0; i < 3; ++i) {
            (, bool isTaken, bytes32 committed, bytes32 revealed) = jobs.seat(id, handler.evaluatorAt(i));
            if (isTaken) ++taken;
            if (committed != 0) ++commits;
            if (revealed != 0) ++reveals;
            yes(committed == 0 || isTaken, "committed without a seat");
            yes(revealed == 0 || committed != 0, "revealed without a commitment");
        }
        eq(j.seatsTaken, taken);
        eq(j.commits, commits);
        eq(j.reveals, reveals);
        if (j.phase == Phase.Settled) yes(reveals >= j.quorum, "settled without a quorum");
        if (j.phase == Phase.Training) yes(taken >= j.quorum, "training without a quorum");
    }

    function invariant_locked_and_leaving_stay_within_the_stake() public view {
        for (uint256 i = 0; i < 3; ++i) {
            (, uint128 staked, uint128 locked, uint128 leaving,) = registry.evaluator(handler.evaluatorAt(i));
            yes(uint256(locked) + leaving <= staked, "stake");
        }
    }

    function invariant_locked_stake_is_that_of_live_seats() public view {
        for (uint256 i = 0; i < 3; ++i) {
            address evaluator = handler.evaluatorAt(i);
            uint256 live = 0;
            for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
                JobStore.JobView memory j = jobs.job(id);
                (, bool taken,,) = jobs.seat(id, evaluator);
                if (taken && j.phase != Phase.Settled && j.phase != Phase.Aborted) live += j.seatStake;
            }
            (,, uint128 locked,,) = registry.evaluator(evaluator);
            eq(locked, live);
        }
    }

    function invariant_the_registry_holds_all_stake() public view {
        uint256 sum = registry.slashedUnburned();
        for (uint256 i = 0; i < 3; ++i) {
            (, uint128 staked,,,) = registry.evaluator(handler.evaluatorAt(i));
            sum += staked;
        }
        eq(stakeToken.balanceOf(address(registry)), sum);
        eq(sum, handler.staked() - handler.withdrawn() - handler.expectedBurned());
    }

    function invariant_only_seats_at_fault_are_slashed() public view {
        uint256 burned = handler.expectedBurned() + handler.bondsBurned(address(stakeToken));
        eq(stakeToken.balanceOf(registry.BURN_ADDRESS()), burned);
    }

    function invariant_only_forfeited_bonds_are_burned() public view {
        for (uint256 t = 1; t < 3; ++t) {
            address token = handler.tokens(t);
            eq(IERC20(token).balanceOf(registry.BURN_ADDRESS()), handler.bondsBurned(token));
        }
    }

    function invariant_a_terminal_job_has_no_deadline_but_claims() public view {
        checkJobs(lawDeadline);
    }

    function lawDeadline(uint256, JobStore.JobView memory j) private pure {
        bool isOver = j.phase == Phase.Aborted || j.claimsExpired;
        yes(isOver == (j.expiresAt == 0), "every other phase has a way out");
        yes(isOver || (j.expiresAt >= j.deadline && j.deadline > j.phaseStart), "deadlines in order");
    }

    /// @dev Law: from every reachable state, time alone and a stranger drain the contract.
    function afterInvariant() public {
        handler.drain();
        for (uint256 t = 0; t < 3; ++t) {
            eq(IERC20(handler.tokens(t)).balanceOf(address(jobs)), 0);
        }
        for (uint256 i = 0; i < 3; ++i) {
            (,, uint128 locked,,) = registry.evaluator(handler.evaluatorAt(i));
            eq(locked, 0);
        }
        invariant_no_law_was_seen_broken();
        invariant_money_is_conserved_per_job();
        invariant_only_seats_at_fault_are_slashed();
    }

    /// @dev The laws above are not empty: the same actions, drawn here, reach every phase and every way out.
    function test_the_actions_reach_everything() public {
        uint256 reached = 0;
        for (uint256 life = 0; life < 24 && reached != 0x1fff; ++life) {
            setUp();
            bytes4[] memory selectors = targetSelectors()[0].selectors;
            for (uint256 step = 0; step < 150; ++step) {
                uint256 seed = uint256(keccak256(abi.encode(life, step)));
                (bool isDone,) = address(handler).call(
                    abi.encodeWithSelector(
                        selectors[seed % selectors.length],
                        uint256(uint64(seed >> 64)),
                        uint256(uint64(seed >> 128)),
                        uint256(uint64(seed >> 192))
                    )
                );
                yes(isDone, "an action failed");
            }
            for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
                JobStore.JobView memory j = jobs.job(id);
                reached |= reachedBy(j);
                (,,,, uint256 bonds, uint256 returned,,,,) = handler.ghosts(id);
                if (j.claimsExpired && bonds > returned) reached |= 0x400;
                bool isWaiting = handler.standsBy(id, 0) || handler.standsBy(id, 1) || handler.standsBy(id, 2);
                if (j.phase == Phase.Aborted && isWaiting) reached |= 0x1000;
            }
            if (handler.expectedBurned() > 0) reached |= 0x200;
            for (uint256 t = 0; t < 3; ++t) {
                if (handler.bondsBurned(handler.tokens(t)) > 0) reached |= 0x800;
            }
        }
        eq(reached, 0x1fff);
    }

    function reachedBy(JobStore.JobView memory j) private pure returns (uint256 marks) {
        if (j.phase == Phase.Settled) marks |= 0x01;
        if (j.phase == Phase.Aborted) marks |= 0x02;
        if (j.phase == Phase.Aborted && j.roundIndex > 0) marks |= 0x04;
        if (j.claimsExpired) marks |= 0x08;
        if (j.paid > 0 && j.paid == j.total) marks |= 0x10;
        if (j.paid > 0 && j.paid < j.total) marks |= 0x20;
        if (j.feesPaid > 0 && j.refunded > 0) marks |= 0x40;
        if (j.faultySeats > 0) marks |= 0x80;
        if (j.bondsHeld > 0) marks |= 0x100;
    }
}
