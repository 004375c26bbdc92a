// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {DemoToken} from "../../src/dev/DemoToken.sol";

/// @dev Keeps one unit of every transfer between accounts.
contract FeeToken is DemoToken {
    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) super._update(to, address(0), 1);
    }
}

/// @dev Claims a balance that shrinks whenever something arrives.
contract ShrinkingToken is DemoToken {
    uint256 private _asked = 1000;

    function balanceOf(address) public view override returns (uint256) {
        return totalSupply() > 0 ? _asked : 0;
    }

    function transferFrom(address, address, uint256) public override returns (bool) {
        _asked = 1;
        return true;
    }
}

/// @dev Answers nothing, as USDT does.
contract SilentToken {
    mapping(address => uint256) public balanceOf;

    function mint(address account, uint256 amount) external {
        balanceOf[account] += amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// @dev A token that misbehaves when it pays certain accounts, in ways a test chooses.
contract MoodyToken is DemoToken {
    enum Mood {
        Fair,
        Reverts,
        SaysFalse,
        SaysTwo,
        SaysHalfAWord,
        EatsGas,
        Bombs,
        Reenters
    }

    mapping(address account => Mood) public moodTowards;
    bytes[] public calls;
    address public target;
    /// @dev Whether any of the calls made from inside a transfer succeeded.
    bool public hasReentered;

    function setMood(address account, Mood mood) external {
        moodTowards[account] = mood;
    }

    function setReentry(address target_, bytes[] calldata calls_) external {
        target = target_;
        delete calls;
        for (uint256 i = 0; i < calls_.length; ++i) {
            calls.push(calls_[i]);
        }
    }

    function transfer(address to, uint256 value) public override returns (bool) {
        Mood mood = moodTowards[to];
        if (mood == Mood.Reverts) revert("refused");
        if (mood == Mood.SaysFalse) return false;
        if (mood == Mood.SaysTwo) _answer(2, 0x20);
        if (mood == Mood.SaysHalfAWord) _answer(1, 0x10);
        if (mood == Mood.Bombs) _answer(2, 0x20000);
        if (mood == Mood.EatsGas) {
            while (true) {}
        }
        if (mood == Mood.Reenters) {
            for (uint256 i = 0; i < calls.length; ++i) {
                (bool isDone,) = target.call(calls[i]);
                if (isDone) hasReentered = true;
            }
        }
        return super.transfer(to, value);
    }

    function _answer(uint256 word, uint256 length) private pure {
        assembly {
            mstore(0x00, word)
            return(0x00, length)
        }
    }
}
