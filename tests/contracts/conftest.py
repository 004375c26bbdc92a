"""The contracts on anvil, and a small driver of one job's life. Fails, never skips, when anvil is missing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.types import RPCEndpoint, TxReceipt

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.merkle import MerkleTree
from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.messages.typed import (
    JOBS_DOMAIN,
    CohortAnchor,
    Domain,
    RoundAnchor,
    Settlement,
    TypedMessage,
    Update,
    score_commitment,
)
from galaxylearning.protocol.calls import forfeit_bond
from galaxylearning.protocol.evidence import Equivocation
from galaxylearning.units import ZERO_DIGEST, Address, Digest

REPOSITORY = Path(__file__).resolve().parents[2]
ARTIFACTS = REPOSITORY / "src/galaxylearning/chain/abi"
LEAF_TYPES = ["uint256", "address", "uint256", "uint256", "address", "uint256"]
TX_GAS = 16_000_000
WINDOW_S = 1000
BOUNTY = 10**21
FEE = 10**18
STAKE = 10**20
BOND = 10**19
TERMS = Digest(keccak(b"terms"))


@dataclass(frozen=True, slots=True)
class Account:
    """A private key and its address."""

    key: bytes
    address: Address


def account(name: str) -> Account:
    """The same account for the same name, always."""
    key = keccak(name.encode())
    return Account(key, address_of(key))


def artifact(name: str) -> dict[str, Any]:
    """A committed artifact: abi, bytecode, source_digest."""
    return cast("dict[str, Any]", json.loads((ARTIFACTS / f"{name}.json").read_text()))


def find_binary(tool: str) -> Path:
    """The native program inside npm's platform package."""
    folder = REPOSITORY / "contracts/node_modules/@foundry-rs"
    found = sorted(folder.glob(f"{tool}-*/bin/{tool}"))
    if not found:
        pytest.fail(f"{tool} is missing under {folder}: run `npm ci` in contracts/")
    return found[0]


class Deployment:
    """Freshly deployed contracts. Every account may send: anvil impersonates, so nothing depends on keys."""

    def __init__(self, web3: Web3) -> None:
        self.web3 = web3
        self.requester = account("requester").address
        self.evaluators = sorted(
            (account(f"evaluator {i}") for i in range(3)), key=lambda a: int(a.address, 16)
        )
        self.rpc("anvil_autoImpersonateAccount", [True])
        self.fund(self.requester)
        self.token = self.deploy("DemoToken")
        nonce = web3.eth.get_transaction_count(web3.to_checksum_address(self.requester))
        jobs_address = create_address(self.requester, nonce + 1)
        self.registry = self.deploy("GalaxyRegistry", self.token.address, jobs_address, WINDOW_S)
        self.jobs = self.deploy("GalaxyJobs", self.registry.address)
        assert str(self.jobs.address) == jobs_address
        self.domain = Domain(JOBS_DOMAIN, "1", web3.eth.chain_id, Address(self.jobs.address))

    def rpc(self, method: str, arguments: list[Any]) -> Any:
        answer = self.web3.provider.make_request(RPCEndpoint(method), arguments)
        assert "error" not in answer, answer
        return answer["result"]

    def fund(self, address: Address) -> None:
        self.rpc("anvil_setBalance", [address, hex(10**20)])

    def deploy(self, name: str, *arguments: Any) -> Contract:
        built = artifact(name)
        factory = self.web3.eth.contract(abi=built["abi"], bytecode=built["bytecode"])
        receipt = self._mined(factory.constructor(*arguments), self.requester)
        deployed = self.web3.eth.contract(address=receipt["contractAddress"], abi=built["abi"])
        assert isinstance(deployed, Contract)
        return deployed

    def send(self, function: Any, sender: Address) -> TxReceipt:
        """Send a contract call; the receipt of its success."""
        return self._mined(function, sender)

    def _mined(self, function: Any, sender: Address) -> TxReceipt:
        hash_ = function.transact({"from": sender, "gas": TX_GAS})
        receipt = self.web3.eth.wait_for_transaction_receipt(hash_, timeout=30, poll_latency=0.01)
        assert receipt["status"] == 1, receipt
        return receipt

    @staticmethod
    def selector(error: str) -> str:
        """How a custom error without arguments shows in an answer."""
        return "0x" + keccak(error.encode())[:4].hex()

    def prepare_evaluators(self) -> None:
        """Register and stake each."""
        for evaluator in self.evaluators:
            self.fund(evaluator.address)
            self.send(self.registry.functions.registerEvaluator(keccak(evaluator.key)), evaluator.address)
            self.send(self.token.functions.mint(evaluator.address, 10 * STAKE), evaluator.address)
            self.send(self.token.functions.approve(self.registry.address, 10 * STAKE), evaluator.address)
            self.send(self.registry.functions.depositStake(10 * STAKE), evaluator.address)
        self.send(self.token.functions.mint(self.requester, 10**30), self.requester)
        self.send(self.token.functions.approve(self.jobs.address, 2**256 - 1), self.requester)

    def parameters(self, *, owners: int, rounds: int, bond: int = 0) -> tuple[Any, ...]:
        windows = (WINDOW_S,) * 6 + (10 * WINDOW_S,)
        evaluators = [evaluator.address for evaluator in self.evaluators]
        money = (BOUNTY, FEE, bond, STAKE)
        return (self.token.address, TERMS, *money, rounds, 1, owners, *windows, evaluators)

    def signed(self, message: TypedMessage, signers: int = 2) -> bytes:
        """Signatures of the first evaluators, which are in ascending order."""
        digest = message.digest(self.domain)
        return b"".join(sign_digest(evaluator.key, digest) for evaluator in self.evaluators[:signers])

    def post(self, *, owners: int, rounds: int, bond: int = 0) -> tuple[int, TxReceipt]:
        parameters = self.parameters(owners=owners, rounds=rounds, bond=bond)
        receipt = self.send(self.jobs.functions.postJob(parameters), self.requester)
        return int(self.jobs.functions.jobCount().call()), receipt

    def take_seats(self, job_id: int) -> list[TxReceipt]:
        return [
            self.send(self.jobs.functions.takeSeat(job_id), evaluator.address)
            for evaluator in self.evaluators
        ]

    def anchor_cohort(self, job_id: int, *, owners: int) -> TxReceipt:
        anchor = CohortAnchor(job_id, Digest(keccak(b"cohort")), owners, ZERO_DIGEST)
        return self.send(
            self.jobs.functions.anchorCohort(anchor.abi_tuple(), self.signed(anchor)), self.requester
        )

    def anchor_round(self, job_id: int, round_index: int, *, owners: int) -> TxReceipt:
        root, model = keccak(b"root %d" % round_index), keccak(b"model %d" % round_index)
        anchor = RoundAnchor(job_id, round_index, Digest(root), owners, ZERO_DIGEST, Digest(model))
        return self.send(
            self.jobs.functions.anchorRound(anchor.abi_tuple(), self.signed(anchor)), self.requester
        )

    def commit_and_reveal(self, job_id: int) -> tuple[list[TxReceipt], list[TxReceipt]]:
        scores, salt = Digest(keccak(b"scores")), keccak(b"salt")
        commits = []
        for evaluator in self.evaluators:
            commitment = score_commitment(
                chain_id=self.domain.chain_id,
                contract=self.domain.contract,
                job_id=job_id,
                evaluator=evaluator.address,
                scores_digest=scores,
                salt=salt,
            )
            function = self.jobs.functions.commitScores(job_id, commitment)
            commits.append(self.send(function, evaluator.address))
        reveals = [
            self.send(self.jobs.functions.revealScores(job_id, scores, salt), evaluator.address)
            for evaluator in self.evaluators
        ]
        return commits, reveals

    def settle(self, job_id: int, root: bytes, *, total: int, payees: int) -> TxReceipt:
        model = Digest(keccak(b"final model"))
        settlement = Settlement(job_id, Digest(root), total, payees, model, 0)
        return self.send(
            self.jobs.functions.settle(settlement.abi_tuple(), self.signed(settlement)), self.requester
        )

    def forfeit_bond(self) -> TxReceipt:
        """The receipt of evidence that burns a bond, shown by a stranger to the job."""
        offender = account("two-faced data owner")
        job_id, _ = self.post(owners=3, rounds=2, bond=BOND)
        self.send(self.jobs.functions.depositBond(job_id, offender.address), self.requester)
        self.take_seats(job_id)
        self.anchor_cohort(job_id, owners=3)
        one = Update(job_id, 0, TERMS, offender.address, Digest(keccak(b"model")), Digest(keccak(b"one")))
        other = replace(one, update_digest=Digest(keccak(b"other")))
        first, second = (sign_digest(offender.key, each.digest(self.domain)) for each in (one, other))
        _, arguments = forfeit_bond(Equivocation(one, first, other.update_digest, second))
        receipt = self.send(self.jobs.functions.forfeitBond(*arguments), self.requester)
        burned = self.token.functions.balanceOf(self.registry.functions.BURN_ADDRESS().call()).call()
        assert burned == BOND
        return receipt

    def payouts(self, job_id: int, count: int, *, total: int) -> list[tuple[int, Address, int]]:
        """Index, fresh account and amount of ``count`` payees with equal shares."""
        return [(index, account(f"payee {job_id} {index}").address, total // count) for index in range(count)]

    def leaves(self, job_id: int, payouts: list[tuple[int, Address, int]]) -> list[tuple[Any, ...]]:
        where = (self.domain.chain_id, self.jobs.address, job_id)
        return [(*where, *payout) for payout in payouts]

    def payout_tree(
        self, job_id: int, payouts: list[tuple[int, Address, int]], *, sort_leaves: bool = True
    ) -> MerkleTree:
        return MerkleTree(LEAF_TYPES, self.leaves(job_id, payouts), sort_leaves=sort_leaves)


def create_address(deployer: Address, nonce: int) -> Address:
    """Where ``deployer``'s transaction with a nonce below 128 creates its contract.

    Source: Ethereum Yellow Paper, section 7 (RLP of sender and nonce).
    """
    encoded_nonce = bytes([nonce or 0x80])
    body = b"\x94" + bytes.fromhex(deployer[2:]) + encoded_nonce
    return Address(Web3.to_checksum_address(keccak(bytes([0xC0 + len(body)]) + body)[12:]))


@pytest.fixture(scope="session")
def contracts_folder() -> str:
    """Where the Solidity project lies, with its npm packages."""
    folder = REPOSITORY / "contracts"
    if not (folder / "node_modules/@openzeppelin/merkle-tree").exists():
        pytest.fail("OpenZeppelin's merkle-tree is missing: run `npm ci` in contracts/")
    return str(folder)


@pytest.fixture(scope="module")
def anvil_url() -> Iterator[str]:
    """A fresh anvil for each module, so that addresses and gas are the same on every run."""
    command = [str(find_binary("anvil")), "--port", "0", "--hardfork", "prague", "--chain-id", "31337"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("Listening on "):
                    break
            else:
                pytest.fail("anvil ended before it listened")
            Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://{line.split()[2]}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def deployment(anvil_url: str) -> Deployment:
    deployed = Deployment(Web3(HTTPProvider(anvil_url)))
    deployed.prepare_evaluators()
    return deployed
