// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {GalaxyRegistry} from "../src/GalaxyRegistry.sol";
import {GalaxyTypes, InvalidSignature, TokenNotSupported, ZeroAmount, ZeroDigest} from "../src/GalaxyTypes.sol";
import {Base} from "./support/Base.sol";
import {FeeToken, MoodyToken} from "./support/Tokens.sol";
import {eq, vm, yes} from "./support/Vm.sol";

contract RegistryTest is Base {
    uint256 private constant OWNER_KEY = 0xB0B;
    bytes32 private constant COMMITMENT = keccak256("commitment");

    function registration() private pure returns (GalaxyTypes.DatasetRegistration memory) {
        return GalaxyTypes.DatasetRegistration(vm.addr(OWNER_KEY), COMMITMENT, SCHEMA);
    }

    function registryDigest(bytes32 structHash) private view returns (bytes32) {
        return digest("GalaxyRegistry", address(registry), structHash);
    }

    function locked(address account) private view returns (uint256 amount) {
        (,, amount,,) = registry.evaluator(account);
    }

    function staked(address account) private view returns (uint256 amount) {
        (, amount,,,) = registry.evaluator(account);
    }

    function test_unbonding_is_at_most_a_year() public {
        new GalaxyRegistry(IERC20(address(token)), address(1), 365 days);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.UnbondingTooLong.selector));
        new GalaxyRegistry(IERC20(address(token)), address(1), 365 days + 1);
    }

    function test_an_evaluator_rotates_its_key() public {
        yes(!registry.isEvaluator(STRANGER), "not yet");
        vm.startPrank(STRANGER);
        registry.registerEvaluator(bytes32(uint256(1)));
        registry.registerEvaluator(bytes32(uint256(2)));
        vm.stopPrank();
        (bytes32 key,,,,) = registry.evaluator(STRANGER);
        eq(key, bytes32(uint256(2)));
        yes(registry.isEvaluator(STRANGER), "registered");
        vm.expectRevert(abi.encodePacked(ZeroDigest.selector));
        registry.registerEvaluator(0);
    }

    function test_stake_is_taken_exactly() public {
        vm.expectRevert(abi.encodePacked(ZeroAmount.selector));
        registry.depositStake(0);
        eq(token.balanceOf(address(registry)), 30 * STAKE);
        eq(staked(evaluator(0)), 10 * STAKE);
    }

    function test_a_stake_token_that_keeps_a_fee_is_refused() public {
        FeeToken feeToken = new FeeToken();
        deploy(IERC20(address(feeToken)));
        feeToken.mint(address(this), 100);
        feeToken.approve(address(registry), 100);
        vm.expectRevert(abi.encodePacked(TokenNotSupported.selector));
        registry.depositStake(100);
    }

    function test_stake_by_permit_even_when_somebody_used_the_permit_before() public {
        address account = vm.addr(OWNER_KEY);
        for (uint256 turn = 0; turn < 2; ++turn) {
            token.mint(account, 100);
            bytes32 permit = keccak256(
                abi.encode(
                    keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                    account,
                    address(registry),
                    100,
                    token.nonces(account),
                    START
                )
            );
            (uint8 v, bytes32 r, bytes32 s) =
                vm.sign(OWNER_KEY, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), permit)));
            if (turn == 1) token.permit(account, address(registry), 100, START, v, r, s);
            vm.prank(account);
            registry.depositStakeWithPermit(100, START, v, r, s);
        }
        eq(staked(account), 200);
    }

    function test_stake_by_a_wrong_permit_is_refused() public {
        token.mint(STRANGER, 100);
        vm.prank(STRANGER);
        vm.expectRevert();
        registry.depositStakeWithPermit(100, START, 27, bytes32(uint256(1)), bytes32(uint256(1)));
    }

    function test_stake_comes_back_after_unbonding() public {
        vm.startPrank(evaluator(0));
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.NothingToWithdraw.selector));
        registry.withdraw();
        registry.requestWithdrawal(STAKE);
        vm.warp(START + UNBONDING - 1);
        vm.expectRevert(abi.encodeWithSelector(GalaxyRegistry.StillUnbonding.selector, START + UNBONDING));
        registry.withdraw();
        vm.warp(START + UNBONDING);
        registry.withdraw();
        eq(token.balanceOf(evaluator(0)), STAKE);
        eq(staked(evaluator(0)), 9 * STAKE);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.NothingToWithdraw.selector));
        registry.withdraw();
        vm.stopPrank();
    }

    function test_a_request_is_replaced_or_cancelled() public {
        vm.startPrank(evaluator(0));
        registry.requestWithdrawal(STAKE);
        registry.requestWithdrawal(0);
        vm.warp(START + UNBONDING);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.NothingToWithdraw.selector));
        registry.withdraw();
        vm.expectRevert(
            abi.encodeWithSelector(GalaxyRegistry.InsufficientStake.selector, 10 * STAKE, 10 * STAKE + 1)
        );
        registry.requestWithdrawal(10 * STAKE + 1);
        registry.requestWithdrawal(10 * STAKE);
        vm.stopPrank();
    }

    function test_only_jobs_locks_releases_and_slashes() public {
        bytes memory refusal = abi.encodePacked(GalaxyRegistry.NotJobs.selector);
        vm.expectRevert(refusal);
        registry.lockStake(evaluator(0), 1);
        vm.expectRevert(refusal);
        registry.releaseStake(evaluator(0), 1);
        vm.expectRevert(refusal);
        registry.slashStake(evaluator(0), 1);
    }

    function test_locked_stake_is_not_withdrawn_and_stake_on_its_way_out_is_not_locked() public {
        address account = evaluator(0);
        vm.prank(account);
        registry.requestWithdrawal(4 * STAKE);
        vm.startPrank(address(jobs));
        registry.lockStake(account, 6 * STAKE);
        vm.expectRevert(abi.encodeWithSelector(GalaxyRegistry.InsufficientStake.selector, 0, 1));
        registry.lockStake(account, 1);
        vm.stopPrank();
        vm.prank(account);
        vm.expectRevert(
            abi.encodeWithSelector(GalaxyRegistry.InsufficientStake.selector, 4 * STAKE, 4 * STAKE + 1)
        );
        registry.requestWithdrawal(4 * STAKE + 1);
        vm.prank(address(jobs));
        registry.releaseStake(account, 6 * STAKE);
        eq(locked(account), 0);
    }

    function test_nobody_profits_from_slashing() public {
        vm.startPrank(address(jobs));
        registry.lockStake(evaluator(0), STAKE);
        registry.slashStake(evaluator(0), STAKE);
        vm.expectRevert();
        registry.slashStake(evaluator(0), 1);
        vm.stopPrank();
        eq(token.balanceOf(registry.BURN_ADDRESS()), STAKE);
        eq(staked(evaluator(0)), 9 * STAKE);
        eq(registry.slashedUnburned(), 0);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.NothingToBurn.selector));
        registry.burnSlashed();
    }

    function test_a_token_that_refuses_the_burn_stops_nothing() public {
        MoodyToken moody = new MoodyToken();
        deploy(IERC20(address(moody)));
        stake(evaluator(0), STAKE);
        moody.setMood(registry.BURN_ADDRESS(), MoodyToken.Mood.Reverts);
        vm.startPrank(address(jobs));
        registry.lockStake(evaluator(0), STAKE);
        registry.slashStake(evaluator(0), STAKE);
        vm.stopPrank();
        eq(registry.slashedUnburned(), STAKE);
        registry.burnSlashed();
        eq(registry.slashedUnburned(), STAKE);
        moody.setMood(registry.BURN_ADDRESS(), MoodyToken.Mood.Fair);
        registry.burnSlashed();
        eq(moody.balanceOf(registry.BURN_ADDRESS()), STAKE);
        eq(registry.slashedUnburned(), 0);
    }

    function test_anybody_relays_a_registration_once() public {
        GalaxyTypes.DatasetRegistration memory r = registration();
        bytes memory signature = signedBy(OWNER_KEY, registryDigest(GalaxyTypes.hash(r)));
        vm.prank(STRANGER);
        registry.registerDataset(r, signature);
        bytes32 id = keccak256(abi.encode(r.dataOwner, COMMITMENT));
        (address dataOwner, bytes32 schema, bool isActive) = registry.dataset(id);
        eq(dataOwner, r.dataOwner);
        eq(schema, SCHEMA);
        yes(isActive, "active");
        yes(registry.isDatasetActive(id, r.dataOwner), "his");
        yes(!registry.isDatasetActive(id, STRANGER), "not another's");
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.DatasetExists.selector));
        registry.registerDataset(r, signature);
    }

    function test_a_registration_needs_its_owner() public {
        GalaxyTypes.DatasetRegistration memory r = registration();
        bytes memory refusal = abi.encodePacked(InvalidSignature.selector);
        vm.expectRevert(refusal);
        registry.registerDataset(r, "");
        bytes memory signature = signedBy(0xBAD, registryDigest(GalaxyTypes.hash(r)));
        vm.expectRevert(refusal);
        registry.registerDataset(r, signature);
        signature = signedBy(OWNER_KEY, jobsDigest(GalaxyTypes.hash(r)));
        vm.expectRevert(refusal);
        registry.registerDataset(r, signature);
        signature = new bytes(64);
        vm.expectRevert(refusal);
        registry.registerDataset(r, signature);
        vm.prank(r.dataOwner);
        registry.registerDataset(r, "");
    }

    function test_a_registration_names_a_commitment_and_a_schema() public {
        GalaxyTypes.DatasetRegistration memory r = registration();
        r.commitment = 0;
        vm.startPrank(r.dataOwner);
        vm.expectRevert(abi.encodePacked(ZeroDigest.selector));
        registry.registerDataset(r, "");
        r = registration();
        r.schemaDigest = 0;
        vm.expectRevert(abi.encodePacked(ZeroDigest.selector));
        registry.registerDataset(r, "");
        vm.stopPrank();
    }

    function test_revoking_is_terminal() public {
        GalaxyTypes.DatasetRegistration memory r = registration();
        GalaxyTypes.DatasetRevocation memory v =
            GalaxyTypes.DatasetRevocation(r.dataOwner, keccak256(abi.encode(r.dataOwner, COMMITMENT)));
        vm.startPrank(r.dataOwner);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.DatasetNotActive.selector));
        registry.revokeDataset(v, "");
        registry.registerDataset(r, "");
        vm.stopPrank();

        bytes memory signature = signedBy(0xBAD, registryDigest(GalaxyTypes.hash(v)));
        vm.expectRevert(abi.encodePacked(InvalidSignature.selector));
        registry.revokeDataset(v, signature);
        registry.revokeDataset(v, signedBy(OWNER_KEY, registryDigest(GalaxyTypes.hash(v))));
        yes(!registry.isDatasetActive(v.datasetId, r.dataOwner), "revoked");

        vm.startPrank(r.dataOwner);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.DatasetNotActive.selector));
        registry.revokeDataset(v, "");
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.DatasetExists.selector));
        registry.registerDataset(r, "");
        vm.stopPrank();
    }

    function test_nobody_revokes_for_another() public {
        GalaxyTypes.DatasetRegistration memory r = registration();
        vm.prank(r.dataOwner);
        registry.registerDataset(r, "");
        bytes32 id = keccak256(abi.encode(r.dataOwner, COMMITMENT));
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodePacked(GalaxyRegistry.DatasetNotActive.selector));
        registry.revokeDataset(GalaxyTypes.DatasetRevocation(STRANGER, id), "");
        yes(registry.isDatasetActive(id, r.dataOwner), "untouched");
    }

    /// forge-config: default.fuzz.runs = 128
    function testFuzz_stake_is_conserved(uint128 deposit, uint128 locking, uint128 asking) public {
        deposit = deposit % 1e30 + 1;
        stake(STRANGER, deposit);
        uint256 free = deposit;
        if (locking <= free) {
            vm.prank(address(jobs));
            registry.lockStake(STRANGER, locking);
            free -= locking;
        }
        vm.prank(STRANGER);
        if (asking > free) vm.expectRevert();
        registry.requestWithdrawal(asking);
        (, uint128 s, uint128 l, uint128 w,) = registry.evaluator(STRANGER);
        yes(uint256(l) + w <= s, "locked and leaving exceed the stake");
        eq(token.balanceOf(address(registry)), 30 * STAKE + uint256(deposit));
    }
}
