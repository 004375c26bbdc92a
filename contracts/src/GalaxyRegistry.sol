// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {GalaxyTypes, ZeroAmount, ZeroDigest} from "./GalaxyTypes.sol";
import {Signatures} from "./Signatures.sol";
import {TokenTransfers} from "./TokenTransfers.sol";

/// @title Evaluators with their sealing keys and stake, and data sets with their consent
/// @notice Nobody administers it. Stake leaves only to its evaluator, or burned, when GalaxyJobs slashes it.
contract GalaxyRegistry is EIP712, ReentrancyGuard {
    using GalaxyTypes for GalaxyTypes.DatasetRegistration;
    using GalaxyTypes for GalaxyTypes.DatasetRevocation;
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    enum Consent {
        None,
        Active,
        Revoked
    }

    /// @dev Law: locked + withdrawing <= staked.
    struct Account {
        bytes32 sealingKeyDigest;
        uint128 staked;
        uint128 locked;
        uint128 withdrawing;
        uint64 withdrawableAt;
    }

    struct Dataset {
        address dataOwner;
        Consent consent;
        bytes32 schemaDigest;
    }

    /// @notice Where slashed stake goes: nobody profits from slashing.
    address public constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    IERC20 public immutable stakeToken;
    address public immutable jobs;
    uint64 public immutable unbondingPeriod;

    /// @notice Slashed stake that the token refused to burn; `burnSlashed` tries again.
    uint256 public slashedUnburned;

    mapping(address evaluator => Account) private _accounts;
    mapping(bytes32 datasetId => Dataset) private _datasets;

    /// @notice An evaluator registered, or changed its sealing key.
    /// @param evaluator Its account.
    /// @param sealingKeyDigest BLAKE3 digest of the public key that is sealed to from now on.
    event EvaluatorRegistered(address indexed evaluator, bytes32 sealingKeyDigest);
    /// @notice Stake was added.
    /// @param evaluator Whose.
    /// @param amount By how much, in the token's smallest unit.
    event StakeDeposited(address indexed evaluator, uint128 amount);
    /// @notice Stake was asked back, in the place of what was asked before.
    /// @param evaluator Whose.
    /// @param amount How much; 0 where the request was cancelled.
    /// @param withdrawableAt From when it is paid out, Unix seconds.
    event WithdrawalRequested(address indexed evaluator, uint128 amount, uint64 withdrawableAt);
    /// @notice Stake went back to its evaluator.
    /// @param evaluator Whose.
    /// @param amount How much.
    event StakeWithdrawn(address indexed evaluator, uint128 amount);
    /// @notice Stake was set apart for a seat.
    /// @param evaluator Whose.
    /// @param amount How much.
    event StakeLocked(address indexed evaluator, uint128 amount);
    /// @notice Locked stake is free again.
    /// @param evaluator Whose.
    /// @param amount How much.
    event StakeReleased(address indexed evaluator, uint128 amount);
    /// @notice Locked stake was taken away.
    /// @param evaluator Whose.
    /// @param amount How much.
    event StakeSlashed(address indexed evaluator, uint128 amount);
    /// @notice Slashed stake was burned.
    /// @param amount How much, of all evaluators.
    event StakeBurned(uint256 amount);
    /// @notice A data set was registered.
    /// @param datasetId Its id.
    /// @param dataOwner Whose it is.
    /// @param commitment Its salted commitment.
    /// @param schemaDigest Digest of its schema.
    event DatasetRegistered(
        bytes32 indexed datasetId, address indexed dataOwner, bytes32 commitment, bytes32 schemaDigest
    );
    /// @notice The consent to use a data set was withdrawn, for good.
    /// @param datasetId Its id.
    /// @param dataOwner Whose it is.
    event DatasetRevoked(bytes32 indexed datasetId, address indexed dataOwner);

    error UnbondingTooLong();
    error NotJobs();
    error InsufficientStake(uint256 free, uint256 needed);
    error NothingToWithdraw();
    error StillUnbonding(uint64 withdrawableAt);
    error NothingToBurn();
    error DatasetExists();
    error DatasetNotActive();

    modifier onlyJobs() {
        if (msg.sender != jobs) revert NotJobs();
        _;
    }

    /// @param stakeToken_ The ERC-20 that evaluators stake.
    /// @param jobs_ The address GalaxyJobs has or will have: the only caller that locks and slashes.
    /// @param unbondingPeriod_ Seconds between asking for stake back and getting it; at most 365 days.
    constructor(IERC20 stakeToken_, address jobs_, uint64 unbondingPeriod_) EIP712("GalaxyRegistry", "1") {
        if (unbondingPeriod_ > 365 days) revert UnbondingTooLong();
        stakeToken = stakeToken_;
        // A wrong address (zero included) is found at once: no GalaxyJobs accepts this registry then.
        // slither-disable-next-line missing-zero-check
        jobs = jobs_;
        unbondingPeriod = unbondingPeriod_;
    }

    /// @notice Registers the caller as an evaluator, or rotates its sealing key.
    /// @param sealingKeyDigest BLAKE3 digest of the public key that is sealed to; not 0.
    function registerEvaluator(bytes32 sealingKeyDigest) external {
        if (sealingKeyDigest == 0) revert ZeroDigest();
        _accounts[msg.sender].sealingKeyDigest = sealingKeyDigest;
        emit EvaluatorRegistered(msg.sender, sealingKeyDigest);
    }

    /// @notice Adds stake that was approved before.
    /// @param amount How much, in the token's smallest unit; not 0.
    function depositStake(uint128 amount) external nonReentrant {
        _depositStake(amount);
    }

    /// @notice Adds stake with an EIP-2612 permit. A permit that was already used is no obstacle.
    /// @param amount How much, in the token's smallest unit; not 0.
    /// @param deadline Until when the permit is good, Unix seconds.
    /// @param v Of the permit's signature.
    /// @param r Of the permit's signature.
    /// @param s Of the permit's signature.
    function depositStakeWithPermit(uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        try IERC20Permit(address(stakeToken)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _depositStake(amount);
    }

    /// @notice Asks for stake back; replaces an earlier request, and an amount of 0 cancels it.
    /// @param amount How much; at most what no seat holds.
    function requestWithdrawal(uint128 amount) external {
        Account storage account = _accounts[msg.sender];
        uint128 unlocked = account.staked - account.locked;
        if (amount > unlocked) revert InsufficientStake(unlocked, amount);
        uint64 withdrawableAt = uint64(block.timestamp) + unbondingPeriod;
        account.withdrawing = amount;
        account.withdrawableAt = withdrawableAt;
        emit WithdrawalRequested(msg.sender, amount, withdrawableAt);
    }

    /// @notice Pays out a withdrawal whose unbonding period is over.
    function withdraw() external nonReentrant {
        Account storage account = _accounts[msg.sender];
        uint128 amount = account.withdrawing;
        if (amount == 0) revert NothingToWithdraw();
        if (block.timestamp < account.withdrawableAt) revert StillUnbonding(account.withdrawableAt);
        account.withdrawing = 0;
        account.staked -= amount;
        emit StakeWithdrawn(msg.sender, amount);
        stakeToken.safeTransfer(msg.sender, amount);
    }

    /// @notice Sets stake of `evaluator` apart for a seat. Only GalaxyJobs.
    /// @param evaluator_ Whose.
    /// @param amount How much; at most what is free.
    function lockStake(address evaluator_, uint128 amount) external onlyJobs {
        Account storage account = _accounts[evaluator_];
        uint128 free = account.staked - account.locked - account.withdrawing;
        if (amount > free) revert InsufficientStake(free, amount);
        account.locked += amount;
        emit StakeLocked(evaluator_, amount);
    }

    /// @notice Frees locked stake. Only GalaxyJobs.
    /// @param evaluator_ Whose.
    /// @param amount How much; at most what is locked.
    function releaseStake(address evaluator_, uint128 amount) external onlyJobs {
        _accounts[evaluator_].locked -= amount;
        emit StakeReleased(evaluator_, amount);
    }

    /// @notice Burns locked stake. Only GalaxyJobs. A token that refuses the burn does not stop the caller.
    /// @param evaluator_ Whose.
    /// @param amount How much; at most what is locked.
    function slashStake(address evaluator_, uint128 amount) external onlyJobs nonReentrant {
        Account storage account = _accounts[evaluator_];
        account.locked -= amount;
        account.staked -= amount;
        slashedUnburned += amount;
        emit StakeSlashed(evaluator_, amount);
        _burn();
    }

    /// @notice Burns slashed stake that the token refused to burn before.
    function burnSlashed() external nonReentrant {
        if (slashedUnburned == 0) revert NothingToBurn();
        _burn();
    }

    /// @notice Registers a data set by its salted commitment, once and for ever.
    /// @param r What the data owner signed.
    /// @param signature The data owner's, over `r`; may be empty when the data owner calls.
    function registerDataset(GalaxyTypes.DatasetRegistration calldata r, bytes calldata signature) external {
        if (r.commitment == 0 || r.schemaDigest == 0) revert ZeroDigest();
        Signatures.checkDataOwner(r.dataOwner, _hashTypedDataV4(r.hash()), signature);
        bytes32 id = GalaxyTypes.datasetId(r.dataOwner, r.commitment);
        Dataset storage dataset_ = _datasets[id];
        if (dataset_.consent != Consent.None) revert DatasetExists();
        dataset_.dataOwner = r.dataOwner;
        dataset_.consent = Consent.Active;
        dataset_.schemaDigest = r.schemaDigest;
        emit DatasetRegistered(id, r.dataOwner, r.commitment, r.schemaDigest);
    }

    /// @notice Withdraws the consent to use a data set. Terminal for its id.
    /// @param r What the data owner signed.
    /// @param signature The data owner's, over `r`; may be empty when the data owner calls.
    function revokeDataset(GalaxyTypes.DatasetRevocation calldata r, bytes calldata signature) external {
        Signatures.checkDataOwner(r.dataOwner, _hashTypedDataV4(r.hash()), signature);
        if (!isDatasetActive(r.datasetId, r.dataOwner)) revert DatasetNotActive();
        _datasets[r.datasetId].consent = Consent.Revoked;
        emit DatasetRevoked(r.datasetId, r.dataOwner);
    }

    /// @notice An evaluator's key and stake. `staked` includes what is locked or being withdrawn.
    /// @param evaluator_ Whose.
    /// @return sealingKeyDigest Of its key; 0 where it never registered.
    /// @return staked All of its stake.
    /// @return locked What its seats hold.
    /// @return withdrawing What was asked back.
    /// @return withdrawableAt From when that is paid out, Unix seconds.
    function evaluator(address evaluator_)
        external
        view
        returns (
            bytes32 sealingKeyDigest,
            uint128 staked,
            uint128 locked,
            uint128 withdrawing,
            uint64 withdrawableAt
        )
    {
        Account storage account = _accounts[evaluator_];
        return (
            account.sealingKeyDigest, account.staked, account.locked, account.withdrawing, account.withdrawableAt
        );
    }

    /// @notice Whether this account has registered a sealing key.
    /// @param evaluator_ Its address.
    /// @return Whether it has.
    function isEvaluator(address evaluator_) external view returns (bool) {
        return _accounts[evaluator_].sealingKeyDigest != 0;
    }

    /// @notice What is recorded about a data set; zeros when nothing is.
    /// @param id Its id.
    /// @return dataOwner Whose it is.
    /// @return schemaDigest Digest of its schema.
    /// @return isActive Whether it may be used.
    function dataset(bytes32 id) external view returns (address dataOwner, bytes32 schemaDigest, bool isActive) {
        Dataset storage dataset_ = _datasets[id];
        return (dataset_.dataOwner, dataset_.schemaDigest, dataset_.consent == Consent.Active);
    }

    /// @notice Whether this data set is registered, not revoked, and this owner's.
    /// @param id Its id.
    /// @param dataOwner Whose it should be.
    /// @return Whether all of this holds.
    function isDatasetActive(bytes32 id, address dataOwner) public view returns (bool) {
        Dataset storage dataset_ = _datasets[id];
        return dataset_.consent == Consent.Active && dataset_.dataOwner == dataOwner;
    }

    function _depositStake(uint128 amount) private {
        if (amount == 0) revert ZeroAmount();
        _accounts[msg.sender].staked += amount;
        emit StakeDeposited(msg.sender, amount);
        stakeToken.takeExactly(amount);
    }

    /// @dev What is not burned now stays counted. The count is changed before the call and restored if it fails.
    function _burn() private {
        uint256 amount = slashedUnburned;
        slashedUnburned = 0;
        if (stakeToken.trySend(BURN_ADDRESS, amount)) {
            emit StakeBurned(amount);
        } else {
            slashedUnburned = amount;
        }
    }
}
