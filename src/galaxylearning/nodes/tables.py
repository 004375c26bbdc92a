"""The score tables of a job that were revealed, who is at fault by them, and the payouts that they give.

Tables are fetched by the digests that are on chain: who fills a topic keeps them from nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final, TypeAlias

from galaxylearning.errors import BlobDamaged, BlobMissing, Refused
from galaxylearning.messages.records import (
    MAX_TABLE_BYTES,
    PayoutTable,
    ScoreTable,
    decode,
    table_bytes,
)
from galaxylearning.messages.terms import MAX_TERMS_BYTES, Terms, decode_terms
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.scoring import Consensus, is_faulty, payouts, usable
from galaxylearning.protocol.settlement import PayoutTree, payout_tree
from galaxylearning.units import Address, Digest

MOST_DOUBTFUL: Final = 6
"""Of so many seats that were settled as faulty every choice of tables is tried."""

RevealedTables: TypeAlias = Mapping[Address, tuple[Digest, ScoreTable]]
"""By the seat that revealed it: a table and its digest."""


async def revealed_tables(
    site: Site, terms: Terms, state: JobState, data_owners: Sequence[Address], *, is_waiting: bool = False
) -> RevealedTables:
    """The score tables that are about this job and exactly the cohort ``data_owners``; others are left out.

    So is one that cannot be had, unless it ``is_waiting`` for.

    Raises:
        BlobMissing, BlobDamaged: a table cannot be had, and is waited for.
    """
    return _usable(await _readable_tables(site, state, is_waiting=is_waiting), terms, state, data_owners)


def faulty_seats(
    state: JobState, tables: RevealedTables, own: ScoreTable, liars: Collection[Address] = ()
) -> int:
    """Bitmap of the seats that revealed something else than honest arithmetic gives, or are ``liars``."""
    consensus = Consensus.of([table for _, table in tables.values()])
    bitmap = 0
    for index, seat in enumerate(state.evaluators):
        if seat not in dict(state.revealed):
            continue
        if seat in liars or seat not in tables or is_faulty(tables[seat][1], consensus, own):
            bitmap |= 1 << index
    return bitmap


def payouts_of(
    site: Site, terms: Terms, state: JobState, tables: RevealedTables
) -> tuple[PayoutTree, PayoutTable]:
    """What these usable tables pay, as a tree for the contract and a table that explains it."""
    contract = site.ledger.address_of("jobs")
    return payouts(
        terms,
        chain_id=site.ledger.chain_id,
        contract=contract,
        job_id=state.job_id,
        tables=list(tables.values()),
    )


async def settled_tree(site: Site, state: JobState) -> PayoutTree:
    """The payout tree whose root was settled.

    From the score tables where they can be had: their digests are on chain. Else from a payout table on the
    board, where others may post as well.

    Raises:
        BlobMissing: neither gives the settled root.
    """
    tables = await _readable_tables(site, state)
    try:
        terms = decode_terms(await site.blobs.get(state.terms_digest, max_bytes=MAX_TERMS_BYTES))
    except (BlobMissing, BlobDamaged):
        return await published_tree(site, state)
    for alike in _by_cohort(tables, terms, state):
        if (found := settled_from(site, terms, state, alike)) is not None:
            return found[1]
    return await published_tree(site, state)


def settled_from(
    site: Site, terms: Terms, state: JobState, tables: RevealedTables
) -> tuple[RevealedTables, PayoutTree] | None:
    """Those of usable tables that the settled payouts follow from, and these payouts; None where none do.

    Of a seat that was settled as faulty a table may have come after the settlement, or have been counted.
    """
    doubtful = sorted(seat for seat in tables if seat in state.faulty)
    sizes = range(len(doubtful) + 1) if len(doubtful) <= MOST_DOUBTFUL else (0, len(doubtful))
    for size in sizes:
        for left_out in combinations(doubtful, size):
            chosen = {seat: one for seat, one in tables.items() if seat not in left_out}
            if not chosen:
                continue
            tree, _ = payouts_of(site, terms, state, chosen)
            if (tree.root, tree.total) == (state.payout_root, state.total):
                return chosen, tree
    return None


async def published_tree(site: Site, state: JobState) -> PayoutTree:
    """The payout tree whose root was settled, rebuilt from a payout table on the board.

    Raises:
        BlobMissing: no table on the board gives the settled root.
    """
    board = Board(site, state.job_id)
    most = min(MAX_TABLE_BYTES, table_bytes(state.payees, 0))
    for table in (await board.read("payouts", PayoutTable, max_bytes=most)).values():
        if len(table.rows) != state.payees:
            continue  # Others' tables are passed over before work.
        amounts = {Address(row.account): int(row.amount) for row in table.rows}
        tree = payout_tree(site.ledger.chain_id, site.ledger.address_of("jobs"), state.job_id, amounts)
        if tree.root == state.payout_root:
            return tree
    raise BlobMissing("no payout table gives the settled root", where=f"job {state.job_id}")


async def _readable_tables(site: Site, state: JobState, *, is_waiting: bool = False) -> RevealedTables:
    """Tables no larger than one of this job can be: who reveals more has others read it at every look."""
    most = min(MAX_TABLE_BYTES, table_bytes(state.cohort_size, state.round_index))
    found: dict[Address, tuple[Digest, ScoreTable]] = {}
    for seat, digest in state.revealed:
        try:
            data = await site.blobs.get(digest, max_bytes=most)
            found[seat] = digest, decode(data, ScoreTable, max_bytes=most)
        except (BlobMissing, BlobDamaged):
            if is_waiting:
                raise
        except Refused:
            continue
    return found


def _usable(
    tables: RevealedTables, terms: Terms, state: JobState, data_owners: Sequence[Address]
) -> RevealedTables:
    return {
        seat: (digest, table)
        for seat, (digest, table) in tables.items()
        if usable(table, job_id=state.job_id, terms_digest=terms.digest, cohort=data_owners)
    }


def _by_cohort(tables: RevealedTables, terms: Terms, state: JobState) -> Iterator[RevealedTables]:
    """Usable tables by what they say the cohort is; whoever asks has not read the enrolments."""
    cohorts = {tuple(Address(total.data_owner) for total in table.totals) for _, table in tables.values()}
    for cohort in sorted(one for one in cohorts if len(one) == state.cohort_size):
        if alike := _usable(tables, terms, state, cohort):
            yield alike
