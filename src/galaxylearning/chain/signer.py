"""An account's key, held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eth_account import Account

from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.errors import KeyUnavailable
from galaxylearning.units import Address


class KeySigner:
    """Implements ``ports.Signer`` with a secp256k1 private key of 32 bytes.

    Raises:
        KeyUnavailable: the key is not 32 bytes or not between 1 and the order of the curve.
    """

    __slots__ = ("_account", "_address", "_private_key")

    def __init__(self, private_key: bytes) -> None:
        try:
            self._address = address_of(private_key)
        except ValueError as error:
            raise KeyUnavailable("must be 32 bytes between 1 and the curve's order", where="key") from error
        self._private_key = private_key
        self._account = Account.from_key(private_key)

    def __repr__(self) -> str:
        return f"KeySigner({self._address})"

    @property
    def address(self) -> Address:
        """The account's checksummed address."""
        return self._address

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 65 bytes r || s || v, v in {27, 28}, s in the lower half (EIP-2).

        Raises:
            ValueError: the digest is not 32 bytes.
        """
        return sign_digest(self._private_key, digest)

    def sign_transaction(self, transaction: Mapping[str, Any]) -> bytes:
        """Sign an EIP-1559 transaction (web3.py's field names); the raw transaction.

        Raises:
            ValueError: a field is missing or malformed, or names another sender.
        """
        try:
            return bytes(self._account.sign_transaction(dict(transaction)).raw_transaction)
        except TypeError as error:
            raise ValueError(f"not a complete EIP-1559 transaction: {error}") from error
