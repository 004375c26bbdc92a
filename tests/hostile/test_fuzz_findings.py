"""What fuzzing found, each as small as it can be: crashes, hangs and errors that nobody was promised."""

from __future__ import annotations

import asyncio
import io
import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxylearning.chain import bounded_json
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.embedded.server import answer_body
from galaxylearning.chain.evm import Following, connect
from galaxylearning.chain.transport import error_of
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import DataRefused, GalaxyError, LedgerError, MessageRefused, StorageError
from galaxylearning.messages import typed
from galaxylearning.simulation.checkpoint import CheckpointFolder, read_checkpoint
from galaxylearning.simulation.rounds_kept import unpack
from galaxylearning.storage import files
from galaxylearning.storage.huggingface_arrow import read_stream
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.journal import SqliteJournal
from galaxylearning.storage.parquet_pages import column_chunks
from galaxylearning.storage.tables import ReadOptions, TableLimits

TOKEN, REGISTRY, JOBS = (f"0x{n:040d}" for n in (1, 2, 3))
HASH = "0x" + "11" * 32


def stream(table: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_an_arrow_message_that_is_no_schema_is_not_read_as_one() -> None:
    """pyarrow followed a null pointer."""
    data = stream(pa.table({"x": [1, 2]}))
    second = data.index(b"\xff\xff\xff\xff", 8)
    with pytest.raises(DataRefused, match="a schema must come first"):
        read_stream(data[second:], "f", TableLimits())


def test_an_arrow_stream_cut_between_messages_is_noticed() -> None:
    """Zeros at the end of the numbers were taken for the end of the stream."""
    data = stream(pa.table({"x": [1, 0]}))
    assert data[:-8].endswith(bytes(4))
    with pytest.raises(DataRefused, match="is cut short"):
        read_stream(data[:-8], "f", TableLimits())
    assert read_stream(data, "f", TableLimits()).num_rows == 2


def _unsigned(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


CHILD = """
import sys
from pathlib import Path
from galaxylearning.errors import DataRefused
from galaxylearning.storage.huggingface_table import read_huggingface
from galaxylearning.storage.tables import ReadOptions
try:
    table = read_huggingface(Path(sys.argv[1]), ReadOptions())
    print(sorted(table.columns))
except DataRefused as error:
    print("refused", error)
"""


def test_parquet_metadata_that_contradict_themselves_do_not_end_the_process(tmp_path: Path) -> None:
    """A histogram of another length: pyarrow ended the process that asked for a chunk's metadata."""
    data = parquet(pa.table({"a": [[1, 2], [3, 4]], "y": [0, 1]}))
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    # SizeStatistics of a list column: field 3, a list of i64, the numbers of definition levels.
    marks = [at for at in range(len(footer)) if footer[at : at + 2] == b"\x19\x46"]
    assert marks
    seen = set()
    for at in marks:
        broken = footer[:at] + b"\x19\x36" + footer[at + 2 : at + 5] + footer[at + 6 :]
        file = data[: -8 - length] + broken + len(broken).to_bytes(4, "little") + b"PAR1"
        (tmp_path / "train.parquet").write_bytes(file)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-500:]
        seen.add(done.stdout[:7])
    assert seen <= {"refused", "['a', '"}


def test_column_chunks_are_those_that_pyarrow_sees() -> None:
    table = pa.table({"a": [[1, 2], [3]], "s": ["x", "y"], "f": [0.5, 1.5]})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1, compression="snappy")
    data = sink.getvalue()
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    wanted = []
    for i in range(metadata.num_row_groups):
        for j in range(metadata.num_columns):
            chunk = metadata.row_group(i).column(j)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            wanted.append(
                (chunk.path_in_schema, chunk.num_values, start, start + chunk.total_compressed_size)
            )
    assert [(c.path, c.num_values, c.start, c.end) for c in column_chunks(data)] == wanted
    assert len(wanted) == 6


@pytest.mark.parametrize("cut", [0, 4, 11, 40])
def test_a_footer_that_is_not_there_is_refused(cut: int) -> None:
    data = parquet(pa.table({"a": [1]}))
    with pytest.raises(ValueError, match=r"footer|header|list"):
        list(column_chunks(data[:cut] + b"\xff\xff\xff\x7fPAR1"))


def test_a_list_in_a_footer_that_claims_billions_ends_at_once() -> None:
    footer = b"\x49\xfc" + _unsigned(2**31) + b"\0"
    with pytest.raises(ValueError, match="longer than the file"):
        list(column_chunks(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"))


def test_class_numbers_without_a_sign_are_read(tmp_path: Path) -> None:
    """What stands for a missing class, -1, did not fit them: an OverflowError."""
    features = {"info": {"features": {"y": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}
    table = pa.table({"y": pa.array([1, 0], pa.uint8())})
    (tmp_path / "d.arrow").write_bytes(
        stream(table.replace_schema_metadata({"huggingface": json.dumps(features)}))
    )
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
    assert read_huggingface(tmp_path, ReadOptions()).columns["y"].tolist() == ["yes", "no"]


@pytest.mark.parametrize("header", ["[]", '"round"', "7", "null", "[" * 5000])
def test_a_checkpoint_whose_header_is_no_object_is_as_good_as_absent(tmp_path: Path, header: str) -> None:
    CheckpointFolder(tmp_path, "run").save(1, {"a": 1}, {"x": np.zeros(2, np.float32)})
    path = tmp_path / "000001.checkpoint"
    text = json.dumps({"a": 1, "fingerprint": "run", "round": 1}).encode()
    body = path.read_bytes()[:-32]
    assert text in body
    shorter = header.encode()[: len(text)].ljust(len(text))
    body = body.replace(text, shorter)
    path.write_bytes(body + blake3_digest(body))
    assert read_checkpoint(tmp_path, 1) is None


@pytest.mark.parametrize(
    "header",
    [
        {"measured": [[0.0, 1], [0.0, 1]], "reasons": [1], "gain": 0, "model_digest": "ab" * 32},
        {"measured": [[0.0, 1], [0.0, 1]], "reasons": {}, "gain": 10**400, "model_digest": "ab" * 32},
        {"measured": 3},
        {},
    ],
    ids=["reasons in a list", "a gain beyond floats", "measured once", "empty"],
)
def test_a_checkpoint_with_odd_fields_is_a_storage_error(header: Mapping[str, Any]) -> None:
    names = ("owners", "codes", "weights", "cosines", "values", "errors", "params", "buffers", "server")
    arrays = {name: np.zeros(0, np.int64) for name in names}
    with pytest.raises(StorageError, match="round 2: is not a checkpoint of this version"):
        unpack(1, header, arrays, ())


def test_a_file_is_read_without_allocating_its_limit(tmp_path: Path) -> None:
    """Eight gigabytes were asked for, to read a checkpoint of a few kilobytes."""
    (tmp_path / "small").write_bytes(b"x" * 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert files.read_whole(tmp_path / "small", max_bytes=1 << 46) == b"x" * 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_a_journal_with_text_that_is_no_unicode_is_a_storage_error(tmp_path: Path) -> None:
    """SQLite's own words quote the file; Python could not decode them."""
    path = tmp_path / "journal.sqlite"
    with SqliteJournal(path) as journal:
        journal.record("step", b"payload")
    data = path.read_bytes()
    assert b"sqlite_autoindex_steps" in data
    path.write_bytes(data.replace(b"sqlite_autoindex_steps", b"sqlite_autoindex_\xff\xfe\xff\xfe\xff"))
    with pytest.raises(StorageError, match="journal"):
        SqliteJournal(path)


def test_a_journal_whose_payload_became_text_is_a_storage_error(tmp_path: Path) -> None:
    """One byte of a row's header says what its columns are."""
    path = tmp_path / "journal.sqlite"
    with SqliteJournal(path) as journal:
        journal.record("step", b"payload")
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA writable_schema=ON;"
        "UPDATE sqlite_master SET sql = replace(replace(sql, 'BLOB', 'TEXT'), ' STRICT', '') "
        "WHERE name = 'steps';"
    )
    connection.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE steps SET payload = 'text'")
    connection.commit()
    connection.close()
    with SqliteJournal(path) as journal, pytest.raises(StorageError, match="a payload is not bytes"):
        journal.lookup("step")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("half a pair \ud800", "half a pair \\ud800"),
        ("an escape \x1b[2J", "an escape \\x1b[2J"),
        ("turned \u202e around", "turned \\u202e around"),
        ("a bell \x07", "a bell \\x07"),
        ("two\nlines", "two\nlines"),
        ("größer", "größer"),
    ],
)
def test_what_strangers_wrote_can_be_shown(text: str, shown: str) -> None:
    message = str(GalaxyError(text, where="there"))
    assert message == f"there: {shown}"
    assert len(message.encode()) > 0


def test_escapes_do_not_make_a_message_long() -> None:
    assert len(str(GalaxyError("\u202e" * 5_000))) < 1_100


def test_a_nodes_refusal_can_be_shown() -> None:
    refused = error_of(bounded_json.loads('{"code": 1, "message": "no \\ud800"}'), "eth_call")
    str(refused).encode()


def test_the_names_of_unknown_fields_are_shown_in_part() -> None:
    with pytest.raises(MessageRefused) as caught:
        typed.RoundOpening.from_abi({"x" * 5_000: 1, "jobId": 7})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("identifier", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_request_whose_number_is_none_is_refused(identifier: str) -> None:
    """The answer repeated it, and was not JSON."""
    chain = EmbeddedChain(None, now=lambda: 1_800_000_000)
    body = f'{{"jsonrpc": "2.0", "id": {identifier}, "method": "eth_chainId"}}'
    answer = answer_body(chain, body.encode())
    assert "finite" in json.dumps(answer, allow_nan=False)


def block(number: str) -> dict[str, Any]:
    """A block of this number, as good as any where hashes are not computed again."""
    fields = dict.fromkeys(("hash", "parentHash", "mixHash", "receiptsRoot"), HASH)
    return {**fields, "number": number, "timestamp": "0x1", "logsBloom": "0x" + "ff" * 256}


class Node:
    """Answers as it was told."""

    def __init__(self, **answers: Any) -> None:
        self._answers = {
            "eth_chainId": "0x1",
            "eth_getCode": "0x00",
            "eth_getBlockByNumber": block("0x1"),
            **answers,
        }

    async def make_request(self, method: str, params: Any) -> Any:  # noqa: ARG002
        """The answer for the method, or null."""
        return {"result": self._answers.get(method)}


def read_events(**answers: Any) -> object:
    """Read all events from a node that says this."""

    async def read() -> object:
        async with asyncio.timeout(30):
            deployment = Deployment(1, TOKEN, REGISTRY, JOBS, 0)  # type: ignore[arg-type]
            following = Following(finality_blocks=0, is_checked=False)
            ledger = await connect(Node(**answers), deployment, following=following)
            return (await ledger.follow(0)).final

    return asyncio.run(read())


def log(**changes: Any) -> dict[str, Any]:
    """A log of the jobs contract, with changes."""
    sound = {
        "address": JOBS,
        "topics": ["0x" + "22" * 32],
        "data": "0x",
        "blockNumber": "0x1",
        "logIndex": "0x0",
        "blockHash": HASH,
        "transactionHash": HASH,
    }
    return sound | changes


def test_a_node_that_claims_an_endless_chain_is_not_followed_for_ever() -> None:
    with pytest.raises(LedgerError):
        read_events(eth_getBlockByNumber=block(hex(2**63)), eth_getLogs=[])


def test_a_node_that_gives_the_same_logs_for_all_blocks_is_refused() -> None:
    with pytest.raises(LedgerError):
        read_events(eth_getBlockByNumber=block(hex(50_000)), eth_getLogs=[log()])


@pytest.mark.parametrize("changes", [{"topics": 7}, {"topics": 0.5}, {"topics": None}])
def test_a_log_without_a_list_of_topics_is_refused(changes: Mapping[str, Any]) -> None:
    with pytest.raises(LedgerError):
        read_events(eth_getLogs=[log(**changes)])
