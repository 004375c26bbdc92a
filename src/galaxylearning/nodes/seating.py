"""What an evaluator looks at before it takes a seat: all of the job, before any stake is locked for it.

Source: docs/adr/0034.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from galaxylearning.crypto.seal import SealingKey
from galaxylearning.errors import JobRefused
from galaxylearning.graph import ModelGraph
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.posting import (
    BEARABLE,
    Bearable,
    require_bearable,
    require_keys,
    require_posted,
    require_room,
)
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.windows import least_windows
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.units import Address

LEAST_WINDOW_S: Final = 60
COSTLY_WINDOWS: Final = ("commit_s", "reveal_s", "settle_s")
"""To be late in these costs the stake: no seat is taken in a job that gives less to one of them than
``LEAST_WINDOW_S``, or than may be needed, unless the operator says what is enough."""


@dataclass(frozen=True, slots=True)
class Seating:
    """What an operator wants of the jobs it takes seats in.

    ``least_window_s`` is enough for ``COSTLY_WINDOWS``; None: what the job may need, at least 60 s.
    ``requesters`` are those that are served; None: anybody. ``bearable`` is what one job may take of us.
    """

    least_window_s: int | None = None
    requesters: Collection[Address] | None = None
    bearable: Bearable = BEARABLE

    async def look(
        self, site: Site, terms: Terms, job_id: int, key: SealingKey, *, stagger_s: float
    ) -> JobComputation:
        """The job, opened and run over the hidden set once.

        Raises:
            BlobMissing, BlobDamaged: something of it is not there (yet).
            LedgerError: the chain does not tell.
            Refused: it cannot be served, or others could keep us from serving it.
        """
        if self.requesters is not None and terms.requester not in self.requesters:
            raise JobRefused(f"{terms.requester} is not served here", where="requester")
        await require_posted(site.ledger, terms, job_id)
        await require_keys(site, terms, job_id)
        own = next(seat for seat in terms.evaluators if seat.address == site.address)
        if own.sealing_key_digest != key.digest.hex():
            raise JobRefused("names another sealing key of ours than this node's", where=f"job {job_id}")
        graph, finality_s = await assembly.load_graph(site, terms), await site.ledger.finality_s()
        self.require(terms, graph, finality_s=finality_s, stagger_s=stagger_s)
        job = await assembly.open_job(site, terms, job_id, key)
        require_room(job)
        return job

    def require(self, terms: Terms, graph: ModelGraph, *, finality_s: float, stagger_s: float) -> None:
        """Refuse a job for what its terms and graph say, whoever posted it and wherever.

        ``finality_s`` and ``stagger_s`` as in ``nodes.windows.least_windows``.

        Raises:
            JobRefused: it gives too little time, takes too much, or one silent evaluator would stop it.
            GraphRefused: the graph does not take the plan's batches.
        """
        needed = least_windows(terms, finality_s=finality_s, stagger_s=stagger_s)
        for name in COSTLY_WINDOWS:
            least = self.least_window_s or max(LEAST_WINDOW_S, needed[name])
            if (given := getattr(terms.windows, name)) < least:
                raise JobRefused(f"{given} given; at least {least} here", where=f"windows.{name}")
        masking, most = terms.masking, len(terms.evaluators) - 2
        if masking is not None and masking.threshold > most:
            raise JobRefused(
                f"{masking.threshold} given; at most {most} here, else one silent evaluator stops the job",
                where="masking.threshold",
            )
        require_bearable(terms, graph, self.bearable)


ANY_SEAT: Final = Seating()
