"""The signature of a request to a blob server: against a known implementation, and bound to every field."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from galaxylearning.chain.signer import KeySigner
from galaxylearning.errors import MessageRefused
from galaxylearning.messages.store_request import MAX_VALIDITY_S, RequestSignature, StoreRequest
from galaxylearning.units import Address, Digest

KEY = bytes(31) + b"\x07"
NOW_S = 1_800_000_000
REQUEST = StoreRequest(
    store="store.example:8787",
    method="PUT",
    path="/topics/job/1",
    topic="job/1",
    digest=Digest(bytes(range(32))),
    length=1_000,
    expires_at=NOW_S + 300,
)


def signed(request: StoreRequest = REQUEST) -> RequestSignature:
    signer = KeySigner(KEY)
    return RequestSignature.from_header(request.signed_by(signer.address, signer.sign_digest))


def test_it_is_eip_712() -> None:
    types = {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"}],
        "StoreRequest": [
            {"name": "store", "type": "string"},
            {"name": "method", "type": "string"},
            {"name": "path", "type": "string"},
            {"name": "topic", "type": "string"},
            {"name": "digest", "type": "bytes32"},
            {"name": "length", "type": "uint64"},
            {"name": "expiresAt", "type": "uint64"},
        ],
    }
    message = {
        "store": REQUEST.store,
        "method": REQUEST.method,
        "path": REQUEST.path,
        "topic": REQUEST.topic,
        "digest": REQUEST.digest,
        "length": REQUEST.length,
        "expiresAt": REQUEST.expires_at,
    }
    document = {
        "types": types,
        "primaryType": "StoreRequest",
        "domain": {"name": "GalaxyStore", "version": "1"},
        "message": message,
    }
    theirs = Account.sign_message(encode_typed_data(full_message=document), KEY)
    assert bytes(theirs.message_hash) == REQUEST.signing_digest()
    assert signed().signature == bytes(theirs.signature)


def test_the_account_is_told() -> None:
    assert signed().check(REQUEST, now_s=NOW_S) == KeySigner(KEY).address


@pytest.mark.parametrize(
    "change",
    [
        {"store": "other.example:8787"},
        {"method": "GET"},
        {"path": "/topics/job/2"},
        {"topic": "job/2"},
        {"digest": Digest(bytes(32))},
        {"length": 999},
    ],
)
def test_a_signature_is_good_for_nothing_else(change: dict[str, object]) -> None:
    with pytest.raises(MessageRefused, match="does not fit"):
        signed().check(replace(REQUEST, **change), now_s=NOW_S)  # type: ignore[arg-type]


def test_another_account_or_expiry_cannot_be_put_in() -> None:
    other = replace(signed(), account=Address(KeySigner(bytes(31) + b"\x08").address))
    with pytest.raises(MessageRefused, match="does not fit"):
        other.check(REQUEST, now_s=NOW_S)
    later = replace(signed(), expires_at=REQUEST.expires_at + 1)
    with pytest.raises(MessageRefused, match="does not fit"):
        later.check(replace(REQUEST, expires_at=REQUEST.expires_at + 1), now_s=NOW_S)


def test_it_is_good_until_it_expires_and_not_for_ever() -> None:
    account = KeySigner(KEY).address
    assert signed().check(REQUEST, now_s=REQUEST.expires_at) == account
    with pytest.raises(MessageRefused, match="expired 1 s ago"):
        signed().check(REQUEST, now_s=REQUEST.expires_at + 1)
    assert signed().check(REQUEST, now_s=REQUEST.expires_at - MAX_VALIDITY_S) == account
    with pytest.raises(MessageRefused, match="valid for 901 s"):
        signed().check(REQUEST, now_s=REQUEST.expires_at - MAX_VALIDITY_S - 1)


@pytest.mark.parametrize(
    "change",
    [{"path": "/" + "a" * 400}, {"topic": "é"}, {"length": -1}, {"length": 1 << 64}, {"digest": b""}],
)
def test_fields_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(MessageRefused, match=next(iter(change))):
        replace(REQUEST, **change)  # type: ignore[arg-type]
