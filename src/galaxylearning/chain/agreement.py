"""What several endpoints of one chain must agree on before it counts as final: blocks and their logs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from galaxylearning.chain.endpoints import Endpoints
from galaxylearning.chain.headers import Header, header_of
from galaxylearning.chain.logs import LogReader, RawLog
from galaxylearning.chain.transport import NodeRefused, Transport, as_int
from galaxylearning.errors import AnswerRefused, ChainDisagreement, LedgerError, LedgerUnreachable
from galaxylearning.ports import Block

DEVELOPMENT_CHAINS: Final = (1337, 31337)
"""Chain identifiers that development nodes use by convention and no public chain has."""
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Following:
    """How a chain is followed.

    ``finality_blocks``: how far below the head a block is final; None asks the node for its finalized block
    (on development chains: 0). ``final_endpoints``: how many endpoints must agree on a final block; 0 means
    all of them. ``is_checked``: whether headers must have their hashes and receipts their root.
    ``head_stall_s``: a head that stays the same for longer is told of; 0 means never.
    """

    finality_blocks: int | None = None
    final_endpoints: int = 0
    is_checked: bool = True
    head_stall_s: float = 0.0


class Headers:
    """Reads headers of one chain from any of its endpoints."""

    def __init__(self, chain_id: int, following: Following) -> None:
        self.chain_id, self.is_checked = chain_id, following.is_checked
        self.depth = following.finality_blocks
        if self.depth is None and chain_id in DEVELOPMENT_CHAINS:
            self.depth = 0

    async def latest(self, node: Transport) -> Header:
        """The head, of the right chain.

        Raises:
            ChainDisagreement: the endpoint is on another chain.
            LedgerUnreachable: no answer, or none that can be true.
        """
        chain_id, latest = await asyncio.gather(
            node.request("eth_chainId"), node.request("eth_getBlockByNumber", "latest", False)
        )
        if as_int(chain_id) != self.chain_id:
            raise ChainDisagreement(
                f"it is on chain {as_int(chain_id)}, not {self.chain_id}", where=node.name
            )
        return self.read(latest, node)

    def read(self, answer: Any, node: Transport) -> Header:
        """A header from an answer.

        Raises:
            LedgerUnreachable: there is none, or it cannot be true.
        """
        if answer is None:
            raise LedgerUnreachable("the chain moved while it was read: a block is gone", where=node.name)
        return header_of(answer, is_checked=self.is_checked, where=node.name)

    async def numbered(self, node: Transport, number: int) -> Header:
        """The block of this number."""
        header = self.read(await node.request("eth_getBlockByNumber", hex(number), False), node)
        if header.number != number:
            raise AnswerRefused(f"block {header.number} instead of {number}", where=node.name)
        return header

    async def hashed(self, node: Transport, wanted: Block) -> Header:
        """The block of this number and hash."""
        shown = "0x" + wanted.hash.hex()
        header = self.read(await node.request("eth_getBlockByHash", shown, False), node)
        if (header.number, header.hash) != (wanted.number, wanted.hash):
            raise AnswerRefused(f"another block than {wanted.number} {shown}", where=node.name)
        return header

    async def several(self, node: Transport, first: int, last: int) -> list[Header]:
        """Blocks ``first`` to ``last`` by number, a few at a time. They may be of two chains."""
        found: list[Header] = []
        for low in range(first, last + 1, _AT_ONCE):
            numbers = range(low, min(low + _AT_ONCE, last + 1))
            found += await asyncio.gather(*(self.numbered(node, number) for number in numbers))
        return found

    async def final_number(self, node: Transport, head: Header) -> int:
        """The number of the final block as this endpoint sees it, under ``head``.

        Raises:
            LedgerUnreachable: the endpoint does not say.
        """
        if self.depth is not None:
            return max(0, head.number - self.depth)
        try:
            answer = await node.request("eth_getBlockByNumber", "finalized", False)
        except NodeRefused as error:
            raise LedgerUnreachable(
                f"it does not tell a finalized block ({error}); set finality_blocks", where=node.name
            ) from error
        return min(self.read(answer, node).number, head.number)


class Agreement:
    """Asks the endpoints beside the one that is followed."""

    def __init__(
        self, endpoints: Endpoints, headers: Headers, reader: LogReader, following: Following
    ) -> None:
        self._endpoints, self._headers, self._reader = endpoints, headers, reader
        self._needed = following.final_endpoints or len(endpoints.all)

    async def common(self, number: int) -> tuple[int, list[Transport]]:
        """The latest block up to ``number`` that all who answer hold for final, and who answers beside ours.

        Raises:
            ChainDisagreement: fewer endpoints answer than must agree.
        """
        answering = []
        for other in self._endpoints.others:
            try:
                head = await self._headers.latest(other)
                theirs = await self._headers.final_number(other, head)
            except (LedgerUnreachable, ChainDisagreement) as error:
                self._endpoints.blame(other, error)
                continue
            self._endpoints.faults.pop(other.name, None)
            number = min(number, theirs)
            answering.append(other)
        if len(answering) + 1 < self._needed:
            missing = ", ".join(self._endpoints.faults) or "one"
            raise ChainDisagreement(
                f"{len(answering) + 1} of the {self._needed} endpoints needed answer, not {missing}; "
                "nothing becomes final",
                where="chain",
            )
        return number, answering

    async def require(
        self, node: Transport, others: Sequence[Transport], first: int, last: Header, logs: Sequence[RawLog]
    ) -> None:
        """Hold the block ``last`` and the logs from block ``first`` to it against other endpoints'.

        Raises:
            ChainDisagreement: they have another block or other logs.
        """
        for other in others:
            try:
                theirs = await self._headers.numbered(other, last.number)
                if theirs.hash != last.hash:
                    raise ChainDisagreement(
                        f"{node.name} and {other.name} disagree on block {last.number}: 0x{last.hash.hex()} "
                        f"and 0x{theirs.hash.hex()}; nothing becomes final",
                        where="chain",
                    )
                found = await self._reader.of_range(other, first, last.number)
            except LedgerUnreachable as error:
                self._endpoints.blame(other, error)
                raise ChainDisagreement(
                    f"{other.name} does not bear out block {last.number}; nothing becomes final",
                    where="chain",
                ) from error
            if found != list(logs):
                raise ChainDisagreement(
                    f"{node.name} and {other.name} disagree on the logs of blocks {first} to {last.number} "
                    f"({len(logs)} and {len(found)} of them); nothing becomes final",
                    where="chain",
                )

    async def who_has(self, block: Block) -> str | None:
        """The name of another endpoint that still has this block, if any."""
        for other in self._endpoints.others:
            try:
                if (await self._headers.numbered(other, block.number)).hash == block.hash:
                    return other.name
            except LedgerError:
                continue
        return None
