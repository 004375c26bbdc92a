"""A crew of Ray actors that works off items in order, whoever of them dies. Knows nothing of training.

Ray is optional and imported when a crew is made. Its tracking, dashboard and log forwarding stay off. Its
processes listen on every address of the machine, so a local cluster gets a token that nobody else knows.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import require_integer, require_number

MAX_WORKERS = 4096
MAX_DEATHS = 3
"""An item that ended so many workers is given up."""
MIN_STORE_BYTES = 80 << 20
_POLL_S = 1.0
_START_S = 120.0
_ALIVE_S = 10.0
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True, slots=True)
class Lost:
    """Stands for the result of an item that ended its worker every time."""

    reason: str


def resolve(target: str) -> Any:
    """The function or class at ``package.module:name``.

    Raises:
        ConfigRefused: there is none.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigRefused(f"{target!r} must be package.module:name ({error})", where="function") from None


class _Actor:
    """What runs in a worker: makes something callable once, then calls it with (shared, item)."""

    def __init__(self, target: str, arguments: tuple[Any, ...]) -> None:
        self._target, self._arguments = target, arguments
        self._call: Any = None

    def ready(self, *values: Any) -> None:
        """Build the callable from the arguments and ``values``."""
        self._call = resolve(self._target)(*self._arguments, *values)

    def process(self) -> int:
        """The number of the process this runs in."""
        return os.getpid()

    def do(self, shared: Any, item: Any) -> Any:
        """One item's result."""
        return self._call(shared, item)


class RayCrew:
    """``workers`` actors that each make ``target(*arguments, *values)`` and call it for items.

    ``values`` lie once in shared memory on every machine. ``address`` names a running cluster; without one,
    a local cluster is started, unless this process is connected already. A worker whose item takes longer
    than ``stall_s`` seconds is ended and counts as dead.

    Raises:
        ConfigRefused: Ray is not installed, there is no cluster at ``address``, ``workers`` is below 1.
    """

    def __init__(
        self,
        target: str,
        arguments: tuple[Any, ...],
        values: tuple[Any, ...] = (),
        *,
        workers: int,
        address: str | None = None,
        store_bytes: int = 0,
        ahead: int | None = None,
        stall_s: float = 600.0,
    ) -> None:
        require_integer(workers, "workers", low=1, high=MAX_WORKERS)
        require_number(stall_s, "stall_s", low=0, high=1e6, low_open=True)
        self._ray = _connect(address, workers, max(MIN_STORE_BYTES, store_bytes))
        self._target, self._arguments, self._stall_s = target, arguments, stall_s
        self._values = [self._ray.put(value) for value in values]
        self._ahead = 2 * workers + 2 if ahead is None else max(1, ahead)
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None, float]] = {}
        self._failed_starts = 0
        self._is_closed = False
        for _ in range(workers):
            self._hire()

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers, once each has done what it is at."""
        actors = [*self._idle, *self._starting.values(), *(actor for actor, _, _ in self._busy.values())]
        numbers: list[int] = self._ray.get([actor.process.remote() for actor in actors], timeout=_START_S)
        return numbers

    def run(self, shared: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Every item's result in order: what the callable gave for (shared, item), or :class:`Lost`.

        Which worker does what follows from who is free; results do not, as long as the callable's depend on
        its arguments only. At most ``ahead`` items are begun or wait for their turn.

        Raises:
            ConfigRefused: no worker could be started.
            Exception: what the callable raised.
        """
        held = self._ray.put(shared)
        ahead = self._ahead
        waiting = deque(range(len(items)))
        results: dict[int, Any] = {}
        deaths = [0] * len(items)
        turn = 0
        try:
            while turn < len(items):
                if turn in results:
                    yield results.pop(turn)
                    turn += 1
                    continue
                while self._idle and waiting and waiting[0] < turn + ahead:
                    actor = self._idle.pop()
                    # A worker that died while it had nothing to do must not count against an item again.
                    if deaths[waiting[0]] and not self._lives(actor):
                        self._hire()
                        continue
                    index = waiting.popleft()
                    self._busy[actor.do.remote(held, items[index])] = (actor, index, time.monotonic())
                for index, answer in self._finished():
                    deaths[index] += isinstance(answer, Lost)
                    if isinstance(answer, Lost) and deaths[index] < MAX_DEATHS:
                        waiting.appendleft(index)
                    else:
                        results[index] = answer
        finally:
            # Whoever still works for a caller that left is free again when it is done.
            self._busy = {ref: (actor, None, since) for ref, (actor, _, since) in self._busy.items()}

    def close(self) -> None:
        """End the workers, and the cluster if it was started here and nobody else uses it."""
        if self._is_closed:
            return
        self._is_closed = True
        for actor in (*self._idle, *self._starting.values(), *(entry[0] for entry in self._busy.values())):
            self._ray.kill(actor, no_restart=True)
        self._idle, self._starting, self._busy, self._values = [], {}, {}, []
        _disconnect(self._ray)

    # ---- inside

    def _hire(self) -> None:
        # Left to its default, an actor asks for a core when it is placed but does not hold it: so two crews,
        # one that trains and one that values, can be on the same cluster without waiting for each other.
        kind = self._ray.remote(max_restarts=0, scheduling_strategy="SPREAD")(_Actor)
        actor = kind.remote(self._target, self._arguments)
        self._starting[actor.ready.remote(*self._values)] = actor

    def _finished(self) -> list[tuple[int, Any]]:
        """Wait a little; the answers of items that ended meanwhile, as (index, result or Lost)."""
        self._end_stalled()
        refs = [*self._busy, *self._starting]
        limit = _START_S if not self._busy and not self._idle else _POLL_S
        ended, _ = self._ray.wait(refs, num_returns=1, timeout=limit)
        if not ended and not self._busy and not self._idle:
            raise ConfigRefused(f"no Ray worker started within {_START_S:.0f} s", where="workers")
        answers: list[tuple[int, Any]] = []
        for ref in ended:
            is_start = ref in self._starting
            actor, index, _ = (self._starting.pop(ref), None, 0.0) if is_start else self._busy.pop(ref)
            answer = self._answer(ref)
            if not isinstance(answer, Lost):
                self._idle.append(actor)
                self._failed_starts = 0
            else:
                self._failed_starts += is_start
                if self._failed_starts >= MAX_DEATHS:
                    raise ConfigRefused(f"Ray workers die while starting: {answer.reason}", where="workers")
                self._hire()
            if index is not None:
                answers.append((index, answer))
        return answers

    def _answer(self, ref: Any) -> Any:
        known = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except known.RayTaskError as error:
            raise error.cause from None
        except (known.RayActorError, known.ObjectLostError, known.OutOfMemoryError) as error:
            return Lost(" ".join(str(error).split())[:200])

    def _lives(self, actor: Any) -> bool:
        known = self._ray.exceptions
        try:
            self._ray.get(actor.process.remote(), timeout=_ALIVE_S)
        except (known.RayActorError, known.GetTimeoutError):
            self._ray.kill(actor, no_restart=True)
            return False
        return True

    def _end_stalled(self) -> None:
        now = time.monotonic()
        for actor, _, since in self._busy.values():
            if now - since > self._stall_s:
                self._ray.kill(actor, no_restart=True)


class _Sessions:
    """How many crews of this process use a cluster that was started here."""

    count = 0
    is_ours = False


def _connect(address: str | None, workers: int, store_bytes: int) -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Once imported, Ray has read its settings; its own default is a token too, but one kept in a file.
    if address is None and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        ray = import_module("ray")
    except ImportError:
        raise ConfigRefused(
            "Ray is missing; from a checkout: pip install -e '.[ray]'", where="engine ray"
        ) from None
    if not ray.is_initialized():
        _keep_quiet()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if address is None:
            # "local", because without an address Ray joins whatever cluster it finds on the machine.
            options.update(address="local", num_cpus=workers, include_dashboard=False)
            options["object_store_memory"] = store_bytes
        else:
            _require_listener(address)
            options["address"] = address
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n", 1)[0][:200]
            place = address or "this machine"
            raise ConfigRefused(f"no Ray cluster at {place} ({reason})", where="address") from None
        _Sessions.is_ours, _Sessions.count = True, 0
    _Sessions.count += 1
    return ray


def _require_listener(address: str) -> None:
    """Ray asks an address where nobody is for minutes; asking it ourselves takes seconds.

    Raises:
        ConfigRefused: nobody listens at host:port. What is not host:port is left to Ray.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ALIVE_S).close()
    except OSError as error:
        raise ConfigRefused(f"no Ray cluster at {address} ({error})", where="address") from None


def _keep_quiet() -> None:
    """Log what Ray prints to standard output about dead workers, where a program's results belong."""
    private = import_module("ray._private.worker")
    log = logging.getLogger(__name__)

    def note(data: dict[str, Any], **_: Any) -> None:
        log.info("%s", " ".join(data.get("lines", ())))

    if hasattr(private, "print_to_stdstream"):
        private.print_to_stdstream = note  # type: ignore[attr-defined]


def _disconnect(ray: Any) -> None:
    _Sessions.count -= 1
    if _Sessions.count == 0 and _Sessions.is_ours:
        _Sessions.is_ours = False
        ray.shutdown()
