"""What ``galaxy doctor`` looks at on any machine, with or without a home."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from galaxylearning.cli.findings import Finding, gib, note, ok, problem
from galaxylearning.config import Home
from galaxylearning.engines.cores import usable_cores
from galaxylearning.errors import ConfigRefused, GalaxyError
from galaxylearning.sandbox.locks import STOPS, Locks
from galaxylearning.units import how_many

PACKAGE: Final = "galaxy-learning"
LEAST_PYTHON: Final = (3, 11)
LEAST_MEMORY_BYTES: Final = 1 << 30
LEAST_DISK_BYTES: Final = 1 << 30
PORTS: Final = {8545: "galaxy chain", 8787: "galaxy store serve"}
UNSTOPPED: Final = (
    "what a locked worker can still do: use the time, memory and one core that the policy gives it; send "
    "integers of the expected number; be timed; use a bug in the kernel"
)
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+==[^\s;\\]+(?:\s*;[^\\]*)?)")
_CHECKOUT: Final = Path(__file__).resolve().parents[3]


def machine_findings(home: Home) -> Iterator[Finding]:
    """Everything that needs no home; the home's policy says how much a worker may take."""
    yield _python()
    yield from _libraries()
    yield from _memory(home)
    yield _disk("disk of the home", _first_existing(home.root))
    yield _temporary_folder()
    yield from _sandbox(home)
    yield _groups()
    yield from _ports()
    yield _developer_tools()


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        return problem("python", found, "install Python 3.11 or later")
    return ok("python", found)


def _libraries() -> Iterator[Finding]:
    """What is installed against what the package asks for, and against the lock of a checkout."""
    try:
        wanted = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        yield note("libraries", "the package is not installed, it runs from its source", "pip install -e .")
        wanted = []
    wrong = list(_unmet(wanted))
    if wrong:
        remedy = "install what is asked for: pip install " + " ".join(f"'{line}'" for line, _ in wrong)
        yield problem("libraries", "; ".join(f"{line}: {have}" for line, have in wrong), remedy)
    elif wanted:
        yield ok("libraries", f"{sum(1 for _ in _applying(wanted))} as required")
    lock = _CHECKOUT / "requirements" / "runtime.lock"
    if lock.is_file():
        pinned = [match[1] for line in lock.read_text().splitlines() if (match := _PINNED.match(line))]
        other = list(_unmet(pinned))
        if other:
            told = ", ".join(f"{line.partition(';')[0].strip()} (here {have})" for line, have in other[:8])
            yield note(
                "lock", f"{len(other)} of {len(pinned)} differ: {told}", "make setup installs the lock"
            )
        else:
            yield ok("lock", f"{len(pinned)} versions as in {lock.name}")


def _applying(lines: list[str]) -> Iterator[tuple[str, Requirement]]:
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield line, requirement


def _unmet(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Requirements that do not hold here, each with the version that is installed."""
    for line, requirement in _applying(lines):
        try:
            have = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield line, "not installed"
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            yield line, have


def _memory(home: Home) -> Iterator[Finding]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _available_bytes(total)
    found = f"{how_many(usable_cores(), 'core')}; {gib(total)} of memory, {gib(free)} available"
    if free < LEAST_MEMORY_BYTES:
        yield problem("cpu and memory", found, f"have {gib(LEAST_MEMORY_BYTES)} free, or train elsewhere")
    else:
        yield ok("cpu and memory", found)
    cap = _policy_cap(home)
    if cap is not None and cap > total:
        yield note(
            "memory cap",
            f"the policy lets a training have {gib(cap)}, more than this machine has",
            "set maximum_memory_bytes in policy.json to what a training may have",
        )


def _available_bytes(total: int) -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return total
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * found[0] if found else total


def _policy_cap(home: Home) -> int | None:
    from galaxylearning import bootstrap

    try:
        return bootstrap.read_policy(home).maximum_memory_bytes
    except ConfigRefused:
        return None


def _first_existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _disk(check: str, folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return problem(check, f"{folder}: {error.strerror}", "choose another --home")
    found = f"{gib(free)} free at {folder}"
    if free < LEAST_DISK_BYTES:
        return problem(check, found, f"make room: journals and blobs want {gib(LEAST_DISK_BYTES)} at least")
    return ok(check, found)


def _temporary_folder() -> Finding:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return problem("temporary files", f"cannot be written: {error}", "set TMPDIR to a folder of your own")
    return ok("temporary files", f"{tempfile.gettempdir()} is writable")


def _sandbox(home: Home) -> Iterator[Finding]:
    """What locks a worker here, tried; and one real start of it, which loads the libraries."""
    from galaxylearning.sandbox.host import WorkerHost, find_bubblewrap

    started = time.monotonic()
    try:
        host = WorkerHost(bubblewrap=find_bubblewrap())
    except GalaxyError as error:
        yield problem("worker", str(error), "the libraries cannot be loaded: install them again")
        yield from _layers(home, _without_libraries())
        return
    try:
        took = time.monotonic() - started
        loaded = host.ready.loaded
        found = (
            f"PyTorch {loaded['torch']}, {loaded['torch_threads']} thread, started and tried in {took:.1f} s"
        )
        if loaded["torch_threads"] != "1" or host.ready.threads != 1:
            yield problem(
                "worker", f"{found}; {how_many(host.ready.threads, 'thread')}", "unset OMP_NUM_THREADS"
            )
        else:
            yield ok("worker", found)
        yield from _layers(home, host.ready.locks)
    finally:
        host.close()


def _without_libraries() -> Locks:
    from galaxylearning.sandbox.probe import probe

    try:
        return probe()
    except GalaxyError as error:
        return Locks({}, {"process": str(error)})


def _layers(home: Home, locks: Locks) -> Iterator[Finding]:
    from galaxylearning import bootstrap

    try:
        is_required = bootstrap.read_policy(home).sandbox == "required"
    except ConfigRefused:
        is_required = True
    for name, means in STOPS.items():
        check = f"sandbox stops {name}"
        if name in locks.stopped:
            yield ok(check, f"tried: a worker {means}")
        elif is_required:
            yield problem(
                check,
                f"nothing here makes sure that a worker {means}",
                "use Linux 5.13 or later on x86_64 or aarch64 with seccomp; or, if you trust every "
                "requester, set sandbox to 'best-effort' in policy.json",
            )
        else:
            yield note(check, f"nothing here makes sure that a worker {means}", "the policy allows it")
    for name, holds in locks.layers.items():
        yield ok(f"sandbox can: {name}", holds)
    for name, why in locks.missing.items():
        remedy = "apt install bubblewrap gives one wall more" if name == "bubblewrap" else ""
        yield note(f"sandbox cannot: {name}", why, remedy)
    yield note("sandbox cannot stop", UNSTOPPED)


def _groups() -> Finding:
    """Control groups are the administrator's: a service manager can bound the whole node by them."""
    is_second = Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    is_first = Path("/sys/fs/cgroup/memory").is_dir()
    if is_second or is_first:
        version = "2" if is_second else "1"
        return ok(
            "control groups", f"version {version}; not used by the worker, MemoryMax of a unit bounds a node"
        )
    return note("control groups", "none", "limits of the worker hold without them")


def _ports() -> Iterator[Finding]:
    for port, program in PORTS.items():
        with socket.socket() as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                end.bind(("127.0.0.1", port))
            except OSError as error:
                reason = error.strerror or str(error)
                yield note(f"port {port}", reason, f"if it is not '{program}', give that another --port")
            else:
                yield ok(f"port {port}", f"free for '{program}'")


def _developer_tools() -> Finding:
    tools = ("anvil", "forge")
    beside = _CHECKOUT / "contracts" / "node_modules" / ".bin"
    found = [name for name in tools if shutil.which(name) or (beside / name).exists()]
    if len(found) == len(tools):
        return ok("anvil and forge", "installed (only development needs them)")
    missing = ", ".join(name for name in tools if name not in found)
    return note("anvil and forge", f"no {missing}; only development needs them", "make setup-dev")
