"""The node's side of a worker: starts the server, hands it work, and believes nothing of what comes back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from galaxylearning.errors import ConfigRefused, WorkerRefused
from galaxylearning.sandbox.frames import (
    ERRORS,
    HEAD_BYTES,
    MAX_TEXT_BYTES,
    End,
    Ended,
    Fork,
    Forked,
    Gone,
    Message,
    Ready,
    Status,
    Work,
    read_head,
    receive_message,
    send_message,
)
from galaxylearning.sandbox.locks import BUBBLEWRAPPED

START_S: Final = 120.0
ANSWER_S: Final = 30.0
"""The server forks and ends workers in milliseconds; one that takes longer than this counts as dead."""
_CHUNK: Final = 1 << 22
SERVER: Final = ("-s", "-P", "-m", "galaxylearning.sandbox.server")
_WHERE: Final = "worker"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one piece of work may take: seconds of wall time, bytes of memory, exactly so many of answer.

    ``kept_bytes`` are the most that it may say of how far it is, at a time.
    """

    seconds: float
    memory_bytes: int
    answer_bytes: int
    kept_bytes: int = 0


class WorkerHost:
    """One server process and, now and then, one worker of it. One object serves one thread at a time.

    ``program`` is what the interpreter runs, ``bubblewrap`` the path of that program where it is to be used.

    Raises:
        ConfigRefused: the process cannot be started.
    """

    def __init__(self, program: Sequence[str] = SERVER, *, bubblewrap: str | None = None) -> None:
        self.ready, self._channel, self._process = _start(program, bubblewrap)
        self._close = weakref.finalize(self, _shut, self._channel, self._process)
        self.is_dead = False

    @property
    def pid(self) -> int:
        """Process number of the server, or of the bubblewrap around it."""
        return self._process.pid

    def close(self) -> None:
        """End the server and its worker; may be called twice, and from another thread."""
        self.is_dead = True
        self._close()

    def run(self, work: Work, allowed: Allowed, keep: Callable[[bytes], None] | None = None) -> bytes:
        """Have a worker of its own do this; the body of its answer, of exactly the expected length.

        ``keep`` is given what it says of how far it is, which proves nothing.

        Raises:
            WorkerRefused: a cap was hit, named; or the worker crashed, or sent anything else.
            GraphRefused, UpdateRefused, DataRefused, ConfigRefused: what the worker found.
        """
        ours, theirs = socket.socketpair()
        with ours:
            deadline = time.monotonic() + allowed.seconds
            with theirs:
                fork = Fork(allowed.memory_bytes, int(allowed.seconds) + 2)
                self._ask(fork, Forked, [theirs.fileno()])
            try:
                heard = _converse(ours, work, allowed, deadline, keep)
            finally:
                ended = self._ask(End(), Ended)
        if isinstance(heard, bytes):
            return heard
        raise _failure(heard, ended, allowed)

    def _ask(self, message: Message, wanted: type[Message], descriptors: Sequence[int] = ()) -> Message:
        try:
            self._channel.settimeout(ANSWER_S)
            send_message(self._channel, message, descriptors)
            answer, _ = receive_message(self._channel)
            if not isinstance(answer, wanted):
                raise Gone(f"answered {type(answer).__name__}")
        except (Gone, OSError) as error:
            self.close()
            raise WorkerRefused(f"the process that forks workers is gone: {error}", where=_WHERE) from None
        return answer


@dataclass(frozen=True, slots=True)
class _Late:
    """The time was up."""


@dataclass(frozen=True, slots=True)
class _Said:
    """The worker gave a status other than done."""

    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What came was no answer, or nothing came."""

    why: str


_Heard = bytes | _Late | _Said | _Wrong


def _converse(
    end: socket.socket,
    work: Work,
    allowed: Allowed,
    deadline: float,
    keep: Callable[[bytes], None] | None,
) -> _Heard:
    """Send the work, read the answer: a head, exactly as many bytes as expected, and the end."""
    expected = allowed.answer_bytes
    try:
        # Who hangs up before it has read everything may have said why.
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in work.parts():
                _send(end, part, deadline)
        with suppress(OSError):
            end.shutdown(socket.SHUT_WR)
        while True:
            head = _receive(end, HEAD_BYTES, deadline)
            if len(head) < HEAD_BYTES:
                return _Wrong("ended without an answer" if not head else f"sent {len(head)} bytes and ended")
            read = read_head(head)
            if read is None or (read[0] is Status.KEPT and keep is None):
                return _Wrong("sent something that is no answer")
            status, length = read
            if status is not Status.KEPT or keep is None:
                break
            if length > allowed.kept_bytes:
                return _Wrong(f"wanted to keep {length} bytes; at most {allowed.kept_bytes} allowed")
            kept = _receive(end, length, deadline)
            if len(kept) < length:
                return _Wrong(f"sent {len(kept)} bytes of {length}")
            keep(kept)
        most = expected if status is Status.DONE else MAX_TEXT_BYTES
        if length > most or (status is Status.DONE and length != expected):
            return _Wrong(f"wanted to send {length} bytes; exactly {expected} allowed")
        body = _receive(end, length, deadline)
        if len(body) < length:
            return _Wrong(f"sent {len(body)} bytes of {length}")
        if _receive(end, 1, deadline):
            return _Wrong(f"sent more than {length} bytes")
    except TimeoutError:
        return _Late()
    except OSError as error:
        return _Wrong(f"broke off: {error}")
    return body if status is Status.DONE else _Said(status, _plain(body))


def _send(end: socket.socket, data: memoryview, deadline: float) -> None:
    while data:
        end.settimeout(_remaining(deadline))
        data = data[end.send(data[:_CHUNK]) :]


def _receive(end: socket.socket, length: int, deadline: float) -> bytes:
    """Up to ``length`` bytes; fewer where the other side ends."""
    parts = bytearray()
    while len(parts) < length:
        end.settimeout(_remaining(deadline))
        part = end.recv(min(length - len(parts), _CHUNK))
        if not part:
            break
        parts += part
    return bytes(parts)


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _failure(heard: _Late | _Said | _Wrong, ended: Message, allowed: Allowed) -> Exception:
    """The error that tells what happened."""
    code, peak = (ended.code, ended.peak_bytes) if isinstance(ended, Ended) else (0, 0)
    if isinstance(heard, _Late) or code == -signal.SIGXCPU:
        cap = "maximum_training_s"
        return WorkerRefused(
            f"hit the cap {cap}: not done after {allowed.seconds:g} s, the most allowed",
            where=_WHERE,
            cap=cap,
        )
    if isinstance(heard, _Said) and heard.status in ERRORS:
        return ERRORS[heard.status](heard.text)
    if isinstance(heard, _Said) and heard.status is Status.OUT_OF_MEMORY:
        cap = "maximum_memory_bytes"
        return WorkerRefused(
            f"hit the cap {cap}: wanted more than {allowed.memory_bytes:,} bytes on top of the libraries, "
            "the most allowed",
            where=_WHERE,
            cap=cap,
        )
    if isinstance(heard, _Said):
        return WorkerRefused(f"failed: {heard.text}", where=_WHERE)
    if code < 0 and code != -signal.SIGKILL:
        return WorkerRefused(
            f"crashed with {signal.Signals(-code).name}; its largest resident memory was {peak:,} bytes, "
            f"{allowed.memory_bytes:,} on top of the libraries allowed",
            where=_WHERE,
        )
    return WorkerRefused(f"{heard.why}, exit code {code}", where=_WHERE)


def _plain(text: bytes) -> str:
    decoded = text.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)


# ---- starting and ending


def _start(
    program: Sequence[str], bubblewrap: str | None
) -> tuple[Ready, socket.socket, subprocess.Popen[bytes]]:
    """Start the server, within bubblewrap where that works."""
    why_not = "not installed"
    if bubblewrap is not None:
        try:
            return _start_one(program, bubblewrap)
        except ConfigRefused as error:
            why_not = str(error)
    ready, channel, process = _start_one(program, None)
    locks = msgspec.structs.replace(ready.locks, missing={**ready.locks.missing, "bubblewrap": why_not})
    return msgspec.structs.replace(ready, locks=locks), channel, process


def _start_one(
    program: Sequence[str], bubblewrap: str | None
) -> tuple[Ready, socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, *program, str(theirs.fileno())]
    if bubblewrap is not None:
        command = [*_wrapping(bubblewrap), *command]
    process: subprocess.Popen[bytes] | None = None
    with theirs, tempfile.TemporaryFile() as errors:
        try:
            # A session of its own: Ctrl-C at the terminal is for the node, which then closes the channel.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
            theirs.close()
            ours.settimeout(START_S)
            ready, _ = receive_message(ours)
            if isinstance(ready, Ready):
                return ready, ours, process
            raise Gone(f"answered {type(ready).__name__}")
        except (OSError, Gone) as error:
            if process is None:
                ours.close()
            else:
                _shut(ours, process)
            errors.seek(0)
            said = _plain(errors.read(1 << 16).strip().rpartition(b"\n")[2][-MAX_TEXT_BYTES:])
            raise ConfigRefused(f"could not be started: {said or error}", where="locked worker") from None


def _shut(channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """The server ends when its channel does; one that does not is killed."""
    with suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)
    channel.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_bubblewrap() -> str | None:
    """Where bubblewrap is installed."""
    return shutil.which("bwrap") if sys.platform.startswith("linux") else None


def _package_root() -> str:
    return str(Path(__file__).resolve().parents[2])


def _environment() -> dict[str, str]:
    """All that the server is told: nothing of the node's own environment but how to find libraries."""
    found = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    found |= {"CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    if "LD_LIBRARY_PATH" in os.environ:
        found["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    if _package_root() not in sysconfig.get_paths().values():
        found["PYTHONPATH"] = _package_root()
    return found


def _wrapping(bubblewrap: str) -> list[str]:
    """Namespaces of everything, and of the file system only the programs: no home, no keys, no data."""
    paths = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
    ours = (sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent), _package_root())
    bound: list[str] = []
    for path in (*paths, *sorted(set(ours))):
        bound += ["--ro-bind-try", path, path]
    return [
        bubblewrap,
        *("--unshare-all", "--new-session", "--cap-drop", "ALL"),
        *("--tmpfs", "/tmp", "--dev", "/dev", "--proc", "/proc"),  # noqa: S108
        *bound,
        *("--setenv", BUBBLEWRAPPED, "1", "--chdir", "/", "--"),
    ]
