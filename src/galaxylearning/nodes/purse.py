"""What a relayer spends on others in a day, and no more: no stranger empties the account it pays gas from.

What was spent is journalled, so a restarted relayer goes on with the same day. Source: docs/adr/0006.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from galaxylearning.errors import LedgerError, PurseEmpty, TransactionReverted
from galaxylearning.nodes.site import Progress, Site, is_fatal, is_passing
from galaxylearning.ports import Contract, Receipt
from galaxylearning.units import Address, in_tokens

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Allowance:
    """The most that a relayer spends in a day of chain time, which begins at midnight UTC.

    ``gas`` in all, at most half of it on what any stranger can bring about: registrations, and jobs in which
    the relayer's account has no part. ``registrations``: data sets registered and revoked for one account.
    ``least_wei``: coins with fewer of which it begins nothing, for the account has other things to pay for.
    """

    gas: int = 20_000_000
    registrations: int = 20
    least_wei: int = 10**17


class Purse:
    """Pays for a relayer's transactions, within an allowance; None: whatever they cost."""

    def __init__(self, site: Site, allowance: Allowance | None) -> None:
        self.site, self.allowance = site, allowance
        self._day = -1
        self._gas: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._told: set[str] = set()

    def begin(self, now: int) -> bool:
        """Say what time it is on the chain; whether this is another day than before."""
        if now // DAY_S == self._day:
            return False
        self._day, self._gas, self._served, self._told = now // DAY_S, Counter(), Counter(), set()
        for step in self.site.journal.steps(self._step()):
            _, _, kind, account, _ = step.split("/")
            self._count(kind, account, int(self.site.journal.lookup(step) or b"0"))
        return True

    async def require(self, *, is_own: bool) -> None:
        """Refuse what may not be paid for now. ``is_own``: it is for a job that this account takes part in.

        Raises:
            PurseEmpty: the day's gas is spent, or the account has too few coins left.
            LedgerUnreachable: no answer in time.
        """
        if (limit := self.allowance) is None:
            return
        if self._gas.total() >= limit.gas:
            raise self._empty(f"{limit.gas:,} units of gas are spent; it goes on at midnight UTC")
        if not is_own and self._gas["strangers"] >= limit.gas // 2:
            raise self._empty(
                f"{limit.gas // 2:,} units of gas are spent on registrations and jobs of others; these go on "
                "at midnight UTC"
            )
        if await self.site.ledger.coins_wei(self.site.address) < limit.least_wei:
            raise self._empty(f"{self.site.address} has fewer than {in_tokens(limit.least_wei)} coins")

    def serves(self, account: Address) -> bool:
        """Whether something more is registered or revoked for this account today; told if not."""
        limit = self.allowance
        if limit is None or self._served[account] < limit.registrations:
            return True
        self._empty(f"{account} had {limit.registrations} data sets relayed; more go on at midnight UTC")
        return False

    async def pay(
        self,
        call: tuple[str, tuple[Any, ...]],
        contract: Contract = "jobs",
        *,
        is_own: bool,
        account: Address | None = None,
    ) -> Receipt | None:
        """Send what somebody else may be sending too; None where the contract refused it.

        Raises:
            PurseEmpty: it may not be paid for now, or the chain's node does not take it.
            LedgerUnreachable: no answer in time.
        """
        await self.require(is_own=is_own)
        receipt = None
        try:
            receipt = await self.site.submit(call, contract)
            gas = receipt.gas_used
        except TransactionReverted as error:
            gas = error.gas_used
        except LedgerError as error:
            if self.allowance is None or is_passing(error) or is_fatal(error):
                raise
            self.site.pulse(error)
            # Too few coins for what gas costs now, mostly: no reason to stop the evaluator beside us.
            raise self._empty(f"the chain's node takes no transaction of {self.site.address}") from error
        if self.allowance is not None and gas:
            kind, whose = "own" if is_own else "strangers", account or "jobs"
            self._count(kind, whose, gas)
            number = sum(self._served.values())
            self.site.journal.record(f"{self._step()}{kind}/{whose}/{number}", str(gas).encode())
        return receipt

    def _count(self, kind: str, account: str, gas: int) -> None:
        self._gas[kind] += gas
        self._served[account] += 1

    def _step(self) -> str:
        return f"relayed/{self._day}/"

    def _empty(self, why: str) -> PurseEmpty:
        """Tell once a day."""
        if why not in self._told:
            self._told.add(why)
            self.site.report(Progress(0, "relayer", "relaying stops", {"detail": why}))
        return PurseEmpty(why, where="relayer")
