"""A JSON-RPC server over HTTP that may lie: an embedded chain behind it, and faults in between."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from galaxylearning.chain.embedded import EmbeddedChain, RpcError

Twist = Callable[[list[Any], Any], Any]
"""What becomes of a method's true result; it gets the parameters too."""


class LyingNode:
    """Answers for a chain, truly unless told otherwise.

    ``twists`` change results by method. ``broken`` replaces the whole HTTP response of the next requests.
    """

    def __init__(self, chain: EmbeddedChain) -> None:
        self.chain = chain
        self.twists: dict[str, Twist] = {}
        self.broken: list[Callable[[web.Request], Any]] = []
        self.is_broken_for_good = False
        self.asked: Counter[str] = Counter()
        self.url = ""

    def twist(self, method: str, twist: Twist) -> None:
        """Change a method's result from now on."""
        self.twists[method] = twist

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        asked = json.loads(await request.read())
        method, params = asked["method"], asked["params"]
        self.asked[method] += 1
        if self.broken:
            handler = self.broken[0] if self.is_broken_for_good else self.broken.pop(0)
            found = await handler(request)
            assert isinstance(found, web.StreamResponse)
            return found
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        try:
            # Through JSON, so that a twist cannot change what the chain keeps.
            answer["result"] = json.loads(json.dumps(self.chain.request(method, params)))
            if method in self.twists:
                answer["result"] = self.twists[method](params, answer["result"])
        except RpcError as error:
            answer["error"] = error.as_json()
        return web.json_response(answer)


@asynccontextmanager
async def lying_node(chain: EmbeddedChain) -> AsyncIterator[LyingNode]:
    """A server on a free port of this machine, until the block ends."""
    node = LyingNode(chain)
    application = web.Application()
    application.router.add_post("/", node.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield node
    finally:
        await runner.cleanup()


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[web.Request], Any]:
    """A whole response by hand; ``_`` in header names reads as a hyphen."""

    async def respond(_: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, body=body, headers=named)

    return respond


def in_json(answer: Any) -> Callable[[web.Request], Any]:
    """A response that is this JSON."""
    return status(200, json.dumps(answer).encode(), Content_Type="application/json")


async def silence(_: web.Request) -> web.Response:
    """No answer within any patience of a test."""
    await asyncio.sleep(3_600)
    return web.Response()


async def cut_off(request: web.Request) -> web.StreamResponse:
    """A response that promises more than comes."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"jsonrpc": "2.0", "id": 1, "res')
    assert request.transport is not None
    request.transport.close()
    return response
