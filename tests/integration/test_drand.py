"""Drand rounds reach a job: from a relay over HTTP, or from the board, and never a false one.

The network here is a made-up one with a known secret key: what it signs is what a real network would sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from aiohttp import web
from py_ecc import optimized_bls12_381
from py_ecc.bls import hash_to_curve, point_compression

import galaxylearning as gl
from galaxylearning.chain.drand_http import HttpDrand
from galaxylearning.errors import LedgerUnreachable
from galaxylearning.nodes.drand import drand_randomness
from galaxylearning.simulation.stage import GENESIS_S
from galaxylearning.storage.blobs import MemoryBlobStore

if TYPE_CHECKING:
    from tests.integration.conftest import Town

SECRET = 0x5EC2E7
SUITE = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
curve: Any = optimized_bls12_381


def public_key() -> bytes:
    words: Any = point_compression.compress_G2(curve.multiply(curve.G2, SECRET))
    return b"".join(word.to_bytes(48) for word in words)


def signature(number: int) -> bytes:
    sha256: Any = hashlib.sha256
    message = hashlib.sha256(number.to_bytes(8, "big")).digest()
    point = curve.multiply(hash_to_curve.hash_to_G1(message, SUITE, sha256), SECRET)
    word: Any = point_compression.compress_G1(point)
    return int(word).to_bytes(48)


NETWORK = gl.Drand(public_key=public_key().hex(), genesis_s=GENESIS_S, period_s=600, margin_s=30)


class Network:
    """Implements ``ports.DrandNetwork``."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def signature(self, number: int) -> bytes:
        self.asked.append(number)
        return signature(number)


def test_the_board_is_believed_only_where_the_network_signed() -> None:
    async def main() -> None:
        blobs, network = MemoryBlobStore(), Network()
        topic = f"drand/{NETWORK.public_key[:32]}/7"
        with pytest.raises(LedgerUnreachable, match="drand_url"):
            await drand_randomness(blobs, None, NETWORK, 7)
        for wrong in (signature(8), b"rubbish", bytes(48), bytes(4_000)):
            await blobs.put(wrong, topic=topic)
        with pytest.raises(LedgerUnreachable):
            await drand_randomness(blobs, None, NETWORK, 7)
        found = await drand_randomness(blobs, network, NETWORK, 7)
        assert found == hashlib.sha256(signature(7)).digest()
        assert await drand_randomness(blobs, None, NETWORK, 7) == found

        class Liar(Network):
            async def signature(self, number: int) -> bytes:
                return signature(number + 1)

        with pytest.raises(LedgerUnreachable, match="falsely"):
            await drand_randomness(blobs, Liar(), NETWORK, 7)

    anyio.run(main)


@asynccontextmanager
async def relay(answers: dict[str, tuple[int, bytes]]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        status, body = answers.get(request.path, (404, b""))
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/chain"
    finally:
        await runner.cleanup()


def test_a_relay_answers_or_is_named() -> None:
    round_7 = {"round": 7, "randomness": "00", "signature": signature(7).hex()}
    bad = [
        (200, b""),
        (200, b"[]"),
        (200, b'{"round": 7}'),
        (200, msgspec.json.encode({**round_7, "round": 8})),
        (200, msgspec.json.encode({**round_7, "round": True})),
        (200, msgspec.json.encode({**round_7, "signature": "zz"})),
        (200, msgspec.json.encode({**round_7, "signature": "ab"})),
        (200, b" " * 10_000),
        (302, b""),
        (425, b"too early"),
    ]

    async def main() -> None:
        answers = {"/chain/public/7": (200, msgspec.json.encode(round_7))}
        async with relay(answers) as url:
            client = HttpDrand(url + "/", timeout_s=5)
            assert await client.signature(7) == signature(7)
            with pytest.raises(LedgerUnreachable, match="404"):
                await client.signature(8)
            for answer in bad:
                answers["/chain/public/7"] = answer
                with pytest.raises(LedgerUnreachable, match="public/7"):
                    await client.signature(7)
        with pytest.raises(LedgerUnreachable):
            await HttpDrand("http://127.0.0.1:1", timeout_s=5).signature(7)

    anyio.run(main)


def test_a_job_that_names_a_network_is_judged_by_its_rounds_and_can_be_audited(
    masked_town: Town, tmp_path: Path
) -> None:
    """The evaluators' way to the network is what puts rounds on the board; the auditor has only the board."""

    async def main() -> None:
        network = Network()
        async with masked_town.full_stage(tmp_path / "stage", drand=NETWORK) as stage:
            for name in masked_town.evaluators:
                stage.add_evaluator(name, site=partial(stage.site, name, drand=network))
            await stage.play()
            found = await stage.outcome()
            terms = await stage.terms()
            view = await stage.view()
            assert terms.drand == NETWORK
            assert found.audit.verdict == found.public_audit.verdict == "ok"
            beacons = {await view.beacon(stage.job_id, index) for index in range(terms.plan.rounds)}
            assert beacons == {hashlib.sha256(signature(number)).digest() for number in network.asked}

    anyio.run(main)
