"""The part of the terms that names a drand network."""

from __future__ import annotations

import re
from typing import Final

from galaxylearning.crypto.drand import DrandChain
from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages.parts import Part, require, within

MAX_MARGIN_S: Final = 86_400


class Drand(Part, frozen=True, forbid_unknown_fields=True):
    """A drand network whose rounds fix the questions, instead of the chain's own randomness.

    ``public_key`` is hex of 96 bytes; round 1 came at ``genesis_s`` (Unix s), then one every ``period_s``.
    Used is the first round that comes ``margin_s`` later than the block that anchored a round of the job.
    """

    public_key: str
    genesis_s: int
    period_s: int
    margin_s: int = 30

    def check(self) -> None:
        require(
            re.fullmatch(r"[0-9a-f]{192}", self.public_key) is not None,
            "drand.public_key",
            len(self.public_key),
            "192 lower-case hex digits",
        )
        within(self.genesis_s, "drand.genesis_s", 0, 1 << 40)
        within(self.period_s, "drand.period_s", 1, 86_400)
        within(self.margin_s, "drand.margin_s", 0, MAX_MARGIN_S)
        self.chain()

    def chain(self) -> DrandChain:
        """The network, its key checked.

        Raises:
            JobRefused: the key is not a point of the group.
        """
        try:
            return DrandChain(bytes.fromhex(self.public_key), self.genesis_s, self.period_s)
        except MessageRefused as error:
            raise JobRefused(str(error), where="drand.public_key") from error

    def round_for(self, anchored_at: int) -> int:
        """The number of the round that fixes the questions of a round anchored at this chain time."""
        return self.chain().round_after(anchored_at + self.margin_s)


def quicknet() -> Drand:
    """The public network "quicknet" of the League of Entropy: a round every three seconds."""
    return Drand(
        public_key="83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c"
        "8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb"
        "5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a",
        genesis_s=1_692_803_367,
        period_s=3,
    )
