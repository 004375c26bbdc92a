// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {GalaxyTypes, Phase} from "../../src/GalaxyTypes.sol";
import {JobStore} from "../../src/JobStore.sol";
import {PayoutProof} from "../../src/PayoutProof.sol";
import {DemoToken} from "../../src/dev/DemoToken.sol";
import {Base} from "./Base.sol";
import {FeeToken, MoodyToken, SilentToken} from "./Tokens.sol";
import {vm, within} from "./Vm.sol";

/// @dev Drives whole job lives, right and wrong steps alike, and remembers what the contracts must then say.
contract Handler is Base {
    uint256 public constant MAX_JOBS = 3;
    uint256 private constant OWNERS = 4;

    address[3] public tokens; // fair, moody, silent
    address private feeToken;

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
    mapping(uint256 jobId => PayoutProof.Payout[]) private _lists;
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

    function _observe() private {
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

    function fail(string memory what) private {
        if (bytes(broken).length == 0) broken = what;
    }

    function _reentries() private view returns (bytes[] memory calls) {
        calls = new bytes[](4);
        calls[0] = abi.encodeCall(jobs.refund, (1));
        calls[1] = abi.encodeCall(jobs.expire, (1));
        calls[2] = abi.encodeCall(jobs.payFees, (1));
        calls[3] = abi.encodeCall(jobs.returnBond, (1, STRANGER));
    }

    function _jobOf(uint256 seed) private view returns (uint256) {
        uint256 count = jobs.jobCount();
        return count == 0 ? 0 : 1 + seed % count;
    }

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

    // ------------------------------------------------------------------ the life of a job

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
    function _waiting(uint256 id) private view returns (uint256 count) {
        for (uint256 i = 0; i < 3; ++i) {
            (,, bytes32 committed,) = jobs.seat(id, evaluator(i));
            if (standsBy[id][i] && committed == 0) ++count;
        }
    }

    /// @dev How many taken seats did not reveal or are named faulty.
    function _notRevealed(uint256 id, uint256 faulty) private view returns (uint256 count) {
        for (uint256 i = 0; i < 3; ++i) {
            (, bool taken,, bytes32 revealed) = jobs.seat(id, evaluator(i));
            if (taken && (revealed == 0 || faulty & (1 << i) != 0)) ++count;
        }
    }

    function _notCommitted(uint256 id) private view returns (uint256 count) {
        for (uint256 i = 0; i < 3; ++i) {
            (, bool taken, bytes32 committed,) = jobs.seat(id, evaluator(i));
            if (taken && committed == 0) ++count;
        }
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
