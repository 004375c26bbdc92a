"""Blocks, transactions and logs in one SQLite file, one database transaction per block."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galaxylearning.chain.embedded import eels, world
from galaxylearning.chain.embedded.eels import Log
from galaxylearning.errors import StorageError

FORMAT = "1"
MAX_LOGS = 100_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, header BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS transactions (
    hash BLOB PRIMARY KEY, block_number INTEGER NOT NULL UNIQUE, raw BLOB NOT NULL,
    has_succeeded INTEGER NOT NULL, contract_address BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (
    block_number INTEGER NOT NULL, log_index INTEGER NOT NULL, address BLOB NOT NULL,
    topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL,
    PRIMARY KEY (block_number, log_index)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS logs_by_address ON logs (address, topic1);
CREATE INDEX IF NOT EXISTS logs_by_topic ON logs (topic0);
"""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block's header (EELS), hash and number."""

    number: int
    hash: bytes
    header: Any


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """A mined transaction as stored; everything else about it follows from ``raw`` and its block."""

    hash: bytes
    block_number: int
    raw: bytes
    has_succeeded: bool
    contract_address: bytes | None


@dataclass(frozen=True, slots=True)
class LogRow:
    """A log entry and where it is."""

    block_number: int
    log_index: int
    transaction_hash: bytes
    log: Log


class Store:
    """The file. It is held exclusively: a second process that opens it is refused.

    Raises:
        StorageError: the file cannot be opened, is not such a file, is in use, or the disk failed.
    """

    def __init__(self, path: Path | None) -> None:
        self._where = ":memory:" if path is None else str(path)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(
                self._where, timeout=0, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot open the chain's file: {error}", where=self._where) from error
        try:
            self.database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.database.execute("PRAGMA journal_mode = WAL")
            self.database.execute("PRAGMA synchronous = FULL")
            self.database.executescript("BEGIN IMMEDIATE;" + _SCHEMA + world.SCHEMA + "COMMIT;")
        except sqlite3.Error as error:
            self.database.close()
            if "locked" in str(error):
                reason = "another process has this chain open; let it serve the chain and use its URL"
            else:
                reason = f"not a usable chain file: {error}"
            raise StorageError(reason, where=self._where) from error

    def close(self) -> None:
        """Release the file."""
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: what is written inside is on disk afterwards, or an error left no trace of it."""
        try:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"a block could not be stored: {error}", where=self._where) from error

    def meta(self, name: str) -> Any:
        """A setting of this chain, None where never set."""
        row = self.database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, name: str, value: int | str | bytes) -> None:
        """Store a setting within the open transaction."""
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def add_block(self, block: BlockRow, transaction: TransactionRow | None, logs: Sequence[Log]) -> None:
        """Append a block within the open transaction."""
        run = self.database.execute
        run(
            "INSERT INTO blocks VALUES (?, ?, ?)",
            (block.number, block.hash, eels.encode_header(block.header)),
        )
        if transaction is not None:
            run(
                "INSERT INTO transactions VALUES (?, ?, ?, ?, ?)",
                (
                    transaction.hash,
                    transaction.block_number,
                    transaction.raw,
                    int(transaction.has_succeeded),
                    transaction.contract_address,
                ),
            )
        self.database.executemany(
            "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (block.number, index, log.address, *log.topics, *[None] * (4 - len(log.topics)), log.data)
                for index, log in enumerate(logs)
            ],
        )

    def head(self) -> BlockRow | None:
        """The last block, None on a new chain."""
        return self._block("ORDER BY number DESC LIMIT 1", ())

    def block_by_number(self, number: int) -> BlockRow | None:
        """The block at a height."""
        return self._block("WHERE number = ?", (number,))

    def block_by_hash(self, block_hash: bytes) -> BlockRow | None:
        """The block with a hash."""
        return self._block("WHERE hash = ?", (block_hash,))

    def _block(self, condition: str, values: tuple[Any, ...]) -> BlockRow | None:
        row = self.database.execute(f"SELECT number, hash, header FROM blocks {condition}", values).fetchone()
        return None if row is None else BlockRow(row[0], row[1], eels.decode_header(row[2]))

    def recent_hashes(self, count: int) -> list[bytes]:
        """Hashes of the last ``count`` blocks, oldest first."""
        rows = self.database.execute("SELECT hash FROM blocks ORDER BY number DESC LIMIT ?", (count,))
        return [row[0] for row in rows][::-1]

    def transaction_by_hash(self, transaction_hash: bytes) -> TransactionRow | None:
        """A mined transaction."""
        return self._transaction("WHERE hash = ?", transaction_hash)

    def transaction_of_block(self, number: int) -> TransactionRow | None:
        """The transaction of a block, where it has one."""
        return self._transaction("WHERE block_number = ?", number)

    def _transaction(self, condition: str, value: Any) -> TransactionRow | None:
        row = self.database.execute(
            f"SELECT hash, block_number, raw, has_succeeded, contract_address FROM transactions {condition}",
            (value,),
        ).fetchone()
        return None if row is None else TransactionRow(row[0], row[1], row[2], bool(row[3]), row[4])

    def logs(
        self,
        first: int,
        last: int,
        addresses: Sequence[bytes] = (),
        topics: Sequence[Sequence[bytes]] = (),
    ) -> list[LogRow]:
        """Logs of blocks ``first`` to ``last``, oldest first, at most ``MAX_LOGS`` + 1 of them."""
        conditions, values = ["l.block_number BETWEEN ? AND ?"], [first, last]
        choices: list[Any] = values
        for column, allowed in (("address", addresses), *((f"topic{i}", c) for i, c in enumerate(topics))):
            if allowed:
                conditions.append(f"l.{column} IN ({','.join('?' * len(allowed))})")
                choices.extend(allowed)
        # A position the filter mentions must exist, even where any value will do.
        conditions.extend(f"l.topic{index} IS NOT NULL" for index in range(len(topics)))
        query = (
            "SELECT l.block_number, l.log_index, t.hash, l.address,"
            " l.topic0, l.topic1, l.topic2, l.topic3, l.data"
            " FROM logs l JOIN transactions t ON t.block_number = l.block_number"
            f" WHERE {' AND '.join(conditions)} ORDER BY l.block_number, l.log_index LIMIT {MAX_LOGS + 1}"
        )
        rows = []
        for number, index, transaction_hash, address, *indexed, data in self.database.execute(query, choices):
            log = Log(address, tuple(topic for topic in indexed if topic is not None), data)
            rows.append(LogRow(number, index, transaction_hash, log))
        return rows
