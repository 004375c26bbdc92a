"""The embedded chain over HTTP and through web3.py, as a stranger's client sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from web3 import AsyncWeb3
from web3.types import Wei

from bounded import run
from galaxylearning.chain.embedded import EmbeddedChain, EmbeddedProvider, serve
from galaxylearning.chain.embedded.server import MAX_BATCH, MAX_BODY_BYTES
from galaxylearning.chain.evm import KeySigner, connect, deploy, fund
from galaxylearning.chain.transport import Transport
from galaxylearning.errors import ConfigRefused, LedgerUnreachable
from galaxylearning.listening import Listening
from galaxylearning.ports import Call

NOW = 1_800_000_000
KEY = "k" * 32


def chain() -> EmbeddedChain:
    """A chain in memory."""
    return EmbeddedChain(None, now=lambda: NOW)


def request(body: bytes, *, head: str = "POST / HTTP/1.1", headers: tuple[str, ...] = ()) -> bytes:
    """One HTTP request."""
    lines = [head, "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def exchange(port: int, data: bytes) -> list[tuple[int, Any]]:
    """Send bytes, close our half, and read every answer: status and JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith("Content-Length:"))
        body, received = received[:length], received[length:]
        answers.append((int(lines[0].split(" ")[1]), json.loads(body) if body else None))
    return answers


def ask(data: bytes) -> list[tuple[int, Any]]:
    """Serve a fresh chain and exchange once."""

    async def scenario() -> list[tuple[int, Any]]:
        with chain() as served:
            async with serve(served) as server:
                return await exchange(server.port, data)

    return run(scenario())


def rpc(method: str, *params: Any, number: Any = 1) -> dict[str, Any]:
    """A request object."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


def test_single_requests_are_answered_on_one_connection() -> None:
    one, two = (json.dumps(rpc(name)).encode() for name in ("eth_chainId", "eth_unheardOf"))
    answers = ask(request(one) + request(two))
    assert answers[0] == (200, {"jsonrpc": "2.0", "id": 1, "result": "0x7a69"})
    assert (answers[1][0], answers[1][1]["error"]["code"]) == (200, -32601)


def test_a_batch_is_answered_in_order_and_notifications_are_not() -> None:
    notification = {"jsonrpc": "2.0", "method": "evm_mine"}
    batch = [rpc("eth_chainId"), notification, rpc("eth_blockNumber", number="b"), 7]
    ((status, answers),) = ask(request(json.dumps(batch).encode()))
    assert status == 200
    assert [answer["id"] for answer in answers] == [1, "b", None]
    assert answers[1]["result"] == "0x1"  # the notification before it was carried out
    assert answers[2]["error"]["code"] == -32600
    assert ask(request(json.dumps([notification]).encode())) == [(204, None)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (json.dumps([1] * (MAX_BATCH + 1)).encode(), -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "eth_chainId"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "eth_chainId"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": 5}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": {"a": 1}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [1]}', -32602),
    ],
)
def test_bodies_that_are_no_requests_are_refused(body: bytes, code: int) -> None:
    ((status, answer),) = ask(request(body))
    assert (status, answer["error"]["code"]) == (200, code)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(b"", head="GET / HTTP/1.1"), 405),
        (request(b"{}", headers=("Origin: https://example.org",)), 403),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (f"POST / HTTP/1.1\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode(), 413),
        (b"POST / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 413),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HT", 400),
    ],
)
def test_what_is_not_a_plain_post_is_refused(data: bytes, status: int) -> None:
    answers = ask(data)
    assert [answer[0] for answer in answers] == [status]
    assert answers[0][1]["error"]["code"] == -32600


def test_a_body_that_breaks_off_is_dropped_and_the_server_lives() -> None:
    async def scenario() -> None:
        with chain() as served:
            async with serve(served) as server:
                assert await exchange(server.port, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{") == []
                body = json.dumps(rpc("eth_chainId")).encode()
                assert (await exchange(server.port, request(body)))[0][0] == 200

    run(scenario())


def test_it_listens_on_loopback_only_without_tls_and_keys() -> None:
    async def scenario() -> None:
        with chain() as served:
            for host in ("0.0.0.0", "192.0.2.1", "example.org", ""):  # noqa: S104
                for proxied, keys in ((False, ()), (True, ()), (False, (KEY,))):
                    with pytest.raises(ConfigRefused, match="loopback"):
                        async with serve(served, Listening(host, is_behind_proxy=proxied), access_keys=keys):
                            pytest.fail("listened")
            with pytest.raises(ConfigRefused, match="32 to 128"):
                async with serve(served, access_keys=["short"]):
                    pytest.fail("listened")
            wide = Listening("0.0.0.0", is_behind_proxy=True)  # noqa: S104 - with keys
            async with serve(served, wide, access_keys=[KEY]) as server:
                with pytest.raises(LedgerUnreachable, match="cannot listen"):
                    async with serve(served, Listening(port=server.port)):
                        pytest.fail("listened")

    run(scenario())


def test_a_request_without_an_access_key_is_refused() -> None:
    async def scenario() -> None:
        with chain() as served:
            async with serve(served, access_keys=["another-key-of-forty-characters-in-total", KEY]) as server:
                body = json.dumps(rpc("eth_chainId")).encode()
                for path, status in (
                    (f"/{KEY}", 200),
                    ("/", 401),
                    (f"/{KEY}x", 401),
                    (f"/x/{KEY}", 401),
                    (f"/{KEY[:-1]}", 401),
                    ("/\xff", 401),
                ):
                    answers = await exchange(server.port, request(body, head=f"POST {path} HTTP/1.1"))
                    assert [answer[0] for answer in answers] == [status], path

    run(scenario())


def test_a_ledger_over_http_is_the_ledger() -> None:
    async def scenario() -> None:
        with chain() as served:
            async with serve(served) as server:
                signer = KeySigner(b"\1" * 32)
                await fund(server.url, signer.address, 10**18)
                deployment = await deploy(server.url, signer, unbonding_s=1)
                ledger = await connect(server.url, deployment)
                await ledger.submit(Call("token", "mint", (signer.address, 5)), signer)
                assert await ledger.read(Call("token", "balanceOf", (signer.address,))) == 5
                await ledger.close()

    run(scenario())


def test_web3_works_on_the_embedded_provider() -> None:
    async def scenario() -> None:
        with chain() as served:
            web3: AsyncWeb3[Any] = AsyncWeb3(EmbeddedProvider(served))
            assert await web3.is_connected()
            assert await web3.eth.chain_id == 31337
            faucet = (await web3.eth.accounts)[0]
            sent = await web3.eth.send_transaction({"from": faucet, "to": "0x" + "11" * 20, "value": Wei(5)})
            receipt = await web3.eth.wait_for_transaction_receipt(sent)
            assert (receipt["status"], receipt["gasUsed"]) == (1, 21_000)
            assert await web3.eth.get_balance("0x" + "11" * 20) == 5  # type: ignore[arg-type]
            block = await web3.eth.get_block("latest", full_transactions=True)
            (shown,) = block["transactions"]
            assert isinstance(shown, Mapping)
            assert shown["hash"] == sent
            assert (await web3.eth.fee_history(2, "latest"))["oldestBlock"] == 0
            await fund(web3, KeySigner(b"\1" * 32).address, 10**18)
            made = await deploy(EmbeddedProvider(served), KeySigner(b"\1" * 32), unbonding_s=1)
            assert (await connect(web3, made)).address_of("jobs") == made.jobs

    run(scenario())


def test_what_is_no_websocket_is_told_without_the_key_in_its_url() -> None:
    async def main() -> None:
        async with serve(chain()) as server:
            node = Transport(f"ws://127.0.0.1:{server.port}/{KEY}")
            with pytest.raises(LedgerUnreachable, match="no WebSocket") as refused:
                await node.request("eth_chainId")
            await node.close()
            assert KEY not in str(refused.value)

    run(main())
