"""Private keys at rest: accounts as Web3 Secret Storage files (version 3), sealing keys beside them.

Both are encrypted under a passphrase stretched by scrypt. Files are created once, readable by their user
only, and never overwritten: a key that is lost cannot be made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from eth_utils.address import to_checksum_address

from galaxylearning.crypto.seal import SEED_BYTES, SealingKey
from galaxylearning.crypto.sign import address_of, new_private_key
from galaxylearning.errors import ConfigRefused, KeyUnavailable
from galaxylearning.graph.document import nesting
from galaxylearning.storage import files
from galaxylearning.units import Address, Digest, Entropy

STANDARD_SCRYPT_N: Final = 1 << 17
LIGHT_SCRYPT_N: Final = 1 << 12
MAX_SCRYPT_BYTES: Final = 257 << 20
"""Enough for what other wallets write: n = 2^18, r = 8."""
MAX_SCRYPT_P: Final = 16
MAX_KEY_FILE_BYTES: Final = 1 << 16

_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MAX_NESTING: Final = 8
_NO_KEY_FILE: Final = f"is not a key file: a JSON object of at most {MAX_KEY_FILE_BYTES} bytes allowed"
_SEALING_FORMAT: Final = "galaxylearning sealing key 1"


class KeyStore:
    """Named keys in a folder.

    ``light`` uses scrypt with N = 4,096 instead of 131,072 (r = 8, p = 1): 15 ms instead of half a second,
    for tests and demonstrations.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, root: Path, *, light: bool = False) -> None:
        self._accounts = root / "accounts"
        self._sealing = root / "sealing"
        self._scrypt_n = LIGHT_SCRYPT_N if light else STANDARD_SCRYPT_N
        for folder in (root, self._accounts, self._sealing):
            files.make_folder(folder, mode=0o700)
            files.sweep(folder)

    def create_account(self, name: str, passphrase: str, *, entropy: Entropy) -> Address:
        """Draw a private key, keep it as account ``name`` and return its address.

        Raises:
            ConfigRefused: a malformed or taken name, or an empty passphrase.
            StorageError: the disk is full or failed.
        """
        # Imported late: it loads a pairing library, which takes most of a second.
        from eth_keyfile.keyfile import create_keyfile_json

        path = _new_path(self._accounts, name, passphrase)
        private_key = new_private_key(entropy=entropy)
        document = create_keyfile_json(
            private_key, passphrase.encode(), kdf="scrypt", iterations=self._scrypt_n
        )
        _keep(path, document)
        return address_of(private_key)

    def accounts(self) -> dict[str, Address]:
        """Addresses of all accounts by name, without opening any.

        Raises:
            KeyUnavailable: a file is not a keystore file.
        """
        return {
            path.stem: _stated_address(_read(path), path) for path in sorted(self._accounts.glob("*.json"))
        }

    def load_account(self, name: str, passphrase: str) -> bytes:
        """The 32-byte private key of account ``name``.

        Raises:
            KeyUnavailable: no such account, a wrong passphrase, or a damaged file.
        """
        from eth_keyfile.keyfile import decode_keyfile_json

        path = _existing_path(self._accounts, name)
        document = _read(path)
        stated = _stated_address(document, path)
        checked = _checked_account(document, path)
        try:
            private_key = bytes(decode_keyfile_json(checked, passphrase.encode()))
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise KeyUnavailable("wrong passphrase, or a damaged file", where=str(path)) from error
        if len(private_key) != 32 or address_of(private_key) != stated:
            raise KeyUnavailable("the key is not that of the address in the file", where=str(path))
        return private_key

    def create_sealing_key(self, name: str, passphrase: str, *, entropy: Entropy) -> SealingKey:
        """Draw a sealing key, keep it under ``name`` and return it.

        Raises:
            ConfigRefused: a malformed or taken name, or an empty passphrase.
            StorageError: the disk is full or failed.
        """
        path = _new_path(self._sealing, name, passphrase)
        key = SealingKey.generate(entropy=entropy)
        salt, nonce = entropy(32), entropy(12)
        kdf = {"name": "scrypt", "n": self._scrypt_n, "r": _SCRYPT_R, "p": _SCRYPT_P, "salt": salt.hex()}
        cipher = AESGCM(_stretch(passphrase, kdf, path))
        document = {
            "format": _SEALING_FORMAT,
            "digest": key.digest.hex(),
            "kdf": kdf,
            "nonce": nonce.hex(),
            "ciphertext": cipher.encrypt(nonce, key.seed, key.digest).hex(),
        }
        _keep(path, document)
        return key

    def sealing_keys(self) -> dict[str, Digest]:
        """Digests of all sealing keys' public halves by name, without opening any.

        Raises:
            KeyUnavailable: a file is not a sealing key.
        """
        return {
            path.stem: Digest(_hex(_read(path), "digest", path, length=32))
            for path in sorted(self._sealing.glob("*.json"))
        }

    def load_sealing_key(self, name: str, passphrase: str) -> SealingKey:
        """The sealing key kept under ``name``.

        Raises:
            KeyUnavailable: no such key, a wrong passphrase, or a damaged file.
        """
        path = _existing_path(self._sealing, name)
        document = _read(path)
        if document.get("format") != _SEALING_FORMAT:
            raise KeyUnavailable("is not a sealing key", where=str(path))
        digest = _hex(document, "digest", path, length=32)
        nonce = _hex(document, "nonce", path, length=12)
        ciphertext = _hex(document, "ciphertext", path, length=SEED_BYTES + 16)
        cipher = AESGCM(_stretch(passphrase, _part(document, "kdf", path), path))
        try:
            key = SealingKey(cipher.decrypt(nonce, ciphertext, digest))
        except InvalidTag as error:
            raise KeyUnavailable("wrong passphrase, or a damaged file", where=str(path)) from error
        if key.digest != digest:
            raise KeyUnavailable("the key is not the one its file names", where=str(path))
        return key


def _new_path(folder: Path, name: str, passphrase: str) -> Path:
    if _NAME.fullmatch(name) is None:
        raise ConfigRefused(
            f"{name[:80]!r} must be 1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or digit",
            where="key name",
        )
    if not passphrase:
        raise ConfigRefused("must not be empty", where="passphrase")
    path = folder / f"{name}.json"
    if path.exists():
        raise ConfigRefused(f"{name!r} is taken", where="key name")
    return path


def _existing_path(folder: Path, name: str) -> Path:
    path = folder / f"{name}.json"
    if _NAME.fullmatch(name) is None or not path.exists():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.json"))[:10]) or "none"
        raise KeyUnavailable(f"no key named {name[:80]!r} (there are: {known})", where=str(folder))
    return path


def _keep(path: Path, document: Mapping[str, Any]) -> None:
    data = json.dumps(document, indent=2, sort_keys=True).encode()
    if not files.write_once(path, data, folder=path.parent, mode=0o600):
        raise ConfigRefused(f"{path.stem!r} is taken", where="key name")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = files.read_whole(path, max_bytes=MAX_KEY_FILE_BYTES)
        if data is not None and nesting(data) > _MAX_NESTING:
            data = None
        document = None if data is None else json.loads(data)
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise KeyUnavailable(_NO_KEY_FILE, where=str(path)) from error
    if not isinstance(document, dict):
        raise KeyUnavailable(_NO_KEY_FILE, where=str(path))
    return document


def _part(document: Mapping[str, Any], field: str, path: Path) -> Mapping[str, Any]:
    part = document.get(field)
    if not isinstance(part, dict):
        raise KeyUnavailable(f"is not a key file: no {field}", where=str(path))
    return part


def _hex(document: Mapping[str, Any], field: str, path: Path, *, length: int | None = None) -> bytes:
    try:
        value = bytes.fromhex(document[field])
    except (KeyError, TypeError, ValueError) as error:
        raise KeyUnavailable(f"is not a key file: {field} must be hex", where=str(path)) from error
    if length is not None and len(value) != length:
        raise KeyUnavailable(f"is not a key file: {field} must have {length} bytes", where=str(path))
    return value


def _stated_address(document: Mapping[str, Any], path: Path) -> Address:
    value = document.get("address")
    if not isinstance(value, str) or re.fullmatch(r"(0x)?[0-9a-fA-F]{40}", value) is None:
        raise KeyUnavailable("is not a keystore file: no address of 40 hexadecimal digits", where=str(path))
    return Address(to_checksum_address(value if value.startswith("0x") else f"0x{value}"))


def _checked_account(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What is decrypted of an account's file, and nothing else of it.

    The library folds the case of all names and takes other ways of stretching a passphrase: a second ``N`` or
    ``pbkdf2`` would get round the bounds that ``n`` was held to.
    """
    crypto = _part(document, "crypto", path)
    parameters = _part(crypto, "kdfparams", path)
    if document.get("version") != 3 or crypto.get("kdf") != "scrypt" or parameters.get("dklen") != 32:
        raise KeyUnavailable("must be of version 3 and use scrypt with dklen 32", where=str(path))
    _check_kdf(parameters, path)
    initial = _hex(_part(crypto, "cipherparams", path), "iv", path, length=16)
    hexes = {name: _hex(crypto, name, path, length=32).hex() for name in ("ciphertext", "mac")}
    stretching = {name: parameters[name] for name in ("n", "r", "p", "dklen")}
    return {
        "version": 3,
        "crypto": {
            **hexes,
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": initial.hex()},
            "kdf": "scrypt",
            "kdfparams": {**stretching, "salt": _hex(parameters, "salt", path).hex()},
        },
    }


def _check_kdf(parameters: Mapping[str, Any], path: Path) -> None:
    """Refuse scrypt parameters that would take all the memory or an afternoon."""
    costs = [cost for cost in (parameters.get(name) for name in ("n", "r", "p")) if type(cost) is int]
    is_sound = len(costs) == 3 and min(costs) >= 1 and costs[0] > 1 and costs[0] & (costs[0] - 1) == 0
    if is_sound:
        n, r, p = costs
        is_sound = 128 * r * (n + p) <= MAX_SCRYPT_BYTES and p <= MAX_SCRYPT_P
    if not is_sound:
        raise KeyUnavailable(
            f"scrypt must have n a power of two, p of at most {MAX_SCRYPT_P} and 128 r (n + p) of at most "
            f"{MAX_SCRYPT_BYTES}",
            where=str(path),
        )


def _stretch(passphrase: str, kdf: Mapping[str, Any], path: Path) -> bytes:
    _check_kdf(kdf, path)
    salt = _hex(kdf, "salt", path)
    return Scrypt(salt=salt, length=32, n=kdf["n"], r=kdf["r"], p=kdf["p"]).derive(passphrase.encode())
