"""The one place that picks adapters: from a home folder to the ports that nodes stand on."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from galaxylearning.config import EMBEDDED, Home, Settings, check_chain, settings_from_json, settings_to_json
from galaxylearning.errors import ConfigRefused, GalaxyError, StorageError
from galaxylearning.messages import typed
from galaxylearning.messages.records import SignedRevocation, encode
from galaxylearning.nodes.site import Progress, Site, ignore_progress, ignore_pulse, registry_topic
from galaxylearning.ports import BlobStore, Call, DrandNetwork, Journal, Ledger, Signer
from galaxylearning.storage import files
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.stores import opened_blobs
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from galaxylearning.protocol.consent import OwnerPolicy
    from galaxylearning.sandbox.locked import LockedTrainer
    from galaxylearning.storage.checkpoints import CheckpointFolder
    from galaxylearning.storage.datasets import DatasetCatalog
    from galaxylearning.storage.journal import SqliteJournal
    from galaxylearning.storage.outbox import SqliteOutbox
    from galaxylearning.storage.privacy_book import SqlitePrivacyBook

GAS_MONEY_WEI = 10**19
UNBONDING_S = 7 * 86_400
SERVED_CHAIN = "chain.url"
MAX_URL_CHARS = 1_000


def entropy(n_bytes: int) -> bytes:
    """Secrets, from the operating system."""
    return os.urandom(n_bytes)


def chain_clock() -> int:
    """What the embedded chain takes for the time of a new block: Unix seconds."""
    return int(time.time())


class WallClock:
    """Implements ``ports.Clock``."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; only differences mean anything."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let others work meanwhile."""
        await anyio.sleep(seconds)


async def on_a_thread(work: Callable[[], None]) -> None:
    """Implements ``ports.Aside``: signs of life, metrics and other nodes go on meanwhile."""
    await anyio.to_thread.run_sync(work)


def load_settings(home: Home, **overrides: Any) -> Settings:
    """The settings of a home (the defaults where there are none), with what was given on the command line.

    Raises:
        ConfigRefused: a setting is not allowed.
    """
    kept = Settings()
    if not home.is_new():
        kept = settings_from_json(home.settings_file.read_bytes())
    given = {name: value for name, value in overrides.items() if value is not None}
    if "chain" in given:
        check_chain(given["chain"])
        if given["chain"] != kept.chain:
            # What is said of one chain's nodes is not true of another's.
            given = {"chain_witnesses": (), "final_endpoints": 0, "finality_blocks": None, **given}
    return msgspec.structs.replace(kept, **given)


def save_settings(home: Home, settings: Settings) -> None:
    """Write the settings of a home, whole or not at all.

    Raises:
        StorageError: the disk is full or failed.
    """
    files.make_folder(home.root)
    # The URL of a chain may hold an access key: nobody else's to read.
    files.replace_whole(home.settings_file, settings_to_json(settings), mode=0o600)


@dataclass(frozen=True, slots=True)
class World:
    """The chain and the blob store of a home, open."""

    home: Home
    settings: Settings
    node: Any
    """What speaks JSON-RPC: a URL or an embedded chain."""
    ledger: Ledger
    blobs: BlobStore
    drand: DrandNetwork | None = None


@asynccontextmanager
async def open_node(home: Home, settings: Settings) -> AsyncIterator[Any]:
    """The chain a home's settings name: its URL, or the embedded chain, open or where it is being served."""
    url = settings.chain if settings.chain != EMBEDDED else served_chain(home)
    if url is not None:
        yield url
        return
    from galaxylearning.chain.embedded import EmbeddedChain

    files.make_folder(home.root)
    chain = EmbeddedChain(home.chain_file, now=chain_clock)
    try:
        yield chain
    finally:
        chain.close()


@contextmanager
def announce_chain(home: Home, url: str) -> Iterator[None]:
    """Let this home's other commands use the chain at ``url`` while the block runs.

    Raises:
        StorageError: the home cannot be written to.
    """
    path = home.root / SERVED_CHAIN
    try:
        # An access key may be part of the URL: nobody else's to read.
        file = open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")  # noqa: SIM115 - closed below
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate()
        file.write(url)
        file.flush()
    except OSError as error:
        raise StorageError(str(error), where=str(path)) from error
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def served_chain(home: Home) -> str | None:
    """Where this home's embedded chain is being served; a file that a dead server left does not count."""
    try:
        with (home.root / SERVED_CHAIN).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(MAX_URL_CHARS)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return None


@asynccontextmanager
async def open_world(
    home: Home, *, node: str | None = None, signer: Signer | None = None, **overrides: Any
) -> AsyncIterator[World]:
    """The chain and the blob store of a home, until the block ends; ``signer`` signs what servers are asked.

    With ``node``, the name of its journal, every transaction is kept in that node's outbox, and those that an
    earlier process left are taken up first.

    Raises:
        ConfigRefused: settings that are not allowed, or contracts that are not deployed.
        LedgerUnreachable: nothing answers at the chain's URL.
        StorageError: another process runs this very node.
    """
    from galaxylearning.chain.evm import Deployment, Following, connect
    from galaxylearning.chain.transactions import Fees

    settings = load_settings(home, **overrides)
    if not settings.deployment:
        raise ConfigRefused(
            "no contracts are known; 'galaxy chain join' takes those of others, 'galaxy chain' or "
            "'galaxy chain deploy' makes new ones",
            where=str(home.settings_file),
        )
    async with AsyncExitStack() as stack:
        outbox = None if node is None else stack.enter_context(open_outbox(home, node))
        place = await stack.enter_async_context(open_node(home, settings))
        ledger = await connect(
            [place, *settings.chain_witnesses],
            Deployment.from_json(settings.deployment),
            request_timeout_s=settings.rpc_timeout_s,
            patience_s=settings.rpc_patience_s,
            following=Following(
                finality_blocks=settings.finality_blocks,
                final_endpoints=settings.final_endpoints,
                is_checked=settings.check_blocks,
                head_stall_s=settings.head_stall_s,
            ),
            outbox=outbox,
            fees=Fees(bump_after_s=settings.fee_bump_s, max_fee_wei=settings.max_fee_gwei * 10**9),
        )
        stack.push_async_callback(ledger.close)
        blobs = await stack.enter_async_context(opened_blobs(home, settings, signer=signer))
        drand = None
        if settings.drand_url:
            from galaxylearning.chain.drand_http import HttpDrand

            drand = HttpDrand(settings.drand_url, timeout_s=settings.rpc_timeout_s)
        yield World(home, settings, place, ledger, blobs, drand)


async def deploy_contracts(home: Home, signer: Signer, **overrides: Any) -> Settings:
    """Deploy token, registry and jobs contract and remember where they are; returns the new settings.

    Raises:
        LedgerError: the node refused, or nobody there can pay for it.
    """
    from galaxylearning.chain.evm import deploy, fund

    settings = load_settings(home, **overrides)
    async with open_node(home, settings) as node:
        await fund(node, signer.address, GAS_MONEY_WEI)
        deployment = await deploy(node, signer, unbonding_s=UNBONDING_S)
    settings = msgspec.structs.replace(settings, deployment=deployment.to_json())
    save_settings(home, settings)
    return settings


async def join_contracts(home: Home, settings: Settings, jobs: Address, *, block_number: int) -> Settings:
    """Remember contracts that are on a chain already, found from the jobs contract; returns the new settings.

    Raises:
        ConfigRefused: there is no GalaxyJobs at ``jobs``, or its registry is another one's.
        LedgerUnreachable: nothing answers at the chain's URL.
    """
    from galaxylearning.chain.evm import connect
    from galaxylearning.chain.lookups import contracts_of

    async with open_node(home, settings) as node:
        deployment = await contracts_of(node, jobs, block_number=block_number)
        await (await connect(node, deployment)).close()
    settings = msgspec.structs.replace(settings, deployment=deployment.to_json())
    save_settings(home, settings)
    return settings


async def fund_account(world: World, address: Address, *, wei: int, token_units: int) -> bool:
    """Coins and demo tokens from the node's unlocked account; whether tokens were minted.

    Raises:
        LedgerError: the node has no unlocked account, or refused.
    """
    from galaxylearning.chain.evm import Deployment, fund
    from galaxylearning.chain.lookups import mint_demo_tokens

    await fund(world.node, address, wei)
    deployment = Deployment.from_json(world.settings.deployment)
    return await mint_demo_tokens(world.node, deployment, address, token_units)


async def balances(world: World, address: Address) -> dict[str, Any]:
    """What an account owns: coins, tokens and stake, as decimal strings of smallest units.

    Raises:
        LedgerError: the chain could not be read.
    """
    from galaxylearning.chain.lookups import balance_wei

    known = await world.ledger.read(Call("registry", "evaluator", (address,)))
    return {
        "address": address,
        "coins_wei": str(await balance_wei(world.node, address)),
        "tokens": str(await world.ledger.read(Call("token", "balanceOf", (address,)))),
        "staked": str(known["staked"]),
        "is_evaluator": any(bytes(known["sealingKeyDigest"])),
    }


def read_policy(home: Home) -> OwnerPolicy:
    """The data owner's policy; one that allows nothing where there is no file.

    Raises:
        ConfigRefused: it cannot be read, or is not acceptable.
    """
    from galaxylearning.protocol.consent import MAX_POLICY_BYTES, OwnerPolicy, policy_from_json

    try:
        data = files.read_whole(home.policy, max_bytes=MAX_POLICY_BYTES)
    except FileNotFoundError:
        return OwnerPolicy()
    except StorageError as error:
        raise ConfigRefused(str(error)) from error
    if data is None:
        raise ConfigRefused(f"must be a file of at most {MAX_POLICY_BYTES} bytes", where=str(home.policy))
    return policy_from_json(data)


def save_policy(home: Home, policy: OwnerPolicy) -> None:
    """Write the data owner's policy, whole or not at all.

    Raises:
        ConfigRefused: it would be too long to be read again.
        StorageError: the disk is full or failed.
    """
    from galaxylearning.protocol.consent import MAX_POLICY_BYTES

    data = msgspec.json.format(msgspec.json.encode(policy), indent=2) + b"\n"
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigRefused(
            f"would have {len(data)} bytes; at most {MAX_POLICY_BYTES} allowed", where="policy"
        )
    files.make_folder(home.root)
    files.replace_whole(home.policy, data)


def locked_trainer(
    policy: Callable[[], OwnerPolicy], checkpoints: CheckpointFolder | None = None
) -> LockedTrainer:
    """What trains for a data owner's node: a locked worker under the caps of the policy as it stands."""
    from galaxylearning.sandbox.caps import Caps
    from galaxylearning.sandbox.locked import LockedTrainer

    return LockedTrainer(lambda: Caps.of(policy()), checkpoints=checkpoints)


async def post_revocation(world: World, signer: Signer, commitment: Digest, schema_digest: Digest) -> None:
    """Sign that a data set may not be used any more, and publish it for anybody to relay.

    Raises:
        StorageError: the store failed.
    """
    registration = typed.DatasetRegistration(signer.address, commitment, schema_digest)
    revocation = typed.DatasetRevocation(signer.address, registration.dataset_id())
    site = site_of(world, signer, MemoryJournal())
    signature = signer.sign_digest(revocation.digest(site.registry_domain()))
    record = SignedRevocation.from_message(revocation, signature=signature)
    await world.blobs.put(encode(record), topic=registry_topic(world.ledger, "revocations"))


def open_journal(home: Home, name: str) -> SqliteJournal:
    """The journal of one node; a second process is refused."""
    from galaxylearning.storage.journal import SqliteJournal

    path = home.journal(name)
    files.make_folder(path.parent)
    return SqliteJournal(path)


def open_outbox(home: Home, name: str) -> SqliteOutbox:
    """The transactions of one node; a second process is refused."""
    from galaxylearning.storage.outbox import SqliteOutbox

    return SqliteOutbox(home.outbox(name))


def open_checkpoints(home: Home, name: str) -> CheckpointFolder:
    """Where one data owner's node saves long trainings."""
    from galaxylearning.storage.checkpoints import CheckpointFolder

    return CheckpointFolder(home.checkpoints(name), monotonic_s=time.monotonic)


def open_privacy_book(home: Home, catalogue: DatasetCatalog) -> SqlitePrivacyBook:
    """What was told of the data sets of a catalogue, over all jobs."""
    from galaxylearning.storage.privacy_book import SqlitePrivacyBook

    return SqlitePrivacyBook(home.privacy_book, lambda name: catalogue.get(name).content_digest)


def site_of(
    world: World,
    signer: Signer,
    journal: Journal,
    *,
    report: Callable[[Progress], None] = ignore_progress,
    pulse: Callable[[GalaxyError | None], None] = ignore_pulse,
    poll_s: float | None = None,
) -> Site:
    """The ports of one node of this world."""
    return Site(
        ledger=world.ledger,
        blobs=world.blobs,
        clock=WallClock(),
        journal=journal,
        signer=signer,
        entropy=entropy,
        report=report,
        pulse=pulse,
        drand=world.drand,
        poll_s=world.settings.poll_ms / 1000 if poll_s is None else poll_s,
        aside=on_a_thread,
    )
