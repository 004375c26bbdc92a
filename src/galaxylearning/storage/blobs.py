"""Content-addressed, write-once blob stores: a folder, and one in memory for tests and demonstrations.

A folder store keeps every blob as ``blobs/<BLAKE3 in hex>`` and nothing else there; a topic is a folder of
empty files named after the blobs listed under it. What a blob means is not this module's business.

Write-once means that a name never holds other bytes than its digest says: putting a blob again changes
nothing where it is sound, and puts it right where the disk, or somebody, changed it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

from blake3 import blake3

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, StorageError
from galaxylearning.storage import files
from galaxylearning.storage.blob_names import (
    DEFAULT_MAX_BLOB_BYTES,
    DIGEST_NAME,
    TOPIC,
    check_digest,
    check_size,
    check_topic,
    checked_blob,
    too_large,
)
from galaxylearning.units import Digest

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


class MemoryBlobStore:
    """A blob store that lives and dies with the process."""

    def __init__(self, *, max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES) -> None:
        self._max_blob_bytes = max_blob_bytes
        self._blobs: dict[Digest, bytes] = {}
        self._topics: dict[str, set[Digest]] = {}

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` and list it under ``topic``; see ``ports.BlobStore``."""
        check_topic(topic)
        check_size(data, self._max_blob_bytes)
        digest = blake3_digest(data)
        await self.restore(data)
        self._topics.setdefault(topic, set()).add(digest)
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified; see ``ports.BlobStore``."""
        name = check_digest(digest)
        if digest not in self._blobs:
            raise BlobMissing("is not in this store", where=f"blob {name}")
        data = self._blobs[digest]
        if len(data) > max_bytes:
            raise too_large(name, max_bytes)
        return checked_blob(digest, data)

    async def restore(self, data: bytes) -> None:
        """Hold ``data`` under its digest; see ``RestorableBlobStore``."""
        check_size(data, self._max_blob_bytes)
        self._blobs[blake3_digest(data)] = bytes(data)

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


class BlobWriter:
    """A blob on its way into a folder store. Nothing of it is in memory."""

    def __init__(self, store: FolderBlobStore, path: Path, file: BinaryIO) -> None:
        self._store, self._path, self._file = store, path, file
        self._hasher = blake3()

    @property
    def digest(self) -> Digest:
        """Digest of what was written so far."""
        return Digest(self._hasher.digest())

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            StorageError: the disk is full or failed.
        """
        self._hasher.update(piece)
        with files.storage_errors("write", self._path):
            self._file.write(piece)
            self._file.flush()

    def keep(self, topic: str | None) -> tuple[bool, bool]:
        """Store the blob for good and list it under ``topic``; whether blob and entry are new.

        Raises:
            StorageError: the disk is full or failed.
        """
        is_new_blob = self._store._keep(self.digest, self._path, self._file)
        return is_new_blob, topic is not None and self._store._enlist(self.digest, topic)


class FolderBlobStore:
    """A blob store in a folder, which several processes may use at once.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, root: Path, *, max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES) -> None:
        self.root = root
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
        check_topic(topic)
        await self.restore(data)
        digest = blake3_digest(data)
        self._enlist(digest, topic)
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: larger than ``max_bytes``, or not what its digest says (BlobAltered).
            StorageError: the disk failed.
        """
        name = check_digest(digest)
        try:
            data = files.read_whole(self._blobs / name, max_bytes=max_bytes)
        except FileNotFoundError as error:
            raise BlobMissing("is not in this store", where=f"blob {name}") from error
        if data is None:
            raise too_large(name, max_bytes)
        return checked_blob(digest, data)

    async def restore(self, data: bytes) -> None:
        """Hold ``data`` under its digest; see ``RestorableBlobStore``."""
        check_size(data, self._max_blob_bytes)
        name = blake3_digest(data).hex()
        if _digest_of(self._blobs / name) != name:
            with self.receiving() as writer:
                writer.write(data)
                writer.keep(None)

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``, ascending; names that are no digests are passed over."""
        return self.listed(topic)

    def listed(self, topic: str) -> _Digests:
        """As ``list``, for threads."""
        return self._digests_in(self._entry_folder(topic))

    @contextmanager
    def receiving(self) -> Iterator[BlobWriter]:
        """A blob that arrives piece by piece; nothing is left of it unless it is kept.

        Raises:
            StorageError: the disk is full or failed.
        """
        with ExitStack() as stack:
            with files.storage_errors("write a blob in", self._temporary):
                path, file = stack.enter_context(files.temporary_file(self._temporary))
            try:
                yield BlobWriter(self, path, file)
            finally:
                with files.storage_errors("write", path):
                    stack.close()

    def opened(self, digest: Digest) -> tuple[BinaryIO, int]:
        """A blob to read, **not verified**, and its size in bytes.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: what is there is no blob.
            StorageError: the disk failed.
        """
        name = check_digest(digest)
        try:
            file = files.open_regular(self._blobs / name)
        except FileNotFoundError as error:
            raise BlobMissing("is not in this store", where=f"blob {name}") from error
        if file is None:
            raise BlobRefused("is not a regular file", where=f"blob {name}")
        return file, os.fstat(file.fileno()).st_size

    def holds(self, digest: Digest, topic: str | None = None) -> bool:
        """Whether there is something under this digest and, where ``topic`` is given, listed there."""
        name = check_digest(digest)
        return (self._blobs / name).is_file() and (topic is None or self._entry(topic, name).exists())

    def listed_count(self, topic: str) -> int:
        """How many entries ``topic`` has."""
        return len(_names(self._entry_folder(topic)))

    def stored_bytes(self) -> int:
        """Bytes of everything stored, as files say their sizes."""
        with files.storage_errors("list", self._blobs), os.scandir(self._blobs) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)

    def _keep(self, digest: Digest, temporary: Path, file: BinaryIO) -> bool:
        """Give the temporary file its name; whether there was nothing sound under it."""
        path = self._blobs / digest.hex()
        with files.storage_errors("write", path):
            if _digest_of(path) == path.name:
                return False
            os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                temporary.replace(path)
            files.sync_folder(self._blobs)
        return True

    def _enlist(self, digest: Digest, topic: str) -> bool:
        """List a blob; whether it was not listed before."""
        entry = self._entry(topic, digest.hex())
        with files.storage_errors("list a blob under a topic", entry.parent):
            if not entry.parent.is_dir():
                entry.parent.mkdir(exist_ok=True)
                files.sync_folder(self._topics)
            if entry.exists():
                return False
            entry.touch()
            files.sync_folder(entry.parent)
        return True

    def _entry_folder(self, topic: str) -> Path:
        return self._topics / check_topic(topic).replace("/", _SEPARATOR_ON_DISK)

    def _entry(self, topic: str, name: str) -> Path:
        return self._entry_folder(topic) / name

    def digests(self) -> _Digests:
        """Digests of everything stored, ascending."""
        return self._digests_in(self._blobs)

    def topics(self) -> _Topics:
        """Every topic anything was listed under, ascending."""
        return sorted(
            topic
            for topic in (name.replace(_SEPARATOR_ON_DISK, "/") for name in _names(self._topics))
            if TOPIC.fullmatch(topic)
        )

    def check(self) -> _Problems:
        """Read everything and say what is wrong: nothing, for a store nobody has touched from outside."""
        problems = []
        present = set()
        for name in sorted(_names(self._blobs)):
            path = self._blobs / name
            if DIGEST_NAME.fullmatch(name) is None or path.is_symlink() or not path.is_file():
                problems.append(BlobProblem("foreign", f"blobs/{name}", "is not a blob"))
                continue
            present.add(name)
            if _digest_of(path) != name:
                problems.append(BlobProblem("altered", f"blobs/{name}", "is not what its digest says"))
        for topic in sorted(_names(self._topics)):
            if not (self._topics / topic).is_dir() or not TOPIC.fullmatch(topic.replace("~", "/")):
                problems.append(BlobProblem("foreign", f"topics/{topic}", "is not a topic"))
                continue
            for name in sorted(_names(self._topics / topic)):
                if DIGEST_NAME.fullmatch(name) is None:
                    problems.append(BlobProblem("foreign", f"topics/{topic}/{name}", "is not a digest"))
                elif name not in present:
                    problems.append(BlobProblem("missing", f"blobs/{name}", f"is listed in topics/{topic}"))
        return problems

    def _digests_in(self, folder: Path) -> _Digests:
        return sorted(Digest(bytes.fromhex(name)) for name in _names(folder) if DIGEST_NAME.fullmatch(name))


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"could not list: {error.strerror}", where=str(folder)) from error


def _digest_of(path: Path) -> str | None:
    """Digest of a regular file in hexadecimal; None where there is none."""
    try:
        file = files.open_regular(path)
    except FileNotFoundError:
        return None
    if file is None:
        return None
    hasher = blake3()
    with file, files.storage_errors("read", path):
        while piece := file.read(_READ_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
