"""Keys of a demo's actors: they follow from the demo's seed, so its home can be audited by whoever has it.

They protect nothing and must never be used for anything else.
"""

from __future__ import annotations

import json
from typing import Final

from galaxylearning.chain.evm import KeySigner
from galaxylearning.config import Home
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.units import Address

MARKER: Final = "demo.json"
EVALUATORS: Final = tuple(f"evaluator-{number}" for number in range(1, 6))


def signer(seed: int, name: str) -> KeySigner:
    """The account of one actor."""
    return KeySigner(bytes(blake3_digest(f"galaxy-learning demo account {seed} {name}".encode())))


def sealing_key(seed: int, name: str) -> SealingKey:
    """The sealing key of one actor."""
    parts = [blake3_digest(f"galaxy-learning demo sealing {seed} {name} {i}".encode()) for i in range(3)]
    return SealingKey(b"".join(parts))


def seed_of(home: Home) -> int | None:
    """The seed of the demo that made this home, or None."""
    try:
        found = json.loads((home.root / MARKER).read_text())["seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if type(found) is int else None


def evaluator_keys(home: Home) -> list[SealingKey]:
    """The evaluators' sealing keys where a demo made this home, else none."""
    seed = seed_of(home)
    return [] if seed is None else [sealing_key(seed, name) for name in EVALUATORS]


def names(home: Home) -> dict[str, Address]:
    """Accounts of a demo's data owners by name, else none."""
    seed = seed_of(home)
    folder = home.root / "hospitals"
    if seed is None or not folder.is_dir():
        return {}
    return {path.name: signer(seed, path.name).address for path in sorted(folder.iterdir())}
