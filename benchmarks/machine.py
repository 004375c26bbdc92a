"""What the figures were measured on, in words for a table and a results file."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, usable cores, memory in GiB, system, interpreter, and the day (UTC)."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    date: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, today."""
        return cls(
            cpu=_cpu_name(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(memory_bytes() / 2**30, 1),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            date=time.strftime("%Y-%m-%d", time.gmtime()),
        )

    def fields(self) -> dict[str, object]:
        """The same as a JSON object."""
        return asdict(self)


def memory_bytes() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Memory in bytes that programs can have now without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return memory_bytes()


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
