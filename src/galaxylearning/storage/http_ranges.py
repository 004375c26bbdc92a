"""Byte ranges of HTTP: which part of a blob is asked for, and which part an answer holds.

One range at a time; blobs never change, so ranges need no validators. Source: RFC 9110, section 14.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from galaxylearning.errors import BlobRefused, GalaxyError

MAX_HEADER_CHARS: Final = 80

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)


class RangeUnsatisfiable(GalaxyError):  # noqa: N818 - named like its neighbours in errors.py
    """The blob has no such bytes."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` up to and without ``stop``, of ``total``; 0 <= start <= stop <= total."""

    start: int
    stop: int
    total: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        """The ``Content-Range`` header of this range, which holds at least one byte."""
        return f"bytes {self.start}-{self.stop - 1}/{self.total}"


def asked_range(header: str, total: int) -> ByteRange:
    """The part of ``total`` bytes that a ``Range`` header asks for; an end past the last byte is cut.

    Raises:
        BlobRefused: not ``bytes=first-last``, ``bytes=first-`` or ``bytes=-count``, or several ranges.
        RangeUnsatisfiable: nothing of it is in the blob.
    """
    match = _RANGE.fullmatch(header) if len(header) <= MAX_HEADER_CHARS else None
    first, last = match.groups() if match else ("", "")
    if not first and not last:
        raise BlobRefused("must be bytes=first-last, bytes=first- or bytes=-count; one range", where="Range")
    if first and last and int(last) < int(first):
        raise BlobRefused("the last byte comes before the first", where="Range")
    if first:
        start, stop = int(first), min(total, int(last) + 1) if last else total
    else:
        start, stop = max(0, total - int(last)), total
    if start >= stop:
        raise RangeUnsatisfiable(f"the blob has {total} bytes", where="Range")
    return ByteRange(start, stop, total)


def answered_range(header: str | None) -> ByteRange:
    """What a ``Content-Range`` header says.

    Raises:
        BlobRefused: missing, not of that form, or impossible.
    """
    match = _CONTENT_RANGE.fullmatch(header) if header and len(header) <= MAX_HEADER_CHARS else None
    if match is None:
        raise BlobRefused("must be bytes first-last/total", where="Content-Range")
    first, last, total = map(int, match.groups())
    if not first <= last < total:
        raise BlobRefused("is impossible", where="Content-Range")
    return ByteRange(first, last + 1, total)
