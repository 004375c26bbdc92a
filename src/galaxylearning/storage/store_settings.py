"""``store.json``: what a blob server listens on, whom it serves, how much it takes. Units are in the keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from galaxylearning.errors import ConfigRefused, MessageRefused
from galaxylearning.listening import Listening
from galaxylearning.messages.explained import explained
from galaxylearning.messages.fields import check_address
from galaxylearning.storage.blob_names import DEFAULT_MAX_BLOB_BYTES
from galaxylearning.units import Address

MAX_SETTINGS_BYTES: Final = 1 << 20
HOW_TO_GIVE_KEYS: Final = "--allow ACCOUNT for each account that may write, or --anyone-mib-per-day"

_MAX: Final = 1 << 53


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much one account may add. A day begins at midnight UTC; a blob counts once for each topic."""

    bytes_per_day: int = _MAX
    blobs_per_day: int = _MAX
    bytes_total: int = _MAX
    blobs_total: int = _MAX
    blobs_per_topic: int = _MAX


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one blob server.

    ``accounts`` are served, each within ``quota``. Everybody else shares ``anyone``; null serves nobody else.
    Left out, strangers are served without limit on loopback and not at all elsewhere. ``names`` are what
    clients call the server (``host`` or ``host:port``); signatures made for other names are refused. Without
    names, the request's own ``Host`` counts, which tells one server from another only while nobody forges it.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    tls_certificate: str = ""
    tls_key: str = ""
    is_behind_proxy: bool = False
    names: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    quota: Quota = Quota()
    anyone: Quota | msgspec.UnsetType | None = msgspec.UNSET
    must_sign_writes: bool = False
    must_sign_reads: bool = False
    max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES
    max_store_bytes: int = _MAX
    keep_free_bytes: int = 256 << 20
    max_topic_blobs: int = 20_000
    max_connections: int = 256
    max_connections_per_address: int = 256
    stall_timeout_ms: int = 30_000
    min_bytes_per_s: int = 16_384

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_blob_bytes", 1, _MAX),
            ("max_store_bytes", 0, _MAX),
            ("keep_free_bytes", 0, _MAX),
            ("max_topic_blobs", 1, 100_000),
            ("max_connections", 1, 65_535),
            ("max_connections_per_address", 1, 65_535),
            ("stall_timeout_ms", 10, 3_600_000),
            ("min_bytes_per_s", 1, 1 << 30),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigRefused(f"must be from {low} to {high}", where=name)
        for account in self.accounts:
            try:
                check_address(account, "accounts")
            except MessageRefused as error:
                raise ConfigRefused(str(error)) from error
        for quota in (self.quota, self.anyone):
            if isinstance(quota, Quota) and min(msgspec.structs.astuple(quota)) < 0:
                raise ConfigRefused("must be from 0", where="quota")
        for name in self.names:
            if not name or name != name.lower() or not name.isascii() or "/" in name:
                raise ConfigRefused(
                    f"{name[:80]!r} given; allowed: host or host:port, lower case", where="names"
                )

    def changed(self, given: Mapping[str, Any]) -> StoreSettings:
        """These settings with some replaced, checked again.

        Raises:
            ConfigRefused: a value is not allowed.
        """
        return StoreSettings(**(msgspec.structs.asdict(self) | dict(given)))

    def listening(self, folder: Path) -> Listening:
        """Where to listen; paths are relative to ``folder``."""
        return Listening(
            self.host,
            self.port,
            folder / self.tls_certificate if self.tls_certificate else None,
            folder / self.tls_key if self.tls_key else None,
            is_behind_proxy=self.is_behind_proxy,
            has_keys=bool(self.accounts) or isinstance(self.anyone, Quota),
        )

    def strangers(self, *, is_loopback: bool) -> Quota | None:
        """What accounts that are not listed may add together; None where they are not served."""
        if isinstance(self.anyone, msgspec.UnsetType):
            return Quota() if is_loopback and not self.accounts else None
        return self.anyone

    def known_accounts(self) -> frozenset[Address]:
        """The accounts that have a quota each."""
        return frozenset(Address(account) for account in self.accounts)


def store_settings_from_json(data: bytes) -> StoreSettings:
    """Read settings.

    Raises:
        ConfigRefused: not JSON, an unknown key, or a value that is not allowed.
    """
    if len(data) > MAX_SETTINGS_BYTES:
        raise ConfigRefused(f"{len(data)} bytes; at most {MAX_SETTINGS_BYTES} allowed", where="store.json")
    try:
        return msgspec.json.decode(data, type=StoreSettings)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigRefused(explained(error, StoreSettings), where="store.json") from error
