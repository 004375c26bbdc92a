"""What accounts have added to a blob server, and whether there is room for more.

Charged before a blob arrives, on disk, and given back where nothing new came of it: a killed server has
charged too much, never too little. Bytes that are on their way count as if they were stored.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from galaxylearning.errors import StorageError
from galaxylearning.storage.blob_names import AccessRefused, StoreFull
from galaxylearning.storage.database import Database
from galaxylearning.storage.store_settings import Quota

DAY_S: Final = 86_400
STRANGERS: Final = "anyone"
"""Under this name everybody is counted who is not on the list of accounts."""

_APPLICATION_ID: Final = 0x47585355
_SCHEMA: Final = (
    "CREATE TABLE usage (account TEXT NOT NULL, scope TEXT NOT NULL, bytes INTEGER NOT NULL,"
    " blobs INTEGER NOT NULL, PRIMARY KEY (account, scope)) WITHOUT ROWID, STRICT",
)


class DayQuotaSpent(StoreFull):
    """No more today; ``retry_after_s`` seconds from now there is."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, where="quota")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Charge:
    """What was charged to whom, so that it can be given back, and how many bytes are arriving."""

    account: str
    scopes: tuple[str, ...]
    n_bytes: int
    arriving_bytes: int


class StoreUsage:
    """The book of one server's folder.

    Raises:
        StorageError: another server keeps it, or the disk failed.
    """

    def __init__(
        self, folder: Path, *, stored_bytes: int, max_store_bytes: int, keep_free_bytes: int
    ) -> None:
        self._folder = folder
        self._stored_bytes = stored_bytes
        self._arriving_bytes = 0
        self._max_store_bytes = max_store_bytes
        self._keep_free_bytes = keep_free_bytes
        self._database = Database(
            folder / "usage.sqlite",
            kind="book of a blob server",
            application_id=_APPLICATION_ID,
            format_version=1,
            schema=_SCHEMA,
            is_exclusive=True,
        )

    def close(self) -> None:
        """Let another server have it."""
        self._database.close()

    def charge(
        self,
        account: str,
        quota: Quota,
        topic: str | None,
        n_bytes: int,
        *,
        has_blob: bool = False,
        has_entry: bool = False,
        now_s: int,
    ) -> Charge:
        """Charge a blob of ``n_bytes`` that is about to arrive, listed under ``topic`` where one is given.

        The bytes of one that is there already are charged to nobody, nor is one that is listed already; it
        only has to fit on the disk while it arrives.

        Raises:
            DayQuotaSpent: not today any more.
            AccessRefused: the account has added all it may.
            StoreFull: the server has no room.
        """
        self._check_room(n_bytes, has_blob=has_blob)
        arriving_bytes, n_bytes = n_bytes, 0 if has_blob else n_bytes
        if has_blob and (has_entry or topic is None):
            self._arriving_bytes += arriving_bytes
            return Charge(account, (), 0, arriving_bytes)
        day, until_s = now_s // DAY_S, DAY_S - now_s % DAY_S
        limits = [
            (f"day {day}", quota.bytes_per_day, quota.blobs_per_day),
            ("all", quota.bytes_total, quota.blobs_total),
        ]
        if topic is not None:
            limits.append((f"topic {topic}", n_bytes + (1 << 60), quota.blobs_per_topic))
        for scope, max_bytes, max_blobs in limits:
            used_bytes, used_blobs = self.used(account, scope)
            if used_bytes + n_bytes <= max_bytes and used_blobs + 1 <= max_blobs:
                continue
            told = f"{account} has added {used_blobs} blobs of {used_bytes} bytes ({scope}); "
            told += f"{max_blobs} blobs" + ("" if scope.startswith("topic") else f" of {max_bytes} bytes")
            if scope.startswith("day"):
                raise DayQuotaSpent(f"{told} allowed", retry_after_s=until_s)
            raise AccessRefused(f"{told} allowed", where="quota")
        self._database.execute("DELETE FROM usage WHERE scope LIKE 'day %' AND scope <> ?", (f"day {day}",))
        charge = Charge(account, tuple(scope for scope, _, _ in limits), n_bytes, arriving_bytes)
        self._add(charge, n_bytes, 1)
        self._arriving_bytes += arriving_bytes
        return charge

    def settle(self, charge: Charge, *, is_new_blob: bool, is_new_entry: bool) -> None:
        """The blob has come, or has not: give back what was not used."""
        self._arriving_bytes -= charge.arriving_bytes
        if is_new_blob:
            self._stored_bytes += charge.arriving_bytes
        if charge.scopes and not (is_new_blob and is_new_entry):
            n_bytes = 0 if is_new_blob else charge.n_bytes
            self._add(charge, -n_bytes, 0 if is_new_blob or is_new_entry else -1)

    def used(self, account: str, scope: str) -> tuple[int, int]:
        """Bytes and blobs an account has added in a scope."""
        rows = self._database.execute(
            "SELECT bytes, blobs FROM usage WHERE account = ? AND scope = ?", (account, scope)
        )
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    def _check_room(self, n_bytes: int, *, has_blob: bool) -> None:
        would_hold = self._stored_bytes + self._arriving_bytes + n_bytes
        if not has_blob and would_hold > self._max_store_bytes:
            raise StoreFull(f"the store would hold {would_hold} bytes; {self._max_store_bytes} allowed")
        try:
            free_bytes = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise StorageError(f"could not ask: {error.strerror}", where=str(self._folder)) from error
        if free_bytes - self._arriving_bytes - n_bytes < self._keep_free_bytes:
            raise StoreFull(f"the disk must keep {self._keep_free_bytes} bytes free")

    def _add(self, charge: Charge, n_bytes: int, n_blobs: int) -> None:
        """One statement, so that all scopes change or none."""
        places = ", ".join(["(?, ?, ?, ?)"] * len(charge.scopes))
        values = [value for scope in charge.scopes for value in (charge.account, scope, n_bytes, n_blobs)]
        self._database.execute(
            f"INSERT INTO usage VALUES {places} ON CONFLICT (account, scope) "
            "DO UPDATE SET bytes = bytes + excluded.bytes, blobs = blobs + excluded.blobs",
            values,
        )
