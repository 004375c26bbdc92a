// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Phase} from "../../src/GalaxyTypes.sol";
import {JobStore} from "../../src/JobStore.sol";
import {PayoutProof} from "../../src/PayoutProof.sol";
import {Base} from "./Base.sol";
import {FeeToken, MoodyToken, SilentToken} from "./Tokens.sol";

/// @dev Remembers what every successful call must have done, and looks after each whether the contracts say so.
abstract contract Watcher is Base {
    uint256 public constant MAX_JOBS = 3;
    uint256 internal constant OWNERS = 4;

    address[3] public tokens; // fair, moody, silent
    address internal feeToken;

    /// @dev What an observer of the successful calls knows about each job.
    struct Ghost {
        Phase phase;
        bytes32 head;
        bytes32 history;
        uint32 rounds;
        uint256 bonds;
        uint256 bondsReturned;
        uint256 refunds;
        uint256 settlements;
        uint256 paid;
        uint256 terminalWord;
    }

    mapping(uint256 jobId => Ghost) public ghosts;
    mapping(uint256 jobId => mapping(uint256 index => uint256)) public timesPaid;
    mapping(uint256 jobId => PayoutProof.Payout[]) internal _lists;
    mapping(uint256 jobId => mapping(uint256 seat => bool)) public standsBy;
    uint256 public expectedBurned;
    mapping(uint256 jobId => uint256) public bondsForfeited;
    /// @dev The same by token, over all jobs.
    mapping(address token => uint256) public bondsBurned;
    uint256 public staked;
    uint256 public withdrawn;
    /// @dev What may never change once it stands: a job's terms from its posting, its cohort from its anchor.
    mapping(uint256 jobId => bytes32) public firstTerms;
    mapping(uint256 jobId => bytes32) public firstCohort;
    /// @dev The first law that was seen broken; empty while none was.
    string public broken;

    /// @dev After every action, each job's phase must have moved along the table, or not at all.
    modifier watched() {
        _;
        _observe();
    }

    function _observe() internal {
        for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
            JobStore.JobView memory j = jobs.job(id);
            Ghost storage g = ghosts[id];
            if (firstTerms[id] == 0) firstTerms[id] = termsOf(j);
            if (j.cohortSize != 0 && firstCohort[id] == 0) firstCohort[id] = cohortOf(j);
            if (j.phase != g.phase) {
                if (!isStep(g.phase, j.phase)) fail("a phase moved off the table");
                g.phase = j.phase;
            }
            if (j.phase == Phase.Settled || j.phase == Phase.Aborted) {
                uint256 word = uint256(keccak256(abi.encode(j.phase, j.payoutRoot, j.total, j.payees, j.modelDigest)));
                if (g.terminalWord != 0 && g.terminalWord != word) fail("a terminal job changed");
                g.terminalWord = word;
            }
        }
    }

    /// @dev Everything that a requester posted.
    function termsOf(JobStore.JobView memory j) public pure returns (bytes32) {
        bytes32 money = keccak256(
            abi.encode(j.requester, j.token, j.termsDigest, j.bounty, j.feePerSeat, j.bondPerIdentity, j.seatStake)
        );
        bytes32 windows = keccak256(
            abi.encode(
                j.enrolWindow,
                j.roundWindow,
                j.anchorWindow,
                j.commitWindow,
                j.revealWindow,
                j.settleWindow,
                j.claimWindow
            )
        );
        return keccak256(abi.encode(money, windows, j.rounds, j.minOwners, j.maxOwners, j.quorum, j.evaluators));
    }

    function cohortOf(JobStore.JobView memory j) public pure returns (bytes32) {
        return keccak256(abi.encode(j.cohortRoot, j.cohortSize));
    }

    function setUp() public override {
        super.setUp();
        staked = 30 * STAKE;
        tokens = [address(token), address(new MoodyToken()), address(new SilentToken())];
        feeToken = address(new FeeToken());
        MoodyToken(tokens[1]).setReentry(address(jobs), _reentries());
    }

    function deployed() external view returns (address, address, address) {
        return (address(jobs), address(registry), address(token));
    }

    function listOf(uint256 jobId) external view returns (PayoutProof.Payout[] memory) {
        return _lists[jobId];
    }

    function evaluatorAt(uint256 i) external view returns (address) {
        return evaluator(i);
    }

    function requester() external pure returns (address) {
        return REQUESTER;
    }

    function isStep(Phase from, Phase to) public pure returns (bool) {
        if (from == Phase.None) return to == Phase.Enrolling;
        if (from == Phase.Enrolling) return to == Phase.Training || to == Phase.Aborted;
        if (from == Phase.Training) return to == Phase.Committing || to == Phase.Aborted;
        if (from == Phase.Committing) return to == Phase.Revealing || to == Phase.Aborted;
        if (from == Phase.Revealing) return to == Phase.Settled || to == Phase.Aborted;
        return false;
    }

    function fail(string memory what) internal {
        if (bytes(broken).length == 0) broken = what;
    }

    function _reentries() private view returns (bytes[] memory calls) {
        calls = new bytes[](4);
        calls[0] = abi.encodeCall(jobs.refund, (1));
        calls[1] = abi.encodeCall(jobs.expire, (1));
        calls[2] = abi.encodeCall(jobs.payFees, (1));
        calls[3] = abi.encodeCall(jobs.returnBond, (1, STRANGER));
    }

    function _jobOf(uint256 seed) internal view returns (uint256) {
        uint256 count = jobs.jobCount();
        return count == 0 ? 0 : 1 + seed % count;
    }
}
