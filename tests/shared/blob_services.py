"""Blob services that really run, in this process: blob servers with settings and TLS, an S3 bucket."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from galaxylearning.chain.signer import KeySigner
from galaxylearning.storage.blob_names import Patience
from galaxylearning.storage.blob_server import serve_blobs
from galaxylearning.storage.s3_blobs import S3BlobStore, S3Credentials, S3Place
from galaxylearning.storage.store_settings import StoreSettings


def signer(number: int) -> KeySigner:
    """An account."""
    return KeySigner(number.to_bytes(32, "big"))


@asynccontextmanager
async def serving(root: Path, *, now: Callable[[], float] = time.time, **settings: Any) -> AsyncIterator[str]:
    """A blob server on a free port of localhost; its URL."""
    root.mkdir(exist_ok=True)
    async with serve_blobs(root, StoreSettings(port=0, keep_free_bytes=0, **settings), now=now) as url:
        yield url


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A new authority, a certificate of it for 127.0.0.1 and localhost, and its key; files in PEM."""
    now = datetime.datetime.now(datetime.UTC)

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def built(
        name: str, key: ec.EllipticCurvePrivateKey, signing: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        is_authority = key is signing
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
            )
        )
        if is_authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            names = x509.SubjectAlternativeName([address, x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(signing, hashes.SHA256())

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_file, certificate_file, key_file = (
        folder / name for name in ("ca.pem", "store.pem", "store.key")
    )
    pem = serialization.Encoding.PEM
    authority_file.write_bytes(built("authority", authority_key, authority_key).public_bytes(pem))
    certificate_file.write_bytes(built("store", key, authority_key).public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return authority_file, certificate_file, key_file


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A server that answers every request as ``handler`` does; its URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 service."""

    endpoint: str

    def store(self, prefix: str, *, endpoint: str | None = None, **options: Any) -> S3BlobStore:
        """A blob store under a prefix of it, reached at ``endpoint`` where that is given."""
        url = f"s3://bucket/{prefix}?endpoint={endpoint or self.endpoint}&region=us-east-1"
        options.setdefault("patience", Patience(10.0, 1, 0.05))
        return S3BlobStore(S3Place.from_url(url), credentials=S3Credentials("id", "secret"), **options)


@contextmanager
def buckets() -> Iterator[Bucket]:
    """An S3 service with an empty bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        connection = http.client.HTTPConnection(host, port)
        connection.request("PUT", "/bucket")
        assert connection.getresponse().status == 200
        connection.close()
        yield Bucket(endpoint)
    finally:
        server.stop()
