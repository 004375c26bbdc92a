"""Content-addressed, write-once blob stores: a folder, and one in memory for tests and demonstrations.

A folder store keeps every blob as ``blobs/<BLAKE3 in hex>`` and nothing else there; a topic is a folder of
empty files named after the blobs listed under it. What a blob means is not this module's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from blake3 import blake3

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, StorageError
from galaxylearning.storage import files
from galaxylearning.units import Digest

DEFAULT_MAX_BLOB_BYTES: Final = 1 << 30
MAX_TOPIC_CHARS: Final = 200

_SEGMENT: Final = r"[a-z0-9][a-z0-9._-]*"
_TOPIC: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_DIGEST_NAME: Final = re.compile(r"[0-9a-f]{64}")
_SEPARATOR_ON_DISK: Final = "~"
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BlobProblem:
    """Something an audit of a store found.

    ``altered``: a blob is not what its name says; ``missing``: a topic lists a blob that is not there;
    ``foreign``: something that does not belong into the store. ``name`` is relative to the store's root.
    """

    kind: Literal["altered", "missing", "foreign"]
    name: str
    detail: str


_Digests: TypeAlias = list[Digest]
_Problems: TypeAlias = list[BlobProblem]
_Topics: TypeAlias = list[str]


def check_topic(topic: str) -> str:
    """``topic`` itself, if it is a well-formed name.

    Raises:
        BlobRefused: not 1 to 200 of a-z, 0-9 and ``._-`` in segments parted by ``/``, each beginning with a
            letter or digit.
    """
    if not isinstance(topic, str) or len(topic) > MAX_TOPIC_CHARS or _TOPIC.fullmatch(topic) is None:
        shown = repr(topic[:40]) if isinstance(topic, str) else type(topic).__name__
        raise BlobRefused(
            f"{shown} must be 1 to {MAX_TOPIC_CHARS} of a-z, 0-9, '.', '_', '-', in segments parted by '/' "
            "that begin with a letter or digit",
            where="topic",
        )
    return topic


def _check_digest(digest: Digest) -> str:
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise BlobRefused("must be 32 bytes", where="digest")
    return digest.hex()


def _check_size(data: bytes, max_blob_bytes: int) -> None:
    if len(data) > max_blob_bytes:
        raise BlobRefused(f"{len(data)} bytes where at most {max_blob_bytes} are allowed", where="blob")


def _too_large(name: str, max_bytes: int) -> BlobRefused:
    return BlobRefused(f"larger than the {max_bytes} bytes allowed here", where=f"blob {name}")


def _not_its_digest(name: str) -> BlobRefused:
    return BlobRefused("is not what its digest says", where=f"blob {name}")


class MemoryBlobStore:
    """A blob store that lives and dies with the process."""

    def __init__(self, *, max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES) -> None:
        self._max_blob_bytes = max_blob_bytes
        self._blobs: dict[Digest, bytes] = {}
        self._topics: dict[str, set[Digest]] = {}

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` and list it under ``topic``; see ``ports.BlobStore``."""
        check_topic(topic)
        _check_size(data, self._max_blob_bytes)
        digest = blake3_digest(data)
        self._blobs.setdefault(digest, bytes(data))
        self._topics.setdefault(topic, set()).add(digest)
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified; see ``ports.BlobStore``."""
        name = _check_digest(digest)
        if digest not in self._blobs:
            raise BlobMissing("is not in this store", where=f"blob {name}")
        data = self._blobs[digest]
        if len(data) > max_bytes:
            raise _too_large(name, max_bytes)
        if blake3_digest(data) != digest:
            raise _not_its_digest(name)
        return data

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``, ascending."""
        return sorted(self._topics.get(check_topic(topic), ()))

    def digests(self) -> _Digests:
        """Digests of everything stored, ascending."""
        return sorted(self._blobs)

    def topics(self) -> _Topics:
        """Every topic anything was listed under, ascending."""
        return sorted(self._topics)

    def check(self) -> _Problems:
        """What is wrong with the store; see ``BlobProblem``."""
        return [
            BlobProblem("altered", f"blobs/{digest.hex()}", "is not what its digest says")
            for digest, data in sorted(self._blobs.items())
            if blake3_digest(data) != digest
        ]


class FolderBlobStore:
    """A blob store in a folder, which several processes may use at once.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, root: Path, *, max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._topics = root / "topics"
        self._temporary = root / "tmp"
        self._max_blob_bytes = max_blob_bytes
        for folder in (self._blobs, self._topics, self._temporary):
            files.make_folder(folder)
        files.sweep(self._temporary)

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` and list it under ``topic``; see ``ports.BlobStore``.

        Raises:
            BlobRefused: too large, or the topic's name is malformed.
            StorageError: the disk is full or failed; nothing is left half-done.
        """
        entry_folder = self._topics / check_topic(topic).replace("/", _SEPARATOR_ON_DISK)
        _check_size(data, self._max_blob_bytes)
        digest = blake3_digest(data)
        files.write_once(self._blobs / digest.hex(), data, folder=self._temporary)
        with files.storage_errors("list a blob under a topic", entry_folder):
            if not entry_folder.is_dir():
                entry_folder.mkdir(exist_ok=True)
                files.sync_folder(self._topics)
            entry = entry_folder / digest.hex()
            if not entry.exists():
                entry.touch()
                files.sync_folder(entry_folder)
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified; see ``ports.BlobStore``.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: larger than ``max_bytes``, or not what its digest says.
            StorageError: the disk failed.
        """
        name = _check_digest(digest)
        try:
            data = files.read_whole(self._blobs / name, max_bytes=max_bytes)
        except FileNotFoundError as error:
            raise BlobMissing("is not in this store", where=f"blob {name}") from error
        if data is None:
            raise _too_large(name, max_bytes)
        if blake3_digest(data) != digest:
            raise _not_its_digest(name)
        return data

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``, ascending; names that are no digests are passed over."""
        folder = self._topics / check_topic(topic).replace("/", _SEPARATOR_ON_DISK)
        return self._digests_in(folder)

    def digests(self) -> _Digests:
        """Digests of everything stored, ascending."""
        return self._digests_in(self._blobs)

    def topics(self) -> _Topics:
        """Every topic anything was listed under, ascending."""
        return sorted(
            topic
            for topic in (name.replace(_SEPARATOR_ON_DISK, "/") for name in _names(self._topics))
            if _TOPIC.fullmatch(topic)
        )

    def check(self) -> _Problems:
        """Read everything and say what is wrong: nothing, for a store nobody has touched from outside."""
        problems = []
        present = set()
        for name in sorted(_names(self._blobs)):
            path = self._blobs / name
            if _DIGEST_NAME.fullmatch(name) is None or path.is_symlink() or not path.is_file():
                problems.append(BlobProblem("foreign", f"blobs/{name}", "is not a blob"))
                continue
            present.add(name)
            if _digest_of_file(path) != name:
                problems.append(BlobProblem("altered", f"blobs/{name}", "is not what its digest says"))
        for topic in sorted(_names(self._topics)):
            if not (self._topics / topic).is_dir() or not _TOPIC.fullmatch(topic.replace("~", "/")):
                problems.append(BlobProblem("foreign", f"topics/{topic}", "is not a topic"))
                continue
            for name in sorted(_names(self._topics / topic)):
                if _DIGEST_NAME.fullmatch(name) is None:
                    problems.append(BlobProblem("foreign", f"topics/{topic}/{name}", "is not a digest"))
                elif name not in present:
                    problems.append(BlobProblem("missing", f"blobs/{name}", f"is listed in topics/{topic}"))
        return problems

    def _digests_in(self, folder: Path) -> _Digests:
        return sorted(Digest(bytes.fromhex(name)) for name in _names(folder) if _DIGEST_NAME.fullmatch(name))


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"could not list: {error.strerror}", where=str(folder)) from error


def _digest_of_file(path: Path) -> str:
    hasher = blake3()
    with files.storage_errors("read", path), path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
