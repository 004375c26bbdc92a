// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {Phase} from "./GalaxyTypes.sol";
import {JobStore} from "./JobStore.sol";
import {TokenTransfers} from "./TokenTransfers.sol";

/// @title How money leaves a job: payouts, fees, refunds and bonds
/// @notice Anybody may call any of these; each pays only whom the job's state names.
abstract contract JobFunds is JobStore {
    using BitMaps for BitMaps.BitMap;
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    event Paid(uint256 indexed jobId, uint256 indexed index, address indexed account, uint256 amount);
    event FeePaid(uint256 indexed jobId, uint256 indexed index, address indexed account, uint256 amount);
    /// @notice A pushed transfer failed; it stays owed. For a fee, `index` is the seat's.
    event PaymentFailed(uint256 indexed jobId, uint256 indexed index, address indexed account, uint256 amount);
    event Refunded(uint256 indexed jobId, address indexed requester, uint256 amount);
    event BondDeposited(uint256 indexed jobId, address indexed dataOwner, address payer, uint128 amount);
    event BondReturned(uint256 indexed jobId, address indexed dataOwner, address payer, uint128 amount);

    /// @notice Pushes payouts to up to 256 payees with one multiproof; those already paid are skipped.
    /// @param payouts Leaves of the payout tree, in the order the multiproof wants them.
    function pay(uint256 jobId, Payout[] calldata payouts, bytes32[] calldata proof, bool[] calldata proofFlags)
        external
        nonReentrant
    {
        Job storage j = _payableJob(jobId);
        uint256 count = payouts.length;
        if (count == 0 || count > MAX_PAYOUTS) revert InvalidPayouts();
        bytes32[] memory leaves = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            leaves[i] = _leaf(jobId, payouts[i].index, payouts[i].account, payouts[i].amount);
        }
        if (!MerkleProof.multiProofVerifyCalldata(proof, proofFlags, j.payoutRoot, leaves)) revert InvalidProof();
        for (uint256 i = 0; i < count; ++i) {
            _push(jobId, j, payouts[i]);
        }
    }

    /// @notice Pays one payout to its account, whoever calls.
    function claim(uint256 jobId, uint256 index, address account, uint256 amount, bytes32[] calldata proof)
        external
        nonReentrant
    {
        Job storage j = _payableJob(jobId);
        bytes32 leaf = _leaf(jobId, index, account, amount);
        if (!MerkleProof.verifyCalldata(proof, j.payoutRoot, leaf)) revert InvalidProof();
        if (_isPaid[jobId].get(index)) revert AlreadyPaid();
        _markPaid(jobId, j, index, amount);
        emit Paid(jobId, index, account, amount);
        IERC20(j.token).safeTransfer(account, amount);
    }

    /// @notice Pushes the earned fee to every seat that has not been sent it. A failing transfer stays owed.
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
    function depositBond(uint256 jobId, address dataOwner) external nonReentrant {
        Job storage j = _jobIn(jobId, Phase.Enrolling);
        uint128 amount = j.bondPerIdentity;
        if (amount == 0) revert NoBondAsked();
        if (_bondPayers[jobId][dataOwner] != address(0)) revert AlreadyBonded();
        _bondPayers[jobId][dataOwner] = msg.sender;
        j.bondsHeld += amount;
        emit BondDeposited(jobId, dataOwner, msg.sender, amount);
        IERC20(j.token).takeExactly(msg.sender, amount);
    }

    /// @notice Returns a bond to who paid it, once the job is over.
    function returnBond(uint256 jobId, address dataOwner) external nonReentrant {
        Job storage j = _jobs[jobId];
        if (j.phase != Phase.Settled && j.phase != Phase.Aborted) revert NotTerminal();
        if (j.claimsExpired) revert ClaimsAreOver();
        address payer = _bondPayers[jobId][dataOwner];
        if (payer == address(0)) revert BondMissing();
        uint128 amount = j.bondPerIdentity;
        delete _bondPayers[jobId][dataOwner];
        j.bondsHeld -= amount;
        emit BondReturned(jobId, dataOwner, payer, amount);
        IERC20(j.token).safeTransfer(payer, amount);
    }

    /// @dev A settled job whose claims are still open.
    function _payableJob(uint256 jobId) private view returns (Job storage j) {
        j = _jobIn(jobId, Phase.Settled);
        if (j.claimsExpired) revert ClaimsAreOver();
    }

    function _leaf(uint256 jobId, uint256 index, address account, uint256 amount) private view returns (bytes32) {
        return keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(this), jobId, index, account, amount)))
        );
    }

    /// @dev A payout tree that promises more than its settlement said cannot take more.
    function _markPaid(uint256 jobId, Job storage j, uint256 index, uint256 amount) private {
        if (index >= j.payees || amount > j.total - j.paid) revert ExceedsTotal();
        _isPaid[jobId].set(index);
        j.paid += uint128(amount);
    }

    function _push(uint256 jobId, Job storage j, Payout calldata payout) private {
        uint256 index = payout.index;
        if (_isPaid[jobId].get(index)) return;
        uint256 amount = payout.amount;
        _markPaid(jobId, j, index, amount);
        if (IERC20(j.token).trySend(payout.account, amount)) {
            emit Paid(jobId, index, payout.account, amount);
        } else {
            _isPaid[jobId].unset(index);
            j.paid -= uint128(amount);
            emit PaymentFailed(jobId, index, payout.account, amount);
        }
    }
}
