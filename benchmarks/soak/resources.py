"""What this process holds: memory, open files, threads; and how large files have become."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PROC = Path("/proc/self")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Held:
    """After a collection of garbage: resident bytes, open files, threads; and CPU seconds so far."""

    rss_bytes: int
    open_files: int
    threads: int
    cpu_s: float


def held() -> Held:
    """Of this process, now; what was freed is given back to the system first, where its library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    resident = int((PROC / "statm").read_text(encoding="ascii").split()[1])
    return Held(
        rss_bytes=resident * os.sysconf("SC_PAGE_SIZE"),
        open_files=len(os.listdir(PROC / "fd")),
        threads=threading.active_count(),
        cpu_s=sum(os.times()[:4]),
    )


def drift_percent(rss: Sequence[int]) -> float:
    """How much more memory is held after the last tenth of the jobs than after the second tenth, in per cent.

    The medians of both; what is loaded at the start is thus not taken for growth.
    """
    tenth = max(1, len(rss) // 10)
    warm, last = median(rss[tenth : 2 * tenth]), median(rss[-tenth:])
    return 100 * (last - warm) / warm


def bytes_under(folder: Path) -> int:
    """Total size of the files in a folder, and in those in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
