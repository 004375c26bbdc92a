"""Columns of a Hugging Face data set as arrays: numbers, texts, class names, nested lists, pictures."""

from __future__ import annotations

import importlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galaxylearning.errors import DataRefused
from galaxylearning.graph.document import nesting
from galaxylearning.storage.columns import MAX_CLASSES
from galaxylearning.storage.npz_table import MAX_DIMENSIONS
from galaxylearning.storage.parquet_table import column_values, is_number, is_text
from galaxylearning.storage.tables import ReadOptions, check_finite, refuse

I64: TypeAlias = NDArray[np.int64]
Form: TypeAlias = Literal["plain", "class", "array", "picture", "unusable"]
"""How a column is read: as a CSV would have it, as class names, as an array, as decoded pictures, or not."""

MAX_NESTING: Final = 64
"""Deeper documents are not parsed: the parser recurses, and how deep it may is not ours to know."""
MAX_SIDE: Final = 4_096
"""Largest width and height of a picture, in pixels."""

_WIDENED: Final[Mapping[str, str]] = {
    "bool": "uint8",
    "int8": "int32",
    "int16": "int32",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
    "halffloat": "float32",
}
_PICTURE_MODES: Final = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB", "LA": "L"}


def read_features(metadata: Mapping[bytes, bytes] | None, file: str) -> Mapping[str, Any]:
    """The features by column that ``datasets`` keeps in a schema's metadata; none where there are none.

    Raises:
        DataRefused: metadata that are not what ``datasets`` writes.
    """
    raw = (metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    found = read_object(raw, f"{file}, metadata").get("info", {})
    features = found.get("features", {}) if isinstance(found, dict) else None
    if not isinstance(features, dict):
        refuse(file, "has metadata whose features are not named")
    return features


def read_object(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataRefused: something else.
    """
    if nesting(raw) > MAX_NESTING:
        raise DataRefused(f"is not a JSON object nested at most {MAX_NESTING} deep", where=where)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataRefused(f"is not a JSON object: {str(error)[:120]}", where=where) from error


def form_of(name: str, kind: Any, feature: object, options: ReadOptions) -> Form:
    """How the column ``name`` of the Arrow type ``kind`` is read; ``feature`` is what the metadata say."""
    told = feature.get("_type") if isinstance(feature, dict) else None
    if told == "ClassLabel" and pa.types.is_integer(kind):
        return "plain" if options.kinds.get(name) in ("number", "integer") else "class"
    if is_number(kind) or is_text(kind):
        return "plain"
    if pa.types.is_struct(kind) and told in ("Image", None):
        has_bytes = any(
            kind.field(i).name == "bytes" and _is_binary(kind.field(i).type) for i in range(kind.num_fields)
        )
        return "picture" if has_bytes else "unusable"
    return "array" if is_list(kind) and leaf_type(kind) is not None else "unusable"


def class_names(feature: Mapping[str, Any], name: str, file: str, options: ReadOptions) -> tuple[str, ...]:
    """The names of a ClassLabel, by number.

    Raises:
        DataRefused: they are not texts, too many, too long, empty, or one is used twice.
    """
    names = feature.get("names")
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_CLASSES:
        refuse(file, f"must have 1 to {MAX_CLASSES} class names", column=name)
    longest = options.limits.max_cell_chars
    for text in names:
        if not isinstance(text, str) or not 0 < len(text) <= longest or names.count(text) > 1:
            refuse(file, f"has the class name {text!r:.60}; each must be a text of its own", column=name)
    return tuple(names)


def plain_column(column: Any, name: str, file: str, options: ReadOptions) -> NDArray[Any]:
    """Numbers, booleans or texts of an Arrow column, as other readers give them."""
    column.validate(full=True)
    if is_text(column.type):
        # One chunk, one dictionary: else each of many chunks would carry all words.
        column = pa.chunked_array([column.combine_chunks()], column.type).dictionary_encode()
    return column_values(column, name, file, options)


def class_column(
    numbers: I64, names: tuple[str, ...], name: str, file: str, options: ReadOptions
) -> NDArray[Any]:
    """Class names by their numbers, int64[n]; -1 is a missing one."""
    outside = (numbers < -1) | (numbers >= len(names))
    if outside.any():
        row = int(np.argmax(outside))
        refuse(file, f"{numbers[row]} is no class; there are 0 to {len(names) - 1}", row=row + 1, column=name)
    if not options.allow_missing and (numbers == -1).any():
        refuse(file, "has no class", row=int(np.argmax(numbers == -1)) + 1, column=name)
    return np.array([*names, ""], dtype=object)[numbers]


def array_column(column: Any, name: str, file: str, options: ReadOptions) -> NDArray[Any]:
    """Nested lists of one fixed shape as an array ``[n, ...]`` of float32, float64, int32, int64 or uint8.

    Raises:
        DataRefused: lists that are empty, null or of different lengths, too many levels, not finite.
    """
    if name in options.kinds:
        refuse(file, f"holds lists, not the stated kind {options.kinds[name]!r}", column=name)
    column.validate(full=True)
    values = column.combine_chunks()
    n_rows = len(values)
    shape: list[int] = []
    while is_list(values.type):
        _refuse_nulls(values, math.prod(shape), name, file)
        values, width = _one_level(values, math.prod(shape), name, file)
        shape.append(width)
        if len(shape) == MAX_DIMENSIONS:
            refuse(file, f"has lists nested deeper than {MAX_DIMENSIONS - 1} levels", column=name)
    _refuse_nulls(values, math.prod(shape), name, file)
    wanted = _WIDENED.get(str(values.type))
    if wanted is not None:
        values = values.cast(getattr(pa, wanted)())
    array = np.array(values.to_numpy(zero_copy_only=False)).reshape(n_rows, *shape)
    check_finite(array, file, name, allow_nan=options.allow_missing)
    return array


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is a list, of fixed size or not."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def leaf_type(kind: Any) -> Any:
    """The type of numbers inside nested lists; None where something else is inside."""
    while is_list(kind):
        kind = kind.value_type
    return kind if is_number(kind) else None


def _is_binary(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _one_level(values: Any, per_row: int, name: str, file: str) -> tuple[Any, int]:
    """The elements of lists of equal length, and that length; ``per_row`` lists belong to one row."""
    if len(values) == 0:
        refuse(file, "has no rows", column=name)
    if pa.types.is_fixed_size_list(values.type):
        width = values.type.list_size
    else:
        lengths = np.diff(values.offsets.to_numpy())
        width = int(lengths[0])
        if (lengths != width).any():
            row = int(np.argmax(lengths != width)) // per_row + 1
            refuse(file, f"has lists of other lengths than {width}, row 1's", row=row, column=name)
    if width < 1:
        refuse(file, "holds empty lists", column=name)
    return values.flatten(), width


def _refuse_nulls(values: Any, per_row: int, name: str, file: str) -> None:
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // per_row + 1
        refuse(file, "holds nothing where a list or number should be", row=row, column=name)


def picture_column(column: Any, name: str, file: str, options: ReadOptions) -> NDArray[np.uint8]:
    """Decoded PNG or JPEG pictures of one size: uint8 ``[n, height, width]``, or ``[..., 3]`` in colour.

    Raises:
        DataRefused: Pillow is not installed; a picture that is missing, broken, of another size than the
            first, or larger than ``MAX_SIDE``; more than the limit in all.
    """
    if name in options.kinds:
        refuse(file, f"holds pictures, not the stated kind {options.kinds[name]!r}", column=name)
    try:
        library = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DataRefused(
            "holds pictures, and decoding them needs Pillow: pip install pillow",
            where=f"{file}, column {name!r}",
        ) from error
    column.validate(full=True)
    pictures = np.empty((0,), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", library.DecompressionBombWarning)
        for row, encoded in enumerate(_cells(column)):
            if encoded is None:
                refuse(file, "holds no picture, or only the path of one", row=row + 1, column=name)
            picture = _decode(library, encoded, row, name, file)
            if row == 0:
                _check_total(len(column) * picture.size, name, file, options)
                pictures = np.empty((len(column), *picture.shape), dtype=np.uint8)
            elif picture.shape != pictures.shape[1:]:
                refuse(
                    file,
                    f"is of shape {picture.shape} where row 1 is of {pictures.shape[1:]}",
                    row=row + 1,
                    column=name,
                )
            pictures[row] = picture
    return pictures


def _check_total(size: int, name: str, file: str, options: ReadOptions) -> None:
    limit = options.limits.max_unpacked_bytes
    if size > limit:
        refuse(file, f"unpacks to {size} bytes; at most {limit} are allowed", column=name)


def _cells(column: Any) -> Iterator[bytes | None]:
    for chunk in column.chunks:
        encoded = chunk.field("bytes")
        if pa.types.is_dictionary(encoded.type):
            words, indices = encoded.dictionary, encoded.indices
            for i in range(len(chunk)):
                at = indices[i].as_py() if chunk[i].is_valid else None
                yield None if at is None else words[at].as_py()
        else:
            for i in range(len(chunk)):
                yield encoded[i].as_py() if chunk[i].is_valid else None


def _decode(library: Any, encoded: bytes, row: int, name: str, file: str) -> NDArray[np.uint8]:
    try:
        with library.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as picture:
            if max(picture.size) > MAX_SIDE:
                refuse(file, f"is {picture.size} pixels; at most {MAX_SIDE}", row=row + 1, column=name)
            mode = _PICTURE_MODES.get(picture.mode)
            if mode is None:
                refuse(
                    file,
                    f"has pixels of mode {picture.mode}; allowed: {', '.join(_PICTURE_MODES)}",
                    row=row + 1,
                    column=name,
                )
            return np.asarray(picture.convert(mode), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, Warning, library.DecompressionBombError) as error:
        refuse(file, f"is no readable PNG or JPEG: {str(error)[:120]}", row=row + 1, column=name)
