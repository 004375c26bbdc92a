"""What the node, the server and a worker say to each other: length-prefixed bytes, never pickled.

The node trusts the server, which sees no stranger's byte. It does not trust a worker: of a worker it reads a
head of fixed size, then exactly as many bytes as it expects.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from galaxylearning.errors import ConfigRefused, DataRefused, GalaxyError, GraphRefused, UpdateRefused
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.sandbox.locks import Locks

MAX_MESSAGE_BYTES: Final = 1 << 16
MAX_TEXT_BYTES: Final = 500
_CHUNK: Final = 1 << 24
_LEFT_BYTES: Final = 1 << 16
_LENGTH: Final = struct.Struct("<I")
_HEAD: Final = struct.Struct("<4sIQ")
HEAD_BYTES: Final = _HEAD.size
_MAGIC: Final = b"GLW1"


class Fork(msgspec.Struct, frozen=True, tag=True):
    """To the server, with the worker's end of a pair of sockets: fork a worker, ``memory_bytes`` on top."""

    memory_bytes: int
    cpu_s: int


class End(msgspec.Struct, frozen=True, tag=True):
    """To the server: end the worker, whatever it does, and say how it ended."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From the server: loaded and locked. ``threads`` are those of the process; ``loaded`` says what of."""

    locks: Locks
    threads: int
    loaded: dict[str, str]


class Forked(msgspec.Struct, frozen=True, tag=True):
    """From the server: the worker runs."""

    pid: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """From the server: an exit code or minus a signal, seconds of CPU, the largest resident set."""

    code: int
    cpu_s: float
    peak_bytes: int


Message: TypeAlias = Fork | End | Ready | Forked | Ended
_DECODER: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


class Gone(Exception):  # noqa: N818
    """The other side is gone, or talks nonsense."""


def send_message(end: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message over a stream socket; descriptors arrive as new ones.

    Raises:
        Gone: nobody takes it.
        TimeoutError: the socket's timeout has passed.
    """
    body = msgspec.msgpack.encode(message)
    data = _LENGTH.pack(len(body)) + body
    try:
        sent = socket.send_fds(end, [data], list(descriptors)) if descriptors else 0
        end.sendall(data[sent:])
    except TimeoutError:
        raise
    except OSError as error:
        raise Gone(str(error)) from None


def receive_message(end: socket.socket) -> tuple[Message, list[int]]:
    """The next message and the descriptors that came with it.

    Raises:
        Gone: the other side closed, or sent something else.
        TimeoutError: the socket's timeout has passed.
    """
    try:
        head, descriptors, _, _ = socket.recv_fds(end, _LENGTH.size, 1)
        head += _exactly(end, _LENGTH.size - len(head)) if head else b""
        length = _LENGTH.unpack(head)[0] if head else 0
        if not 0 < length <= MAX_MESSAGE_BYTES:
            raise Gone("closed" if not head else f"a message of {length} bytes")
        return _DECODER.decode(_exactly(end, length)), descriptors
    except TimeoutError:
        raise
    except (OSError, msgspec.MsgspecError) as error:
        raise Gone(str(error)) from None


def _exactly(end: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = end.recv(length - len(parts))
        if not part:
            raise Gone("closed within a message")
        parts += part
    return bytes(parts)


class ArrayShape(msgspec.Struct, frozen=True):
    """How the bytes of an array are to be read."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """How many there are."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


class Request(msgspec.Struct, frozen=True):
    """To a worker; graph, state, terms, local buffers, checkpoint, inputs and labels follow, in this order.

    With ``keep_every_s`` above 0 it says how far it is, at most so often.
    """

    kind: Literal["measure", "train"]
    graph_bytes: int
    batch_size: int = 1
    state_bytes: int = 0
    terms_bytes: int = 0
    local_bytes: int = 0
    checkpoint_bytes: int = 0
    keep_every_s: float = 0.0
    inputs: ArrayShape = ArrayShape("|u1", (0,))
    labels: ArrayShape = ArrayShape("|u1", (0,))
    round_index: int = 0
    data_owner: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A request with what it is about."""

    request: Request
    graph: bytes
    state: bytes = b""
    terms: bytes = b""
    local: bytes = b""
    rows: Rows | None = None
    checkpoint: bytes = b""
    keep: Callable[[bytes], None] | None = None
    """At the worker's: says how far it is, for the next worker to go on from."""

    def parts(self) -> list[memoryview]:
        """What is sent, in order."""
        head = msgspec.msgpack.encode(self.request)
        arrays = () if self.rows is None else (self.rows.inputs, self.rows.labels)
        return [
            memoryview(_LENGTH.pack(len(head)) + head),
            *(memoryview(part) for part in (self.graph, self.state, self.terms, self.local, self.checkpoint)),
            *(np.ascontiguousarray(array).data.cast("B") for array in arrays if array.nbytes),
        ]


def shape_of(array: np.typing.NDArray[np.generic]) -> ArrayShape:
    """How this array's bytes are to be read."""
    return ArrayShape(array.dtype.str, tuple(int(size) for size in array.shape))


def read_work(descriptor: int) -> Work:
    """The request that a worker finds on its descriptor.

    Raises:
        Gone: the node closed it.
    """
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size))
    request = msgspec.msgpack.decode(_read(descriptor, length), type=Request)
    graph = bytes(_read(descriptor, request.graph_bytes))
    state = bytes(_read(descriptor, request.state_bytes))
    terms = bytes(_read(descriptor, request.terms_bytes))
    local = bytes(_read(descriptor, request.local_bytes))
    checkpoint = bytes(_read(descriptor, request.checkpoint_bytes))
    inputs, labels = (
        np.frombuffer(_read(descriptor, part.n_bytes), part.dtype).reshape(part.shape)
        for part in (request.inputs, request.labels)
    )
    keep = partial(write_kept, descriptor) if request.keep_every_s > 0 else None
    return Work(request, graph, state, terms, local, Rows(inputs, labels), checkpoint, keep)


def _read(descriptor: int, length: int) -> bytearray:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        part = os.readv(descriptor, [view[done : done + _CHUNK]])
        if not part:
            raise Gone("closed within a request")
        done += part
    return data


class Status(IntEnum):
    """How a worker's work came out; the names of errors are those of ``errors``."""

    DONE = 0
    GRAPH_REFUSED = 1
    UPDATE_REFUSED = 2
    DATA_REFUSED = 3
    CONFIG_REFUSED = 4
    OUT_OF_MEMORY = 5
    FAILED = 6
    KEPT = 7
    """It is not done yet, and says how far it is."""


ERRORS: Final[dict[Status, type[GalaxyError]]] = {
    Status.GRAPH_REFUSED: GraphRefused,
    Status.UPDATE_REFUSED: UpdateRefused,
    Status.DATA_REFUSED: DataRefused,
    Status.CONFIG_REFUSED: ConfigRefused,
}


def write_kept(descriptor: int, body: bytes) -> None:
    """What a worker says while it trains."""
    _write(descriptor, Status.KEPT, body)


def _write(descriptor: int, status: Status, body: bytes) -> None:
    data = memoryview(_HEAD.pack(_MAGIC, int(status), len(body)) + body)
    while data:
        data = data[os.write(descriptor, data[:_CHUNK]) :]


def write_answer(descriptor: int, status: Status, body: bytes) -> None:
    """What a worker says before it ends."""
    _write(descriptor, status, body)
    # Who ends with something unread takes what it has said with it.
    while os.read(descriptor, _LEFT_BYTES):
        pass


def error_text(error: BaseException, name: str = "") -> bytes:
    """An error as the body of an answer."""
    return f"{name}{': ' if name else ''}{error}".encode("utf-8", "replace")[:MAX_TEXT_BYTES]


def read_head(head: bytes) -> tuple[Status, int] | None:
    """Status and length of an answer, or None: this is no answer."""
    magic, status, length = _HEAD.unpack(head)
    if magic != _MAGIC or status not in Status._value2member_map_:
        return None
    return Status(status), length
