"""What documents and blobs that cannot be used are put together from: sound ones, and ways to change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from eth_keyfile.keyfile import create_keyfile_json
from safetensors.numpy import save

from galaxylearning.crypto.seal import SealContext, SealingKey, seal
from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.learning.server import ServerOptimizer
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import (
    Admission,
    Column,
    EvaluatorSeat,
    Price,
    Schema,
    Terms,
    Windows,
    encode_terms,
)
from galaxylearning.units import Address

Case = tuple[str, Callable[[], bytes], str]
"""Which reader, what it is given, and a part of the refusal."""

ME = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
JOBS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
SEATS = tuple(f"0x{n:040d}" for n in (1, 2, 3))
HEX = "ab" * 32
PASSPHRASE = "correct horse"
KEY = SealingKey(bytes(range(96)))
CONTEXT = SealContext(31337, Address(TOKEN), 7, 3, "update", Address(ME))
ROWS = 4


def written(document: Any) -> bytes:
    """Sorted and without white space, as what is signed must be."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def put(document: Any, path: str, value: Any) -> bytes:
    """A copy of ``document`` with the field at ``path`` (``a.0.b``) set anew; written."""
    made = json.loads(json.dumps(document))
    target = made
    *names, last = path.split(".")
    for name in names:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[int(last) if isinstance(target, list) else last] = value
    return written(made)


def without(document: Any, path: str) -> bytes:
    """A copy of ``document`` that lacks the field at ``path``; written."""
    made = json.loads(json.dumps(document))
    target = made
    *names, last = path.split(".")
    for name in names:
        target = target[name]
    del target[last]
    return written(made)


@cache
def terms() -> Any:
    """Sound terms, as a document."""
    label = Column("diagnosis", "category", classes=("benign", "malignant"))
    made = Terms(
        title="Biopsies",
        description="",
        requester=ME,
        requester_key=HEX,
        evaluators=tuple(EvaluatorSeat(seat, HEX, HEX) for seat in SEATS),
        schema=Schema((Column("radius", "number", unit="mm", mean=14.0, std=3.5),), label),
        plan=Plan(rounds=3, epochs=1, minimum_owners=2, maximum_owners=12),
        price=Price(token=TOKEN, bounty="1000000", fee_per_seat="10", target_gain=0.5),
        admission=Admission(),
        windows=Windows(60, 60, 60, 60, 60, 60, 60),
        graph=HEX,
        loss="cross_entropy",
        model=HEX,
        model_digest=HEX,
        test_set=HEX,
        test_set_digest=HEX,
        test_rows=200,
        seed=1,
    )
    return json.loads(encode_terms(made))


DEPLOYMENT: Any = {"chain_id": 1, "token": TOKEN, "registry": ME, "jobs": JOBS, "block_number": 5}
HISTORY: Any = {
    "format": "galaxy-history-1",
    "owners": 2,
    "rounds": [
        {
            "round_index": 0, "utility": -0.5, "accuracy": 0.75, "loss": None, "seconds": 1.5,
            "statuses": "A-", "values": [0.5, 0.0], "errors": [0.25, 0.0],
        }
    ],
}  # fmt: skip


@cache
def account() -> Any:
    """A sound account file under a weak but quick passphrase."""
    return create_keyfile_json(b"\1" * 32, PASSPHRASE.encode(), kdf="scrypt", iterations=2)


@cache
def envelope() -> bytes:
    """A sealed text of 15 bytes."""
    return seal(b"a sealed update", [KEY.public], CONTEXT, entropy=seeded_entropy(3))


def altered(data: bytes, at: int, new: bytes) -> bytes:
    """``data`` with bytes exchanged from ``at`` on."""
    return data[:at] + new + data[at + len(new) :]


def tensors(**arrays: Any) -> bytes:
    """Safetensors of these arrays."""
    return bytes(save(arrays))


def state() -> bytes:
    """The state of an optimiser with two moments of three numbers."""
    return ServerOptimizer("fedadam").init(3).to_bytes()


INPUTS, LABELS = np.zeros((ROWS, 2), np.float32), np.zeros(ROWS, np.int64)
