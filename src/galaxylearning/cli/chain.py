"""``galaxy chain``: serve the embedded chain, put contracts on a chain, join one that has them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import msgspec
import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    ProxyOption,
    TlsCertOption,
    TlsKeyOption,
    read_lines,
)
from galaxylearning.config import (
    EMBEDDED,
    MAX_CONFIG_BYTES,
    Home,
    Invitation,
    invitation_from_json,
    invitation_to_json,
)
from galaxylearning.errors import ConfigRefused, GalaxyError
from galaxylearning.listening import Listening
from galaxylearning.reaching import shown_url

if TYPE_CHECKING:
    from galaxylearning.chain.deployment import Deployment
    from galaxylearning.config import Settings
    from galaxylearning.ports import Signer

DEFAULT_PORT = 8545

app = typer.Typer(
    help="Serve the embedded chain; deploy or join contracts. Without a command: serve.\n\n"
    "Example: galaxy chain --port 8545",
    add_completion=False,
    pretty_exceptions_enable=False,
)

PortOption = Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65_535)]
HostOption = Annotated[str, typer.Option(help="Address to listen on; others than loopback need TLS, keys.")]
KeysOption = Annotated[
    Path | None,
    typer.Option("--access-keys", help="File of access keys, one a line; clients use https://host:port/KEY."),
]


@app.callback(invoke_without_command=True)
def chain(
    context: typer.Context,
    home: HomeOption = DEFAULT_HOME,
    port: PortOption = DEFAULT_PORT,
    host: HostOption = "127.0.0.1",
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    behind_proxy: ProxyOption = False,
    access_keys: KeysOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Serve this home's chain on localhost; the contracts are deployed at the first start.

    Example: galaxy chain --port 8545
    """
    if context.invoked_subcommand is None:
        place = Listening(host, port, tls_cert, tls_key, is_behind_proxy=behind_proxy)
        anyio.run(_serve, Home(home), place, access_keys, format)


@app.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    port: PortOption = DEFAULT_PORT,
    host: HostOption = "127.0.0.1",
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    behind_proxy: ProxyOption = False,
    access_keys: KeysOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Serve this home's chain on localhost; the contracts are deployed at the first start.

    Other commands of the same home find it by themselves; other homes join it with 'galaxy chain join'. The
    chain has an unlocked account that funds anybody who reaches it: it is for development. To be reached
    from other machines it needs TLS and access keys.

    Example: galaxy chain serve --port 8545
    Example: galaxy chain serve --host 0.0.0.0 --tls-cert chain.pem --tls-key chain.key --access-keys keys.txt
    """
    place = Listening(host, port, tls_cert, tls_key, is_behind_proxy=behind_proxy)
    anyio.run(_serve, Home(home), place, access_keys, format)


@app.command()
def deploy(
    home: HomeOption = DEFAULT_HOME, chain: ChainOption = None, format: FormatOption = Format.TABLE
) -> None:
    """Put token, registry and jobs contract on a chain whose node has an unlocked account.

    The contracts have no administrator: the key that deploys them is thrown away.

    Example: galaxy chain deploy --chain http://127.0.0.1:8545
    """
    from galaxylearning import bootstrap
    from galaxylearning.chain.signer import KeySigner
    from galaxylearning.crypto.sign import new_private_key

    signer = KeySigner(new_private_key(entropy=bootstrap.entropy))
    overrides = {} if chain is None else {"chain": chain}

    async def run() -> Settings:
        return await bootstrap.deploy_contracts(Home(home), signer, **overrides)

    _show(_facts(anyio.run(run)), format)


@app.command()
def invite(
    output_file: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    store: Annotated[
        str | None, typer.Option(help="Blob store: URL of a server; what the settings say if left out.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="URL at which others reach the chain; the home's own if left out.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    format: FormatOption = Format.TABLE,
) -> None:
    """Write what others need to join this home's chain into a file.

    Nothing in it is secret, but for an access key in the chain's URL: who has the file may use that node.
    The key is in the file alone; no command prints it.

    Example: galaxy chain invite --store http://127.0.0.1:8787 -o market.json
    """
    from galaxylearning import bootstrap
    from galaxylearning.chain.deployment import Deployment
    from galaxylearning.storage.files import replace_whole

    place = Home(home)
    settings = bootstrap.load_settings(place)
    if not settings.deployment:
        raise ConfigRefused("no contracts are known here; 'galaxy chain' deploys them", where=str(home))
    reached = url or bootstrap.served_chain(place) or settings.chain
    deployment = Deployment.from_json(settings.deployment)
    named = settings.stores if store is None else (store,)
    blobs = tuple(one if "://" in one else str((place.root / one).absolute()) for one in named)
    invitation = Invitation(
        reached, deployment.jobs, blobs[0] if len(blobs) == 1 else blobs, deployment.block_number
    )
    replace_whole(output_file.absolute(), invitation_to_json(invitation))
    facts = msgspec.structs.asdict(invitation) | {"chain": shown_url(reached)}
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts(f"Invitation in {output_file}", facts.items())


@app.command()
def join(
    url: Annotated[str, typer.Argument(help="An invitation's file, or the URL of an EVM node.")],
    jobs: Annotated[
        str | None, typer.Option(help="Address of the GalaxyJobs contract there, with a URL.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    store: Annotated[
        str | None, typer.Option(help="Blob store: URL of a server, or a folder; unchanged if left out.")
    ] = None,
    from_block: Annotated[
        int, typer.Option(help="Block before which there is nothing of Galaxy.", min=0)
    ] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Use a chain that has the contracts already; registry and token are found from the jobs contract.

    'galaxy chain invite' writes invitations. With a URL (http(s):// or ws(s)://), --jobs is needed.

    Example: galaxy chain join market.json
    Example: galaxy chain join http://127.0.0.1:8545 --jobs 0x… --store http://127.0.0.1:8787
    """
    from galaxylearning import bootstrap, stores
    from galaxylearning.cli.keys import parse_address

    place = Home(home)
    blobs: str | tuple[str, ...] | None = store
    if "://" not in url:
        invitation = _read_invitation(Path(url))
        url, jobs, blobs = invitation.chain, jobs or invitation.jobs, store or invitation.blobs
        from_block = from_block or invitation.from_block
    if jobs is None:
        raise ConfigRefused("must be given with a URL", where="--jobs")
    settings = bootstrap.load_settings(place, chain=url, blobs=blobs)
    stores.open_blobs(place, settings)
    address = parse_address(jobs, "--jobs")

    async def run() -> Settings:
        return await bootstrap.join_contracts(place, settings, address, block_number=from_block)

    _show(_facts(anyio.run(run)), format)


@app.command()
def info(
    home: HomeOption = DEFAULT_HOME, chain: ChainOption = None, format: FormatOption = Format.TABLE
) -> None:
    """Which chain, contracts and blob store this home uses, and whether they answer.

    Example: galaxy chain info --format json
    """
    from galaxylearning import bootstrap
    from galaxylearning.cli.keys import blob_signer

    signer = blob_signer(Home(home))

    async def run() -> dict[str, Any]:
        async with bootstrap.open_world(Home(home), signer=signer, chain=chain) as world:
            settings, served = world.settings, bootstrap.served_chain(world.home)
            return {
                **_facts(settings),
                "served_at": served and shown_url(served),
                "time": await world.ledger.now(),
                "stores": [await _asked(world.home, settings, one, signer) for one in settings.stores],
            }

    facts = anyio.run(run)
    if format is Format.JSON:
        output.print_json(facts)
        return
    asked = facts.pop("stores")
    stores = [("store " + row["store"], row["problem"] or "answers") for row in asked]
    output.print_facts("Chain", [*facts.items(), *stores])


async def _asked(home: Home, settings: Settings, name: str, signer: Signer | None) -> dict[str, Any]:
    """A store and what is wrong with it, None where it answers."""
    from galaxylearning import stores

    try:
        async with stores.opened_blobs(home, settings.with_store(name), signer=signer) as blobs:
            await blobs.list("probe")
    except GalaxyError as error:
        return {"store": name, "problem": str(error)}
    return {"store": name, "problem": None}


def _read_invitation(file: Path) -> Invitation:
    from galaxylearning.storage.files import read_whole

    try:
        data = read_whole(file, max_bytes=MAX_CONFIG_BYTES)
    except FileNotFoundError as error:
        raise ConfigRefused(
            f"{str(file)[:200]!r} given; allowed: the file of an invitation, or a URL", where="URL"
        ) from error
    if data is None:
        raise ConfigRefused(f"must be a file of at most {MAX_CONFIG_BYTES} bytes", where=str(file))
    return invitation_from_json(data)


async def _serve(home: Home, place: Listening, keys_file: Path | None, format: Format) -> None:
    """Serve until interrupted."""
    from galaxylearning import bootstrap
    from galaxylearning.chain.embedded import serve as serve_chain
    from galaxylearning.chain.embedded.server import HOW_TO_GIVE_KEYS
    from galaxylearning.chain.signer import KeySigner
    from galaxylearning.crypto.sign import new_private_key

    access_keys = [] if keys_file is None else read_lines(keys_file, "--access-keys")
    # Before anything is opened or deployed; serving asks again.
    replace(place, has_keys=bool(access_keys)).check(keys=HOW_TO_GIVE_KEYS)
    settings = bootstrap.load_settings(home)
    if settings.chain != EMBEDDED:
        raise ConfigRefused(
            f"this home uses {shown_url(settings.chain)}; only an embedded chain is served", where="chain"
        )
    if served := bootstrap.served_chain(home):
        raise ConfigRefused(f"this home's chain is already served at {shown_url(served)}", where="chain")
    if not settings.deployment:
        signer = KeySigner(new_private_key(entropy=bootstrap.entropy))
        settings = await bootstrap.deploy_contracts(home, signer)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bootstrap.open_world(home))
        server = await stack.enter_async_context(serve_chain(world.node, place, access_keys=access_keys))
        own_url = f"{server.url}/{access_keys[0]}" if access_keys else server.url
        stack.enter_context(bootstrap.announce_chain(home, own_url))
        facts = {**_facts(settings), "served_at": server.url}
        if format is Format.JSON:
            output.print_line(facts)
        else:
            _show(facts, format)
            output.console().print(
                f"Others join with: galaxy chain join {server.url}{'/KEY' if access_keys else ''} "
                f"--jobs {facts['jobs']}",
                soft_wrap=True,
            )
        await anyio.sleep_forever()


def _facts(settings: Settings) -> dict[str, Any]:
    from galaxylearning.chain.deployment import Deployment

    found: Deployment = Deployment.from_json(settings.deployment)
    return {
        "chain": shown_url(settings.chain),
        "chain_id": found.chain_id,
        "token": found.token,
        "registry": found.registry,
        "jobs": found.jobs,
        "blobs": ", ".join(settings.stores),
    }


def _show(facts: dict[str, Any], format: Format) -> None:
    if format is Format.JSON:
        output.print_json(facts)
    else:
        output.print_facts("Chain", facts.items())
