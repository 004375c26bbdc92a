"""The world state: accounts, code and storage in SQLite, read when touched and written as differences.

EELS keeps its state in tries whose contents are plain dicts, and copies all of them at every message call.
``OverlayMap`` stands in for those dicts: a copy costs nothing, and what a transaction changed can be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from galaxylearning.chain.embedded import eels

_MAX_LAYERS = 12
_MAX_KNOWN = 8_192
_ABSENT = object()

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    address BLOB PRIMARY KEY, nonce BLOB NOT NULL, balance BLOB NOT NULL, code_hash BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS codes (hash BLOB PRIMARY KEY, code BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (
    address BLOB NOT NULL, slot BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (address, slot)
) WITHOUT ROWID;
"""


class Rows(Protocol):
    """What lies below an overlay: committed entries, and how many there are."""

    size: int

    def get(self, key: bytes) -> Any | None: ...


class OverlayMap:
    """A dict over committed rows, copied in constant time. Values are never None: None marks a deletion."""

    __slots__ = ("_layers", "_size", "_top", "rows")

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, rows: Rows, layers: tuple[dict[bytes, Any], ...] = (), size: int | None = None
    ) -> None:
        self.rows = rows
        self._layers = layers
        self._top: dict[bytes, Any] = {}
        self._size = rows.size if size is None else size

    def get(self, key: bytes, default: Any = None) -> Any:
        """The value at ``key``, or ``default``."""
        value = self._top.get(key, _ABSENT)
        if value is _ABSENT:
            for layer in self._layers:
                value = layer.get(key, _ABSENT)
                if value is not _ABSENT:
                    break
            else:
                value = self.rows.get(key)
        return default if value is None else value

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return self._size

    def __setitem__(self, key: bytes, value: Any) -> None:
        if self.get(key) is None:
            self._size += 1
        self._top[key] = value

    def __delitem__(self, key: bytes) -> None:
        if self.get(key) is None:
            raise KeyError(key)
        self._size -= 1
        self._top[key] = None

    def __eq__(self, other: object) -> bool:
        """Only ever asked by EELS whether a storage trie became empty."""
        if other == {}:
            return self._size == 0
        return NotImplemented

    def __copy__(self) -> OverlayMap:
        if self._top:
            layers = (self._top, *self._layers)
            if len(layers) > _MAX_LAYERS:
                layers = (_merge(layers),)
            self._layers, self._top = layers, {}
        return OverlayMap(self.rows, self._layers, self._size)

    def changes(self) -> dict[bytes, Any]:
        """Every key written since the committed rows with its new value, None where it was deleted."""
        return _merge((self._top, *self._layers))


def _merge(layers: tuple[dict[bytes, Any], ...]) -> dict[bytes, Any]:
    merged: dict[bytes, Any] = {}
    for layer in reversed(layers):
        merged.update(layer)
    return merged


class _Accounts:
    """Committed accounts."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._known: dict[bytes, Any] = {}
        self._codes: dict[bytes, bytes] = {}
        self.size = database.execute("SELECT count(*) FROM accounts").fetchone()[0]

    def get(self, key: bytes) -> Any | None:
        key = bytes(key)
        if key not in self._known:
            row = self._database.execute(
                "SELECT nonce, balance, code_hash FROM accounts WHERE address = ?", (key,)
            ).fetchone()
            self._known[key] = None if row is None else eels.account(
                int.from_bytes(row[0]), int.from_bytes(row[1]), b"" if row[2] is None else self._code(row[2])
            )  # fmt: skip
        return self._known[key]

    def trim(self) -> None:
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
            self._codes.clear()

    def _code(self, code_hash: bytes) -> bytes:
        if code_hash not in self._codes:
            row = self._database.execute("SELECT code FROM codes WHERE hash = ?", (code_hash,)).fetchone()
            self._codes[code_hash] = row[0]
        return self._codes[code_hash]

    def adopt(self, changes: dict[bytes, Any]) -> None:
        # Whoever wrote a key looked it up first: its old value is known. The database has the new one by now.
        for key, value in changes.items():
            self.size += (value is not None) - (self._known.get(key) is not None)
            self._known[key] = value


class _Slots:
    """Committed storage of one contract."""

    def __init__(self, database: sqlite3.Connection, address: bytes, size: int) -> None:
        self._database = database
        self._address = address
        self._known: dict[bytes, Any] = {}
        self.size = size

    def get(self, key: bytes) -> Any | None:
        key = bytes(key)
        if key not in self._known:
            row = self._database.execute(
                "SELECT value FROM slots WHERE address = ? AND slot = ?", (self._address, key)
            ).fetchone()
            self._known[key] = None if row is None else eels.word(int.from_bytes(row[0]))
        return self._known[key]

    def trim(self) -> None:
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()

    def adopt(self, changes: dict[bytes, Any]) -> None:
        for key, value in changes.items():
            self.size += (value is not None) - (self._known.get(key) is not None)
            self._known[key] = value


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference a block makes. ``replaced`` are contracts whose earlier storage is gone altogether."""

    accounts: dict[bytes, Any]
    storage: dict[bytes, dict[bytes, Any]]
    replaced: frozenset[bytes]

    def digest(self, previous: bytes) -> bytes:
        """Running commitment to all changes so far, in ascending order of key; 32 bytes."""
        parts = [previous]
        for address, account in sorted(self.accounts.items()):
            parts.append(b"a" + address + (b"" if account is None else eels.encode_account(account)))
        parts.extend(b"r" + address for address in sorted(self.replaced))
        for address, slots in sorted(self.storage.items()):
            for slot, value in sorted(slots.items()):
                parts.append(b"s" + address + slot + (0 if value is None else int(value)).to_bytes(32))
        return eels.keccak256(b"".join(len(part).to_bytes(4) + part for part in parts))


class World:
    """All accounts as of the last whole block."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._accounts = _Accounts(database)
        self._slots = {
            address: _Slots(database, address, size)
            for address, size in database.execute("SELECT address, count(*) FROM slots GROUP BY address")
        }

    def state(self) -> Any:
        """A fresh EELS ``State`` over the committed rows; running a transaction on it changes no row."""
        self._accounts.trim()
        for rows in self._slots.values():
            rows.trim()
        return eels.state(
            OverlayMap(self._accounts), {address: OverlayMap(rows) for address, rows in self._slots.items()}
        )

    def account(self, address: bytes) -> Any:
        """The account at ``address``; an empty one where there is none."""
        found = self._accounts.get(address)
        return eels.account(0, 0, b"") if found is None else found

    def slot(self, address: bytes, slot: bytes) -> int:
        """One storage word, 0 where never written."""
        rows = self._slots.get(address)
        found = None if rows is None else rows.get(slot)
        return 0 if found is None else int(found)

    def changes(self, state: Any) -> Changes:
        """What running transactions on ``state`` changed."""
        storage: dict[bytes, dict[bytes, Any]] = {}
        replaced = set(self._slots) - {bytes(address) for address in state._storage_tries}
        for address, contents in eels.storage_contents(state):
            if isinstance(contents, OverlayMap):
                slots = contents.changes()
            else:
                slots = dict(contents)
                if address in self._slots:
                    replaced.add(address)
            if slots:
                storage[address] = {bytes(slot): value for slot, value in slots.items()}
        accounts = {bytes(key): value for key, value in eels.account_contents(state).changes().items()}
        return Changes(accounts, storage, frozenset(replaced))

    def write(self, changes: Changes) -> None:
        """Put the changes into the open database transaction."""
        run = self._database.execute
        many = self._database.executemany
        for address, account in changes.accounts.items():
            if account is None:
                run("DELETE FROM accounts WHERE address = ?", (address,))
                continue
            code = bytes(account.code)
            code_hash = eels.keccak256(code) if code else None
            if code_hash is not None:
                run("INSERT OR IGNORE INTO codes VALUES (?, ?)", (code_hash, code))
            row = (address, _minimal(account.nonce), _minimal(account.balance), code_hash)
            run("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)", row)
        many("DELETE FROM slots WHERE address = ?", [(address,) for address in changes.replaced])
        for address, slot, value in _entries(changes):
            if value is None:
                run("DELETE FROM slots WHERE address = ? AND slot = ?", (address, slot))
            else:
                run("INSERT OR REPLACE INTO slots VALUES (?, ?, ?)", (address, slot, _minimal(value)))

    def adopt(self, changes: Changes) -> None:
        """Make the changes the committed state in memory; called once the database has them for good."""
        self._accounts.adopt(changes.accounts)
        for address in changes.replaced:
            del self._slots[address]
        for address, slots in changes.storage.items():
            rows = self._slots.setdefault(address, _Slots(self._database, address, 0))
            rows.adopt(slots)
            if rows.size == 0:
                del self._slots[address]


def _entries(changes: Changes) -> Iterator[tuple[bytes, bytes, Any]]:
    for address, slots in changes.storage.items():
        for slot, value in slots.items():
            yield address, slot, value


def _minimal(value: Any) -> bytes:
    number = int(value)
    return number.to_bytes((number.bit_length() + 7) // 8)
