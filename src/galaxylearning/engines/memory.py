"""How much memory this process uses, and what a budget still leaves of it. Knows no tensor library."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from galaxylearning.errors import ConfigRefused

MIB = 1 << 20
_STATUS = Path("/proc/self/status")


def process_rss_mib() -> float:
    """Memory this process holds now, in MiB; where the system does not say, the most it ever held."""
    return _status("VmRSS") or process_peak_mib()


def process_peak_mib() -> float:
    """The most memory this process has held so far, in MiB."""
    return _status("VmHWM") or _from_usage()


def available_mib(budget_total_mib: float) -> float:
    """What a budget for the whole process leaves after what it uses already, in MiB; 0 if nothing is left.

    Raises:
        ConfigRefused: the budget is not above 0.
    """
    if not budget_total_mib > 0:
        raise ConfigRefused(f"must be above 0 MiB, not {budget_total_mib}", where="budget_mib")
    return max(0.0, budget_total_mib - process_rss_mib())


def require_budget(needed_mib: float, budget_mib: float, what: str) -> None:
    """Refuse, before anything is allocated, what a budget does not hold.

    Raises:
        ConfigRefused: more is needed than there is; both figures are named.
    """
    if not needed_mib <= budget_mib:
        raise ConfigRefused(
            f"{what} needs {needed_mib:.1f} MiB, the budget leaves {budget_mib:.1f} MiB", where="budget_mib"
        )


def _status(field: str) -> float:
    """A field of the kernel's account of this process, in MiB; 0 where there is no such account."""
    if not _STATUS.exists():
        return 0.0
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    return 0.0


def _from_usage() -> float:
    """``getrusage`` counts KiB, but bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
