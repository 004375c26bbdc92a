"""One suite for both chains: whatever the embedded chain does, anvil does, to the unit of gas.

anvil comes with the contracts' development tools (`npm ci` in contracts/); without it these tests fail.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import pytest
from eth_utils.address import to_checksum_address
from ethereum_rlp import rlp
from ethereum_types.numeric import Uint

from galaxylearning.chain.embedded import EmbeddedChain, RpcError
from galaxylearning.chain.evm import Deployment, EvmLedger, KeySigner, connect, deploy, fund
from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.merkle import MerkleTree
from galaxylearning.errors import ConfigRefused, LedgerError, TransactionReverted
from galaxylearning.messages.typed import (
    JOBS_DOMAIN,
    REGISTRY_DOMAIN,
    CohortAnchor,
    DatasetRegistration,
    Domain,
    Enrolment,
    RoundAnchor,
    Settlement,
    TypedMessage,
    Update,
    direct_head_after,
    score_commitment,
)
from galaxylearning.ports import Call, Receipt
from galaxylearning.units import ZERO_DIGEST, Digest

REPOSITORY = Path(__file__).resolve().parents[2]
GENESIS_TIME = 1_800_000_000
ETHER = 10**18
GAS_MONEY_WEI = 100 * ETHER
LEAF_TYPES = ["uint256", "address", "uint256", "uint256", "address", "uint256"]
WINDOW_S = 10_000
BOUNTY = 10**21
FEE = 10**18
STAKE = 10**20
TERMS = Digest(keccak(b"terms"))

# Runtime code by hand. COUNTER adds its first word of call data to slot 0, logs the sum under topic 7 and the
# caller, and returns it. REVERTER reverts with its call data. CLOCK returns number and timestamp.
COUNTER = "5f355f54015f555f545f5233600760205fa260205ff3"
REVERTER = "365f5f37365ffd"
CLOCK = "435f5242602052 60405ff3".replace(" ", "")

Result = TypeVar("Result")


def init_code(runtime: str) -> str:
    """Creation code for runtime code of less than 256 bytes."""
    return "0x60" + f"{len(runtime) // 2:02x}" + "5f8160095f39f3" + runtime


def key(name: str) -> KeySigner:
    """The same account for the same name, always."""
    return KeySigner(keccak(name.encode()))


@dataclass
class Node:
    """A chain under test, spoken to in JSON-RPC and through the ledger."""

    name: str
    target: Any
    ask: Callable[[str, list[Any]], Any]
    time_s: int = GENESIS_TIME + 1_000

    def rpc(self, method: str, *params: Any) -> Any:
        """A result; raises ``Answered`` for an error."""
        return self.ask(method, list(params))

    def refused(self, method: str, *params: Any) -> Answered:
        """The error of a request that must fail."""
        with pytest.raises(Answered) as caught:
            self.rpc(method, *params)
        return caught.value

    def tick(self, seconds: int = 1) -> None:
        """Let the next block have a timestamp this much later."""
        self.time_s += seconds
        self.rpc("evm_setNextBlockTimestamp", self.time_s)

    @property
    def faucet(self) -> str:
        """The unlocked account."""
        return str(self.rpc("eth_accounts")[0])

    def create(self, runtime: str) -> str:
        """Deploy runtime code; its address."""
        sent = self.rpc("eth_sendTransaction", {"from": self.faucet, "data": init_code(runtime)})
        return str(self.receipt(sent)["contractAddress"])

    def send(self, raw: str) -> Any:
        """Send a raw transaction; its receipt."""
        return self.receipt(self.rpc("eth_sendRawTransaction", raw))

    def receipt(self, transaction_hash: str) -> Any:
        """A receipt. anvil may answer a moment before it has one."""
        deadline = monotonic() + 10
        while (found := self.rpc("eth_getTransactionReceipt", transaction_hash)) is None:
            assert monotonic() < deadline, "no receipt"
        return found


class Answered(Exception):  # noqa: N818
    """A JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.code = error["code"]
        self.message = error["message"]
        self.data = error.get("data")


def find_anvil() -> Path:
    """anvil's binary, from npm's package for this platform."""
    found = sorted((REPOSITORY / "contracts/node_modules").glob("**/bin/anvil"))
    if not found:
        pytest.fail("anvil is missing: run `npm ci` in contracts/ (npm package @foundry-rs/anvil)")
    return found[0]


@pytest.fixture(scope="session")
def start_anvil() -> Iterator[Callable[[], str]]:
    """Starts anvil on a free port; its URL."""
    running: list[subprocess.Popen[str]] = []

    def start() -> str:
        command = [str(find_anvil()), "--port", "0", "--hardfork", "prague", "--timestamp", str(GENESIS_TIME)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Listening on "):
                return "http://" + line.removeprefix("Listening on ").strip()
        pytest.fail("anvil ended before it listened")

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ask_url(url: str) -> Callable[[str, list[Any]], Any]:
    """JSON-RPC over HTTP by the standard library, so that no client of ours stands in between."""

    def ask(method: str, params: list[Any]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            answer = json.load(response)
        if "error" in answer:
            raise Answered(answer["error"])
        return answer["result"]

    return ask


def ask_embedded(chain: EmbeddedChain) -> Callable[[str, list[Any]], Any]:
    """The same of an embedded chain; every answer must survive JSON."""

    def ask(method: str, params: list[Any]) -> Any:
        try:
            return json.loads(json.dumps(chain.request(method, params)))
        except RpcError as error:
            raise Answered(error.as_json()) from error

    return ask


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Node]:
    with EmbeddedChain(tmp_path / "chain.db", now=lambda: GENESIS_TIME) as chain:
        yield Node("embedded", chain, ask_embedded(chain))


@pytest.fixture
def anvil(start_anvil: Callable[[], str]) -> Node:
    url = start_anvil()
    return Node("anvil", url, ask_url(url))


@pytest.fixture(params=["embedded", "anvil"])
def node(request: pytest.FixtureRequest) -> Node:
    chosen: Node = request.getfixturevalue(request.param)
    return chosen


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, in bounded time."""

    async def bounded() -> Result:
        async with asyncio.timeout(120):
            return await main

    return asyncio.run(bounded())


@asynccontextmanager
async def ledger_on(node: Node, *names: str) -> AsyncIterator[EvmLedger]:
    """Fresh contracts on a node, and these accounts with gas money."""
    for name in ("deployer", *names):
        await fund(node.target, key(name).address, GAS_MONEY_WEI)
    deployment = await deploy(node.target, key("deployer"), unbonding_s=60)
    ledger = await connect(node.target, deployment)
    try:
        yield ledger
    finally:
        await ledger.close()


# -- the life of a job -----------------------------------------------------------------------------


@dataclass
class Life:
    """One job on one ledger: every step's receipt by name, in order."""

    node: Node
    ledger: EvmLedger
    evaluators: list[KeySigner]
    receipts: list[tuple[str, Receipt]] = field(default_factory=list)
    job_id: int = 0

    async def do(self, signer: KeySigner, call: Call) -> Receipt:
        """Submit in a block one second later."""
        self.node.tick()
        receipt = await self.ledger.submit(call, signer)
        self.receipts.append((call.function, receipt))
        return receipt

    def sign(self, message: TypedMessage, *signers: KeySigner, name: str = JOBS_DOMAIN) -> bytes:
        """Signatures in ascending order of signer."""
        contract = self.ledger.address_of("jobs" if name == JOBS_DOMAIN else "registry")
        digest = message.digest(Domain(name, "1", self.ledger.chain_id, contract))
        ordered = sorted(signers, key=lambda signer: int(signer.address, 16))
        return b"".join(signer.sign_digest(digest) for signer in ordered)

    async def prepare(self) -> None:
        """Tokens for everybody, staked evaluators, a posted job with its seats taken."""
        ledger, requester = self.ledger, key("requester")
        jobs, registry = ledger.address_of("jobs"), ledger.address_of("registry")
        await self.do(requester, Call("token", "mint", (requester.address, 2 * BOUNTY)))
        await self.do(requester, Call("token", "approve", (jobs, 2**256 - 1)))
        for evaluator in self.evaluators:
            await self.do(evaluator, Call("token", "mint", (evaluator.address, STAKE)))
            await self.do(evaluator, Call("token", "approve", (registry, STAKE)))
            await self.do(evaluator, Call("registry", "registerEvaluator", (keccak(b"sealing"),)))
            await self.do(evaluator, Call("registry", "depositStake", (STAKE,)))
        names = tuple(evaluator.address for evaluator in self.evaluators)
        parameters = (
            ledger.address_of("token"), TERMS, BOUNTY, FEE, 0, STAKE // 2, 2, 1, 10,
            *[WINDOW_S] * 7, names,
        )  # fmt: skip
        posted = await self.do(requester, Call("jobs", "postJob", (parameters,)))
        named = [event for event in posted.events if event.name == "JobPosted"]
        self.job_id = named[0].arguments["jobId"]
        for evaluator in self.evaluators:
            await self.do(evaluator, Call("jobs", "takeSeat", (self.job_id,)))

    async def enrol(self) -> None:
        """One owner enrols directly, so the cohort cannot be anchored without him."""
        data_owner, relayer = key("data owner"), key("relayer")
        registration = DatasetRegistration(
            data_owner.address, Digest(keccak(b"salted")), Digest(keccak(b"schema"))
        )
        signature = self.sign(registration, data_owner, name=REGISTRY_DOMAIN)
        await self.do(relayer, Call("registry", "registerDataset", (registration.abi_tuple(), signature)))
        enrolment = Enrolment(
            self.job_id,
            TERMS,
            data_owner.address,
            registration.dataset_id(),
            Digest(keccak(b"sealing")),
            ZERO_DIGEST,
        )
        signed = self.sign(enrolment, data_owner)
        await self.do(relayer, Call("jobs", "enrolDirectly", (enrolment.abi_tuple(), signed)))
        two = self.evaluators[:2]
        without = CohortAnchor(self.job_id, Digest(keccak(b"cohort")), 3, ZERO_DIGEST)
        self.node.tick(WINDOW_S)
        self.node.rpc("evm_mine")
        with pytest.raises(TransactionReverted) as refused:
            await self.ledger.submit(
                Call("jobs", "anchorCohort", (without.abi_tuple(), self.sign(without, *two))), relayer
            )
        assert refused.value.reason == "DirectEntriesMissing"
        cohort = CohortAnchor(
            self.job_id, Digest(keccak(b"cohort")), 3, direct_head_after(ZERO_DIGEST, enrolment)
        )
        await self.do(relayer, Call("jobs", "anchorCohort", (cohort.abi_tuple(), self.sign(cohort, *two))))

    async def train(self) -> None:
        """Two rounds; an update of the second comes directly."""
        data_owner, relayer = key("data owner"), key("relayer")
        for round_index in range(2):
            head = ZERO_DIGEST
            if round_index == 1:
                update = Update(
                    self.job_id,
                    1,
                    TERMS,
                    data_owner.address,
                    Digest(keccak(b"model 1")),
                    Digest(keccak(b"update")),
                )
                signed = self.sign(update, data_owner)
                await self.do(relayer, Call("jobs", "submitUpdateDirectly", (update.abi_tuple(), signed)))
                head = direct_head_after(head, update)
            model = Digest(keccak(b"model %d" % (round_index + 1)))
            anchor = RoundAnchor(self.job_id, round_index, Digest(keccak(b"round")), 3, head, model)
            signatures = self.sign(anchor, *self.evaluators[:2])
            receipt = await self.do(relayer, Call("jobs", "anchorRound", (anchor.abi_tuple(), signatures)))
            assert receipt.gas_used <= 60_000

    async def score(self) -> None:
        """All three commit and reveal; the third lied."""
        salt, relayer = keccak(b"salt"), key("relayer")
        jobs = self.ledger.address_of("jobs")
        for evaluator in self.evaluators:
            scores = Digest(keccak(b"scores"))
            commitment = score_commitment(
                chain_id=self.ledger.chain_id,
                contract=jobs,
                job_id=self.job_id,
                evaluator=evaluator.address,
                scores_digest=scores,
                salt=salt,
            )
            await self.do(evaluator, Call("jobs", "commitScores", (self.job_id, commitment)))
        for evaluator in self.evaluators:
            reveal = Call("jobs", "revealScores", (self.job_id, Digest(keccak(b"scores")), salt))
            await self.do(evaluator, reveal)
        with pytest.raises(TransactionReverted) as refused:
            await self.ledger.submit(Call("jobs", "commitScores", (self.job_id, ZERO_DIGEST)), relayer)
        assert refused.value.reason == "WrongPhase"

    async def settle(self) -> None:
        """Two payees, one pushed, one claiming; fees and the rest go their ways."""
        relayer, ledger = key("relayer"), self.ledger
        context = (ledger.chain_id, ledger.address_of("jobs"), self.job_id)
        payouts = [
            (i, key(name).address, (i + 3) * ETHER) for i, name in enumerate(("data owner", "other", "third"))
        ]
        tree = MerkleTree(LEAF_TYPES, [(*context, *payout) for payout in payouts])
        total = sum(amount for _, _, amount in payouts)
        settlement = Settlement(self.job_id, Digest(tree.root), total, 3, Digest(keccak(b"model 2")), 0b100)
        signatures = self.sign(settlement, *self.evaluators[:2])
        await self.do(relayer, Call("jobs", "settle", (settlement.abi_tuple(), signatures)))
        chunk = tree.multiproof([0, 1])
        pushed = ([payouts[i] for i in chunk.indices], list(chunk.proof), list(chunk.proof_flags))
        await self.do(relayer, Call("jobs", "pay", (self.job_id, *pushed)))
        await self.do(relayer, Call("jobs", "claim", (self.job_id, *payouts[2], tree.proof(2))))
        await self.do(relayer, Call("jobs", "payFees", (self.job_id,)))
        await self.do(relayer, Call("jobs", "refund", (self.job_id,)))
        for _, account, amount in payouts:
            assert await ledger.read(Call("token", "balanceOf", (account,))) == amount
        job = await ledger.read(Call("jobs", "job", (self.job_id,)))
        assert job["paid"] + job["feesPaid"] + job["refunded"] == BOUNTY + 3 * FEE
        assert await ledger.read(Call("token", "balanceOf", (ledger.address_of("jobs"),))) == 0


async def live(node: Node) -> tuple[list[tuple[str, Receipt]], list[Any], dict[str, Any]]:
    """A whole job; receipts, events and the final view."""
    evaluators = sorted((key(f"evaluator {i}") for i in range(3)), key=lambda signer: int(signer.address, 16))
    names = ("requester", "relayer", "evaluator 0", "evaluator 1", "evaluator 2")
    async with ledger_on(node, *names) as ledger:
        life = Life(node, ledger, evaluators)
        for part in (life.prepare, life.enrol, life.train, life.score, life.settle):
            await part()
        assert await ledger.now() >= node.time_s
        job = await ledger.read(Call("jobs", "job", (life.job_id,)))
        found = await ledger.follow(0)
        assert list(found.provisional) == []
        of_job = [e for e in found.final if e.arguments.get("jobId") == life.job_id]
        return life.receipts, of_job, job


def test_a_whole_job_costs_the_same_gas_and_leaves_the_same_logs_on_both(embedded: Node, anvil: Node) -> None:
    ours, our_events, our_job = run(live(embedded))
    theirs, their_events, their_job = run(live(anvil))
    assert [(step, receipt.gas_used) for step, receipt in ours] == [
        (step, receipt.gas_used) for step, receipt in theirs
    ]
    for (step, mine), (_, other) in zip(ours, theirs, strict=True):
        assert mine.sender == other.sender, step
        assert [(e.contract, e.name, e.arguments, e.log_index, e.timestamp) for e in mine.events] == [
            (e.contract, e.name, e.arguments, e.log_index, e.timestamp) for e in other.events
        ], step
    assert [(e.name, e.arguments) for e in our_events] == [(e.name, e.arguments) for e in their_events]
    assert our_job == their_job
    assert {event.name for event in our_events} >= {"EnrolledDirectly", "RoundAnchored", "JobSettled", "Paid"}


# -- the node as such ------------------------------------------------------------------------------


def call_on(address: str, data: str = "0x", **fields: Any) -> dict[str, Any]:
    """A transaction object."""
    return {"to": address, "data": data, **fields}


def add(number: int) -> str:
    """Call data for COUNTER."""
    return "0x" + number.to_bytes(32).hex()


def signed(node: Node, signer: KeySigner, **fields: Any) -> str:
    """A raw transaction with sensible fields where none are given."""
    nonce = int(node.rpc("eth_getTransactionCount", signer.address, "latest"), 16)
    complete = {
        "type": 2, "chainId": 31337, "nonce": nonce, "gas": 100_000, "maxFeePerGas": 3 * 10**9,
        "maxPriorityFeePerGas": 10**9, "value": 0, "to": node.faucet, "data": "0x", **fields,
    }  # fmt: skip
    if not complete["to"]:
        del complete["to"]
    if "to" in complete:
        complete["to"] = to_checksum_address(complete["to"])
    return "0x" + signer.sign_transaction(complete).hex()


def funded(node: Node, name: str) -> KeySigner:
    """An account with gas money."""
    signer = key(name)
    node.rpc("anvil_setBalance", signer.address, hex(GAS_MONEY_WEI))
    return signer


def test_transactions_change_state_and_leave_receipts(node: Node) -> None:
    counter, signer = node.create(COUNTER), funded(node, "alice")
    before = int(node.rpc("eth_getBalance", signer.address, "latest"), 16)
    sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=counter, data=add(5)))
    receipt = node.receipt(sent)
    # 21,000 + 140 for call data + 2,100 and 20,000 for the slot + 1,381 for the log + 137 for the rest
    assert (receipt["status"], int(receipt["gasUsed"], 16)) == ("0x1", 44_758)
    (log,) = receipt["logs"]
    assert [int(topic, 16) for topic in log["topics"]] == [7, int(signer.address, 16)]
    assert int(log["data"], 16) == 5
    assert int(node.rpc("eth_call", call_on(counter, add(2)), "latest"), 16) == 7
    assert int(node.rpc("eth_getStorageAt", counter, "0x0", "latest"), 16) == 5
    assert int(node.rpc("eth_getTransactionCount", signer.address, "pending"), 16) == 1
    after = int(node.rpc("eth_getBalance", signer.address, "latest"), 16)
    assert before - after == int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    shown = node.rpc("eth_getTransactionByHash", sent)
    assert (shown["from"].lower(), shown["nonce"], shown["blockHash"]) == (
        signer.address.lower(),
        "0x0",
        receipt["blockHash"],
    )
    assert node.rpc("eth_getTransactionByHash", "0x" + "00" * 32) is None
    assert node.rpc("eth_getTransactionReceipt", "0x" + "00" * 32) is None


def test_blocks_are_a_chain_found_by_number_hash_and_tag(node: Node) -> None:
    for _ in range(3):
        node.tick()
        node.rpc("evm_mine")
    head = node.rpc("eth_getBlockByNumber", "latest", False)
    assert head == node.rpc("eth_getBlockByHash", head["hash"], False)
    assert head == node.rpc("eth_getBlockByNumber", head["number"], False)
    assert int(head["number"], 16) == int(node.rpc("eth_blockNumber"), 16) == 3
    parent = node.rpc("eth_getBlockByHash", head["parentHash"], True)
    assert int(parent["number"], 16) == 2
    assert node.rpc("eth_getBlockByNumber", "earliest", False)["number"] == "0x0"
    pending = node.rpc("eth_getBlockByNumber", "pending", False)
    assert (int(pending["number"], 16), pending["parentHash"]) == (4, head["hash"])
    assert node.rpc("eth_getBlockByNumber", "0x64", False) is None
    assert node.rpc("eth_getBlockByHash", "0x" + "00" * 32, False) is None
    assert node.refused("eth_getCode", node.faucet, "0x64").code != -32601


def test_headers_hash_to_the_blocks_hash(node: Node) -> None:
    """Any client that checks hashes accepts these blocks. Source: EIP-7685's header of 21 fields."""
    counter = node.create(COUNTER)
    node.receipt(node.rpc("eth_sendTransaction", call_on(counter, add(1), **{"from": node.faucet})))
    block = node.rpc("eth_getBlockByNumber", "latest", False)
    names = [
        "parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom",
        "difficulty", "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce",
        "baseFeePerGas", "withdrawalsRoot", "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot",
        "requestsHash",
    ]  # fmt: skip
    numbers = {"difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed",
               "excessBlobGas"}  # fmt: skip
    fields = [Uint(int(block[n], 16)) if n in numbers else bytes.fromhex(block[n][2:]) for n in names]
    assert keccak(bytes(rlp.encode(fields))).hex() == block["hash"][2:]


def test_time_is_what_it_was_set_to(node: Node) -> None:
    clock = node.create(CLOCK)
    node.tick(500)
    node.rpc("evm_mine")
    head = node.rpc("eth_getBlockByNumber", "latest", False)
    assert int(head["timestamp"], 16) == node.time_s
    seen = node.rpc("eth_call", call_on(clock), "latest")
    assert (int(seen[2:66], 16), int(seen[66:], 16)) == (int(head["number"], 16), node.time_s)
    assert node.rpc("evm_increaseTime", 1_000) is not None
    seen = node.rpc("eth_call", call_on(clock), "pending")
    assert int(seen[2:66], 16) == int(head["number"], 16) + 1
    assert int(seen[66:], 16) >= node.time_s + 1_000
    assert node.refused("evm_setNextBlockTimestamp", 1).code == -32602


def test_logs_are_found_by_address_topic_and_block(node: Node) -> None:
    one, two = node.create(COUNTER), node.create(COUNTER)
    alice, bob = funded(node, "alice"), funded(node, "bob")
    places = []
    for signer, target in ((alice, one), (bob, one), (alice, two)):
        sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=target, data=add(1)))
        places.append(node.receipt(sent))
    seven = "0x" + (7).to_bytes(32).hex()
    by_alice, by_bob = ("0x" + int(s.address, 16).to_bytes(32).hex() for s in (alice, bob))
    everything = {"fromBlock": "earliest", "toBlock": "latest"}

    def found(**conditions: Any) -> list[int]:
        logs = node.rpc("eth_getLogs", {**everything, **conditions})
        hashes = [place["transactionHash"] for place in places]
        return [hashes.index(log["transactionHash"]) for log in logs]

    assert found() == [0, 1, 2]
    assert found(address=one) == [0, 1]
    assert found(address=[one, two]) == [0, 1, 2]
    assert found(topics=[seven]) == [0, 1, 2]
    assert found(topics=[None, by_alice]) == [0, 2]
    assert found(topics=[[seven, by_bob], [by_alice, by_bob]]) == [0, 1, 2]
    assert found(topics=[by_alice]) == []
    assert found(fromBlock=places[1]["blockNumber"]) == [1, 2]
    assert found(fromBlock=places[1]["blockNumber"], toBlock=places[1]["blockNumber"]) == [1]
    by_hash = node.rpc("eth_getLogs", {"blockHash": places[2]["blockHash"]})
    assert [log["transactionHash"] for log in by_hash] == [places[2]["transactionHash"]]


def test_reverts_carry_their_data(node: Node) -> None:
    reverter = node.create(REVERTER)
    data = "0xdeadbeef" + "11" * 32
    for method in ("eth_call", "eth_estimateGas"):
        refused = node.refused(method, call_on(reverter, data))
        assert (refused.code, refused.data) == (3, data)
    signer = funded(node, "alice")
    sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=reverter, data=data))
    receipt = node.receipt(sent)
    assert (receipt["status"], receipt["logs"]) == ("0x0", [])
    assert int(node.rpc("eth_getTransactionCount", signer.address, "latest"), 16) == 1


def test_estimated_gas_is_enough_and_a_unit_less_than_used_is_not(node: Node) -> None:
    counter, signer = node.create(COUNTER), funded(node, "alice")
    request = call_on(counter, add(3), **{"from": signer.address})
    estimate = int(node.rpc("eth_estimateGas", request), 16)
    sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=counter, data=add(3), gas=estimate))
    receipt = node.receipt(sent)
    assert receipt["status"] == "0x1"
    used = int(receipt["gasUsed"], 16)
    assert used <= estimate <= used * 1.1 + 3_000
    again = int(node.rpc("eth_estimateGas", request), 16)
    sent = node.rpc(
        "eth_sendRawTransaction", signed(node, signer, to=counter, data=add(3), gas=used - 17_100 - 1)
    )
    assert again >= used - 17_100
    assert node.receipt(sent)["status"] == "0x0"
    assert (
        int(
            node.rpc("eth_estimateGas", {"from": signer.address, "to": key("bob").address, "value": "0x1"}),
            16,
        )
        == 21_000
    )


def test_transactions_that_cannot_be_mined_are_refused_and_change_nothing(node: Node) -> None:
    counter, alice, poor = node.create(COUNTER), funded(node, "alice"), key("poor")
    good = signed(node, alice, to=counter, data=add(1))
    node.send(good)
    before = node.rpc("eth_getBalance", alice.address, "latest")
    height = node.rpc("eth_blockNumber")
    bad_signature = bytearray.fromhex(signed(node, alice, to=counter)[2:])
    bad_signature[-40] ^= 1  # inside r: another signer, without money, or none
    refused = {
        "nonce reused": signed(node, alice, to=counter, nonce=0),
        "same bytes again": good,
        "other chain": signed(node, alice, to=counter, chainId=1),
        "cannot pay": signed(node, poor, to=counter),
        "cannot pay the value": signed(node, alice, to=counter, value=GAS_MONEY_WEI),
        "over the block's gas": signed(node, alice, to=counter, gas=30_000_001),
        "too little gas to begin": signed(node, alice, to=counter, gas=20_999),
        "below the base fee": signed(node, alice, to=counter, maxFeePerGas=1, maxPriorityFeePerGas=1),
        "signature changed": "0x" + bad_signature.hex(),
        "cut short": good[:-2],
        "not hexadecimal": "0xzz",
        "empty": "0x",
        "no transaction": "0x02c0",
        "unknown type": "0x7f" + good[4:],
    }
    for reason, raw in refused.items():
        assert node.refused("eth_sendRawTransaction", raw).message, reason
    assert node.rpc("eth_getBalance", alice.address, "latest") == before
    assert node.rpc("eth_blockNumber") == height


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x12", "latest"]),
        ("eth_getBalance", [5, "latest"]),
        ("eth_getBalance", []),
        ("eth_call", [{"to": "0x12"}, "latest"]),
        ("eth_call", ["nothing", "latest"]),
        ("eth_call", [{"to": "0x" + "11" * 20, "data": "0x123"}, "latest"]),
        ("eth_getBlockByNumber", ["newest", False]),
        ("eth_getBlockByHash", ["0x12", False]),
        ("eth_getLogs", [{"topics": ["0x12"]}]),
        ("eth_getLogs", [{"address": "0x12"}]),
        ("eth_getTransactionReceipt", ["0x12"]),
        ("eth_sendRawTransaction", []),
        ("eth_sendTransaction", [{"from": "0x" + "11" * 20, "to": "0x" + "11" * 20}]),
    ],
)
def test_malformed_parameters_are_refused(
    embedded: Node, anvil: Node, method: str, params: list[Any]
) -> None:
    for node in (embedded, anvil):
        assert node.refused(method, *params).code == -32602, node.name


def test_unknown_methods_are_refused(node: Node) -> None:
    assert node.refused("eth_unheardOf").code == -32601


PRECOMPILES = {
    "ecrecover": (1, "00" * 128),
    "sha256": (2, "61"),
    "ripemd160": (3, "61"),
    "identity": (4, "616263"),
    "modexp": (5, f"{1:064x}{1:064x}{1:064x}030507"),
    "bn254 add": (6, f"{1:064x}{2:064x}{1:064x}{2:064x}"),
    "bn254 multiply": (7, f"{1:064x}{2:064x}{5:064x}"),
    "bn254 pairing": (8, ""),
    "point evaluation": (10, "00" * 192),
    "bls12 g1 add": (11, "00" * 256),
    "bls12 g2 add": (13, "00" * 512),
    "bls12 pairing": (15, "00" * 384),
    "bls12 map to g1": (16, f"{1:0128x}"),
}


def test_precompiles_cost_and_answer_the_same_on_both(embedded: Node, anvil: Node) -> None:
    """A contract calls each with a million gas and returns what is left, success, and the answer."""
    answers: dict[str, list[str]] = {}
    for node in (embedded, anvil):
        for name, (number, data) in PRECOMPILES.items():
            # calldatacopy; staticcall(1e6, number, 0, size, 0, 0); return gas left, success, answer
            runtime = f"365f5f375f5f365f60{number:02x}620f4240fa5a5f526020523d5f60403e3d6040015ff3"
            address = node.create(runtime)
            answers.setdefault(name, []).append(
                node.rpc("eth_call", call_on(address, "0x" + data, gas="0x4c4b40"), "latest")
            )
    for name, (ours, theirs) in answers.items():
        assert ours == theirs, name
    assert (
        sum(int(ours[66:130], 16) for ours, _ in answers.values()) == len(PRECOMPILES) - 1
    )  # 0x0a refuses zeros


RUNTIMES = {
    "calls itself until the gas ends": "5f5f5f5f5f305af100",
    "creates a child that dies at once": "63 32ff 5f52 600260 1e 5f f0 00".replace(" ", ""),
    "creates the same child twice": "5f5f5f5ff5 5f5f5f5ff5 00".replace(" ", ""),
    "keeps and clears slots": "60015f5560026001555f5f555f60015500",
    "stores for one transaction": "60015f5d5f5c5f5500",
    "expands memory": "60016201 0000 52 00".replace(" ", ""),
    "copies memory": "60ff5f52 6020 5f 6040 5e 6040515f55 00".replace(" ", ""),
    "runs out of gas": "5b5f56",
    "jumps nowhere": "6003565b00",
    "underflows": "5000",
    "unknown operation": "0c",
    "hashes and logs": "60205f20 5f52 6005 60205f a1 00".replace(" ", ""),
    "asks about the block": "4143 42 44 45 46 48 4a 5f40 3a 32 33 34 47 5a 00".replace(" ", ""),
    "sends money to nobody yet": "5f5f5f5f6001 61beef 5af1 00".replace(" ", ""),
}  # fmt: skip


def test_odd_programs_use_the_same_gas_on_both(embedded: Node, anvil: Node) -> None:
    used: dict[str, list[tuple[str, str, int]]] = {}
    for node in (embedded, anvil):
        signer = funded(node, "alice")
        for name, runtime in RUNTIMES.items():
            target = node.create(runtime)
            raw = signed(node, signer, to=target, gas=2_000_000, value=1)
            receipt = node.send(raw)
            used.setdefault(name, []).append((receipt["status"], receipt["gasUsed"], len(receipt["logs"])))
    for name, (ours, theirs) in used.items():
        assert ours == theirs, name
    assert {status for (status, _, _), _ in used.values()} == {"0x0", "0x1"}


# -- the ledger on nodes that are not what they should be ------------------------------------------


def test_a_ledger_refuses_another_chain_and_an_empty_address(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node) as ledger:
            right = ledger.deployment
            for wrong, where in (
                (Deployment(1, right.token, right.registry, right.jobs, 0), "chain"),
                (Deployment(31337, right.token, right.registry, key("nobody").address, 0), "deployment.jobs"),
            ):
                with pytest.raises(ConfigRefused) as refused:
                    await connect(node.target, wrong)
                assert refused.value.where == where

    run(scenario())


def test_events_come_in_order_and_from_the_block_asked_for(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node, "alice", "bob") as ledger:
            blocks = []
            for name in ("alice", "bob"):
                call = Call("registry", "registerEvaluator", (keccak(name.encode()),))
                blocks.append((await ledger.submit(call, key(name))).block.number)
            events = (await ledger.follow(0)).final
            assert [event.arguments["evaluator"] for event in events] == [
                key("alice").address,
                key("bob").address,
            ]
            later = (await ledger.follow(blocks[1])).final
            assert [event.block.number for event in later] == [blocks[1]]
            after = await ledger.follow(blocks[1] + 1)
            assert (list(after.final), list(after.provisional)) == ([], [])
            assert after.head == after.final_block
            assert after.head.number >= blocks[1]

    run(scenario())


def test_many_submissions_of_one_account_at_once_all_arrive(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node, "alice") as ledger:
            signer = key("alice")
            calls = [Call("token", "mint", (signer.address, amount)) for amount in range(1, 11)]
            receipts = await asyncio.gather(*(ledger.submit(call, signer) for call in calls))
            assert len({receipt.transaction_hash for receipt in receipts}) == 10
            assert await ledger.read(Call("token", "balanceOf", (signer.address,))) == 55

    run(scenario())


def test_an_account_used_elsewhere_in_between_gets_its_nonce_right(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node, "alice") as ledger:
            signer = key("alice")
            await ledger.submit(Call("token", "mint", (signer.address, 1)), signer)
            node.send(signed(node, signer))
            await ledger.submit(Call("token", "mint", (signer.address, 1)), signer)
            assert await ledger.read(Call("token", "balanceOf", (signer.address,))) == 2

    run(scenario())


def test_a_poor_account_is_told_so(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node) as ledger:
            with pytest.raises(LedgerError, match=r"(?i)insufficient funds|funds"):
                await ledger.submit(Call("token", "mint", (key("poor").address, 1)), key("poor"))

    run(scenario())


def test_wrong_arguments_are_the_callers_mistake(embedded: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(embedded) as ledger:
            for call in (
                Call("jobs", "noSuchFunction"),
                Call("jobs", "cancel", ()),
                Call("jobs", "cancel", (-1,)),
                Call("token", "mint", ("not an address", 1)),
            ):
                with pytest.raises(ValueError, match=call.function):
                    await ledger.submit(call, key("deployer"))

    run(scenario())
