"""A simulated job from its first round to who is paid what, with the protocol's own arithmetic.

Without a chain the evaluators' computation is called directly; with one, ``chain_run`` plays the protocol.
Both train the same players.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from galaxylearning.contribution import MAX_PLAYERS, FixedPointUtility
from galaxylearning.contribution.sketch import SKETCH_SIZE
from galaxylearning.engines.choose import check_engine, choose_engine
from galaxylearning.engines.cores import usable_cores
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.engines.memory import MIB, available_mib, process_rss_mib, require_budget
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning import UpdateMatrix
from galaxylearning.learning.vectors import F32, F64, I64
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import CLASS_LOSSES, loss_unit
from galaxylearning.protocol.hidden_set import SCORE_BLOCKS, HiddenSet
from galaxylearning.protocol.outcomes import ModelState, RoundOutcome
from galaxylearning.protocol.privacy import example_noise
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.scoring import owed, score_table
from galaxylearning.protocol.updates import local_plan
from galaxylearning.simulation.callbacks import Callback, Callbacks
from galaxylearning.simulation.checkpoint import CheckpointFolder, read_checkpoint
from galaxylearning.simulation.history import EndReason, History, OwnerStatus, RoundRecord, RunEnd, RunInfo
from galaxylearning.simulation.players import Played, Players
from galaxylearning.simulation.prepare import Prepared, account, fingerprint
from galaxylearning.simulation.references import Means, check_identities, check_names, reference_values
from galaxylearning.simulation.report import make_report, privacy_facts
from galaxylearning.simulation.result import SimulationResult
from galaxylearning.simulation.rounds_kept import pack, unpack
from galaxylearning.simulation.settled import money_notes, settled_values
from galaxylearning.units import Address

Tell: TypeAlias = Callable[[str], None]
OnRound: TypeAlias = Callable[[RoundRecord, int], None]
"""Told every round's record and how many rounds there will be."""

DEFAULT_MEMORY_MIB: Final = 4096
ENGINE_PART: Final = 0.75
"""Of what is left beside a round's own arrays; the rest is for what nobody counts."""
BYTES_AN_OWNER: Final = 2048
BYTES_A_ROUND: Final = 700
"""Names, decisions, scores: about what a run holds of each data owner, and of each in each round."""
_DRAWN: Final = 0xD7A3
_CODES: Final = np.array(
    [OwnerStatus.ACCEPTED, OwnerStatus.REJECTED, OwnerStatus.ABSENT, OwnerStatus.MALFORMED], np.int8
)
"""Status of a decision by its position in ``protocol.outcomes.STATUSES``."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a simulation is run, apart from who takes part.

    ``engine`` as in ``engines.choose``; ``memory_mib`` is for the whole process. ``patience`` rounds without
    a better model end the run. A checkpoint of every round goes to ``checkpoints``, a folder; with ``resume``
    those that are there are taken up. ``ray_address`` is of the cluster for the engine ``ray``; ``dump`` is
    where the engine ``debug`` writes the batch that failed. ``compare`` names values to set beside those that
    are paid.

    Raises:
        ConfigRefused: naming the field and what is allowed.
    """

    engine: str = "auto"
    workers: int | None = None
    memory_mib: float = DEFAULT_MEMORY_MIB
    patience: int | None = None
    checkpoints: Path | None = None
    resume: bool = False
    ray_address: str | None = None
    dump: Path | None = None
    compare: Sequence[str] = ()
    callbacks: Sequence[Callback] = field(default=())

    def __post_init__(self) -> None:
        check_engine(self.engine)
        check_names(self.compare)
        if self.patience is not None and self.patience < 1:
            raise ConfigRefused(f"{self.patience} given; allowed: 1 or more", where="patience")
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise ConfigRefused(f"{self.workers} given; allowed: 1 to 1024", where="workers")
        if self.resume and self.checkpoints is None:
            raise ConfigRefused("needs a folder of checkpoints", where="resume")
        if self.resume and self.compare:
            raise ConfigRefused("not with resume: checkpoints hold no updates", where="compare")


class Attendance:
    """Who takes part in a round: who is there, willing, drawn, and not too late."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._everybody = np.arange(len(prepared.cast), dtype=np.int64)

    def drawn(self, round_index: int) -> I64:
        """Positions of those that begin the round, ascending."""
        given, cast = self._prepared, self._prepared.cast
        behind = cast.played_by
        there = given.availability.present(round_index, behind) & ~cast.absent(round_index, self._everybody)
        found = self._everybody[there]
        wanted = given.settings.per_round
        if wanted is not None and wanted < len(found):
            rng = np.random.default_rng([given.terms.seed, round_index, _DRAWN])
            found = np.sort(rng.choice(found, wanted, replace=False))
        return found

    def delays(self, round_index: int) -> F64:
        """How long the round takes each, in multiples of the normal duration, f64[K]."""
        cast = self._prepared.cast
        return cast.delays * self._prepared.availability.delay(round_index, cast.played_by)

    def senders(self, round_index: int) -> I64:
        """Those of ``drawn`` whose update comes in time."""
        drawn = self.drawn(round_index)
        return drawn[self.delays(round_index)[drawn] <= self._prepared.settings.window]


@dataclass(slots=True)
class _Course:
    """A run while it goes on."""

    history: History
    state: ModelState
    """The model after the last round of the history."""
    best: tuple[int, F32, F32]
    """Utility, parameters and buffers of the best model."""
    waited: int = 0
    """Rounds since the best one."""


class Run:
    """One simulation without a chain; ``engine`` is closed at the end."""

    def __init__(self, prepared: Prepared, options: Options, engine: Engine) -> None:
        check_identities(options.compare, len(prepared.cast))
        self.prepared, self.options, self.engine = prepared, options, engine
        terms, compiled = prepared.terms, prepared.compiled
        self.accounts = tuple(account(position) for position in range(len(prepared.cast)))
        self._stack = ExitStack()
        threads = self._stack.enter_context(ThreadPoolExecutor(options.workers or usable_cores()))
        hidden = HiddenSet.split(compiled.test, seed=terms.seed)
        self.notes = self._left_out()
        self.job = JobComputation(
            terms,
            1,
            compiled.model,
            hidden,
            history="full" if options.compare else "none" if self.notes else "twins",
            spread=threads.map,
        )
        self.players = Players(prepared.cast, engine, terms.plan, seed=terms.seed)
        self.attendance = Attendance(prepared)
        self._fixed = FixedPointUtility()
        self._paying = len(hidden.paying)
        self._checkpoints: CheckpointFolder | None = None

    def close(self) -> None:
        """Let go of threads and the engine."""
        self.engine.close()
        self._stack.close()

    def _left_out(self) -> tuple[str, ...]:
        """Notes on what the budget does not allow: looking for twins."""
        plan, left = self.prepared.terms.plan, available_mib(self.options.memory_mib)
        parameters, count = self.prepared.compiled.model.parameter_count, len(self.prepared.cast)
        width = 2 if plan.bits <= 16 else 4
        most = min(count, self.prepared.settings.per_round or count)
        sketch = min(parameters, SKETCH_SIZE) * (width if parameters <= SKETCH_SIZE else 8)
        kept = plan.rounds * most * sketch / MIB
        if count > MAX_PLAYERS:
            return (f"twins are not looked for among more than {MAX_PLAYERS:,} identities",)
        if round_mib(self.prepared) + kept > left:
            return (f"twins are not looked for: that needs {kept:,.0f} MiB more than the budget leaves",)
        return ()

    # ---- rounds

    def go(
        self, tell: Callable[[str], None], on_round: Callable[[RoundRecord, int], None]
    ) -> SimulationResult:
        """Run to the end, or until nothing gets better, or until Ctrl-C; then settle.

        Raises:
            GalaxyError: the run cannot go on; the last checkpoint stays.
        """
        start, rounds = time.monotonic(), self.prepared.terms.plan.rounds
        course = self._begun(tell)
        info = self._info(len(course.history))
        callbacks = self._stack.enter_context(closing(Callbacks(self.options.callbacks)))
        callbacks.on_start(info)
        reason: EndReason = "finished"
        try:
            while len(course.history) < rounds and reason == "finished":
                record = self._round(course)
                callbacks.on_round(record)
                on_round(record, rounds)
                if self.options.patience is not None and course.waited >= self.options.patience:
                    reason = "stopped early"
        except KeyboardInterrupt:
            reason = "interrupted"
            # A round that was cut short never happened.
            del self.job.outcomes[len(course.history) :]
            self.job.state = course.state
        result = self._settled(course, info, reason, tell)
        result = replace(result, seconds=time.monotonic() - start)
        pays = tuple(row.pay for row in sorted(result.report.owners, key=lambda row: row.position))
        callbacks.on_end(RunEnd(reason, course.history, pays))
        return result

    def _begun(self, tell: Callable[[str], None]) -> _Course:
        params, buffers = self.job.state.params, self.job.state.buffers
        utility = self.job.judge.measured(self.job.state).utility
        course = _Course(History(len(self.accounts)), self.job.state, (utility, params, buffers))
        if self.options.checkpoints is None:
            return course
        self._checkpoints = CheckpointFolder(
            self.options.checkpoints, fingerprint(self.prepared, self.engine.name)
        )
        if not self.options.resume:
            self._checkpoints.clear()
            return course
        rounds = self.prepared.terms.plan.rounds
        while (found := self._checkpoints.load(len(course.history))) is not None:
            outcome, state, record = unpack(len(course.history), *found, self.accounts)
            self.job.outcomes.append(outcome)
            self.job.state = state
            self._note(course, record, outcome)
            if len(course.history) == rounds:
                break
        if rounds < (held := self._checkpoints.rounds()):
            raise ConfigRefused(
                f"{rounds} given, and the run to resume has {held} already; allowed: {held} or more, or no "
                "--resume, which begins anew in its place",
                where="rounds",
            )
        tell(f"resumed after round {len(course.history)}")
        return course

    def _round(self, course: _Course) -> RoundRecord:
        start, index, state = time.monotonic(), self.job.round_index, self.job.state
        drawn, senders = self.attendance.drawn(index), self.attendance.senders(index)
        played = self.players.play(state.params, state.buffers, senders, index, state.previous_step)
        outcome = self.job.advance_updates(
            UpdateMatrix(
                tuple(self.accounts[who] for who in played.owners.tolist()),
                played.parameters,
                played.buffers,
                self.prepared.terms.plan.bits,
            ),
            absent=self._silent(played),
            malformed={self.accounts[who]: reason for who, reason in played.malformed.items()},
        )
        record = self._record(outcome, np.setdiff1d(drawn, senders), time.monotonic() - start)
        if self._checkpoints is not None:
            header, arrays = pack(outcome, self.job.state, record, self.accounts)
            self._checkpoints.save(index, header | {"engine": self.engine.name}, arrays)
        self._note(course, record, outcome)
        return record

    def _silent(self, played: Played) -> list[Address]:
        sent = np.zeros(len(self.accounts), np.bool_)
        sent[played.owners] = True
        sent[np.fromiter(played.malformed, np.int64, len(played.malformed))] = True
        return [self.accounts[who] for who in np.flatnonzero(~sent).tolist()]

    def _record(self, outcome: RoundOutcome, late: I64, seconds: float) -> RoundRecord:
        """Accounts ascend with positions, so the outcome is in the order of positions."""
        statuses = _CODES[outcome.codes]
        statuses[late] = OwnerStatus.DROPPED
        after, rows = outcome.measured_after, len(self.prepared.compiled.test)
        return RoundRecord(
            round_index=outcome.round_index,
            utility=self._fixed.to_loss(after.utility) / self._paying,
            accuracy=after.correct / rows if self.prepared.terms.loss in CLASS_LOSSES else None,
            seconds=seconds,
            statuses=statuses,
            values=outcome.values,
            errors=outcome.errors,
        )

    def _note(self, course: _Course, record: RoundRecord, outcome: RoundOutcome) -> None:
        state = self.job.state
        course.history, course.state = course.history.plus(record), state
        course.waited += 1
        if outcome.measured_after.utility > course.best[0]:
            course.best = (outcome.measured_after.utility, state.params, state.buffers)
            course.waited = 0

    # ---- settlement

    def _info(self, first_round: int) -> RunInfo:
        prepared = self.prepared
        return RunInfo(
            job=prepared.terms.title,
            owners=prepared.names,
            behaviours=prepared.cast.labels,
            rounds=prepared.terms.plan.rounds,
            value_unit=loss_unit(prepared.terms.loss),
            first_round=first_round,
            settings={"engine": self.engine.name, "seed": prepared.terms.seed, "data": prepared.source},
        )

    def _settled(self, course: _Course, info: RunInfo, reason: EndReason, tell: Tell) -> SimulationResult:
        prepared, job = self.prepared, self.job
        table = score_table(job, self.accounts)
        pays = settle(prepared, table, self.accounts)
        bounty = int(prepared.terms.price.bounty)
        state, (_, best_params, best_buffers) = job.state, course.best
        model = job.model.state_bytes
        names = dict(zip(self.accounts, prepared.names, strict=True))
        values, errors = settled_values(table, self.accounts)
        return SimulationResult(
            report=make_report(
                info,
                course.history,
                rows=prepared.cast.cohort.counts,
                values=values,
                errors=errors,
                pays=pays,
                bounty=bounty,
                reason=reason,
                played_by=prepared.cast.played_by,
                privacy=privacy_facts(prepared.terms.plan, prepared.cast.cohort.counts, len(course.history)),
            ),
            history=course.history,
            params=state.params,
            buffers=state.buffers,
            model=model(state.params, state.buffers),
            best_model=model(best_params, best_buffers),
            model_digest=job.model_digest().hex(),
            engine=self.engine.name,
            source=prepared.source,
            twins=tuple(tuple(names[Address(who)] for who in group) for group in table.twins),
            refunded=bounty - sum(pays),
            fees=int(prepared.terms.price.fee_per_seat) * len(prepared.terms.evaluators),
            seconds=0.0,
            references=reference_values(
                prepared,
                job,
                self.options.compare,
                Means(
                    available_mib(self.options.memory_mib) / 2,
                    self.options.workers or usable_cores(),
                    tell,
                    on_ray=self.engine.name == "ray",
                    ray_address=self.options.ray_address,
                ),
            ),
            notes=prepared.notes
            + self.notes
            + money_notes(prepared.terms, job.model.parameter_count, table, sum(pays)),
        )


def settle(prepared: Prepared, table: ScoreTable, accounts: Sequence[Address]) -> tuple[int, ...]:
    """What each identity is paid for a score table all evaluators agree on, in smallest units."""
    _, amounts = owed(prepared.terms, [table])
    return tuple(amounts.get(who, 0) for who in accounts)


def round_mib(prepared: Prepared) -> float:
    """What a run takes beside its engine, in MiB: a round's updates, gradients, and records of owners."""
    plan, count = prepared.terms.plan, len(prepared.cast)
    parameters = prepared.compiled.model.parameter_count
    most = min(count, prepared.settings.per_round or count)
    updates = most * parameters * (2 if plan.bits <= 16 else 4)
    gradients = 3 * SCORE_BLOCKS * parameters * 8
    return (updates + gradients + count * (BYTES_AN_OWNER + plan.rounds * BYTES_A_ROUND)) / MIB


def chosen_engine(prepared: Prepared, options: Options, tell: Tell) -> Engine:
    """The engine for this cohort and machine.

    Raises:
        ConfigRefused: the engine cannot run this model, or not within the budget.
    """
    plan = prepared.terms.plan
    noise = example_noise(plan.noise) if plan.noise is not None and plan.noise.kind == "local" else None
    compiled, wanted, left = prepared.compiled, options.engine, available_mib(options.memory_mib)
    if not left:
        raise ConfigRefused(
            f"{options.memory_mib:g} MiB given; the libraries and the data take {process_rss_mib():.0f} MiB",
            where="memory_mib",
        )
    if options.resume and options.checkpoints is not None and wanted == "auto":
        # Engines differ in rounding: the run goes on with the one it began with.
        begun = read_checkpoint(options.checkpoints, 0)
        wanted = wanted if begun is None else str(begun[0].get("engine", wanted))
    needed = round_mib(prepared)
    what = (
        f"a round of {len(prepared.cast):,} owners' updates of {compiled.model.parameter_count:,} parameters"
    )
    require_budget(needed, left, what)
    return choose_engine(
        compiled.graph,
        compiled.model_bytes,
        prepared.cast.cohort,
        Training(local_plan(plan), prepared.terms.seed, noise),
        wanted=wanted,
        budget_mib=max(1.0, ENGINE_PART * (left - needed)),
        workers=options.workers,
        report=tell,
        address=options.ray_address,
        dump=options.dump,
        clip_norm=plan.clip_norm,
    )
