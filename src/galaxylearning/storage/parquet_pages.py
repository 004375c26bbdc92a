"""What the pages of a Parquet column unpack to, from their own headers: a file's footer may say anything.

A nested column of a few bytes can hold a billion numbers. The reader checks a page against its header, so
that the headers, summed before anything is unpacked, are what bounds memory.
"""

from __future__ import annotations

from typing import Any, Final

MAX_PAGES: Final = 1_000_000

_MAX_NESTING: Final = 8
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_UNPACKED_SIZE, _PACKED_SIZE, _DATA_PAGE, _DATA_PAGE_V2, _NUM_VALUES = 2, 3, 5, 8, 1


def claimed_size(data: bytes, chunk: Any, *, item_bytes: int) -> int:
    """Bytes that a column chunk unpacks to: its pages, or ``item_bytes`` for each value, whichever is more.

    ``chunk`` is pyarrow's metadata of it, ``data`` the whole file.

    Raises:
        ValueError: headers that are malformed, or that contradict the footer.
    Source: Apache Parquet format 2.10, PageHeader; Thrift compact protocol.
    """
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    end = at + chunk.total_compressed_size
    if not 0 <= at <= end <= len(data):
        raise ValueError("a column chunk lies outside the file")
    unpacked = values = pages = 0
    while at < end:
        header, at = _struct(data, at, 0)
        packed, size = header.get(_PACKED_SIZE), header.get(_UNPACKED_SIZE)
        if not isinstance(packed, int) or not isinstance(size, int) or packed < 0 or size < 0:
            raise ValueError("a page header has no sizes")
        page = header.get(_DATA_PAGE) or header.get(_DATA_PAGE_V2)
        count = page.get(_NUM_VALUES) if isinstance(page, dict) else 0
        if not isinstance(count, int) or count < 0:
            raise ValueError("a page header has no number of values")
        at += packed
        unpacked += size
        values += count
        pages += 1
        if pages > MAX_PAGES:
            raise ValueError(f"a column chunk has more than {MAX_PAGES} pages")
    if at != end or values != chunk.num_values:
        raise ValueError("the pages are not what the footer says of their column chunk")
    return max(unpacked, values * item_bytes)


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """A Thrift struct's integers and structs by field number, and the position after it."""
    if depth > _MAX_NESTING:
        raise ValueError("a page header is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = _byte(data, at)
        at += 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        fields[number], at = _value(data, at, head & 15, depth)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return _byte(data, at), at + 1
    if kind in (_I16, _I32, _I64):
        return _signed(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        size, at = _unsigned(data, at)
        return None, at + size
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    raise ValueError(f"a page header has a field of type {kind}")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(data, at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in a page header is too long")


def _byte(data: bytes, at: int) -> int:
    if not 0 <= at < len(data):
        raise ValueError("a page header is cut short")
    return data[at]
