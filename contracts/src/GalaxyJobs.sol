// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {GalaxyRegistry} from "./GalaxyRegistry.sol";
import {GalaxyTypes, Phase, TokenNotSupported, ZeroDigest} from "./GalaxyTypes.sol";
import {JobFunds} from "./JobFunds.sol";
import {Signatures} from "./Signatures.sol";
import {TokenTransfers} from "./TokenTransfers.sol";

/// @title The life of a job: escrow, cohort, rounds, scores, settlement, and the way out of each
/// @notice No admin and no proxy. Every phase has a deadline after which anybody may move the job on.
contract GalaxyJobs is JobFunds {
    using GalaxyTypes for GalaxyTypes.Enrolment;
    using GalaxyTypes for GalaxyTypes.Update;
    using GalaxyTypes for GalaxyTypes.CohortAnchor;
    using GalaxyTypes for GalaxyTypes.RoundAnchor;
    using GalaxyTypes for GalaxyTypes.Settlement;
    using TokenTransfers for IERC20;

    /// @notice A job was posted, and its escrow taken.
    /// @param jobId Its number, from 1.
    /// @param requester Who posted it.
    /// @param termsDigest BLAKE3 digest of its terms.
    /// @param bounty What its payouts come from.
    /// @param fees For all seats together.
    event JobPosted(
        uint256 indexed jobId, address indexed requester, bytes32 termsDigest, uint128 bounty, uint128 fees
    );
    /// @notice An evaluator took its seat.
    /// @param jobId The job.
    /// @param evaluator Who.
    event SeatTaken(uint256 indexed jobId, address indexed evaluator);
    /// @notice A data owner enrolled on chain.
    /// @param jobId The job.
    /// @param dataOwner Who.
    /// @param e What it signed.
    /// @param signature Its signature; empty where it called itself.
    /// @param directHead Head of the chain of direct enrolments, this one included.
    event EnrolledDirectly(
        uint256 indexed jobId,
        address indexed dataOwner,
        GalaxyTypes.Enrolment e,
        bytes signature,
        bytes32 directHead
    );
    /// @notice The cohort was fixed, and the first round began.
    /// @param jobId The job.
    /// @param root Merkle root of the enrolments.
    /// @param size How many they are.
    /// @param directHead Head of the direct enrolments, all of which are among them.
    event CohortAnchored(uint256 indexed jobId, bytes32 root, uint32 size, bytes32 directHead);
    /// @notice An update was submitted on chain.
    /// @param jobId The job.
    /// @param roundIndex Of its round, from 0.
    /// @param dataOwner Whose it is.
    /// @param u What it signed.
    /// @param signature Its signature; empty where it called itself.
    /// @param directHead Head of the chain of the round's direct updates, this one included.
    event UpdateSubmittedDirectly(
        uint256 indexed jobId,
        uint32 indexed roundIndex,
        address indexed dataOwner,
        GalaxyTypes.Update u,
        bytes signature,
        bytes32 directHead
    );
    /// @notice The accepted updates of a round were fixed.
    /// @param jobId The job.
    /// @param roundIndex From 0.
    /// @param root Merkle root of the updates.
    /// @param count How many they are.
    /// @param directHead Head of the direct updates, all of which are among them.
    /// @param modelDigest The model that the round began with.
    /// @param history Hash of this anchor and all before it.
    event RoundAnchored(
        uint256 indexed jobId,
        uint32 indexed roundIndex,
        bytes32 root,
        uint32 count,
        bytes32 directHead,
        bytes32 modelDigest,
        bytes32 history
    );
    /// @notice A seat said that it is there and cannot score yet.
    /// @param jobId The job.
    /// @param evaluator Whose seat.
    event StoodBy(uint256 indexed jobId, address indexed evaluator);
    /// @notice A seat committed to its scores.
    /// @param jobId The job.
    /// @param evaluator Whose seat.
    /// @param commitment To what; see `commitScores`.
    event ScoresCommitted(uint256 indexed jobId, address indexed evaluator, bytes32 commitment);
    /// @notice A seat revealed its scores.
    /// @param jobId The job.
    /// @param evaluator Whose seat.
    /// @param scoresDigest BLAKE3 digest of its score table.
    event ScoresRevealed(uint256 indexed jobId, address indexed evaluator, bytes32 scoresDigest);
    /// @notice It was fixed who is paid what.
    /// @param jobId The job.
    /// @param payoutRoot Merkle root of the payouts.
    /// @param total Their sum.
    /// @param payees How many they are.
    /// @param modelDigest The trained model.
    /// @param faultySeats Bitmap of the seats that were named faulty.
    event JobSettled(
        uint256 indexed jobId,
        bytes32 payoutRoot,
        uint256 total,
        uint32 payees,
        bytes32 modelDigest,
        uint256 faultySeats
    );
    /// @notice A job ended without pay.
    /// @param jobId The job.
    /// @param from The phase it was in.
    event JobAborted(uint256 indexed jobId, Phase from);
    /// @notice The time for claims is over; what was left became the requester's.
    /// @param jobId The job.
    /// @param amount How much that was.
    event ClaimsExpired(uint256 indexed jobId, uint256 amount);
    /// @notice A job went on to another phase by its last round, its last commitment, or a deadline.
    /// @param jobId The job.
    /// @param from The phase before.
    /// @param to The phase now.
    event PhaseChanged(uint256 indexed jobId, Phase from, Phase to);

    constructor(GalaxyRegistry registry_) EIP712("GalaxyJobs", "1") {
        if (registry_.jobs() != address(this)) revert RegistryMismatch();
        _registry = registry_;
    }

    /// @notice Posts a job and escrows bounty + feePerSeat * K of its token, approved before.
    /// @param p What the job is; immutable from now on.
    /// @return jobId Its number, from 1.
    function postJob(JobParameters calldata p) external nonReentrant returns (uint256 jobId) {
        return _post(p);
    }

    /// @notice Posts a job with an EIP-2612 permit for the escrow. A permit that was already used is no obstacle.
    /// @param p What the job is; immutable from now on.
    /// @param deadline Until when the permit is good, Unix seconds.
    /// @param v Of the permit's signature.
    /// @param r Of the permit's signature.
    /// @param s Of the permit's signature.
    /// @return jobId Its number, from 1.
    function postJobWithPermit(JobParameters calldata p, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
        returns (uint256 jobId)
    {
        if (p.token.code.length == 0) revert TokenNotSupported();
        uint256 escrow = uint256(p.bounty) + uint256(p.feePerSeat) * p.evaluators.length;
        try IERC20Permit(p.token).permit(msg.sender, address(this), escrow, deadline, v, r, s) {} catch {}
        return _post(p);
    }

    /// @notice Takes the caller's seat and locks its stake. Only while owners enrol.
    /// @param jobId The job.
    function takeSeat(uint256 jobId) external nonReentrant {
        Job storage j = _jobIn(jobId, Phase.Enrolling);
        uint256 index = _indexOf(j.evaluators, msg.sender);
        Seat storage seat_ = _seats[jobId][msg.sender];
        if (seat_.place != 0) revert SeatAlreadyTaken();
        seat_.place = uint8(index + 1);
        j.seatsTaken += 1;
        emit SeatTaken(jobId, msg.sender);
        _registry.lockStake(msg.sender, j.seatStake);
    }

    /// @notice Enrols an owner whom no relay would serve. Chained into `directHead`, so the anchor cannot omit it.
    /// @param e What the data owner signed.
    /// @param signature The data owner's, over `e`; may be empty when the data owner calls.
    function enrolDirectly(GalaxyTypes.Enrolment calldata e, bytes calldata signature) external {
        Job storage j = _jobIn(e.jobId, Phase.Enrolling);
        _checkBefore(uint256(j.phaseStart) + j.enrolWindow);
        if (e.termsDigest != j.termsDigest) revert WrongTerms();
        bytes32 structHash = e.hash();
        Signatures.checkDataOwner(e.dataOwner, _hashTypedDataV4(structHash), signature);
        if (_hasEnrolled[e.jobId][e.dataOwner]) revert AlreadyEnrolled();
        if (j.bondPerIdentity != 0 && _bondPayers[e.jobId][e.dataOwner] == address(0)) revert BondMissing();
        if (!_registry.isDatasetActive(e.datasetId, e.dataOwner)) revert DatasetNotUsable();
        _hasEnrolled[e.jobId][e.dataOwner] = true;
        bytes32 head = keccak256(abi.encode(j.directHead, structHash));
        j.directHead = head;
        emit EnrolledDirectly(e.jobId, e.dataOwner, e, signature, head);
    }

    /// @notice Fixes the cohort as one Merkle root and starts the first round.
    /// @param a What the seats signed.
    /// @param signatures Of a quorum of taken seats over `a`, 65 bytes each, ascending by signer.
    function anchorCohort(GalaxyTypes.CohortAnchor calldata a, bytes calldata signatures) external {
        Job storage j = _jobIn(a.jobId, Phase.Enrolling);
        if (a.size < j.minOwners || a.size > j.maxOwners) revert SizeOutOfRange();
        if (a.size != j.maxOwners) _checkSince(uint256(j.phaseStart) + j.enrolWindow);
        if (a.directHead != j.directHead) revert DirectEntriesMissing(j.directHead);
        _checkAnchor(a.jobId, j.quorum, a.hash(), signatures);
        j.phase = Phase.Training;
        j.phaseStart = uint40(block.timestamp);
        j.cohortSize = uint24(a.size);
        j.cohortRoot = a.root;
        j.history = EMPTY_HISTORY;
        j.directHead = 0;
        emit CohortAnchored(a.jobId, a.root, a.size, a.directHead);
    }

    /// @notice Submits an update that no relay would take. Chained into `directHead`, so the anchor cannot omit it.
    /// @dev Cohort membership is not checked here: a stranger's entry is logged and means nothing.
    /// @param u What the data owner signed.
    /// @param signature The data owner's, over `u`; may be empty when the data owner calls.
    function submitUpdateDirectly(GalaxyTypes.Update calldata u, bytes calldata signature) external {
        Job storage j = _jobIn(u.jobId, Phase.Training);
        if (u.roundIndex != j.roundIndex) revert WrongRound(j.roundIndex);
        _checkBefore(uint256(j.phaseStart) + j.roundWindow);
        if (u.termsDigest != j.termsDigest) revert WrongTerms();
        bytes32 structHash = u.hash();
        Signatures.checkDataOwner(u.dataOwner, _hashTypedDataV4(structHash), signature);
        uint256 entry = _directEntry(u.roundIndex, structHash);
        if (_lastDirectEntry[u.jobId][u.dataOwner] >> 224 == entry >> 224) revert AlreadySubmitted();
        _lastDirectEntry[u.jobId][u.dataOwner] = entry;
        bytes32 head = keccak256(abi.encode(j.directHead, structHash));
        j.directHead = head;
        emit UpdateSubmittedDirectly(u.jobId, u.roundIndex, u.dataOwner, u, signature, head);
    }

    /// @notice Fixes a round's accepted updates as one Merkle root; its cost does not depend on their number.
    /// @param a What the seats signed.
    /// @param signatures Of a quorum of taken seats over `a`, 65 bytes each, ascending by signer.
    function anchorRound(GalaxyTypes.RoundAnchor calldata a, bytes calldata signatures) external {
        Job storage j = _jobIn(a.jobId, Phase.Training);
        if (a.roundIndex != j.roundIndex) revert WrongRound(j.roundIndex);
        if (a.count < j.minOwners || a.count > j.cohortSize) revert SizeOutOfRange();
        if (a.count != j.cohortSize) _checkSince(uint256(j.phaseStart) + j.roundWindow);
        bytes32 head = j.directHead;
        if (a.directHead != head) revert DirectEntriesMissing(head);
        bytes32 structHash = a.hash();
        _checkAnchor(a.jobId, j.quorum, structHash, signatures);
        bytes32 history = keccak256(abi.encode(a.roundIndex == 0 ? bytes32(0) : j.history, structHash));
        j.history = history;
        if (head != 0) j.directHead = 0;
        j.phaseStart = uint40(block.timestamp);
        j.roundIndex = uint16(a.roundIndex + 1);
        emit RoundAnchored(a.jobId, a.roundIndex, a.root, a.count, head, a.modelDigest, history);
        if (a.roundIndex + 1 >= j.rounds) _enter(a.jobId, j, Phase.Committing);
    }

    /// @notice Says that a seat is there and waits for others before it can score. It may still commit to scores in
    /// time; if it cannot, and the job is aborted, it keeps its stake.
    /// @param jobId The job.
    function standBy(uint256 jobId) external {
        Job storage j = _jobIn(jobId, Phase.Committing);
        _checkBefore(uint256(j.phaseStart) + j.commitWindow);
        Seat storage seat_ = _seats[jobId][msg.sender];
        if (seat_.place == 0) revert NotSeated(msg.sender);
        if (seat_.committed != 0) revert AlreadyCommitted();
        if (seat_.standsBy) revert AlreadyStandingBy();
        seat_.standsBy = true;
        emit StoodBy(jobId, msg.sender);
    }

    /// @notice Commits a seat to its scores.
    /// @param jobId The job.
    /// @param commitment keccak256(abi.encode(chainid, this, jobId, evaluator, scoresDigest, salt)).
    function commitScores(uint256 jobId, bytes32 commitment) external {
        Job storage j = _jobIn(jobId, Phase.Committing);
        _checkBefore(uint256(j.phaseStart) + j.commitWindow);
        Seat storage seat_ = _seats[jobId][msg.sender];
        if (seat_.place == 0) revert NotSeated(msg.sender);
        if (commitment == 0) revert ZeroDigest();
        if (seat_.committed != 0) revert AlreadyCommitted();
        seat_.committed = commitment;
        j.commits += 1;
        emit ScoresCommitted(jobId, msg.sender, commitment);
        if (j.commits == j.seatsTaken) _enter(jobId, j, Phase.Revealing);
    }

    /// @notice Reveals the digest of the score table a seat committed to.
    /// @param jobId The job.
    /// @param scoresDigest BLAKE3 digest of the table; not 0.
    /// @param salt Of the commitment.
    function revealScores(uint256 jobId, bytes32 scoresDigest, bytes32 salt) external {
        Job storage j = _jobIn(jobId, Phase.Revealing);
        _checkBefore(uint256(j.phaseStart) + j.revealWindow);
        Seat storage seat_ = _seats[jobId][msg.sender];
        if (seat_.committed == 0) revert NotCommitted();
        if (scoresDigest == 0) revert ZeroDigest();
        if (seat_.revealed != 0) revert AlreadyRevealed();
        bytes32 commitment =
            keccak256(abi.encode(block.chainid, address(this), jobId, msg.sender, scoresDigest, salt));
        if (seat_.committed != commitment) revert CommitmentMismatch();
        seat_.revealed = scoresDigest;
        j.reveals += 1;
        emit ScoresRevealed(jobId, msg.sender, scoresDigest);
    }

    /// @notice Fixes who is paid what, slashes seats that did not reveal or are named faulty, frees the others.
    /// @param s What the seats signed.
    /// @param signatures Of a quorum of seats that revealed and are not named faulty, ascending by signer.
    function settle(GalaxyTypes.Settlement calldata s, bytes calldata signatures) external nonReentrant {
        Job storage j = _jobIn(s.jobId, Phase.Revealing);
        if (j.reveals != j.commits) _checkSince(uint256(j.phaseStart) + j.revealWindow);
        if (
            s.total > j.bounty || s.payees > j.cohortSize || (s.payees == 0 && s.total != 0)
                || s.faultySeats >> j.seats != 0
        ) revert InvalidSettlement();
        uint256 goodSeats = _revealedSeats(s.jobId, j) & ~s.faultySeats;
        address[] memory signers = _signers(j.quorum, s.hash(), signatures);
        for (uint256 i = 0; i < signers.length; ++i) {
            uint256 place = _seats[s.jobId][signers[i]].place;
            // Bit 0 stands for place 0, which is nobody's.
            if ((goodSeats << 1) & (1 << place) == 0) revert SeatNotEligible(signers[i]);
        }
        j.phase = Phase.Settled;
        j.phaseStart = uint40(block.timestamp);
        j.payoutRoot = s.payoutRoot;
        j.total = uint128(s.total);
        j.payees = uint24(s.payees);
        j.modelDigest = s.modelDigest;
        j.faultySeats = uint16(s.faultySeats);
        _oweFees(j, goodSeats);
        j.refundable = _escrow(j) - s.total - j.feesOwed;
        emit JobSettled(s.jobId, s.payoutRoot, s.total, s.payees, s.modelDigest, s.faultySeats);
        _freeSeats(s.jobId, j, goodSeats);
    }

    /// @notice Takes a job back before its cohort is anchored. Only its requester.
    /// @param jobId The job.
    function cancel(uint256 jobId) external nonReentrant {
        Job storage j = _jobIn(jobId, Phase.Enrolling);
        if (msg.sender != j.requester) revert NotRequester();
        _abort(jobId, j);
    }

    /// @notice Moves a job on whose phase has outlived its deadline. Anybody.
    /// @param jobId The job.
    function expire(uint256 jobId) external nonReentrant {
        Job storage j = _jobs[jobId];
        (, uint64 expiresAt) = _deadlines(j);
        if (expiresAt == 0 || block.timestamp < expiresAt) revert NothingToExpire();
        if (j.phase == Phase.Settled) {
            _expireClaims(jobId, j);
        } else if (j.phase == Phase.Training && j.roundIndex != 0) {
            j.directHead = 0;
            _enter(jobId, j, Phase.Committing);
        } else if (j.phase == Phase.Committing && j.commits >= j.quorum) {
            _enter(jobId, j, Phase.Revealing);
        } else {
            _abort(jobId, j);
        }
    }

    function _post(JobParameters calldata p) private returns (uint256 jobId) {
        _checkParameters(p);
        uint256 seats = p.evaluators.length;
        uint256 fees = uint256(p.feePerSeat) * seats;
        if (p.bounty + fees > type(uint128).max) revert InvalidParameter("feePerSeat");
        jobId = ++jobCount;
        Job storage j = _jobs[jobId];
        j.phase = Phase.Enrolling;
        j.seats = uint8(seats);
        j.quorum = uint8(seats / 2 + 1);
        j.phaseStart = uint40(block.timestamp);
        j.rounds = uint16(p.rounds);
        j.minOwners = uint24(p.minOwners);
        j.roundWindow = p.roundWindow;
        j.maxOwners = uint24(p.maxOwners);
        j.requester = msg.sender;
        j.enrolWindow = p.enrolWindow;
        j.anchorWindow = p.anchorWindow;
        j.commitWindow = p.commitWindow;
        j.token = p.token;
        j.revealWindow = p.revealWindow;
        j.settleWindow = p.settleWindow;
        j.claimWindow = p.claimWindow;
        j.bounty = p.bounty;
        j.feePerSeat = p.feePerSeat;
        j.bondPerIdentity = p.bondPerIdentity;
        j.seatStake = p.seatStake;
        j.termsDigest = p.termsDigest;
        j.evaluators = p.evaluators;
        emit JobPosted(jobId, msg.sender, p.termsDigest, p.bounty, uint128(fees));
        IERC20(p.token).takeExactly(p.bounty + fees);
    }

    function _checkParameters(JobParameters calldata p) private view {
        if (p.termsDigest == 0) revert InvalidParameter("termsDigest");
        if (p.bounty == 0) revert InvalidParameter("bounty");
        if (p.rounds == 0 || p.rounds > 10_000) revert InvalidParameter("rounds");
        if (p.minOwners == 0 || p.minOwners > p.maxOwners) revert InvalidParameter("minOwners");
        if (p.maxOwners > 100_000) revert InvalidParameter("maxOwners");
        _checkWindow(p.enrolWindow, "enrolWindow");
        _checkWindow(p.roundWindow, "roundWindow");
        _checkWindow(p.anchorWindow, "anchorWindow");
        _checkWindow(p.commitWindow, "commitWindow");
        _checkWindow(p.revealWindow, "revealWindow");
        _checkWindow(p.settleWindow, "settleWindow");
        _checkWindow(p.claimWindow, "claimWindow");
        uint256 seats = p.evaluators.length;
        if (seats == 0 || seats > MAX_SEATS) revert InvalidParameter("evaluators");
        address previous = address(0);
        for (uint256 i = 0; i < seats; ++i) {
            address evaluator = p.evaluators[i];
            if (evaluator <= previous) revert InvalidParameter("evaluators");
            if (!_registry.isEvaluator(evaluator)) revert NotRegistered(evaluator);
            previous = evaluator;
        }
    }

    function _checkWindow(uint32 window, bytes32 field) private pure {
        if (window == 0 || window > 365 days) revert InvalidParameter(field);
    }

    function _escrow(Job storage j) private view returns (uint256) {
        return uint256(j.bounty) + uint256(j.feePerSeat) * j.seats;
    }

    function _enter(uint256 jobId, Job storage j, Phase to) private {
        emit PhaseChanged(jobId, j.phase, to);
        j.phase = to;
        j.phaseStart = uint40(block.timestamp);
    }

    /// @dev Bitmap of the seats that did what they could before an abort in `from`: that committed (while scores are
    /// committed to) or revealed (later), and that stood by and had nothing to reveal.
    function _dutifulSeats(uint256 jobId, Job storage j, Phase from) private view returns (uint256 seats) {
        for (uint256 i = 0; i < j.seats; ++i) {
            Seat storage seat_ = _seats[jobId][j.evaluators[i]];
            bool isDone = (from == Phase.Committing ? seat_.committed : seat_.revealed) != 0;
            if (isDone || (seat_.standsBy && seat_.committed == 0)) seats |= 1 << i;
        }
    }

    /// @dev Bitmap of the seats that revealed their scores.
    function _revealedSeats(uint256 jobId, Job storage j) private view returns (uint256 seats) {
        for (uint256 i = 0; i < j.seats; ++i) {
            if (_seats[jobId][j.evaluators[i]].revealed != 0) seats |= 1 << i;
        }
    }

    function _oweFees(Job storage j, uint256 goodSeats) private {
        uint128 fee = j.feePerSeat;
        if (fee == 0) return;
        j.feeSeats = uint16(goodSeats);
        for (; goodSeats != 0; goodSeats &= goodSeats - 1) {
            j.feesOwed += fee;
        }
    }

    /// @dev Ends a job without pay: everything goes back to the requester, and seats that let it down are slashed.
    function _abort(uint256 jobId, Job storage j) private {
        Phase from = j.phase;
        uint256 keptSeats = type(uint256).max;
        if (from == Phase.Committing || from == Phase.Revealing) keptSeats = _dutifulSeats(jobId, j, from);
        j.phase = Phase.Aborted;
        j.phaseStart = uint40(block.timestamp);
        j.refundable = _escrow(j);
        emit JobAborted(jobId, from);
        _freeSeats(jobId, j, keptSeats);
    }

    /// @dev Releases the stake of the taken seats in the bitmap and slashes that of the other taken ones.
    function _freeSeats(uint256 jobId, Job storage j, uint256 keptSeats) private {
        uint128 stake = j.seatStake;
        for (uint256 i = 0; i < j.seats; ++i) {
            address evaluator = j.evaluators[i];
            if (_seats[jobId][evaluator].place == 0) continue;
            if (keptSeats & (1 << i) != 0) {
                _registry.releaseStake(evaluator, stake);
            } else {
                _registry.slashStake(evaluator, stake);
            }
        }
    }

    /// @dev What nobody fetched in time becomes the requester's.
    function _expireClaims(uint256 jobId, Job storage j) private {
        uint256 amount = uint256(j.total) - j.paid + j.feesOwed - j.feesPaid + j.bondsHeld;
        j.claimsExpired = true;
        j.feeSeats = 0;
        j.bondsHeld = 0;
        j.refundable += amount;
        emit ClaimsExpired(jobId, amount);
    }
}
