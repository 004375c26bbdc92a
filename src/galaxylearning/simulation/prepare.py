"""From a job and a description of its data owners to everything a run needs; nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest, checksummed
from galaxylearning.engines.cohort import Cohort
from galaxylearning.errors import ConfigRefused
from galaxylearning.messages.plan import MIN_SUM, Plan
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.hidden_set import MIN_TEST_ROWS, Rows
from galaxylearning.protocol.job import CompiledJob, Job, compile_job, terms_of
from galaxylearning.simulation.availability import Availability, parse_availability
from galaxylearning.simulation.behaviours import Cast, enlist, parse_assignments
from galaxylearning.simulation.partition import parse_partitioner
from galaxylearning.simulation.settings import Simulation
from galaxylearning.simulation.sources import load_rows, owners_from
from galaxylearning.units import TOKEN_DECIMALS, Address, Digest

_NOBODY: Final = Digest(bytes(32))
_HALVES, _WHO = 0x4A1F, 0x0B0D

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A job that can be run: compiled, with its cast and who is there when.

    ``raw`` gives the columns of one identity as its file would hold them; ``source`` says where its rows are
    from.
    """

    compiled: CompiledJob
    terms: Terms
    cast: Cast
    availability: Availability
    settings: Simulation
    raw: Callable[[int], Columns]
    source: str
    names: tuple[str, ...]
    notes: tuple[str, ...]
    """What is otherwise than in the job as posted."""


def account(position: int) -> Address:
    """The account that stands for an identity where there is no chain."""
    return made_up(position + 1)


def made_up(number: int) -> Address:
    """The account of that number, which nobody has a key of."""
    return checksummed(f"{number:040x}")


def prepare(job: Job, settings: Simulation, *, test: tuple[Rows, Columns]) -> Prepared:
    """Compile ``job`` for its data owners, deal out their rows, give them their behaviours.

    ``test`` are the rows and columns of the job's test set.

    Raises:
        GalaxyError: a file, the model, a partition, behaviour or trace is not acceptable.
    """
    cohort, columns, hidden, source = _cohort(job, settings, test)
    rng = np.random.default_rng([job.seed, _WHO])
    assignments = parse_assignments(settings.behaviours, owners=len(cohort), rng=rng)
    everybody = enlist(cohort, assignments, seed=job.seed)
    everybody = replace(everybody, cohort=replace(everybody.cohort, identities=range(1, len(everybody) + 1)))
    count, plan = len(everybody), job.plan
    _check_sums(job, settings, count)
    notes = _notes(plan, count)
    plan = msgspec.structs.replace(plan, maximum_owners=count, minimum_owners=min(plan.minimum_owners, count))
    compiled = compile_job(replace(job, plan=plan), hidden)
    for entry in compiled.graph.state:
        if entry.federate == "keep_local":
            raise ConfigRefused(
                f"the buffer {entry.name} stays with its data owner, and no engine keeps state for each; "
                "let it federate by mean or skip it to simulate the job",
                where="federate",
            )
    availability = settings.availability
    if isinstance(availability, str):
        availability = parse_availability(availability)
    base = cohort

    def raw(position: int) -> Columns:
        who = int(everybody.played_by[position])
        rows = base.index[base.offsets[who] : base.offsets[who + 1]]
        return {name: values[rows] for name, values in columns.items()}

    return Prepared(
        compiled,
        terms_without_chain(compiled),
        everybody,
        availability,
        settings,
        raw,
        source,
        _names(everybody),
        notes,
    )


def _check_sums(job: Job, settings: Simulation, count: int) -> None:
    """Refuse rounds in which no sum could be opened: nothing would ever be learnt."""
    drawn = count if settings.per_round is None else min(count, settings.per_round)
    if job.privacy == "masked" and drawn < MIN_SUM:
        raise ConfigRefused(
            f"{drawn} data owners in a round; allowed: at least {MIN_SUM} with privacy 'masked', for a sum "
            "is opened over no fewer",
            where="owners" if count < MIN_SUM else "per_round",
        )


def _notes(plan: Plan, count: int) -> tuple[str, ...]:
    """Where the job as posted would have other data owners than the simulation."""
    here = f"{count:,} data owners are simulated; the job as posted"
    if count > plan.maximum_owners:
        return (f"{here} takes {plan.maximum_owners:,} at most",)
    if count < plan.minimum_owners:
        return (f"{here} begins with {plan.minimum_owners:,}",)
    return ()


def terms_without_chain(compiled: CompiledJob, *, seats: int = 3) -> Terms:
    """The terms the job would be posted under with so many evaluators, with nobody's accounts in them.

    Raises:
        JobRefused, ConfigRefused: as ``terms_of``.
    """
    return terms_of(
        compiled,
        requester=made_up(1 << 151),
        requester_key=_NOBODY,
        evaluators=[(made_up(1 << 150 | seat), _NOBODY) for seat in range(seats)],
        token=made_up(1 << 152),
        decimals=TOKEN_DECIMALS,
        model_blob=_NOBODY,
        test_blob=_NOBODY,
        test_digest=_NOBODY,
    )


def fingerprint(prepared: Prepared, engine: str) -> str:
    """Of all that decides a run's course but its number of rounds: hexadecimal BLAKE3."""
    terms, cohort = prepared.terms, prepared.cast.cohort
    plan = msgspec.structs.replace(terms.plan, rounds=1)
    parts = [
        msgspec.json.encode(
            [plan, terms.price, terms.seed, terms.graph, terms.model_digest, terms.loss, engine]
        ),
        repr((prepared.availability, prepared.settings.per_round, prepared.settings.window)).encode(),
        repr(prepared.cast.labels).encode(),
    ]
    arrays = [cohort.pool.inputs, cohort.pool.labels, cohort.index, cohort.offsets, prepared.cast.played_by]
    arrays += [prepared.compiled.test.inputs, prepared.compiled.test.labels]
    digests = [blake3_digest(part) for part in parts]
    digests += [blake3_digest(np.ascontiguousarray(array).tobytes()) for array in arrays]
    return blake3_digest(b"".join(digests)).hex()


def _cohort(job: Job, settings: Simulation, test: tuple[Rows, Columns]) -> tuple[Cohort, Columns, Rows, str]:
    """Who has which rows, the columns as they were, the hidden test set, and where rows are from."""
    data, label = settings.data, job.schema.label.name
    if data is None:
        hidden, given = _halves(len(test[0]), job.seed)
        cohort, columns = _partitioned(settings, test[0], test[1], given, label, job.seed)
        return cohort, columns, test[0].take(hidden), "half of the test set; the other half stays hidden"
    if isinstance(data, str | Path | Rows):
        pool, columns = _read(data, job)
        order = np.random.default_rng([job.seed, _HALVES]).permutation(len(pool)).astype(np.int64)
        cohort, columns = _partitioned(settings, pool, columns, order, label, job.seed)
        return cohort, columns, test[0], "rows in memory" if isinstance(data, Rows) else str(data)
    found = [_read(one, job) for one in data]
    cohort = Cohort.of([rows for rows, _ in found])
    together = {name: np.concatenate([columns[name] for _, columns in found]) for name in found[0][1]}
    return cohort, together, test[0], f"{len(found):,} sets of rows"


def _read(data: str | Path | Rows, job: Job) -> tuple[Rows, Columns]:
    """Rows and columns of a file; rows in memory have only their labels as a column."""
    if isinstance(data, Rows):
        return data, {job.schema.label.name: data.labels}
    return load_rows(Path(data), job.schema)


def _halves(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if count < 2 * MIN_TEST_ROWS:
        raise ConfigRefused(
            f"the test set has {count} rows; {2 * MIN_TEST_ROWS} are needed to deal half of them out. Name a "
            "file with the data owners' rows",
            where="data",
        )
    order = np.random.default_rng([seed, _HALVES]).permutation(count).astype(np.int64)
    return np.sort(order[: count // 2]), order[count // 2 :]


def _partitioned(
    settings: Simulation, rows: Rows, columns: Columns, order: NDArray[np.int64], label: str, seed: int
) -> tuple[Cohort, Columns]:
    """Deal out the rows with the numbers ``order``, in that order, so that no file's own order matters."""
    partitioner = settings.partitioner
    if isinstance(partitioner, str):
        has_seed = "seed=" in partitioner
        partitioner = parse_partitioner(
            partitioner, num_partitions=settings.owners, partition_by=settings.partition_by or label
        )
        if not has_seed and hasattr(partitioner, "seed"):
            partitioner = replace(cast("Any", partitioner), seed=seed)
    ordered = {name: values[order] for name, values in columns.items()}
    return owners_from(rows.take(order), ordered, partitioner), ordered


def _names(cast: Cast) -> tuple[str, ...]:
    """``owner-07`` by position; another name of the same data owner is ``owner-07/2``."""
    first = len(cast) - int((np.arange(len(cast)) != cast.played_by).sum())
    width = len(str(max(1, first - 1)))
    seen: dict[int, int] = {}
    names = []
    for who in cast.played_by.tolist():
        seen[who] = seen.get(who, 0) + 1
        names.append(f"owner-{who:0{width}d}" + (f"/{seen[who]}" if seen[who] > 1 else ""))
    return tuple(names)
