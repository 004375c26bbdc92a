"""JSON from strangers, however deeply nested, without risk to the process.

Libraries of the Ethereum world raise Python's recursion limit far beyond what the stack holds when they are
imported (``py_ecc``, and with it eth-account and web3.py, to 100,000). From then on a document of 100,000
brackets no longer ends in a RecursionError but in a segmentation fault, wherever it is parsed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SAFE_RECURSION_LIMIT = 1_000


@contextmanager
def recursion_limit_kept() -> Iterator[None]:
    """Undo what the block, or an import in it, does to the recursion limit."""
    before = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@contextmanager
def usual_recursion_limit() -> Iterator[None]:
    """Python's own limit while the block runs, and afterwards the limit there was before."""
    with recursion_limit_kept():
        sys.setrecursionlimit(min(sys.getrecursionlimit(), _SAFE_RECURSION_LIMIT))
        yield


def loads(document: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    with usual_recursion_limit():
        try:
            return json.loads(document)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
