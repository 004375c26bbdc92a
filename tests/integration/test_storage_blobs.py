"""One suite for both blob stores, and what only a folder can suffer."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from galaxylearning import ports
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, StorageError
from galaxylearning.storage.blobs import BlobProblem, FolderBlobStore, MemoryBlobStore
from galaxylearning.units import Digest

LIMIT = 1 << 20
MakeStore = Callable[..., FolderBlobStore | MemoryBlobStore]


@pytest.fixture(params=["folder", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param == "folder":
        return lambda **options: FolderBlobStore(tmp_path / "store", **options)
    return lambda **options: MemoryBlobStore(**options)


def put(store: ports.BlobStore, data: bytes, topic: str = "jobs/1") -> Digest:
    async def call() -> Digest:
        return await store.put(data, topic=topic)

    return anyio.run(call)


def get(store: ports.BlobStore, digest: Digest, max_bytes: int = LIMIT) -> bytes:
    async def call() -> bytes:
        return await store.get(digest, max_bytes=max_bytes)

    return anyio.run(call)


def listed(store: ports.BlobStore, topic: str = "jobs/1") -> list[Digest]:
    async def call() -> list[Digest]:
        return list(await store.list(topic))

    return anyio.run(call)


@pytest.mark.parametrize("data", [b"", b"x", bytes(100_000)])
def test_what_was_put_is_got(make_store: MakeStore, data: bytes) -> None:
    store = make_store()
    digest = put(store, data)
    assert digest == blake3_digest(data)
    assert get(store, digest) == data
    assert listed(store) == [digest]
    assert store.digests() == [digest]
    assert store.topics() == ["jobs/1"]
    assert store.check() == []


def test_what_is_not_there_is_missing(make_store: MakeStore) -> None:
    store = make_store()
    with pytest.raises(BlobMissing):
        get(store, blake3_digest(b"never put"))
    assert listed(store, "jobs/2") == []


def test_putting_again_changes_nothing(make_store: MakeStore) -> None:
    store = make_store()
    assert put(store, b"x") == put(store, b"x")
    assert len(listed(store)) == len(store.digests()) == 1


def test_one_blob_may_be_under_several_topics(make_store: MakeStore) -> None:
    store = make_store()
    digest = put(store, b"x", "jobs/1/updates/0")
    put(store, b"x", "jobs/1/updates/1")
    assert listed(store, "jobs/1/updates/0") == listed(store, "jobs/1/updates/1") == [digest]
    assert listed(store, "jobs/1/updates") == []
    assert store.digests() == [digest]


def test_digests_are_listed_in_ascending_order(make_store: MakeStore) -> None:
    store = make_store()
    digests = [put(store, bytes([i])) for i in range(50)]
    assert listed(store) == sorted(digests)


def test_a_limit_on_reading_is_kept(make_store: MakeStore) -> None:
    store = make_store()
    digest = put(store, b"12345")
    assert get(store, digest, 5) == b"12345"
    with pytest.raises(BlobRefused, match="larger than the 4 bytes"):
        get(store, digest, 4)


def test_a_limit_on_writing_is_kept_and_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store(max_blob_bytes=4)
    put(store, b"1234")
    with pytest.raises(BlobRefused, match="at most 4"):
        put(store, b"12345")
    assert len(store.digests()) == 1


@pytest.mark.parametrize("topic", ["a", "jobs/1/updates/0", "0x5f/registry_2.v1", "a" * 200])
def test_a_sound_topic_is_taken(make_store: MakeStore, topic: str) -> None:
    store = make_store()
    digest = put(store, b"x", topic)
    assert listed(store, topic) == [digest]
    assert store.topics() == [topic]


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "..",
        "a/../b",
        ".",
        "a/.hidden",
        "A",
        "a b",
        "a~b",
        "é",
        "a\0",
        "a\n",
        "a" * 201,
    ],
)
def test_an_odd_topic_is_refused_and_leaves_nothing(make_store: MakeStore, topic: str) -> None:
    store = make_store()
    with pytest.raises(BlobRefused, match="topic"):
        put(store, b"x", topic)
    with pytest.raises(BlobRefused, match="topic"):
        listed(store, topic)
    assert store.digests() == []


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "ab" * 32])
def test_what_is_no_digest_is_refused(make_store: MakeStore, digest: Digest) -> None:
    with pytest.raises(BlobRefused, match="digest"):
        get(make_store(), digest)


def _folder(tmp_path: Path) -> tuple[FolderBlobStore, Digest, Path]:
    store = FolderBlobStore(tmp_path)
    digest = put(store, b"content")
    return store, digest, tmp_path / "blobs" / digest.hex()


def _link(path: Path) -> None:
    """A link to a file with the right content: still not a blob, for it can change behind the store."""
    target = path.parents[1] / "target"
    target.write_bytes(b"content")
    path.symlink_to(target)


def test_only_blobs_are_under_blobs(tmp_path: Path) -> None:
    _, digest, _ = _folder(tmp_path)
    assert os.listdir(tmp_path / "blobs") == [digest.hex()]
    assert os.listdir(tmp_path / "topics") == ["jobs~1"]
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize("content", [b"Content", b"conten", b"content\0", b""])
def test_an_altered_blob_is_refused_named_and_put_right(tmp_path: Path, content: bytes) -> None:
    store, digest, path = _folder(tmp_path)
    path.write_bytes(content)
    with pytest.raises(BlobRefused, match=digest.hex()):
        get(store, digest)
    assert [(p.kind, p.name) for p in store.check()] == [("altered", f"blobs/{digest.hex()}")]
    assert put(store, b"content") == digest
    assert get(store, digest) == b"content"
    assert store.check() == []


def test_swapped_blobs_are_refused_and_both_named(tmp_path: Path) -> None:
    store, one, one_path = _folder(tmp_path)
    other = put(store, b"other")
    other_path = tmp_path / "blobs" / other.hex()
    one_path.rename(tmp_path / "aside")
    other_path.rename(one_path)
    (tmp_path / "aside").rename(other_path)
    for digest in (one, other):
        with pytest.raises(BlobRefused):
            get(store, digest)
    assert {p.name for p in store.check()} == {f"blobs/{one.hex()}", f"blobs/{other.hex()}"}


def test_a_removed_blob_is_missing_and_named(tmp_path: Path) -> None:
    store, digest, path = _folder(tmp_path)
    path.unlink()
    with pytest.raises(BlobMissing):
        get(store, digest)
    assert [(p.kind, p.name) for p in store.check()] == [("missing", f"blobs/{digest.hex()}")]


def test_foreign_files_are_named_and_passed_over(tmp_path: Path) -> None:
    store, digest, _ = _folder(tmp_path)
    (tmp_path / "blobs" / "notes.txt").write_text("hello")
    (tmp_path / "blobs" / ("AB" * 32)).write_text("upper case")
    (tmp_path / "topics" / "UPPER").mkdir()
    (tmp_path / "topics" / "file").write_text("")
    (tmp_path / "topics" / "jobs~1" / "notes").write_text("")
    problems = store.check()
    assert {p.kind for p in problems} == {"foreign"}
    assert {p.name for p in problems} == {
        "blobs/notes.txt",
        f"blobs/{'AB' * 32}",
        "topics/UPPER",
        "topics/file",
        "topics/jobs~1/notes",
    }
    assert listed(store) == store.digests() == [digest]


@pytest.mark.parametrize("make", [_link, os.mkfifo, os.mkdir], ids=["link", "pipe", "folder"])
def test_links_pipes_and_folders_are_no_blobs(tmp_path: Path, make: Callable[[Path], None]) -> None:
    store, digest, path = _folder(tmp_path)
    path.unlink()
    make(path)
    with pytest.raises(BlobRefused):
        get(store, digest)
    assert store.check() == [
        BlobProblem("foreign", f"blobs/{digest.hex()}", "is not a blob"),
        BlobProblem("missing", f"blobs/{digest.hex()}", "is listed in topics/jobs~1"),
    ]


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderBlobStore(tmp_path)

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        put(store, b"x")
    monkeypatch.undo()
    assert store.digests() == []
    assert store.topics() == []
    assert os.listdir(tmp_path / "tmp") == []
    assert get(store, put(store, b"x")) == b"x"


def test_a_really_full_disk_is_a_storage_error() -> None:
    """Writing past the process's limit on file sizes fails the way a full disk does, half-way through."""
    program = """
import pathlib, resource, signal, sys, tempfile, anyio
from galaxylearning.errors import StorageError
from galaxylearning.storage.blobs import FolderBlobStore
root = pathlib.Path(tempfile.mkdtemp())
store = FolderBlobStore(root)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
async def put(size):
    return await store.put(bytes(size), topic="a")
anyio.run(put, 1000)
try:
    anyio.run(put, 1001)
except StorageError:
    left = [p.name for p in root.rglob("*") if p.is_file()]
    sys.exit(0 if len(left) == 2 and not store.check() else 2)
sys.exit(1)
"""
    result = subprocess.run([sys.executable, "-c", program], env=_environment(), timeout=60, check=False)
    assert result.returncode == 0


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder"):
        FolderBlobStore(tmp_path / "file")


def test_leftovers_of_a_killed_writer_are_swept_and_a_living_ones_are_not(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    dead = tmp_path / "tmp" / ".writing-dead"
    dead.write_bytes(b"half")
    living = tmp_path / "tmp" / ".writing-living"
    with living.open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        FolderBlobStore(tmp_path)
        assert living.exists()
        assert not dead.exists()
    assert store.check() == []


def test_two_stores_on_one_folder_agree(tmp_path: Path) -> None:
    one, other = FolderBlobStore(tmp_path), FolderBlobStore(tmp_path)
    digests = {put(store, bytes([i])) for i in range(20) for store in (one, other)}
    assert one.digests() == other.digests() == sorted(digests)
    assert len(digests) == 20


def _environment() -> dict[str, str]:
    source = Path(__file__).parents[2] / "src"
    return {**os.environ, "PYTHONPATH": str(source)}
