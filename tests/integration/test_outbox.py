"""The outbox: one suite for both kinds, and senders that die at any moment and take it up again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bounded import run
from flaky_node import SIGNER, TO, Flaky, broken, nonce_of, nothing
from galaxylearning import ports
from galaxylearning.chain.outbox import MemoryOutbox, effect_id
from galaxylearning.chain.transactions import Fees, Sender
from galaxylearning.chain.transport import Transport
from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import LedgerUnreachable, StorageError, TransactionReverted
from galaxylearning.ports import OutboxEntry
from galaxylearning.storage.outbox import SqliteOutbox
from galaxylearning.units import Address, Digest

REPOSITORY = Path(__file__).parents[2]
ALICE, BOB = (Address("0x" + digit * 40) for digit in "ab")
ENTRY = OutboxEntry(0, Digest(b"\1" * 32), ALICE, 5, BOB, b"\0\1", 21_000, 2 * 10**9, 10**9)


# ---- the port


@pytest.fixture(params=["sqlite", "memory"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ports.Outbox]:
    if request.param == "memory":
        yield MemoryOutbox()
        return
    with SqliteOutbox(tmp_path / "node" / "outbox.db") as opened:
        yield opened


def test_an_entry_comes_back_as_it_was_saved(outbox: ports.Outbox) -> None:
    added = outbox.add(ENTRY)
    assert outbox.last(ENTRY.effect) == added == replace(ENTRY, number=added.number)
    sent = replace(
        added,
        state="sent",
        raws=(b"\2\xff", b"\2\0"),
        first_sent_s=1_800_000_000,
        last_sent_s=1_800_000_001,
        is_told=True,
        reason="because",
    )
    assert outbox.save(sent) == sent
    mined = replace(sent, state="mined", block_number=9, block_hash=b"\3" * 32)
    outbox.save(mined)
    assert outbox.last(ENTRY.effect) == mined
    assert list(outbox.unfinished()) == [mined]
    creation = outbox.add(replace(ENTRY, to=None, effect=Digest(b"\2" * 32)))
    assert outbox.last(creation.effect) == creation


def test_the_newest_unfinished_entry_of_an_effect_counts(outbox: ports.Outbox) -> None:
    assert outbox.last(ENTRY.effect) is None
    first, second = outbox.add(ENTRY), outbox.add(replace(ENTRY, nonce=6))
    assert first.number < second.number
    assert outbox.last(ENTRY.effect) == second
    outbox.save(replace(second, state="void", reason="the node refused"))
    assert outbox.last(ENTRY.effect) == first
    outbox.save(replace(first, state="final"))
    assert outbox.last(ENTRY.effect) is None
    assert outbox.add(ENTRY).number > second.number


def test_unfinished_entries_come_by_account_and_nonce(outbox: ports.Outbox) -> None:
    made = [outbox.add(replace(ENTRY, account=who, nonce=n)) for who, n in ((BOB, 2), (ALICE, 7), (ALICE, 3))]
    assert [(entry.account, entry.nonce) for entry in outbox.unfinished()] == [
        (ALICE, 3),
        (ALICE, 7),
        (BOB, 2),
    ]
    assert list(outbox.unfinished(BOB)) == [made[0]]
    assert list(outbox.unfinished(Address("0x" + "c" * 40))) == []


def test_what_is_over_leaves_a_line_and_no_raw_transactions(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path) as outbox:
        entry = outbox.add(replace(ENTRY, data=b"\xabcall" * 99, raws=(b"\x02raw" * 99,)))
        outbox.save(replace(entry, state="final", block_number=4))
        rows = outbox._database.execute("SELECT state, block_number, length(data), length(raws) FROM entries")
        assert rows == [("final", 4, 0, 1)]


def test_a_second_holder_of_an_outbox_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with SqliteOutbox(path) as first:
        with pytest.raises(StorageError, match="another process has this outbox open"):
            SqliteOutbox(path)
        first.add(ENTRY)
    with SqliteOutbox(path) as again:
        assert len(again.unfinished()) == 1


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    with SqliteOutbox(tmp_path / "outbox.db") as outbox:
        outbox.add(ENTRY)
        outbox._database.execute("UPDATE entries SET state = 'perhaps'")
        with pytest.raises(StorageError, match="damaged"):
            outbox.unfinished()


def test_every_part_of_a_call_makes_another_effect() -> None:
    base: dict[str, Any] = {"chain_id": 1, "account": ALICE, "to": BOB, "data": b"\0"}
    others = (
        {"chain_id": 2},
        {"account": BOB},
        {"to": ALICE},
        {"to": None},
        {"data": b""},
        {"data": b"\0\0"},
    )
    assert len({effect_id(**base), *(effect_id(**{**base, **other}) for other in others)}) == 1 + len(others)


# ---- senders that die


class Killed(BaseException):
    """``kill -9``: nothing of ours may catch it."""


class MortalOutbox:
    """An outbox whose holder dies around a given write; counted over its life."""

    def __init__(self, outbox: ports.Outbox, dies_at: tuple[str, str] | None) -> None:
        self._outbox, self._dies_at = outbox, dies_at

    def _around(self, state: str, write: Callable[[], OutboxEntry]) -> OutboxEntry:
        if self._dies_at == ("before", state):
            raise Killed
        found = write()
        if self._dies_at == ("after", state):
            raise Killed
        return found

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        return self._around(entry.state, lambda: self._outbox.add(entry))

    def save(self, entry: OutboxEntry) -> OutboxEntry:
        return self._around(entry.state, lambda: self._outbox.save(entry))

    def last(self, effect: Digest) -> OutboxEntry | None:
        return self._outbox.last(effect)

    def unfinished(self, account: Address | None = None) -> Any:
        return self._outbox.unfinished(account)


def sender(node: Flaky, outbox: ports.Outbox, **options: Any) -> Sender:
    """A sender over the flaky line."""
    return Sender(Transport(node), chain_id=31337, outbox=outbox, receipt_timeout_s=10.0, **options)


def sent_hashes(node: Flaky) -> list[str]:
    """Hashes of the signer's mined transactions."""
    head = int(node.chain.request("eth_blockNumber", []), 16)
    blocks = (node.chain.request("eth_getBlockByNumber", [hex(number), True]) for number in range(head + 1))
    mine = SIGNER.address.lower()
    return [one["hash"] for block in blocks for one in block["transactions"] if one["from"].lower() == mine]


MOMENTS = [(when, state) for state in ("intended", "signed", "sent", "mined") for when in ("before", "after")]


@pytest.mark.parametrize("dies_at", MOMENTS, ids=["-".join(moment) for moment in MOMENTS])
@pytest.mark.parametrize("asks", ["again", "something else, then again"])
def test_killed_at_any_moment_each_effect_happens_once(
    tmp_path: Path, dies_at: tuple[str, str], asks: str
) -> None:
    node, path = Flaky(), tmp_path / "outbox.db"

    async def life(dies_at: tuple[str, str] | None) -> None:
        with SqliteOutbox(path) as kept:
            line = sender(node, MortalOutbox(kept, dies_at))
            await line.recover()
            # A node looks at the chain before it acts; what it sees done it does not do again.
            if asks != "again" and dies_at is None:
                await line.send(SIGNER, to=TO, data=b"other")
            done = (node.chain.request("eth_getTransactionByHash", [one]) for one in sent_hashes(node))
            if "0x01" not in [one["input"] for one in done]:
                await line.send(SIGNER, to=TO, data=b"\1")

    with pytest.raises(Killed):
        run(life(dies_at))
    run(life(None))
    assert len(sent_hashes(node)) == (1 if asks == "again" else 2)


def test_what_was_signed_and_lost_is_sent_as_it_was_signed(tmp_path: Path) -> None:
    node, path = Flaky(), tmp_path / "outbox.db"
    node.trick("eth_sendRawTransaction", broken)
    node.trick("eth_getTransactionReceipt", *[nothing] * 50)
    with SqliteOutbox(path) as kept:
        line = Sender(Transport(node), chain_id=31337, outbox=kept, receipt_timeout_s=0.1)
        with pytest.raises(LedgerUnreachable, match="no receipt"):
            run(line.send(SIGNER, to=TO, data=b""))
    node.tricks.clear()
    with SqliteOutbox(path) as kept:
        (entry,) = kept.unfinished()
        assert (entry.state, entry.nonce, nonce_of(node)) == ("sent", 0, 0)
        line = sender(node, kept)
        run(line.recover())
        assert sent_hashes(node) == ["0x" + keccak(entry.raws[0]).hex()]


def test_asking_again_while_it_is_under_way_is_the_same_transaction() -> None:
    node, outbox = Flaky(), MemoryOutbox()
    node.trick("eth_sendRawTransaction", broken)
    node.trick("eth_getTransactionReceipt", *[nothing] * 5)
    line = Sender(Transport(node), chain_id=31337, outbox=outbox, receipt_timeout_s=0.05)
    with pytest.raises(LedgerUnreachable):
        run(line.send(SIGNER, to=TO, data=b""))
    (entry,) = outbox.unfinished()
    receipt = run(line.send(SIGNER, to=TO, data=b""))
    assert receipt["transactionHash"] == "0x" + keccak(entry.raws[0]).hex()
    assert nonce_of(node) == 1
    run(line.send(SIGNER, to=TO, data=b""))
    assert nonce_of(node) == 2  # what was answered is over: asking again is a new wish


def test_two_who_ask_at_once_get_a_transaction_each() -> None:
    node = Flaky()

    async def both() -> None:
        line = sender(node, MemoryOutbox())
        await asyncio.gather(*(line.send(SIGNER, to=TO, data=b"") for _ in range(2)))

    run(both())
    assert nonce_of(node) == 2


def test_an_effect_that_failed_in_its_block_may_be_tried_again() -> None:
    node, outbox = Flaky(), MemoryOutbox()
    faucet = node.chain.request("eth_accounts", [])[0]
    # Reverts while storage slot 0 is zero; whoever sends a byte along sets it.
    runtime = "3615600a5760015f55005b5f546013575f5ffd5b00"
    code = "0x60" + f"{len(runtime) // 2:02x}" + "5f8160095f39f3" + runtime
    made = node.chain.request("eth_sendTransaction", [{"from": faucet, "data": code}])
    target = node.chain.request("eth_getTransactionReceipt", [made])["contractAddress"]
    line = sender(node, outbox)
    node.trick("eth_estimateGas", lambda _: {"result": hex(100_000)})
    with pytest.raises(TransactionReverted):
        run(line.send(SIGNER, to=target, data=b""))
    assert nonce_of(node) == 1
    with pytest.raises(TransactionReverted):
        run(line.send(SIGNER, to=target, data=b""))
    assert nonce_of(node) == 1  # the contract still refuses: nothing is sent
    run(line.send(SIGNER, to=target, data=b"\1"))
    assert run(line.send(SIGNER, to=target, data=b""))["status"] == "0x1"
    assert nonce_of(node) == 3


def lost_entry(node: Flaky, outbox: ports.Outbox, data: bytes) -> OutboxEntry:
    """A transaction that was signed by a process that died before it sent it."""
    with pytest.raises(Killed):
        run(sender(node, MortalOutbox(outbox, ("after", "signed"))).send(SIGNER, to=TO, data=data))
    found = outbox.last(effect_id(chain_id=31337, account=SIGNER.address, to=Address(TO), data=data))
    assert found is not None
    return found


def test_a_transaction_that_would_only_fail_gives_its_nonce_to_the_next() -> None:
    node, outbox = Flaky(), MemoryOutbox()
    first = lost_entry(node, outbox, b"\1")

    def refused(_: list[Any]) -> Any:
        return {"error": {"code": 3, "message": "execution reverted", "data": "0x"}}

    node.trick("eth_estimateGas", refused, lambda p: node.properly("eth_estimateGas", p), refused)
    line = sender(node, outbox)
    run(line.recover())
    assert nonce_of(node) == 0
    run(line.send(SIGNER, to=TO, data=b"\2"))
    assert nonce_of(node) == 1
    assert [entry.state for entry in outbox.unfinished() if entry.number == first.number] == ["replaced"]
    # Wanted after all: its nonce is gone, so it is void and signed anew.
    run(line.send(SIGNER, to=TO, data=b"\1"))
    assert nonce_of(node) == 2
    assert "0x" + keccak(first.raws[0]).hex() not in sent_hashes(node)


def test_a_nonce_that_another_program_took_makes_the_transaction_void() -> None:
    node, outbox = Flaky(), MemoryOutbox()
    first = lost_entry(node, outbox, b"\1")
    run(sender(node, MemoryOutbox()).send(SIGNER, to=TO, data=b"other"))
    line = sender(node, outbox)
    run(line.recover())
    assert list(outbox.unfinished()) == []
    run(line.send(SIGNER, to=TO, data=b"\1"))
    assert nonce_of(node) == 2
    assert "0x" + keccak(first.raws[0]).hex() not in sent_hashes(node)


def test_what_is_final_is_done_with() -> None:
    node, outbox = Flaky(), MemoryOutbox()
    line = sender(node, outbox)
    run(line.send(SIGNER, to=TO, data=b"\1"))
    assert [entry.state for entry in outbox.unfinished()] == ["mined"]
    run(line.settle_pending(final_block=0))
    assert [entry.state for entry in outbox.unfinished()] == ["mined"]
    run(line.settle_pending())
    assert list(outbox.unfinished()) == []


def test_a_full_disk_stops_a_transaction_before_it_is_sent() -> None:
    class Full(MemoryOutbox):
        def save(self, entry: OutboxEntry) -> OutboxEntry:
            if entry.raws:
                raise StorageError("disk is full")
            return super().save(entry)

    node = Flaky()
    with pytest.raises(StorageError):
        run(sender(node, Full()).send(SIGNER, to=TO, data=b""))
    assert nonce_of(node) == 0
    assert "eth_sendRawTransaction" not in node.asked


# ---- fees, and a chain that is reorganised


@pytest.fixture
def start_anvil() -> Iterator[Callable[..., str]]:
    """Starts anvil on a free port with these options; its URL."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        (binary, *_) = sorted((REPOSITORY / "contracts/node_modules").glob("**/bin/anvil"))
        command = [str(binary), "--port", "0", "--hardfork", "prague", *options]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        lines = running[-1].stdout
        assert lines is not None
        for line in lines:
            if line.startswith("Listening on "):
                return "http://" + line.removeprefix("Listening on ").strip()
        pytest.fail("anvil ended before it listened")

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("cap_gwei", "attempts"), [(500, 2), (3, 1)])
def test_what_nobody_mines_is_offered_more_for_up_to_a_cap(
    start_anvil: Callable[..., str], cap_gwei: int, attempts: int
) -> None:
    """With automatic mining off; the nonce stays, the fee rises by an eighth, one of them is mined."""
    url = start_anvil("--no-mining")
    ask = asking(url)
    ask("anvil_setBalance", [SIGNER.address, hex(10**20)])
    outbox = MemoryOutbox()
    fees = Fees(bump_after_s=0.3, max_fee_wei=cap_gwei * 10**9)

    async def scenario() -> dict[str, Any]:
        transport = Transport(url)
        line = Sender(transport, chain_id=31337, outbox=outbox, fees=fees, receipt_timeout_s=30)
        waiting = asyncio.create_task(line.send(SIGNER, to=TO, data=b""))
        while not (found := outbox.unfinished()) or len(found[0].raws) < attempts or found[0].state != "sent":
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5 if attempts == 1 else 0)
        ask("anvil_mine", ["0x1"])
        try:
            return dict(await waiting)
        finally:
            await transport.close()

    receipt = run(scenario())
    (entry,) = outbox.unfinished()
    hashes = ["0x" + keccak(raw).hex() for raw in entry.raws]
    assert receipt["transactionHash"] in hashes
    assert int(ask("eth_getTransactionCount", [SIGNER.address, "latest"]), 16) == 1
    if attempts == 1:
        assert len(hashes) == 1
    else:
        prices = [int(one, 16) for one in (ask_fees(ask, receipt["transactionHash"]))]
        assert prices[1] >= 1_125_000_000


def test_a_reorganisation_that_drops_a_transaction_brings_the_same_one_back(
    start_anvil: Callable[..., str], tmp_path: Path
) -> None:
    url = start_anvil()
    ask = asking(url)
    ask("anvil_setBalance", [SIGNER.address, hex(10**20)])

    async def scenario() -> tuple[Any, Any]:
        with SqliteOutbox(tmp_path / "outbox.db") as outbox:
            transport = Transport(url)
            line = Sender(transport, chain_id=31337, outbox=outbox)
            first = await line.send(SIGNER, to=TO, data=b"\1")
            ask("anvil_mine", ["0x3"])
            ask("anvil_reorg", [4, []])
            assert ask("eth_getTransactionReceipt", [first["transactionHash"]]) is None
            await line.settle_pending()
            # The node takes it at once and mines it in its own time.
            while (brought_back := ask("eth_getTransactionReceipt", [first["transactionHash"]])) is None:
                await asyncio.sleep(0.05)
            assert brought_back["blockHash"] != first["blockHash"]
            # Who asks again, because it saw its effect undone, gets the very same.
            ask("anvil_reorg", [2, []])
            again = await line.send(SIGNER, to=TO, data=b"\1")
            await transport.close()
            return first, again

    first, again = run(scenario())
    assert first["transactionHash"] == again["transactionHash"]
    assert int(ask("eth_getTransactionCount", [SIGNER.address, "latest"]), 16) == 1


def asking(url: str) -> Callable[[str, list[Any]], Any]:
    """JSON-RPC by the standard library."""

    def ask(method: str, params: list[Any]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer = json.load(response)
        assert "error" not in answer, answer
        return answer["result"]

    return ask


def ask_fees(ask: Callable[[str, list[Any]], Any], transaction_hash: str) -> tuple[str, str]:
    """Maximum and priority fee of a mined transaction."""
    found = ask("eth_getTransactionByHash", [transaction_hash])
    return found["maxFeePerGas"], found["maxPriorityFeePerGas"]
