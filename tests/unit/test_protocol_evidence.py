"""What proves that a data owner made two different updates of a round, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from galaxylearning.crypto.sign import address_of, recover_signer, sign_digest
from galaxylearning.messages import typed
from galaxylearning.messages.records import SignedUpdate
from galaxylearning.protocol.evidence import Equivocation, equivocations
from galaxylearning.units import Address, Digest

DOMAIN = typed.Domain("GalaxyJobs", "1", 31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
KEYS = [bytes([n]) * 32 for n in range(1, 4)]
OWNERS = [address_of(key) for key in KEYS]


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


def said(n: int, digest: int, **changes: Any) -> SignedUpdate:
    message = replace(typed.Update(7, 1, d(8), OWNERS[n], d(9), d(digest)), **changes)
    return SignedUpdate.from_message(message, signature=sign_digest(KEYS[n], message.digest(DOMAIN)))


def found(
    relayed: list[SignedUpdate], direct: list[tuple[typed.Update, bytes]] | None = None
) -> tuple[Equivocation, ...]:
    return equivocations(relayed, direct or [], domain=DOMAIN, job_id=7, terms_digest=d(8))


def test_two_signed_updates_are_evidence_whatever_their_order() -> None:
    records = [said(0, 2), said(0, 1), said(1, 1), said(2, 5), said(2, 4), said(2, 3)]
    evidence = found(records)
    assert {each.update.data_owner for each in evidence} == {OWNERS[0], OWNERS[2]}
    assert found(records[::-1]) == evidence
    assert [int(each.update.data_owner, 16) for each in evidence] == sorted(
        int(each.update.data_owner, 16) for each in evidence
    )
    for each in evidence:
        other = replace(each.update, update_digest=each.other_digest)
        assert each.update.update_digest < each.other_digest
        for message, signature in ((each.update, each.signature), (other, each.other_signature)):
            assert recover_signer(message.digest(DOMAIN), signature) == each.update.data_owner


@pytest.mark.parametrize(
    "other",
    [
        said(0, 1),
        said(1, 2),
        said(0, 2, round_index=2),
        said(0, 2, model_digest=d(7)),
        said(0, 2, terms_digest=d(7)),
        said(0, 2, job_id=8),
        msgspec.structs.replace(said(0, 2), signature=said(0, 3).signature),
        msgspec.structs.replace(said(1, 2), data_owner=OWNERS[0]),
        msgspec.structs.replace(said(0, 2), signature=bytes(65)),
    ],
)
def test_what_is_no_second_update_of_the_round_by_its_owner_is_none(other: SignedUpdate) -> None:
    assert found([said(0, 1), other]) == ()


def test_two_updates_of_another_job_or_other_terms_are_none_here() -> None:
    assert found([said(0, 1, job_id=8), said(0, 2, job_id=8)]) == ()
    assert found([said(0, 1, terms_digest=d(7)), said(0, 2, terms_digest=d(7))]) == ()


def test_an_update_made_on_chain_counts_without_a_signature() -> None:
    direct = said(0, 1).message
    (one,) = found([said(0, 2)], [(direct, b"")])
    assert (one.update.update_digest, one.signature != b"") == (d(2), True)
    assert (one.other_digest, one.other_signature) == (d(1), b"")
    # A signature that is known from elsewhere is shown, and two signed ones go before one without.
    (known,) = found([said(0, 2), said(0, 1)], [(direct, b"")])
    assert b"" not in (known.signature, known.other_signature)
    (signed,) = found([said(0, 2), said(0, 3)], [(direct, b"")])
    assert (signed.update.update_digest, signed.other_digest) == (d(2), d(3))
    assert found([said(0, 1)], [(direct, b"")]) == ()
