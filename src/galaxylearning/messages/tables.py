"""Score and payout tables: what every evaluator must derive byte for byte alike, and an auditor again.

Values are fixed point, 2^-40 units of the loss per sample of the hidden test set; utilities are the summed
fixed-point utility as the contribution layer gives it. Amounts are decimal strings of smallest units.
"""

from __future__ import annotations

from typing import Final, Literal

from galaxylearning.errors import MessageRefused
from galaxylearning.messages.checked import Checked
from galaxylearning.messages.fields import address_key, check_address, check_strictly_ascending, parse_amount
from galaxylearning.messages.wire import (
    Bytes32,
    Cosine,
    Count,
    Int64,
    JobNumber,
    Reason,
    Record,
    Uint32,
    check_ascending_addresses,
)
from galaxylearning.units import round_name

_HEAD_BYTES: Final = 1_024
_ROUND_BYTES: Final = 160
_LINE_BYTES: Final = 1_100
"""Of one data owner in one round or in the totals, at most: reasons may quote 200 characters of strangers."""


def table_bytes(data_owners: int, rounds: int) -> int:
    """The most bytes that an encoded score table of so many data owners and rounds can have.

    A payout table of so many payees, from 15 score tables at most, has fewer than one of no round.
    """
    return _HEAD_BYTES + rounds * _ROUND_BYTES + data_owners * (rounds + 1) * _LINE_BYTES


class OwnerScore(Checked, frozen=True, forbid_unknown_fields=True):
    """One data owner in one round. Only an accepted update has a weight, a value and a standard error.

    ``cosine`` is that of a well-formed update to the step on the hidden set, in parts of ``COSINE_UNIT``; 0
    where none was taken.
    """

    data_owner: str
    status: Literal["accepted", "rejected", "absent", "malformed"]
    reason: Reason
    weight: Uint32
    value: Int64
    standard_error: Count
    cosine: Cosine = 0

    def check(self) -> None:
        check_address(self.data_owner, "OwnerScore.data_owner")
        if self.status == "accepted" and self.weight == 0:
            raise MessageRefused("0; at least 1 allowed for an accepted update", where="OwnerScore.weight")
        if self.status != "accepted" and (self.weight, self.value, self.standard_error) != (0, 0, 0):
            raise MessageRefused(
                f"only 0 allowed for weight, value and standard error of status {self.status!r}",
                where="OwnerScore.value",
            )
        if self.status in ("absent", "malformed") and self.cosine:
            raise MessageRefused(
                f"only 0 allowed for the cosine of status {self.status!r}", where="OwnerScore.cosine"
            )


class RoundScores(Checked, frozen=True, forbid_unknown_fields=True):
    """One round: utility of the model before and after, correct predictions after, and every data owner.

    ``gain`` is what the round took off the loss along its step, in the unit of values; with novelty, what
    the owners' values do not hold of it is handed down in the totals. ``model_digest`` is the model that the
    round produced; its anchor on chain names the one it began with.
    """

    round_index: Uint32
    model_digest: Bytes32
    utility_before: Int64
    utility_after: Int64
    correct: Count
    owners: tuple[OwnerScore, ...]
    gain: Int64 = 0

    def check(self) -> None:
        check_ascending_addresses([score.data_owner for score in self.owners], "RoundScores.owners")


class OwnerTotal(Checked, frozen=True, forbid_unknown_fields=True):
    """One data owner's value over the whole job; ``reason`` where it is another than its rounds add up to."""

    data_owner: str
    value: Int64
    standard_error: Count
    reason: Reason = ""

    def check(self) -> None:
        check_address(self.data_owner, "OwnerTotal.data_owner")


class ShownShare(Checked, frozen=True, forbid_unknown_fields=True):
    """The share of a data owner's secret that an evaluator was dealt in a round: the envelope's content key.

    With more of them than the threshold an update opens: nobody is asked for one where liars could want it
    (``secagg.fault.is_certain``).
    """

    round_index: Uint32
    data_owner: str
    content_key: Bytes32

    def check(self) -> None:
        check_address(self.data_owner, "ShownShare.data_owner")


class ScoreTable(Record, frozen=True, forbid_unknown_fields=True, tag="score-table"):
    """One evaluator's scores of a whole job: rounds from 0, the cohort in each, twins, totals, final model.

    Rounds lists every round that was anchored; the owners of every round and of the totals are the cohort, in
    ascending order of address. ``twins`` are disjoint groups of two or more, ascending within and among them.

    ``shown`` is evidence of the one evaluator that reveals the table, where its answers about masked updates
    were found wrong: ascending by round and address, one share each.
    """

    job_id: JobNumber
    terms_digest: Bytes32
    value_name: str
    rounds: tuple[RoundScores, ...]
    twins: tuple[tuple[str, ...], ...]
    totals: tuple[OwnerTotal, ...]
    final_model_digest: Bytes32
    shown: tuple[ShownShare, ...] = ()

    def check(self) -> None:
        if not 1 <= len(self.value_name) <= 60:
            raise MessageRefused("1 to 60 characters allowed", where="ScoreTable.value_name")
        cohort = [total.data_owner for total in self.totals]
        check_ascending_addresses(cohort, "ScoreTable.totals")
        for position, scores in enumerate(self.rounds):
            if scores.round_index != position:
                raise MessageRefused(
                    f"{scores.round_index} at position {position}; rounds in order from 0 allowed",
                    where="ScoreTable.rounds",
                )
            if [score.data_owner for score in scores.owners] != cohort:
                raise MessageRefused(
                    f"{round_name(position)} lists other data owners than the totals",
                    where="ScoreTable.rounds",
                )
        self._check_twins(frozenset(cohort))
        self._check_shown(frozenset(cohort))

    def _check_shown(self, cohort: frozenset[str]) -> None:
        about = [(share.round_index, address_key(share.data_owner)) for share in self.shown]
        check_strictly_ascending(about, "ScoreTable.shown")
        for share in self.shown:
            if share.round_index >= len(self.rounds) or share.data_owner not in cohort:
                raise MessageRefused(
                    "shares of the table's rounds and cohort allowed", where="ScoreTable.shown"
                )

    def _check_twins(self, cohort: frozenset[str]) -> None:
        for group in self.twins:
            check_ascending_addresses(list(group), "ScoreTable.twins")
            if len(group) < 2 or not cohort.issuperset(group):
                raise MessageRefused("groups of 2 or more of the cohort allowed", where="ScoreTable.twins")
        check_strictly_ascending([address_key(group[0]) for group in self.twins], "ScoreTable.twins")
        members = [member for group in self.twins for member in group]
        if len(set(members)) < len(members):
            raise MessageRefused("a data owner in two groups", where="ScoreTable.twins")


class PayoutRow(Checked, frozen=True, forbid_unknown_fields=True):
    """One payment: leaf ``index`` of the payout tree pays ``amount`` to ``account``."""

    index: Uint32
    account: str
    amount: str
    value: Int64
    reason: Reason

    def check(self) -> None:
        check_address(self.account, "PayoutRow.account")
        if parse_amount(self.amount, "PayoutRow.amount") == 0:
            raise MessageRefused("0; amounts above 0 allowed", where="PayoutRow.amount")


class PayoutTable(Record, frozen=True, forbid_unknown_fields=True, tag="payout-table"):
    """Who is paid what, from which score tables. Rows by ascending account, indices from 0."""

    job_id: JobNumber
    score_tables: tuple[Bytes32, ...]
    rows: tuple[PayoutRow, ...]
    total: str

    def check(self) -> None:
        check_strictly_ascending(list(self.score_tables), "PayoutTable.score_tables")
        check_ascending_addresses([row.account for row in self.rows], "PayoutTable.rows")
        if [row.index for row in self.rows] != list(range(len(self.rows))):
            raise MessageRefused("indices from 0 in order allowed", where="PayoutTable.rows")
        paid = sum(int(row.amount) for row in self.rows)
        if parse_amount(self.total, "PayoutTable.total") != paid:
            raise MessageRefused(
                f"{self.total}; the sum of the rows, {paid}, allowed", where="PayoutTable.total"
            )
