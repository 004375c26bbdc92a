"""A chain whose process is killed at any moment reopens at its last whole block."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.errors import ConfigRefused, StorageError

NOW = 1_800_000_000

# Adds the first word of call data to slot 0 and logs the sum: state and log must agree in every block.
COUNTER = "0x6016" + "5f8160095f39f3" + "5f355f54015f555f545f5233600760205fa260205ff3"

MINER = """
import sys
from pathlib import Path
from galaxylearning.chain.embedded import EmbeddedChain
chain = EmbeddedChain(Path(sys.argv[1]), now=lambda: 1_800_000_000)
faucet = chain.request("eth_accounts", [])[0]
made = chain.request("eth_sendTransaction", [{"from": faucet, "data": sys.argv[2]}])
counter = chain.request("eth_getTransactionReceipt", [made])["contractAddress"]
print(counter, flush=True)
one = "0x" + (1).to_bytes(32).hex()
while True:
    call = {"from": faucet, "to": counter, "data": one, "gas": "0x30d40"}
    sent = chain.request("eth_sendTransaction", [call])
    print(sent, flush=True)
"""


def start(path: Path) -> subprocess.Popen[str]:
    """A process that mines one transaction after the other, and prints each after it was answered."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", MINER, str(path), COUNTER]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("answers", [1, 2, 7, 23])
def test_killed_in_mid_run_it_reopens_at_a_whole_block(tmp_path: Path, answers: int) -> None:
    path = tmp_path / "chain.db"
    process = start(path)
    assert process.stdout is not None
    counter = process.stdout.readline().strip()
    seen = [process.stdout.readline().strip() for _ in range(answers)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    seen += [line for line in rest.split("\n") if len(line) == 66]

    with EmbeddedChain(path, now=lambda: NOW) as chain:
        head = int(chain.request("eth_blockNumber", []), 16)
        count = int(chain.request("eth_getStorageAt", [counter, "0x0", "latest"]), 16)
        faucet = chain.request("eth_accounts", [])[0]
        logs = chain.request("eth_getLogs", [{"address": counter, "fromBlock": "0x0"}])
        assert head == count + 1 == int(chain.request("eth_getTransactionCount", [faucet, "latest"]), 16)
        assert [int(log["data"], 16) for log in logs] == list(range(1, count + 1))
        assert count in (len(seen), len(seen) + 1)  # the last may have been stored but not yet told
        for sent in seen:
            assert chain.request("eth_getTransactionReceipt", [sent])["status"] == "0x1"
        parents = [chain.request("eth_getBlockByNumber", [hex(n), False]) for n in range(head + 1)]
        assert all(b["parentHash"] == a["hash"] for a, b in pairwise(parents))
        one = "0x" + (1).to_bytes(32).hex()
        chain.request("eth_sendTransaction", [{"from": faucet, "to": counter, "data": one}])
        assert int(chain.request("eth_getStorageAt", [counter, "0x0", "latest"]), 16) == count + 1


def test_reopening_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    with EmbeddedChain(path, now=lambda: NOW) as chain:
        faucet = chain.request("eth_accounts", [])[0]
        made = chain.request("eth_sendTransaction", [{"from": faucet, "data": COUNTER}])
        chain.request("evm_increaseTime", [3_600])
        before = chain.request("eth_getBlockByNumber", ["latest", True])
        receipt = chain.request("eth_getTransactionReceipt", [made])
    with EmbeddedChain(path, now=lambda: NOW) as chain:
        assert chain.request("eth_getBlockByNumber", ["latest", True]) == before
        assert chain.request("eth_getTransactionReceipt", [made]) == receipt
        code = chain.request("eth_getCode", [receipt["contractAddress"], "latest"])
        assert code == "0x" + COUNTER[20:]
        chain.request("evm_mine", [])
        latest = chain.request("eth_getBlockByNumber", ["latest", False])
        assert int(latest["timestamp"], 16) == NOW + 3_600  # the clock kept what it was moved forward by


def test_the_same_transactions_make_the_same_blocks(tmp_path: Path) -> None:
    hashes = []
    for name in ("one.db", "two.db"):
        with EmbeddedChain(tmp_path / name, now=lambda: NOW) as chain:
            faucet = chain.request("eth_accounts", [])[0]
            for _ in range(3):
                chain.request("eth_sendTransaction", [{"from": faucet, "data": COUNTER}])
            hashes.append(chain.request("eth_getBlockByNumber", ["latest", False])["hash"])
    assert hashes[0] == hashes[1]


def test_a_file_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    with (
        EmbeddedChain(path, now=lambda: NOW) as chain,
        pytest.raises(StorageError, match="another process has this chain open"),
    ):
        EmbeddedChain(path, now=lambda: NOW)
    with pytest.raises(StorageError, match="closed"):
        chain.request("eth_chainId", [])


def test_a_chain_with_another_identifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    EmbeddedChain(path, chain_id=5, now=lambda: NOW).close()
    with pytest.raises(ConfigRefused, match="holds chain 5, not 6"):
        EmbeddedChain(path, chain_id=6, now=lambda: NOW)
    EmbeddedChain(path, chain_id=5, now=lambda: NOW).close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_chain_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chain.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="not a usable chain file"):
        EmbeddedChain(path, now=lambda: NOW)


def test_a_chain_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    EmbeddedChain(path, now=lambda: NOW).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '2' WHERE name = 'format'")
    database.close()
    with pytest.raises(StorageError, match="another format"):
        EmbeddedChain(path, now=lambda: NOW)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot open"):
        EmbeddedChain(tmp_path / "file" / "chain.db", now=lambda: NOW)


def test_a_full_disk_stores_nothing_and_the_chain_goes_on_afterwards(tmp_path: Path) -> None:
    """SQLite is told that the file may grow no further, which is how it sees a full disk."""
    with EmbeddedChain(tmp_path / "chain.db", now=lambda: NOW) as chain:
        faucet = chain.request("eth_accounts", [])[0]
        database = chain._engine.store.database
        before = chain.request("eth_getBlockByNumber", ["latest", False])
        database.execute("PRAGMA max_page_count = 1")
        big = "0x" + "61600080600b5f395ff3" + "5b" * 24_000
        create = {"from": faucet, "data": big, "gas": "0x989680"}
        with pytest.raises(StorageError, match="could not be stored"):
            chain.request("eth_sendTransaction", [create])
        after = chain.request("eth_getBlockByNumber", ["latest", False])
        nonce = int(chain.request("eth_getTransactionCount", [faucet, "latest"]), 16)
        assert int(after["number"], 16) == int(before["number"], 16) + nonce
        database.execute("PRAGMA max_page_count = 1073741823")
        chain.request("eth_sendTransaction", [create])
        assert int(chain.request("eth_getTransactionCount", [faucet, "latest"]), 16) == nonce + 1
