"""``galaxy credential``: an issuer vouches for the accounts of organisations it knows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.keys import address_named, load_signer
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    AsOption,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
)
from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused

if TYPE_CHECKING:
    from galaxylearning.messages.records import CredentialRecord

SECONDS_A_DAY = 86_400
MAX_DAYS = 36_500
MAX_NAME_CHARS = 200

app = typer.Typer(
    help="Vouch for data owners' accounts, and read what was vouched.\n\n"
    "Example: galaxy credential show mary.credential",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def issue(
    account: Annotated[str, typer.Argument(help="Whom to vouch for: an address or account name.")],
    organisation: Annotated[
        str,
        typer.Option(help="Whose account it is: the same text each time, such as a registration number."),
    ],
    scope: Annotated[str, typer.Option(help="What the credential is about, as a job's admission names it.")],
    file: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")],
    days: Annotated[int, typer.Option(help="Good for so many days.", min=1, max=MAX_DAYS)] = 365,
    issuer: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Sign a credential: this account is the organisation's, within a scope, until a time.

    It names the organisation by a pseudonym, the same for all its accounts in this scope, so a job that
    admits by credential takes only one of them. The pseudonym is made with the secret in HOME/issuer.salt,
    which the first credential makes. Keep it: with another one an organisation would be somebody else.

    Example: galaxy credential issue 0x... --organisation HRB-4711 --scope hospitals -o mary.credential
    """
    from galaxylearning.cli.running import reading_site
    from galaxylearning.messages import typed
    from galaxylearning.messages.records import CredentialRecord, encode
    from galaxylearning.protocol.admission import credential_scope, subject_of
    from galaxylearning.storage.files import replace_whole

    _require_text(organisation, "--organisation")
    _require_text(scope, "--scope")
    if file.exists():
        raise ConfigRefused("there is such a file already", where=str(file))
    place = Home(home)
    address = address_named(place, account, "account")
    signer = load_signer(place, issuer)

    async def signed() -> CredentialRecord:
        async with reading_site(place, chain, signer) as site:
            voucher = typed.Credential(
                credential_scope(scope),
                subject_of(organisation, scope, salt=issuer_salt(place)),
                address,
                await site.ledger.now() + days * SECONDS_A_DAY,
            )
            signature = signer.sign_digest(voucher.digest(site.domain()))
            return CredentialRecord.from_message(voucher, signature=signature)

    record = anyio.run(signed)
    replace_whole(file.absolute(), encode(record))
    _show(record, signer.address, format)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="The credential.")],
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show for whom a credential speaks, about what, until when, and who signed it for this home's chain.

    Example: galaxy credential show mary.credential
    """
    from galaxylearning.cli.running import reading_site
    from galaxylearning.messages.records import recover_issuer

    record = read_credential(file)

    async def signed_by() -> str:
        async with reading_site(Home(home), chain) as site:
            return recover_issuer(record, site.domain())

    _show(record, anyio.run(signed_by), format)


def issuer_salt(home: Home) -> bytes:
    """The 32 secret bytes of this home's issuer, made when they are first asked for.

    Raises:
        ConfigRefused: the file holds something else.
        StorageError: it cannot be read or written.
    """
    from galaxylearning import bootstrap
    from galaxylearning.protocol.admission import SALT_BYTES
    from galaxylearning.storage import files

    files.write_once(home.issuer_salt, bootstrap.entropy(SALT_BYTES), folder=home.root, mode=0o600)
    salt = files.read_whole(home.issuer_salt, max_bytes=SALT_BYTES)
    if salt is None or len(salt) != SALT_BYTES:
        raise ConfigRefused(f"must be a file of {SALT_BYTES} bytes", where=str(home.issuer_salt))
    return salt


def read_credential(file: Path) -> CredentialRecord:
    """The credential in a file.

    Raises:
        ConfigRefused: it cannot be read, or is none.
    """
    from galaxylearning.errors import MessageRefused
    from galaxylearning.messages.records import MAX_SIGNED_BYTES, CredentialRecord, decode

    try:
        with file.open("rb") as source:
            data = source.read(MAX_SIGNED_BYTES + 1)
        return decode(data, CredentialRecord, max_bytes=MAX_SIGNED_BYTES)
    except OSError as error:
        raise ConfigRefused(f"cannot be read: {error.strerror}", where=str(file)) from error
    except MessageRefused as error:
        raise ConfigRefused(f"is no credential: {error}", where=str(file)) from error


def _require_text(value: str, option: str) -> None:
    if not value.strip() or len(value) > MAX_NAME_CHARS or not value.isprintable():
        raise ConfigRefused(
            f"{value[:60]!r} given; allowed: 1 to {MAX_NAME_CHARS} printable characters, not only spaces",
            where=option,
        )


def _show(record: CredentialRecord, issuer: str, format: Format) -> None:
    facts: dict[str, Any] = {
        "data_owner": record.data_owner,
        "scope": record.scope.hex(),
        "subject": record.subject.hex(),
        "expires_at": record.expires_at,
        "issuer": issuer,
    }
    if format is Format.JSON:
        output.print_json(facts)
        return
    facts["expires_at"] = datetime.fromtimestamp(min(record.expires_at, 253_402_300_799), UTC).isoformat()
    output.print_facts("Credential", facts.items())
