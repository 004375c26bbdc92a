// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {TokenNotSupported} from "./GalaxyTypes.sol";

/// @title Moving tokens that may be hostile
library TokenTransfers {
    using SafeERC20 for IERC20;

    /// @notice Gas one pushed transfer may use: a token that eats gas costs its caller this much and no more.
    uint256 internal constant TRANSFER_GAS = 100_000;

    /// @notice Takes exactly `amount` from the caller, or reverts; a token that keeps a fee is refused.
    function takeExactly(IERC20 token, uint256 amount) internal {
        if (address(token).code.length == 0) revert TokenNotSupported();
        uint256 balanceBefore = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 balanceAfter = token.balanceOf(address(this));
        if (balanceAfter < balanceBefore || balanceAfter - balanceBefore != amount) revert TokenNotSupported();
    }

    /// @notice Sends `amount` to `payee` with bounded gas and bounded return data; never reverts.
    /// @return isSent Whether the token answered true, or nothing at all (as old tokens do).
    function trySend(IERC20 token, address payee, uint256 amount) internal returns (bool isSent) {
        uint256 gasLimit = TRANSFER_GAS;
        uint256 selector = uint32(IERC20.transfer.selector);
        // A plain call would copy whatever the token returns; here at most one word is. The arguments lie in the
        // scratch space and, for a moment, over the free memory pointer.
        assembly ("memory-safe") {
            mstore(0x00, selector)
            mstore(0x20, payee)
            let kept := mload(0x40)
            mstore(0x40, amount)
            isSent := call(gasLimit, token, 0, 0x1c, 0x44, 0x00, 0x20)
            mstore(0x40, kept)
            switch returndatasize()
            case 0 { isSent := and(isSent, gt(extcodesize(token), 0)) }
            default { isSent := and(isSent, and(gt(returndatasize(), 0x1f), eq(mload(0x00), 1))) }
        }
    }
}
