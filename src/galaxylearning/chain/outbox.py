"""What an effect on the chain is called, and an outbox that is forgotten with the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eth_utils.crypto import keccak

from galaxylearning.ports import OutboxEntry
from galaxylearning.units import Address, Digest

_OVER = ("final", "void")


def effect_id(*, chain_id: int, account: Address, to: Address | None, data: bytes) -> Digest:
    """The name of what a transaction is for: its chain, account, contract, function and arguments.

    ``data`` is the call as the ABI encodes it. Two equal calls have one name; that a call may be repeated is
    the sender's business (see ``transactions``).
    """
    target = b"" if to is None else bytes.fromhex(to[2:])
    fields = (chain_id.to_bytes(32), bytes.fromhex(account[2:]), len(target).to_bytes(1), target, data)
    return Digest(keccak(b"galaxy effect" + b"".join(fields)))


class MemoryOutbox:
    """Implements ``ports.Outbox`` in memory: for simulations, and for commands that send and end."""

    def __init__(self) -> None:
        self._unfinished: dict[int, OutboxEntry] = {}
        self._number = 0

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        """See ``ports.Outbox.add``."""
        self._number += 1
        return self.save(replace(entry, number=self._number))

    def save(self, entry: OutboxEntry) -> OutboxEntry:
        """See ``ports.Outbox.save``."""
        if entry.state in _OVER:
            self._unfinished.pop(entry.number, None)
        else:
            self._unfinished[entry.number] = entry
        return entry

    def last(self, effect: Digest) -> OutboxEntry | None:
        """See ``ports.Outbox.last``."""
        found = [number for number, entry in self._unfinished.items() if entry.effect == effect]
        return self._unfinished[max(found)] if found else None

    def unfinished(self, account: Address | None = None) -> Sequence[OutboxEntry]:
        """See ``ports.Outbox.unfinished``."""
        found = (entry for entry in self._unfinished.values() if account in (None, entry.account))
        return sorted(found, key=lambda entry: (entry.account, entry.nonce, entry.number))
