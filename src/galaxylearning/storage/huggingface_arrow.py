"""Arrow streams as ``datasets`` writes them, checked message by message before a value is touched.

The bytes of a stream are used where they lie. What could grow on reading is refused from its headers:
compressed buffers, dictionaries, more rows than allowed.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import pyarrow as pa

from galaxylearning.storage.tables import TableLimits, refuse

MAX_BATCHES: Final = 100_000

_END: Final = (b"\xff\xff\xff\xff\x00\x00\x00\x00", b"\x00\x00\x00\x00")
_RECORD_BATCH: Final = 3
_HEADER_TYPE, _HEADER, _COMPRESSION = 1, 2, 3


def read_stream(data: bytes, file: str, limits: TableLimits) -> Any:
    """The record batches in ``data`` as a ``pyarrow.Table``; ``file`` is the name in messages.

    Raises:
        DataRefused: not an Arrow stream, cut short, compressed, or over a limit.
    Source: Apache Arrow columnar format 1.5, "IPC Streaming Format".
    """
    try:
        return _read(data, file, limits)
    except (pa.ArrowException, OSError, ValueError, OverflowError, struct.error) as error:
        refuse(file, f"is not a readable Arrow stream: {str(error)[:200]}")


def _read(data: bytes, file: str, limits: TableLimits) -> Any:
    if data[:6] == b"ARROW1":
        refuse(file, "is an Arrow file, not the stream that Dataset.save_to_disk writes")
    buffer = pa.BufferReader(data)
    messages = pa.ipc.MessageReader.open_stream(buffer)
    at = 0
    schema = None
    batches: list[Any] = []
    n_rows = 0
    for message in messages:
        at = buffer.tell()
        if schema is None:
            if message.type != "schema":  # read as one, anything else would end the process
                refuse(file, f"begins with a message of type {message.type}; a schema must come first")
            schema = pa.ipc.read_schema(message)
            continue
        if message.type != "record batch":
            refuse(file, f"holds a {message.type}; only plain record batches can be used")
        if _is_compressed(message.metadata.to_pybytes()):
            refuse(file, "is compressed, which Dataset.save_to_disk does not do")
        batch = pa.ipc.read_record_batch(message, schema)
        n_rows += batch.num_rows
        if n_rows > limits.max_rows or len(batches) == MAX_BATCHES:
            refuse(file, f"has more than {limits.max_rows} rows or {MAX_BATCHES} batches")
        batches.append(batch)
    if schema is None:
        refuse(file, "is an empty Arrow stream")
    if data[at:] not in _END:
        refuse(file, "is cut short: the end of the Arrow stream is missing")
    return pa.Table.from_batches(batches, schema)


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message's header says that its buffers are compressed; read in place, nothing is unpacked.

    Source: Apache Arrow format/Message.fbs, FlatBuffers internals.
    """
    root = struct.unpack_from("<I", metadata, 0)[0]
    kind = _slot(metadata, root, _HEADER_TYPE)
    header = _slot(metadata, root, _HEADER)
    if kind is None or header is None or metadata[kind] != _RECORD_BATCH:
        raise ValueError("a record batch has another header")
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _slot(metadata, batch, _COMPRESSION) is not None


def _slot(metadata: bytes, table: int, slot: int) -> int | None:
    """Position of a table's field; None where it is not set."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise ValueError("a table points outside its message")
    size = struct.unpack_from("<H", metadata, vtable)[0]
    if 4 + 2 * slot >= size:
        return None
    offset = struct.unpack_from("<H", metadata, vtable + 4 + 2 * slot)[0]
    if table + offset >= len(metadata):
        raise ValueError("a field points outside its message")
    return table + offset if offset else None
