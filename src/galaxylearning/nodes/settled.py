"""What a settlement was made of: the tables that its payouts follow from, the rounds that they must fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from galaxylearning.errors import AuditFailed
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.consistency import AnchoredRounds
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.scoring import payouts
from galaxylearning.protocol.settlement import PayoutTree
from galaxylearning.units import Address, Digest

Tables: TypeAlias = Mapping[Address, tuple[Digest, ScoreTable]]
"""Score tables and their digests, by the seat that revealed them."""


def settled_tables(site: Site, terms: Terms, state: JobState, tables: Tables) -> tuple[Tables, PayoutTree]:
    """Those of the tables that the settled payouts follow from, and these payouts.

    A seat that withheld its table was settled as faulty and without it. It may publish it later, and the
    table would move the medians: then the settlement follows from those of the other seats.

    Raises:
        AuditFailed: the settled payouts follow from neither.
    """
    for chosen in (tables, {seat: one for seat, one in tables.items() if seat not in state.faulty}):
        if not chosen:
            continue
        tree, _ = payouts(
            terms,
            chain_id=site.ledger.chain_id,
            contract=site.ledger.address_of("jobs"),
            job_id=state.job_id,
            tables=list(chosen.values()),
        )
        if (tree.root, tree.total) == (state.payout_root, state.total):
            return chosen, tree
    raise AuditFailed("the medians of the revealed tables give other payouts", where=f"job {state.job_id}")


def anchored_rounds(
    view: ChainView, state: JobState, senders: Mapping[int, Collection[Address]]
) -> AnchoredRounds:
    """What the chain fixed of a settled job's rounds; ``senders`` as in ``AnchoredRounds``."""
    later = [Digest(anchor.model_digest) for anchor in view.anchors_of(state.job_id)[1:]]
    return AnchoredRounds([*later, state.model_digest], senders)
