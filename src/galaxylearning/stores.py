"""The blob store that a home's settings name, and how a home serves its own."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from galaxylearning.config import Home, Settings
from galaxylearning.errors import ConfigRefused
from galaxylearning.ports import BlobStore, Signer
from galaxylearning.storage import files

if TYPE_CHECKING:
    from galaxylearning.storage.blob_names import RestorableBlobStore
    from galaxylearning.storage.replicated_blobs import BlobFault
    from galaxylearning.storage.store_settings import StoreSettings


def open_blobs(
    home: Home,
    settings: Settings,
    *,
    signer: Signer | None = None,
    report: Callable[[BlobFault], None] | None = None,
) -> BlobStore:
    """The blob store that a home's settings name: a folder, a blob server, a bucket, or several of them.

    ``signer`` signs what is asked of servers. ``report`` is told what one of several stores did wrong; faults
    are logged where it is left out.

    Raises:
        ConfigRefused: it begins like a URL and is none, or its CA file or credentials cannot be used.
    """
    stores = {one: _open_store(home, settings, one, signer) for one in settings.stores}
    if len(stores) == 1:
        return next(iter(stores.values()))
    from galaxylearning.storage.replicated_blobs import ReplicatedBlobStore

    return ReplicatedBlobStore(
        {f"{number}: {_shown(name)}": store for number, (name, store) in enumerate(stores.items(), 1)},
        copies=settings.blob_access.copies,
        monotonic_s=time.monotonic,
        report=_log_fault if report is None else report,
    )


@asynccontextmanager
async def opened_blobs(
    home: Home,
    settings: Settings,
    *,
    signer: Signer | None = None,
    report: Callable[[BlobFault], None] | None = None,
) -> AsyncIterator[BlobStore]:
    """As ``open_blobs``; its connections are closed when the block ends."""
    blobs = open_blobs(home, settings, signer=signer, report=report)
    async with AsyncExitStack() as stack:
        if isinstance(blobs, AbstractAsyncContextManager):
            await stack.enter_async_context(blobs)
        yield blobs


def _open_store(home: Home, settings: Settings, name: str, signer: Signer | None) -> RestorableBlobStore:
    from galaxylearning.listening import client_tls
    from galaxylearning.storage.blob_names import Patience
    from galaxylearning.storage.blobs import FolderBlobStore

    access = settings.blob_access
    ca_file = home.root / access.ca_file if access.ca_file else None
    # Where there are several stores, another one is asked rather than the same again.
    retries = access.retries if len(settings.stores) == 1 else 0
    patience = Patience(access.timeout_ms / 1000, retries, access.backoff_ms / 1000)
    if name.startswith(("http:", "https:")):
        from galaxylearning.storage.http_blobs import HttpBlobStore

        return HttpBlobStore(
            name,
            signer=signer,
            signs_reads=access.signs_reads,
            tls=None if ca_file is None else client_tls(ca_file),
            patience=patience,
        )
    if name.startswith("s3:"):
        from galaxylearning.storage.s3_blobs import S3BlobStore, S3Place, read_credentials

        place = S3Place.from_url(name)
        credentials = None if place.credentials is None else read_credentials(home.root / place.credentials)
        ca = None
        if ca_file is not None:
            client_tls(ca_file)
            ca = ca_file.read_bytes()
        return S3BlobStore(place, credentials=credentials, ca=ca, patience=patience)
    return FolderBlobStore(home.root / name)


def _shown(name: str) -> str:
    """A store as it may be shown: without the options of its URL."""
    return name.partition("?")[0]


def _log_fault(fault: BlobFault) -> None:
    logging.getLogger(__name__).warning(
        "blob store %s: %s %s (%s)%s",
        fault.store,
        fault.kind,
        "topic" if fault.digest is None else fault.digest.hex(),
        fault.detail,
        ", repaired" if fault.is_repaired else "",
    )


def load_store_settings(home: Home, file: Path | None = None) -> StoreSettings:
    """How this home serves its blobs: ``file``, the home's ``store.json``, or the defaults.

    Raises:
        ConfigRefused: a setting is not allowed, or ``file`` cannot be read.
    """
    from galaxylearning.storage.store_settings import (
        MAX_SETTINGS_BYTES,
        StoreSettings,
        store_settings_from_json,
    )

    path = file or home.store_settings
    try:
        data = files.read_whole(path, max_bytes=MAX_SETTINGS_BYTES)
    except FileNotFoundError as error:
        if file is None:
            return StoreSettings()
        raise ConfigRefused("there is no such file", where=str(file)) from error
    if data is None:
        raise ConfigRefused(f"must be a file of at most {MAX_SETTINGS_BYTES} bytes", where=str(path))
    return store_settings_from_json(data)


def blob_problems(blobs: BlobStore) -> list[str] | None:
    """What is wrong with the blobs of a folder, each by name; None where the store is elsewhere."""
    from galaxylearning.storage.blobs import FolderBlobStore

    if not isinstance(blobs, FolderBlobStore):
        return None
    return [f"{problem.name}: {problem.detail} ({problem.kind})" for problem in blobs.check()]
