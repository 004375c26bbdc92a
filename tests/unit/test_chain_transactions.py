"""Sending over nodes that lose answers, forget transactions and tell lies: fakes that answer JSON-RPC."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bounded import run
from flaky_node import SIGNER, TO, Flaky, broken, nonce_of, nothing
from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.deployment import deploy, fund
from galaxylearning.chain.evm import EvmLedger, KeySigner, connect
from galaxylearning.chain.transactions import Sender
from galaxylearning.chain.transport import NodeRefused, Transport
from galaxylearning.errors import ConfigRefused, LedgerError, LedgerUnreachable, TransactionReverted
from galaxylearning.ports import Call


def sender(node: Flaky, *, timeout_s: float = 10.0) -> Sender:
    """A sender over the flaky line."""
    return Sender(Transport(node), chain_id=31337, receipt_timeout_s=timeout_s)


def test_a_receipt_that_comes_late_is_waited_for() -> None:
    node = Flaky()
    node.trick("eth_getTransactionReceipt", nothing, nothing, broken, nothing)
    receipt = run(sender(node).send(SIGNER, to=TO, data=b""))
    assert receipt["status"] == "0x1"
    assert nonce_of(node) == 1
    assert node.asked.count("eth_sendRawTransaction") == 1


def test_an_answer_lost_after_sending_does_not_send_twice() -> None:
    node = Flaky()

    def sent_but_not_told(params: list[Any]) -> Any:
        node.properly("eth_sendRawTransaction", params)
        raise OSError("connection reset")

    node.trick("eth_sendRawTransaction", sent_but_not_told)
    line = sender(node)
    run(line.send(SIGNER, to=TO, data=b""))
    assert nonce_of(node) == 1
    run(line.send(SIGNER, to=TO, data=b""))
    assert nonce_of(node) == 2


def test_a_transaction_the_node_lost_is_given_to_it_again() -> None:
    node = Flaky()
    node.trick("eth_sendRawTransaction", lambda _: {"result": "0x" + "00" * 32})
    receipt = run(sender(node).send(SIGNER, to=TO, data=b""))
    assert receipt["status"] == "0x1"
    assert (nonce_of(node), node.asked.count("eth_sendRawTransaction")) == (1, 2)


def test_a_transaction_already_known_counts_as_sent() -> None:
    node = Flaky()

    def twice(params: list[Any]) -> Any:
        node.properly("eth_sendRawTransaction", params)
        return node.properly("eth_sendRawTransaction", params)

    node.trick("eth_sendRawTransaction", twice)
    assert run(sender(node).send(SIGNER, to=TO, data=b""))["status"] == "0x1"
    assert nonce_of(node) == 1


def test_a_nonce_taken_by_another_program_is_taken_anew() -> None:
    node = Flaky()
    line, other = sender(node), sender(node)

    async def scenario() -> None:
        for who in (line, other, line, line, other):
            await who.send(SIGNER, to=TO, data=b"")

    run(scenario())
    assert nonce_of(node) == 5


@pytest.mark.parametrize("times", [1, 3])
def test_a_nonce_taken_while_waiting_is_no_endless_wait(times: int) -> None:
    """Once may happen: the transaction is signed anew. Who keeps taking nonces is another program."""
    node = Flaky()

    def replaced(_: list[Any]) -> Any:
        other = {"type": 2, "chainId": 31337, "nonce": nonce_of(node), "gas": 21_000, "maxFeePerGas": 10**10,
                 "maxPriorityFeePerGas": 1, "value": 1, "to": TO}  # fmt: skip
        node.chain.request("eth_sendRawTransaction", ["0x" + SIGNER.sign_transaction(other).hex()])
        return {"result": "0x" + "00" * 32}

    node.trick("eth_sendRawTransaction", *[replaced] * times)
    if times == 1:
        assert run(sender(node, timeout_s=30).send(SIGNER, to=TO, data=b""))["status"] == "0x1"
        assert nonce_of(node) == 2
    else:
        with pytest.raises(LedgerError, match="another program uses its key"):
            run(sender(node, timeout_s=30).send(SIGNER, to=TO, data=b""))


def test_no_receipt_in_time_is_unreachable_and_retryable() -> None:
    node = Flaky()
    node.trick("eth_getTransactionReceipt", *[nothing] * 100)
    with pytest.raises(LedgerUnreachable, match="no receipt within") as caught:
        run(sender(node, timeout_s=0.1).send(SIGNER, to=TO, data=b""))
    assert caught.value.retryable


def test_a_transaction_that_fails_in_its_block_says_why() -> None:
    """The estimate passed; by the time it was mined the contract refused: it reverts with WrongPhase(3)."""
    node = Flaky()
    reason = next(selector for selector, known in codec("jobs").errors.items() if known.name == "WrongPhase")
    runtime = "63" + reason.hex() + "5f526003602052" + "6024601cfd"
    (faucet,) = node.chain.request("eth_accounts", [])
    code = "0x60" + f"{len(runtime) // 2:02x}" + "5f8160095f39f3" + runtime
    made = node.chain.request("eth_sendTransaction", [{"from": faucet, "data": code}])
    target = node.chain.request("eth_getTransactionReceipt", [made])["contractAddress"]
    with pytest.raises(TransactionReverted) as before:
        run(sender(node).send(SIGNER, to=target, data=b""))
    assert (before.value.reason, before.value.gas_used, nonce_of(node)) == ("WrongPhase", 0, 0)
    node.trick("eth_estimateGas", lambda _: {"result": hex(100_000)})
    with pytest.raises(TransactionReverted, match="phase=3") as after:
        run(sender(node).send(SIGNER, to=target, data=b""))
    assert (after.value.reason, nonce_of(node)) == ("WrongPhase", 1)
    assert str(after.value).startswith("0x")
    assert 21_000 < after.value.gas_used < 100_000


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {"result": "zz"},
        {"result": "0x"},
        {"result": 5},
        {"result": {"a": 1}},
        {"error": "text"},
        {"error": {"code": -32000, "message": "no"}},
        {"error": {"code": "x", "message": ["y"]}},
    ],
)
def test_whatever_a_node_answers_becomes_one_of_our_errors(answer: Any) -> None:
    async def scenario(method: str) -> None:
        node = Flaky()
        deployer = KeySigner(b"\1" * 32)
        await fund(node, deployer.address, 10**19)
        deployment = await deploy(node, deployer, unbonding_s=1)
        ledger = await connect(node, deployment)
        node.trick(method, *[lambda _: answer] * 12)
        with pytest.raises(LedgerError):
            await every_use(ledger)

    for method in ("eth_estimateGas", "eth_call", "eth_getLogs", "eth_getBlockByNumber"):
        run(scenario(method))


async def every_use(ledger: EvmLedger) -> None:
    """Read, write and list."""
    await ledger.read(Call("jobs", "jobCount"))
    await ledger.submit(Call("registry", "registerEvaluator", (b"\1" * 32,)), SIGNER)
    await ledger.follow(0)


@pytest.mark.parametrize(
    "error",
    [
        OSError("refused"),
        ConnectionResetError(),
        TimeoutError(),
        ValueError("not JSON"),
        KeyError("id"),
        RuntimeError("session is closed"),
        EOFError(),
    ],
)
def test_whatever_a_provider_raises_is_unreachable(error: Exception) -> None:
    class Raising:
        async def make_request(self, *_: Any) -> Any:
            raise error

    with pytest.raises(LedgerUnreachable, match="eth_chainId") as caught:
        run(Transport(Raising()).request("eth_chainId"))
    assert caught.value.retryable


def test_a_node_that_never_answers_is_left_in_time() -> None:
    class Silent:
        async def make_request(self, *_: Any) -> Any:
            await asyncio.Event().wait()

    with pytest.raises(LedgerUnreachable, match="no answer within"):
        run(Transport(Silent(), timeout_s=0.05).request("eth_chainId"))


def test_a_programming_mistake_is_not_hidden() -> None:
    """Cancellation is no failure of the node."""

    async def scenario() -> None:
        class Silent:
            async def make_request(self, *_: Any) -> Any:
                await asyncio.Event().wait()

        task = asyncio.create_task(Transport(Silent()).request("eth_chainId"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


def test_a_refusal_keeps_the_nodes_code_and_words() -> None:
    node = Flaky()
    with pytest.raises(NodeRefused, match="does not exist") as caught:
        run(Transport(node).request("eth_unheardOf"))
    assert caught.value.code == -32601


@pytest.mark.parametrize("url", ["", "localhost:8545", "ftp://a", "embedded:x", "http:/a", 5, None, object()])
def test_what_is_no_way_to_a_node_is_refused(url: Any) -> None:
    with pytest.raises(ConfigRefused, match="chain"):
        Transport(url)


def test_funding_needs_an_unlocked_account() -> None:
    node = Flaky()
    node.trick("eth_accounts", lambda _: {"result": []})
    with pytest.raises(LedgerError, match="no unlocked account"):
        run(fund(node, TO, 5))
    run(fund(node, TO, 5))
    assert node.chain.request("eth_getBalance", [TO]) == "0x5"
    with pytest.raises(ValueError, match="non-negative"):
        run(fund(node, TO, -1))
    with pytest.raises(LedgerError, match="insufficient"):
        run(fund(node, TO, 10**40))


@pytest.mark.parametrize("unbonding_s", [-1, 365 * 24 * 3600 + 1])
def test_an_unbonding_period_out_of_range_is_refused(unbonding_s: int) -> None:
    with pytest.raises(ConfigRefused, match="unbonding_s"):
        run(deploy(Flaky(), SIGNER, unbonding_s=unbonding_s))
