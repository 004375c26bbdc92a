"""The fast loop and the specification's own do the same to every program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.chain.embedded import eels, fast_loop
from galaxylearning.chain.embedded.eels import BlockContext, Simulated
from galaxylearning.chain.embedded.fast_loop import interpreter
from galaxylearning.chain.embedded.spec_loading import spec_execute_code

CALLER, TARGET = b"\x11" * 20, b"\x22" * 20
CONTEXT = BlockContext(31337, 7, 1_800_000_000, 7, b"\x33" * 32, [bytes([n]) * 32 for n in range(3)])
GAS = 100_000


@contextmanager
def loop(function: Callable[[Any], Any]) -> Iterator[None]:
    """Let EELS run with one loop or the other."""
    interpreter.execute_code = function
    try:
        yield
    finally:
        interpreter.execute_code = fast_loop.execute_code


def outcome(
    function: Callable[[Any], Any], code: bytes, data: bytes, gas: int = GAS
) -> tuple[Simulated, Any]:
    """What a call does, and the words it leaves in storage."""
    state = eels.state(
        {CALLER: eels.account(1, 10**18, b""), TARGET: eels.account(1, 5, code)},
        {TARGET: {bytes(32): eels.word(9)}},
    )
    with loop(function):
        result = eels.simulate(CONTEXT, state, sender=CALLER, to=TARGET, data=data, value_wei=0, gas=gas)
    storage = {
        address: {k: int(v) for k, v in slots.items()} for address, slots in eels.storage_contents(state)
    }
    return result, storage


def comparable(result: Simulated) -> tuple[Any, ...]:
    """Everything the chain depends on: of a failure, that it failed."""
    is_halt = result.error is not None and not result.has_reverted
    figures = (result.gas_used, result.gas_before_refund, result.logs_count)
    return (result.return_data, is_halt, result.has_reverted, *figures)


WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 31, 32, 255, 256, 2**255, 2**256 - 1, 2**128]), st.integers(0, 2**256 - 1)
)
SIMPLE = bytes.fromhex(
    "0102030405060708 0a0b 1011121314151617 18191a1b1c1d 20 30333435363842 43"
    "505152535455 58595a5b5f 8081848f 90919f"
)
PUSH = st.one_of(
    st.integers(0, 96).map(lambda n: bytes([0x60, n])), WORDS.map(lambda n: b"\x7f" + n.to_bytes(32))
)
PART = st.one_of(PUSH, PUSH, st.sampled_from(SIMPLE).map(lambda n: bytes([n])))
STRUCTURED = st.lists(PART, max_size=40).map(lambda parts: b"".join(parts) + bytes.fromhex("5f5260205ff3"))


@settings(max_examples=400, deadline=None)
@given(code=STRUCTURED, data=st.binary(max_size=80))
def test_structured_programs_end_alike(code: bytes, data: bytes) -> None:
    ours, our_storage = outcome(fast_loop.execute_code, code, data)
    theirs, their_storage = outcome(spec_execute_code, code, data)
    assert comparable(ours) == comparable(theirs)
    assert our_storage == their_storage


@settings(max_examples=300, deadline=None)
@given(code=st.binary(max_size=64), gas=st.sampled_from([21_400, 22_000, GAS]))
def test_arbitrary_bytes_end_alike(code: bytes, gas: int) -> None:
    ours, our_storage = outcome(fast_loop.execute_code, code, b"", gas)
    theirs, their_storage = outcome(spec_execute_code, code, b"", gas)
    assert comparable(ours) == comparable(theirs)
    assert our_storage == their_storage


@settings(max_examples=200, deadline=None)
@given(
    operation=st.sampled_from(bytes.fromhex("0102030406 1011121314 161718 1b1c")),
    first=WORDS,
    second=WORDS,
)
def test_every_operation_on_two_words_gives_the_specifications_word(
    operation: int, first: int, second: int
) -> None:
    code = (
        b"\x7f"
        + second.to_bytes(32)
        + b"\x7f"
        + first.to_bytes(32)
        + bytes([operation])
        + bytes.fromhex("5f5260205ff3")
    )
    ours, _ = outcome(fast_loop.execute_code, code, b"")
    theirs, _ = outcome(spec_execute_code, code, b"")
    assert ours == theirs
    assert len(ours.return_data) == 32


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a loop of 100", "60645b600190038060025700"),
        ("jump into the data of a push", "600456605b00"),
        ("jump to a destination after a push", "60055660005b00"),
        ("jump past the end", "60ff56"),
        ("conditional jump not taken to nowhere", "5f60ff5700"),
        ("conditional jump taken to nowhere", "600160ff5700"),
        ("1,024 words", "5f" * 1024 + "00"),
        ("1,025 words", "5f" * 1025 + "00"),
        ("1,024 words and a copy of one", "5f" * 1024 + "8000"),
        ("push cut off by the end", "7fff"),
        ("memory far away", "6001630fffffff5200"),
        ("memory beyond everything", "60017f" + "ff" * 32 + "5200"),
        ("code read as data", "6020 5f 5f 39 60205ff3".replace(" ", "")),
        ("gas told twice", "5a5a035f5260205ff3"),
        ("revert with data", "60ff5f5260205ffd"),
        ("designated invalid operation", "fe"),
        ("a call to itself", "5f5f5f5f5f305af15f5260205ff3"),
        ("end without a stop", "6001"),
        ("nothing at all", ""),
    ],
)
def test_edges_end_alike(name: str, code: str) -> None:
    for gas in (21_000, 21_010, 21_100, 25_000, GAS):
        ours, _ = outcome(fast_loop.execute_code, bytes.fromhex(code), b"", gas)
        theirs, _ = outcome(spec_execute_code, bytes.fromhex(code), b"", gas)
        assert comparable(ours) == comparable(theirs), name


def test_gas_is_the_yellow_papers() -> None:
    """PUSH1 3, PUSH1 3, ADD 3, PUSH0 2, MSTORE 3 + 3 for a word of memory, PUSH1 3, PUSH0 2, RETURN 0."""
    result, _ = outcome(fast_loop.execute_code, bytes.fromhex("60016002015f5260205ff3"), b"")
    assert int.from_bytes(result.return_data) == 3
    assert result.gas_used == 21_000 + 22


def test_one_unit_of_gas_less_than_needed_is_not_enough() -> None:
    code = bytes.fromhex("60016002015f5260205ff3")
    assert outcome(fast_loop.execute_code, code, b"", 21_022)[0].error is None
    assert outcome(fast_loop.execute_code, code, b"", 21_021)[0].error == "OutOfGasError"
