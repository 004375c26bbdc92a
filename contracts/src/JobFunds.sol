// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {GalaxyTypes, InvalidSignature, Phase} from "./GalaxyTypes.sol";
import {JobStore} from "./JobStore.sol";
import {ExceedsTotal, PayoutProof} from "./PayoutProof.sol";
import {Signatures} from "./Signatures.sol";
import {TokenTransfers} from "./TokenTransfers.sol";

/// @title How money leaves a job: payouts, fees, refunds and bonds
/// @notice Anybody may call any of these; each pays only whom the job's state names.
abstract contract JobFunds is JobStore {
    using BitMaps for BitMaps.BitMap;
    using GalaxyTypes for GalaxyTypes.Update;
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    /// @notice A payout was sent.
    /// @param jobId The job.
    /// @param index Of its leaf in the payout tree.
    /// @param account Who was paid.
    /// @param amount How much.
    event Paid(uint256 indexed jobId, uint256 indexed index, address indexed account, uint256 amount);
    /// @notice An evaluator's fee was sent.
    /// @param jobId The job.
    /// @param index The seat's, among the named evaluators.
    /// @param account Who was paid.
    /// @param amount How much.
    event FeePaid(uint256 indexed jobId, uint256 indexed index, address indexed account, uint256 amount);
    /// @notice A pushed transfer failed; it stays owed. For a fee, `index` is the seat's.
    /// @param jobId The job.
    /// @param index Of the payout's leaf, or of the seat.
    /// @param account Who was not paid.
    /// @param amount How much.
    event PaymentFailed(uint256 indexed jobId, uint256 indexed index, address indexed account, uint256 amount);
    /// @notice The requester was sent what the job owed it.
    /// @param jobId The job.
    /// @param requester Who was paid.
    /// @param amount How much.
    event Refunded(uint256 indexed jobId, address indexed requester, uint256 amount);
    /// @notice The bond of an identity was posted.
    /// @param jobId The job.
    /// @param dataOwner The identity.
    /// @param payer Who paid it, and has it back.
    /// @param amount How much.
    event BondDeposited(uint256 indexed jobId, address indexed dataOwner, address payer, uint128 amount);
    /// @notice A bond went back to who paid it.
    /// @param jobId The job.
    /// @param dataOwner The identity.
    /// @param payer Who was paid.
    /// @param amount How much.
    event BondReturned(uint256 indexed jobId, address indexed dataOwner, address payer, uint128 amount);
    /// @notice A bond was burned: its data owner signed two different updates of this round.
    /// @param jobId The job.
    /// @param dataOwner Who signed them.
    /// @param roundIndex Of which round, from 0.
    /// @param amount How much was burned.
    event BondForfeited(uint256 indexed jobId, address indexed dataOwner, uint32 roundIndex, uint128 amount);

    /// @notice Pushes payouts to up to 256 payees with one multiproof; those already paid are skipped.
    /// @param jobId The job.
    /// @param payouts Leaves of the payout tree, in the order the multiproof wants them.
    /// @param proof Inner nodes that the leaves are hashed with.
    /// @param proofFlags Whether a step hashes two known nodes, or one with the next of `proof`.
    function pay(uint256 jobId, PayoutProof.Payout[] calldata payouts, bytes32[] calldata proof, bool[] calldata proofFlags)
        external
        nonReentrant
    {
        Job storage j = _payableJob(jobId);
        _checkProof(jobId, j.payoutRoot, payouts, proof, proofFlags);
        _push(jobId, j, payouts, _markFresh(jobId, j, payouts));
    }

    /// @notice Pays one payout to its account, whoever calls.
    /// @param jobId The job.
    /// @param index Of the leaf in the payout tree.
    /// @param account Who is paid.
    /// @param amount How much, as the leaf says.
    /// @param proof From the leaf to the root.
    function claim(uint256 jobId, uint256 index, address account, uint256 amount, bytes32[] calldata proof)
        external
        nonReentrant
    {
        Job storage j = _payableJob(jobId);
        bytes32 leaf = PayoutProof.leaf(jobId, index, account, amount);
        if (!MerkleProof.verifyCalldata(proof, j.payoutRoot, leaf)) revert InvalidProof();
        if (_isPaid[jobId].get(index)) revert AlreadyPaid();
        if (index >= j.payees || amount > j.total - j.paid) revert ExceedsTotal();
        _isPaid[jobId].set(index);
        j.paid += uint128(amount);
        emit Paid(jobId, index, account, amount);
        IERC20(j.token).safeTransfer(account, amount);
    }

    /// @notice Pushes the earned fee to every seat that has not been sent it. A failing transfer stays owed.
    /// @param jobId The job.
    function payFees(uint256 jobId) external nonReentrant {
        Job storage j = _payableJob(jobId);
        uint256 pending = j.feeSeats;
        if (pending == 0) revert NothingToPay();
        uint128 fee = j.feePerSeat;
        IERC20 token = IERC20(j.token);
        for (uint256 i = 0; i < j.seats; ++i) {
            uint16 bit = uint16(1 << i);
            if (pending & bit == 0) continue;
            address evaluator = j.evaluators[i];
            j.feeSeats ^= bit;
            j.feesPaid += fee;
            if (token.trySend(evaluator, fee)) {
                emit FeePaid(jobId, i, evaluator, fee);
            } else {
                j.feeSeats ^= bit;
                j.feesPaid -= fee;
                emit PaymentFailed(jobId, i, evaluator, fee);
            }
        }
    }

    /// @notice Sends the requester what the job owes back.
    /// @param jobId The job.
    function refund(uint256 jobId) external nonReentrant {
        Job storage j = _jobs[jobId];
        uint256 amount = j.refundable;
        if (amount == 0) revert NothingToRefund();
        j.refundable = 0;
        j.refunded += amount;
        emit Refunded(jobId, j.requester, amount);
        IERC20(j.token).safeTransfer(j.requester, amount);
    }

    /// @notice Posts the bond the job asks of each identity, for any data owner. It goes back to the caller.
    /// @param jobId The job.
    /// @param dataOwner The identity.
    function depositBond(uint256 jobId, address dataOwner) external nonReentrant {
        Job storage j = _jobIn(jobId, Phase.Enrolling);
        uint128 amount = j.bondPerIdentity;
        if (amount == 0) revert NoBondAsked();
        if (_bondPayers[jobId][dataOwner] != address(0)) revert AlreadyBonded();
        _bondPayers[jobId][dataOwner] = msg.sender;
        j.bondsHeld += amount;
        emit BondDeposited(jobId, dataOwner, msg.sender, amount);
        IERC20(j.token).takeExactly(amount);
    }

    /// @notice Returns a bond to who paid it, once the job is over.
    /// @param jobId The job.
    /// @param dataOwner The identity.
    function returnBond(uint256 jobId, address dataOwner) external nonReentrant {
        Job storage j = _jobs[jobId];
        if (j.phase != Phase.Settled && j.phase != Phase.Aborted) revert NotTerminal();
        (address payer, uint128 amount) = _takeBond(jobId, j, dataOwner);
        emit BondReturned(jobId, dataOwner, payer, amount);
        IERC20(j.token).safeTransfer(payer, amount);
    }

    /// @notice Burns the bond of a data owner that made two different updates of one round from one model. Anybody
    /// may show them, from the first round on and until the bond is returned or expires.
    /// @param u One of the two updates.
    /// @param signature The data owner's over `u`; empty where `u` is its last direct update.
    /// @param otherDigest The update digest of the other update, which is `u` in every other field.
    /// @param otherSignature As `signature`, for the other update.
    function forfeitBond(
        GalaxyTypes.Update calldata u,
        bytes calldata signature,
        bytes32 otherDigest,
        bytes calldata otherSignature
    ) external nonReentrant {
        Job storage j = _jobs[u.jobId];
        if (j.phase < Phase.Training) revert WrongPhase(j.phase);
        if (u.termsDigest != j.termsDigest) revert WrongTerms();
        if (u.updateDigest == otherDigest) revert NotEquivocation();
        GalaxyTypes.Update memory said = u;
        _checkSaid(said, signature);
        said.updateDigest = otherDigest;
        _checkSaid(said, otherSignature);
        (, uint128 amount) = _takeBond(u.jobId, j, u.dataOwner);
        emit BondForfeited(u.jobId, u.dataOwner, u.roundIndex, amount);
        IERC20(j.token).safeTransfer(_registry.BURN_ADDRESS(), amount);
    }

    /// @dev Checks that the data owner signed this update, or entered it on chain last.
    function _checkSaid(GalaxyTypes.Update memory u, bytes calldata signature) private view {
        bytes32 structHash = u.hash();
        if (signature.length == 0) {
            uint256 entry = _directEntry(u.roundIndex, structHash);
            if (_lastDirectEntry[u.jobId][u.dataOwner] != entry) revert InvalidSignature();
        } else if (Signatures.signerOf(_hashTypedDataV4(structHash), signature) != u.dataOwner) {
            revert InvalidSignature();
        }
    }

    /// @dev Strikes a bond off the books, once; it must leave next.
    function _takeBond(uint256 jobId, Job storage j, address dataOwner)
        private
        returns (address payer, uint128 amount)
    {
        if (j.claimsExpired) revert ClaimsAreOver();
        payer = _bondPayers[jobId][dataOwner];
        if (payer == address(0)) revert BondMissing();
        amount = j.bondPerIdentity;
        delete _bondPayers[jobId][dataOwner];
        j.bondsHeld -= amount;
    }

    /// @dev A settled job whose claims are still open.
    function _payableJob(uint256 jobId) private view returns (Job storage j) {
        j = _jobIn(jobId, Phase.Settled);
        if (j.claimsExpired) revert ClaimsAreOver();
    }

    function _checkProof(
        uint256 jobId,
        bytes32 root,
        PayoutProof.Payout[] calldata payouts,
        bytes32[] calldata proof,
        bool[] calldata proofFlags
    ) private view {
        uint256 count = payouts.length;
        if (count == 0 || count > MAX_PAYOUTS || proofFlags.length > MAX_FLAGS) revert InvalidPayouts();
        bytes32[] memory queue = PayoutProof.queueOf(jobId, payouts, proofFlags.length);
        if (!PayoutProof.verify(proof, proofFlags, root, queue, count)) revert InvalidProof();
    }

    /// @dev Marks all that are not yet paid as paid, before any is sent. A payout tree that promises more than its
    /// settlement said is stopped here.
    /// @return fresh Which were not paid before; the lowest bit stands for the last payout.
    function _markFresh(uint256 jobId, Job storage j, PayoutProof.Payout[] calldata payouts)
        private
        returns (uint256 fresh)
    {
        uint256 rest = j.total - j.paid;
        (fresh, rest) = PayoutProof.mark(payouts, _isPaid[jobId]._data, j.payees, rest);
        j.paid = uint128(j.total - rest);
    }

    /// @dev Sends each payout whose bit is set. Those that fail are unmarked again and stay owed.
    function _push(uint256 jobId, Job storage j, PayoutProof.Payout[] calldata payouts, uint256 fresh) private {
        uint256 failed = PayoutProof.send(payouts, fresh, IERC20(j.token), jobId, Paid.selector);
        for (uint256 i = 0; failed != 0; (++i, failed >>= 1)) {
            if (failed & 1 == 0) continue;
            PayoutProof.Payout calldata payout = payouts[i];
            _isPaid[jobId].unset(payout.index);
            j.paid -= uint128(payout.amount);
            emit PaymentFailed(jobId, payout.index, payout.account, payout.amount);
        }
    }
}
