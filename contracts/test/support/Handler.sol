// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Phase} from "../../src/GalaxyTypes.sol";
import {JobStore} from "../../src/JobStore.sol";
import {PayoutProof} from "../../src/PayoutProof.sol";
import {JobLife} from "./JobLife.sol";
import {MoodyToken} from "./Tokens.sol";
import {vm, within} from "./Vm.sol";

/// @dev Drives whole job lives: what happens around the steps of `JobLife`, to stake, to payments, and as time passes.
contract Handler is JobLife {
    // ------------------------------------------------------------------ time, stake, moods

    function pass(uint256 seconds_) external watched {
        vm.warp(block.timestamp + within(seconds_, 1, WINDOW));
    }

    function passLong(uint256 seconds_) external watched {
        if (seconds_ % 8 == 0) vm.warp(block.timestamp + CLAIM_WINDOW);
    }

    function setMood(uint256 jobSeed, uint256 who, uint256 mood) external watched {
        uint256 id = _jobOf(jobSeed);
        address account = who % 2 == 0 ? evaluator(who % 3) : payeeOf(id, who % OWNERS);
        MoodyToken(tokens[1]).setMood(account, MoodyToken.Mood(mood % 8));
    }

    function deposit(uint256 who, uint96 amount) external watched {
        address account = evaluator(who % 3);
        uint128 value = amount % (2 * STAKE) + 1;
        token.mint(account, value);
        vm.startPrank(account);
        token.approve(address(registry), value);
        registry.depositStake(value);
        vm.stopPrank();
        staked += value;
    }

    function requestWithdrawal(uint256 who, uint128 amount) external watched {
        (, uint128 all, uint128 locked,,) = registry.evaluator(evaluator(who % 3));
        vm.prank(evaluator(who % 3));
        // Whoever has withdrawn everything asks for nothing, and is refused.
        try registry.requestWithdrawal(all == 0 || amount % 2 == 0 ? all - locked : amount % all) {} catch {}
    }

    function withdraw(uint256 who) external watched {
        (,,, uint128 leaving,) = registry.evaluator(evaluator(who % 3));
        vm.prank(evaluator(who % 3));
        try registry.withdraw() {
            withdrawn += leaving;
        } catch {}
    }

    // ------------------------------------------------------------------ money

    function payOut(uint256 jobSeed) external watched {
        uint256 id = _jobOf(jobSeed);
        if (_lists[id].length == 0) return;
        PayoutProof.Payout[] memory list = _lists[id];
        uint256[] memory before = _balances(id, list);
        try this.payWithout(id, list) {
            _countPaid(id, list, before);
        } catch {}
    }

    function payWithout(uint256 id, PayoutProof.Payout[] calldata list) external {
        payWith(id, list);
    }

    function claimOne(uint256 jobSeed, uint256 which, address caller) external watched {
        uint256 id = _jobOf(jobSeed);
        if (_lists[id].length == 0) return;
        PayoutProof.Payout[] memory list = _lists[id];
        PayoutProof.Payout memory p = list[which % OWNERS];
        uint256[] memory before = _balances(id, list);
        bytes32[] memory proof = proofOf(id, list, which % OWNERS);
        vm.prank(caller);
        // A claim forwards all its gas, and a token may eat it.
        try jobs.claim{gas: 1_000_000}(id, p.index, p.account, p.amount, proof) {
            _countPaid(id, list, before);
            ++timesPaid[id][100 + p.index];
            if (timesPaid[id][100 + p.index] > 1) fail("a payout was claimed twice");
        } catch {}
    }

    /// @dev Tries to have somebody else's payout sent to the caller.
    function stealOne(uint256 jobSeed, uint256 which) external watched {
        uint256 id = _jobOf(jobSeed);
        if (_lists[id].length == 0) return;
        PayoutProof.Payout[] memory list = _lists[id];
        bytes32[] memory proof = proofOf(id, list, which % OWNERS);
        try jobs.claim(id, which % OWNERS, STRANGER, list[which % OWNERS].amount, proof) {
            fail("a payout went to another account");
        } catch {}
    }

    function _balances(uint256 id, PayoutProof.Payout[] memory list) private view returns (uint256[] memory held) {
        held = new uint256[](OWNERS);
        for (uint256 i = 0; i < OWNERS; ++i) {
            held[i] = IERC20(jobs.job(id).token).balanceOf(list[i].account);
        }
    }

    function _countPaid(uint256 id, PayoutProof.Payout[] memory list, uint256[] memory before) private {
        uint256[] memory held = _balances(id, list);
        for (uint256 i = 0; i < OWNERS; ++i) {
            if (held[i] == before[i]) continue;
            if (held[i] - before[i] != list[i].amount) fail("a payee was sent another amount");
            ghosts[id].paid += list[i].amount;
            ++timesPaid[id][i];
        }
    }

    function payFees(uint256 jobSeed) external watched {
        try jobs.payFees(_jobOf(jobSeed)) {} catch {}
    }

    function refund(uint256 jobSeed, address caller) external watched {
        uint256 id = _jobOf(jobSeed);
        JobStore.JobView memory j = jobs.job(id);
        vm.prank(caller);
        try jobs.refund(id) {
            ghosts[id].refunds += j.refundable;
        } catch {}
    }

    // ------------------------------------------------------------------ ways out

    function cancel(uint256 jobSeed) external watched {
        uint256 id = _jobOf(jobSeed);
        if (jobSeed % 5 != 0) return;
        vm.prank(REQUESTER);
        try jobs.cancel(id) {
            ghosts[id].head = jobs.job(id).directHead;
        } catch {}
    }

    function cancelAsStranger(uint256 jobSeed) external watched {
        try jobs.cancel(_jobOf(jobSeed)) {
            fail("a stranger cancelled a job");
        } catch {}
    }

    function expire(uint256 jobSeed) public watched {
        _expire(_jobOf(jobSeed));
    }

    /// @dev Lets a settled job outlive its claims.
    function outlive(uint256 jobSeed) external watched {
        uint256 id = _jobOf(jobSeed);
        JobStore.JobView memory j = jobs.job(id);
        if (j.phase != Phase.Settled || j.claimsExpired) return;
        if (block.timestamp < j.expiresAt) vm.warp(j.expiresAt);
        _expire(id);
    }

    function _expire(uint256 id) private returns (bool hasMoved) {
        JobStore.JobView memory j = jobs.job(id);
        uint256 burned = 0;
        if (j.phase == Phase.Committing && j.commits < j.quorum) burned = _notCommitted(id) * j.seatStake;
        if (j.phase == Phase.Revealing) burned = _notRevealed(id, 0) * j.seatStake;
        if (burned != 0) burned -= _waiting(id) * j.seatStake;
        vm.prank(STRANGER);
        try jobs.expire(id) {
            if (block.timestamp < j.expiresAt) fail("a job expired before its time");
            expectedBurned += burned;
            if (j.phase == Phase.Training) ghosts[id].head = 0;
            return true;
        } catch {
            return false;
        }
    }

    /// @dev Time alone and a stranger: every job ends, and everything leaves.
    function drain() external watched {
        for (uint256 i = 0; i < 3; ++i) {
            MoodyToken(tokens[1]).setMood(evaluator(i), MoodyToken.Mood.Fair);
        }
        for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
            for (uint256 step = 0; step < 5; ++step) {
                vm.warp(block.timestamp + CLAIM_WINDOW);
                if (!_expire(id)) break;
            }
            for (uint256 i = 0; i < OWNERS; ++i) {
                vm.prank(STRANGER);
                try jobs.returnBond(id, ownerOf(i)) {
                    ghosts[id].bondsReturned += jobs.job(id).bondPerIdentity;
                } catch {}
            }
            uint256 owed = jobs.job(id).refundable;
            vm.prank(STRANGER);
            try jobs.refund(id) {
                ghosts[id].refunds += owed;
            } catch {}
        }
    }
}
