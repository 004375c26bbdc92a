"""NumPy archives (npz) to a ``Table``: arrays of numbers or fixed-width texts, never objects.

An object array is a pickle, and a pickle is a program: such an archive is refused from its headers. What an
archive claims to unpack to is checked before anything is unpacked, and no more than that is ever read.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.storage.tables import (
    ReadOptions,
    Table,
    check_finite,
    check_names,
    check_size,
    refuse,
    refuse_missing,
    wanted_columns,
)

MAX_DIMENSIONS: Final = 5
_MAX_HEADER_BYTES: Final = 4_096
_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=][A-Za-z][0-9]{0,9})', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,15},)?|[0-9]{1,15}(?:, [0-9]{1,15}){1,31})\), \} *\n?"
)
_LAST_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = 0xD800 >> 11
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # encrypted, or a feature zipfile does not have
)
_PATH_MARKS: Final = frozenset("/\\:\0")
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARRAY_TYPES: Final = ("float32", "float64", "int32", "int64", "uint8")


def read_npz(data: bytes, file: str, options: ReadOptions) -> Table:
    """The arrays in ``data``, the bytes of an npz archive, as columns; their first dimension is the rows.

    One-dimensional arrays become columns; those of two to five dimensions stay as they are.

    Raises:
        DataRefused: not an archive of arrays, objects, sizes that lie or differ, values that are not finite,
            no rows, or over a limit.
    Source: numpy.lib.format, versions 1 to 3.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(archive, file, options)
    except _UNREADABLE as error:
        refuse(file, f"is not a readable npz archive: {str(error)[:200]}")


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


def _read(archive: zipfile.ZipFile, file: str, options: ReadOptions) -> Table:
    limits = options.limits
    entries = archive.infolist()
    for entry in entries:
        # Nothing is ever extracted; but no array of numpy.savez is called like a path, or is a link.
        is_plain = not _PATH_MARKS.intersection(entry.orig_filename) and not _is_link(entry)
        if not entry.filename.endswith(".npy") or entry.compress_type not in _METHODS or not is_plain:
            refuse(file, f"holds {entry.filename[:80]!r}, which is not an array as numpy.savez writes it")
    names = [entry.filename.removesuffix(".npy") for entry in entries]
    check_names(names, file, limits)
    wanted = wanted_columns(names, file, options)
    entries = [entry for entry, name in zip(entries, names, strict=True) if name in wanted]
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > limits.max_unpacked_bytes:
        refuse(file, f"unpacks to {unpacked} bytes; at most {limits.max_unpacked_bytes} are allowed")
    columns: dict[str, NDArray[Any]] = {}
    for name, entry in zip(wanted, entries, strict=True):
        with archive.open(entry) as stream:
            shape, is_fortran, dtype = _header(stream, name, file)
            check_size(shape[0], shape[0] * len(wanted), file, limits)
            columns[name] = values = _values(stream, entry, shape, is_fortran, dtype, name, file)
        if len(values) != len(columns[wanted[0]]):
            refuse(
                file,
                f"has {len(values)} rows where {wanted[0]!r} has {len(columns[wanted[0]])}",
                column=name,
            )
        columns[name] = _normalise(values, name, file, options)
    return Table(columns, len(columns[wanted[0]]))


def _header(stream: IO[bytes], name: str, file: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, memory order and dtype, matched against the one form NumPy writes: nothing is evaluated."""
    prefix = stream.read(8)
    length_bytes = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(prefix)
    if length_bytes is None:
        refuse(file, "is not an array of format 1.0 or 2.0", column=name)
    length = int.from_bytes(stream.read(length_bytes), "little")
    if length > _MAX_HEADER_BYTES:
        refuse(file, f"has an array header of {length} bytes; at most {_MAX_HEADER_BYTES}", column=name)
    header = _HEADER.fullmatch(stream.read(length))
    if header is None:
        refuse(file, "has no valid array header", column=name)
    try:
        dtype = np.dtype(header["descr"].decode("ascii"))
    except (TypeError, ValueError, OverflowError) as error:
        refuse(file, f"has no valid array header: {error}", column=name)
    shape = tuple(int(extent) for extent in header["shape"].split(b",") if extent.strip())
    if dtype.hasobject:
        refuse(file, "holds Python objects, which can execute code; save numbers or texts", column=name)
    if dtype.kind not in "iufbU":
        refuse(file, f"has dtype {dtype}; only numbers, booleans and texts are allowed", column=name)
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        refuse(file, f"must have 1 to {MAX_DIMENSIONS} dimensions, not shape {shape}", column=name)
    return shape, header["order"] == b"True", dtype


def _values(
    stream: IO[bytes],
    entry: zipfile.ZipInfo,
    shape: tuple[int, ...],
    is_fortran: bool,
    dtype: np.dtype[Any],
    name: str,
    file: str,
) -> NDArray[Any]:
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if size != entry.file_size - stream.tell():
        refuse(file, f"has {entry.file_size - stream.tell()} bytes where its header says {size}", column=name)
    values = np.frombuffer(stream.read(), dtype=dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")


def _normalise(values: NDArray[Any], name: str, file: str, options: ReadOptions) -> NDArray[Any]:
    kind = options.kinds.get(name)
    check_finite(values, file, name, allow_nan=options.allow_missing)
    if values.ndim > 1:
        dtype = values.dtype.newbyteorder("=")
        if kind is not None or dtype.name not in _ARRAY_TYPES:
            refuse(
                file,
                f"an array of shape {values.shape} must have one of the dtypes {', '.join(_ARRAY_TYPES)} "
                f"and no stated kind; it has {dtype.name}",
                column=name,
            )
        return np.ascontiguousarray(values, dtype=dtype)
    if values.dtype.kind == "U":
        return _texts(values, name, file, options)
    if kind == "category":
        if values.dtype.kind == "f":
            refuse(file, "holds real numbers, which cannot be categories", column=name)
        return values.astype(np.int64).astype(str).astype(object)
    if values.dtype.kind == "f" or kind == "number":
        if kind == "integer":
            refuse(file, "holds real numbers, not the stated kind 'integer'", column=name)
        return values.astype(np.float64)
    if values.dtype.kind == "u" and values.size and int(values.max()) >> 63:
        refuse(file, "the integer does not fit 64 bits", row=int(np.argmax(values)) + 1, column=name)
    return values.astype(np.int64)


def _texts(values: NDArray[Any], name: str, file: str, options: ReadOptions) -> NDArray[Any]:
    max_chars = options.limits.max_cell_chars
    if options.kinds.get(name) in ("number", "integer"):
        refuse(file, f"holds texts, not the stated kind {options.kinds[name]!r}", column=name)
    if values.dtype.itemsize // 4 > max_chars:
        refuse(file, f"a cell may have at most {max_chars} characters", column=name)
    # Code points are checked here: NumPy does not, and Python breaks on those beyond Unicode.
    points = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
    if ((points > _LAST_CODE_POINT) | ((points >> 11) == _SURROGATES)).any():
        refuse(file, "holds text that is not Unicode", column=name)
    texts = values.astype(object)
    empty = texts == ""
    if not options.allow_missing and empty.any():
        refuse_missing(file, name, int(np.argmax(empty)) + 1)
    return texts
