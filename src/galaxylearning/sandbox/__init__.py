"""Where a stranger's model is trained on a data owner's rows: a locked worker process, or a thread."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galaxylearning.sandbox.caps import Caps
    from galaxylearning.sandbox.locked import LockedTrainer
    from galaxylearning.sandbox.thread import ThreadTrainer

# Imported when they are used: the process that locks itself must begin with little.
_HOMES = {"Caps": "caps", "LockedTrainer": "locked", "ThreadTrainer": "thread"}

__all__ = ["Caps", "LockedTrainer", "ThreadTrainer"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
