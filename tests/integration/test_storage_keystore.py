"""Keys at rest: what was kept is loaded, by its passphrase only."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_account import Account

from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.crypto.sign import address_of
from galaxylearning.errors import ConfigRefused, KeyUnavailable
from galaxylearning.storage.keystore import KeyStore


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys", light=True)


def test_an_account_is_kept_and_loaded(store: KeyStore) -> None:
    address = store.create_account("alice", "correct horse", entropy=seeded_entropy(1))
    assert store.accounts() == {"alice": address}
    assert address_of(store.load_account("alice", "correct horse")) == address


def test_a_private_key_comes_from_entropy(tmp_path: Path) -> None:
    one = KeyStore(tmp_path / "1", light=True).create_account("a", "p", entropy=seeded_entropy(2))
    two = KeyStore(tmp_path / "2", light=True).create_account("a", "p", entropy=seeded_entropy(2))
    three = KeyStore(tmp_path / "3", light=True).create_account("a", "p", entropy=seeded_entropy(3))
    assert one == two != three


def test_other_programs_read_the_account(store: KeyStore, tmp_path: Path) -> None:
    address = store.create_account("alice", "correct horse", entropy=seeded_entropy(1))
    document = json.loads((tmp_path / "keys" / "accounts" / "alice.json").read_text())
    assert address_of(bytes(Account.decrypt(document, "correct horse"))) == address


def test_a_sealing_key_is_kept_and_loaded(store: KeyStore) -> None:
    key = store.create_sealing_key("alice", "correct horse", entropy=seeded_entropy(4))
    assert store.sealing_keys() == {"alice": key.digest}
    assert store.load_sealing_key("alice", "correct horse").public == key.public


@pytest.mark.parametrize("passphrase", ["", "Correct horse", "correct horse "])
def test_a_wrong_passphrase_opens_nothing(store: KeyStore, passphrase: str) -> None:
    store.create_account("alice", "correct horse", entropy=seeded_entropy(1))
    store.create_sealing_key("alice", "correct horse", entropy=seeded_entropy(4))
    with pytest.raises(KeyUnavailable, match="wrong passphrase"):
        store.load_account("alice", passphrase)
    with pytest.raises(KeyUnavailable, match="wrong passphrase"):
        store.load_sealing_key("alice", passphrase)


def test_an_unknown_name_says_which_there_are(store: KeyStore) -> None:
    store.create_account("alice", "p", entropy=seeded_entropy(1))
    with pytest.raises(KeyUnavailable, match="alice"):
        store.load_account("bob", "p")
    with pytest.raises(KeyUnavailable, match="none"):
        store.load_sealing_key("alice", "p")


def test_a_name_is_never_used_twice(store: KeyStore) -> None:
    address = store.create_account("alice", "p", entropy=seeded_entropy(1))
    key = store.create_sealing_key("alice", "p", entropy=seeded_entropy(4))
    with pytest.raises(ConfigRefused, match="taken"):
        store.create_account("alice", "q", entropy=seeded_entropy(5))
    with pytest.raises(ConfigRefused, match="taken"):
        store.create_sealing_key("alice", "q", entropy=seeded_entropy(5))
    assert address_of(store.load_account("alice", "p")) == address
    assert store.load_sealing_key("alice", "p").digest == key.digest


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "Alice", "-a", "a" * 65, "é", "a\0"])
def test_an_odd_name_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(ConfigRefused, match="key name"):
        store.create_account(name, "p", entropy=seeded_entropy(1))
    with pytest.raises(KeyUnavailable):
        store.load_account(name, "p")


def test_an_empty_passphrase_is_refused(store: KeyStore) -> None:
    with pytest.raises(ConfigRefused, match="passphrase"):
        store.create_account("alice", "", entropy=seeded_entropy(1))
    assert store.accounts() == {}


def test_only_their_user_may_read_the_files(store: KeyStore, tmp_path: Path) -> None:
    store.create_account("alice", "p", entropy=seeded_entropy(1))
    store.create_sealing_key("alice", "p", entropy=seeded_entropy(4))
    for path in (tmp_path / "keys").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("kind", ["accounts", "sealing"])
@pytest.mark.parametrize(
    "alter",
    [
        lambda text: text[:0],
        lambda text: text[: len(text) // 2],
        lambda text: text[:0] + "[]",
        lambda text: text[:0] + "{}",
        lambda text: text[:0] + "[" * 50_000,
        lambda text: text + " " * 100_000,
        lambda text: text.replace('"n": 4096', '"n": 1125899906842624'),
        lambda text: text.replace('"n": 4096', '"n": 4097'),
        lambda text: text.replace('"n": 4096', '"n": -1'),
        lambda text: text.replace('"n": 4096', '"n": true'),
        lambda text: text.replace('"r": 8', '"r": 1000000'),
        lambda text: text.replace('"ciphertext": "', '"ciphertext": "zz'),
        lambda text: text.replace('"ciphertext": "', '"ciphertext": "00'),
        lambda text: text.replace('"salt": "', '"salt": "00'),
    ],
)
def test_a_damaged_file_is_refused_in_bounded_time(
    store: KeyStore, tmp_path: Path, kind: str, alter: Callable[[str], str]
) -> None:
    store.create_account("alice", "p", entropy=seeded_entropy(1))
    store.create_sealing_key("alice", "p", entropy=seeded_entropy(4))
    path = tmp_path / "keys" / kind / "alice.json"
    text = path.read_text()
    assert alter(text) != text
    path.write_text(alter(text))
    with pytest.raises(KeyUnavailable):
        store.load_account("alice", "p") if kind == "accounts" else store.load_sealing_key("alice", "p")


def test_a_file_that_names_another_key_is_refused(store: KeyStore, tmp_path: Path) -> None:
    store.create_account("alice", "p", entropy=seeded_entropy(1))
    other = store.create_account("bob", "p", entropy=seeded_entropy(5))
    path = tmp_path / "keys" / "accounts" / "alice.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "address": other[2:]}))
    with pytest.raises(KeyUnavailable, match="not that of the address"):
        store.load_account("alice", "p")
