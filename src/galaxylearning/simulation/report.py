"""What came of a run, for people and programs: who did what, what it was worth, and what it earned.

Pure data; whoever prints it decides how amounts look.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from galaxylearning.learning.accounting import epsilon
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.privacy import models_release, release_of
from galaxylearning.simulation.history import STATUS_NAMES, EndReason, History, RunInfo

FORMAT: Final = "galaxy-report-1"
OWNER_COLUMNS: Final = (
    "name",
    "does",
    "rows",
    "accepted",
    "rejected",
    "malformed",
    "absent",
    "dropped",
    "value",
    "± error",
    "pay",
    "share",
)
BEHAVIOUR_COLUMNS: Final = ("does", "identities", "who", "accepted", "value each", "pay", "share")
MEASURED: Final = (
    "rows,identities,accepted,rejected,malformed,absent,dropped,value,± error,value each,pay,share"
)
"""Columns of numbers, parted by commas: they are aligned to the right."""

NAMES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """One identity. ``value`` is what it is paid for, ``error`` its standard error, both in units of the loss
    per hidden sample over all rounds; ``pay`` are smallest units.

    The statuses count rounds; ``share`` in 0..1 is of all that was paid; ``played_by`` is the position of the
    data owner behind the identity: another one for a Sybil's further names.
    """

    position: int
    name: str
    behaviour: str
    played_by: int
    rows: int
    accepted: int
    rejected: int
    malformed: int
    absent: int
    dropped: int
    value: float
    error: float
    pay: int
    share: float


@dataclass(frozen=True, slots=True)
class BehaviourRow:
    """All identities with one behaviour: ``accepted`` is the part of their rounds, ``value`` the mean."""

    behaviour: str
    names: tuple[str, ...]
    accepted: float
    value: float
    pay: int
    share: float


@dataclass(frozen=True, slots=True)
class PrivacyFacts:
    """What noise came to over the rounds that were run, at ``delta``.

    ``epsilon_least`` and ``epsilon_most`` are those of the data owners with the most and the fewest rows;
    with central noise they are one. ``epsilon_of_models`` is for who sees only models, where that is bounded.
    """

    kind: str
    delta: float
    epsilon_least: float
    epsilon_most: float
    epsilon_of_models: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """``owners`` and ``behaviours`` come with the best paid first, then by value.

    ``utility`` and values are in ``value_unit`` per hidden sample.
    """

    job: str
    reason: EndReason
    rounds: int
    value_unit: str
    utility: float | None
    accuracy: float | None
    best_round: int | None
    bounty: int
    paid: int
    owners: tuple[OwnerRow, ...]
    behaviours: tuple[BehaviourRow, ...]
    privacy: PrivacyFacts | None = None

    def to_document(self) -> dict[str, Any]:
        """For JSON: amounts are decimal strings of smallest units."""
        document = {"format": FORMAT, **asdict(self)}
        document["bounty"], document["paid"] = str(self.bounty), str(self.paid)
        for row in (*document["owners"], *document["behaviours"]):
            row["pay"] = str(row["pay"])
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Report:
        """Read ``to_document`` back; ``ValueError`` or ``KeyError`` for anything else."""
        if document["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}")
        fields = {name: document[name] for name in cls.__dataclass_fields__ if name != "privacy"}
        told = document.get("privacy")
        fields["privacy"] = None if told is None else PrivacyFacts(**told)
        fields["bounty"], fields["paid"] = int(document["bounty"]), int(document["paid"])
        fields["owners"] = tuple(OwnerRow(**{**row, "pay": int(row["pay"])}) for row in document["owners"])
        fields["behaviours"] = tuple(
            BehaviourRow(**{**row, "names": tuple(row["names"]), "pay": int(row["pay"])})
            for row in document["behaviours"]
        )
        return cls(**fields)

    def to_json(self) -> str:
        """``to_document`` as text."""
        return json.dumps(self.to_document(), allow_nan=False)

    def to_csv(self) -> str:
        """One line for each identity, in order of position, under the fields' names."""
        text = io.StringIO()
        rows = [asdict(row) for row in sorted(self.owners, key=lambda row: row.position)]
        writer = csv.DictWriter(text, list(OwnerRow.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def make_report(
    info: RunInfo,
    history: History,
    *,
    rows: Sequence[int] | I64,
    values: F64,
    errors: F64,
    pays: Sequence[int],
    bounty: int,
    reason: EndReason = "finished",
    played_by: Sequence[int] | I64 | None = None,
    privacy: PrivacyFacts | None = None,
) -> Report:
    """Put a run's outcome together; all sequences have one entry for each identity of ``info``.

    ``values`` are those that are paid for, with their standard errors, per hidden sample.

    Raises:
        ValueError: sequences of different lengths.
    """
    count = len(info.owners)
    behind = range(count) if played_by is None else [int(position) for position in played_by]
    tally = history.tally()
    paid = sum(pays)
    owners = tuple(
        OwnerRow(
            position=position,
            name=name,
            behaviour=behaviour,
            played_by=who,
            rows=int(n_rows),
            **dict(zip(STATUS_NAMES, counts, strict=True)),
            value=value,
            error=error,
            pay=int(pay),
            share=_share(int(pay), paid),
        )
        for position, (name, behaviour, who, n_rows, counts, value, error, pay) in enumerate(
            zip(
                info.owners,
                info.behaviours,
                behind,
                rows,
                tally.tolist(),
                values.tolist(),
                errors.tolist(),
                pays,
                strict=True,
            )
        )
    )
    last, best = (history.rounds[-1], history.best()) if history.rounds else (None, None)
    return Report(
        job=info.job,
        reason=reason,
        rounds=len(history),
        value_unit=info.value_unit,
        utility=None if last is None else last.utility,
        accuracy=None if last is None else last.accuracy,
        best_round=None if best is None else best.round_index,
        bounty=bounty,
        paid=paid,
        owners=tuple(sorted(owners, key=lambda row: (-row.pay, -row.value, row.position))),
        behaviours=_by_behaviour(owners, len(history), paid),
        privacy=privacy,
    )


def privacy_facts(plan: Plan, counts: I64, rounds: int) -> PrivacyFacts | None:
    """What the plan's noise comes to for owners of ``counts`` int64[K] rows; None without noise."""
    if plan.noise is None:
        return None
    delta, models = plan.noise.delta, models_release(plan)
    found = [release_of(plan, int(size)) for size in (counts.max(), counts.min())]
    least, most = (epsilon([(one, rounds)] if one is not None else [], delta) for one in found)
    return PrivacyFacts(
        kind=plan.noise.kind,
        delta=delta,
        epsilon_least=min(least, most),
        epsilon_most=max(least, most),
        epsilon_of_models=None if models is None else epsilon([(models, rounds)], delta),
    )


def folded(report: Report, most: int) -> Iterator[OwnerRow | None]:
    """The owners' rows; of more than ``most`` the first and the last halves, with None between them."""
    rows = report.owners
    if len(rows) <= most:
        yield from rows
        return
    yield from rows[: (most + 1) // 2]
    yield None
    yield from rows[len(rows) - most // 2 :]


def owner_table(
    report: Report, *, fold: int = 40, money: Callable[[int], str] = str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names and rows of text; of more than ``fold`` identities only the best and the worst paid.

    A row with dots stands for those left out; ``money`` writes an amount.
    """
    blank = [""] * (len(OWNER_COLUMNS) - 1)
    return OWNER_COLUMNS, [
        (f"… {len(report.owners) - fold:,} more", *blank) if row is None else _owner_cells(row, money)
        for row in folded(report, fold)
    ]


def behaviour_table(
    report: Report, *, money: Callable[[int], str] = str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names and one row of text for every behaviour, the best paid first."""
    return BEHAVIOUR_COLUMNS, [
        (
            row.behaviour,
            f"{len(row.names):,}",
            _some(row.names),
            f"{row.accepted:.0%}",
            f"{row.value:+.5f}",
            money(row.pay),
            f"{row.share:.1%}",
        )
        for row in report.behaviours
    ]


def _owner_cells(row: OwnerRow, money: Callable[[int], str]) -> tuple[str, ...]:
    counts = (row.rows, row.accepted, row.rejected, row.malformed, row.absent, row.dropped)
    return (
        row.name,
        row.behaviour,
        *(f"{count:,}" for count in counts),
        f"{row.value:+.5f}",
        f"{row.error:.5f}",
        money(row.pay),
        f"{row.share:.1%}",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN:,} more"


def _by_behaviour(owners: Sequence[OwnerRow], rounds: int, paid: int) -> tuple[BehaviourRow, ...]:
    groups: dict[str, list[OwnerRow]] = {}
    for row in owners:
        groups.setdefault(row.behaviour, []).append(row)
    found = (_behaviour_row(behaviour, rows, rounds, paid) for behaviour, rows in groups.items())
    return tuple(sorted(found, key=lambda row: (-row.pay, -row.value, row.behaviour)))


def _behaviour_row(behaviour: str, rows: Sequence[OwnerRow], rounds: int, paid: int) -> BehaviourRow:
    pay = sum(row.pay for row in rows)
    return BehaviourRow(
        behaviour=behaviour,
        names=tuple(row.name for row in rows),
        accepted=sum(row.accepted for row in rows) / max(1, rounds * len(rows)),
        value=float(np.mean([row.value for row in rows])),
        pay=pay,
        share=_share(pay, paid),
    )


def _share(pay: int, paid: int) -> float:
    return pay / paid if paid else 0.0
