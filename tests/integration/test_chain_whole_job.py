"""A whole job on both chains: whatever it costs and logs on the embedded one, it does on anvil."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from chain_nodes import ETHER, Node, key, ledger_on, run
from galaxylearning.chain.evm import EvmLedger, KeySigner
from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.merkle import MerkleTree
from galaxylearning.errors import TransactionReverted
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

LEAF_TYPES = ["uint256", "address", "uint256", "uint256", "address", "uint256"]
WINDOW_S = 10_000
BOUNTY = 10**21
FEE = 10**18
STAKE = 10**20
TERMS = Digest(keccak(b"terms"))


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
