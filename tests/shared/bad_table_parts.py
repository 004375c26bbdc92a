"""What data files that cannot be used are put together from."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Case = tuple[str, Callable[[], bytes], str]
"""What the file is called, what is in it, and a part of the refusal."""


def table(columns: dict[str, Any]) -> bytes:
    """A Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def stream(columns: dict[str, Any]) -> bytes:
    """An Arrow stream."""
    buffer = io.BytesIO()
    data = pa.table(columns)
    with pa.ipc.new_stream(buffer, data.schema) as writer:
        writer.write_table(data)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    """What numpy.savez writes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(**entries: bytes) -> bytes:
    """An archive of arrays, whatever is in them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(descr: str, shape: str, body: bytes = b"") -> bytes:
    """One array by its header."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
