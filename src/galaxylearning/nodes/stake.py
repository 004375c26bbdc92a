"""An evaluator's stake: what of it is free, which jobs hold the rest, and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from galaxylearning.errors import ConfigRefused
from galaxylearning.nodes.site import Site
from galaxylearning.ports import Call, Ledger
from galaxylearning.protocol import calls
from galaxylearning.units import Address, in_tokens

ALL: Final = "all"
Step: TypeAlias = Literal["asked", "waiting", "withdrawn", "cancelled", "nothing"]
Wanted: TypeAlias = int | Literal["all"] | None


@dataclass(frozen=True, slots=True)
class Stake:
    """What an evaluator has staked, in smallest units.

    ``locked`` is held by its seats until their jobs are over. ``withdrawing`` can be fetched from
    ``withdrawable_at`` (Unix seconds) on, and no seat is taken with it meanwhile.
    """

    staked: int
    locked: int
    withdrawing: int
    withdrawable_at: int

    @property
    def free(self) -> int:
        """What may be locked for a seat, or asked for."""
        return self.staked - self.locked - self.withdrawing


async def read_stake(ledger: Ledger, evaluator: Address) -> Stake:
    """An evaluator's stake as the chain has it now; nothing of who never staked.

    Raises:
        LedgerError: the chain does not tell.
    """
    known = await ledger.read(Call("registry", "evaluator", (evaluator,)))
    names = ("staked", "locked", "withdrawing", "withdrawableAt")
    return Stake(*(int(known[name]) for name in names))


async def seats_held(ledger: Ledger) -> Mapping[Address, tuple[int, ...]]:
    """Who has registered as an evaluator, in that order, and the jobs in which its stake is locked now.

    Raises:
        LedgerError: the chain does not tell.
    """
    registered: dict[Address, None] = {}
    seats: dict[int, list[Address]] = {}
    since_block = 0
    while True:
        log = await ledger.follow(since_block)
        for event in (*log.final, *log.provisional):
            if event.name == "EvaluatorRegistered":
                registered[Address(event.arguments["evaluator"])] = None
            elif event.name == "SeatTaken":
                seats.setdefault(event.arguments["jobId"], []).append(Address(event.arguments["evaluator"]))
            elif event.name in ("JobSettled", "JobAborted"):
                seats.pop(event.arguments["jobId"], None)
        if log.is_whole:
            return {who: tuple(sorted(job for job in seats if who in seats[job])) for who in registered}
        since_block = log.final_block.number + 1


async def withdraw(site: Site, wanted: Wanted) -> tuple[Step, int]:
    """Take one step on the way of this account's stake back to it: what was done, and about how much.

    Asks for ``wanted`` smallest units; ``ALL``: what no seat holds. Where the same was asked for before, it
    is waited for, and paid out once its time has come; None asks for nothing. Another amount than what is
    waited for takes its place and waits anew, 0 cancels it.

    The payout of a withdrawal is told once: a command that was killed in it does not ask for as much again.

    Raises:
        ConfigRefused: more than no seat holds.
        TransactionReverted: the contract refused.
        LedgerError: the chain does not tell.
    """
    stake = await read_stake(site.ledger, site.address)
    request = stake.withdrawable_at
    if stake.withdrawing:
        site.journal.record(_asked(request), str(stake.withdrawing).encode())
        if wanted in (None, ALL, stake.withdrawing):
            if await site.ledger.now() < request:
                return "waiting", stake.withdrawing
            await site.submit(calls.withdraw(), "registry")
            site.journal.record(_told(request), b"")
            return "withdrawn", stake.withdrawing
    else:
        asked = site.journal.lookup(_asked(request))
        if asked is not None and site.journal.lookup(_told(request)) is None:
            site.journal.record(_told(request), b"")
            if wanted in (None, ALL, int(asked)):
                return "withdrawn", int(asked)
    most = stake.staked - stake.locked
    amount = most if wanted == ALL else wanted or 0
    if amount > most:
        raise ConfigRefused(
            f"{in_tokens(amount)} given; at most {in_tokens(most)} allowed: {in_tokens(stake.staked)} tokens "
            f"are staked, and {in_tokens(stake.locked)} of them are locked until their jobs are over",
            where="AMOUNT",
        )
    if wanted is None or amount == stake.withdrawing:
        return "nothing", 0
    await site.submit(calls.request_withdrawal(amount), "registry")
    request = (await read_stake(site.ledger, site.address)).withdrawable_at
    if not amount:
        return "cancelled", stake.withdrawing
    site.journal.record(_asked(request), str(amount).encode())
    return "asked", amount


def _asked(request: int) -> str:
    """The step of a request, named by when it can be paid out: the contract keeps that of the last one."""
    return f"stake/asked/{request}"


def _told(request: int) -> str:
    return f"stake/told/{request}"
