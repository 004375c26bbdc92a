"""``galaxy store``: the home's blobs, over HTTP, by topic, and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.options import DEFAULT_HOME, Format, FormatOption, HomeOption
from galaxylearning.config import Home
from galaxylearning.errors import BlobRefused, ConfigRefused

if TYPE_CHECKING:
    from galaxylearning.storage.blobs import FolderBlobStore

DEFAULT_PORT = 8787

app = typer.Typer(
    help="Serve, list and check the blob store of a home.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65_535)
    ] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    max_blob_bytes: Annotated[int, typer.Option(help="Larger blobs are refused.", min=1)] = 1 << 30,
    format: FormatOption = Format.TABLE,
) -> None:
    """Serve this home's blobs over HTTP: PUT /topics/{topic}, GET /topics/{topic}, GET /blobs/{digest}.

    Example: galaxy store serve --port 8787
    """
    from galaxylearning.storage.http_blobs import serve_blobs

    async def run() -> None:
        async with serve_blobs(_folder(Home(home)), host, port, max_blob_bytes=max_blob_bytes) as url:
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
    store = _folder(Home(home))

    async def run() -> list[dict[str, Any]]:
        if topic is not None:
            return [{"digest": digest.hex()} for digest in await store.list(topic)]
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
    store = _folder(Home(home))
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
        output.console().print(f"{len(store.digests())} blobs, nothing wrong")
    if problems:
        raise BlobRefused(
            f"{len(problems)} problems, the first: {problems[0].detail}", where=problems[0].name
        )


def _folder(home: Home) -> FolderBlobStore:
    from galaxylearning import bootstrap
    from galaxylearning.storage.blobs import FolderBlobStore

    store = bootstrap.open_blobs(home, bootstrap.load_settings(home))
    if not isinstance(store, FolderBlobStore):
        raise ConfigRefused("this home's blobs are on a server; run the command at its home", where="blobs")
    return store
