"""Where a Hugging Face data set on disk keeps the files of a split: two layouts, told by what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from galaxylearning.errors import DataRefused
from galaxylearning.storage import files
from galaxylearning.storage.huggingface_columns import read_object
from galaxylearning.storage.tables import TableLimits, listed

MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 4
MAX_JSON_BYTES: Final = 1 << 24
SPLIT_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words in names of files and folders that tell the split, as ``datasets.load_dataset`` knows them."""

_SHARD: Final = re.compile(r"([\w.\-]{1,100})-\d{5}-of-\d{5}")
_BETWEEN_WORDS: Final = re.compile(r"[-._ 0-9]+")
_PLAIN_NAME: Final = re.compile(r"[\w\-][\w.\- ]{0,254}")


def find_files(folder: Path, split: str) -> list[Path]:
    """The data files of ``split`` in their order.

    Raises:
        DataRefused: no such folder, neither layout, no such split, several configurations.
        StorageError: the disk failed.
    """
    if not _PLAIN_NAME.fullmatch(split):
        raise DataRefused(f"{split!r:.60} given; allowed: the name of a split", where="split")
    if not folder.is_dir():
        raise DataRefused("there is no such folder", where=str(folder))
    splits = _read_json(folder / "dataset_dict.json")
    if splits is not None:
        names = _names(splits.get("splits"), folder / "dataset_dict.json")
        if split not in names:
            raise DataRefused(f"{split!r} given; there are {listed(names)}", where="split")
        folder = folder / split
    state = _read_json(folder / "state.json")
    if state is not None:
        return _saved_files(folder, state)
    if splits is not None:
        raise DataRefused("is missing", where=str(folder / "state.json"))
    return _parquet_files(folder, split)


def saved_features(folder: Path) -> Mapping[str, Any]:
    """The features in a saved data set's ``dataset_info.json``; none where it has none.

    Raises:
        DataRefused: the file is not what ``datasets`` writes.
        StorageError: the disk failed.
    """
    features = (_read_json(folder / "dataset_info.json") or {}).get("features") or {}
    if not isinstance(features, dict):
        raise DataRefused("features must be named", where=str(folder / "dataset_info.json"))
    return features


def check_sizes(found: Sequence[Path], limits: TableLimits) -> None:
    """Refuse files that are larger together than what a table may unpack to, before any is read."""
    with files.storage_errors("look at", found[0]):
        total = sum(path.stat().st_size for path in found if path.exists())
    if total > limits.max_unpacked_bytes:
        raise DataRefused(
            f"the split has {total} bytes; at most {limits.max_unpacked_bytes} are allowed",
            where=str(found[0].parent),
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = files.read_whole(Path(os.path.realpath(path)), max_bytes=MAX_JSON_BYTES)
    except FileNotFoundError:
        return None
    if data is None:
        raise DataRefused(f"must be a regular file of at most {MAX_JSON_BYTES} bytes", where=str(path))
    return read_object(data, str(path))


def _names(value: object, path: Path) -> list[str]:
    """File or folder names that stay in their folder."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FILES:
        raise DataRefused(f"must list 1 to {MAX_FILES} names", where=str(path))
    for name in value:
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise DataRefused(f"lists {name!r:.60}, which is no plain name", where=str(path))
    return value


def _saved_files(folder: Path, state: Mapping[str, Any]) -> list[Path]:
    path = folder / "state.json"
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataRefused("has an indices mapping; call flatten_indices() before saving", where=str(path))
    listed_files = state.get("_data_files")
    entries = listed_files if isinstance(listed_files, list) else []
    names = _names([entry.get("filename") if isinstance(entry, dict) else entry for entry in entries], path)
    return [folder / name for name in names]


def _parquet_files(folder: Path, split: str) -> list[Path]:
    found = _walk(folder)
    if not found:
        raise DataRefused(
            "is no data set: neither state.json, dataset_dict.json nor Parquet files are in it",
            where=str(folder),
        )
    by_split: dict[str, list[Path]] = {}
    for path in found:
        by_split.setdefault(_split_of(path.relative_to(folder), split), []).append(path)
    if split == "train" and list(by_split) == [""]:
        return found
    chosen = by_split.get(split)
    if not chosen:
        names = sorted(name for name in by_split if name) or ["train"]
        raise DataRefused(f"{split!r} given; there are {listed(names)}", where="split")
    configurations = {_configuration(path.relative_to(folder), split) for path in chosen}
    if len(configurations) > 1:
        names = sorted(name or "." for name in configurations)
        raise DataRefused(
            f"holds several configurations, {listed(names)}: name the folder of one", where=str(folder)
        )
    return chosen


def _walk(folder: Path) -> list[Path]:
    """Parquet files below ``folder`` in order of their names; hidden ones are not meant."""
    found: list[Path] = []
    seen = 0
    pending = [(folder, 0)]
    with files.storage_errors("look into", folder):
        while pending:
            at, depth = pending.pop()
            for entry in os.scandir(at):
                seen += 1
                if seen > MAX_FILES:
                    raise DataRefused(f"holds more than {MAX_FILES} files", where=str(folder))
                if entry.name.startswith("."):
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and depth < MAX_DEPTH:
                    pending.append((Path(entry.path), depth + 1))
                elif not is_folder and entry.name.endswith(".parquet"):
                    found.append(Path(entry.path))
    return sorted(found, key=str)


def _split_of(path: Path, wanted: str) -> str:
    """The split that a file's name or folder tells; the empty text where neither does."""
    stem = path.name.removesuffix(".parquet")
    sharded = _SHARD.match(stem)
    told = sharded[1] if sharded else stem
    if told == wanted or wanted in path.parts[:-1]:
        return wanted
    for part in (*reversed(path.parts[:-1]), told):
        for word in _BETWEEN_WORDS.split(part.lower()):
            if word in SPLIT_WORDS:
                return wanted if SPLIT_WORDS.get(wanted) == SPLIT_WORDS[word] else SPLIT_WORDS[word]
    return told if sharded else ""


def _configuration(path: Path, split: str) -> str:
    """The folders of a file that tell neither the split nor that data are in them."""
    parts = [part for part in path.parts[:-1] if part not in ("data", "default", split)]
    return "/".join(part for part in parts if SPLIT_WORDS.get(part.lower()) is None)
