"""The base of records on the wire: tagged, versioned maps in canonical msgpack, and their field types.

``decode`` accepts exactly the bytes ``encode`` makes, so a record has one digest.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import MessageRefused
from galaxylearning.messages.checked import Checked
from galaxylearning.messages.fields import (
    DIGEST_BYTES,
    SIGNATURE_BYTES,
    address_key,
    check_address,
    check_strictly_ascending,
)
from galaxylearning.units import COSINE_UNIT, Digest

MAX_SIGNED_BYTES: Final = 16 << 10
"""Bound on an encoded signed record."""
MAX_LIST_BYTES: Final = 4 << 20
"""Bound on an encoded cohort or round list: 100,000 digests fit."""
MAX_TABLE_BYTES: Final = 256 << 20
"""Bound on an encoded score or payout table."""

Bytes32 = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
JobNumber = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63 - 1), le=2**63 - 1)]
"""Signed and symmetric: what a table may say, medians take."""
Cosine = Annotated[int, msgspec.Meta(ge=-COSINE_UNIT, le=COSINE_UNIT)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Reason = Annotated[str, msgspec.Meta(max_length=200)]


class Record(Checked, frozen=True, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    """Base of what can be encoded on its own."""

    version: Literal[1] = 1


_R = TypeVar("_R", bound=Record)


def encode(record: Record) -> bytes:
    """Canonical bytes of a record: msgpack maps with every field, in declared order."""
    return msgspec.msgpack.encode(record)


def record_digest(record: Record) -> Digest:
    """BLAKE3 of the canonical bytes: the digest of the blob that carries the record."""
    return blake3_digest(encode(record))


def decode(data: bytes, type: type[_R], *, max_bytes: int) -> _R:
    """The record of this type that ``data`` is the canonical form of.

    Raises:
        MessageRefused: too long, another type or version, a field missing, unknown or not allowed, or
            bytes that ``encode`` would not have made.
    """
    where = type.__name__
    if len(data) > max_bytes:
        raise MessageRefused(f"{len(data)} bytes; at most {max_bytes} allowed", where=where)
    try:
        record = msgspec.msgpack.decode(data, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageRefused(str(error)[:300], where=where) from error
    if encode(record) != data:
        raise MessageRefused("not in canonical form", where=where)
    return record


def check_ascending_addresses(addresses: list[str], field: str) -> None:
    """Checksummed addresses in ascending order of their number.

    Raises:
        MessageRefused: malformed, repeated or out of order.
    """
    for address in addresses:
        check_address(address, field)
    check_strictly_ascending([address_key(address) for address in addresses], field)
