"""Coroutines of tests, run to their end in bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """What ``main`` returns, within a minute."""

    async def bounded() -> Result:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(bounded())
