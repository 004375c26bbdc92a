"""A blockchain in one process: the Ethereum execution specifications with blocks and an index in SQLite.

Importing this package does not import web3.py; asking it for ``EmbeddedProvider`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from galaxylearning.chain.embedded import spec_loading as spec_loading  # before anything imports EELS
from galaxylearning.chain.embedded.chain import EmbeddedChain
from galaxylearning.chain.embedded.rpc_error import RpcError
from galaxylearning.chain.embedded.server import Server, serve

if TYPE_CHECKING:
    from galaxylearning.chain.embedded.provider import EmbeddedProvider

__all__ = ["EmbeddedChain", "EmbeddedProvider", "RpcError", "Server", "serve"]


def __getattr__(name: str) -> Any:
    if name == "EmbeddedProvider":
        from galaxylearning.chain.embedded.provider import EmbeddedProvider

        return EmbeddedProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
