"""The parsers by group: each group is tried in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from benchmarks.fuzz.target import Target

GROUPS: Final = {
    "messages": 0.22,
    "models": 0.17,
    "sealed": 0.13,
    "tables": 0.21,
    "home": 0.09,
    "chain": 0.12,
    "web": 0.06,
}
"""Each group's part of the processor time."""

RECURSION_LIMIT: Final = 100_000
"""What libraries of the Ethereum world set on import: a parser must stand deep nesting under it, too."""


def load(group: str) -> Sequence[Target]:
    """The parsers of a group; seeds are made here. Afterwards the recursion limit is what a node's can be."""
    targets: Sequence[Target] = import_module(f"benchmarks.fuzz.{group}").targets()
    sys.setrecursionlimit(RECURSION_LIMIT)
    return targets
