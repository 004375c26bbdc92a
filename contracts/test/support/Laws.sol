// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {GalaxyJobs} from "../../src/GalaxyJobs.sol";
import {GalaxyRegistry} from "../../src/GalaxyRegistry.sol";
import {JobStore} from "../../src/JobStore.sol";
import {Handler} from "./Handler.sol";

/// @dev What every set of laws needs: the handler, which of its actions are drawn, and all jobs one by one.
abstract contract Laws {
    Handler internal handler;
    GalaxyJobs internal jobs;
    GalaxyRegistry internal registry;
    IERC20 internal stakeToken;

    function setUp() public virtual {
        handler = new Handler();
        handler.setUp();
        (address jobs_, address registry_, address token_) = handler.deployed();
        (jobs, registry, stakeToken) = (GalaxyJobs(jobs_), GalaxyRegistry(registry_), IERC20(token_));
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// @dev What is frequent comes twice: time, and the right next step.
    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[25] memory chosen = [
            handler.pass.selector,
            handler.passLong.selector,
            handler.setMood.selector,
            handler.deposit.selector,
            handler.requestWithdrawal.selector,
            handler.withdraw.selector,
            handler.postOne.selector,
            handler.postWithFeeToken.selector,
            handler.sit.selector,
            handler.bond.selector,
            handler.returnBond.selector,
            handler.enrol.selector,
            handler.submit.selector,
            handler.advance.selector,
            handler.advance.selector,
            handler.advance.selector,
            handler.settleOne.selector,
            handler.payOut.selector,
            handler.claimOne.selector,
            handler.stealOne.selector,
            handler.payFees.selector,
            handler.refund.selector,
            handler.cancel.selector,
            handler.cancelAsStranger.selector,
            handler.expire.selector
        ];
        targets = new FuzzSelector[](1);
        targets[0].addr = address(handler);
        targets[0].selectors = new bytes4[](chosen.length + 6);
        for (uint256 i = 0; i < chosen.length; ++i) {
            targets[0].selectors[i] = chosen[i];
        }
        targets[0].selectors[chosen.length] = handler.anchorWithoutDirect.selector;
        targets[0].selectors[chosen.length + 1] = handler.settleOne.selector;
        targets[0].selectors[chosen.length + 2] = handler.outlive.selector;
        targets[0].selectors[chosen.length + 3] = handler.forfeit.selector;
        targets[0].selectors[chosen.length + 4] = handler.bond.selector;
        targets[0].selectors[chosen.length + 5] = handler.standBy.selector;
    }

    function checkJobs(function(uint256, JobStore.JobView memory) view law) internal view {
        for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
            law(id, jobs.job(id));
        }
    }
}
