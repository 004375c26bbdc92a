"""What the pages of a Parquet column unpack to, from their own headers: a file's footer may say anything.

A nested column of a few bytes can hold a billion numbers. The reader checks a page against its header, so
that the headers, summed before anything is unpacked, are what bounds memory. Where the pages begin is read
from the footer here as well: pyarrow ends the process over column metadata that contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

MAX_PAGES: Final = 1_000_000

_MAX_NESTING: Final = 8
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
_UNPACKED_SIZE, _PACKED_SIZE, _DATA_PAGE, _DATA_PAGE_V2, _NUM_VALUES = 2, 3, 5, 8, 1
_ROW_GROUPS, _COLUMNS, _METADATA = 4, 1, 3
_PATH, _CHUNK_VALUES, _CHUNK_SIZE, _DATA_AT, _DICTIONARY_AT = 3, 5, 7, 9, 11
_TAIL: Final = b"PAR1"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one row group: ``path`` as in ``a.list.element``, its values, and where its pages lie."""

    path: str
    num_values: int
    start: int
    end: int


def column_chunks(data: bytes) -> Iterator[Chunk]:
    """All column chunks that the footer of a file names, whatever it claims of them.

    Raises:
        ValueError: a footer that is malformed.
    Source: Apache Parquet format 2.10, FileMetaData; Thrift compact protocol.
    """
    length = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or not data.endswith(_TAIL) or length > len(data) - 8:
        raise ValueError("there is no footer")
    footer, _ = _struct(data[-8 - length : -8], 0, 0)
    for group in _list(footer, _ROW_GROUPS):
        for column in _list(group, _COLUMNS):
            fields = column.get(_METADATA) if isinstance(column, dict) else None
            if not isinstance(fields, dict):
                raise ValueError("a column chunk has no metadata")
            yield _chunk(fields)


def _list(fields: Any, number: int) -> list[Any]:
    found = fields.get(number) if isinstance(fields, dict) else None
    if not isinstance(found, list):
        raise ValueError("a list is missing from the footer")
    return found


def _integer(fields: dict[int, Any], number: int) -> int:
    found = fields.get(number)
    if not isinstance(found, int):
        raise ValueError("a column chunk lacks its values, size or offset")
    return found


def _chunk(fields: dict[int, Any]) -> Chunk:
    values, size, start = (_integer(fields, name) for name in (_CHUNK_VALUES, _CHUNK_SIZE, _DATA_AT))
    path = _list(fields, _PATH)
    if not all(isinstance(name, bytes) for name in path):
        raise ValueError("a column chunk has no path")
    dictionary = fields.get(_DICTIONARY_AT)
    if isinstance(dictionary, int) and 0 < dictionary < start:
        start = dictionary
    return Chunk(b".".join(path).decode("utf-8", "replace"), values, start, start + size)


def claimed_size(data: bytes, chunk: Chunk, *, item_bytes: int) -> int:
    """Bytes that a column chunk unpacks to: its pages, or ``item_bytes`` for each value, whichever is more.

    ``data`` is the whole file.

    Raises:
        ValueError: headers that are malformed, or that contradict the footer.
    Source: Apache Parquet format 2.10, PageHeader; Thrift compact protocol.
    """
    at, end = chunk.start, chunk.end
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
        raise ValueError("a header is nested too deeply")
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
        return data[at : at + size], at + size
    if kind == _LIST:
        return _elements(data, at, depth + 1)
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    raise ValueError(f"a header has a field of type {kind}")


def _elements(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """A Thrift list and the position after it; every element takes a byte at least, so that it ends."""
    if depth > _MAX_NESTING:
        raise ValueError("a header is nested too deeply")
    head = _byte(data, at)
    count, at = (head >> 4, at + 1) if head >> 4 < 15 else _unsigned(data, at + 1)
    if count > len(data):
        raise ValueError("a list in a header is longer than the file")
    found = []
    for _ in range(count):
        # A truth value is a byte of its own in a list, not a type.
        value, at = _value(data, at, _BYTE if head & 15 in (_TRUE, _FALSE) else head & 15, depth)
        found.append(value)
    return found, at


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
    raise ValueError("a number in a header is too long")


def _byte(data: bytes, at: int) -> int:
    if not 0 <= at < len(data):
        raise ValueError("a header is cut short")
    return data[at]
