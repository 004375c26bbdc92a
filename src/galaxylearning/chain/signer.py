"""An account's key, held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coincurve import PrivateKey
from eth_account import Account
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from galaxylearning.errors import KeyUnavailable
from galaxylearning.units import Address

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class KeySigner:
    """Implements ``ports.Signer`` with a secp256k1 private key of 32 bytes.

    Raises:
        KeyUnavailable: the key is not 32 bytes or not between 1 and the order of the curve.
    """

    __slots__ = ("_account", "_address", "_key")

    def __init__(self, private_key: bytes) -> None:
        if len(private_key) != 32:
            raise KeyUnavailable(f"must be 32 bytes, not {len(private_key)}", where="private_key")
        if not 0 < int.from_bytes(private_key) < _ORDER:
            raise KeyUnavailable("must be between 1 and the order of secp256k1", where="private_key")
        self._key = PrivateKey(private_key)
        self._account = Account.from_key(private_key)
        public_key = self._key.public_key.format(compressed=False)
        self._address = Address(to_checksum_address(keccak(public_key[1:])[12:]))

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
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
        signature = self._key.sign_recoverable(digest, hasher=None)
        return bytes(signature[:64]) + bytes([27 + signature[64]])

    def sign_transaction(self, transaction: Mapping[str, Any]) -> bytes:
        """Sign an EIP-1559 transaction (web3.py's field names); the raw transaction.

        Raises:
            ValueError: a field is missing or malformed.
        """
        try:
            return bytes(self._account.sign_transaction(dict(transaction)).raw_transaction)
        except TypeError as error:
            raise ValueError(f"not a complete EIP-1559 transaction: {error}") from error
