"""What travels between one node and its chain and store, in bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from galaxylearning.ports import BlobStore
from galaxylearning.units import Digest

DIGEST_CHARS = 64
"""A digest as stores name it in requests and listings."""


@dataclass
class Traffic:
    """Bytes of requests and answers: bodies, names and JSON, without the headers of HTTP or TLS."""

    store_sent: int = 0
    store_received: int = 0
    chain_sent: int = 0
    chain_received: int = 0
    requests: int = 0

    @property
    def total(self) -> int:
        """Both ways, store and chain."""
        return self.store_sent + self.store_received + self.chain_sent + self.chain_received

    def since(self, before: Traffic) -> Traffic:
        """What was added after ``before``."""
        return Traffic(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))

    def copy(self) -> Traffic:
        """As it is now."""
        return Traffic(*(getattr(self, name) for name in self.__dataclass_fields__))


class CountingBlobs:
    """A store, each of whose bytes is counted (``ports.BlobStore``)."""

    def __init__(self, blobs: BlobStore, traffic: Traffic) -> None:
        self._blobs, self._traffic = blobs, traffic

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Up: the blob and its topic."""
        self._count(len(topic) + len(data), DIGEST_CHARS)
        return await self._blobs.put(data, topic=topic)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """Down: the blob."""
        data = await self._blobs.get(digest, max_bytes=max_bytes)
        self._count(DIGEST_CHARS, len(data))
        return data

    async def list(self, topic: str) -> Sequence[Digest]:
        """Down: a name for each blob."""
        found = await self._blobs.list(topic)
        self._count(len(topic), DIGEST_CHARS * len(found))
        return found

    def _count(self, sent: int, received: int) -> None:
        self._traffic.requests += 1
        self._traffic.store_sent += sent
        self._traffic.store_received += received


class CountingNode:
    """A chain in this process that is asked in JSON-RPC, each of whose requests and answers is counted."""

    def __init__(self, node: Any, traffic: Traffic) -> None:
        self._node, self._traffic = node, traffic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def request(self, method: str, params: Any) -> Any:
        """Ask it."""
        found = self._node.request(method, params)
        self._traffic.requests += 1
        self._traffic.chain_sent += _size({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self._traffic.chain_received += _size({"jsonrpc": "2.0", "id": 1, "result": found})
        return found


def _size(message: Any) -> int:
    return len(json.dumps(message, separators=(",", ":")))
