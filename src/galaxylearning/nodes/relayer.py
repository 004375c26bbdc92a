"""The relayer: pays the gas for what others signed or are owed, within what its operator allows a day.

Anybody can run one; it is trusted with nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from galaxylearning.errors import BlobDamaged, BlobMissing, GalaxyError, PurseEmpty, Refused
from galaxylearning.messages.records import (
    MAX_SIGNED_BYTES,
    SignedRegistration,
    SignedRevocation,
    decode,
    verify,
)
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView, ChainWatch
from galaxylearning.nodes.posting import require_posted
from galaxylearning.nodes.purse import Allowance, Purse
from galaxylearning.nodes.site import Docket, Progress, Site, keep_going, registry_topic
from galaxylearning.nodes.tables import settled_tree
from galaxylearning.ports import Block, Receipt
from galaxylearning.protocol import calls
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.settlement import payout_chunks
from galaxylearning.units import Digest

Pay: TypeAlias = Callable[[calls.FunctionCall], Awaitable[Receipt | None]]
"""Sends a transaction that somebody else may be sending too; None where the contract refused it."""


class RelayerNode:
    """Relays registrations of data sets, shows evidence that burns bonds, and pushes what ended jobs owe."""

    def __init__(
        self, site: Site, *, jobs: Sequence[int] | None = None, allowance: Allowance | None = None
    ) -> None:
        """``allowance`` bounds what a day costs; None is for chains whose coins are worth nothing."""
        self.site, self._purse = site, Purse(site, allowance)
        self._view = ChainView(site.ledger, site.blobs)
        self._watch = ChainWatch(site)
        self._relayed: set[Digest] = set()
        self._later: set[Digest] = set()
        """What is not relayed today, for its account has had its share."""
        self._pushed: dict[int, Block] = {}
        self._left: dict[int, tuple[int, int, int, int]] = {}
        self._boards: dict[int, Board] = {}
        self._docket = Docket(site, jobs, serve=self._serve, give_up=self._give_up, finish=self._finish)

    async def run(self) -> None:
        """Serve; returns once all of ``jobs`` are finished, never without them."""
        await keep_going(self.site, self.turn)

    async def turn(self) -> bool:
        """One look around; whether everything asked for is finished."""
        await self._view.refresh()
        self._watch.tell(self._view)
        if self._purse.begin(self._view.now):
            self._later.clear()
        with suppress(PurseEmpty):
            await self._relay_datasets()
        return await self._docket.turn(self._view.job_ids)

    async def _serve(self, job_id: int) -> bool:
        try:
            return await self._served(await self._view.state(job_id))
        except PurseEmpty:
            return False

    def _give_up(self, job_id: int, error: GalaxyError) -> bool:
        self.site.report(Progress(job_id, "relayer", "given up", {"error": str(error)}))
        return True

    def _finish(self, job_id: int) -> None:
        """Keep no more of a job than that it is over."""
        self._boards.pop(job_id, None)
        self._view.forget(job_id)

    async def _relay_datasets(self) -> None:
        for name, kind in (("registrations", SignedRegistration), ("revocations", SignedRevocation)):
            for digest in await self.site.blobs.list(registry_topic(self.site.ledger, name)):
                if digest in self._relayed or digest in self._later:
                    continue
                await self._purse.require(is_own=False)
                try:
                    data = await self.site.blobs.get(digest, max_bytes=MAX_SIGNED_BYTES)
                    record = decode(data, kind, max_bytes=MAX_SIGNED_BYTES)
                    verify(record, self.site.registry_domain())
                except (BlobMissing, BlobDamaged):
                    continue
                except Refused:
                    self._relayed.add(digest)
                    continue
                message, signature = record.message, record.signature
                if not self._purse.serves(message.data_owner):
                    self._later.add(digest)
                    continue
                pay = partial(self._purse.pay, contract="registry", is_own=False, account=message.data_owner)
                if isinstance(record, SignedRevocation):
                    await pay(calls.revoke_dataset(message, signature))
                elif not self._view.is_dataset_known_ahead(message.dataset_id()):
                    await pay(calls.register_dataset(message, signature))
                self._relayed.add(digest)

    async def _served(self, state: JobState) -> bool:
        """Show evidence and push what is owed; done once the block of the last payment is final."""
        me = self.site.address
        is_own = self._docket.only is not None or me == state.requester or me in state.seats
        pay = partial(self._purse.pay, is_own=is_own)
        if state.job_id not in self._boards:
            if not is_own:  # A token of a stranger's making may take any gas, for a burned bond too.
                await require_posted(self.site.ledger, await self._view.terms(state.job_id), state.job_id)
            self._boards[state.job_id] = Board(self.site, state.job_id)
        # Of an ended job too: what is shown before its bonds go back still counts.
        board = self._boards[state.job_id]
        head = await self._view.head_state(state.job_id)
        for round_index in range(min(state.round_index + 1, state.rounds)):
            await show_evidence(self.site, board, self._view, head, round_index, pay)
        if state.phase not in (Phase.SETTLED, Phase.ABORTED):
            return False
        pushed = self._pushed.get(state.job_id)
        if pushed is None or not await self._may_stand(pushed):
            await self._purse.require(is_own=is_own)
            await self._view.refresh()
            last = await push_payments(self.site, await self._view.head_state(state.job_id), pay)
            await self._view.refresh()
            self._pushed[state.job_id] = pushed = last or self._view.head
        if self._view.final_block.number < pushed.number or not await self._may_stand(pushed):
            return False
        return self.site.ledger.is_irrevocable or self._is_paid(await self._view.state(state.job_id))

    def _is_paid(self, state: JobState) -> bool:
        """Whether nothing is owed any more, or what is was pushed for in vain.

        Of several payments some may have been in blocks that went: what is left after the last one became
        final is pushed once more.
        """
        left = state.paid, state.fees_paid, state.refunded, len(state.bonds)
        is_open = state.phase is Phase.SETTLED and state.claims_expired_amount is None
        is_owed = is_open and (state.paid < state.total or state.fees_paid < state.fees_owed)
        if not (is_owed or state.refundable or state.bonds) or self._left.get(state.job_id) == left:
            return True
        self._left[state.job_id] = left
        del self._pushed[state.job_id]
        return False

    async def _may_stand(self, block: Block) -> bool:
        """Whether a block is final, or may still become so."""
        return self._view.final_block.number < block.number or await self.site.ledger.has_block(block)


async def show_evidence(
    site: Site, board: Board, view: ChainView, state: JobState, round_index: int, pay: Pay
) -> None:
    """Have the bond burned of everybody who made two different updates of a round and still has one."""
    if not state.bonds or state.phase is Phase.ENROLLING:
        return
    for found in await assembly.round_equivocations(site, board, view, state, round_index):
        who = found.update.data_owner
        if who in state.bonds and await pay(calls.forfeit_bond(found)) is not None:
            site.report(
                Progress(state.job_id, "bonds", "forfeited", {"data_owner": who, "round_index": round_index})
            )


async def push_payments(site: Site, state: JobState, pay: Pay) -> Block | None:
    """Pay everybody whom an ended job owes: fees, the refund, bonds, and payouts in chunks.

    The payouts come last: they follow from blobs, and a blob that is gone holds up nothing else. Returns the
    block of the last payment, None where nothing was owed or somebody else was first.

    Raises:
        BlobMissing: neither score tables nor a payout table that give the payouts are there (yet).
    """
    receipts: list[Receipt | None] = []
    is_open = state.phase is Phase.SETTLED and state.claims_expired_amount is None
    if is_open and state.fees_paid < state.fees_owed:
        receipts.append(await pay(calls.pay_fees(state.job_id)))
    if state.refundable:
        receipts.append(await pay(calls.refund(state.job_id)))
    receipts += [await pay(calls.return_bond(state.job_id, data_owner)) for data_owner in sorted(state.bonds)]
    if is_open and state.paid < state.total:
        for chunk in payout_chunks(await settled_tree(site, state)):
            if all(state.paid_indices >> payout.index & 1 for payout in chunk.payouts):
                continue
            receipt = await pay(calls.pay(state.job_id, chunk))
            receipts.append(receipt)
            if receipt is not None:
                facts = {"payees": len(chunk.payouts), "gas": receipt.gas_used}
                site.report(Progress(state.job_id, "relayer", "paid", facts))
    return max((one.block for one in receipts if one), key=lambda block: block.number, default=None)
