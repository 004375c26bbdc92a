"""Whether the light ledger does what the contracts do.

Everything that was submitted in a run, refused calls too, is played again at the same times on a fresh light
ledger and on the contracts themselves, on the embedded chain. Each call is preceded by calls that should not
be: the same one from a stranger, too early, or with a byte of a signature or digest changed. Every call must
end the same way on both, with the same events or the same reason, and all balances and stakes must be the
same in the end. Signatures bind the contracts' addresses, so the run is made with those of a real deployment.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import anyio
from benchmarks.faults.play import play, signer
from benchmarks.faults.scenario import EVALUATORS, OWNERS, Scenario

from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.errors import TransactionReverted
from galaxylearning.ports import Call, Contract, Ledger, Signer
from galaxylearning.simulation.faults import chance
from galaxylearning.simulation.light_ledger import LightLedger, Transaction
from galaxylearning.simulation.light_registry import BURN
from galaxylearning.simulation.stage import GAS_MONEY_WEI, GENESIS_S
from galaxylearning.units import Address

ACTORS = ("requester", "relayer", "passer-by", *EVALUATORS, *OWNERS)
UNBONDING_S = 86_400


@dataclass(frozen=True, slots=True)
class Contracts:
    """A chain with the contracts deployed and everybody's gas paid, to be copied for every comparison."""

    folder: Path
    deployment: Deployment

    @classmethod
    async def deployed(cls, folder: Path) -> Contracts:
        """Deploy into an empty folder."""
        with EmbeddedChain(folder / "chain.sqlite", now=lambda: GENESIS_S) as chain:
            for name in ("deployer", *ACTORS):
                await fund(chain, signer(name).address, GAS_MONEY_WEI)
            return cls(folder, await deploy(chain, signer("deployer"), unbonding_s=UNBONDING_S))

    @property
    def addresses(self) -> dict[Contract, Address]:
        """Of each contract."""
        found = self.deployment
        return {"jobs": found.jobs, "registry": found.registry, "token": found.token}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many calls were compared, how many of them both refused, and where the two differ."""

    calls: int
    refused: int
    differences: tuple[str, ...]


Sent: TypeAlias = tuple[int, Call, Address]
"""When, what and by whom."""


async def compared(contracts: Contracts, scenario: Scenario) -> Comparison:
    """Run a scenario on the light ledger, then play what was submitted on both."""
    played = await anyio.to_thread.run_sync(lambda: play(scenario, addresses=contracts.addresses))
    rng = chance(f"bad calls {scenario.seed}")
    sent: list[Sent] = []
    for transaction in played.ledger.transactions:
        last = sent[-1][0] if sent else GENESIS_S
        sent += [*_bad(transaction, last, rng), _good(transaction)]
    return await answered(contracts, sent)


async def answered(contracts: Contracts, sent: Sequence[Sent]) -> Comparison:
    """Play these calls, none earlier than the one before, on both ledgers."""
    addresses = contracts.addresses
    time = [GENESIS_S]
    found: list[str] = []
    calls = refused = 0
    light = LightLedger(addresses, now=lambda: time[0])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(contracts.folder / "chain.sqlite", Path(folder) / "chain.sqlite")
        with EmbeddedChain(Path(folder) / "chain.sqlite", now=lambda: time[0]) as chain:
            ledger = await connect(chain, contracts.deployment)
            for at, call, sender in sent:
                time[0] = at
                there = await _outcome(ledger, call, sender)
                here = await _outcome(light, call, sender)
                calls, refused = calls + 1, refused + isinstance(there, str)
                if there != here:
                    found.append(
                        f"{call.function} at {at}: {there} on the contracts, {here} on the light one"
                    )
            found += await _balances(ledger, light)
    return Comparison(calls, refused, tuple(found))


def _good(transaction: Transaction) -> Sent:
    return transaction.timestamp, transaction.call, transaction.sender


def _bad(transaction: Transaction, last: int, rng: Random) -> list[Sent]:
    """Calls that somebody might make instead, none of them after the real one's time."""
    call, at = transaction.call, transaction.timestamp
    found = []
    if call.contract != "token":
        found.append((at, call, signer("passer-by").address))
        found.append((last, call, signer("passer-by").address))
        if any(isinstance(part, bytes) and part for part in call.arguments):
            found.append((at, _altered(call, rng), transaction.sender))
    return rng.sample(found, min(1, len(found)))


def _altered(call: Call, rng: Random) -> Call:
    """The call with one bit of one of its bytes arguments changed."""
    arguments = list(call.arguments)
    place = rng.choice([i for i, part in enumerate(arguments) if isinstance(part, bytes) and part])
    part = bytearray(arguments[place])
    part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
    arguments[place] = bytes(part)
    return Call(call.contract, call.function, tuple(arguments))


async def _outcome(ledger: Ledger, call: Call, sender: Address) -> Any:
    """What a ledger makes of a call: its events, or the reason for which it is refused."""
    try:
        receipt = await ledger.submit(call, _signer_of(sender))
    except TransactionReverted as refused:
        return refused.reason
    return [_comparable(event.name, event.arguments) for event in receipt.events if event.contract != "token"]


def _comparable(name: str, arguments: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    plain = {
        key: tuple(sorted(value.items())) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
    }
    return name, tuple(sorted(plain.items()))


def _signer_of(account: Address) -> Signer:
    return next(signer(name) for name in ACTORS if signer(name).address == account)


async def _balances(ledger: Ledger, light: LightLedger) -> list[str]:
    """Balances and stakes that differ in the end."""
    found = []
    accounts = {name: signer(name).address for name in ACTORS}
    accounts |= {"jobs": light.address_of("jobs"), "registry": light.address_of("registry"), "burned": BURN}
    for name, account in accounts.items():
        call = Call("token", "balanceOf", (account,))
        here, there = await light.read(call), int(await ledger.read(call))
        if here != there:
            found.append(f"{name} has {there} on the contracts, {here} on the light ledger")
    for name in EVALUATORS:
        call = Call("registry", "evaluator", (signer(name).address,))
        here, there = await light.read(call), await ledger.read(call)
        if any(int(here[part]) != int(there[part]) for part in ("staked", "locked")):
            found.append(f"the stake of {name} is {there} on the contracts, {here} on the light ledger")
    return found
