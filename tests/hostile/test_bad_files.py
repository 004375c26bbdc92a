"""Hundreds of files and blobs made by hand, each wrong in one way: refused by name, with what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bad_blobs import BLOBS
from bad_columns import COLUMNS
from bad_document_parts import (
    CONTEXT,
    DEPLOYMENT,
    HISTORY,
    INPUTS,
    KEY,
    LABELS,
    PASSPHRASE,
    ROWS,
    Case,
    account,
    envelope,
    put,
    state,
    tensors,
    terms,
    written,
)
from bad_documents import DOCUMENTS
from bad_table_parts import npz, stream, table
from bad_tables import TABLES
from bad_terms import TERMS
from galaxylearning.chain.deployment import Deployment
from galaxylearning.config import settings_from_json
from galaxylearning.crypto.seal import open_sealed
from galaxylearning.crypto.sign import address_of
from galaxylearning.errors import (
    BlobRefused,
    ConfigRefused,
    DataRefused,
    GalaxyError,
    JobRefused,
    KeyUnavailable,
    UpdateRefused,
)
from galaxylearning.learning.server import ServerState
from galaxylearning.messages.terms import decode_terms
from galaxylearning.protocol.consent import policy_from_json
from galaxylearning.protocol.rows import rows_from_bytes
from galaxylearning.simulation.availability_traces import read_presence
from galaxylearning.simulation.history import History
from galaxylearning.storage.datasets import load_table
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.job_file import read_job_file
from galaxylearning.storage.keystore import KeyStore
from galaxylearning.storage.tables import ReadOptions
from hostile_graph_bombs import BOMBS
from hostile_graphs import DOCUMENTS as GRAPHS
from hostile_weights import WEIGHTS

CASES: Mapping[str, Case] = {**TABLES, **COLUMNS, **DOCUMENTS, **TERMS, **BLOBS}
WANTED = 200


def _data_file(folder: Path, name: str, data: bytes) -> object:
    (folder / name).write_bytes(data)
    if name.startswith("t."):
        return read_presence(folder / name)
    return load_table(folder / name)


def _saved_data_set(folder: Path, name: str, data: bytes) -> object:
    (folder / "d.arrow").write_bytes(stream({"x": [1, 2]}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
    (folder / name).write_bytes(data)
    return read_huggingface(folder, ReadOptions())


def _account(folder: Path, data: bytes) -> object:
    store = KeyStore(folder, light=True)
    (folder / "accounts" / "own.json").write_bytes(data)
    return store.load_account("own", PASSPHRASE)


def _job(folder: Path, data: bytes) -> object:
    (folder / "job.py").write_bytes(data)
    return read_job_file(folder / "job.py")


READERS: Mapping[str, tuple[Callable[[bytes], object], type[GalaxyError]]] = {
    "settings": (settings_from_json, ConfigRefused),
    "policy": (policy_from_json, ConfigRefused),
    "deployment": (lambda data: Deployment.from_json(data.decode("latin-1")), ConfigRefused),
    "history": (lambda data: History.from_json(data.decode()), DataRefused),
    "terms": (decode_terms, JobRefused),
    "sealed": (lambda data: open_sealed(data, KEY, CONTEXT, max_bytes=1000), BlobRefused),
    "test set": (lambda data: rows_from_bytes(data, n_rows=ROWS), DataRefused),
    "server state": (ServerState.from_bytes, UpdateRefused),
}
IN_A_FOLDER: Mapping[str, tuple[Callable[[Path, bytes], object], type[GalaxyError]]] = {
    "account": (_account, KeyUnavailable),
    "job file": (_job, JobRefused),
}


def read(reader: str, folder: Path, data: bytes) -> object:
    """Give ``data`` to its reader; a reader that is no document's is the name of a data file."""
    if reader in READERS:
        return READERS[reader][0](data)
    if reader in IN_A_FOLDER:
        return IN_A_FOLDER[reader][0](folder, data)
    return (_saved_data_set if reader in ("d.arrow", "state.json") else _data_file)(folder, reader, data)


def refusal_of(reader: str) -> type[GalaxyError]:
    """What the reader promises to raise."""
    return {**READERS, **IN_A_FOLDER}.get(reader, (None, DataRefused))[1]


def test_there_are_hundreds_of_them() -> None:
    assert len(CASES) == len(TABLES) + len(COLUMNS) + len(DOCUMENTS) + len(TERMS) + len(BLOBS)
    assert len({(reader, build()) for reader, build, _ in CASES.values()}) >= len(CASES) - 5 >= WANTED
    assert len(GRAPHS) + len(BOMBS) + len(WEIGHTS) >= WANTED


@pytest.mark.parametrize("name", list(CASES))
def test_a_bad_file_is_refused_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    reader, build, part = CASES[name]
    with pytest.raises(refusal_of(reader)) as caught:
        read(reader, tmp_path, build())
    message = str(caught.value)
    assert part in message
    assert len(message) < 500 + len(str(tmp_path))
    message.encode()


SOUND: Mapping[str, Callable[[], bytes]] = {
    "settings": lambda: b'{"chain": "embedded:"}',
    "policy": lambda: b'{"requesters": ["*"]}',
    "deployment": lambda: written(DEPLOYMENT),
    "history": lambda: written(HISTORY),
    "terms": lambda: written(terms()),
    "sealed": envelope,
    "test set": lambda: tensors(inputs=INPUTS, labels=LABELS),
    "server state": state,
    "account": lambda: written(account()),
    "d.csv": lambda: b"a,b\n1,x\n2,y\n",
    "d.npz": lambda: npz(x=INPUTS, y=LABELS),
    "d.parquet": lambda: table({"x": [1, 2], "t": ["a", "b"]}),
    "d.arrow": lambda: stream({"x": [1, 2]}),
    "t.csv": lambda: b"round,owner\n1,2\n",
    "t.jsonl": lambda: b'{"round": 1, "owner": 2}\n',
}


@pytest.mark.parametrize("reader", list(SOUND))
def test_what_the_cases_are_changes_of_is_accepted(reader: str, tmp_path: Path) -> None:
    assert read(reader, tmp_path, SOUND[reader]()) is not None


def test_names_that_differ_by_case_do_not_get_round_the_bounds_of_an_account(tmp_path: Path) -> None:
    """The library that decrypts folds case: it would take the gigabyte of the second ``N``."""
    data = put(account(), "crypto.kdfparams.N", 1 << 30)
    assert read("account", tmp_path, data) == b"\1" * 32
    assert address_of(b"\1" * 32).lower().endswith(str(account()["address"]).lower())
