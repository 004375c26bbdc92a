// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {GalaxyJobs} from "../../src/GalaxyJobs.sol";
import {GalaxyRegistry} from "../../src/GalaxyRegistry.sol";
import {GalaxyTypes, Phase} from "../../src/GalaxyTypes.sol";
import {JobStore} from "../../src/JobStore.sol";
import {PayoutProof} from "../../src/PayoutProof.sol";
import {DemoToken} from "../../src/dev/DemoToken.sol";
import {eq, vm} from "./Vm.sol";

/// @dev A deployment with three staked evaluators, and every step of a job's life as one call.
abstract contract Base {
    bytes32 internal constant TERMS = keccak256("terms");
    bytes32 internal constant SCHEMA = keccak256("schema");
    bytes32 internal constant MODEL = keccak256("model");
    bytes32 internal constant SALT = keccak256("salt");
    bytes32 internal constant SCORES = keccak256("scores");
    address internal constant REQUESTER = address(0xA11CE);
    address internal constant STRANGER = address(0x57A6E6);
    uint128 internal constant BOUNTY = 1000 ether;
    uint128 internal constant FEE = 3 ether;
    uint128 internal constant STAKE = 50 ether;
    uint32 internal constant WINDOW = 1 hours;
    uint32 internal constant CLAIM_WINDOW = 10 days;
    uint64 internal constant UNBONDING = 7 days;
    uint256 internal constant ALL = 7;
    uint256 internal constant START = 1_800_000_000;

    DemoToken internal token;
    GalaxyRegistry internal registry;
    GalaxyJobs internal jobs;
    /// @dev Private keys of the evaluators, ascending by address.
    uint256[3] internal evaluatorKeys;

    function setUp() public virtual {
        vm.warp(START);
        token = new DemoToken();
        deploy(IERC20(address(token)));
        uint256[3] memory keys = [uint256(11), 12, 13];
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 k = i + 1; k < 3; ++k) {
                if (vm.addr(keys[k]) < vm.addr(keys[i])) (keys[i], keys[k]) = (keys[k], keys[i]);
            }
        }
        evaluatorKeys = keys;
        for (uint256 i = 0; i < 3; ++i) {
            stake(evaluator(i), 10 * STAKE);
        }
    }

    function deploy(IERC20 stakeToken) internal {
        address predicted = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        registry = new GalaxyRegistry(stakeToken, predicted, UNBONDING);
        jobs = new GalaxyJobs(registry);
    }

    function stake(address account, uint128 amount) internal {
        DemoToken(address(registry.stakeToken())).mint(account, amount);
        vm.startPrank(account);
        registry.stakeToken().approve(address(registry), amount);
        registry.registerEvaluator(keccak256(abi.encode(account)));
        registry.depositStake(amount);
        vm.stopPrank();
    }

    function evaluator(uint256 i) internal view returns (address) {
        return vm.addr(evaluatorKeys[i]);
    }

    function parameters() internal view returns (JobStore.JobParameters memory p) {
        p.token = address(token);
        p.termsDigest = TERMS;
        p.bounty = BOUNTY;
        p.feePerSeat = FEE;
        p.seatStake = STAKE;
        p.rounds = 2;
        p.minOwners = 2;
        p.maxOwners = 4;
        p.enrolWindow = WINDOW;
        p.roundWindow = WINDOW;
        p.anchorWindow = WINDOW;
        p.commitWindow = WINDOW;
        p.revealWindow = WINDOW;
        p.settleWindow = WINDOW;
        p.claimWindow = CLAIM_WINDOW;
        p.evaluators = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            p.evaluators[i] = evaluator(i);
        }
    }

    function post(JobStore.JobParameters memory p) internal returns (uint256) {
        uint256 escrow = uint256(p.bounty) + uint256(p.feePerSeat) * p.evaluators.length;
        DemoToken(p.token).mint(REQUESTER, escrow);
        vm.startPrank(REQUESTER);
        DemoToken(p.token).approve(address(jobs), escrow);
        uint256 jobId = jobs.postJob(p);
        vm.stopPrank();
        return jobId;
    }

    function takeSeats(uint256 jobId, uint256 seats) internal {
        for (uint256 i = 0; i < 3; ++i) {
            if (seats & (1 << i) == 0) continue;
            vm.prank(evaluator(i));
            jobs.takeSeat(jobId);
        }
    }

    function jobsDigest(bytes32 structHash) internal view returns (bytes32) {
        return digest("GalaxyJobs", address(jobs), structHash);
    }

    function digest(string memory name, address verifier, bytes32 structHash) internal view returns (bytes32) {
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256("1"),
                block.chainid,
                verifier
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", separator, structHash));
    }

    function signedBy(uint256 key, bytes32 hash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, hash);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Signatures of the seats in the bitmap, ascending.
    function signed(bytes32 structHash, uint256 seats) internal view returns (bytes memory all) {
        for (uint256 i = 0; i < 3; ++i) {
            if (seats & (1 << i) != 0) all = abi.encodePacked(all, signedBy(evaluatorKeys[i], jobsDigest(structHash)));
        }
    }

    function cohortAnchor(uint256 jobId, uint32 size) internal view returns (GalaxyTypes.CohortAnchor memory) {
        return GalaxyTypes.CohortAnchor(jobId, keccak256("cohort"), size, jobs.job(jobId).directHead);
    }

    function roundAnchor(uint256 jobId, uint32 count) internal view returns (GalaxyTypes.RoundAnchor memory) {
        JobStore.JobView memory j = jobs.job(jobId);
        return GalaxyTypes.RoundAnchor(jobId, j.roundIndex, keccak256("round"), count, j.directHead, MODEL);
    }

    function anchorCohort(uint256 jobId, uint32 size) internal {
        if (size != jobs.job(jobId).maxOwners) vm.warp(jobs.job(jobId).deadline);
        GalaxyTypes.CohortAnchor memory a = cohortAnchor(jobId, size);
        jobs.anchorCohort(a, signed(GalaxyTypes.hash(a), 3));
    }

    function anchorRound(uint256 jobId) internal {
        GalaxyTypes.RoundAnchor memory a = roundAnchor(jobId, jobs.job(jobId).cohortSize);
        jobs.anchorRound(a, signed(GalaxyTypes.hash(a), 3));
    }

    function commitment(uint256 jobId, address evaluator_) internal view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(jobs), jobId, evaluator_, SCORES, SALT));
    }

    function commit(uint256 jobId, uint256 seats) internal {
        for (uint256 i = 0; i < 3; ++i) {
            if (seats & (1 << i) == 0) continue;
            bytes32 committed = commitment(jobId, evaluator(i));
            vm.prank(evaluator(i));
            jobs.commitScores(jobId, committed);
        }
    }

    function reveal(uint256 jobId, uint256 seats) internal {
        for (uint256 i = 0; i < 3; ++i) {
            if (seats & (1 << i) == 0) continue;
            vm.prank(evaluator(i));
            jobs.revealScores(jobId, SCORES, SALT);
        }
    }

    function settle(GalaxyTypes.Settlement memory s, uint256 seats) internal {
        jobs.settle(s, signed(GalaxyTypes.hash(s), seats));
    }

    /// @dev A job with all seats taken, in Training with a full cohort of four.
    function inTraining(JobStore.JobParameters memory p) internal returns (uint256 jobId) {
        jobId = post(p);
        takeSeats(jobId, ALL);
        anchorCohort(jobId, 4);
    }

    function inCommitting(JobStore.JobParameters memory p) internal returns (uint256 jobId) {
        jobId = inTraining(p);
        for (uint256 i = 0; i < p.rounds; ++i) {
            anchorRound(jobId);
        }
    }

    function inRevealing(JobStore.JobParameters memory p) internal returns (uint256 jobId) {
        jobId = inCommitting(p);
        commit(jobId, ALL);
    }

    /// @dev Four payouts of 100, 200, 300 and 400 ether; settled by all three seats.
    function inSettled(JobStore.JobParameters memory p) internal returns (uint256 jobId) {
        jobId = inRevealing(p);
        reveal(jobId, ALL);
        settle(settlement(jobId, 1000 ether, 0), ALL);
    }

    function settlement(uint256 jobId, uint256 total, uint256 faultySeats)
        internal
        view
        returns (GalaxyTypes.Settlement memory)
    {
        return GalaxyTypes.Settlement(jobId, rootFor(jobId, payouts()), total, 4, MODEL, faultySeats);
    }

    function payouts() internal pure returns (PayoutProof.Payout[] memory list) {
        list = new PayoutProof.Payout[](4);
        for (uint256 i = 0; i < 4; ++i) {
            list[i] = PayoutProof.Payout(i, payee(i), (i + 1) * 100 ether);
        }
    }

    function payee(uint256 i) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("payee", i)))));
    }

    function leaf(uint256 jobId, PayoutProof.Payout memory p) internal view returns (bytes32) {
        return keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(jobs), jobId, p.index, p.account, p.amount)))
        );
    }

    function pair(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }

    function rootFor(uint256 jobId, PayoutProof.Payout[] memory l) internal view returns (bytes32) {
        return pair(pair(leaf(jobId, l[0]), leaf(jobId, l[1])), pair(leaf(jobId, l[2]), leaf(jobId, l[3])));
    }

    function proofOf(uint256 jobId, PayoutProof.Payout[] memory l, uint256 i)
        internal
        view
        returns (bytes32[] memory proof)
    {
        proof = new bytes32[](2);
        proof[0] = leaf(jobId, l[i ^ 1]);
        uint256 other = (i & 2) ^ 2;
        proof[1] = pair(leaf(jobId, l[other]), leaf(jobId, l[other + 1]));
    }

    /// @dev Pays all four.
    function payAll(uint256 jobId) internal {
        payWith(jobId, payouts());
    }

    function payWith(uint256 jobId, PayoutProof.Payout[] memory list) internal {
        bool[] memory flags = new bool[](3);
        (flags[0], flags[1], flags[2]) = (true, true, true);
        jobs.pay(jobId, list, new bytes32[](0), flags);
    }

    /// @dev Law: what went in is what went out plus what is owed.
    function checkConservation(uint256 jobId) internal view {
        JobStore.JobView memory j = jobs.job(jobId);
        uint256 escrow = uint256(j.bounty) + uint256(j.feePerSeat) * j.evaluators.length;
        uint256 owed = j.refundable;
        if (j.phase == Phase.Settled && !j.claimsExpired) owed += j.total - j.paid + j.feesOwed - j.feesPaid;
        if (j.phase != Phase.Settled && j.phase != Phase.Aborted) owed += escrow;
        eq(escrow, j.paid + j.feesPaid + j.refunded + owed);
    }
}
