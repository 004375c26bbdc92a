"""A blob store in an S3 bucket, or in anything that speaks S3.

Blobs are objects ``{prefix}/blobs/{digest}``; a topic is the prefix ``{prefix}/topics/{topic}`` of empty ones
named after the blobs listed under it. An object is made only where there is none (a conditional put), and
replaced only by the bytes that its name says, where it holds others.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, StorageError
from galaxylearning.ports import MAX_LISTED
from galaxylearning.storage import files
from galaxylearning.storage.blob_names import (
    DEFAULT_MAX_BLOB_BYTES,
    LISTED_BYTES,
    AccessRefused,
    Patience,
    StoreLate,
    StoreUnreachable,
    check_digest,
    check_size,
    check_topic,
    checked_blob,
    digest_from_hex,
    too_large,
)
from galaxylearning.units import Digest

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

MAX_CREDENTIALS_BYTES: Final = 1 << 14
_PAGE: Final = 1_000
_PIECE_BYTES: Final = 1 << 20
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)?")
_TIMED_OUT: Final = re.compile("TimedOut|timed out")
_SERVER_FAILED: Final = re.compile(r"status code: (429|5\d\d)")
_SECRET: Final = re.compile(r"(?i)(signature|credential|token|secret|key)[^\s,;=:]*[=:]\s*\S+")
_OPTIONS: Final = frozenset({"endpoint", "region", "credentials"})
_Digests: TypeAlias = list[Digest]


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """What opens a bucket. Never shown, never logged."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class _CredentialsFile(msgspec.Struct, forbid_unknown_fields=True):
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, a prefix in it, and where its service is.

    ``endpoint``: URL of a service that is not Amazon's. ``credentials``: a JSON file with ``access_key_id``,
    ``secret_access_key`` and perhaps ``session_token``, which its user alone may read.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    credentials: str | None = None

    @classmethod
    def from_url(cls, url: str) -> S3Place:
        """Read ``s3://bucket[/prefix][?endpoint=URL][&region=NAME][&credentials=FILE]``.

        Raises:
            ConfigRefused: anything else; a user name or a secret in the URL above all.
        """
        try:
            parts = urlsplit(url)
            options = parse_qs(parts.query, strict_parsing=bool(parts.query), max_num_fields=8)
            bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
            is_sound = parts.scheme == "s3" and not parts.fragment
        except ValueError:
            is_sound = False
        if not is_sound or not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
            # Not repeated: what was pasted here may hold a secret.
            raise ConfigRefused(
                "allowed: s3://bucket[/prefix][?endpoint=URL][&region=NAME][&credentials=FILE]", where="blobs"
            )
        if unknown := sorted(set(options) - _OPTIONS):
            raise ConfigRefused(
                f"{unknown[0][:40]!r} given; allowed: {', '.join(sorted(_OPTIONS))}", where="blobs"
            )
        is_odd = any(segment in (".", "..") for segment in prefix.split("/"))
        if is_odd or any(len(values) != 1 for values in options.values()):
            raise ConfigRefused("an option is given twice, or the prefix has '..' in it", where="blobs")
        chosen = {name: values[0] for name, values in options.items()}
        endpoint = chosen.get("endpoint")
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise ConfigRefused("the endpoint must be a URL of http or https", where="blobs")
        return cls(bucket, prefix, endpoint, chosen.get("region"), chosen.get("credentials"))


def read_credentials(path: Path) -> S3Credentials:
    """Credentials from a file.

    Raises:
        ConfigRefused: not there, readable by others, or not of the documented form.
    """
    where = f"credentials {path}"
    try:
        data = files.read_whole(path, max_bytes=MAX_CREDENTIALS_BYTES)
        mode = os.stat(path).st_mode
    except (OSError, StorageError) as error:
        raise ConfigRefused("cannot be read", where=where) from error
    if data is None:
        raise ConfigRefused(f"must be a file of at most {MAX_CREDENTIALS_BYTES} bytes", where=where)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigRefused("others may read it; allowed: chmod 600", where=where)
    try:
        found = msgspec.json.decode(data, type=_CredentialsFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Without its cause: a decoder's message may quote what it read.
        raise ConfigRefused(
            "must be JSON with access_key_id, secret_access_key and perhaps session_token", where=where
        ) from None
    return S3Credentials(found.access_key_id, found.secret_access_key, found.session_token)


class S3BlobStore:
    """Implements ``ports.BlobStore`` in a bucket.

    Without ``credentials`` those of the environment count (``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``, or what the machine's role gives). ``ca`` is what an https endpoint is checked
    against, in PEM; the system's certificates where there is none.

    Raises:
        ConfigRefused: the place or the credentials cannot be used.
    """

    def __init__(
        self,
        place: S3Place,
        *,
        credentials: S3Credentials | None = None,
        ca: bytes | None = None,
        patience: Patience | None = None,
        max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES,
    ) -> None:
        self._patience = patience or Patience()
        self._max_blob_bytes = max_blob_bytes
        self._name = f"s3://{place.bucket}/{place.prefix}".rstrip("/")
        options: ClientConfig = {
            "connect_timeout": timedelta(seconds=self._patience.timeout_s),
            "read_timeout": timedelta(seconds=self._patience.timeout_s),
            "timeout": timedelta(days=1),  # Every wait here has an end of its own.
        }
        if place.endpoint is not None and place.endpoint.startswith("http:"):
            options["allow_http"] = True
        if ca is not None:
            options["root_certificate"] = ca
        config: S3Config = {"bucket": place.bucket}
        if place.endpoint is not None:
            config["endpoint"] = place.endpoint
        if place.region is not None:
            config["region"] = place.region
        if credentials is not None:
            config["access_key_id"] = credentials.access_key_id
            config["secret_access_key"] = credentials.secret_access_key
            if credentials.session_token is not None:
                config["session_token"] = credentials.session_token
        try:
            self._store = S3Store(
                prefix=place.prefix or None,
                config=config,
                client_options=options,
                retry_config={
                    "max_retries": self._patience.retries,
                    "backoff": {
                        "init_backoff": timedelta(seconds=self._patience.backoff_s),
                        "max_backoff": timedelta(seconds=8),
                        "base": 2,
                    },
                    "retry_timeout": timedelta(seconds=self._patience.transfer_s(0)),
                },
            )
        except BaseError as error:
            raise ConfigRefused(f"cannot be used: {_brief(error)}", where=self._name) from None

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` and list it under ``topic``; see ``ports.BlobStore``.

        Raises:
            BlobRefused: too large, or the topic's name is malformed.
            StorageError: the service refused (AccessRefused), did not answer (StoreUnreachable), or failed.
        """
        check_topic(topic)
        await self.restore(data)
        digest = blake3_digest(data)
        with suppress(AlreadyExistsError):
            async with self._in_time(0, creates=True):
                path = f"topics/{_on_disk(topic)}/{digest.hex()}"
                await obstore.put_async(self._store, path, b"", mode="create", use_multipart=False)
        return digest

    async def restore(self, data: bytes) -> None:
        """Let the bucket hold ``data``, listed nowhere; raises as ``put``."""
        check_size(data, self._max_blob_bytes)
        digest = blake3_digest(data)
        path = f"blobs/{digest.hex()}"
        try:
            async with self._in_time(len(data), creates=True):
                await obstore.put_async(self._store, path, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            with suppress(BlobRefused, BlobMissing):
                await self.get(digest, max_bytes=len(data))
                return
            async with self._in_time(len(data)):
                await obstore.put_async(self._store, path, data, mode="overwrite", use_multipart=False)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified; see ``ports.BlobStore``.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: larger than ``max_bytes`` (it is not fetched), or not what its digest says
                (BlobAltered).
            StorageError: the service refused (AccessRefused), did not answer (StoreUnreachable), or failed.
        """
        name = check_digest(digest)
        data = bytearray()
        try:
            async with self._in_time(0) as limit:
                found = await obstore.get_async(self._store, f"blobs/{name}")
                if found.meta["size"] > max_bytes:
                    raise too_large(name, max_bytes)
                begun_s = asyncio.get_running_loop().time()
                async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                    if len(data) + len(piece) > max_bytes:
                        raise too_large(name, max_bytes)
                    data += piece
                    limit.reschedule(begun_s + self._patience.transfer_s(len(data)))
        except BlobMissing:
            raise BlobMissing("is not in this store", where=f"blob {name}") from None
        return checked_blob(digest, bytes(data))

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``, ascending; the first 100,000 where there are more.

        All pages together have as long as one transfer of as many bytes.

        Raises:
            BlobRefused: the topic's name is malformed.
            StorageError: the service refused (AccessRefused), did not answer (StoreUnreachable), or failed.
        """
        prefix = f"topics/{_on_disk(check_topic(topic))}/"
        found: set[Digest] = set()
        begun_s = asyncio.get_running_loop().time()
        async with self._in_time(0) as limit:
            async for page in obstore.list(self._store, prefix, chunk_size=_PAGE):
                found.update(_digests_of(page))
                if len(found) >= MAX_LISTED:
                    break
                limit.reschedule(begun_s + self._patience.transfer_s(len(found) * LISTED_BYTES))
        return sorted(found)[:MAX_LISTED]

    @asynccontextmanager
    async def _in_time(self, n_bytes: int, *, creates: bool = False) -> AsyncIterator[asyncio.Timeout]:
        """The service's failures as ours; that something is there already is left to who ``creates`` it."""
        try:
            async with asyncio.timeout(self._patience.transfer_s(n_bytes)) as limit:
                yield limit
        except TimeoutError as error:
            raise StoreLate("too slow, or no answer in time", where=self._name) from error
        except AlreadyExistsError as error:
            if creates:
                raise
            raise self._failed(error) from None
        except (NotFoundError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise self._failed(error) from None
            raise BlobMissing("is not in this store", where=self._name) from None
        except (BaseError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> StorageError:
        told = _brief(error).lower()
        if "NoSuchBucket" in str(error):
            return StorageError("there is no such bucket", where=self._name)
        if isinstance(error, (PermissionError, PermissionDeniedError, UnauthenticatedError)) or (
            "credential" in told
        ):
            return AccessRefused(f"the service refused: {_brief(error)}", where=self._name)
        if _TIMED_OUT.search(str(error)):
            return StoreLate("no answer in time", where=self._name)
        if "error sending request" in told or "connect" in told or _SERVER_FAILED.search(told):
            return StoreUnreachable(f"no answer: {_brief(error)}", where=self._name)
        return StorageError(f"the service failed: {_brief(error)}", where=self._name)


def _on_disk(topic: str) -> str:
    # As in a folder store: the objects of topic "a" must not be those of "a/b".
    return topic.replace("/", "~")


def _digests_of(page: Sequence[Mapping[str, object]]) -> _Digests:
    """The digests that the names of a page of objects are; other names are passed over."""
    found = []
    for entry in page:
        with suppress(BlobRefused):
            found.append(digest_from_hex(str(entry["path"]).rpartition("/")[2]))
    return found


def _brief(error: Exception) -> str:
    """What the service said, in short, without anything that looks like a key or a signature."""
    told = " ".join(str(error).partition("Debug source")[0].split())[:300] or type(error).__name__
    return _SECRET.sub(r"\1=...", told)
