"""What locks a worker on this machine, tried without loading any library: takes a fifth of a second."""

from __future__ import annotations

import sys

from galaxylearning.sandbox.frames import Status, Work
from galaxylearning.sandbox.host import WorkerHost, find_bubblewrap
from galaxylearning.sandbox.locks import Locks
from galaxylearning.sandbox.server import Loaded, run

_PROGRAM = ("-s", "-P", "-m", "galaxylearning.sandbox.probe")


def probe() -> Locks:
    """Start a server that loads nothing, lock it, and let a locked process try what it must not be able to.

    Raises:
        ConfigRefused: no process can be started.
    """
    host = WorkerHost(_PROGRAM, bubblewrap=find_bubblewrap())
    try:
        return host.ready.locks
    finally:
        host.close()


def _load_nothing() -> Loaded:
    return _do_nothing, {}


def _do_nothing(work: Work) -> tuple[Status, bytes]:
    del work
    return Status.DONE, b""


if __name__ == "__main__":
    run(int(sys.argv[1]), _load_nothing)
