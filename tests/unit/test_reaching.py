"""URLs are shown without their secrets, and failures in the operating system's words."""

from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace

import aiohttp
import pytest

from galaxylearning.reaching import os_reason, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:word@node.example:8545/v3/KEY?token=KEY#KEY", "https://node.example:8545"),
        ("wss://node.example/KEY", "wss://node.example"),
        ("http://[::1]:8545/KEY", "http://[::1]:8545"),
        ("http://node.example:port/KEY", "a malformed URL"),
        ("http:///KEY", "a malformed URL"),
        ("embedded:", "embedded:"),
    ],
)
def test_a_url_is_shown_by_its_host(url: str, shown: str) -> None:
    assert shown_url(url) == shown


ADDRESS = SimpleNamespace(host="127.0.0.1", port=1, ssl=True)
REFUSED = "Connect call failed ('127.0.0.1', 1)"


def connector(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(ADDRESS, error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(111, REFUSED), "Connection refused"),
        (connector(OSError(111, REFUSED)), "Connection refused"),
        (OSError(f"Multiple exceptions: [Errno 111] {REFUSED}, [Errno 101] x"), "Connection refused"),
        (connector(socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
        (connector(ssl.SSLError(1, "[SSL] _ssl.c:1010")), "no TLS with it"),
        (ConnectionError("the WebSocket was closed"), "the WebSocket was closed"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (OSError(), "OSError"),
    ],
)
def test_why_a_connection_failed_is_in_the_systems_words(error: Exception, reason: str) -> None:
    assert os_reason(error) == reason
