"""A drand network over HTTP: ``GET {url}/public/{round}``, as drand's relays answer it.

Source: drand, "HTTP API reference".
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from galaxylearning.chain import bounded_json
from galaxylearning.crypto.drand import SIGNATURE_BYTES
from galaxylearning.errors import AnswerRefused, LedgerUnreachable
from galaxylearning.reaching import os_reason

MAX_ANSWER_BYTES: Final = 4_096


class HttpDrand:
    """Implements ``ports.DrandNetwork``; ``url`` may end with a network's chain hash."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._timeout = ClientTimeout(total=timeout_s)

    async def signature(self, number: int) -> bytes:
        """The 48-byte signature of a round, unchecked.

        Raises:
            LedgerUnreachable: no answer in time, another status than 200 (as before a round comes), or an
                answer to another question.
        """
        where = f"{self._url}/public/{number}"
        try:
            async with (
                ClientSession(timeout=self._timeout) as session,
                session.get(where, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise LedgerUnreachable(f"HTTP {answer.status}", where=where)
                data = await answer.content.read(MAX_ANSWER_BYTES + 1)
                while len(data) <= MAX_ANSWER_BYTES and (more := await answer.content.read(MAX_ANSWER_BYTES)):
                    data += more
        except TimeoutError as error:
            raise LedgerUnreachable("no answer in time", where=where) from error
        except (ClientError, OSError) as error:
            raise LedgerUnreachable(f"no answer: {os_reason(error)}", where=where) from error
        return _signature(data, number, where)


def _signature(data: bytes, number: int, where: str) -> bytes:
    if len(data) > MAX_ANSWER_BYTES:
        raise AnswerRefused(f"over {MAX_ANSWER_BYTES} bytes", where=where)
    try:
        found: Any = bounded_json.loads(data)
        signature = bytes.fromhex(found["signature"])
        is_asked = found["round"] == number and type(found["round"]) is int
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise AnswerRefused("not a round of drand", where=where) from error
    if not is_asked or len(signature) != SIGNATURE_BYTES:
        raise AnswerRefused("another round, or another scheme", where=where)
    return signature
