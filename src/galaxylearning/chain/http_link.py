"""JSON-RPC over HTTP: one bounded answer to one request; a node that asks for patience is told apart."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from itertools import count
from time import time
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout

from galaxylearning.chain import bounded_json
from galaxylearning.chain.transport import RateLimited
from galaxylearning.errors import AnswerRefused, LedgerUnreachable
from galaxylearning.reaching import shown_url

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_CHUNK_BYTES: Final = 1 << 16
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503


class HttpLink:
    """Answers like a web3.py provider.

    Args:
        url: http(s)://; a user and password in it are sent as basic authentication.
        timeout_s: for a whole request.
        max_answer_bytes: a longer answer is not read to its end.
    """

    def __init__(self, url: str, timeout_s: float, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._url, self._max_bytes, self._name = url, max_answer_bytes, shown_url(url)
        self._timeout = ClientTimeout(total=timeout_s)
        self._ids = count(1)
        self._session: ClientSession | None = None

    async def make_request(self, method: str, params: Sequence[Any]) -> Any:
        """Send one request; its response object.

        Raises:
            RateLimited: the node asks for patience.
            AnswerRefused: the answer is too long, cut off, no JSON, or to another request.
            LedgerUnreachable: another HTTP status than 200.
            OSError, aiohttp.ClientError: no connection, or it broke.
        """
        if self._session is None:
            self._session = ClientSession(timeout=self._timeout)
        number, where = next(self._ids), f"{method} at {self._name}"
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
        async with self._session.post(self._url, json=body, allow_redirects=False) as response:
            if response.status in (_TOO_MANY, _UNAVAILABLE):
                raise RateLimited(
                    f"HTTP {response.status}: the node asks for patience",
                    wait_s=_seconds(response.headers.get("Retry-After")),
                    where=where,
                )
            data = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                if len(data) > self._max_bytes:
                    raise AnswerRefused(f"the answer is over {self._max_bytes} bytes", where=where)
        try:
            answer = bounded_json.loads(bytes(data))
        except ValueError as error:
            if response.status != 200:
                raise LedgerUnreachable(f"HTTP {response.status}", where=where) from error
            raise AnswerRefused("the answer is cut off or no JSON", where=where) from error
        if isinstance(answer, dict) and answer.get("id") not in (number, None):
            raise AnswerRefused("the answer is to another request", where=where)
        return answer

    async def disconnect(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
        self._session = None


def _seconds(retry_after: str | None) -> float | None:
    """What ``Retry-After`` says, in seconds from now; None where it says nothing that can be read.

    Source: RFC 9110, section 10.2.3.
    """
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10:
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None
