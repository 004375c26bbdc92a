"""Who may be listened to: loopback always, the rest of the world only behind TLS and keys.

Every command that opens a port asks ``Listening.check`` first; nothing else decides it. What the keys are
is the command's business: accounts that may write for blobs, access keys for a chain.
"""

from __future__ import annotations

import errno
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from galaxylearning.errors import ConfigRefused
from galaxylearning.reaching import os_reason

MAX_PORT = 65_535
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - names, nothing listens here


@dataclass(frozen=True, slots=True)
class Listening:
    """An address to listen on, and what protects it.

    ``has_keys``: strangers are told from those who may use the service, or are held to an explicit limit.
    ``is_behind_proxy``: a proxy in front speaks TLS with the world, and this address is reached through it
    only; what it passes on comes from the world, so keys are needed even on loopback.
    """

    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    private_key: Path | None = None
    is_behind_proxy: bool = False
    has_keys: bool = False

    def refusal(self, error: OSError) -> str:
        """What to say where the operating system does not let this address be listened on."""
        taken = "; another program has it: choose another --port" if error.errno == errno.EADDRINUSE else ""
        return f"cannot listen on {self.host} port {self.port}: {os_reason(error)}{taken}"

    def check(self, *, keys: str) -> None:
        """Refuse to be open to the world without TLS and keys; ``keys`` says how this command is given them.

        Raises:
            ConfigRefused: others can get here and something is missing, half of a key pair, or no port.
        """
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigRefused(f"{self.port} given; allowed: 0 to {MAX_PORT}", where="port")
        if (self.certificate is None) != (self.private_key is None):
            raise ConfigRefused("a certificate and its private key are given together", where="tls")
        if is_loopback(self.host) and not self.is_behind_proxy:
            return
        missing = []
        if self.certificate is None and not self.is_behind_proxy:
            missing.append("TLS (--tls-cert and --tls-key, or --behind-proxy where a proxy speaks it)")
        if not self.has_keys:
            missing.append(f"keys ({keys})")
        if missing:
            raise ConfigRefused(
                f"{self.host[:80]!r} is open to others{' by a proxy' if self.is_behind_proxy else ''}; "
                f"listening there takes {' and '.join(missing)}, or a loopback address",
                where="host",
            )

    def tls(self) -> ssl.SSLContext | None:
        """The TLS of a server with this certificate, version 1.2 or later; None where there is none.

        Raises:
            ConfigRefused: the files cannot be read, or are no certificate and its key.
        """
        if self.certificate is None or self.private_key is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # An encrypted key would be asked for at a terminal, which may not be there.
            context.load_cert_chain(self.certificate, self.private_key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            raise ConfigRefused(f"certificate or key cannot be used: {reason}", where="tls") from error
        return context

    def url(self, port: int) -> str:
        """Where a client on this machine finds the server that listens on ``port``."""
        scheme = "http" if self.certificate is None else "https"
        host = "localhost" if self.host in _EVERYWHERE else self.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one that is not, readable by this user only")


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached from this machine only; names but localhost count as not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def client_tls(ca_file: Path | None) -> ssl.SSLContext:
    """What a client trusts: the certificates in ``ca_file``, or the system's where there is none.

    Raises:
        ConfigRefused: the file cannot be read, or holds no certificates.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigRefused(f"cannot be used: {reason}", where=f"CA file {ca_file}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
