"""The benchmark of the protocol's cost on a tiny job; and that it counts every byte of a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from benchmarks.overhead.__main__ import QUICK, rows_of
from benchmarks.overhead.counting import CountingBlobs, CountingNode, Traffic
from benchmarks.overhead.measure import Measured, Moment, measure

from galaxylearning.storage.blobs import MemoryBlobStore


@pytest.mark.parametrize("privacy", ["sealed", "masked"])
def test_a_tiny_job_is_measured(privacy: str, tmp_path: Path) -> None:
    found = anyio.run(measure, tmp_path, QUICK, privacy)
    assert len(found.federated) == QUICK.rounds
    assert len(found.bare) == QUICK.rounds + 1
    assert all(one.wall_s > 0 and one.cpu_s > 0 for one in found.federated)
    # A data owner received one sealed model and sent one update, looked until the job was settled, no more.
    for one in found.traffic:
        assert one.store_received > found.parcel_bytes
        assert one.store_sent > found.update_bytes
        assert one.total < 1.5 * (found.parcel_bytes + found.update_bytes)
    rows = rows_of(found, QUICK)
    assert all({"row", "count", "violations", "target", "unit"} <= row.keys() for row in rows)
    assert json.loads(json.dumps(rows)) == rows


def test_overheads_are_of_medians() -> None:
    found = Measured("sealed", 3, parcel_bytes=600, update_bytes=400)
    found.bare = [Moment(10.0, 8.0), Moment(30.0, 9.0), Moment(12.0, 10.0)]
    found.federated = [Moment(13.0, 10.0), Moment(17.0, 11.0)]
    found.traffic = [Traffic(500, 700, 400, 400, 9), Traffic(900, 900, 100, 100, 9)]
    assert found.wall_percent == pytest.approx(25.0)  # 15 and 12
    assert found.beyond_s == pytest.approx(1.5)  # 10.5 and 9
    assert found.cpu_percent == pytest.approx(100 / 6)
    assert found.bytes_per_owner_round == 1_000
    assert found.bytes_ratio == 1.0


def test_requests_and_answers_are_counted_both_ways() -> None:
    class Node:
        def request(self, method: str, params: Any) -> Any:
            return [method, *params]

    traffic = Traffic()
    store = CountingBlobs(MemoryBlobStore(), traffic)

    async def main() -> None:
        digest = await store.put(bytes(1_000), topic="some/topic")
        assert await store.list("some/topic") == [digest]
        await store.get(digest, max_bytes=1_000)

    anyio.run(main)
    before = traffic.copy()
    assert (before.store_sent, before.store_received) == (10 + 1_000 + 10 + 64, 64 + 64 + 1_000)
    assert CountingNode(Node(), traffic).request("eth_chainId", ["0x1"]) == ["eth_chainId", "0x1"]
    sent = '{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":["0x1"]}'
    received = '{"jsonrpc":"2.0","id":1,"result":["eth_chainId","0x1"]}'
    assert traffic.since(before) == Traffic(0, 0, len(sent), len(received), 1)
    assert traffic.total == before.total + len(sent) + len(received)
