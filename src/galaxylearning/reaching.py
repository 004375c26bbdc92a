"""What people are told of a peer: its URL without secrets, and why it cannot be reached."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def shown_url(url: str) -> str:
    """Scheme, host and port of a URL: paths, queries and user names of RPC endpoints often hold keys.

    What has no host, like ``embedded:``, is shown as it is.
    """
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "a malformed URL"
    if parts.hostname is None:
        return url if "//" not in url else "a malformed URL"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def os_reason(error: Exception) -> str:
    """Why a connection or an address failed, in the operating system's words, whichever library says it."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLError):
        said = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
        return f"no TLS with it: {said}" if said else "no TLS with it"
    if isinstance(cause, socket.gaierror):
        return cause.strerror or "unknown host"
    number = cause.errno if isinstance(cause, OSError) else None
    if number is None and (found := _ERRNO.search(str(cause))):  # of several addresses, the first one's
        number = int(found[1])
    return os.strerror(number) if number else str(error)[:200] or type(error).__name__
