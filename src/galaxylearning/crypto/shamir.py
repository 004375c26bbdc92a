"""Shamir's secret sharing of ring elements among few members, with correction of wrong answers.

Member ``i`` (from 0) holds the value at ``i + 1`` of a polynomial of degree T whose constant is the secret:
T members learn nothing, T + 1 recover it. What members compute linearly from their shares is a share of the
same function of the secret, hence *words*: a word is one residue modulo both primes from every member.

Source: Shamir, "How to Share a Secret" (1979); McEliece and Sarwate, "On Sharing Secrets and Reed-Solomon
Codes" (1981): n shares correct (n - T - 1) // 2 wrong ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from galaxylearning.crypto.ring import F64, Ring, Stream, wipe
from galaxylearning.units import Entropy

MAX_MEMBERS: Final = 15


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """What ``n`` members' answers to W words give.

    ``values`` f64[2, W]: the secrets, 0..p-1, and 0 where not decoded. ``decoded`` bool[W]: whether a
    sharing explains all but at most (n - T - 1) // 2 answers. ``wrong`` bool[n, W]: whose answers it does
    not explain, none where not decoded.
    """

    values: F64
    decoded: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


def share(ring: Ring, secret: F64, *, members: int, threshold: int, entropy: Entropy) -> F64:
    """Shares f64[members, 2, N] of ``secret`` f64[2, N], residues 0..p-1.

    Raises:
        ValueError: ``members`` is not 2..15, or ``threshold`` not 1..members - 1.
    """
    if not 2 <= members <= MAX_MEMBERS or not 1 <= threshold < members:
        raise ValueError(f"{threshold} of {members} members is no sharing")
    stream = Stream(entropy(32))
    width = secret.shape[-1]
    shares = np.empty((members, 2, width))
    coefficients = np.empty((threshold + 1, width))
    for index, field in enumerate(ring.fields):
        coefficients[0] = secret[index]
        drawn = stream.uniform(ring, field.prime, threshold * width)
        coefficients[1:] = drawn.reshape(threshold, width)
        powers = [
            [float(pow(member + 1, degree, field.prime)) for degree in range(threshold + 1)]
            for member in range(members)
        ]
        # At most 15 products below 2**48.
        shares[:, index] = field.canonical(field.centred(np.array(powers) @ coefficients))
        wipe(drawn)
    wipe(coefficients)
    return shares


def recover(ring: Ring, answers: F64, *, members: Sequence[int], threshold: int) -> Recovered:
    """Decode ``answers`` f64[n, 2, W], residues 0..p-1, from the members (from 0) named in order.

    Up to (n - T - 1) // 2 wrong answers a word are corrected and named, whoever else is wrong in other words.

    Raises:
        ValueError: fewer than ``threshold + 1`` members, one named twice, or one beyond 0..14.
    """
    points = tuple(member + 1 for member in members)
    if len(points) <= threshold or len(set(points)) < len(points) or len(points) != len(answers):
        raise ValueError("answers must come from more than threshold different members")
    if not all(1 <= point <= MAX_MEMBERS for point in points):
        raise ValueError(f"members must be 0 to {MAX_MEMBERS - 1}")
    width = answers.shape[-1]
    values = np.zeros((2, width))
    decoded = np.zeros(width, np.bool_)
    wrong = np.zeros((len(points), width), np.bool_)
    open_words = np.arange(width)
    for dropped in _patterns(len(points), threshold, wrong):
        if not len(open_words):
            break
        kept = [index for index in range(len(points)) if index not in dropped]
        chosen = answers[kept][:, :, open_words]
        fits, found = _explained(ring, chosen, tuple(points[index] for index in kept), threshold)
        words = open_words[fits]
        values[:, words] = found[:, fits]
        decoded[words] = True
        if dropped and len(words):
            left_out = _unexplained(ring, answers, points, kept, threshold, words, dropped)
            wrong[np.array(dropped)[:, None], words] = left_out
        open_words = open_words[~fits]
    return Recovered(values, decoded, wrong)


def _patterns(count: int, threshold: int, wrong: npt.NDArray[np.bool_]) -> Iterator[tuple[int, ...]]:
    """Sets of answers to leave out, small ones first; before each size, all the liars found so far.

    ``wrong`` is looked at anew each time: the same members are wrong in most words.
    """
    most = (count - threshold - 1) // 2
    yield ()
    tried: set[tuple[int, ...]] = {()}
    for size in range(1, most + 1):
        for dropped in combinations(range(count), size):
            liars = tuple(np.flatnonzero(wrong.any(axis=1)).tolist())
            if len(liars) <= most and liars not in tried:
                tried.add(liars)
                yield liars
            if dropped not in tried:
                tried.add(dropped)
                yield dropped


def _explained(
    ring: Ring, answers: F64, points: tuple[int, ...], threshold: int
) -> tuple[npt.NDArray[np.bool_], F64]:
    """Which words [2, W] one sharing explains entirely, and their secrets."""
    base = points[: threshold + 1]
    rest = (0, *points[threshold + 1 :])
    fits = np.ones(answers.shape[-1], np.bool_)
    values = np.empty(answers.shape[1:])
    for index, field in enumerate(ring.fields):
        predicted = field.canonical(
            field.centred(_lagrange(field.prime, base, rest) @ answers[: threshold + 1, index])
        )
        values[index] = predicted[0]
        fits &= (predicted[1:] == answers[threshold + 1 :, index]).all(axis=0)
    return fits, values


def _unexplained(
    ring: Ring,
    answers: F64,
    points: tuple[int, ...],
    kept: list[int],
    threshold: int,
    words: npt.NDArray[np.int64],
    dropped: tuple[int, ...],
) -> npt.NDArray[np.bool_]:
    """Which of the answers left out are wrong, bool[dropped, words]."""
    base = kept[: threshold + 1]
    found = np.zeros((len(dropped), len(words)), np.bool_)
    for index, field in enumerate(ring.fields):
        weights = _lagrange(
            field.prime, tuple(points[at] for at in base), tuple(points[at] for at in dropped)
        )
        predicted = field.canonical(field.centred(weights @ answers[base, index][:, words]))
        found |= predicted != answers[list(dropped), index][:, words]
    return found


@lru_cache(maxsize=1 << 12)
def _lagrange(prime: int, base: tuple[int, ...], at: tuple[int, ...]) -> F64:
    """Factors f64[len(at), len(base)] that give a polynomial's values at ``at`` from those at ``base``.

    Centred, so that 15 products with residues stay far below 2**53.
    """
    others = [[other for other in base if other != own] for own in base]
    inverses = [
        pow(math.prod(own - other for other in rest), -1, prime)
        for own, rest in zip(base, others, strict=True)
    ]
    found = np.empty((len(at), len(base)))
    for row, x in enumerate(at):
        for column, (inverse, rest) in enumerate(zip(inverses, others, strict=True)):
            factor = math.prod([x - other for other in rest]) * inverse % prime
            found[row, column] = factor if factor <= prime // 2 else factor - prime
    found.setflags(write=False)
    return found
