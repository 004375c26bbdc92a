"""``simulate``: a job and its data owners in, a result out; with or without a chain."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from galaxylearning.contribution import FixedPointUtility, from_fixed
from galaxylearning.errors import ConfigRefused
from galaxylearning.messages.fields import shown
from galaxylearning.messages.terms import CLASS_LOSSES, loss_unit
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import Job
from galaxylearning.simulation.callbacks import Callbacks
from galaxylearning.simulation.history import History, OwnerStatus, RoundRecord, RunEnd, RunInfo
from galaxylearning.simulation.players import Players
from galaxylearning.simulation.prepare import Prepared, prepare
from galaxylearning.simulation.report import make_report, privacy_facts
from galaxylearning.simulation.result import SimulationResult
from galaxylearning.simulation.run import (
    Attendance,
    OnRound,
    Options,
    Run,
    Tell,
    chosen_engine,
)
from galaxylearning.simulation.settings import Simulation
from galaxylearning.simulation.settled import money_notes, settled_values
from galaxylearning.storage.job_file import JobFile, read_job_file, read_test_set
from galaxylearning.units import Address, how_many

if TYPE_CHECKING:
    from galaxylearning.nodes.site import Progress
    from galaxylearning.simulation.chain_run import ChainRun

EMBEDDED: Final = "embedded:"
_STATUS: Final[Mapping[str, OwnerStatus]] = {
    "accepted": OwnerStatus.ACCEPTED,
    "rejected": OwnerStatus.REJECTED,
    "malformed": OwnerStatus.MALFORMED,
    "absent": OwnerStatus.ABSENT,
}


def simulate(
    job: Job | str | Path,
    owners: Simulation | int | Sequence[Rows] | None = None,
    *,
    chain: str = "",
    rounds: int | None = None,
    seed: int | None = None,
    options: Options | None = None,
    tell: Tell | None = None,
    on_round: OnRound | None = None,
) -> SimulationResult:
    """Train, judge and pay simulated data owners exactly as the job would.

    Args:
        job: a ``Job``, or the path of a job file.
        owners: a ``Simulation``; or how many, each with an equal part of the rows; or their rows. Left out,
            the job file's ``simulation``, else ten owners that share half of the test set.
        chain: ``"embedded:"`` plays the whole protocol on a chain of its own, in virtual time.
        rounds, seed: instead of the job's.
        options: engine, memory, checkpoints, callbacks.
        tell: is given a line of text for each step.
        on_round: is given every round's record and the number of rounds.

    Raises:
        GalaxyError: something about job, data or options is not acceptable, or the run failed.
    """
    options = options or Options()
    _check_chain(chain, options)
    if isinstance(job, Job):
        settings, test = Simulation(), read_test_set(job)
    else:
        file = read_job_file(Path(job))
        job, settings, test = file.job, _settings_in(file), (file.test, file.columns)
    if isinstance(owners, Simulation):
        settings = owners
    elif isinstance(owners, int):
        settings = replace(settings, owners=owners)
    elif owners is not None:
        settings = replace(settings, data=_rows_in(owners), behaviours=())
    job = _changed(job, rounds, seed)
    prepared = prepare(job, settings, test=test)
    return _play(prepared, chain, options, tell or _silent, on_round or _unwatched)


def _rows_in(owners: object) -> tuple[Rows, ...]:
    """``owners`` as the rows of each; what is in it is checked by ``Simulation``."""
    if isinstance(owners, str) or not isinstance(owners, Sequence):
        raise ConfigRefused(
            f"{shown(owners)} given; allowed: a Simulation, a number of data owners, or a list of their rows",
            where="owners",
        )
    return tuple(owners)


def simulate_file(
    path: Path,
    changes: Mapping[str, Any],
    *,
    chain: str = "",
    rounds: int | None = None,
    seed: int | None = None,
    options: Options,
    tell: Tell,
    on_round: OnRound,
) -> SimulationResult:
    """``simulate`` for a job file, with some fields of its ``simulation`` changed.

    Raises:
        GalaxyError: as ``simulate``.
    """
    _check_chain(chain, options)
    file = read_job_file(path)
    job = _changed(file.job, rounds, seed)
    settings = replace(_settings_in(file), **changes)
    prepared = prepare(job, settings, test=(file.test, file.columns))
    return _play(prepared, chain, options, tell, on_round)


def _check_chain(chain: str, options: Options) -> None:
    """Refuse a chain that cannot be played, before anything is compiled."""
    if chain not in ("", EMBEDDED):
        raise ConfigRefused(f"{chain[:60]!r} given; allowed: {EMBEDDED} or nothing", where="chain")
    if chain and (options.resume or options.compare or options.patience is not None):
        raise ConfigRefused(
            "not with a chain: a posted job runs to its end", where="resume, patience, compare"
        )


def _changed(job: Job, rounds: int | None, seed: int | None) -> Job:
    if rounds is not None:
        job = replace(job, plan=msgspec.structs.replace(job.plan, rounds=rounds))
    return job if seed is None else replace(job, seed=seed)


def _play(
    prepared: Prepared, chain: str, options: Options, tell: Tell, on_round: OnRound
) -> SimulationResult:
    tell(_described(prepared))
    if chain:
        return _on_chain(prepared, options, tell, on_round)
    engine = chosen_engine(prepared, options, tell)
    with ExitStack() as stack:
        stack.callback(engine.close)
        run = Run(prepared, options, engine)
        stack.callback(run.close)
        return run.go(tell, on_round)


def _settings_in(file: JobFile) -> Simulation:
    """What a job file set as ``simulation``, its paths made absolute."""
    found = file.names.get("simulation")
    if found is None:
        return Simulation()
    if not isinstance(found, Simulation):
        raise ConfigRefused("must be a galaxylearning.Simulation", where="simulation")
    if found.data is None:
        return found
    if isinstance(found.data, str | Path):
        return replace(found, data=file.folder / found.data)
    if isinstance(found.data, Rows):
        return found
    return replace(found, data=tuple(x if isinstance(x, Rows) else file.folder / x for x in found.data))


def _described(prepared: Prepared) -> str:
    count, counts = len(prepared.cast), prepared.cast.cohort.counts
    parameters, hidden = prepared.compiled.model.parameter_count, len(prepared.compiled.test)
    return (
        f"{how_many(count, 'data owner')}, {int(counts.min()):,} to {how_many(int(counts.max()), 'row')} "
        f"each, from {prepared.source}; {how_many(parameters, 'parameter')}; {how_many(hidden, 'hidden row')}"
    )


def _on_chain(prepared: Prepared, options: Options, tell: Tell, on_round: OnRound) -> SimulationResult:
    import anyio

    schema = prepared.terms.schema
    wanted = {column.name for column in schema.features} | {field.name for field in schema.arrays}
    if not wanted <= set(prepared.raw(0)):
        raise ConfigRefused("must be files with a chain: nodes read columns", where="data")
    from galaxylearning.simulation.chain_run import run_on_chain

    start = time.monotonic()
    engine = chosen_engine(prepared, options, tell)
    attendance = Attendance(prepared)
    watch = _Watch(prepared, tell)
    info = _info(prepared, engine.name)
    with ExitStack() as stack:
        stack.callback(engine.close)
        callbacks = stack.enter_context(closing(Callbacks(options.callbacks)))
        callbacks.on_start(info)
        with tempfile.TemporaryDirectory(prefix="galaxy-simulation-") as folder:

            async def play() -> ChainRun:
                return await run_on_chain(
                    prepared.compiled,
                    Players(prepared.cast, engine, prepared.terms.plan, seed=prepared.terms.seed),
                    prepared.names,
                    prepared.raw,
                    senders=attendance.senders,
                    delays=attendance.delays,
                    window=prepared.settings.window,
                    folder=Path(folder),
                    entropy=os.urandom,
                    report=watch,
                )

            found = anyio.run(play)
        history = _history(prepared, found, attendance, watch.seconds)
        for record in history.rounds:
            callbacks.on_round(record)
            on_round(record, info.rounds)
        callbacks.on_end(RunEnd("finished", history, tuple(found.payouts)))
    return _chain_result(prepared, info, found, history, engine.name, time.monotonic() - start)


def _info(prepared: Prepared, engine: str) -> RunInfo:
    return RunInfo(
        job=prepared.terms.title,
        owners=prepared.names,
        behaviours=prepared.cast.labels,
        rounds=prepared.terms.plan.rounds,
        value_unit=loss_unit(prepared.terms.loss),
        settings={"engine": engine, "seed": prepared.terms.seed, "data": prepared.source},
    )


class _Watch:
    """Tells of the protocol's steps, each once, and takes the rounds' times.

    A round lasts, in real time, from the last enrolment or the round before until its model is known.
    """

    def __init__(self, prepared: Prepared, tell: Tell) -> None:
        self._tell, self._rounds = tell, prepared.terms.plan.rounds
        self._seen: set[tuple[str, object]] = set()
        self._since = time.monotonic()
        self.seconds: list[float] = []

    def __call__(self, progress: Progress) -> None:
        if progress.step == "enrolled":
            self._since = time.monotonic()
        key = (progress.step, progress.facts.get("round_index"))
        if progress.step in ("enrolled", "update sent", "job settled") or key in self._seen:
            return
        self._seen.add(key)
        if progress.step == "round federated":
            before, self._since = self._since, time.monotonic()
            self.seconds.append(self._since - before)
        from galaxylearning.nodes.site import told

        self._tell(f"{progress.actor}: {progress.step}  {told(progress.facts)}".rstrip())


def _history(
    prepared: Prepared, found: ChainRun, attendance: Attendance, seconds: Sequence[float]
) -> History:
    """The rounds of the settled score table and how long each took, identities in the cast's order."""
    places = {who: position for position, who in enumerate(found.accounts)}
    count, table = len(found.accounts), found.table
    utility = FixedPointUtility()
    rows = len(prepared.compiled.test)
    records = []
    for scores, took_s in zip(table.rounds, seconds, strict=True):
        statuses = np.zeros(count, np.int8)
        values, errors = np.zeros(count), np.zeros(count)
        for owner in scores.owners:
            place = places[Address(owner.data_owner)]
            statuses[place] = _STATUS[owner.status]
            if owner.status == "accepted":
                values[place], errors[place] = from_fixed(owner.value), from_fixed(owner.standard_error)
        late = np.setdiff1d(attendance.drawn(scores.round_index), attendance.senders(scores.round_index))
        statuses[late] = OwnerStatus.DROPPED
        records.append(
            RoundRecord(
                round_index=scores.round_index,
                utility=utility.to_loss(scores.utility_after) / prepared.terms.paying_rows,
                accuracy=scores.correct / rows if prepared.terms.loss in CLASS_LOSSES else None,
                seconds=took_s,
                statuses=statuses,
                values=values,
                errors=errors,
            )
        )
    return History(count, tuple(records))


def _chain_result(
    prepared: Prepared, info: RunInfo, found: ChainRun, history: History, engine: str, seconds: float
) -> SimulationResult:
    names = dict(zip(found.accounts, prepared.names, strict=True))
    params, buffers = found.model
    values, errors = settled_values(found.table, found.accounts)
    return SimulationResult(
        report=make_report(
            info,
            history,
            rows=prepared.cast.cohort.counts,
            values=values,
            errors=errors,
            pays=found.payouts,
            bounty=int(found.terms.price.bounty),
            played_by=prepared.cast.played_by,
            privacy=privacy_facts(prepared.terms.plan, prepared.cast.cohort.counts, len(history)),
        ),
        history=history,
        params=params,
        buffers=buffers,
        model=found.model_bytes,
        best_model=None,
        model_digest=found.state.model_digest.hex(),
        engine=engine,
        source=prepared.source,
        twins=tuple(tuple(names[Address(who)] for who in group) for group in found.table.twins),
        refunded=found.state.refunded,
        fees=found.state.fees_paid,
        seconds=seconds,
        chain={
            "kind": EMBEDDED,
            "audit": found.audit.verdict,
            "checks": len(found.audit.findings),
            "problems": [str(problem.problem) for problem in found.audit.problems],
            "data_owner_transactions": found.transactions,
        },
        notes=prepared.notes
        + money_notes(
            prepared.terms, prepared.compiled.model.parameter_count, found.table, sum(found.payouts)
        ),
    )


def _silent(_line: str) -> None:
    """Nobody listens."""


def _unwatched(_record: RoundRecord, _rounds: int) -> None:
    """Nobody watches."""
