"""What every blob store checks and raises: names of blobs and topics, sizes, and the ways a store fails."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobDamaged, BlobRefused, DiskFull, StorageError
from galaxylearning.ports import BlobStore
from galaxylearning.units import Digest

DEFAULT_MAX_BLOB_BYTES: Final = 1 << 30
MAX_TOPIC_CHARS: Final = 200
LISTED_BYTES: Final = 67
"""A digest of a list as it is sent: in hexadecimal, quoted, with a comma."""

DIGEST_NAME: Final = re.compile(r"[0-9a-f]{64}")

_SEGMENT: Final = r"[a-z0-9][a-z0-9._-]*"
TOPIC: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


MIN_BYTES_PER_S: Final = 16_384
"""A service that sends less, or takes less, is given up."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client waits and how often it asks again.

    ``timeout_s`` is for connecting and for every silence; ``backoff_s`` is the first pause, which doubles.
    """

    timeout_s: float = 30.0
    retries: int = 3
    backoff_s: float = 0.2

    def transfer_s(self, n_bytes: int) -> float:
        """How long a transfer that has come ``n_bytes`` far may have taken, all attempts together."""
        pauses_s = float(self.backoff_s * (2**self.retries - 1))
        return (self.retries + 1) * self.timeout_s + pauses_s + n_bytes / MIN_BYTES_PER_S


class StoreUnreachable(StorageError):  # noqa: N818 - named like its neighbours in errors.py
    """A blob store did not answer, or could not just now."""

    retryable = True


class StoreLate(StoreUnreachable):
    """A blob store did not answer in time."""


class StoreFull(DiskFull):
    """A blob store has no room, or this account's quota is spent."""


class AccessRefused(StorageError):  # noqa: N818
    """A blob store wants a signature, or does not serve this account."""


class BlobAltered(BlobDamaged):
    """What a store gave is not what its digest says; ``data`` is what it gave.

    Another store may have the blob, and this one may be put right.
    """

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__("is not what its digest says", where=f"blob {name}")
        self.data = data


class RestorableBlobStore(BlobStore, Protocol):
    """A store in which a blob can be put right without listing it."""

    async def restore(self, data: bytes) -> None:
        """Let the store hold ``data`` under its digest, whatever lies there now.

        Raises:
            BlobRefused: too large.
            StorageError: the store failed, or did not let it.
        """
        ...


def check_topic(topic: str) -> str:
    """``topic`` itself, if it is a well-formed name.

    Raises:
        BlobRefused: not 1 to 200 of a-z, 0-9 and ``._-`` in segments parted by ``/``, each beginning with a
            letter or digit.
    """
    if not isinstance(topic, str) or len(topic) > MAX_TOPIC_CHARS or TOPIC.fullmatch(topic) is None:
        shown = repr(topic[:40]) if isinstance(topic, str) else type(topic).__name__
        raise BlobRefused(
            f"{shown} must be 1 to {MAX_TOPIC_CHARS} of a-z, 0-9, '.', '_', '-', in segments parted by '/' "
            "that begin with a letter or digit",
            where="topic",
        )
    return topic


def check_digest(digest: Digest) -> str:
    """``digest`` in lower-case hexadecimal, if it is 32 bytes.

    Raises:
        BlobRefused: it is not.
    """
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise BlobRefused("must be 32 bytes", where="digest")
    return digest.hex()


def digest_from_hex(text: str) -> Digest:
    """The digest that a blob's name is.

    Raises:
        BlobRefused: not 64 lower-case hexadecimal digits.
    """
    if not isinstance(text, str) or DIGEST_NAME.fullmatch(text) is None:
        raise BlobRefused("must be 64 lower-case hexadecimal digits", where="digest")
    return Digest(bytes.fromhex(text))


def check_size(data: bytes, max_blob_bytes: int) -> None:
    """Refuse what is larger than a store takes.

    Raises:
        BlobRefused: it is.
    """
    if len(data) > max_blob_bytes:
        raise BlobRefused(f"{len(data)} bytes where at most {max_blob_bytes} are allowed", where="blob")


def too_large(name: str, max_bytes: int) -> BlobRefused:
    """The refusal of a blob that is larger than its reader allows."""
    return BlobRefused(f"larger than the {max_bytes} bytes allowed here", where=f"blob {name}")


def checked_blob(digest: Digest, data: bytes) -> bytes:
    """``data`` itself, if it is the blob with this digest.

    Raises:
        BlobAltered: it is not.
    """
    if blake3_digest(data) != digest:
        raise BlobAltered(digest.hex(), data)
    return data
