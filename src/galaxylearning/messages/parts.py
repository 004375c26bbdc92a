"""Parts of the terms: structures that refuse with JobRefused, and the checks they share."""

from __future__ import annotations

from typing import Final

from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages.checked import Checked
from galaxylearning.messages.fields import (
    address_key,
    check_address,
    check_strictly_ascending,
    parse_amount,
    shown,
)
from galaxylearning.units import Address

_HEX: Final = frozenset("0123456789abcdef")


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise JobRefused(f"{shown(value)} given; allowed: {allowed}", where=field)


def within(value: float, field: str, low: float, high: float, *, above: bool = False) -> None:
    """Refuse a number outside [low, high], or outside (low, high] when ``above``."""
    inside = low < value <= high if above else low <= value <= high
    require(inside, field, value, f"{'above' if above else 'from'} {low:g} to {high:g}")


def text(value: str, field: str, low: int, high: int) -> None:
    fits = low <= len(value) <= high and not any(ord(letter) < 32 and letter != "\n" for letter in value)
    require(fits, field, value, f"{low} to {high} characters without control characters")
    require(not any(0xD800 <= ord(letter) < 0xE000 for letter in value), field, value, "valid Unicode")


def hex_digest(value: str, field: str) -> None:
    require(len(value) == 64 and _HEX.issuperset(value), field, value, "64 lower-case hex digits")


def address(value: str, field: str) -> Address:
    try:
        return check_address(value, field)
    except MessageRefused as refused:
        raise JobRefused(str(refused)) from refused


def amount(value: str, field: str) -> int:
    try:
        return parse_amount(value, field)
    except MessageRefused as refused:
        raise JobRefused(str(refused)) from refused


def addresses(values: tuple[str, ...], field: str) -> None:
    for position, value in enumerate(values):
        address(value, f"{field}[{position}]")
    ascending(values, field)


def ascending(addresses: tuple[str, ...], field: str) -> None:
    try:
        check_strictly_ascending([address_key(address) for address in addresses], field)
    except MessageRefused as refused:
        raise JobRefused(str(refused)) from refused


class Part(Checked, frozen=True, forbid_unknown_fields=True):
    """A part of the terms; refused with JobRefused."""

    refusal = JobRefused

    def path(self, name: str) -> str:
        return f"{type(self).__name__.lower()}.{name}"
