"""Actors that are processes of their own, killed at named steps and made again on their files."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.kills.actors import Actor, Command, Place
from benchmarks.kills.mortal import (
    Reaper,
    Target,
)
from benchmarks.kills.town import Clock, is_direct

from galaxylearning.chain.embedded import EmbeddedChain, RpcError


class _Pipe:
    """The other end's chain, as a web3.py provider."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    async def make_request(self, method: str, params: Any) -> Any:
        """One request."""
        self._line.send(("ask", (method, params)))
        return self._line.recv()


@dataclass
class Victim:
    """An actor in a process of its own, which is killed at its targets one after the other."""

    name: str
    place: Place
    clock: Clock
    chain: EmbeddedChain
    targets: list[Target]
    died: list[Target] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    _line: Connection | None = None
    _pid: int = 0
    _away: int = 0
    _doom: Target | None = None
    _started_s: float | None = None

    async def do(self, command: Command, _node: Any) -> Any:
        """Have the process carry out a command; False where it died of it or is still away.

        Where the others need not wait for what it was doing, it is back before anybody has its turn: were it
        late, the job would rightly be another one.
        """
        if self._away:
            self._away -= 1
            return False
        found = self._carried_out(command)
        while found is None and not self._is_waited_for(self.died[-1]):
            found = self._carried_out(command)
        return False if found is None else found

    def _is_waited_for(self, target: Target) -> bool:
        """Not whoever takes a seat, beyond a quorum; nor for what is said on chain and on the board."""
        return target.step != "send takeSeat" and not is_direct(self.name, self.place.town)

    def _carried_out(self, command: Command) -> Any:
        """What the process answers; None where it died."""
        line = self._line or self._spawned()
        line.send((command, self.clock.time_s))
        while True:
            try:
                kind, what = line.recv()
            except (EOFError, ConnectionResetError):
                self._bury(line, command)
                return None
            if kind == "ask":
                line.send(self._answer(*what))
            elif kind in ("dying", "armed"):
                self._doom = what
            elif kind == "error":
                raise RuntimeError(f"{self.name}: {what}")
            else:
                if self._started_s is not None:
                    self.recoveries_s.append(time.perf_counter() - self._started_s)
                    self._started_s = None
                return what

    def _answer(self, method: str, params: Any) -> Any:
        try:
            return {"jsonrpc": "2.0", "id": 1, "result": self.chain.request(method, params)}
        except RpcError as error:
            return {"jsonrpc": "2.0", "id": 1, "error": error.as_json()}

    def _spawned(self) -> Connection:
        self._started_s = time.perf_counter() if self.died else None
        here, there = Pipe()
        pid = os.fork()
        if pid == 0:
            here.close()
            self._live(there)
        there.close()
        self._line, self._pid = here, pid
        return here

    def _live(self, line: Connection) -> None:
        """The life of the process; never returns."""
        status = 1
        try:
            asyncio.events._set_running_loop(None)
            reaper = Reaper(
                {(target.step, target.moment): target for target in self.targets},
                lambda word, target: line.send((word, target)),
            )
            actor = Actor(self.name, self.place, self.clock, reaper, is_mortal=True)
            loop = asyncio.new_event_loop()
            while True:
                command, self.clock.time_s = line.recv()
                if command == "quit":
                    break
                line.send(("done", loop.run_until_complete(actor.do(command, _Pipe(line)))))
            status = 0
        except EOFError:
            status = 0
        except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
            import traceback

            line.send(("error", f"{error!r}\n{''.join(traceback.format_exception(error))}"))
        finally:
            os._exit(status)

    def _bury(self, line: Connection, command: Command) -> None:
        os.waitpid(self._pid, 0)
        line.close()
        self._line = None
        target, self._doom = self._doom, None
        if target is None:
            raise RuntimeError(f"{self.name} died of something else")
        self.died.append(target)
        self.targets.remove(target)
        is_late = command == "turn" and self._is_waited_for(target)
        self._away = target.variant % 3 if is_late else 0

    def end(self) -> None:
        """Let the process end, and its files be read."""
        if self._line is not None:
            self._line.send(("quit", 0))
            os.waitpid(self._pid, 0)
            self._line.close()
            self._line = None
