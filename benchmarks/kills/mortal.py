"""Ports whose holder can be killed: wrapped around the real ones, never inside them.

A *step* is one named effect of one actor: a record in its journal, a blob put, a transaction, a line in the
privacy book, a training. Each step has five *moments* at which the process may be sent SIGKILL; what they
mean depends on the kind of step:

========  ==================  ==========================  =======================  =====================
moment    record in SQLite    blob                        transaction              training
========  ==================  ==========================  =======================  =====================
before    before the call     before the call             before its intent        before it
intent    committed           whole, under no name yet    signed and on disk       soon after it began
middle    answered            named, not listed           accepted, not answered   in the middle of it
after     at the next step    listed                      answered                 after it
write     in the transaction  half of its bytes written   in an outbox write       before its end
========  ==================  ==========================  =======================  =====================
"""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from galaxylearning.crypto.digest import blake3_digest, keccak
from galaxylearning.crypto.seal import seal
from galaxylearning.nodes import data_owner, evaluator, member, requester
from galaxylearning.ports import Call, Journal, Ledger, Outbox, OutboxEntry, Receipt, Signer
from galaxylearning.storage import files
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.checkpoints import CheckpointFolder, FileCheckpoint
from galaxylearning.storage.database import Database
from galaxylearning.units import Address, Digest

Moment = Literal["before", "intent", "middle", "after", "write"]
MOMENTS: Final[tuple[Moment, ...]] = get_args(Moment)
_WRITES: Final = ("INSERT", "REPLACE", "UPDATE")


@dataclass(frozen=True, slots=True)
class Target:
    """Kill this actor at this moment of this step; ``variant`` chooses between ways to be in the middle."""

    actor: str
    step: str
    moment: Moment
    variant: int = 0


@dataclass(slots=True)
class Reaper:
    """Kills its process at the moments it is told, and remembers every step it saw."""

    targets: Mapping[tuple[str, Moment], Target] = field(default_factory=dict)
    say: Callable[[str, Target], None] = lambda _word, _target: None
    steps: list[str] = field(default_factory=list)
    _next: Target | None = None

    def begin(self, step: str) -> None:
        """A step begins: its first moment."""
        if self._next is not None:
            self.kill(self._next)
        if step not in self.steps:
            self.steps.append(step)
        self.at(step, "before")

    def at(self, step: str, moment: Moment) -> None:
        """Die if this is a moment to die at."""
        if (target := self.armed(step, moment)) is not None:
            self.kill(target)

    def armed(self, step: str, moment: Moment) -> Target | None:
        """The target at this moment, if any."""
        return self.targets.get((step, moment))

    def at_next(self, step: str) -> None:
        """Die when the next step begins, if this step's moment after it is one to die at."""
        self._next = self.armed(step, "after") or self._next

    def kill(self, target: Target) -> None:
        """SIGKILL: no handler, no clean-up, nothing flushed."""
        self.say("dying", target)
        os.kill(os.getpid(), signal.SIGKILL)


class MortalConnection:
    """A SQLite connection in the middle of whose next write its process is killed, once it is armed."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self.die: Callable[[], None] | None = None
        self.die_committed: Callable[[], None] | None = None
        self.variant = 0

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        is_write = statement.startswith(_WRITES)
        if self.die is not None and is_write:
            self._torn(statement, values, self.die)
        found = self._connection.execute(statement, values)
        if self.die_committed is not None and is_write:
            found.fetchall()
            self.die_committed()
        return found

    def _torn(self, statement: str, values: Sequence[Any], die: Callable[[], None]) -> None:
        """Inside the transaction; with pages spilled into the log; or with half a frame at the log's end."""
        if self.variant % 3 == 1:
            self._connection.execute("PRAGMA cache_size=1")
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(statement, values)
        if self.variant % 3 == 2:
            with self._path.with_name(self._path.name + "-wal").open("ab") as log:
                log.write(keccak(statement.encode()) * 9)
        die()

    def close(self) -> None:
        self._connection.close()


class Written:
    """What is done to a database around one named step."""

    def __init__(self, database: Database, path: Path, reaper: Reaper) -> None:
        self.connection = MortalConnection(database._connection, path)
        database._connection = self.connection  # type: ignore[assignment]
        self._reaper = reaper

    def step(self, name: str, write: Callable[[], Any]) -> Any:
        """One record, with its five moments."""
        reaper, connection = self._reaper, self.connection
        reaper.begin(name)
        self.arm(name)
        if (target := reaper.armed(name, "intent")) is not None:
            connection.die_committed = lambda: reaper.kill(target)
        found = write()
        connection.die = connection.die_committed = None
        reaper.at(name, "middle")
        reaper.at_next(name)
        return found

    def arm(self, name: str) -> None:
        """Die in the middle of the next write, if that is a moment to die at."""
        if (target := self._reaper.armed(name, "write")) is not None:
            self.connection.variant = target.variant
            self.connection.die = lambda: self._reaper.kill(target)


class Chance:
    """Secrets that follow from a seed and from what they are for, so that a restart draws the same.

    What they are for is the last step that was looked up in the journal: a node looks whether it has done
    something before it draws for it. Without a seed they are the operating system's.
    """

    def __init__(self, seed: int | None, actor: str) -> None:
        self._base = None if seed is None else f"{seed} {actor}"
        self._about = ""
        self._drawn = 0

    def __call__(self, n_bytes: int) -> bytes:
        """``n_bytes`` bytes."""
        if self._base is None:
            return os.urandom(n_bytes)
        self._drawn += 1
        name = f"{self._base} {self._about} {self._drawn} "
        blocks = (keccak(f"{name}{number}".encode()) for number in range(-(-n_bytes // 32)))
        return b"".join(blocks)[:n_bytes]

    def turn_to(self, step: str) -> None:
        """From now on it is about this step."""
        self._about, self._drawn = step, 0


def remember_sealing(folder: Path) -> None:
    """Have the nodes of this process seal the same to the same recipients in the same way, over all runs.

    The library that seals draws from the operating system, so without this no two runs have the same roots.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def remembered(plaintext: bytes, recipients: Sequence[bytes], context: Any, *, entropy: Any) -> bytes:
        name = blake3_digest(b"".join((repr(context).encode(), *recipients, plaintext))).hex()
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            sealed = seal(plaintext, recipients, context, entropy=entropy)
            files.write_once(folder / name, sealed, folder=folder)
            return sealed

    for module in (data_owner, evaluator, member, requester):
        module.seal = remembered  # type: ignore[attr-defined]


class MortalJournal:
    """A journal whose holder may die around and inside a record."""

    def __init__(self, journal: Journal, reaper: Reaper, chance: Chance, written: Written | None) -> None:
        self._journal, self._reaper, self._chance, self._written = journal, reaper, chance, written

    def record(self, step: str, payload: bytes) -> bytes:
        name = "journal " + _short(step)
        if self._written is None:
            self._reaper.begin(name)
            return self._journal.record(step, payload)
        return bytes(self._written.step(name, lambda: self._journal.record(step, payload)))

    def lookup(self, step: str) -> bytes | None:
        self._chance.turn_to(step)
        return self._journal.lookup(step)

    def steps(self, prefix: str = "") -> Sequence[str]:
        return self._journal.steps(prefix)


def _short(step: str) -> str:
    """A step's name without what differs from run to run: job numbers, addresses, digests."""
    parts = [part for part in step.split("/") if not (part.startswith("0x") or len(part) == 64)]
    if parts[0] in ("job", "post", "registry"):
        parts = parts[1:]
        while parts and parts[0].isdigit():
            parts = parts[1:]
    return "/".join(parts)


class MortalStore:
    """A folder store whose user may die around and inside a put."""

    def __init__(self, root: Path, reaper: Reaper) -> None:
        self._store, self._root, self._reaper = FolderBlobStore(root), root, reaper

    async def put(self, data: bytes, *, topic: str) -> Digest:
        name, reaper = "put " + _short(topic), self._reaper
        reaper.begin(name)
        _die_writing(reaper, name, data, self._root / "tmp")
        if (target := reaper.armed(name, "middle")) is not None:
            path_of = self._root / "blobs" / blake3_digest(data).hex()
            files.write_once(path_of, data, folder=self._root / "tmp")
            reaper.kill(target)
        digest = await self._store.put(data, topic=topic)
        reaper.at(name, "after")
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        return await self._store.get(digest, max_bytes=max_bytes)

    async def list(self, topic: str) -> Sequence[Digest]:
        return await self._store.list(topic)


class Sending:
    """The name of the transaction that an actor is sending."""

    def __init__(self) -> None:
        self.step = ""


class MortalOutbox:
    """An outbox whose holder may die before an intent, after a signature, and inside a write."""

    def __init__(self, outbox: Outbox, reaper: Reaper, sending: Sending, written: Written | None) -> None:
        self._outbox, self._reaper, self._sending, self._written = outbox, reaper, sending, written

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        if self._sending.step:
            self._reaper.begin(self._sending.step)
        return self._write(entry, self._outbox.add, 0)

    def save(self, entry: OutboxEntry) -> OutboxEntry:
        number = ("signed", "sent", "mined").index(entry.state) + 1 if entry.state in _SAVED else 0
        saved = self._write(entry, self._outbox.save, number)
        if entry.state == "signed":
            self._reaper.at(self._sending.step, "intent")
        return saved

    def _write(
        self, entry: OutboxEntry, write: Callable[[OutboxEntry], OutboxEntry], number: int
    ) -> OutboxEntry:
        """In the ``number``-th write of a transaction's life: intent, signature, sending, mined."""
        target = self._reaper.armed(self._sending.step, "write")
        if self._written is not None and target is not None and target.variant // 3 % 4 == number:
            self._written.arm(self._sending.step)
        return write(entry)

    def last(self, effect: Digest) -> OutboxEntry | None:
        return self._outbox.last(effect)

    def unfinished(self, account: Address | None = None) -> Sequence[OutboxEntry]:
        return self._outbox.unfinished(account)


_SAVED: Final = ("signed", "sent", "mined")


class MortalLedger:
    """A ledger that names what is being sent."""

    def __init__(self, ledger: Ledger, reaper: Reaper, sending: Sending) -> None:
        self._ledger, self._reaper, self._sending = ledger, reaper, sending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        self._sending.step = "send " + called(call.function, call.arguments)
        try:
            receipt = await self._ledger.submit(call, signer)
            self._reaper.at(self._sending.step, "after")
            return receipt
        finally:
            self._sending.step = ""


def called(function: str, arguments: tuple[Any, ...]) -> str:
    """A transaction's name: its function, and its round where it is about one."""
    is_of_round = function in ("anchorRound", "submitUpdateDirectly")
    return f"{function}/{arguments[0][1]}" if is_of_round else function


class MortalTrainer:
    """A trainer whose process may die while it trains."""

    def __init__(self, trainer: Any, reaper: Reaper, usual_s: float = 0.02) -> None:
        self._trainer, self._reaper, self._usual_s = trainer, reaper, usual_s

    async def measure(self, graph: bytes, *, batch_size: int) -> Any:
        return await self._trainer.measure(graph, batch_size=batch_size)

    async def train(self, *arguments: Any, round_index: int, **rest: Any) -> Any:
        name, reaper = f"train/{round_index}", self._reaper
        reaper.begin(name)
        timers = []
        for moment, share in (("intent", 0.05), ("middle", 0.4), ("write", 0.8)):
            if (target := reaper.armed(name, moment)) is not None:  # type: ignore[arg-type]
                delay_s = self._usual_s * (share + 0.02 * (target.variant % 7))
                reaper.say("armed", target)  # the thread that kills must not speak while this one does
                timers.append(threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)))
                timers[-1].start()
        found = await self._trainer.train(*arguments, round_index=round_index, **rest)
        for timer in timers:
            timer.cancel()
        for moment in MOMENTS[1:]:
            reaper.at(name, moment)  # it was quicker than the timer
        return found


class MortalCheckpoints:
    """Checkpoints, due at every pass, whose writer may die around and inside one."""

    def __init__(self, folder: Path, reaper: Reaper) -> None:
        self._kept = CheckpointFolder(folder, monotonic_s=time.monotonic, every_s=0.0)
        self._folder, self._reaper = folder, reaper

    def of(self, name: str) -> MortalCheckpoint:
        step = f"checkpoint/{name.split('/')[1]}"
        return MortalCheckpoint(self._kept.of(name), step, self._folder, self._reaper)

    def discard(self, name: str) -> None:
        self._kept.discard(name)


class MortalCheckpoint:
    """One checkpoint of these."""

    def __init__(self, kept: FileCheckpoint, step: str, folder: Path, reaper: Reaper) -> None:
        self._kept, self._step, self._folder, self._reaper = kept, step, folder, reaper

    def load(self) -> bytes | None:
        return self._kept.load()

    def is_due(self) -> bool:
        return self._kept.is_due()

    def save(self, state: bytes) -> None:
        step, reaper = self._step, self._reaper
        reaper.begin(step)
        _die_writing(reaper, step, state, self._folder)
        self._kept.save(state)
        reaper.at(step, "middle")
        reaper.at_next(step)


def _die_writing(reaper: Reaper, step: str, data: bytes, folder: Path) -> None:
    """Leave half a file or a whole one behind, under a name for writing, if that is a moment to die at."""
    for moment, part in (("write", data[: len(data) // 2]), ("intent", data)):
        if (target := reaper.armed(step, moment)) is not None:  # type: ignore[arg-type]
            _, path = tempfile.mkstemp(prefix=files.TEMPORARY_PREFIX, dir=folder)
            Path(path).write_bytes(part)
            reaper.kill(target)


class MortalBook:
    """A privacy book whose holder may die around and inside a line of it."""

    def __init__(self, book: Any, written: Written) -> None:
        self._book, self._written = book, written

    def spendings(self, dataset: str) -> Any:
        return self._book.spendings(dataset)

    def reserve(self, *arguments: Any) -> Any:
        return self._written.step("book reserve", lambda: self._book.reserve(*arguments))

    def spend(self, dataset: str, job: str, round_index: int) -> None:
        self._written.step(f"book spend/{round_index}", lambda: self._book.spend(dataset, job, round_index))

    def close_job(self, job: str) -> None:
        self._written.step("book close", lambda: self._book.close_job(job))


class MortalShelf:
    """A shelf whose holder may die around and inside the count of a use."""

    def __init__(self, shelf: Any, written: Written) -> None:
        self._shelf, self._written = shelf, written

    def offered(self) -> Any:
        return self._shelf.offered()

    def columns(self, name: str) -> Any:
        return self._shelf.columns(name)

    def record_use(self, name: str, job_id: int, round_index: int) -> None:
        self._written.step(f"use/{round_index}", lambda: self._shelf.record_use(name, job_id, round_index))
