"""Settings of a home: typed, with units in their names, and nothing unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galaxylearning.config import (
    EMBEDDED,
    MAX_CONFIG_BYTES,
    Home,
    Invitation,
    Settings,
    check_chain,
    settings_from_json,
    settings_to_json,
)
from galaxylearning.errors import ConfigRefused


def test_settings_come_back_as_they_were_kept() -> None:
    for settings in (
        Settings(),
        Settings("ws://localhost:8546", "/var/blobs", '{"chain_id": 1}', 1, 0),
        Settings(chain="https://user:secret@node.example:443/path?key=1"),
        Settings("http://a", chain_witnesses=("http://b", "ws://c"), finality_blocks=64, final_endpoints=2),
    ):
        assert settings_from_json(settings_to_json(settings)) == settings
    assert json.loads(settings_to_json(Settings()))["chain"] == EMBEDDED
    assert settings_from_json(b"{}") == Settings()


@pytest.mark.parametrize("store", ["ftp://foo", "file:///blobs", "HTTP://x", "://x"])
def test_a_store_of_an_unknown_scheme_is_no_folder(store: str) -> None:
    allowed = "given; allowed: a folder, or a URL of http, https, s3"
    with pytest.raises(ConfigRefused, match=allowed):
        Settings(blobs=("one", store))
    with pytest.raises(ConfigRefused, match=allowed):
        Invitation("http://a", "0x1", store)
    for known in ("/var/blobs", "a:b", "http://x", "https://x", "s3://bucket/prefix"):
        assert Settings(blobs=known).stores == (known,)


@pytest.mark.parametrize(
    "url", [EMBEDDED, "http://127.0.0.1:8545", "https://a.b/c", "ws://[::1]:1", "wss://x"]
)
def test_a_chain_is_embedded_or_a_url(url: str) -> None:
    assert check_chain(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "embedded",
        "localhost:8545",
        "ftp://x",
        "file:///etc/passwd",
        "http://",
        "http://:80",
        "http://a:99999",
        "http://a:b",
        "http://[::1",
        "javascript:alert(1)",
        "x" * 10_000,
    ],
)
def test_anything_else_is_refused_briefly(url: str) -> None:
    with pytest.raises(ConfigRefused, match=r"^chain: ") as caught:
        check_chain(url)
    assert len(str(caught.value)) < 250
    with pytest.raises(ConfigRefused):
        Settings(chain=url)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "galaxy.json"),
        (b"[]", "galaxy.json"),
        (b'{"chains": "x"}', "chains"),
        (b'{"poll_ms": "1"}', "poll_ms"),
        (b'{"poll_ms": 0}', "poll_ms"),
        (b'{"poll_ms": 3600001}', "poll_ms"),
        (b'{"stagger_ms": -1}', "stagger_ms"),
        (b'{"blobs": ""}', "blobs"),
        (b'{"chain": 5}', "chain"),
        (b'{"chain": "http://a", "chain_witnesses": ["ftp://b"]}', "chain_witnesses"),
        (b'{"chain": "http://a", "chain_witnesses": ["http://a"]}', "chain_witnesses"),
        (b'{"chain": "http://a", "chain_witnesses": ["embedded:"]}', "chain_witnesses"),
        (b'{"chain_witnesses": ["http://b"]}', "chain_witnesses"),
        (
            b'{"chain": "http://a", "chain_witnesses": ["http://b1", "http://b2", "http://b3", "http://b4", '
            b'"http://b5"]}',
            "chain_witnesses",
        ),
        (b'{"chain": "http://a", "chain_witnesses": ["http://b"], "final_endpoints": 3}', "final_endpoints"),
        (b'{"final_endpoints": -1}', "final_endpoints"),
        (b'{"finality_blocks": -1}', "finality_blocks"),
        (b'{"finality_blocks": 4097}', "finality_blocks"),
        (b'{"finality_blocks": "64"}', "finality_blocks"),
        (b'{"rpc_timeout_s": 0}', "rpc_timeout_s"),
        (b'{"check_blocks": 1}', "check_blocks"),
        (b'{"chain": "\xff"}', "galaxy.json"),
        (b"[" * 50_000, "galaxy.json"),
        (b" " * (MAX_CONFIG_BYTES + 1), "galaxy.json"),
    ],
)
def test_malformed_settings_are_refused_and_name_the_field(data: bytes, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        settings_from_json(data)


def test_bounds_are_allowed() -> None:
    assert settings_from_json(b'{"poll_ms": 1, "stagger_ms": 0}').poll_ms == 1
    assert settings_from_json(b'{"poll_ms": 3600000, "stagger_ms": 3600000}').stagger_ms == 3_600_000


def test_everything_of_a_home_lies_in_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert home.is_new()
    for path in (
        home.settings_file,
        home.chain_file,
        home.keys,
        home.catalogue,
        home.policy,
        home.journal("a"),
    ):
        assert home.root in path.parents
    assert len({home.journal("a"), home.journal("b")}) == 2
    home.root.mkdir()
    home.settings_file.write_text("{}")
    assert not home.is_new()
