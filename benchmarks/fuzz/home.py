"""What lies in a user's folders: settings, policy, keys, deployment, checkpoints, histories, databases."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.fuzz.documents import mutate_json, mutate_msgpack, to_plain_json
from benchmarks.fuzz.messages import ACCOUNTS, CONTRACT, HEX, KEYS, ME, make_terms
from benchmarks.fuzz.mutate import change_bytes
from benchmarks.fuzz.tables import Folder
from benchmarks.fuzz.target import Target
from eth_keyfile.keyfile import create_keyfile_json

from galaxylearning.chain.deployment import Deployment
from galaxylearning.config import (
    Invitation,
    Settings,
    invitation_from_json,
    invitation_to_json,
    settings_from_json,
    settings_to_json,
)
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.errors import (
    ConfigRefused,
    DataRefused,
    KeyUnavailable,
    StorageError,
)
from galaxylearning.graph import Cost
from galaxylearning.learning.server import ServerOptimizer
from galaxylearning.messages.fields import DIGEST_BYTES
from galaxylearning.protocol.consent import OwnerPolicy, policy_from_json, refusal, refusal_of_model
from galaxylearning.protocol.matching import MatchReport
from galaxylearning.simulation.checkpoint import CheckpointFolder, read_checkpoint
from galaxylearning.simulation.history import History, RoundRecord
from galaxylearning.simulation.rounds_kept import unpack
from galaxylearning.storage.journal import SqliteJournal
from galaxylearning.storage.keystore import KeyStore
from galaxylearning.storage.store_settings import store_settings_from_json

PASSPHRASE: Final = "correct horse"  # noqa: S105 - it protects nothing
_TINY_SCRYPT: Final = 2


def _policies() -> list[bytes]:
    policies: list[dict[str, Any]] = [
        {},
        {
            "requesters": [ME], "evaluators": ["*"], "datasets": ["biopsies"], "modes": ["sealed"],
            "minimum_bounty": "1000", "maximum_rounds": 10, "accepted": [HEX], "max_epsilon": 8.0,
            "delta": 1e-6,
        },
    ]  # fmt: skip
    return [json.dumps(policy).encode() for policy in policies]


def _read_policy(data: bytes) -> object:
    policy: OwnerPolicy = policy_from_json(data)
    terms = make_terms()
    return (
        refusal(policy, terms, terms.digest, dataset="biopsies", n_rows=1, report=MatchReport(())),
        refusal_of_model(policy, terms.digest, Cost(1, 1, 1, 1, 1), 1),
    )


def _store_settings() -> list[bytes]:
    settings: list[Any] = [{}, {"port": 0, "names": ["blobs.example"], "accounts": [ME]}]
    return [json.dumps(one).encode() for one in settings]


def _invitation() -> bytes:
    return invitation_to_json(Invitation("https://node.example", CONTRACT, "https://blobs.example", 12))


def _account_seeds() -> list[bytes]:
    made = create_keyfile_json(KEYS[0], PASSPHRASE.encode(), kdf="scrypt", iterations=_TINY_SCRYPT)
    return [json.dumps(made).encode()]


def _sealing_seeds() -> list[bytes]:
    folder = Folder()
    store = KeyStore(folder.path, light=True)
    store._scrypt_n = _TINY_SCRYPT  # half a microsecond instead of 15 ms a try
    store.create_sealing_key("own", PASSPHRASE, entropy=seeded_entropy(4))
    return [(folder.path / "sealing" / "own.json").read_bytes()]


def _load_account(folder: Folder, store: KeyStore, data: bytes) -> object:
    (folder.path / "accounts" / "own.json").write_bytes(data)
    store.accounts()
    return store.load_account("own", PASSPHRASE)


def _load_sealing_key(folder: Folder, store: KeyStore, data: bytes) -> object:
    (folder.path / "sealing" / "own.json").write_bytes(data)
    store.sealing_keys()
    return store.load_sealing_key("own", PASSPHRASE)


def _keystore(kind: str) -> partial[object]:
    folder = Folder()
    store = KeyStore(folder.path, light=True)
    return partial(_load_account if kind == "account" else _load_sealing_key, folder, store)


def _records() -> list[RoundRecord]:
    values = np.array([0.5, 0.0, -0.25])
    statuses = np.array([4, 0, 3], np.int8)
    return [
        RoundRecord(index, -0.5, 0.75, 1.5, statuses, values, np.abs(values), loss=0.25) for index in range(2)
    ]


def _histories() -> list[bytes]:
    return [History(3, tuple(_records())).to_json().encode(), History(0).to_json().encode()]


def _read_history(data: bytes) -> object:
    return History.from_json(data.decode("utf-8", "surrogateescape"))


def _checkpoints() -> list[bytes]:
    folder = Folder()
    record = _records()[0]
    header: dict[str, Any] = {
        "reasons": {"1": "absent"},
        "gain": 0.5,
        "model_digest": HEX,
        "measured": [[-0.5, 10], [-0.25, 12]],
        "record": record.to_document(),
    }
    arrays: dict[str, Any] = {
        "params": np.zeros(4, np.float32),
        "buffers": np.zeros(0, np.float32),
        "server": np.frombuffer(ServerOptimizer("fedadam").init(4).to_bytes(), np.int8),
        "owners": np.array([0, 1, 2]),
        "codes": record.statuses,
        "weights": np.array([15, 0, 0]),
        "cosines": np.array([0.5, 0.0, -0.5]),
        "values": record.values,
        "errors": record.errors,
        "players": np.array([0, 1]),
        "sent": np.zeros((2, 4), np.int32),
    }
    CheckpointFolder(folder.path, "run").save(1, header, arrays)
    return [(folder.path / "000001.checkpoint").read_bytes()]


def _mutate_checkpoint(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """The file changed, mostly with a digest that is right again; its header is JSON inside."""
    seed = rng.choice(seeds)
    if rng.random() < 0.1:
        return change_bytes(rng, seed)
    body = seed[:-DIGEST_BYTES]
    if rng.random() < 0.5:
        body = mutate_msgpack(rng, [body])
    else:
        at = body.index(b'{"reasons"')
        end = body.index(b'"round": 1}', at) + len(b'"round": 1}')
        header = mutate_json(to_plain_json)(rng, [body[at:end]])
        # The header is a msgpack "bin 16" here: three bytes stand before it.
        body = (
            body[: at - 3]
            + b"\xc5"
            + min(len(header), 65535).to_bytes(2, "big")
            + header[:65535]
            + body[end:]
        )
    return body + blake3_digest(body)


def _read_checkpoint(folder: Folder, data: bytes) -> object:
    folder.file("000001.checkpoint", data)
    found = read_checkpoint(folder.path, 1)
    return None if found is None else unpack(1, *found, ACCOUNTS)


def _journals() -> list[bytes]:
    folder = Folder()
    path = folder.path / "journal.sqlite"
    with SqliteJournal(path) as journal:
        for number in range(20):
            journal.record(f"job/7/step/{number}", bytes([number]) * 50)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    return [path.read_bytes()]


def _read_journal(folder: Folder, data: bytes) -> object:
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{folder.path}/journal.sqlite{suffix}").unlink(missing_ok=True)
    path = folder.file("journal.sqlite", data)
    with SqliteJournal(path) as journal:
        return [journal.lookup(step) for step in journal.steps()]


def targets() -> list[Target]:
    """All of them."""
    deployment = Deployment(31337, ACCOUNTS[0], ACCOUNTS[1], CONTRACT, 12).to_json()
    settings = Settings(chain="https://node.example:8545", blobs="/data", deployment=deployment)
    plain = mutate_json(to_plain_json)
    keys = (KeyUnavailable,)
    return [
        Target(
            "settings",
            [settings_to_json(settings), settings_to_json(Settings())],
            settings_from_json,
            (ConfigRefused,),
            plain,
        ),
        Target("store settings", _store_settings(), store_settings_from_json, (ConfigRefused,), plain),
        Target("invitation", [_invitation()], invitation_from_json, (ConfigRefused,), plain),
        Target("policy", _policies(), _read_policy, (ConfigRefused,), plain),
        Target(
            "deployment",
            [deployment.encode()],
            lambda data: Deployment.from_json(data.decode("utf-8", "surrogateescape")),
            (ConfigRefused,),
            plain,
        ),
        Target("account file", _account_seeds(), _keystore("account"), keys, plain, share=2.0),
        Target("sealing key file", _sealing_seeds(), _keystore("sealing"), keys, plain),
        Target("history", _histories(), _read_history, (DataRefused,), plain),
        Target(
            "checkpoint",
            _checkpoints(),
            partial(_read_checkpoint, Folder()),
            (StorageError,),
            _mutate_checkpoint,
            share=2.0,
        ),
        Target("journal", _journals(), partial(_read_journal, Folder()), (StorageError,), share=0.5),
    ]
