// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title Worthless credit for demos and tests: anybody may mint any amount
contract DemoToken is ERC20Permit {
    constructor() ERC20("Galaxy Demo Credit", "GDC") ERC20Permit("Galaxy Demo Credit") {}

    /// @notice Creates `amount` for `account`.
    /// @param account Whose they are.
    /// @param amount How many, in the smallest unit.
    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }
}
