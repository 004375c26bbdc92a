"""The overlay that stands in for EELS's dicts is a dict, and its copies are independent."""

from __future__ import annotations

import copy
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.chain.embedded import eels, world
from galaxylearning.chain.embedded.world import OverlayMap, World


class Below:
    """Committed rows in a dict."""

    def __init__(self, rows: dict[bytes, int]) -> None:
        self.rows = rows
        self.size = len(rows)

    def get(self, key: bytes) -> int | None:
        return self.rows.get(key)


KEYS = [bytes([n]) for n in range(6)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(KEYS), st.integers(1, 9)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.sampled_from(["begin", "commit", "rollback"]), st.just(b""), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(rows=st.dictionaries(st.sampled_from(KEYS), st.integers(1, 9)), steps=STEPS)
def test_it_behaves_like_a_dict_through_nested_snapshots(
    rows: dict[bytes, int], steps: list[tuple[str, bytes, int]]
) -> None:
    ours, model = OverlayMap(Below(rows)), dict(rows)
    snapshots: list[tuple[OverlayMap, dict[bytes, int]]] = []
    for step, key, value in steps:
        if step == "set":
            ours[key] = value
            model[key] = value
        elif step == "delete" and key in model:
            del ours[key]
            del model[key]
        elif step == "begin":
            snapshots.append((copy.copy(ours), dict(model)))
        elif step == "commit" and snapshots:
            snapshots.pop()
        elif step == "rollback" and snapshots:
            ours, model = snapshots.pop()
        assert {k: ours.get(k) for k in KEYS if k in ours} == model
        assert len(ours) == len(model)
        assert (ours == {}) == (model == {})
    changed = ours.changes()
    assert {k: v for k, v in {**rows, **changed}.items() if v is not None} == model


def test_deleting_what_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        del OverlayMap(Below({}))[b"a"]


def test_what_is_written_is_what_is_read_back_by_another_world() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(world.SCHEMA)
    first = World(database)
    state = first.state()
    address, slot = b"\1" * 20, b"\2" * 32
    eels.account_contents(state)[address] = eels.account(3, 2**200, b"\x60\x00")
    state._storage_tries.update(eels.state({}, {address: {slot: eels.word(7)}})._storage_tries)
    changes = first.changes(state)
    first.write(changes)
    first.adopt(changes)
    for seen in (first, World(database)):
        account = seen.account(address)
        assert (int(account.nonce), int(account.balance), bytes(account.code)) == (3, 2**200, b"\x60\x00")
        assert seen.slot(address, slot) == 7
        assert seen.slot(address, bytes(32)) == 0
        assert int(seen.account(bytes(20)).balance) == 0

    state = first.state()
    del state._storage_tries[address]
    del eels.account_contents(state)[address]
    gone = first.changes(state)
    assert gone.replaced == {address}
    first.write(gone)
    first.adopt(gone)
    for seen in (first, World(database)):
        assert seen.slot(address, slot) == 0
        assert int(seen.account(address).nonce) == 0
    database.close()


def test_the_digest_of_changes_binds_every_part() -> None:
    base = world.Changes(
        {b"\1" * 20: eels.account(1, 1, b"")}, {b"\1" * 20: {bytes(32): eels.word(1)}}, frozenset()
    )
    others = [
        world.Changes({}, base.storage, frozenset()),
        world.Changes({b"\1" * 20: None}, base.storage, frozenset()),
        world.Changes({b"\1" * 20: eels.account(1, 2, b"")}, base.storage, frozenset()),
        world.Changes(base.accounts, {b"\1" * 20: {bytes(32): eels.word(2)}}, frozenset()),
        world.Changes(base.accounts, {b"\1" * 20: {bytes(32): None}}, frozenset()),
        world.Changes(base.accounts, base.storage, frozenset({b"\1" * 20})),
    ]
    digests = {change.digest(bytes(32)) for change in (base, *others)} | {base.digest(b"\1" * 32)}
    assert len(digests) == len(others) + 2
