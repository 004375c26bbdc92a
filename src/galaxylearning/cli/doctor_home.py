"""What ``galaxy doctor`` looks at in a home: permissions, settings, policy, chain, blobs."""

from __future__ import annotations

import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from galaxylearning.cli.findings import Finding, gib, note, ok, problem
from galaxylearning.config import EMBEDDED, Home, Settings
from galaxylearning.errors import ConfigRefused, GalaxyError
from galaxylearning.reaching import shown_url
from galaxylearning.units import how_many

if TYPE_CHECKING:
    from galaxylearning.chain.transport import Transport
    from galaxylearning.ports import Signer

PROBE: Final = b"galaxy doctor\n"
TOPIC: Final = "doctor"
MAX_AHEAD_S: Final = 15
"""A block's time may be a little ahead of this clock."""
MAX_SILENCE_S: Final = 300
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


async def home_findings(home: Home, chain: str | None, signer: Signer | None = None) -> list[Finding]:
    """Everything about a home; one note where there is none. ``signer`` signs what stores are asked."""
    if not home.root.is_dir():
        remedy = "any command that writes makes one, such as 'galaxy wallet new'"
        return [note("home", f"none at {home.root}: only the machine was looked at", remedy)]
    try:
        found = [*_permissions(home)]
    except OSError as error:
        remedy = "run as the user whose home it is"
        return [problem("home", f"cannot be looked at: {error.strerror}: {error.filename}", remedy)]
    found += _policy(home)
    settings = _settings(home, chain)
    if isinstance(settings, Finding):
        return [*found, settings]
    found.append(ok("settings", f"chain {shown_url(settings.chain)}, blobs {', '.join(settings.stores)}"))
    found += [finding async for finding in _chain(home, settings)]
    for store in settings.stores:
        found.append(await _blobs(home, settings, store, signer))
    return found


def _settings(home: Home, chain: str | None) -> Settings | Finding:
    from galaxylearning import bootstrap

    try:
        return bootstrap.load_settings(home, chain=chain)
    except (GalaxyError, OSError) as error:
        return problem("settings", str(error), f"correct {home.settings_file}")


def _permissions(home: Home) -> Iterator[Finding]:
    """Nobody else may write into the home, nobody else may read a key."""
    mode = home.root.stat().st_mode
    if mode & _OTHERS_WRITE:
        found = f"{home.root} can be written by others ({stat.filemode(mode)})"
        yield problem("home", found, f"chmod go-w {home.root}")
    else:
        yield ok("home", f"{home.root} ({stat.filemode(mode)})")
    if not home.keys.is_dir():
        yield note("keys", "none yet", "galaxy wallet new NAME")
        return
    places = [home.keys, *_within(home.keys)]
    open_ones = [path for path in places if path.stat().st_mode & _OTHERS]
    for path in open_ones:
        kind = "700" if path.is_dir() else "600"
        found = f"{path} is open to others ({stat.filemode(path.stat().st_mode)})"
        yield problem("keys", found, f"chmod {kind} {path}")
    if not open_ones:
        count = sum(1 for path in places if path.is_file())
        yield ok("keys", f"{how_many(count, 'file')}, read by their user alone")


def _within(folder: Path) -> Iterator[Path]:
    """Everything in a folder and its folders; links are left out."""
    for path in sorted(folder.iterdir()):
        if not path.is_symlink():
            yield path
            if path.is_dir():
                yield from _within(path)


def _policy(home: Home) -> Iterator[Finding]:
    from galaxylearning import bootstrap

    try:
        policy = bootstrap.read_policy(home)
    except ConfigRefused as error:
        yield problem("policy", f"{error}: a node allows nothing", f"correct {home.policy}")
        return
    caps = (
        f"a training may take {policy.maximum_training_s:,} s, {gib(policy.maximum_memory_bytes)} of memory, "
        f"{gib(policy.maximum_output_bytes)} of output; sandbox {policy.sandbox}"
    )
    if not home.policy.exists():
        yield note("policy", f"no policy.json: only jobs accepted by hand; {caps}")
    else:
        yield ok("policy", caps)


async def _chain(home: Home, settings: Settings) -> AsyncIterator[Finding]:
    from galaxylearning import bootstrap
    from galaxylearning.chain.transport import Transport

    if settings.chain == EMBEDDED and not home.chain_file.exists() and bootstrap.served_chain(home) is None:
        yield note("chain", "the embedded chain has not begun", "galaxy chain, or galaxy chain join URL")
        return
    try:
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(bootstrap.open_node(home, settings))
            transport = Transport(node)
            stack.push_async_callback(transport.close)
            async for finding in _answers(transport, settings):
                yield finding
    except GalaxyError as error:
        remedy = (
            "start it, or set 'chain' in galaxy.json to where it is (galaxy chain join URL --jobs ADDRESS)"
        )
        yield problem("chain", str(error), remedy)


async def _answers(transport: Transport, settings: Settings) -> AsyncIterator[Finding]:
    from galaxylearning.chain.transport import as_int, as_object

    chain_id = as_int(await transport.request("eth_chainId"))
    block = as_object(await transport.request("eth_getBlockByNumber", "latest", False))
    yield ok("chain", f"answers; chain id {chain_id}, block {as_int(block['number'])}")
    if settings.chain != EMBEDDED:
        yield _clock(as_int(block["timestamp"]), time.time())
    yield await _finality(transport)
    async for finding in _contracts(transport, settings, chain_id):
        yield finding


def _clock(block_s: int, now_s: float) -> Finding:
    """This machine's clock against the latest block's time."""
    behind = now_s - block_s
    if behind < -MAX_AHEAD_S:
        found = f"the latest block is {-behind:.0f} s ahead of this machine's clock"
        return problem("clock", found, "set the clock, by NTP: deadlines are the chain's time")
    if behind > MAX_SILENCE_S:
        found = f"the latest block is {behind:.0f} s old"
        remedy = "the chain makes none without transactions, has stalled, or this machine's clock is ahead"
        return note("clock", found, remedy)
    return ok("clock", f"{abs(behind):.0f} s from the latest block")


async def _finality(transport: Transport) -> Finding:
    from galaxylearning.chain.transport import as_int, as_object

    try:
        block = as_object(await transport.request("eth_getBlockByNumber", "finalized", False))
        number = as_int(block["number"])
    except (GalaxyError, KeyError) as error:
        return note(
            "finality", f"the chain does not say what is final: {error}", "nodes then follow its head"
        )
    return ok("finality", f"known; block {number} is final")


async def _contracts(transport: Transport, settings: Settings, chain_id: int) -> AsyncIterator[Finding]:
    from galaxylearning.chain.deployment import Deployment
    from galaxylearning.chain.transport import as_bytes

    if not settings.deployment:
        yield note(
            "contracts", "none are known", "galaxy chain deploy, or galaxy chain join URL --jobs ADDRESS"
        )
        return
    deployment = Deployment.from_json(settings.deployment)
    if deployment.chain_id != chain_id:
        found = f"they are on chain {deployment.chain_id}, this is chain {chain_id}"
        yield problem("contracts", found, "connect to the right chain, or join its contracts anew")
        return
    names: tuple[Any, ...] = ("jobs", "registry", "token")
    empty = [
        f"{name} at {deployment.address_of(name)}"
        for name in names
        if not as_bytes(await transport.request("eth_getCode", deployment.address_of(name), "latest"))
    ]
    if empty:
        found = "no code for " + ", ".join(empty)
        yield problem(
            "contracts", found, "the chain was reset, or it is another one: join its contracts anew"
        )
    else:
        yield ok("contracts", f"GalaxyJobs at {deployment.jobs}")


async def _blobs(home: Home, settings: Settings, name: str, signer: Signer | None) -> Finding:
    """One small blob, always the same, written to one store and read back."""
    from galaxylearning import stores

    check, started = f"blob store {name}", time.monotonic()
    try:
        async with stores.opened_blobs(home, settings.with_store(name), signer=signer) as blobs:
            digest = await blobs.put(PROBE, topic=TOPIC)
            came_back = await blobs.get(digest, max_bytes=len(PROBE))
            is_listed = digest in await blobs.list(TOPIC)
    except GalaxyError as error:
        remedy = "make it writable, start it, or set 'blobs' in galaxy.json to where it is"
        remedy += "" if signer else "; where it wants signed requests: galaxy doctor --as NAME"
        return problem(check, str(error), remedy)
    if came_back != PROBE or not is_listed:
        return problem(check, "gave something else than was written", "use another store")
    took = (time.monotonic() - started) * 1000
    return ok(check, f"written, listed and read back in {took:.0f} ms")
