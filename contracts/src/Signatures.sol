// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {InvalidSignature} from "./GalaxyTypes.sol";

/// @title Who signed a digest
library Signatures {
    /// @notice The signer of a 65-byte signature r, s, v with a low s; reverts with InvalidSignature for any other.
    function signerOf(bytes32 digest, bytes calldata signature) internal pure returns (address signer) {
        ECDSA.RecoverError refusal;
        // What is left out only details the refusal.
        // slither-disable-next-line unused-return
        (signer, refusal,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (refusal != ECDSA.RecoverError.NoError) revert InvalidSignature();
    }

    /// @notice Checks that `signature` is the data owner's; empty will do when the data owner calls.
    function checkDataOwner(address dataOwner, bytes32 digest, bytes calldata signature) internal view {
        if (signature.length == 0 && msg.sender == dataOwner) return;
        if (signerOf(digest, signature) != dataOwner) revert InvalidSignature();
    }
}
