"""What every node stands on: its ports, what may be tried again, its jobs, and looking around for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from galaxylearning.errors import (
    BlobDamaged,
    BlobMissing,
    ConfigRefused,
    FinalityBroken,
    GalaxyError,
    LedgerError,
    LedgerUnreachable,
    QuorumMissing,
    StorageError,
    TransactionReverted,
)
from galaxylearning.messages.typed import JOBS_DOMAIN, REGISTRY_DOMAIN, Domain
from galaxylearning.ports import (
    Aside,
    BlobStore,
    Call,
    Clock,
    Contract,
    DrandNetwork,
    Journal,
    Ledger,
    Receipt,
    Signer,
)
from galaxylearning.units import Address, Entropy, in_tokens

APPROVALS = 5
SOONEST: Final = 1 / 8
"""Of the longest pause between two looks: the shortest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of what a node did; ``facts`` are numbers and names for those who display it."""

    job_id: int
    actor: str
    step: str
    facts: dict[str, Any] = field(default_factory=dict)


def told(facts: Mapping[str, Any]) -> str:
    """Facts as people read them, ``name=value`` each; rounds are counted from 1."""
    return "  ".join(
        f"round={value + 1}" if name == "round_index" else f"{name}={value}" for name, value in facts.items()
    )


def ignore_progress(_progress: Progress) -> None:
    """Nobody is watching."""


async def at_once(work: Callable[[], None]) -> None:
    """Work that could wait is done where it comes up; meanwhile this event loop does nothing else."""
    work()


def ignore_pulse(_error: GalaxyError | None) -> None:
    """Nobody is watching."""


class Pace:
    """How soon to look again: soon after something new was seen, then at pauses twice as long each time.

    A federation's steps follow one another: each is taken by whoever sees the one before.
    """

    def __init__(self) -> None:
        self._share = 1.0

    def stir(self) -> None:
        """Something new was seen."""
        self._share = SOONEST

    @property
    def is_quiet(self) -> bool:
        """Whether nothing new was seen for some looks."""
        return self._share == 1.0

    def pause_s(self, poll_s: float) -> float:
        """The next pause; ``poll_s`` is the longest."""
        share, self._share = self._share, min(1.0, 2 * self._share)
        return share * poll_s


@dataclass(frozen=True, slots=True)
class Site:
    """The ports of one node, and how often it looks around (``poll_s``).

    ``report`` is told each step; ``pulse`` hears after each look that all is well (None), and whatever went
    wrong that may pass by itself. ``pace`` hears of what is new, and shortens the next pauses. ``aside`` does
    what is computed ahead.
    """

    ledger: Ledger
    blobs: BlobStore
    clock: Clock
    journal: Journal
    signer: Signer
    entropy: Entropy
    report: Callable[[Progress], None] = ignore_progress
    pulse: Callable[[GalaxyError | None], None] = ignore_pulse
    drand: DrandNetwork | None = None
    poll_s: float = 1.0
    pace: Pace = field(default_factory=Pace)
    aside: Aside = at_once

    @property
    def address(self) -> Address:
        """The node's account."""
        return self.signer.address

    def domain(self) -> Domain:
        """The EIP-712 domain of the jobs contract."""
        return Domain(JOBS_DOMAIN, "1", self.ledger.chain_id, self.ledger.address_of("jobs"))

    def registry_domain(self) -> Domain:
        """The EIP-712 domain of the registry."""
        return Domain(REGISTRY_DOMAIN, "1", self.ledger.chain_id, self.ledger.address_of("registry"))

    async def submit(
        self, function_call: tuple[str, tuple[Any, ...]], contract: Contract = "jobs"
    ) -> Receipt:
        """Send a transaction of this node's account."""
        function, arguments = function_call
        return await self.ledger.submit(Call(contract, function, arguments), self.signer)

    async def submit_spending(
        self, amount: int, function_call: tuple[str, tuple[Any, ...]], contract: Contract = "jobs"
    ) -> Receipt:
        """Send a transaction by which a contract takes ``amount`` of this account's tokens, approved before.

        An approval that stands is not given again; one that a reorganisation in between drops is.
        """
        spender = self.ledger.address_of(contract)
        for _ in range(APPROVALS):
            if int(await self.ledger.read(Call("token", "allowance", (self.address, spender)))) < amount:
                await self.submit(("approve", (spender, amount)), "token")
            try:
                return await self.submit(function_call, contract)
            except TransactionReverted as error:
                if error.reason != "ERC20InsufficientAllowance":
                    raise
        raise LedgerUnreachable(
            "the approval of tokens is taken back again and again", where=function_call[0]
        )

    async def require_tokens(self, needed: int, where: str, what: str) -> None:
        """Nothing is sent for ``what``, whose field is ``where``, that this account cannot pay.

        Raises:
            ConfigRefused: it owns fewer than ``needed`` smallest units.
        """
        owned = int(await self.ledger.read(Call("token", "balanceOf", (self.address,))))
        if owned < needed:
            raise ConfigRefused(
                f"the account {self.address} owns {in_tokens(owned)} tokens; {what} are {in_tokens(needed)} "
                "('galaxy wallet fund' gives some on a development chain)",
                where=where,
            )

    async def submit_if_first(
        self, function_call: tuple[str, tuple[Any, ...]], contract: Contract = "jobs"
    ) -> Receipt | None:
        """Send a transaction that somebody else may be sending too; None where the contract refused it."""
        try:
            return await self.submit(function_call, contract)
        except TransactionReverted:
            return None


def is_fatal(error: GalaxyError) -> bool:
    """Whether the whole node must stop: what it acted on is not true any more."""
    return isinstance(error, FinalityBroken)


def is_passing(error: GalaxyError) -> bool:
    """Whether it may pass: no answer from chain or store, a blob or others not there yet, a full disk."""
    kinds = LedgerError | StorageError | BlobMissing | BlobDamaged | QuorumMissing
    return error.retryable and isinstance(error, kinds)


def keeps_job(error: GalaxyError) -> bool:
    """Whether a job is looked at again: what may pass, and whatever a store or a chain's node says, even that
    it refuses us.

    Credentials expire, quotas fill, accounts run out of coins; who gives a job up for that loses its stake or
    its pay. What a contract refuses is refused for good.
    """
    is_refusal = isinstance(error, StorageError | LedgerError) and not isinstance(error, TransactionReverted)
    return is_passing(error) or is_refusal


class Docket:
    """The jobs that a node serves, each until it is over for it: all on the chain, or those of ``only``.

    ``serve`` does what is due in one job and says whether nothing more will be. Of what it raises, what may
    pass is tried again at the next look; for the rest ``give_up`` says whether the node is done with the job.
    ``finish`` lets go of what is kept of it.
    """

    def __init__(
        self,
        site: Site,
        only: Collection[int] | None,
        *,
        serve: Callable[[int], Awaitable[bool]],
        give_up: Callable[[int, GalaxyError], bool],
        finish: Callable[[int], None],
    ) -> None:
        self.site, self.only = site, None if only is None else frozenset(only)
        self._serve, self._give_up, self._finish = serve, give_up, finish
        self._finished: set[int] = set()

    async def turn(self, job_ids: Iterable[int]) -> bool:
        """Serve each of these jobs once; whether everything in ``only`` is over, never without it.

        Raises:
            FinalityBroken: the whole node must stop.
        """
        for job_id in job_ids:
            if job_id in self._finished or (self.only is not None and job_id not in self.only):
                continue
            try:
                is_over = await self._serve(job_id)
            except GalaxyError as error:
                if is_fatal(error):
                    raise
                if keeps_job(error):
                    self.site.pulse(error)
                    continue
                is_over = self._give_up(job_id, error)
            if is_over:
                self._finished.add(job_id)
                self._finish(job_id)
        return self.only is not None and self.only <= self._finished


async def keep_going(site: Site, turn: Callable[[], Awaitable[bool]]) -> None:
    """Call ``turn`` until it says that all is done, pausing between calls; retry what may be retried.

    Raises:
        GalaxyError: one that is not retryable.
    """
    while True:
        try:
            is_done = await turn()
            site.pulse(None)
            if is_done:
                return
        except GalaxyError as error:
            if not is_passing(error):
                raise
            site.pulse(error)
        await site.clock.sleep(site.pace.pause_s(site.poll_s))


def registry_topic(ledger: Ledger, name: str) -> str:
    """The full name of a topic of the registry, where data owners post what anybody may relay."""
    return f"registry/{ledger.chain_id}/{ledger.address_of('registry').lower()}/{name}"
