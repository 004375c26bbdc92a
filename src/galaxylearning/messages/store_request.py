"""The signature that a request to a blob server carries: who asks, for what exactly, and until when.

EIP-712 under a domain without a chain, since a blob server stands on none. The message names the server, so
one server cannot use at another what it was sent, and for a write the blob's digest, length and topic: a
copy of the request can only repeat what its author wanted, which changes nothing the second time. The
header is text::

    Galaxy-Signature: 1;<account>;<expires at, Unix seconds>;<signature, 130 hexadecimal digits>

Knows nothing of HTTP beyond that text; time arrives as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.sign import recover_signer
from galaxylearning.errors import MessageRefused
from galaxylearning.messages.fields import check_address, check_bytes, check_uint
from galaxylearning.units import ZERO_DIGEST, Address, Digest

SIGNATURE_HEADER: Final = "Galaxy-Signature"
DIGEST_HEADER: Final = "Galaxy-Digest"
MAX_VALIDITY_S: Final = 900
"""The furthest away that an expiry may be."""

MAX_HEADER_CHARS: Final = 256
MAX_TEXT_CHARS: Final = 400

_DOMAIN_TYPE: Final = "EIP712Domain(string name,string version)"
_TYPE: Final = (
    "StoreRequest(string store,string method,string path,string topic,bytes32 digest,uint64 length,"
    "uint64 expiresAt)"
)
_HEADER: Final = re.compile(r"1;(0x[0-9A-Fa-f]{40});([1-9][0-9]{0,14});([0-9a-f]{130})", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """One request to one blob server.

    ``store``: its host and port as the client wrote them, in lower case. ``path``: below the server's URL,
    without a query. ``digest`` and ``length`` (bytes) are the body's; zero, as ``topic`` is empty, where
    there is none.

    Raises:
        MessageRefused: a field is out of range or too long.
    """

    store: str
    method: str
    path: str
    expires_at: int
    topic: str = ""
    digest: Digest = ZERO_DIGEST
    length: int = 0

    def __post_init__(self) -> None:
        for name in ("store", "method", "path", "topic"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS or not value.isascii():
                raise MessageRefused(f"must be ASCII of at most {MAX_TEXT_CHARS} characters", where=name)
        check_bytes(self.digest, "digest", 32)
        check_uint(self.length, "length", 64)
        check_uint(self.expires_at, "expires_at", 64)

    def signing_digest(self) -> bytes:
        """The 32 bytes that are signed. Source: EIP-712."""
        texts = (self.store, self.method, self.path, self.topic)
        struct = keccak(
            keccak(_TYPE.encode())
            + b"".join(keccak(text.encode("ascii")) for text in texts)
            + self.digest
            + self.length.to_bytes(32, "big")
            + self.expires_at.to_bytes(32, "big")
        )
        return keccak(b"\x19\x01" + _SEPARATOR + struct)

    def signed_by(self, account: Address, sign: Callable[[bytes], bytes]) -> str:
        """The header's text, signed by ``sign`` (32 bytes to 65) with the key of ``account``."""
        return f"1;{account};{self.expires_at};{sign(self.signing_digest()).hex()}"


_SEPARATOR: Final = keccak(keccak(_DOMAIN_TYPE.encode()) + keccak(b"GalaxyStore") + keccak(b"1"))


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """A signature header, read but not yet checked."""

    account: Address
    expires_at: int
    signature: bytes

    @classmethod
    def from_header(cls, text: str) -> RequestSignature:
        """Read the header's text.

        Raises:
            MessageRefused: too long, or not of the documented form.
        """
        match = _HEADER.fullmatch(text) if len(text) <= MAX_HEADER_CHARS else None
        if match is None:
            raise MessageRefused(
                "must be 1;<0x and 40 hexadecimal digits>;<Unix seconds>;<130 hexadecimal digits>",
                where=SIGNATURE_HEADER,
            )
        account = check_address(match.group(1), f"{SIGNATURE_HEADER} account")
        return cls(account, int(match.group(2)), bytes.fromhex(match.group(3)))

    def check(self, request: StoreRequest, *, now_s: int) -> Address:
        """The account that signed ``request``.

        Raises:
            MessageRefused: expired, valid for too long, or made for another request or by another key.
        """
        if request.expires_at != self.expires_at:
            raise ValueError("the request must have the signature's expiry")
        if self.expires_at < now_s:
            raise MessageRefused(
                f"expired {now_s - self.expires_at} s ago by this server's clock", where=SIGNATURE_HEADER
            )
        if self.expires_at > now_s + MAX_VALIDITY_S:
            raise MessageRefused(
                f"valid for {self.expires_at - now_s} s by this server's clock; {MAX_VALIDITY_S} allowed",
                where=SIGNATURE_HEADER,
            )
        if recover_signer(request.signing_digest(), self.signature) != self.account:
            raise MessageRefused(
                f"does not fit this request to {request.store} (method, path, topic, digest, length)",
                where=SIGNATURE_HEADER,
            )
        return self.account
