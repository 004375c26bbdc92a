"""Typed settings of a home folder. Units are part of the keys; unknown keys are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from galaxylearning.errors import ConfigRefused
from galaxylearning.messages.explained import explained

MAX_CONFIG_BYTES: Final = 1 << 16
EMBEDDED: Final = "embedded:"
MAX_STORES: Final = 8
CHAIN_SCHEMES: Final = ("http", "https", "ws", "wss")
STORE_SCHEMES: Final = ("http", "https", "s3")
MAX_WITNESSES: Final = 4
MAX_FINALITY_BLOCKS: Final = 4_096


class BlobAccess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this home reaches its blob stores.

    ``account``: whose key signs requests where a command has no key at hand; its passphrase is asked for.
    ``signs_reads``: for servers that want reads signed, too. ``ca_file``: certificates in PEM that servers
    are checked against in place of the system's, relative to the home. ``timeout_ms``: for connecting and
    every silence. ``retries``: of a request to a store that is the only one. ``copies``: how many of several
    stores must hold a blob before it counts as written.
    """

    account: str = ""
    signs_reads: bool = False
    ca_file: str = ""
    timeout_ms: int = 30_000
    retries: int = 3
    backoff_ms: int = 200
    copies: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("timeout_ms", 10, 3_600_000),
            ("retries", 0, 10),
            ("backoff_ms", 0, 60_000),
            ("copies", 1, MAX_STORES),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigRefused(f"must be from {low} to {high}", where=f"blob_access.{name}")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``galaxy.json`` of a home folder.

    ``chain``: ``embedded:`` (a chain inside this home) or the URL of an EVM node. ``blobs``: a folder,
    relative to the home or absolute, the URL of a blob server, ``s3://bucket/prefix``, or a list of these
    that hold the same. ``deployment``: where the contracts are, as JSON, empty before they are.
    ``poll_ms``: the longest pause between two looks at chain and store; an eighth of it after something new.
    ``stagger_ms``: so long the next evaluator in line waits for the one before.

    ``chain_witnesses``: URLs of further nodes of the same chain. ``finality_blocks``: how far below the head
    a block is final; null leaves it to the node (on development chains: at once). ``final_endpoints``: how
    many of the nodes must agree before a block is final; 0 means all. ``check_blocks``: whether headers must
    have their hashes and logs be proven by receipts; only for chains that hash otherwise it is false.
    ``rpc_timeout_s``: for one answer; ``rpc_patience_s``: so long a node may ask us to wait.
    ``head_stall_s``: a head that stands still for longer is told of; 0 means never. ``drand_url``: a relay of
    the drand network that a job's terms name, for evaluators; empty where others put its rounds on the board.
    ``fee_bump_s``: a transaction that is in no block for so long is offered an eighth more for, up to
    ``max_fee_gwei`` for a unit of gas.
    """

    chain: str = EMBEDDED
    blobs: str | tuple[str, ...] = "."
    deployment: str = ""
    poll_ms: int = 500
    stagger_ms: int = 2_000
    fee_bump_s: int = 45
    max_fee_gwei: int = 500
    blob_access: BlobAccess = BlobAccess()
    chain_witnesses: tuple[str, ...] = ()
    finality_blocks: int | None = None
    final_endpoints: int = 0
    check_blocks: bool = True
    rpc_timeout_s: int = 30
    rpc_patience_s: int = 60
    head_stall_s: int = 600
    drand_url: str = ""

    def __post_init__(self) -> None:
        check_chain(self.chain)
        stores = self.stores
        if not 1 <= len(stores) <= MAX_STORES or not all(stores) or len(set(stores)) < len(stores):
            raise ConfigRefused(f"must name a store, or up to {MAX_STORES} different ones", where="blobs")
        check_stores(stores)
        if self.blob_access.copies > len(stores):
            raise ConfigRefused(f"there are only {len(stores)} stores", where="blob_access.copies")
        for name, low, high in (
            ("poll_ms", 1, 3_600_000),
            ("stagger_ms", 0, 3_600_000),
            ("fee_bump_s", 1, 86_400),
            ("max_fee_gwei", 1, 10**9),
            ("finality_blocks", 0, MAX_FINALITY_BLOCKS),
            ("final_endpoints", 0, 1 + len(self.chain_witnesses)),
            ("rpc_timeout_s", 1, 600),
            ("rpc_patience_s", 0, 3_600),
            ("head_stall_s", 0, 86_400),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigRefused(f"must be from {low} to {high}", where=name)
        if self.chain_witnesses and self.chain == EMBEDDED:
            raise ConfigRefused("an embedded chain has no other nodes", where="chain_witnesses")
        if len(self.chain_witnesses) > MAX_WITNESSES:
            raise ConfigRefused(f"at most {MAX_WITNESSES} allowed", where="chain_witnesses")
        if self.drand_url and not self.drand_url.startswith(("http://", "https://")):
            raise ConfigRefused("must be a URL of http or https", where="drand_url")
        for witness in self.chain_witnesses:
            if witness == EMBEDDED or witness == self.chain:
                raise ConfigRefused("must be the URL of another node", where="chain_witnesses")
            check_chain(witness, where="chain_witnesses")

    @property
    def stores(self) -> tuple[str, ...]:
        """Every store that ``blobs`` names."""
        return (self.blobs,) if isinstance(self.blobs, str) else self.blobs

    def with_store(self, name: str) -> Settings:
        """The same with one of its stores alone."""
        access = msgspec.structs.replace(self.blob_access, copies=1)
        return msgspec.structs.replace(self, blobs=name, blob_access=access)


def check_chain(chain: str, *, where: str = "chain") -> str:
    """``chain`` as it is, where it names a chain.

    Raises:
        ConfigRefused: neither ``embedded:`` nor a URL of http, https, ws or wss.
    """
    if chain == EMBEDDED:
        return chain
    try:
        parts = urlsplit(chain)
        is_url = parts.scheme in CHAIN_SCHEMES and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_url = False
    if not is_url:
        # Path, query and user are not repeated: they may hold a key.
        scheme, divider, rest = chain.partition("://")
        host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        shown = f"{scheme[:20]}{divider}{host[:60]}"
        raise ConfigRefused(
            f"{shown!r} given; allowed: {EMBEDDED!r} or a URL of {', '.join(CHAIN_SCHEMES)}", where=where
        )
    return chain


def check_stores(stores: tuple[str, ...]) -> None:
    """Refuse what looks like a URL and would be taken for a folder.

    Raises:
        ConfigRefused: a URL of another scheme than http, https or s3.
    """
    for store in stores:
        scheme, is_url, _ = store.partition("://")
        if is_url and scheme not in STORE_SCHEMES:
            # The rest is not repeated: it may hold a password.
            raise ConfigRefused(
                f"'{scheme[:20]}://' given; allowed: a folder, or a URL of {', '.join(STORE_SCHEMES)}",
                where="blobs",
            )


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything of one user lies."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """``galaxy.json``."""
        return self.root / "galaxy.json"

    @property
    def chain_file(self) -> Path:
        """Database of the embedded chain."""
        return self.root / "chain.sqlite"

    @property
    def keys(self) -> Path:
        """Folder of the keystore."""
        return self.root / "keys"

    @property
    def catalogue(self) -> Path:
        """Database of the data owner's data sets."""
        return self.root / "data.sqlite"

    @property
    def privacy_book(self) -> Path:
        """Database of what was told of the data owner's data sets."""
        return self.root / "privacy.sqlite"

    @property
    def issuer_salt(self) -> Path:
        """The secret behind the pseudonyms that an issuer gives organisations."""
        return self.root / "issuer.salt"

    @property
    def policy(self) -> Path:
        """The data owner's policy."""
        return self.root / "policy.json"

    @property
    def store_settings(self) -> Path:
        """Settings of the blob server that serves this home's blobs."""
        return self.root / "store.json"

    def journal(self, name: str) -> Path:
        """Journal of one node."""
        return self.root / "journals" / f"{name}.sqlite"

    def outbox(self, name: str) -> Path:
        """Outbox of one node: its transactions."""
        return self.root / "journals" / f"{name}.outbox.sqlite"

    def checkpoints(self, name: str) -> Path:
        """Folder of the checkpoints of one node's trainings."""
        return self.root / "checkpoints" / name

    def is_new(self) -> bool:
        """Whether there are no settings yet."""
        return not self.settings_file.exists()


def settings_from_json(data: bytes) -> Settings:
    """Read settings.

    Raises:
        ConfigRefused: not JSON, an unknown key, or a value that is not allowed.
    """
    return _from_json(data, Settings, "galaxy.json")


def settings_to_json(settings: Settings) -> bytes:
    """Settings as they are kept, readable."""
    return msgspec.json.format(msgspec.json.encode(settings), indent=2)


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What others need to meet on a chain: a file that its operator hands out. Nothing in it is
    secret, but for an access key that ``chain`` may hold: who has the file may use that node.

    ``chain`` is the URL of an EVM node, ``jobs`` the address of its GalaxyJobs contract, ``blobs`` the URL of
    a blob store (or a folder that all of them share, or a list of these), ``from_block`` a block before
    which there is nothing of Galaxy.
    """

    chain: str
    jobs: str
    blobs: str | tuple[str, ...]
    from_block: int = 0

    def __post_init__(self) -> None:
        if check_chain(self.chain) == EMBEDDED:
            raise ConfigRefused(
                f"{EMBEDDED!r} given; allowed: a URL that others can reach, such as 'galaxy chain' prints",
                where="chain",
            )
        if not self.blobs:
            raise ConfigRefused("must name a folder or a URL", where="blobs")
        check_stores((self.blobs,) if isinstance(self.blobs, str) else self.blobs)
        if not 0 <= self.from_block < 1 << 63:
            raise ConfigRefused("must be 0 or more", where="from_block")


def invitation_from_json(data: bytes) -> Invitation:
    """Read an invitation.

    Raises:
        ConfigRefused: not JSON, an unknown key, or a value that is not allowed.
    """
    return _from_json(data, Invitation, "invitation")


def invitation_to_json(invitation: Invitation) -> bytes:
    """An invitation as it is handed out, readable."""
    return msgspec.json.format(msgspec.json.encode(invitation), indent=2) + b"\n"


_T = TypeVar("_T", bound=msgspec.Struct)


def _from_json(data: bytes, kind: type[_T], where: str) -> _T:
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigRefused(f"{len(data)} bytes; at most {MAX_CONFIG_BYTES} allowed", where=where)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigRefused(explained(error, kind), where=where) from error
