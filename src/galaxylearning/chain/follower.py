"""Following a chain that may take blocks back: provisional until final, final for good.

A window of headers is kept, each linked to its parent by hash, from the last final block to the head. A new
head is walked back to the first block that is known: what lay beyond it was rolled back. The events of blocks
up to the final one never change again; a chain that has lost a final block stops whoever follows it.

Nothing is taken on a node's word that can be checked: hashes of headers, logs by the bloom filter and by the
receipts' root, and final blocks with their logs by every other endpoint.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from time import monotonic
from typing import Final, NoReturn

from galaxylearning.chain.agreement import DEVELOPMENT_CHAINS, Agreement, Following, Headers
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.endpoints import Endpoints
from galaxylearning.chain.headers import Header
from galaxylearning.chain.logs import LogReader, RawLog
from galaxylearning.chain.transport import Transport
from galaxylearning.errors import (
    AnswerRefused,
    ChainDisagreement,
    FinalityBroken,
    LedgerError,
    LedgerUnreachable,
)
from galaxylearning.ports import Block, Event

MAX_WINDOW_BLOCKS: Final = 8_192
"""The furthest that the final block may lie behind the head."""
MAX_WALK_BLOCKS: Final = 256
"""A head that is further ahead than this is not walked back to; the window begins anew at the final block."""
KEPT_BELOW_FINAL: Final = 64
MOST_BLOCKS: Final = 10**9
_AT_ONCE: Final = 16


class Follower:
    """The chain as its endpoints show it, kept up to date by ``advance``.

    ``on_change`` is awaited after blocks were taken back and after blocks became final.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        deployment: Deployment,
        following: Following,
        *,
        on_change: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._endpoints, self._deployment, self._following = endpoints, deployment, following
        self._on_change, self._clock = on_change, clock
        self._headers = Headers(deployment.chain_id, following)
        self._reader = LogReader(deployment)
        self._agreement = Agreement(endpoints, self._headers, self._reader, following)
        self._lock = asyncio.Lock()
        self._window: dict[int, Header] = {}
        self._top = -1
        self._final: Header | None = None
        self._logs: dict[bytes, list[RawLog]] = {}
        """Of the blocks after the final one, by hash."""
        self._is_caught_up = False
        self._moved_at_s = clock()
        self._broken: FinalityBroken | None = None
        self._is_unproven = False
        self._untold = 0
        """Blocks that were rolled back and that nobody was told of yet."""
        self.final_events: list[Event] = []
        """Of the blocks from ``kept_from`` on."""
        self.kept_from = 0
        self.rollbacks = 0
        self.hold: str | None = None

    @property
    def head(self) -> Header:
        """The latest block that is known."""
        return self._window[self._top]

    @property
    def final(self) -> Header:
        """The latest block that is final."""
        if self._final is None:
            raise ValueError("nothing was followed yet")
        return self._final

    @property
    def is_following(self) -> bool:
        """Whether the chain was looked at at all."""
        return self._final is not None

    def check_unbroken(self) -> None:
        """Refuse to go on after a final block went.

        Raises:
            FinalityBroken: one did.
        """
        if self._broken is not None:
            raise self._broken

    @property
    def provisional_events(self) -> list[Event]:
        """Events of the blocks after the final one."""
        headers = [self._window[number] for number in range(self.final.number + 1, self._top + 1)]
        return [event for header in headers for event in self._decoded(self._logs[header.hash], header)]

    @property
    def notices(self) -> tuple[str, ...]:
        """What the operator should know of the chain now."""
        found = [f"{name}: {fault}" for name, fault in sorted(self._endpoints.faults.items())]
        still_s, most_s = self._clock() - self._moved_at_s, self._following.head_stall_s
        # Development nodes make a block when there is a transaction.
        if 0 < most_s < still_s and self._deployment.chain_id not in DEVELOPMENT_CHAINS:
            found.append(f"the head stands still at block {self._top} for more than {most_s:g} s")
        if self._is_unproven:
            found.append("the node gives no receipts that would prove its logs")
        return tuple(found)

    async def advance(self) -> None:
        """Look at the chain's head and take in what changed.

        Raises:
            FinalityBroken: a final block is not there any more; from then on always.
            ChainDisagreement: the chain is another one, or endpoints contradict each other.
            AnswerRefused: what a node answered cannot be; the next one is asked from now on.
            LedgerUnreachable: no answer in time, or the chain moved while it was read.
        """
        async with self._lock:
            self.check_unbroken()
            node = self._endpoints.current
            try:
                await self._advance(node)
            except FinalityBroken as error:
                self._broken = error
                raise
            except LedgerUnreachable as error:
                self._endpoints.blame(node, error)
                if isinstance(error, AnswerRefused) and self._final is not None:
                    # What was read so far may be as untrue. Nobody can tell any more what is taken back.
                    self._untold += self._top - self._final.number
                    self._forget(self._final.number + 1)
                raise

    def let_go(self, least: int) -> None:
        """Keep the latest ``least`` final events, and all of their blocks, where twice as many are held."""
        if len(self.final_events) <= 2 * least:
            return
        self.kept_from = self.final_events[-least].block.number
        first = bisect_left(self.final_events, self.kept_from, key=lambda event: event.block.number)
        del self.final_events[:first]

    async def header(self, block: Block) -> Header:
        """A block's header, by its hash.

        Raises:
            LedgerUnreachable: no answer in time, or no such block any more.
        """
        known = self._window.get(block.number)
        if known is not None and known.hash == block.hash:
            return known
        return await self._headers.hashed(self._endpoints.current, block)

    async def has_block(self, block: Block) -> bool:
        """Whether a block is on the chain now; see ``ports.Ledger.has_block``."""
        async with self._lock:
            try:
                await self._require(self._endpoints.current, block)
            except FinalityBroken:
                return False
            return True

    async def _advance(self, node: Transport) -> None:
        try:
            head = await self._headers.latest(node)
        except ChainDisagreement as error:
            self._endpoints.blame(node, error)
            raise
        if self._final is None or head.hash != self.head.hash or not self._is_caught_up:
            self._is_caught_up = False
            if self._final is None or head.number - self._top > MAX_WALK_BLOCKS:
                await self._begin(node, head)
            elif head.hash != self.head.hash:
                await self._go_on(node, head)
            await self._tell_rollback()
            if self.hold is not None:
                # It may have been this side that was told what is not so: read it again.
                above = range(self.final.number + 1, self._top + 1)
                self._logs |= await self._read_logs(node, [self._window[number] for number in above])
            before = self._final
            await self._finalise(node)
            if self._final is not before and self._on_change is not None:
                # A transaction may have been in a block that came and went between two looks.
                await self._on_change()
            self._is_caught_up = self.hold is None
        self._endpoints.faults.pop(node.name, None)

    # ---- headers

    async def _begin(self, node: Transport, head: Header) -> None:
        """Begin the window at the final block: at the start, and after a long absence."""
        if head.number - self._deployment.block_number > MOST_BLOCKS:
            message = (
                f"its head is block {hex(head.number)[:40]}, more than {MOST_BLOCKS} after the contracts"
            )
            raise AnswerRefused(message, where=node.name)
        first, final = self._deployment.block_number, await self._headers.final_number(node, head)
        if self._final is not None:
            await self._require(node, _block(self._final))
            first, final = self._final.number + 1, max(final, self._final.number)
        final, answering = await self._agreement.common(final)
        if head.number - final > MAX_WINDOW_BLOCKS:
            raise LedgerError(
                f"block {final} is final and the head is {head.number}; at most {MAX_WINDOW_BLOCKS} apart",
                where=node.name,
            )
        headers = [head]
        if final < head.number:
            headers = [*await self._headers.several(node, final, head.number - 1), head]
        for parent, child in pairwise(headers):
            if child.parent_hash != parent.hash:
                raise LedgerUnreachable("the chain moved while it was read", where=node.name)
        logs = await self._reader.of_range(node, first, final)
        await self._agreement.require(node, answering, first, headers[0], logs)
        past = await self._past(node, logs)
        fresh = await self._read_logs(node, headers[1:])
        # Beyond a long absence nobody knows how many blocks went: those with logs are what matters.
        gone = set(self._logs) - set(fresh)
        lost = sum(1 for block_hash in gone if self._logs[block_hash])
        self._window = {header.number: header for header in headers}
        self._logs, self._final = fresh, headers[0]
        self._top, self._moved_at_s = head.number, self._clock()
        self.final_events += past
        self._untold += lost

    async def _past(self, node: Transport, logs: Sequence[RawLog]) -> list[Event]:
        """The events that these logs are, each held against its block's header and receipts."""
        events: list[Event] = []
        blocks = sorted({log.block for log in logs}, key=lambda block: block.number)
        for low in range(0, len(blocks), _AT_ONCE):
            part = blocks[low : low + _AT_ONCE]
            headers = await asyncio.gather(*(self._headers.numbered(node, block.number) for block in part))
            for block, header in zip(part, headers, strict=True):
                if header.hash != block.hash:
                    raise AnswerRefused(f"logs of a block {block.number} of no chain", where=node.name)
                here = [log for log in logs if log.block == block]
                await self._prove(node, header, here)
                events += self._decoded(here, header)
        return events

    async def _go_on(self, node: Transport, head: Header) -> None:
        """Walk from a new head back to a known block; what is beyond that block was rolled back."""
        if head.number <= self.final.number:
            known = self._window.get(head.number)
            if known is not None and known.hash != head.hash:
                await self._break(node, _block(head), _block(known))
            raise LedgerUnreachable(
                f"its head is block {head.number}, though {self.final.number} was final", where=node.name
            )
        ahead = {}
        if head.number - self._top > 1:
            found = await self._headers.several(node, self._top + 1, head.number - 1)
            ahead = {header.hash: header for header in found}
        walked, wanted = [], _block(head)
        ahead[head.hash] = head
        while (known := self._window.get(wanted.number)) is None or known.hash != wanted.hash:
            if wanted.number <= self.final.number:
                await self._break(node, wanted, _block(self.final))
            header = ahead.get(wanted.hash) or await self._headers.hashed(node, wanted)
            walked.append(header)
            wanted = Block(header.number - 1, header.parent_hash)
        walked.reverse()
        fresh = await self._read_logs(node, walked)
        lost = self._top - wanted.number
        self._forget(wanted.number + 1)
        self._window |= {header.number: header for header in walked}
        self._logs |= fresh
        self._top, self._moved_at_s = head.number, self._clock()
        self._untold += lost

    def _forget(self, first: int) -> None:
        """Drop the blocks from ``first`` on."""
        for number in range(first, self._top + 1):
            self._logs.pop(self._window.pop(number).hash, None)
        self._top = min(self._top, first - 1)
        self._is_caught_up = False

    async def _tell_rollback(self) -> None:
        if self._untold > 0:
            if self._on_change is not None:
                await self._on_change()
            self.rollbacks, self._untold = self.rollbacks + 1, 0

    async def _require(self, node: Transport, block: Block) -> None:
        """Make sure that a block that was final is still there."""
        answer = await node.request("eth_getBlockByNumber", hex(block.number), False)
        if answer is None:
            raise LedgerUnreachable(f"it has no block {block.number}, which was final", where=node.name)
        found = self._headers.read(answer, node)
        if found.hash != block.hash:
            await self._break(node, _block(found), block)

    async def _break(self, node: Transport, found: Block, final: Block) -> NoReturn:
        """A final block is gone, unless another endpoint still has it: then the endpoints disagree."""
        other = await self._agreement.who_has(final)
        if other is not None:
            self._endpoints.blame(node, AnswerRefused(f"it has lost block {final.number}, which was final"))
            self.hold = f"{node.name} has lost block {final.number}, which was final, and {other} has it"
            raise ChainDisagreement(self.hold, where="chain")
        raise FinalityBroken(
            f"block {final.number} was final as 0x{final.hash.hex()}; the chain has another history now "
            f"(block {found.number} is 0x{found.hash.hex()}); nothing is signed any more",
            where="chain",
        )

    # ---- logs

    async def _read_logs(self, node: Transport, headers: Sequence[Header]) -> dict[bytes, list[RawLog]]:
        """The logs of blocks, by hash; one whose bloom filter has none of ours is not asked for."""
        found: dict[bytes, list[RawLog]] = {header.hash: [] for header in headers}
        is_asked = self._reader.may_be_in if self._following.is_checked else lambda _: True
        asked = [header for header in headers if is_asked(header)]
        for low in range(0, len(asked), _AT_ONCE):
            part = asked[low : low + _AT_ONCE]
            answers = await asyncio.gather(*(self._reader.of_block(node, header) for header in part))
            for header, logs in zip(part, answers, strict=True):
                self._decoded(logs, header)
                found[header.hash] = logs
        return found

    def _decoded(self, logs: Sequence[RawLog], header: Header) -> list[Event]:
        try:
            events = [self._reader.decode(log, header.timestamp) for log in logs]
        except LedgerError as error:
            message = f"a log of block {header.number} is no event: {error}"
            raise AnswerRefused(message, where="chain") from error
        return [event for event in events if event is not None]

    async def _prove(self, node: Transport, header: Header, logs: Sequence[RawLog]) -> None:
        if self._following.is_checked and not await self._reader.check(node, header, logs):
            self._is_unproven = True

    # ---- finality

    async def _finalise(self, node: Transport) -> None:
        """Move the final block as far as the endpoints agree; where they do not, say so and stand still."""
        number = await self._headers.final_number(node, self.head)
        first = self.final.number + 1
        try:
            number, answering = await self._agreement.common(number)
            passed = [self._window[n] for n in range(first, number + 1)]
            logs = [log for header in passed for log in self._logs[header.hash]]
            if passed:
                await self._agreement.require(node, answering, first, passed[-1], logs)
        except ChainDisagreement as error:
            self.hold = str(error)
            return
        for header in passed:
            if self._reader.may_be_in(header) or self._logs[header.hash]:
                await self._prove(node, header, self._logs[header.hash])
        for header in passed:
            self.final_events += self._decoded(self._logs.pop(header.hash), header)
            self._final = header
        self.hold = None
        for low in sorted(n for n in self._window if n < self.final.number - KEPT_BELOW_FINAL):
            del self._window[low]


def _block(header: Header) -> Block:
    return Block(header.number, header.hash)
