"""Checks shared by every message: addresses, digests, integers and decimal amounts.

Each check returns the value it was given, or raises MessageRefused naming the field and what is allowed.
"""

from __future__ import annotations

from typing import Any

from galaxylearning.crypto.digest import checksummed
from galaxylearning.errors import MessageRefused
from galaxylearning.units import Address

DIGEST_BYTES = 32
SIGNATURE_BYTES = 65
_HEX = frozenset("0123456789abcdef")
_MAX_DECIMAL_DIGITS = 78


def shown(value: object) -> str:
    """``repr`` for an error message, at most 80 characters whatever a stranger sent."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (str, bytes, bytearray)) and len(value) > 40:
        value = value[:40]
        return f"{value!r}..."
    text = (
        repr(value) if isinstance(value, (str, bytes, int, float, bool, type(None))) else type(value).__name__
    )
    return text[:80]


def check_address(value: Any, field: str) -> Address:
    """An EIP-55 checksummed, non-zero address.

    Raises:
        MessageRefused: anything else.
    """
    if isinstance(value, str) and len(value) == 42 and value.startswith("0x"):
        body = value[2:].lower()
        if _HEX.issuperset(body) and int(body, 16) != 0 and checksummed(body) == value:
            return Address(value)
    raise MessageRefused(
        f"{shown(value)} is not a checksummed non-zero address (0x and 40 hex digits)", where=field
    )


def address_key(address: str) -> int:
    """The number an address is; contracts order addresses by it."""
    return int(address, 16)


def check_bytes(value: Any, field: str, length: int) -> bytes:
    """Exactly ``length`` bytes.

    Raises:
        MessageRefused: another type or length.
    """
    if not isinstance(value, bytes):
        raise MessageRefused(f"{shown(value)} is not bytes", where=field)
    if len(value) != length:
        raise MessageRefused(f"{len(value)} bytes; exactly {length} allowed", where=field)
    return value


def check_uint(value: Any, field: str, bits: int) -> int:
    """An unsigned integer below ``2**bits``; a bool is not one.

    Raises:
        MessageRefused: another type, or out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageRefused(f"{shown(value)} is not an integer", where=field)
    if not 0 <= value < 1 << bits:
        raise MessageRefused(f"{shown(value)} is out of range; 0 to 2^{bits}-1 allowed", where=field)
    return value


def parse_amount(value: Any, field: str) -> int:
    """A token amount from its canonical decimal string ("0", or digits without a leading zero).

    Raises:
        MessageRefused: another form, or not below 2^128.
    """
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit()
    if not is_digits or len(value) > _MAX_DECIMAL_DIGITS or (value[0] == "0" and value != "0"):
        raise MessageRefused(
            f"{shown(value)} is not an amount; decimal digits without sign, point or leading zero allowed",
            where=field,
        )
    return check_uint(int(value), field, 128)


def check_strictly_ascending(keys: list[Any], field: str) -> None:
    """Each key greater than the one before, so that a list has one order and no duplicates.

    Raises:
        MessageRefused: it is not.
    """
    for position in range(1, len(keys)):
        if not keys[position - 1] < keys[position]:
            raise MessageRefused(
                f"entry {position} is not greater than the one before; strictly ascending order allowed",
                where=field,
            )
