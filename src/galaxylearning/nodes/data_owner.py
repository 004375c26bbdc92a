"""The data owner: offers data sets, consents or not, trains at home, is paid. Need send no transaction.

What leaves the node: a signed enrolment, and in each round one update of integers, sealed or masked: clipped
parameters, and the federated buffers of models that the owner's policy allows to have them.
An update is journalled with the model it was made from before it is published, so a restarted node can never
send two different ones; the data set that was chosen is journalled before anything is signed about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealingKey, seal
from galaxylearning.errors import BlobDamaged, BlobMissing, DataRefused, GalaxyError, QuorumMissing
from galaxylearning.messages import typed
from galaxylearning.messages.fields import DIGEST_BYTES
from galaxylearning.messages.records import (
    LOCKED_OUT,
    MAX_SIGNED_BYTES,
    CredentialRecord,
    MaskedBody,
    SignedEnrolment,
    SignedRegistration,
    SignedUpdate,
    credential_digest,
    decode,
    encode,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView, ChainWatch
from galaxylearning.nodes.consenting import kept_enrolment, require_feasible
from galaxylearning.nodes.posting import require_keys, require_posted
from galaxylearning.nodes.presence import PresenceBoard
from galaxylearning.nodes.privacy import PrivacyKeeper
from galaxylearning.nodes.round_models import RoundModels
from galaxylearning.nodes.set_aside import SetAside
from galaxylearning.nodes.site import Docket, Progress, Site, keep_going, registry_topic
from galaxylearning.ports import (
    Checkpoints,
    DatasetShelf,
    GraphFacts,
    OfferedDataset,
    PrivacyBook,
    Trainer,
)
from galaxylearning.protocol import calls
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.consent import OwnerPolicy, refusal, refusal_of_model
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.protocol.matching import match_schema
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.protocol.updates import encode_body, local_name, training_name
from galaxylearning.secagg.owner import mask_update
from galaxylearning.units import Address, Digest, in_tokens, round_name

_SETTLED: Final = "job settled"


class DataOwnerNode:
    """Looks at every job on the chain; enrols where the policy or its owner says so, and trains.

    ``policy`` is asked for at every turn, so that accepting a job by hand takes effect at once. With
    ``is_direct`` the node also says everything on chain, which no evaluator or relayer can leave out; its
    account then pays the gas.
    """

    def __init__(
        self,
        site: Site,
        sealing_key: SealingKey,
        *,
        shelf: DatasetShelf,
        trainer: Trainer,
        policy: Callable[[], OwnerPolicy],
        credential: CredentialRecord | None = None,
        jobs: frozenset[int] | None = None,
        is_direct: bool = False,
        book: PrivacyBook | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.site, self.key, self.shelf, self.trainer = site, sealing_key, shelf, trainer
        self.policy, self.credential, self.is_direct = policy, credential, is_direct
        self.privacy = PrivacyKeeper(book, site)
        self.checkpoints = checkpoints
        self._view = ChainView(site.ledger, site.blobs, site.journal)
        self._watch = ChainWatch(site)
        self._boards: dict[int, Board] = {}
        self._models: dict[int, RoundModels] = {}
        self._graphs: dict[int, tuple[bytes, GraphFacts]] = {}
        self._docket = Docket(site, jobs, serve=self._serve, give_up=self._give_up, finish=self._finish)
        self._told: dict[int, str] = {}
        self._aside = SetAside(site.clock)
        self._began_s = 0.0
        """When the job that is being served was taken up."""
        self._sent: set[tuple[int, int]] = set()
        self._trained: set[int] = set()

    async def run(self) -> None:
        """Serve; returns once all of ``jobs`` are finished, never without them."""
        await keep_going(self.site, self.turn)

    async def turn(self) -> bool:
        """One look around; whether everything asked for is finished."""
        await self._view.refresh()
        self._watch.tell(self._view, self._docket.only)
        self._view.require_agreement()
        return await self._docket.turn(self._view.job_ids)

    def _give_up(self, job_id: int, error: GalaxyError) -> bool:
        if not SetAside.allows(error):
            self._tell(job_id, "given up", str(error))
            return True
        self._discard(job_id, training_name)
        pause_s = self._aside.put(job_id, took_s=self.site.clock.monotonic_s() - self._began_s)
        self._tell(job_id, "given up", f"{error}; taken again in {pause_s:.0f} s")
        return False

    def _finish(self, job_id: int) -> None:
        """Keep no more of a job than that it is over: a node lives for many of them."""
        self._discard(job_id, training_name, local_name)
        self._aside.forget(job_id)
        self._boards.pop(job_id, None)
        self._models.pop(job_id, None)
        self._graphs.pop(job_id, None)
        self._told.pop(job_id, None)
        self._trained.discard(job_id)
        self._sent = {sent for sent in self._sent if sent[0] != job_id}
        self._view.forget(job_id)

    def _discard(self, job_id: int, *names: Callable[[Terms, int, Address], str]) -> None:
        """Discard the checkpoints that are named so, of all rounds of a job."""
        terms, consent = self._view.known_terms(job_id), self.site.journal.lookup(f"job/{job_id}/consent")
        if self.checkpoints is not None and terms is not None and consent is not None:
            try:
                for round_index in range(terms.plan.rounds):
                    for name in names:
                        self.checkpoints.discard(name(terms, round_index, self.site.address))
            except GalaxyError as error:
                self._tell(job_id, "a checkpoint is left", str(error))

    async def _serve(self, job_id: int) -> bool:
        self._began_s = self.site.clock.monotonic_s()
        state = await self._view.state(job_id)
        if state.phase not in (Phase.ENROLLING, Phase.TRAINING):
            return self._after_training(state)
        if self._aside.is_waiting(job_id):
            return False
        if self._aside.is_back(job_id):
            self._tell(job_id, "taken again", "it was given up before")
        board = self._boards.setdefault(job_id, Board(self.site, job_id))
        kept = kept_enrolment(self.site, state)
        if state.phase is Phase.ENROLLING:
            await self._enrolling(state, board, kept)
            return False
        consent = self.site.journal.lookup(f"job/{job_id}/consent")
        if consent is None or kept is None:
            return True
        await self._training(state, board, consent.decode())
        return False

    def _after_training(self, state: JobState) -> bool:
        """Free what the job's budget did not use; say once how it ended, if this run has seen it before."""
        job_id = state.job_id
        is_watched = job_id in self._boards or job_id in self._trained or self._docket.only is not None
        if job_id not in self._trained:
            self._trained.add(job_id)
            self.privacy.close(job_id, state.terms_digest)
        if self.site.journal.lookup(f"job/{job_id}/enrolment") is None:
            return True
        if state.phase is Phase.ABORTED and is_watched:
            self._tell(job_id, "job aborted", "its escrow goes back")
        elif state.phase is Phase.SETTLED and is_watched:
            return self._after_settlement(state)
        return state.phase in (Phase.SETTLED, Phase.ABORTED)

    def _after_settlement(self, state: JobState) -> bool:
        """Say that it is settled, and what this account was paid once the chain does; whether that is known.

        A node that serves some jobs only, and stops when they are over, does not wait for payments.
        """
        job_id = state.job_id
        paid = sum(
            event.amount
            for event in self._view.head_events_of(job_id)
            if isinstance(event, ev.Paid) and event.account == self.site.address
        )
        is_known = paid > 0 or state.paid >= state.total or self._view.now >= (state.expires_at or 0)
        found = f"{in_tokens(paid)} tokens paid" if paid else "nothing paid" if is_known else "not paid yet"
        if not self._told.get(job_id, "").startswith(_SETTLED):
            self._tell(job_id, _SETTLED, f"{found}; proof: galaxy receipt {job_id}")
        elif is_known:
            self._tell(job_id, "payment", found)
        return is_known or self._docket.only is not None

    # ---- enrolling

    async def _enrolling(self, state: JobState, board: Board, kept: bytes | None) -> None:
        if kept is None:
            terms = await self._view.terms(state.job_id)
            dataset = await self._choose(state.job_id, terms)
            if dataset is None or not await self._is_registered(dataset):
                return
            self.site.journal.record(f"job/{state.job_id}/consent", dataset.name.encode())
            self.privacy.reserve(terms, state.job_id, dataset)
            kept = self.site.journal.record(
                f"job/{state.job_id}/enrolment", encode(self._enrolment(state.job_id, terms, dataset))
            )
            needed = f"the job needs {state.minimum_owners} data owners"
            self._tell(state.job_id, "enrolled", f"{dataset.name}; {needed}")
        await board.put("enrolments", kept)
        if self.is_direct:
            await self._enrol_directly(
                state, board, decode(kept, SignedEnrolment, max_bytes=MAX_SIGNED_BYTES)
            )

    async def _enrol_directly(self, state: JobState, board: Board, enrolment: SignedEnrolment) -> None:
        """Enrol on chain, where not done yet; the blobs the enrolment names are stored first."""
        done = (
            event.enrolment.data_owner
            for event in self._view.head_events_of(state.job_id)
            if isinstance(event, ev.EnrolledDirectly)
        )
        if self.site.address in done:
            return
        await board.put("keys", self.key.public)
        if enrolment.credential is not None:
            await board.post("credentials", enrolment.credential)
        await self.site.submit_if_first(calls.enrol_directly(enrolment.message, enrolment.signature))

    async def _choose(self, job_id: int, terms: Terms) -> OfferedDataset | None:
        """The data set that joins, if any may; a graph is fetched and measured for no job but such ones."""
        dataset = self._allowed(job_id, terms)
        if dataset is None:
            return None
        await require_posted(self.site.ledger, terms, job_id)
        await require_keys(self.site, terms, job_id)
        _, facts = await self._graph(job_id, terms)
        require_feasible(terms, facts)
        reason = refusal_of_model(self.policy(), terms.digest, facts.cost, facts.buffers)
        if reason is not None:
            self._tell(job_id, "not enrolled", reason)
            return None
        return dataset

    def _allowed(self, job_id: int, terms: Terms) -> OfferedDataset | None:
        """The first data set that matches and that the policy lets join; one chosen before stays chosen.

        Why none does is told of a data set that matches, if there is one: the others never could.
        """
        chosen = self.site.journal.lookup(f"job/{job_id}/consent")
        could, could_not, policy = "", "no data set is offered", self.policy()
        for dataset in self.shelf.offered():
            if chosen is not None and dataset.name != chosen.decode():
                continue
            report = match_schema(terms.schema, dataset.columns, arrays=dataset.arrays)
            reason = refusal(
                policy,
                terms,
                terms.digest,
                dataset=dataset.name,
                n_rows=dataset.n_rows,
                report=report,
                privacy=self.privacy.refusal(policy, terms, job_id, dataset.name, dataset.n_rows),
            )
            if reason is None:
                return dataset
            if report.is_match:
                could = f"{dataset.name}: {reason}"
            else:
                could_not = f"{dataset.name}: {reason}"
        self._tell(job_id, "not enrolled", could or could_not)
        return None

    async def _graph(self, job_id: int, terms: Terms) -> tuple[bytes, GraphFacts]:
        """The job's graph, which this process never looks into, and what the trainer found out about it."""
        if job_id not in self._graphs:
            graph = await assembly.load_graph_bytes(self.site, terms)
            facts = await self.trainer.measure(graph, batch_size=terms.plan.batch_size)
            self._graphs[job_id] = graph, facts
        return self._graphs[job_id]

    async def _is_registered(self, dataset: OfferedDataset) -> bool:
        """Whether the registry has the data set; if not, post the registration for anybody to relay."""
        registration = typed.DatasetRegistration(self.site.address, dataset.commitment, dataset.schema_digest)
        if self._view.is_dataset_known(registration.dataset_id()):
            return True
        signature = self.site.signer.sign_digest(registration.digest(self.site.registry_domain()))
        record = SignedRegistration.from_message(registration, signature=signature)
        await self.site.blobs.put(encode(record), topic=registry_topic(self.site.ledger, "registrations"))
        if self.is_direct:
            await self.site.submit_if_first(calls.register_dataset(registration, signature), "registry")
        return False

    def _enrolment(self, job_id: int, terms: Terms, dataset: OfferedDataset) -> SignedEnrolment:
        registration = typed.DatasetRegistration(self.site.address, dataset.commitment, dataset.schema_digest)
        # A job that does not ask learns nothing of whose account this is.
        credential = self.credential if terms.admission.kind == "credential" else None
        message = typed.Enrolment(
            job_id=job_id,
            terms_digest=terms.digest,
            data_owner=self.site.address,
            dataset_id=registration.dataset_id(),
            sealing_key_digest=self.key.digest,
            credential_digest=credential_digest(credential),
        )
        return SignedEnrolment.from_message(
            message,
            sealing_key=self.key.public,
            credential=credential,
            signature=self.site.signer.sign_digest(message.digest(self.site.domain())),
        )

    # ---- training

    async def _training(self, state: JobState, board: Board, dataset: str) -> None:
        job_id, round_index = state.job_id, state.round_index
        if (job_id, round_index) in self._sent:
            return
        name = f"job/{job_id}/round/{round_index}"
        kept = self.site.journal.lookup(f"{name}/update")
        terms = await self._view.terms(job_id)
        if kept is None:
            found = await self._open_model(state, board, terms)
            if found is None:
                return
            model, state_bytes = found
            offered = [one for one in self.shelf.offered() if one.name == dataset]
            if not offered:
                raise DataRefused("no data set has this name any more", where=f"data set {dataset!r}")
            # Who withholds a key would else have the work done again at every look.
            keys = await assembly.evaluator_keys(self.site, terms)
            self.privacy.charge(self.policy(), terms, job_id, round_index, offered[0])
            self.shelf.record_use(dataset, job_id, round_index)
            presence = PresenceBoard(self.site, board, terms, job_id)
            body = await presence.while_telling(
                round_index,
                "training",
                partial(self._sealed_update, terms, job_id, round_index, dataset, state_bytes, keys),
            )
            kept = self.site.journal.record(f"{name}/update", model + body)
        if self.checkpoints is not None:
            self.checkpoints.discard(training_name(terms, round_index, self.site.address))
        model_digest, body = Digest(kept[:DIGEST_BYTES]), kept[DIGEST_BYTES:]
        digest = await board.put(f"round/{round_index}/bodies", body)
        message = typed.Update(
            job_id=job_id,
            round_index=round_index,
            terms_digest=terms.digest,
            data_owner=self.site.address,
            model_digest=model_digest,
            update_digest=digest,
        )
        signature = self.site.signer.sign_digest(message.digest(self.site.domain()))
        await board.post(
            f"round/{round_index}/updates", SignedUpdate.from_message(message, signature=signature)
        )
        if self.is_direct:
            await self.site.submit_if_first(calls.submit_update_directly(message, signature))
        self._sent.add((job_id, round_index))
        self._aside.forget(job_id)
        self._tell(job_id, "update sent", round_name(round_index))

    async def _open_model(self, state: JobState, board: Board, terms: Terms) -> tuple[Digest, bytes] | None:
        """The round's model, once a quorum of evaluators says which it is and a parcel of it opens."""
        _, facts = await self._graph(state.job_id, terms)
        models = self._models.setdefault(
            state.job_id, RoundModels(self.site, board, terms, state.job_id, self.key)
        )
        for model, parcels in (await models.signed(state)).items():
            if len(frozenset().union(*parcels.values())) < state.quorum:
                continue
            missing: GalaxyError | None = None
            is_locked_out = False
            # Most signers first: they have opened it, and who leaves somebody out may post many.
            for parcel in sorted(parcels, key=lambda one: (-len(parcels[one]), one)):
                try:
                    data = await models.carried(state, model, parcel, model_bytes=facts.weights_bytes)
                except (BlobMissing, BlobDamaged) as error:
                    missing = error
                    continue
                if data is not None:
                    return model, data
                is_locked_out = True
            # Who leaves somebody out may also sign for a parcel that nobody has.
            if is_locked_out:
                presence = PresenceBoard(self.site, board, terms, state.job_id)
                await presence.tell(state.round_index, LOCKED_OUT)
            if missing is not None:
                raise missing
            raise QuorumMissing("no parcel of the round's model opens for us", where=f"job {state.job_id}")
        return None

    async def _sealed_update(
        self,
        terms: Terms,
        job_id: int,
        round_index: int,
        dataset: str,
        state_bytes: bytes,
        keys: Sequence[bytes],
    ) -> bytes:
        graph, facts = await self._graph(job_id, terms)
        rows = encode_rows(terms.schema, self.shelf.columns(dataset))
        update = await self.trainer.train(
            graph,
            state_bytes,
            terms,
            rows,
            round_index=round_index,
            data_owner=self.site.address,
        )
        if terms.privacy == "masked":
            model = blake3_digest(state_bytes)
            return self._masked_body(
                terms, facts.cost.parameters, job_id, round_index, model, update[0], keys
            )
        body = encode_body(job_id, round_index, self.site.address, update, terms.plan.bits)
        context = assembly.round_context(self.site, job_id, round_index, "update", self.site.address)
        return seal(body, keys, context, entropy=self.site.entropy)

    def _masked_body(
        self,
        terms: Terms,
        parameters: int,
        job_id: int,
        round_index: int,
        model: Digest,
        update: NDArray[np.int32],
        keys: Sequence[bytes],
    ) -> bytes:
        """The update under a mask that nobody knows, with a share of the mask's seed for each evaluator."""
        plan = masking_plan(terms, parameters)
        masked = mask_update(
            plan,
            assembly.mask_seed(self.site, job_id, round_index, model),
            update,
            entropy=self.site.entropy,
        )
        shares = [
            seal(
                share,
                [key],
                assembly.round_context(
                    self.site, job_id, round_index, assembly.share_kind(seat), self.site.address
                ),
                entropy=self.site.entropy,
            )
            for seat, (share, key) in enumerate(zip(masked.shares, keys, strict=True))
        ]
        return encode(
            MaskedBody(
                job_id=job_id,
                round_index=round_index,
                data_owner=self.site.address,
                masked=masked.body,
                shares=tuple(shares),
            )
        )

    def _tell(self, job_id: int, step: str, detail: str) -> None:
        """Report each step once."""
        if self._told.get(job_id) != f"{step} {detail}":
            self._told[job_id] = f"{step} {detail}"
            self.site.report(Progress(job_id, f"data owner {self.site.address}", step, {"detail": detail}))
