"""What an opener does: from masked updates and the members' answers to scalars and one sum, as integers.

Anybody can: nothing here is secret. Members' wrong answers are corrected and named as far as the number of
answers allows, ``(n - T - 1) // 2`` of them; with fewer than ``T + 1 + 2 f`` answers, f lies go unnoticed
here or spoil what they touch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from galaxylearning.crypto.ring import DEGREE, F64, public_rows, unpack
from galaxylearning.crypto.shamir import Recovered, recover
from galaxylearning.errors import NoSharing, QuorumMissing, UpdateRefused
from galaxylearning.learning.vectors import I64
from galaxylearning.secagg.member import check_questions, check_weights
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Questions, row_blocks

NO_SHARES = "too few members hold a share"
NO_SHARING = "the members' answers fit no sharing"
NOISE = "the noise is larger than an honest owner's can be"


@dataclass(frozen=True, slots=True, eq=False)
class OpenedScalars:
    """Answers to k questions about m owners.

    ``values`` int64[m, k], 0 where not ``usable`` bool[m]; ``reasons`` say why not, owner by owner. Member
    numbers count from 0. ``wrong`` names for every member that lied the owners (positions) it lied about;
    ``absent`` for members without an owner's share those owners; ``refused`` members whose answer was
    malformed, and how.
    """

    values: I64
    usable: npt.NDArray[np.bool_]
    reasons: tuple[str, ...]
    wrong: Mapping[int, tuple[int, ...]]
    absent: Mapping[int, tuple[int, ...]]
    refused: Mapping[int, str]

    @property
    def accused(self) -> dict[int, set[int]]:
        """By member: the owners of whom it has no share, or whose other answers its own does not fit."""
        found: dict[int, set[int]] = {}
        for claims in (self.wrong, self.absent):
            for member, owners in claims.items():
                found.setdefault(member, set()).update(owners)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSum:
    """A weighted sum.

    ``total`` int64[P], 0 where ``overflowed`` bool[P]: there the noise is larger than that of honest owners
    can be, so somebody's update was out of range and the coordinate is lost. ``wrong`` are the members that
    lied; ``refused`` those whose answer was malformed, and how.
    """

    total: I64
    overflowed: npt.NDArray[np.bool_]
    wrong: tuple[int, ...]
    refused: Mapping[int, str]


def check_body(plan: MaskingPlan, body: bytes, *, where: str = "body") -> None:
    """Refuse a masked update that cannot be opened: to be done before it is accepted.

    Raises:
        UpdateRefused: another length than ``plan.body_bytes``, or a residue that is not below its prime.
    """
    for _ in _blocks(plan, body, where):
        pass


def check_words(plan: MaskingPlan, words: bytes, width: int, *, is_sum: bool) -> None:
    """Refuse an answer that cannot be read, before it is counted on; ``width`` residues make one word.

    Raises:
        UpdateRefused: not a whole number of words, or a residue that is not below its prime.
    """
    unpack(plan.ring, words, width=width, where="answer", is_absent_allowed=not is_sum)


def _blocks(plan: MaskingPlan, body: bytes, where: str) -> Iterator[tuple[slice, F64]]:
    """A masked update by blocks of rows, [rows, 2, N]."""
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise UpdateRefused(f"must be bytes, not {type(body).__name__}", where=where)
    view = memoryview(body).cast("B")
    if len(view) != plan.body_bytes:
        raise UpdateRefused(f"must be {plan.body_bytes} bytes, not {len(view)}", where=where)
    step = plan.ring.row_bytes
    for _, rows in row_blocks(plan.parameters):
        part = view[rows.start * step : rows.stop * step]
        yield rows, unpack(plan.ring, part, width=DEGREE, where=where)


def open_scalars(
    plan: MaskingPlan, questions: Questions, bodies: Sequence[bytes], answers: Mapping[int, bytes]
) -> OpenedScalars:
    """Open the answers to ``questions`` of every owner whose masked update is in ``bodies``.

    Args:
        plan: the job's.
        questions: what was asked.
        bodies: masked updates in the order of the accepted set; taken one at a time.
        answers: by member (from 0), of :func:`galaxylearning.secagg.member.answer_scalars`.

    Raises:
        UpdateRefused: no or too many bodies, a malformed one, a member that does not exist, or questions
            that the plan has no room for.
        QuorumMissing: fewer than T + 1 well-formed answers.
    """
    check_questions(plan, questions)
    count, owners = questions.count, len(bodies)
    if not 1 <= owners <= plan.cohort:
        raise UpdateRefused(f"must be 1 to {plan.cohort}, not {owners}", where="bodies")
    members, words, refused = _read_answers(
        plan, answers, plan.scalars_bytes(owners, count), width=count, is_absent_allowed=True
    )
    masked = np.stack([_masked_products(plan, questions, body, f"body {i}") for i, body in enumerate(bodies)])
    held, secrets, decoded, wrong = _recover_by_owner(plan, members, words)
    shown = np.empty_like(masked)
    for index, field in enumerate(plan.ring.fields):
        shown[:, index] = field.canonical(masked[:, index] - secrets[:, index])
    values, noise = _split(plan, shown)
    is_quiet = (np.abs(noise) <= plan.noise_bounds(questions.norms)).all(axis=1)
    enough = held.sum(axis=0) > plan.threshold
    usable = enough & decoded & is_quiet
    values[~usable] = 0
    reasons = tuple(
        "" if usable[i] else NO_SHARES if not enough[i] else NOISE if decoded[i] else NO_SHARING
        for i in range(owners)
    )
    return OpenedScalars(
        values, usable, reasons, _by_member(members, wrong), _by_member(members, ~held), refused
    )


def _by_member(members: list[int], flags: npt.NDArray[np.bool_]) -> dict[int, tuple[int, ...]]:
    return {
        member: tuple(np.flatnonzero(row).tolist())
        for member, row in zip(members, flags, strict=True)
        if row.any()
    }


def _read_answers(
    plan: MaskingPlan, answers: Mapping[int, bytes], size: int, *, width: int, is_absent_allowed: bool
) -> tuple[list[int], F64, dict[int, str]]:
    """Members with well-formed answers, those [n, R, 2, width], and why others were refused."""
    members, words, refused = [], [], {}
    for member, answer in sorted(answers.items()):
        where = f"answer of member {member}"
        if not 0 <= member < plan.members:
            raise UpdateRefused(f"members are 0 to {plan.members - 1}", where=where)
        try:
            found = unpack(plan.ring, answer, width=width, where=where, is_absent_allowed=is_absent_allowed)
            if len(answer) != size:
                raise UpdateRefused(f"must be {size} bytes, not {len(answer)}", where=where)
        except UpdateRefused as error:
            refused[member] = str(error)
            continue
        members.append(member)
        words.append(found)
    if len(members) < plan.quorum:
        raise QuorumMissing(f"needs {plan.quorum} members, has {len(members)}", where="answers")
    return members, np.stack(words), refused


def _masked_products(plan: MaskingPlan, questions: Questions, body: bytes, where: str) -> F64:
    """``<g, c>`` modulo both primes, [2, count]."""
    total = np.zeros((2, questions.count))
    for rows, block in _blocks(plan, body, where):
        for index, field in enumerate(plan.ring.fields):
            total[index] += questions.masked_products(field, rows, block[:, index])
    # Centred residues of at most 2**16 blocks.
    for index, field in enumerate(plan.ring.fields):
        total[index] = field.centred(total[index])
    return total


def _recover_by_owner(
    plan: MaskingPlan, members: list[int], words: F64
) -> tuple[npt.NDArray[np.bool_], F64, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Who holds whose share [n, m], secrets [m, 2, k], whose words decode [m], who was wrong of whom [n, m].

    Owners are decoded together when the same members hold their shares.
    """
    _, owners, _, count = words.shape
    held = ~(words == plan.ring.absent).all(axis=(2, 3))
    secrets = np.zeros((owners, 2, count))
    decoded = np.zeros(owners, np.bool_)
    wrong = np.zeros((len(members), owners), np.bool_)
    for pattern in np.unique(held, axis=1).T:
        present = np.flatnonzero(pattern)
        if len(present) <= plan.threshold:
            continue
        here = np.flatnonzero((held == pattern[:, None]).all(axis=0))
        chosen = words[np.ix_(present, here)].transpose(0, 2, 1, 3).reshape(len(present), 2, -1)
        found = recover(plan.ring, chosen, members=[members[i] for i in present], threshold=plan.threshold)
        secrets[here] = found.values.reshape(2, len(here), count).transpose(1, 0, 2)
        decoded[here] = found.decoded.reshape(-1, count).all(axis=1)
        wrong[np.ix_(present, here)] = found.wrong.reshape(len(present), -1, count).any(axis=2)
    return held, secrets, decoded, wrong


def fitting(
    plan: MaskingPlan, answers: Mapping[int, bytes], member: int, own: bytes, *, width: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows of ``answers`` a member's ``own`` answer fits, and which it does not, bool[m] each.

    Of T + 1 members or more that lie alike every answer fits the others: only a share that none of them holds
    tells. Rows for which ``own`` has no share, or whose ``answers`` fit no sharing, are neither. ``width``
    residues make one word: as many as there are questions about an owner, or all N of a sum, which has one
    row.

    Raises:
        QuorumMissing: fewer than T + 1 well-formed answers.
    """
    seen = []
    for given in (answers, {**answers, member: own}):
        members, words, _ = _read_answers(plan, given, len(own), width=width, is_absent_allowed=True)
        seen.append((members, *_recover_by_owner(plan, members, words)))
    (_, _, before, decoded, _), (members, held, after, still, wrong) = seen
    place = members.index(member)
    told = decoded & held[place]
    fits = told & still & np.equal(before, after).all(axis=(1, 2)) & ~wrong[place]
    return fits, told & ~fits


def _split(plan: MaskingPlan, residues: F64) -> tuple[I64, F64]:
    """Messages and noise [...] that residues [..., 2, W] stand for: ``y = noise * t + message``."""
    lifted = plan.ring.lift(residues)
    # t is odd: no quotient is close enough to a half for rounding to err.
    noise = np.rint(lifted / float(plan.modulus))
    return (lifted - noise * float(plan.modulus)).astype(np.int64), noise


def owners_left_out(
    plan: MaskingPlan, opened: OpenedScalars, refuted: Collection[frozenset[int]] = ()
) -> tuple[int, ...]:
    """Owners (positions) that no sum should be over, for their shares do not serve the members.

    A member accuses an owner by having no share of it, or by an answer that the others' do not fit; in a sum
    it then has no answer, or a wrong one. So dealers who each cheat another member could together keep any
    sum from being opened. Left out is whom more than f members accuse; and whom anybody accuses but the f
    members, or fewer, that spare the most owners when they are not listened to. Honest members accuse no
    honest owner, so not to listen to the liars leaves out dealers only: while at most f members lie, never
    more owners are left out than there are dealers of bad shares, and with none nobody.

    ``refuted`` are sets of members of whom not all are liars: they are not all ignored together.
    """
    accused = opened.accused
    counts = Counter(owner for against in accused.values() for owner in against)
    surely = {owner for owner, count in counts.items() if count > plan.faulty}
    doubtful = {member: against - surely for member, against in sorted(accused.items()) if against - surely}
    ways = (
        way
        for size in range(min(plan.faulty, len(doubtful)), -1, -1)
        for way in combinations(doubtful, size)
        if not any(members <= set(way) for members in refuted)
    )
    fewest = min(
        (set[int]().union(*(doubtful[member] for member in doubtful if member not in way)) for way in ways),
        key=len,
    )
    return tuple(sorted(surely | fewest))


def open_sum(
    plan: MaskingPlan, seed: bytes, bodies: Sequence[bytes], weights: I64, answers: Mapping[int, bytes]
) -> OpenedSum:
    """Open ``sum weights[i] * x[i]`` over the masked updates in ``bodies``.

    Args:
        plan: the job's.
        seed: the round's public seed.
        bodies: masked updates in the order of the accepted set; taken one at a time, and only where the
            weight is not 0.
        weights: int64[m], 0..max_weight.
        answers: by member (from 0), of :func:`galaxylearning.secagg.member.answer_sum`.

    Raises:
        UpdateRefused: weights that are not the plan's, a malformed body, a member that does not exist.
        NoSharing: the answers fit no sharing.
        QuorumMissing: too few owners with a weight, fewer than T + 1 well-formed answers, or a sum of which
            most coordinates are noise.
    """
    check_weights(plan, weights, owners=len(bodies))
    members, words, refused = _read_answers(
        plan, answers, plan.share_bytes, width=DEGREE, is_absent_allowed=False
    )
    found = recover(plan.ring, words[:, 0], members=members, threshold=plan.threshold)
    if not found.decoded.all():
        raise NoSharing(f"{NO_SHARING}: more members lie than {len(members)} can tell", where="answers")
    total = _weighted_bodies(plan, bodies, weights)
    opened, noise = _unmask(plan, seed, total, found)
    overflowed = np.abs(noise) > plan.sum_noise_bound(weights)
    if 2 * int(overflowed.sum()) > plan.parameters:
        raise QuorumMissing(f"a lie among {len(members)} answers, or updates out of range", where="answers")
    opened[overflowed] = 0
    wrong = tuple(members[i] for i in np.flatnonzero(found.wrong.any(axis=1)))
    return OpenedSum(opened, overflowed, wrong, refused)


def _weighted_bodies(plan: MaskingPlan, bodies: Sequence[bytes], weights: I64) -> F64:
    """``sum w c`` modulo both primes, [2, rows, N], any representative below 2**53."""
    total = np.zeros((2, plan.rows, DEGREE))
    room = (1 << 52) >> plan.ring.bits
    used = 0
    scaled = np.empty(0)
    for owner in np.flatnonzero(weights).tolist():
        weight = int(weights[owner])
        if used + weight > room:
            for index, field in enumerate(plan.ring.fields):
                field.centred(total[index], out=total[index])
            used = 1
        used += weight
        for rows, block in _blocks(plan, bodies[owner], f"body {owner}"):
            scaled = np.multiply(block, float(weight), out=scaled if scaled.shape == block.shape else None)
            total[:, rows] += scaled.transpose(1, 0, 2)
    return total


def _unmask(plan: MaskingPlan, seed: bytes, total: F64, secret: Recovered) -> tuple[I64, F64]:
    """The weighted sum int64[P] and its noise f64[P]."""
    opened, noise = np.empty(plan.rows * DEGREE, np.int64), np.empty(plan.rows * DEGREE)
    transformed = [field.to_values(secret.values[index]) for index, field in enumerate(plan.ring.fields)]
    for block, rows in row_blocks(plan.parameters):
        count = rows.stop - rows.start
        residues = np.empty((2, count * DEGREE))
        for index, field in enumerate(plan.ring.fields):
            values = public_rows(plan.ring, seed, index, block, count)
            values *= transformed[index]
            mask = field.to_coefficients(field.centred(values, out=values))
            difference = field.centred(total[index, rows]) - mask
            residues[index] = field.canonical(difference).reshape(-1)
        here = slice(rows.start * DEGREE, rows.stop * DEGREE)
        opened[here], noise[here] = _split(plan, residues)
    return opened[: plan.parameters], noise[: plan.parameters]
