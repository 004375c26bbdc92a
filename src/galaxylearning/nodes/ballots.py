"""What one evaluator says on the board of a job: lists and signed statements, each of them once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.messages import typed
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.records import Record, SignedRecord, SignedSettlement, encode
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.machine import JobState
from galaxylearning.units import Address


class Ballots:
    """Votes on the board, our own and those of others that state the same."""

    def __init__(self, site: Site, board: Board) -> None:
        self._site, self._board = site, board
        self._posted: set[tuple[str, bytes]] = set()

    async def vote(
        self, topic: str, kind: type[SignedRecord], message: Any, state: JobState
    ) -> Mapping[Address, bytes]:
        """Cast our vote, then the signatures of a quorum that voted the same (or fewer, so far)."""
        await self.sign(topic, kind, message)
        votes = await self._board.votes(topic, kind, state.seats)
        alike = votes.get(message.struct_hash(), {})
        if kind is SignedSettlement:
            revealed = dict(state.revealed)
            alike = {
                who: vote
                for who, vote in alike.items()
                if who in revealed and not message.faulty_seats >> state.evaluators.index(who) & 1
            }
        enough = sorted(alike, key=address_key)[: state.quorum]
        return {who: alike[who].signature for who in enough}

    async def sign(self, topic: str, kind: type[SignedRecord], message: typed.TypedMessage) -> None:
        """Post a statement under our signature, once."""
        key = (topic, bytes(message.struct_hash()))
        if key in self._posted:
            return
        signature = self._site.signer.sign_digest(message.digest(self._site.domain()))
        await self._board.post(
            topic, kind.from_message(message, evaluator=self._site.address, signature=signature)
        )
        self._posted.add(key)

    async def post_once(self, topic: str, record: Record) -> None:
        """Post what needs no signature, once."""
        data = encode(record)
        key = (topic, bytes(blake3_digest(data)))
        if key not in self._posted:
            await self._board.put(topic, data)
            self._posted.add(key)
