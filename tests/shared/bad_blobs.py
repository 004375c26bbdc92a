"""Account files, envelopes, hidden test sets and optimiser states that cannot be used, and why."""

from __future__ import annotations

import numpy as np

from bad_document_parts import (
    CONTEXT,
    HEX,
    INPUTS,
    KEY,
    LABELS,
    ME,
    Case,
    account,
    altered,
    envelope,
    put,
    state,
    tensors,
    without,
)
from galaxylearning.crypto.seal import SealingKey, seal
from galaxylearning.crypto.secret_stream import seeded_entropy

BLOBS: dict[str, Case] = {
    "account: empty": (
        "account",
        lambda: b"",
        "is not a key file: a JSON object of at most 65536 bytes allowed",
    ),
    "account: a list": (
        "account",
        lambda: b"[]",
        "is not a key file: a JSON object of at most 65536 bytes allowed",
    ),
    "account: nested for ever": (
        "account",
        lambda: b"[" * 60_000,
        "is not a key file: a JSON object of at most 65536 bytes allowed",
    ),
    "account: 70 KB": (
        "account",
        lambda: b" " * 70_000,
        "is not a key file: a JSON object of at most 65536 bytes allowed",
    ),
    "account: no address": (
        "account",
        lambda: without(account(), "address"),
        "is not a keystore file: no address of 40 hexadecimal digits",
    ),
    "account: another address": (
        "account",
        lambda: put(account(), "address", ME[2:]),
        "the key is not that of the address in the file",
    ),
    "account: half an address": (
        "account",
        lambda: put(account(), "address", "12"),
        "is not a keystore file: no address of 40 hexadecimal digits",
    ),
    "account: no crypto": ("account", lambda: without(account(), "crypto"), "is not a key file: no crypto"),
    "account: version 4": (
        "account",
        lambda: put(account(), "version", 4),
        "must be of version 3 and use scrypt with dklen 32",
    ),
    "account: pbkdf2": (
        "account",
        lambda: put(account(), "crypto.kdf", "pbkdf2"),
        "must be of version 3 and use scrypt with dklen 32",
    ),
    "account: scrypt with a gigabyte": (
        "account",
        lambda: put(account(), "crypto.kdfparams.n", 1 << 30),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with n = 3": (
        "account",
        lambda: put(account(), "crypto.kdfparams.n", 3),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with n = 1": (
        "account",
        lambda: put(account(), "crypto.kdfparams.n", 1),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with p of an afternoon": (
        "account",
        lambda: put(account(), "crypto.kdfparams.p", 1 << 30),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with many blocks": (
        "account",
        lambda: put(account(), "crypto.kdfparams.p", 131_073),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with long blocks": (
        "account",
        lambda: put(account(), "crypto.kdfparams.r", 1 << 20),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with r = 0": (
        "account",
        lambda: put(account(), "crypto.kdfparams.r", 0),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: scrypt with n as text": (
        "account",
        lambda: put(account(), "crypto.kdfparams.n", "2"),
        "scrypt must have n a power of two, p of at most 16 and 128 r (n + p) of at most 269484032",
    ),
    "account: a derived key of a gigabyte": (
        "account",
        lambda: put(account(), "crypto.kdfparams.dklen", 1 << 30),
        "must be of version 3 and use scrypt with dklen 32",
    ),
    "account: a salt that is no hex": (
        "account",
        lambda: put(account(), "crypto.kdfparams.salt", "salt"),
        "is not a key file: salt must be hex",
    ),
    "account: a short initial vector": (
        "account",
        lambda: put(account(), "crypto.cipherparams.iv", "00"),
        "is not a key file: iv must have 16 bytes",
    ),
    "account: a short ciphertext": (
        "account",
        lambda: put(account(), "crypto.ciphertext", "00"),
        "is not a key file: ciphertext must have 32 bytes",
    ),
    "account: another ciphertext": (
        "account",
        lambda: put(account(), "crypto.ciphertext", HEX),
        "wrong passphrase, or a damaged file",
    ),
    "account: a wrong mac": (
        "account",
        lambda: put(account(), "crypto.mac", HEX),
        "wrong passphrase, or a damaged file",
    ),
    "account: a mac that is a number": (
        "account",
        lambda: put(account(), "crypto.mac", 7),
        "is not a key file: mac must be hex",
    ),
    "sealed: empty": ("sealed", lambda: b"", "0 bytes are too few for a sealed envelope"),
    "sealed: no envelope": ("sealed", lambda: b"hello" * 40, "is not a sealed envelope of version 1"),
    "sealed: another version": (
        "sealed",
        lambda: altered(envelope(), 0, b"XXXX"),
        "is not a sealed envelope of version 1",
    ),
    "sealed: another context": (
        "sealed",
        lambda: altered(envelope(), 8, bytes(8)),
        "was sealed for something else (job, round, kind or sender)",
    ),
    "sealed: cut short": ("sealed", lambda: envelope()[:-1], "has 1321 bytes where its header promises 1322"),
    "sealed: a byte too many": (
        "sealed",
        lambda: envelope() + b"\0",
        "has 1323 bytes where its header promises 1322",
    ),
    "sealed: another body": (
        "sealed",
        lambda: altered(envelope(), len(envelope()) - 1, bytes([envelope()[-1] ^ 1])),
        "is not authentic",
    ),
    "sealed: for somebody else": (
        "sealed",
        lambda: seal(b"x", [SealingKey(bytes(96)).public], CONTEXT, entropy=seeded_entropy(3)),
        "this key is not among the recipients",
    ),
    "sealed: a larger plaintext than allowed": (
        "sealed",
        lambda: seal(bytes(2000), [KEY.public], CONTEXT, entropy=seeded_entropy(3)),
        "2000 bytes where at most 1000 are allowed",
    ),
    "test set: empty": ("test set", lambda: b"", "not a test set: Error while deserializing"),
    "test set: a header too long": (
        "test set",
        lambda: (1 << 40).to_bytes(8, "little") + b"{}",
        "not a test set: Error while deserializing",
    ),
    "test set: no header": ("test set", lambda: bytes(8), "not a test set: Error while deserializing"),
    "test set: no labels": ("test set", lambda: tensors(inputs=INPUTS), "must hold inputs and labels"),
    "test set: a tensor too many": (
        "test set",
        lambda: tensors(inputs=INPUTS, labels=LABELS, weights=LABELS),
        "must hold inputs and labels",
    ),
    "test set: numbers of 64 bits": (
        "test set",
        lambda: tensors(inputs=INPUTS.astype(np.float64), labels=LABELS),
        "must be float32 or int64",
    ),
    "test set: labels of 8 bits": (
        "test set",
        lambda: tensors(inputs=INPUTS, labels=LABELS.astype(np.int8)),
        "must be float32 or int64",
    ),
    "test set: a row too few": (
        "test set",
        lambda: tensors(inputs=INPUTS[1:], labels=LABELS),
        "must have the 4 rows of the terms",
    ),
    "test set: a label without rows": (
        "test set",
        lambda: tensors(inputs=INPUTS, labels=np.array(1.0, np.float32)),
        "must have the 4 rows of the terms",
    ),
    "test set: not a number": (
        "test set",
        lambda: tensors(inputs=INPUTS * np.float32("nan"), labels=LABELS),
        "must be finite",
    ),
    "test set: infinite labels": (
        "test set",
        lambda: tensors(inputs=INPUTS, labels=LABELS.astype(np.float32) + np.float32("inf")),
        "must be finite",
    ),
    "server state: empty": ("server state", lambda: b"", "must be at least 22 bytes, not 0"),
    "server state: another mark": (
        "server state",
        lambda: b"X" + state()[1:],
        "does not begin with a known header",
    ),
    "server state: an optimiser nobody knows": (
        "server state",
        lambda: altered(state(), 5, b"\x09"),
        "does not begin with a known header",
    ),
    "server state: a moment too few": (
        "server state",
        lambda: state()[:-8],
        "must be 70 bytes for 3 parameters, not 62",
    ),
    "server state: a size of 2^63": (
        "server state",
        lambda: altered(state(), 14, b"\0\0\0\0\0\0\0\x80"),
        "must be 147573952589676412950 bytes for 9223372036854775808 parameters, not 70",
    ),
    "server state: not a number": (
        "server state",
        lambda: altered(state(), len(state()) - 48, b"\0\0\0\0\0\0\xf8\x7f"),
        "must be finite; it contains NaN or infinity",
    ),
    "server state: a negative second moment": (
        "server state",
        lambda: altered(state(), len(state()) - 8, b"\0\0\0\0\0\0\xf0\xbf"),
        "the second moment must not be negative",
    ),
}
