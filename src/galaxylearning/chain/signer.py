"""An account's key, held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ethereum_rlp import rlp
from ethereum_types.numeric import Uint

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.errors import KeyUnavailable
from galaxylearning.units import Address

_FEE_MARKET = b"\x02"
_NUMBERS = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "value")
_OPTIONAL = {"type", "accessList", "to", "data"}


class KeySigner:
    """Implements ``ports.Signer`` with a secp256k1 private key of 32 bytes.

    Raises:
        KeyUnavailable: the key is not 32 bytes or not between 1 and the order of the curve.
    """

    __slots__ = ("_address", "_private_key")

    def __init__(self, private_key: bytes) -> None:
        try:
            self._address = address_of(private_key)
        except ValueError as error:
            raise KeyUnavailable("must be 32 bytes between 1 and the curve's order", where="key") from error
        self._private_key = private_key

    def __repr__(self) -> str:
        return f"KeySigner({self._address})"

    @property
    def address(self) -> Address:
        """The account's checksummed address."""
        return self._address

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 65 bytes r || s || v, s in the lower half, v in {27, 28} (EIP-2).

        Raises:
            ValueError: the digest is not 32 bytes.
        """
        return sign_digest(self._private_key, digest)

    def sign_transaction(self, transaction: Mapping[str, Any]) -> bytes:
        """Sign an EIP-1559 transaction without access list; the raw transaction.

        Args:
            transaction: web3.py's field names. chainId, nonce, maxPriorityFeePerGas, maxFeePerGas, gas and
                value are ints; ``to`` is an address, absent where a contract is created; ``data`` is bytes or
                ``0x``-hexadecimal.

        Raises:
            ValueError: a field is missing, unknown or malformed.
        """
        unknown = sorted(set(transaction) - set(_NUMBERS) - _OPTIONAL)
        if unknown:
            raise ValueError(f"{unknown[0]}: no field of a transaction")
        if transaction.get("type", 2) not in (2, "0x2") or transaction.get("accessList"):
            raise ValueError("type: only 2, without an access list")
        chain_id, nonce, priority_fee_wei, max_fee_wei, gas, value_wei = (
            _number(transaction, name) for name in _NUMBERS
        )
        to = _data(transaction, "to")
        if len(to) not in (0, 20):
            raise ValueError("to: must be an address of 20 bytes")
        content = (
            chain_id,
            nonce,
            priority_fee_wei,
            max_fee_wei,
            gas,
            to,
            value_wei,
            _data(transaction, "data"),
        )
        unsigned = (*content, ())
        signature = self.sign_digest(keccak(_FEE_MARKET + rlp.encode(unsigned)))
        r, s = (Uint(int.from_bytes(part)) for part in (signature[:32], signature[32:64]))
        return _FEE_MARKET + bytes(rlp.encode((*unsigned, Uint(signature[64] - 27), r, s)))


def _number(transaction: Mapping[str, Any], name: str) -> Uint:
    value = transaction.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 256:
        raise ValueError(f"{name}: must be an int from 0 to 2**256-1")
    return Uint(value)


def _data(transaction: Mapping[str, Any], name: str) -> bytes:
    value = transaction.get(name) or b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    raise ValueError(f"{name}: must be bytes or 0x-hexadecimal")
