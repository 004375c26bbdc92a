"""One fault at a time: put a blob, damage it behind the store's back, read it, look what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from benchmarks.blob_faults.services import HASTY_S, HttpService, Service

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, GalaxyError
from galaxylearning.storage.blob_names import BlobAltered, RestorableBlobStore, StoreLate
from galaxylearning.storage.replicated_blobs import BlobFault, ReplicatedBlobStore
from galaxylearning.units import Digest

KINDS = ("lost", "flipped", "truncated", "swapped", "late")
MAX_BYTES = 1 << 16
ERRORS: dict[str, type[GalaxyError]] = {
    "lost": BlobMissing,
    "flipped": BlobAltered,
    "truncated": BlobAltered,
    "swapped": BlobAltered,
    "late": StoreLate,
}
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial found wrong; None where everything is as it should be."""

    problem: str | None


def drawn_blob(rng: np.random.Generator) -> bytes:
    """A blob of 32 bytes to 64 KiB."""
    return rng.bytes(int(rng.integers(32, MAX_BYTES)))


def damaged(data: bytes, kind: str, other: bytes, rng: np.random.Generator) -> bytes | None:
    """The blob as the fault leaves it; never the blob itself."""
    if kind == "lost":
        return None
    if kind == "truncated":
        return data[: int(rng.integers(0, len(data)))]
    if kind == "swapped":
        return other
    flipped = bytearray(data)
    for bit in rng.choice(8 * len(data), size=int(rng.integers(1, 9)), replace=False):
        flipped[int(bit) // 8] ^= 1 << (int(bit) % 8)
    return bytes(flipped)


async def read_fault(
    service: Service, replica: Service | None, kind: str, *, rng: np.random.Generator
) -> Verdict:
    """One blob that one store loses, damages or withholds, with another store that has it or without."""
    data, other = drawn_blob(rng), drawn_blob(rng)
    stores: dict[str, RestorableBlobStore] = {"faulty": service.hasty if kind == "late" else service.store}
    if replica is not None:
        stores["replica"] = replica.store
    faults: list[BlobFault] = []
    patience_s = PATIENCE_S
    if kind == "late" and service.name == "folder":
        # A folder that hangs says nothing about itself: there the time for one answer is what counts.
        patience_s = HASTY_S if replica is None else 1.0
    reading = ReplicatedBlobStore(
        stores, patience_s=patience_s, monotonic_s=lambda: 0.0, report=faults.append
    )
    digest = await service.store.put(data, topic="faults")
    if replica is not None:
        await replica.store.put(data, topic="faults")
    if kind == "late":
        service.stall(True)
    else:
        await service.overwrite(digest, damaged(data, kind, other, rng))
    found: bytes | GalaxyError
    try:
        found = await reading.get(digest, max_bytes=MAX_BYTES)
    except GalaxyError as error:
        found = error
    finally:
        service.stall(False)
    if replica is None:
        return _undamaged_by(found, kind)
    return await _recovered(service, digest, data, found, kind, faults)


def _undamaged_by(found: bytes | GalaxyError, kind: str) -> Verdict:
    """Without a replica a fault must be told as what it is."""
    if isinstance(found, ERRORS[kind]):
        return Verdict(None)
    return Verdict(f"{kind}: {'wrong bytes were believed' if isinstance(found, bytes) else repr(found)}")


async def _recovered(
    service: Service,
    digest: Digest,
    data: bytes,
    found: bytes | GalaxyError,
    kind: str,
    faults: list[BlobFault],
) -> Verdict:
    """With a replica the right bytes come, the store is named with its fault, and holds them again."""
    if found != data:
        return Verdict(f"{kind}: not recovered: {found!r:.200}")
    named = [(fault.store, fault.kind, fault.digest) for fault in faults]
    if named != [("faulty", kind, digest)]:
        return Verdict(f"{kind}: told as {named}")
    if kind != "late" and not faults[0].is_repaired:
        return Verdict(f"{kind}: not repaired")
    if await service.read(digest) != data:
        return Verdict(f"{kind}: said to be repaired, and is not")
    return Verdict(None)


async def broken_off(service: HttpService, *, rng: np.random.Generator) -> Verdict:
    """A connection that breaks in the middle of a download, which goes on where it stopped."""
    data = drawn_blob(rng)
    digest = await service.store.put(data, topic="faults")
    service.relay.break_after_bytes = int(rng.integers(0, len(data)))
    try:
        found = await service.store.get(digest, max_bytes=MAX_BYTES)
    except GalaxyError as error:
        return Verdict(f"broken off: {error!r}")
    finally:
        service.relay.break_after_bytes = None
    return Verdict(None if found == data else "broken off: other bytes")


async def missed_write(service: Service, replica: Service, *, rng: np.random.Generator) -> Verdict:
    """A store that was away while a blob was written has it, and lists it, once it answers again."""
    data = drawn_blob(rng)
    topic = f"missed/{blake3_digest(data).hex()[:16]}"
    faults: list[BlobFault] = []

    stores: dict[str, RestorableBlobStore] = {"faulty": service.hasty, "replica": replica.store}
    patience_s = 1.0 if service.name == "folder" else PATIENCE_S
    writing = ReplicatedBlobStore(
        stores, patience_s=patience_s, monotonic_s=lambda: 0.0, report=faults.append
    )
    service.stall(True)
    try:
        digest = await writing.put(data, topic=topic)
        if await service.read(digest) is not None:
            return Verdict("missed: was not away")
    except GalaxyError as error:
        return Verdict(f"missed: {error!r}")
    finally:
        service.stall(False)
    if [(fault.store, fault.kind) for fault in faults] != [("faulty", "late")]:
        return Verdict(f"missed: told as {faults}")
    # Another process, which knows nothing of it, reads the list later.
    later = ReplicatedBlobStore(
        {"faulty": service.store, "replica": replica.store},
        patience_s=PATIENCE_S,
        monotonic_s=lambda: 0.0,
        report=faults.append,
    )
    if list(await later.list(topic)) != [digest]:
        return Verdict("missed: not listed")
    if list(await service.store.list(topic)) != [digest] or await service.read(digest) != data:
        return Verdict("missed: not brought to the store that was away")
    return Verdict(None)
