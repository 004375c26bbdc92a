"""What is asked of a round's masked updates, as it is signed and posted, and which updates there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from galaxylearning.messages.records import SignedAnswer, SignedAnswerSet
from galaxylearning.secagg.member import Question
from galaxylearning.units import Address, Digest

RECORD_BYTES: Final = 4096
"""Room for a record's fields beside its long ones."""


class Phase(IntEnum):
    """The phases of opening a masked round, as they are signed."""

    GATE = 0
    SUM = 1
    VALUE = 2
    TWINS = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """One phase's question: what the member's law says of it, and what an answer consists of.

    ``parts`` are, for each round whose updates are asked, the bytes of its part and the residues of one word.
    """

    phase: Phase
    question: Question
    parts: tuple[tuple[int, int], ...]

    @property
    def answer_bytes(self) -> int:
        """How long an answer is."""
        return sum(size for size, _ in self.parts)

    @property
    def round_index(self) -> int:
        """Of which round; the last one for twins."""
        return self.question.round_index

    @property
    def digest(self) -> Digest:
        """What is asked."""
        return self.question.digest

    @property
    def topic(self) -> str:
        """Where answers to it are posted."""
        return f"round/{self.round_index}/{self.phase.name.lower()}"


@dataclass(frozen=True, slots=True)
class MaskedUpdates:
    """The masked updates of one anchored round that can be read, by ascending address."""

    round_index: int
    name: Digest
    """The accepted set: the anchored root."""
    seed: bytes
    """Of the round's public polynomials."""
    owners: tuple[Address, ...]
    digests: tuple[Digest, ...]
    """Of their bodies."""
    absent: tuple[Address, ...]
    malformed: Mapping[Address, str]


def is_about(record: SignedAnswer | SignedAnswerSet, asked: Asked, job_id: int) -> bool:
    """Whether a statement is about this question."""
    given = (record.job_id, record.round_index, record.phase, record.questions_digest)
    return given == (job_id, asked.round_index, asked.phase, asked.digest)


def answer_kind(phase: Phase) -> str:
    """The kind of the envelope that carries an answer."""
    return f"answer-{phase.name.lower()}"


def keys_kind(phase: Phase) -> str:
    """The kind of the envelope in which a member shows the content keys of answers."""
    return f"keys-{phase.name.lower()}"
