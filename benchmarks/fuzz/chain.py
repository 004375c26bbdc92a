"""What a chain's node may answer, and what strangers may ask of the embedded one."""

from __future__ import annotations

import asyncio
import atexit
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from benchmarks.fuzz.documents import edit, mutate_json, to_plain_json
from benchmarks.fuzz.messages import ACCOUNTS, CONTRACT, ME
from benchmarks.fuzz.mutate import change_bytes
from benchmarks.fuzz.target import Target
from coincurve import PrivateKey

from galaxylearning.chain import bounded_json
from galaxylearning.chain.abi_codec import ARTIFACTS, EventType, Function, Parameters, codec, describe_revert
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.embedded import EmbeddedChain, eels
from galaxylearning.chain.embedded.eels import TransactionRefused
from galaxylearning.chain.embedded.server import answer_body
from galaxylearning.chain.evm import Following, connect
from galaxylearning.errors import LedgerError, MessageRefused
from galaxylearning.protocol.events import event_from_log

CHAIN_ID: Final = 31337
NOW: Final = 1_800_000_000
HASH: Final = "0x" + "11" * 32
HEAD: Final = "0x20"
_KNOWN_KEY: Final = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
CHAIN_LASTS: Final = 1_000
"""Requests that one embedded chain answers before a fresh one takes its place."""


def _sample(parameter: Mapping[str, Any]) -> Any:
    """A value of an ABI type."""
    name = str(parameter["type"])
    if name.endswith("]"):
        element = {**parameter, "type": name[: name.rindex("[")]}
        return [_sample(element), _sample(element)]
    if name == "tuple":
        return tuple(_sample(field) for field in parameter["components"])
    if name == "address":
        return ME
    if name == "bool":
        return True
    if name == "string":
        return "text"
    if name == "bytes":
        return bytes(65)
    if name.startswith("bytes"):
        return bytes(range(int(name[5:])))
    return 3


def _sample_of(parameters: Parameters) -> bytes:
    return parameters.encode([_sample(field) for field in parameters.fields])


@cache
def _functions() -> tuple[Function, ...]:
    found = [
        function
        for contract in ARTIFACTS
        for name, function in sorted(codec(contract).functions.items())
        if function.outputs.fields and "(" not in name
    ]
    return tuple(found)


def _results() -> list[bytes]:
    return [bytes([i]) + _sample_of(function.outputs) for i, function in enumerate(_functions())]


def _mutate_result(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """The function stays, its result is changed: words that lie, most of the time."""
    seed = rng.choice(seeds)
    return seed[:1] + change_bytes(rng, seed[1:])


def _read_result(data: bytes) -> object:
    return _functions()[data[0]].decode(data[1:])


@cache
def _reverts() -> list[bytes]:
    errors = [
        selector + _sample_of(error.inputs)
        for contract in ARTIFACTS
        for selector, error in codec(contract).errors.items()
    ]
    reason = Parameters.of([{"type": "string", "name": "reason"}]).encode(["no"])
    panic = Parameters.of([{"type": "uint256", "name": "code"}]).encode([17])
    return [*errors, bytes.fromhex("08c379a0") + reason, bytes.fromhex("4e487b71") + panic]


def _log(kind: EventType, topic: bytes, number: int) -> dict[str, Any]:
    topics = [topic, *(Parameters.of([field]).encode([_sample(field)]) for field in kind.indexed)]
    return {
        "address": CONTRACT,
        "topics": ["0x" + one.hex() for one in topics],
        "data": "0x" + _sample_of(kind.plain).hex(),
        "blockNumber": HEAD,
        "blockHash": HASH,
        "transactionHash": HASH,
        "logIndex": hex(number),
        "removed": False,
    }


def _answers() -> list[bytes]:
    """What a node says while a ledger reads its events: one answer a method."""
    logs = [_log(kind, topic, i) for i, (topic, kind) in enumerate(codec("jobs").events.items())]
    block = dict.fromkeys(("hash", "parentHash", "mixHash", "receiptsRoot"), HASH)
    block |= {"number": HEAD, "timestamp": hex(NOW), "logsBloom": "0x" + "ff" * 256}
    found = []
    for some in (logs[:3], logs[3:7], logs[7:], [{**logs[0], "blockTimestamp": hex(NOW)}]):
        results = {
            "eth_getLogs": some,
            "eth_getBlockByNumber": block,
        }
        found.append(
            {method: {"jsonrpc": "2.0", "id": 1, "result": result} for method, result in results.items()}
        )
    return [json.dumps(answers).encode() for answers in found]


def _mutate_answers(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Each method keeps an answer, whatever it is: the transport hands over what was parsed."""
    answers = json.loads(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        method = rng.choice((*["eth_getLogs"] * 3, "eth_getBlockByNumber"))
        answers[method] = edit(rng, answers[method], packed=False)
        if rng.random() < 0.1:
            refusal = {
                "code": 3,
                "message": "execution reverted",
                "data": "0x" + rng.choice(_reverts()).hex(),
            }
            answers[method] = {"jsonrpc": "2.0", "id": 1, "error": edit(rng, refusal, packed=False)}
    return json.dumps(answers).encode()


class Script:
    """A provider that gives the answers it was told."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers

    async def make_request(self, method: Any, params: Any) -> Any:  # noqa: ARG002
        """The answer for this method."""
        return self._answers.get(method, {"jsonrpc": "2.0", "id": 1, "result": None})


_DEPLOYMENT: Final = Deployment(CHAIN_ID, ACCOUNTS[0], ACCOUNTS[1], CONTRACT, 0)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


async def _follow(answers: Mapping[str, Any]) -> object:
    found = {"eth_chainId": hex(CHAIN_ID), "eth_getCode": "0x00"}
    known = {method: {"jsonrpc": "2.0", "id": 1, "result": result} for method, result in found.items()}
    following = Following(finality_blocks=0, is_checked=False)
    ledger = await connect(Script({**known, **answers}), _DEPLOYMENT, following=following)
    log = await ledger.follow(0)
    return [event_from_log(e.name, e.arguments, e.timestamp) for e in log.final]


def _read_answers(data: bytes) -> object:
    return _loop().run_until_complete(_follow(bounded_json.loads(data)))


def _sign(digest: bytes) -> tuple[int, int, int]:
    signature = PrivateKey(bytes.fromhex(_KNOWN_KEY)).sign_recoverable(digest, hasher=None)
    return int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]


def _transactions() -> list[bytes]:
    fields: dict[str, Any] = {
        "nonce": 0, "priority_fee_wei": 10**9, "max_fee_wei": 10**10, "gas": 50_000,
        "to": bytes.fromhex(ME[2:]), "data": b"", "value_wei": 1,
    }  # fmt: skip
    return [
        bytes(eels.sign_fee_market({**fields, **changes}, chain_id=CHAIN_ID, sign=_sign))
        for changes in (
            {},
            {"to": b"", "data": bytes.fromhex("600a600c600039600a6000f3")},
            {"data": bytes(200)},
        )
    ]


def requests() -> list[bytes]:
    """Requests of every method of the embedded chain."""
    faucet = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    call = {"from": faucet, "to": ME, "value": "0x1", "data": "0x", "gas": "0x9000"}
    wanted = {"fromBlock": "0x0", "toBlock": "latest", "address": [CONTRACT], "topics": [None, [HASH]]}
    methods: list[tuple[str, list[Any]]] = [
        ("eth_chainId", []), ("net_version", []), ("web3_clientVersion", []), ("eth_accounts", []),
        ("eth_blockNumber", []), ("eth_gasPrice", []), ("eth_maxPriorityFeePerGas", []),
        ("eth_feeHistory", ["0x2", "latest", [25, 75]]), ("eth_getBalance", [faucet, "latest"]),
        ("eth_getTransactionCount", [faucet, "pending"]), ("eth_getCode", [ME, "latest"]),
        ("eth_getStorageAt", [ME, "0x0", "latest"]), ("eth_call", [call, "latest"]),
        ("eth_estimateGas", [call]),
        ("eth_sendRawTransaction", ["0x" + _transactions()[0].hex()]), ("eth_sendTransaction", [call]),
        ("eth_getTransactionByHash", [HASH]), ("eth_getTransactionReceipt", [HASH]),
        ("eth_getBlockByNumber", ["latest", True]), ("eth_getBlockByHash", [HASH, False]),
        ("eth_getLogs", [wanted]), ("evm_increaseTime", ["0x10"]),
        ("evm_setNextBlockTimestamp", [hex(NOW + 9)]),
        ("evm_mine", []), ("anvil_setBalance", [ME, "0x10"]),
    ]  # fmt: skip
    single = [
        {"jsonrpc": "2.0", "id": i, "method": method, "params": params}
        for i, (method, params) in enumerate(methods)
    ]
    return [json.dumps(request).encode() for request in (*single, single[:4])]


class Asked:
    """An embedded chain in memory that is asked anything; a fresh one after many requests."""

    def __init__(self) -> None:
        self._chain = EmbeddedChain(None, now=lambda: NOW)
        self._left = CHAIN_LASTS

    def __call__(self, body: bytes) -> object:
        """The answer to a request's body, as it would be written."""
        self._left -= 1
        if self._left == 0:
            self._chain.close()
            self.__init__()  # type: ignore[misc]
        return json.dumps(answer_body(self._chain, body), allow_nan=False)


def targets() -> list[Target]:
    """All of them."""
    load: Callable[[bytes], object] = bounded_json.loads
    refused = (LedgerError, MessageRefused)
    plain = mutate_json(to_plain_json)
    return [
        Target("json", [*requests()[:6], *_answers()], load, (ValueError,), plain),
        Target("contract result", _results(), _read_result, (LedgerError,), _mutate_result, share=2.0),
        Target("revert data", _reverts(), describe_revert, ()),
        Target("node's answers", _answers(), _read_answers, refused, _mutate_answers, share=3.0),
        Target(
            "raw transaction",
            _transactions(),
            lambda data: eels.decode_signed(data, CHAIN_ID),
            (TransactionRefused,),
        ),
        Target("node's requests", requests(), Asked(), (), plain, share=3.0),
    ]
