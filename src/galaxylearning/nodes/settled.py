"""What a settlement was made of: the tables that its payouts follow from, the rounds that they must fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from galaxylearning.errors import AuditFailed
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import RevealedTables, settled_from
from galaxylearning.protocol.consistency import AnchoredRounds
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.settlement import PayoutTree
from galaxylearning.units import Address, Digest


def settled_tables(
    site: Site, terms: Terms, state: JobState, tables: RevealedTables
) -> tuple[RevealedTables, PayoutTree]:
    """Those of the tables that the settled payouts follow from, and these payouts.

    A seat that withheld its table was settled as faulty and without it. It may publish it later, and the
    table would move the medians: then the settlement follows from those of the other seats.

    Raises:
        AuditFailed: the settled payouts follow from no choice of them.
    """
    found = settled_from(site, terms, state, tables)
    if found is not None:
        return found
    raise AuditFailed("the medians of the revealed tables give other payouts", where=f"job {state.job_id}")


def anchored_rounds(
    view: ChainView, state: JobState, senders: Mapping[int, Collection[Address]]
) -> AnchoredRounds:
    """What the chain fixed of a settled job's rounds; ``senders`` as in ``AnchoredRounds``."""
    later = [Digest(anchor.model_digest) for anchor in view.anchors_of(state.job_id)[1:]]
    return AnchoredRounds([*later, state.model_digest], senders)
