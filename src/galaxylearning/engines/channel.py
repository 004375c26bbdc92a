"""What the processes of the workers engine say to each other: small typed messages over a stream socket.

Arrays never pass here, only where they lie in shared memory. Every wait has a deadline or asks again and
again whether there is anybody left to wait for.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

import msgspec
import numpy as np

from galaxylearning.engines.shared_memory import Layout
from galaxylearning.errors import ConfigRefused, DataRefused, GalaxyError, GraphRefused, UpdateRefused
from galaxylearning.learning.plan import LocalPlan

MAX_MESSAGE_BYTES = 1 << 16
MAX_TEXT = 2000
ASK_EVERY_S = 5.0
SEND_TIMEOUT_S = 60.0
_LENGTH_BYTES = 4
_MAX_DESCRIPTORS = 4


class Closed(Exception):  # noqa: N818
    """The other side is gone."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """To the zygote, with two descriptors (graph then weights in one memory; the arena of ``layout``)."""

    graph_bytes: int
    weights_bytes: int
    layout: Layout
    plan: LocalPlan
    least_workers: int
    budget_bytes: int


class Fork(msgspec.Struct, frozen=True, tag=True):
    """To the zygote, with the worker's end of its channel: fork worker ``index``."""

    index: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To the zygote: give the worker so long to end by itself, kill it then, and say how it ended."""

    pid: int
    grace_s: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From the zygote: the model is built; so many workers fit the budget."""

    workers: int


class Forked(msgspec.Struct, frozen=True, tag=True):
    """From the zygote: the worker runs."""

    pid: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """From the zygote: how the worker ended, an exit code, or minus the signal's number."""

    code: int


class Task(msgspec.Struct, frozen=True, tag=True):
    """To a worker: train on the rows in ``place``, put the result in ``slot``; ``rng`` as ``pack_rng``."""

    number: int
    slot: int
    place: int
    rows: int
    rng: bytes


class Done(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the slot is filled."""

    number: int
    steps: int
    first_loss: float
    last_loss: float


class Diverged(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the owner's training gave no update, and why."""

    number: int
    text: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From the zygote or a worker: an error of the class named ``kind`` that the caller is to see."""

    number: int
    kind: str
    text: str


Message: TypeAlias = Setup | Fork | Stop | Ready | Forked | Ended | Task | Done | Diverged | Refused


def _plain(value: object) -> object:
    """A numpy number in a plan as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of a pair of sockets. Owns the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends; neither is inherited by programs that are started."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(left), cls(right)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def is_hung_up(self) -> bool:
        """Whether the other side is gone, unread messages or not."""
        poll = select.poll()
        poll.register(self._socket, select.POLLHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close this end; may be called twice."""
        self._socket.close()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message; descriptors arrive as new ones.

        Raises:
            Closed: nobody is there to take it.
            TimeoutError: it was not taken in time.
            ValueError: the message is longer than ``MAX_MESSAGE_BYTES``.
        """
        body = _ENCODER.encode(message)
        if len(body) > MAX_MESSAGE_BYTES:
            raise ValueError(f"{len(body)} bytes; a message has at most {MAX_MESSAGE_BYTES}")
        data = len(body).to_bytes(_LENGTH_BYTES, "little") + body
        self._socket.settimeout(SEND_TIMEOUT_S)
        try:
            sent = socket.send_fds(self._socket, [data], list(descriptors)) if descriptors else 0
            self._socket.sendall(data[sent:])
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self, *, timeout_s: float) -> tuple[Message, list[int]]:
        """The next message and the descriptors that came with it.

        Raises:
            Closed: the other side is gone, or talks nonsense.
            TimeoutError: no whole message came in time.
        """
        self._socket.settimeout(timeout_s)
        descriptors: list[int] = []
        try:
            head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH_BYTES, _MAX_DESCRIPTORS)
            head += self._exactly(_LENGTH_BYTES - len(head)) if head else b""
            length = int.from_bytes(head, "little")
            if not head or length > MAX_MESSAGE_BYTES:
                raise Closed("closed" if not head else f"a message of {length} bytes")
            return _DECODER.decode(self._exactly(length)), descriptors
        except TimeoutError:
            _close_all(descriptors)
            raise
        except (OSError, msgspec.MsgspecError, Closed) as error:
            _close_all(descriptors)
            raise Closed(str(error)) from None

    def wait(
        self, is_needed: Callable[[], bool], *, every_s: float = ASK_EVERY_S
    ) -> tuple[Message, list[int]]:
        """The next message, however late; asks ``is_needed`` while there is none.

        Raises:
            Closed: the other side is gone, or ``is_needed`` says no.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not poll.poll(every_s * 1000):
            if not is_needed():
                raise Closed("nobody is left to work for")
        try:
            return self.receive(timeout_s=every_s)
        except TimeoutError:
            raise Closed("half a message") from None

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise Closed("closed within a message")
            parts += part
        return bytes(parts)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def refusal(number: int, error: GalaxyError | ValueError) -> Refused:
    """The error as a message."""
    return Refused(number, type(error).__name__, str(error)[:MAX_TEXT])


_KINDS: dict[str, type[GalaxyError]] = {
    kind.__name__: kind for kind in (ConfigRefused, DataRefused, GraphRefused, UpdateRefused)
}


def raise_refusal(refused: Refused) -> NoReturn:
    """Raise what the other process caught, with its text. Never returns.

    Raises:
        ConfigRefused, DataRefused, GraphRefused, UpdateRefused: the one that was named.
        ValueError: any other name.
    """
    raise _KINDS.get(refused.kind, ValueError)(refused.text)


def pack_rng(rng: np.random.Generator) -> bytes:
    """The state of a fresh generator, 32 bytes.

    Raises:
        ValueError: not the generator numpy makes by default.
    """
    held = rng.bit_generator.state
    if held["bit_generator"] != "PCG64" or held["has_uint32"]:
        raise ValueError("rng must be a fresh PCG64 generator")
    state = held["state"]
    return bytes(state["state"].to_bytes(16, "little") + state["inc"].to_bytes(16, "little"))


def unpack_rng(data: bytes) -> np.random.Generator:
    """The generator that ``pack_rng`` saw."""
    bits = np.random.PCG64(0)
    bits.state = {
        "bit_generator": "PCG64",
        "state": {
            "state": int.from_bytes(data[:16], "little"),
            "inc": int.from_bytes(data[16:], "little"),
        },
        "has_uint32": 0,
        "uinteger": 0,
    }
    return np.random.Generator(bits)
