"""A node's outbox in one SQLite file: every transaction is on disk, signed, before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from galaxylearning.errors import StorageError
from galaxylearning.ports import OutboxEntry
from galaxylearning.storage.database import Database
from galaxylearning.units import Address, Digest

_FIELDS: Final = (
    "effect, account, nonce, recipient, data, gas, max_fee_wei, priority_fee_wei, state, raws, first_sent_s, "
    "last_sent_s, block_number, block_hash, is_told, reason"
)
_SCHEMA: Final = (
    "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, effect BLOB NOT NULL, "
    "account TEXT NOT NULL, nonce INTEGER NOT NULL, recipient TEXT, data BLOB NOT NULL, "
    "gas INTEGER NOT NULL, max_fee_wei INTEGER NOT NULL, priority_fee_wei INTEGER NOT NULL, "
    "state TEXT NOT NULL, raws BLOB NOT NULL, first_sent_s INTEGER NOT NULL, last_sent_s INTEGER NOT NULL, "
    "block_number INTEGER NOT NULL, block_hash BLOB NOT NULL, is_told INTEGER NOT NULL, "
    "reason TEXT NOT NULL) STRICT",
    "CREATE INDEX entries_by_effect ON entries (effect, number)",
    "CREATE INDEX entries_unfinished ON entries (account, nonce, number) "
    "WHERE state NOT IN ('final', 'void')",
)
_raws = msgspec.msgpack.Decoder(tuple[bytes, ...])


class SqliteOutbox:
    """Implements ``ports.Outbox``: WAL, every change synced, one holder at a time.

    Of what is final or void, calls and raw transactions are dropped; the line that it happened stays.

    Raises:
        StorageError: another process holds it, it is not an outbox, or the disk failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(
            path,
            kind="outbox",
            application_id=0x474C584F,
            format_version=1,
            schema=_SCHEMA,
            is_exclusive=True,
        )

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        """See ``ports.Outbox.add``; on disk when this returns.

        Raises:
            StorageError: the disk is full or failed; nothing was written.
        """
        statement = f"INSERT INTO entries ({_FIELDS}) VALUES ({', '.join('?' * 16)}) RETURNING number"
        ((number,),) = self._database.execute(statement, _values(entry))
        return replace(entry, number=number)

    def save(self, entry: OutboxEntry) -> OutboxEntry:
        """See ``ports.Outbox.save``; on disk when this returns.

        Raises:
            StorageError: the disk is full or failed; the old state stands.
        """
        statement = f"REPLACE INTO entries (number, {_FIELDS}) VALUES ({', '.join('?' * 17)})"
        self._database.execute(statement, (entry.number, *_values(entry)))
        return entry

    def last(self, effect: Digest) -> OutboxEntry | None:
        """See ``ports.Outbox.last``."""
        rows = self._database.execute(
            f"SELECT number, {_FIELDS} FROM entries WHERE effect = ? "
            "AND state NOT IN ('final', 'void') ORDER BY number DESC LIMIT 1",
            (effect,),
        )
        return self._entry(rows[0]) if rows else None

    def unfinished(self, account: Address | None = None) -> Sequence[OutboxEntry]:
        """See ``ports.Outbox.unfinished``."""
        rows = self._database.execute(
            f"SELECT number, {_FIELDS} FROM entries WHERE state NOT IN ('final', 'void') "
            "AND account = coalesce(?, account) ORDER BY account, nonce, number",
            (account,),
        )
        return [self._entry(row) for row in rows]

    def _entry(self, row: tuple[Any, ...]) -> OutboxEntry:
        names = OutboxEntry.__dataclass_fields__
        try:
            fields = dict(zip(names, row, strict=True))
            fields |= {"raws": _raws.decode(fields["raws"]), "is_told": bool(fields["is_told"])}
            return msgspec.convert(fields, OutboxEntry)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StorageError(
                f"an entry of the outbox is damaged: {error}", where=str(self._path)
            ) from error

    def close(self) -> None:
        """Let another process have the outbox."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _values(entry: OutboxEntry) -> tuple[Any, ...]:
    is_over = entry.state in ("final", "void")
    return (
        bytes(entry.effect),
        entry.account,
        entry.nonce,
        entry.to,
        b"" if is_over else entry.data,
        entry.gas,
        entry.max_fee_wei,
        entry.priority_fee_wei,
        entry.state,
        msgspec.msgpack.encode(() if is_over else entry.raws),
        entry.first_sent_s,
        entry.last_sent_s,
        entry.block_number,
        entry.block_hash,
        int(entry.is_told),
        entry.reason,
    )
