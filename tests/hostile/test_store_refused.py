"""What strangers may write to a blob server or answer to its clients: refused with an error of ours."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from galaxylearning.errors import BlobRefused, MessageRefused, StorageError
from galaxylearning.messages.store_request import RequestSignature
from galaxylearning.storage.blob_names import check_topic, digest_from_hex
from galaxylearning.storage.http_blobs import read_page
from galaxylearning.storage.http_ranges import ByteRange, RangeUnsatisfiable, answered_range, asked_range
from galaxylearning.units import Digest

ACCOUNT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
SIGNATURE = "ab" * 65
GOOD_HEADER = f"1;{ACCOUNT};1800000000;{SIGNATURE}"
ZERO, ONE = "0" * 64, "0" * 63 + "1"

BAD_HEADERS = {
    "empty": "",
    "nothing but separators": ";;;",
    "another version": GOOD_HEADER.replace("1;", "2;", 1),
    "no version": GOOD_HEADER[2:],
    "a field more": GOOD_HEADER + ";",
    "a space before": " " + GOOD_HEADER,
    "a space behind": GOOD_HEADER + " ",
    "a line more": GOOD_HEADER + "\n",
    "no account": f"1;;1800000000;{SIGNATURE}",
    "an account of 39 digits": f"1;{ACCOUNT[:-1]};1800000000;{SIGNATURE}",
    "an account without its checksum": f"1;{ACCOUNT.lower()};1800000000;{SIGNATURE}",
    "a wrong checksum": f"1;{ACCOUNT[:-1]}D;1800000000;{SIGNATURE}",
    "the zero account": f"1;0x{'0' * 40};1800000000;{SIGNATURE}",
    "no expiry": f"1;{ACCOUNT};;{SIGNATURE}",
    "expiry zero": f"1;{ACCOUNT};0;{SIGNATURE}",
    "a leading zero": f"1;{ACCOUNT};01800000000;{SIGNATURE}",
    "a negative expiry": f"1;{ACCOUNT};-1;{SIGNATURE}",
    "a fraction": f"1;{ACCOUNT};1.8e9;{SIGNATURE}",
    "an endless number": f"1;{ACCOUNT};{'9' * 100_000};{SIGNATURE}",
    "arabic digits": f"1;{ACCOUNT};\u0661\u0668;{SIGNATURE}",
    "a short signature": GOOD_HEADER[:-2],
    "a long signature": GOOD_HEADER + "ab",
    "an odd signature": GOOD_HEADER[:-1],
    "capital letters": GOOD_HEADER.replace("ab", "AB"),
    "no hexadecimal": GOOD_HEADER[:-1] + "g",
    "a nul": GOOD_HEADER[:-1] + "\0",
    "a megabyte": "1;" * (1 << 19),
}


def test_the_header_that_is_varied_is_sound() -> None:
    found = RequestSignature.from_header(GOOD_HEADER)
    assert (found.account, found.expires_at, len(found.signature)) == (ACCOUNT, 1_800_000_000, 65)


@pytest.mark.parametrize("text", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_signature_headers(text: str) -> None:
    with pytest.raises(MessageRefused) as refused:
        RequestSignature.from_header(text)
    assert len(str(refused.value)) < 300


BAD_RANGES = {
    "empty": "",
    "no unit": "0-1",
    "another unit": "lines=0-1",
    "capitals": "Bytes=0-1",
    "nothing": "bytes=",
    "only a dash": "bytes=-",
    "several": "bytes=0-0,2-2",
    "many": "bytes=" + ",".join(["0-"] * 10_000),
    "backwards": "bytes=5-4",
    "negative": "bytes=--5",
    "a sign": "bytes=+1-2",
    "spaces": "bytes= 0-1",
    "hexadecimal": "bytes=0x1-2",
    "nineteen digits": "bytes=" + "9" * 19 + "-",
    "endless": "bytes=" + "9" * 100_000 + "-",
    "other digits": "bytes=\u0661-\u0662",
    "a line more": "bytes=0-1\n",
}


@pytest.mark.parametrize("text", BAD_RANGES.values(), ids=BAD_RANGES)
def test_range_headers(text: str) -> None:
    with pytest.raises(BlobRefused, match="Range"):
        asked_range(text, 10)


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-11", "bytes=999999999999999999-", "bytes=-0"])
def test_ranges_of_nothing(text: str) -> None:
    with pytest.raises(RangeUnsatisfiable):
        asked_range(text, 10)
    with pytest.raises(RangeUnsatisfiable):
        asked_range("bytes=0-", 0)


def test_sound_ranges_stay_within_the_blob() -> None:
    assert asked_range("bytes=0-", 10) == ByteRange(0, 10, 10)
    assert asked_range("bytes=2-999999999999999999", 10) == ByteRange(2, 10, 10)
    assert asked_range("bytes=-999999999999999999", 10) == ByteRange(0, 10, 10)
    rng = random.Random(1)  # noqa: S311 - statistics
    for _ in range(2_000):
        first, last, total = rng.randrange(100), rng.randrange(100), rng.randrange(1, 100)
        for text in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
            try:
                part = asked_range(text, total)
            except (BlobRefused, RangeUnsatisfiable):
                continue
            assert 0 <= part.start < part.stop <= part.total == total
            assert answered_range(part.content_range) == part


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes */10",
        "bytes 0-9/*",
        "bytes 0-9",
        "bytes=0-9/10",
        "bytes 9-0/10",
        "bytes 0-10/10",
        "bytes 0-9/10, 0-9/10",
        "bytes " + "9" * 19 + "-1/2",
        "bytes 0-9/" + "9" * 100_000,
    ],
)
def test_content_ranges(text: str | None) -> None:
    with pytest.raises(BlobRefused, match="Content-Range"):
        answered_range(text)


BAD_PAGES = {
    "empty": b"",
    "no json": b"<html>",
    "another shape": b'["x"]',
    "null": b"null",
    "no list": b'{"digests": "x"}',
    "numbers": b'{"digests": [1]}',
    "no digest": b'{"digests": ["x"]}',
    "capitals": b'{"digests": ["%s"]}' % (b"A" * 64),
    "too long": b'{"digests": ["%s"]}' % (b"a" * 65),
    "twice": b'{"digests": ["%s", "%s"]}' % (ZERO.encode(), ZERO.encode()),
    "backwards": b'{"digests": ["%s", "%s"]}' % (ONE.encode(), ZERO.encode()),
    "before what was asked": b'{"digests": ["%s"]}' % ZERO.encode(),
    "a text for a boolean": b'{"digests": [], "is_more": "yes"}',
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"digests":' * 100_000,
    "no utf-8": b'{"digests": ["\xff"]}',
    "a surrogate": b'{"digests": ["\\ud800"]}',
}


@pytest.mark.parametrize("reply", BAD_PAGES.values(), ids=BAD_PAGES)
def test_pages_of_lists(reply: bytes) -> None:
    with pytest.raises(StorageError, match="http://store"):
        read_page(reply, after=Digest(bytes(32)), where="http://store")


def test_a_page_that_says_there_is_more_and_gives_nothing_is_the_last() -> None:
    assert read_page(b'{"digests": [], "is_more": true}', after=None, where="") == ([], False)
    page = b'{"digests": ["%s"], "is_more": true, "later": 1}' % ONE.encode()
    assert read_page(page, after=Digest(bytes(32)), where="") == ([Digest(bytes(31) + b"\1")], True)


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "\u0660" * 64, "../x"]
)
def test_digests_in_paths(text: str) -> None:
    with pytest.raises(BlobRefused, match="64 lower-case"):
        digest_from_hex(text)


def test_random_text_is_refused_in_little_memory() -> None:
    rng = random.Random(2)  # noqa: S311 - statistics
    alphabet = "0123456789abcdefABCDEF;x-=,/ \t\n\0bytesé~" + "\u0661"
    tracemalloc.start()
    for number in range(3_000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(300)))
        if number % 2:
            at = rng.randrange(len(GOOD_HEADER))
            text = GOOD_HEADER[:at] + text[:3] + GOOD_HEADER[at + rng.randrange(4) :]
        for read in (
            RequestSignature.from_header,
            lambda one: asked_range(one, 100),
            answered_range,
            digest_from_hex,
            check_topic,
            lambda one: read_page(one.encode(), after=None, where=""),
        ):
            try:
                read(text)
            except (MessageRefused, BlobRefused, RangeUnsatisfiable, StorageError):
                continue
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 << 20
