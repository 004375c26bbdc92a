// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @dev The cheatcodes these tests use. Source: Foundry, cheatcode reference.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function prank(address sender) external;
    function startPrank(address sender) external;
    function stopPrank() external;
    function warp(uint256 timestamp) external;
    function assume(bool condition) external pure;
    function expectRevert(bytes calldata data) external;
    function expectRevert() external;
    function expectEmit(bool topic1, bool topic2, bool topic3, bool data) external;
    function etch(address account, bytes calldata code) external;
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
    function getNonce(address account) external view returns (uint64);
}

Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

error NotEqual(uint256 left, uint256 right);
error NotTrue(string what);

function eq(uint256 left, uint256 right) pure {
    if (left != right) revert NotEqual(left, right);
}

function eq(bytes32 left, bytes32 right) pure {
    eq(uint256(left), uint256(right));
}

function eq(address left, address right) pure {
    eq(uint160(left), uint160(right));
}

function yes(bool condition, string memory what) pure {
    if (!condition) revert NotTrue(what);
}

function within(uint256 x, uint256 low, uint256 high) pure returns (uint256) {
    return low + x % (high - low + 1);
}
