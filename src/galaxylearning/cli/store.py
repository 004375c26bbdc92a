"""``galaxy store``: the home's blobs, over HTTP, by topic, checked and repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    Format,
    FormatOption,
    HomeOption,
    ProxyOption,
    TlsCertOption,
    TlsKeyOption,
)
from galaxylearning.config import Home
from galaxylearning.errors import BlobRefused, ConfigRefused
from galaxylearning.units import how_many

if TYPE_CHECKING:
    from galaxylearning.ports import BlobStore
    from galaxylearning.storage.blobs import FolderBlobStore
    from galaxylearning.storage.replicated_blobs import BlobFault

app = typer.Typer(
    help="Serve, list, check and repair the blob store of a home.\n\nExample: galaxy store serve",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

MEBIBYTE = 1 << 20


@app.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on, 8787 if left out; 0 picks a free one.", min=0, max=65_535),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on, 127.0.0.1 if left out; others than loopback need TLS, keys."
        ),
    ] = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    behind_proxy: ProxyOption = False,
    name: Annotated[
        list[str] | None,
        typer.Option(help="host or host:port that clients know this server by; may be repeated."),
    ] = None,
    allow: Annotated[list[str] | None, typer.Option(help="Account that may write; may be repeated.")] = None,
    anyone_mib_per_day: Annotated[
        int | None,
        typer.Option(help="What all other accounts together may write in a day, in MiB.", min=0),
    ] = None,
    max_blob_bytes: Annotated[
        int | None, typer.Option(help="Larger blobs are refused; 1 GiB if left out.", min=1)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings with quotas and limits; HOME/store.json if left out.")
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Serve this home's blobs over HTTP: PUT /topics/{topic}, GET /topics/{topic}, GET /blobs/{digest}.

    On localhost anybody may write. To listen wider it takes a certificate (or a proxy that has one) and the
    accounts that may write, or a daily allowance for everybody else; writes are signed then. Quotas and
    limits are in HOME/store.json.

    Example: galaxy store serve --port 8787
    Example: galaxy store serve --host 0.0.0.0 --tls-cert store.pem --tls-key store.key --allow 0x…
    """
    from galaxylearning import stores
    from galaxylearning.cli.keys import address_named
    from galaxylearning.storage.blob_server import serve_blobs
    from galaxylearning.storage.store_settings import Quota

    place = Home(home)
    root = _folder(place, "serve").root
    settings = stores.load_store_settings(place, config)
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "tls_certificate": None if tls_cert is None else str(tls_cert.absolute()),
        "tls_key": None if tls_key is None else str(tls_key.absolute()),
        "is_behind_proxy": behind_proxy or None,
        "names": tuple(name) if name else None,
        "max_blob_bytes": max_blob_bytes,
    }
    if allow:
        given["accounts"] = (*settings.accounts, *(address_named(place, one, "--allow") for one in allow))
    if anyone_mib_per_day is not None:
        given["anyone"] = Quota(bytes_per_day=anyone_mib_per_day * MEBIBYTE)
    settings = settings.changed({key: value for key, value in given.items() if value is not None})

    async def run() -> None:
        folder = place.root if config is None else config.absolute().parent
        async with serve_blobs(root, settings, folder=folder) as url:
            if format is Format.JSON:
                output.print_line({"served_at": url})
            else:
                output.console().print(f"Blobs are served at {url}", soft_wrap=True)
            await anyio.sleep_forever()

    anyio.run(run)


@app.command("list")
def list_(
    topic: Annotated[str | None, typer.Argument(help="A topic; all topics if left out.")] = None,
    home: HomeOption = DEFAULT_HOME,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the topics of this home's blob store, or the blobs under one.

    Example: galaxy store list --format json
    """

    async def run() -> list[dict[str, Any]]:
        if topic is not None:
            async with _opened(Home(home)) as everywhere:
                return [{"digest": digest.hex()} for digest in await everywhere.list(topic)]
        store = _folder(Home(home), "list topics of")
        return [{"topic": name, "blobs": len(await store.list(name))} for name in store.topics()]

    rows = anyio.run(run)
    if format is Format.JSON:
        output.print_json(rows)
    elif topic is None:
        output.print_table("Topics", ("topic", "blobs"), [(row["topic"], row["blobs"]) for row in rows])
    else:
        output.print_table(topic, ("digest",), [(row["digest"],) for row in rows])


@app.command()
def check(home: HomeOption = DEFAULT_HOME, format: FormatOption = Format.TABLE) -> None:
    """Read every blob of this home and compare it with its digest; exit code 3 if anything is wrong.

    Example: galaxy store check
    """
    store = _folder(Home(home), "check")
    problems = store.check()
    if format is Format.JSON:
        output.print_json(
            {
                "blobs": len(store.digests()),
                "problems": [{"kind": p.kind, "name": p.name, "detail": p.detail} for p in problems],
            }
        )
    elif problems:
        output.print_table(
            "Problems", ("kind", "name", "detail"), [(p.kind, p.name, p.detail) for p in problems]
        )
    else:
        output.console().print(f"{how_many(len(store.digests()), 'blob')}, nothing wrong")
    if problems:
        raise BlobRefused(
            f"{how_many(len(problems), 'problem')}, the first: {problems[0].detail}", where=problems[0].name
        )


@app.command()
def repair(
    topics: Annotated[
        list[str] | None, typer.Argument(help="Topics; all that a folder among the stores has, if left out.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    format: FormatOption = Format.TABLE,
) -> None:
    """Read every blob of the topics from each of this home's stores, and put right what is wrong in one.

    For a home whose settings name several stores. Exit code 3 if something could not be put right.

    Example: galaxy store repair job/1/updates
    """
    from galaxylearning.storage.blob_names import DEFAULT_MAX_BLOB_BYTES
    from galaxylearning.storage.replicated_blobs import ReplicatedBlobStore

    faults: list[BlobFault] = []

    async def run() -> tuple[int, dict[str, int]]:
        async with _opened(Home(home), faults.append) as store:
            if not isinstance(store, ReplicatedBlobStore):
                raise ConfigRefused("this home has one store; a repair needs several", where="blobs")
            chosen = topics or _topics_of(Home(home))
            n_blobs = 0
            for topic in chosen:
                n_blobs += await store.check(topic, max_bytes=DEFAULT_MAX_BLOB_BYTES)
            return n_blobs, store.missed

    n_blobs, missed = anyio.run(run)
    rows = [
        {
            "store": fault.store,
            "kind": fault.kind,
            "digest": None if fault.digest is None else fault.digest.hex(),
            "is_repaired": fault.is_repaired,
        }
        for fault in faults
    ]
    if format is Format.JSON:
        output.print_json({"blobs": n_blobs, "faults": rows, "missing": missed})
    else:
        output.print_table(
            f"{how_many(n_blobs, 'blob')} read from each store",
            ("store", "kind", "blob", "repaired"),
            [(row["store"], row["kind"], row["digest"], row["is_repaired"]) for row in rows],
        )
    broken = [fault for fault in faults if not fault.is_repaired]
    if broken or any(missed.values()):
        left = len(broken) + sum(missed.values())
        raise BlobRefused(f"{how_many(left, 'fault')} left", where=broken[0].store if broken else "stores")


def _folder(home: Home, doing: str) -> FolderBlobStore:
    """The one folder with this home's blobs."""
    from galaxylearning import bootstrap, stores
    from galaxylearning.storage.blobs import FolderBlobStore

    store = stores.open_blobs(home, bootstrap.load_settings(home))
    if not isinstance(store, FolderBlobStore):
        raise ConfigRefused(
            f"this home's blobs are on a server or in several stores; {doing} them at the home of a folder",
            where="blobs",
        )
    return store


@asynccontextmanager
async def _opened(home: Home, report: Callable[[BlobFault], None] | None = None) -> AsyncIterator[BlobStore]:
    """This home's blobs, wherever they are."""
    from galaxylearning import bootstrap, stores
    from galaxylearning.cli.keys import blob_signer

    settings = bootstrap.load_settings(home)
    async with stores.opened_blobs(home, settings, signer=blob_signer(home), report=report) as blobs:
        yield blobs


def _topics_of(home: Home) -> list[str]:
    """The topics that the folders among this home's stores have."""
    from galaxylearning import bootstrap
    from galaxylearning.storage.blobs import FolderBlobStore

    settings = bootstrap.load_settings(home)
    folders = [FolderBlobStore(home.root / one) for one in settings.stores if "://" not in one]
    if not folders:
        raise ConfigRefused("none of the stores is a folder that could list them", where="TOPICS")
    return sorted(set().union(*(folder.topics() for folder in folders)))
