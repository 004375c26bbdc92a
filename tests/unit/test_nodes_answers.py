"""What seats show of content keys: few records of each, each fetched once, whatever anybody else posts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import anyio
import pytest

from galaxylearning.errors import BlobMissing, BlobRefused, MessageRefused
from galaxylearning.messages.records import SignedAnswer
from galaxylearning.nodes.answers import ShownKeys
from galaxylearning.units import ZERO_DIGEST, Address, Digest

SEATS = tuple(Address(f"0x{digit * 40}") for digit in "123")


def d(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


def shown(seat: int, number: int, *, is_signed: bool = True) -> SignedAnswer:
    return SignedAnswer(
        job_id=1,
        round_index=0,
        phase=0,
        questions_digest=ZERO_DIGEST,
        answer_digest=d(number),
        evaluator=SEATS[seat],
        signature=bytes([int(is_signed)]) * 65,
    )


class Reader:
    """Reads three looks in a row, and counts what is fetched."""

    def __init__(
        self, records: Mapping[Digest, SignedAnswer], has: Mapping[int, Mapping[Digest, bytes]]
    ) -> None:
        self.records, self.has = records, has
        self.fetched: Counter[int] = Counter()
        self.keys = ShownKeys(2)

    def check(self, record: SignedAnswer) -> None:
        if record.signature[0] == 0:
            raise MessageRefused("not signed")

    async def fetch(self, record: SignedAnswer) -> Mapping[Digest, bytes]:
        number = int.from_bytes(record.answer_digest, "big")
        self.fetched[number] += 1
        if number >= 100:
            raise BlobMissing("nobody has it")
        if number not in self.has:
            raise BlobRefused("junk")
        return self.has[number]

    def read(self) -> list[Mapping[Digest, bytes]]:
        async def main() -> list[Mapping[Digest, bytes]]:
            for _ in range(3):
                found = await self.keys.read(self.records, check=self.check, fetch=self.fetch)
            return found

        return anyio.run(main)


@pytest.mark.parametrize("junk", [range(20, 40), range(120, 140)], ids=["carries nothing", "is not there"])
def test_who_shows_much_hides_only_its_own(junk: range) -> None:
    records = {d(number): shown(0, number) for number in junk}
    records[d(90)] = shown(1, 5)
    reader = Reader(records, {5: {d(1): b"key"}})
    assert [keys for keys in reader.read() if keys] == [{d(1): b"key"}]
    assert reader.fetched.pop(5) == 1
    assert len(reader.fetched) == 2
    assert set(reader.fetched.values()) == {1 if junk[0] < 100 else 3}


def test_what_nobody_signed_is_not_fetched_and_takes_nobodys_place() -> None:
    records = {d(number): shown(1, number, is_signed=False) for number in range(20, 40)}
    records[d(90)] = shown(1, 5)
    reader = Reader(records, {5: {d(1): b"key"}})
    assert reader.read() == [{d(1): b"key"}]
    assert reader.fetched == {5: 1}


def test_a_record_that_shows_nothing_hides_no_key_of_its_signer() -> None:
    """Anybody may post again what a seat signed as its answer, before the keys that it shows."""
    reader = Reader({d(20): shown(0, 20), d(90): shown(0, 5)}, {5: {d(1): b"key"}})
    assert [keys for keys in reader.read() if keys] == [{d(1): b"key"}]
    assert reader.fetched == {20: 1, 5: 1}
