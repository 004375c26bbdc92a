"""One function decides who may be listened to."""

from __future__ import annotations

import errno
import re
import ssl
from pathlib import Path

import pytest

from blob_services import certificates
from galaxylearning.errors import ConfigRefused
from galaxylearning.listening import Listening, client_tls, is_loopback

CERTIFICATE, KEY = Path("store.pem"), Path("store.key")
WIDE = ("0.0.0.0", "::", "192.0.2.1", "store.example", "", "127.0.0.1.example")  # noqa: S104 - refused


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert is_loopback(host)
    Listening(host).check(keys="")


@pytest.mark.parametrize("host", WIDE)
def test_wider_needs_tls_and_keys(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigRefused, match=r"TLS.* and keys"):
        Listening(host).check(keys="--allow")
    with pytest.raises(ConfigRefused, match=r"takes keys \(--allow\)") as refused:
        Listening(host, 1, CERTIFICATE, KEY).check(keys="--allow")
    assert "TLS (" not in str(refused.value)
    with pytest.raises(ConfigRefused, match="takes TLS"):
        Listening(host, has_keys=True).check(keys="--allow")
    Listening(host, 1, CERTIFICATE, KEY, has_keys=True).check(keys="")
    Listening(host, is_behind_proxy=True, has_keys=True).check(keys="")


def test_a_proxy_brings_the_world_to_loopback() -> None:
    with pytest.raises(ConfigRefused, match="keys"):
        Listening(is_behind_proxy=True).check(keys="--allow")
    Listening(is_behind_proxy=True, has_keys=True).check(keys="")


def test_half_a_key_pair_and_odd_ports_are_refused() -> None:
    for half in (Listening(certificate=CERTIFICATE), Listening(private_key=KEY)):
        with pytest.raises(ConfigRefused, match="together"):
            half.check(keys="")
    for port in (-1, 65_536):
        with pytest.raises(ConfigRefused, match="port"):
            Listening(port=port).check(keys="")


def test_the_url_is_one_a_client_here_can_use() -> None:
    assert Listening("127.0.0.1").url(80) == "http://127.0.0.1:80"
    assert Listening("::1").url(80) == "http://[::1]:80"
    assert Listening("0.0.0.0", 1, CERTIFICATE, KEY).url(443) == "https://localhost:443"  # noqa: S104


def test_certificates_are_read_or_refused(tmp_path: Path) -> None:
    authority, certificate, key = certificates(tmp_path)
    tls = Listening("x", 1, certificate, key).tls()
    assert tls is not None
    assert tls.minimum_version == ssl.TLSVersion.TLSv1_2
    assert Listening().tls() is None
    for bad in (
        Listening("x", 1, certificate, tmp_path / "nothing"),
        Listening("x", 1, key, certificate),
        Listening("x", 1, authority, key),
    ):
        with pytest.raises(ConfigRefused, match="tls"):
            bad.tls()
    assert client_tls(authority).verify_mode == ssl.CERT_REQUIRED
    assert client_tls(None).check_hostname
    for nothing in (tmp_path / "nothing", key):
        with pytest.raises(ConfigRefused, match=re.escape(str(nothing))):
            client_tls(nothing)


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    taken = OSError(errno.EADDRINUSE, "error while attempting to bind on address")
    assert Listening(port=8545).refusal(taken) == (
        "cannot listen on 127.0.0.1 port 8545: Address already in use; another program has it: choose "
        "another --port"
    )
    assert Listening(port=80).refusal(PermissionError(errno.EACCES, "no")) == (
        "cannot listen on 127.0.0.1 port 80: Permission denied"
    )
