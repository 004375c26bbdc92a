// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {GalaxyTypes, Phase} from "../../src/GalaxyTypes.sol";
import {JobStore} from "../../src/JobStore.sol";
import {PayoutProof} from "../../src/PayoutProof.sol";
import {DemoToken} from "../../src/dev/DemoToken.sol";
import {Watcher} from "./Watcher.sol";
import {vm} from "./Vm.sol";

/// @dev Steps in the life of a job, right and wrong ones alike, up to its settlement.
abstract contract JobLife is Watcher {
    function payeeOf(uint256 jobId, uint256 i) public pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("payee", jobId, i)))));
    }

    function postOne(uint256 seed, uint96 bounty, uint64 fee) external watched {
        if (jobs.jobCount() >= MAX_JOBS) return;
        JobStore.JobParameters memory p = parameters();
        p.token = tokens[seed % 3];
        p.bounty = uint128(bounty) + 1;
        p.feePerSeat = fee;
        p.rounds = uint32(1 + (seed >> 8) % 2);
        p.bondPerIdentity = (seed >> 16) % 2 == 0 ? 0 : 7;
        p.seatStake = uint128((seed >> 24) % 3) * STAKE;
        p.minOwners = 1;
        uint256 escrow = uint256(p.bounty) + 3 * uint256(fee);
        DemoToken(p.token).mint(REQUESTER, escrow);
        vm.startPrank(REQUESTER);
        if (p.token != tokens[2]) DemoToken(p.token).approve(address(jobs), escrow);
        uint256 id = jobs.postJob(p);
        vm.stopPrank();
        ghosts[id].rounds = p.rounds;
        if ((seed >> 32) % 2 == 0) _bond(id, ownerOf((seed >> 40) % OWNERS));
    }

    function postWithFeeToken(uint96 bounty) external watched {
        JobStore.JobParameters memory p = parameters();
        p.token = feeToken;
        p.bounty = uint128(bounty) + 1;
        DemoToken(feeToken).mint(REQUESTER, type(uint128).max);
        vm.startPrank(REQUESTER);
        DemoToken(feeToken).approve(address(jobs), type(uint256).max);
        try jobs.postJob(p) {
            fail("a token that keeps a fee was accepted");
        } catch {}
        vm.stopPrank();
    }

    function sit(uint256 jobSeed, uint256 who) external watched {
        uint256 id = _jobOf(jobSeed);
        vm.prank(evaluator(who % 3));
        try jobs.takeSeat(id) {} catch {}
    }

    function bond(uint256 jobSeed, uint256 who) external watched {
        _bond(_jobOf(jobSeed), ownerOf(who % OWNERS));
    }

    function _bond(uint256 id, address dataOwner) private {
        JobStore.JobView memory j = jobs.job(id);
        if (j.bondPerIdentity == 0) return;
        DemoToken(j.token).mint(STRANGER, j.bondPerIdentity);
        vm.startPrank(STRANGER);
        if (j.token != tokens[2]) DemoToken(j.token).approve(address(jobs), type(uint256).max);
        try jobs.depositBond(id, dataOwner) {
            ghosts[id].bonds += j.bondPerIdentity;
        } catch {}
        vm.stopPrank();
    }

    function returnBond(uint256 jobSeed, uint256 who) external watched {
        uint256 id = _jobOf(jobSeed);
        if ((jobSeed >> 8) % 2 == 0) return;
        try jobs.returnBond(id, ownerOf(who % OWNERS)) {
            ghosts[id].bondsReturned += jobs.job(id).bondPerIdentity;
        } catch {}
    }

    /// @dev An owner signs two updates of a round: shown, they burn its bond; what is not evidence must not.
    function forfeit(uint256 jobSeed, uint256 who, uint256 round) external watched {
        uint256 id = _jobOf(jobSeed);
        if (jobSeed % 4 != 0) return;
        uint256 key = _keyOf(who % OWNERS);
        GalaxyTypes.Update memory u =
            GalaxyTypes.Update(id, uint32(round % 3), TERMS, vm.addr(key), MODEL, MODEL);
        bytes memory first = signedBy(key, jobsDigest(GalaxyTypes.hash(u)));
        try jobs.forfeitBond(u, first, MODEL, first) {
            fail("one update burned a bond");
        } catch {}
        u.updateDigest = SCORES;
        bytes memory second = signedBy(key, jobsDigest(GalaxyTypes.hash(u)));
        try jobs.forfeitBond(u, second, MODEL, signedBy(key + 1, jobsDigest(GalaxyTypes.hash(u)))) {
            fail("a forged update burned a bond");
        } catch {}
        uint256 held = jobs.job(id).bondsHeld;
        try jobs.forfeitBond(u, second, MODEL, first) {
            uint256 amount = jobs.job(id).bondPerIdentity;
            if (ghosts[id].phase < Phase.Training) fail("a bond burned before training");
            if (held - jobs.job(id).bondsHeld != amount) fail("another amount was burned");
            bondsForfeited[id] += amount;
            bondsBurned[jobs.job(id).token] += amount;
        } catch {}
    }

    /// @dev The key of a bonded owner; its account is `ownerOf`.
    function _keyOf(uint256 i) private pure returns (uint256) {
        return 0xB0B + 16 * i;
    }

    function ownerOf(uint256 i) public pure returns (address) {
        return vm.addr(_keyOf(i));
    }

    function enrol(uint256 jobSeed, uint256 who) external watched {
        _enrol(_jobOf(jobSeed), ownerOf(who % OWNERS));
    }

    function _enrol(uint256 id, address dataOwner) private {
        GalaxyTypes.Enrolment memory e =
            GalaxyTypes.Enrolment(id, TERMS, dataOwner, keccak256(abi.encode(dataOwner, TERMS)), MODEL, 0);
        vm.startPrank(dataOwner);
        try registry.registerDataset(GalaxyTypes.DatasetRegistration(dataOwner, TERMS, SCHEMA), "") {} catch {}
        try jobs.enrolDirectly(e, "") {
            ghosts[id].head = keccak256(abi.encode(ghosts[id].head, GalaxyTypes.hash(e)));
        } catch {}
        vm.stopPrank();
    }

    function submit(uint256 jobSeed, uint256 who) external watched {
        _submit(_jobOf(jobSeed), ownerOf(who % OWNERS));
    }

    function _submit(uint256 id, address dataOwner) private {
        GalaxyTypes.Update memory u =
            GalaxyTypes.Update(id, jobs.job(id).roundIndex, TERMS, dataOwner, MODEL, MODEL);
        vm.prank(dataOwner);
        try jobs.submitUpdateDirectly(u, "") {
            ghosts[id].head = keccak256(abi.encode(ghosts[id].head, GalaxyTypes.hash(u)));
        } catch {}
    }

    /// @dev The next one to four right steps, if their time has come, by whichever seats the seed names.
    function advance(uint256 jobSeed, uint256 seats, uint256 size) external watched {
        uint256 id = _jobOf(jobSeed);
        if (seats % 8 != 0) seats = ALL;
        for (uint256 steps = 1 + size % 4; steps > 0; --steps) {
            JobStore.JobView memory j = jobs.job(id);
            if (j.phase == Phase.Enrolling) {
                if (size % 8 != 0) takeSeatsIfFree(id);
                _anchorCohort(id, size % 8 == 1 ? 3 : uint32(OWNERS), seats);
            } else if (j.phase == Phase.Training) {
                _anchorRound(id, j.cohortSize, seats);
            } else if (j.phase == Phase.Committing) {
                _commit(id, seats);
            } else if (j.phase == Phase.Revealing) {
                _reveal(id, seats);
            }
            _observe();
        }
    }

    function takeSeatsIfFree(uint256 id) private {
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(evaluator(i));
            try jobs.takeSeat(id) {} catch {}
        }
    }

    function _anchorCohort(uint256 id, uint32 size, uint256 seats) private {
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(id, size);
        try jobs.anchorCohort(a, signed(GalaxyTypes.hash(a), seats)) {
            if (a.directHead != ghosts[id].head) fail("direct enrolments were left out");
            ghosts[id].head = 0;
        } catch {}
    }

    function _anchorRound(uint256 id, uint32 count, uint256 seats) private {
        GalaxyTypes.RoundAnchor memory a = roundAnchor(id, count);
        try jobs.anchorRound(a, signed(GalaxyTypes.hash(a), seats)) {
            if (a.directHead != ghosts[id].head) fail("direct updates were left out");
            ghosts[id].head = 0;
            ghosts[id].history = keccak256(abi.encode(ghosts[id].history, GalaxyTypes.hash(a)));
        } catch {}
    }

    /// @dev A seat says that it is there, whenever the contract lets it.
    function standBy(uint256 jobSeed, uint256 seat) external watched {
        uint256 id = _jobOf(jobSeed);
        vm.prank(evaluator(seat % 3));
        try jobs.standBy(id) {
            if (standsBy[id][seat % 3]) fail("a seat stood by twice");
            standsBy[id][seat % 3] = true;
        } catch {}
    }

    function _commit(uint256 id, uint256 seats) private {
        for (uint256 i = 0; i < 3; ++i) {
            if (seats & (1 << i) == 0) continue;
            bytes32 committed = commitment(id, evaluator(i));
            vm.prank(evaluator(i));
            try jobs.commitScores(id, committed) {} catch {}
        }
    }

    function _reveal(uint256 id, uint256 seats) private {
        for (uint256 i = 0; i < 3; ++i) {
            if (seats & (1 << i) == 0) continue;
            vm.prank(evaluator(i));
            try jobs.revealScores(id, SCORES, SALT) {} catch {}
        }
    }

    /// @dev An anchor that leaves out a direct entry, signed by all: the contract must refuse it.
    function anchorWithoutDirect(uint256 jobSeed, uint256 who) external watched {
        uint256 id = _jobOf(jobSeed);
        takeSeatsIfFree(id);
        _bond(id, ownerOf(who % OWNERS));
        _enrol(id, ownerOf(who % OWNERS));
        _submit(id, ownerOf(who % OWNERS));
        if (ghosts[id].head == 0) return;
        JobStore.JobView memory j = jobs.job(id);
        GalaxyTypes.CohortAnchor memory c = GalaxyTypes.CohortAnchor(id, MODEL, j.maxOwners, 0);
        try jobs.anchorCohort(c, signed(GalaxyTypes.hash(c), ALL)) {
            fail("direct enrolments were left out");
        } catch {}
        GalaxyTypes.RoundAnchor memory r =
            GalaxyTypes.RoundAnchor(id, j.roundIndex, MODEL, j.cohortSize, 0, MODEL);
        try jobs.anchorRound(r, signed(GalaxyTypes.hash(r), ALL)) {
            fail("direct updates were left out");
        } catch {}
    }

    /// @dev Settles with shares, faults and promises that the seed draws; promises may exceed the total.
    function settleOne(uint256 jobSeed, uint256 seed, uint256 seats) external watched {
        uint256 id = _jobOf(jobSeed);
        JobStore.JobView memory j = jobs.job(id);
        if (j.phase != Phase.Revealing) return;
        if (seed % 8 != 0) _reveal(id, ALL);
        j = jobs.job(id);
        PayoutProof.Payout[] memory list = new PayoutProof.Payout[](OWNERS);
        uint256 total = 0;
        for (uint256 i = 0; i < OWNERS; ++i) {
            uint256 amount = uint256(keccak256(abi.encode(seed, i))) % (j.bounty / OWNERS + 1);
            list[i] = PayoutProof.Payout(i, payeeOf(id, i), amount);
            total += amount;
        }
        if ((seed >> 8) % 4 == 0) list[3].amount += 1; // promises one unit too much
        uint256 faulty = (seed >> 16) % 2 == 0 ? (seed >> 24) % 8 : 0;
        seats = (seats % 4 == 0 ? (seats >> 8) % 8 : ALL) & ~faulty;
        GalaxyTypes.Settlement memory s =
            GalaxyTypes.Settlement(id, rootFor(id, list), total, uint32(OWNERS), MODEL, faulty);
        if (j.cohortSize < OWNERS) return;
        uint256 burned = _notRevealed(id, faulty) * j.seatStake;
        try jobs.settle(s, signed(GalaxyTypes.hash(s), seats)) {
            ghosts[id].settlements += 1;
            expectedBurned += burned;
            for (uint256 i = 0; i < OWNERS; ++i) {
                _lists[id].push(list[i]);
            }
        } catch {}
    }

    /// @dev How many seats stood by and never committed.
    function _waiting(uint256 id) internal view returns (uint256 count) {
        for (uint256 i = 0; i < 3; ++i) {
            (,, bytes32 committed,) = jobs.seat(id, evaluator(i));
            if (standsBy[id][i] && committed == 0) ++count;
        }
    }

    /// @dev How many taken seats did not reveal or are named faulty.
    function _notRevealed(uint256 id, uint256 faulty) internal view returns (uint256 count) {
        for (uint256 i = 0; i < 3; ++i) {
            (, bool taken,, bytes32 revealed) = jobs.seat(id, evaluator(i));
            if (taken && (revealed == 0 || faulty & (1 << i) != 0)) ++count;
        }
    }

    function _notCommitted(uint256 id) internal view returns (uint256 count) {
        for (uint256 i = 0; i < 3; ++i) {
            (, bool taken, bytes32 committed,) = jobs.seat(id, evaluator(i));
            if (taken && committed == 0) ++count;
        }
    }
}
