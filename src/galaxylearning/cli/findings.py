"""What ``galaxy doctor`` finds: one line a check, and what to do where something is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: ``note`` stops nothing, ``problem`` will stop a job. Both say what to do."""

    check: str
    status: Status
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return asdict(self)


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", found)


def note(check: str, found: str, remedy: str = "") -> Finding:
    """Good to know."""
    return Finding(check, "note", found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    """Something that will stop a job, and what to do about it."""
    return Finding(check, "problem", found, remedy)


def gib(n_bytes: int) -> str:
    """An amount of memory or disk for people."""
    return f"{n_bytes / (1 << 30):,.1f} GiB"
