"""Errors as JSON-RPC tells them.

Source: JSON-RPC 2.0 section 5.1; EIP-1474 error codes; code 3 with ``data`` for reverts as geth does.
"""

from __future__ import annotations

from typing import Any

from galaxylearning.errors import LedgerError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005
EXECUTION_REVERTED = 3


class RpcError(LedgerError):
    """A JSON-RPC error object: ``code``, message, and ``data``, the ``0x``-hex revert data, if any."""

    def __init__(self, code: int, message: str, *, data: str | None = None, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.code = code
        self.data = data

    def as_json(self) -> dict[str, Any]:
        """The error object of a JSON-RPC response."""
        body: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.data is not None:
            body["data"] = self.data
        return body


def invalid_params(field: str, allowed: str) -> RpcError:
    """A refusal that names the parameter and what it may be."""
    return RpcError(INVALID_PARAMS, f"must be {allowed}", where=field)
