"""Where a node gets a drand round: from the board, where another node has put it, or from the network.

Nothing is trusted: a round's signature is checked against the key in the terms, wherever it came from.
"""

from __future__ import annotations

from typing import Final

from galaxylearning.crypto.drand import SIGNATURE_BYTES
from galaxylearning.errors import BlobMissing, LedgerUnreachable, MessageRefused, Refused
from galaxylearning.messages.drand import Drand
from galaxylearning.ports import BlobStore, DrandNetwork

MAX_TRIED: Final = 16
"""Blobs on the board that are tried: to check one takes some tenths of a second."""


async def drand_randomness(
    blobs: BlobStore, network: DrandNetwork | None, drand: Drand, number: int
) -> bytes:
    """The 32 bytes of a drand round; what the network gave is put on the board for others and for auditors.

    Raises:
        LedgerUnreachable: it is not to be had yet.
    """
    topic = f"drand/{drand.public_key[:32]}/{number}"
    chain = drand.chain()
    if network is not None:
        signature = await network.signature(number)
        try:
            randomness = chain.randomness(number, signature)
        except MessageRefused as error:
            raise LedgerUnreachable(f"the drand network answers falsely: {error}", where=topic) from error
        await blobs.put(signature, topic=topic)
        return randomness
    for digest in (await blobs.list(topic))[:MAX_TRIED]:
        try:
            return chain.randomness(number, await blobs.get(digest, max_bytes=SIGNATURE_BYTES))
        except (Refused, BlobMissing):
            continue
    raise LedgerUnreachable(
        "no drand network is configured ('drand_url'), and nobody has put the round on the board", where=topic
    )
