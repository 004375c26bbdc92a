"""A data owner's budget of epsilon at work: asked before a job is joined, charged before an update."""

from __future__ import annotations

from galaxylearning.errors import DataRefused
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.site import Site
from galaxylearning.ports import OfferedDataset, PrivacyBook
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.privacy import over_budget, release_of
from galaxylearning.units import Digest


class PrivacyKeeper:
    """The book of one node. Without a book nothing is counted, and a policy with a limit allows no job."""

    def __init__(self, book: PrivacyBook | None, site: Site) -> None:
        self._book, self._site = book, site

    def refusal(
        self, policy: OwnerPolicy, terms: Terms, job_id: int, dataset: str, n_rows: int
    ) -> str | None:
        """Why a job would exceed what the policy leaves of a data set, or None."""
        if policy.max_epsilon is None:
            return None
        if self._book is None:
            return "the policy limits epsilon, but this node keeps no book of it"
        return over_budget(
            terms.plan,
            n_rows,
            self._book.spendings(dataset),
            job=self._name(job_id, terms.digest),
            max_epsilon=policy.max_epsilon,
            delta=policy.delta,
        )

    def reserve(self, terms: Terms, job_id: int, dataset: OfferedDataset) -> None:
        """Set all rounds of a job aside; until it is over no other job can have them."""
        if self._book is not None:
            release = release_of(terms.plan, dataset.n_rows)
            name = self._name(job_id, terms.digest)
            self._book.reserve(dataset.name, name, terms.requester, release, terms.plan.rounds)

    def charge(
        self, policy: OwnerPolicy, terms: Terms, job_id: int, round_index: int, dataset: OfferedDataset
    ) -> None:
        """Charge a round before its update is made, once however often it is made.

        Raises:
            DataRefused: the policy no longer allows the job; its figures are given.
        """
        reason = self.refusal(policy, terms, job_id, dataset.name, dataset.n_rows)
        if reason is not None:
            raise DataRefused(reason, where=f"data set {dataset.name!r}")
        if self._book is not None:
            # Whoever upgraded in the middle of a job has reserved nothing for it yet.
            self.reserve(terms, job_id, dataset)
            self._book.spend(dataset.name, self._name(job_id, terms.digest), round_index)

    def close(self, job_id: int, terms_digest: Digest) -> None:
        """A job is over: free what it did not use."""
        if self._book is not None:
            self._book.close_job(self._name(job_id, terms_digest))

    def _name(self, job_id: int, terms_digest: Digest) -> str:
        """What is charged once: one account's updates in one job. Another account of this home sends others,
        and a chain that was begun anew has other jobs of the same numbers.
        """
        ledger = self._site.ledger
        place = f"{ledger.chain_id}/{ledger.address_of('jobs')}/{job_id}"
        return f"{place}/{terms_digest.hex()}/{self._site.address}"
