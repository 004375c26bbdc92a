"""What masked updates, colluding members and opened sums give away."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from benchmarks.secagg.sizes import CONTRACT, SENDER, sealing_keys, seed_of_round
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from galaxylearning.crypto.ring import DEGREE, unpack
from galaxylearning.crypto.seal import SealContext, seal
from galaxylearning.learning.gate import gate_scalars
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.secagg.weights import shared_weights

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Entropy = Callable[[int], bytes]

COLUMNS = 256
"""Coefficients of each prime that a classifier sees, of the body and of each colluding member's share."""


def small_plan(*, max_weight: int = 15, bits: int = 12, parameters: int = DEGREE) -> MaskingPlan:
    """Nine members, threshold 5, one polynomial."""
    return plan_masking(
        parameters=parameters,
        cohort=12,
        bits=bits,
        max_weight=max_weight,
        members=9,
        threshold=5,
        faulty=1,
        minimum_sum=3,
        projections=15,
        twin_projections=4,
    )


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a classifier tells two owners apart: AUC on unseen data, and its noise under no difference."""

    classifier: str
    auc: float
    noise: float

    @property
    def deviations(self) -> float:
        """How many standard deviations from a coin's."""
        return (self.auc - 0.5) / self.noise


def _view(plan: MaskingPlan, masked: Masked, colluders: int) -> F64:
    """What the public and ``colluders`` members see of one update: residues, centred and scaled to -1..1."""
    parts = [masked.body, *masked.shares[:colluders]]
    primes = np.array(plan.ring.primes)[:, None]
    seen = [unpack(plan.ring, part, width=DEGREE, where="view")[0][:, :COLUMNS] for part in parts]
    return np.concatenate([(2 * residues / primes - 1).reshape(-1) for residues in seen])


def two_owners(plan: MaskingPlan) -> npt.NDArray[np.int32]:
    """Updates as different as the plan allows: all in one coordinate, and minus it spread over all."""
    alone = np.zeros(plan.parameters, np.int32)
    alone[0] = plan.levels
    spread = np.full(plan.parameters, -int(plan.levels / math.sqrt(plan.parameters)), np.int32)
    return np.stack([alone, spread])


def separations(
    rounds: int, *, seed: int, colluders: int = 5, entropy_of: Callable[[], Entropy] = lambda: os.urandom
) -> list[Separation]:
    """Train on half of ``rounds`` masked updates of each owner, test on the other half.

    ``entropy_of`` gives the source of secrets of one masking; a broken one is the positive control.
    """
    plan, rng = small_plan(), np.random.default_rng(seed)
    public = seed_of_round(0)
    updates = two_owners(plan)
    views, labels = [], []
    for _ in range(rounds):
        for label, update in enumerate(updates):
            masked = mask_update(plan, public, update, entropy=entropy_of())
            views.append(_view(plan, masked, colluders))
            labels.append(label)
    inputs, classes = np.stack(views).astype(np.float32), np.array(labels)
    order = rng.permutation(len(classes))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)),
        "boosted trees": HistGradientBoostingClassifier(max_iter=60, random_state=seed),
        "network of 64": make_pipeline(
            StandardScaler(), MLPClassifier((64,), max_iter=30, early_stopping=True, random_state=seed)
        ),
    }
    found = []
    ones = int(classes[test].sum())
    noise = math.sqrt((len(test) + 1) / (12.0 * ones * (len(test) - ones)))
    for name, model in models.items():
        model.fit(inputs[train], classes[train])
        auc = float(roc_auc_score(classes[test], model.predict_proba(inputs[test])[:, 1]))
        found.append(Separation(name, auc, noise))
    return found


def repeated_entropy() -> Entropy:
    """A broken source: every masking gets the same secrets."""
    state = [0]

    def draw(count: int) -> bytes:
        state[0] += 1
        return hashlib.shake_256(bytes([state[0]])).digest(count)

    return draw


@dataclass(slots=True)
class Draws:
    """How many secrets were drawn, and how many of them had been drawn before."""

    keys: int = 0
    nonces: int = 0
    envelopes: int = 0
    bodies: int = 0
    repeats: int = 0


def draws(keys_wanted: int, *, source: Entropy = os.urandom) -> Draws:
    """Run owners' whole path (mask, share, seal) until ``keys_wanted`` keys were drawn; count repeats.

    Looked at: each 32-byte key that any part of the path draws from ``source``; each pair of content key and
    nonce prefix; each encapsulated key in an envelope; each masked body. Hashes of 16 bytes are kept: among
    10^7 of them two are equal by accident with a probability below 10^-24.
    """
    found, seen = Draws(), set[bytes]()
    last_key = [b""]

    def note(kind: bytes, data: bytes) -> None:
        name = hashlib.blake2b(kind + data, digest_size=16).digest()
        found.repeats += name in seen
        seen.add(name)

    def watched(count: int) -> bytes:
        drawn = source(count)
        if count == 32:
            found.keys += 1
            last_key[0] = drawn
            note(b"key", drawn)
        else:
            found.nonces += 1
            note(b"nonce", last_key[0] + drawn)
        return drawn

    plan = small_plan(parameters=21 * 64)
    publics = [key.public for key in sealing_keys(plan.members)]
    update = np.zeros(plan.parameters, np.int32)
    contexts = [
        SealContext(31337, CONTRACT, 1, 0, f"share-{member}", SENDER) for member in range(plan.members)
    ]
    public = seed_of_round(0)
    while found.keys < keys_wanted:
        masked = mask_update(plan, public, update, entropy=watched)
        found.bodies += 1
        note(b"body", masked.body)
        for share, key, context in zip(masked.shares, publics, contexts, strict=True):
            envelope = seal(share, [key], context, entropy=watched)
            found.envelopes += 1
            note(b"slot", envelope[116 : 116 + 1200])
    return found


@dataclass(frozen=True, slots=True)
class LoneWeight:
    """What one opened sum says about the owner whose weight shares no factor with the others'."""

    update_revealed: float
    error_revealed: float


def lone_weight(*, parameters: int, bits: int, weight: int, others: int, seed: int) -> LoneWeight:
    """Ten owners weigh ``others``, one weighs ``weight``: read its update off the sum's residue.

    No member's secret and no lattice is needed: ``sum w x`` modulo ``others`` is ``weight * x`` of that one
    owner. Given are the shares of coordinates whose guess, the residue nearest to zero, is right.
    """
    rng = np.random.default_rng(seed)
    plan = small_plan(parameters=parameters, bits=bits)
    raw = rng.standard_normal((11, parameters))
    updates = np.rint(raw * (plan.levels / np.linalg.norm(raw, axis=1, keepdims=True))).astype(np.int64)
    errors = rng.binomial(42, 0.5, (11, parameters)) - 21
    weights = np.array([weight] + [others] * 10)
    inverse = pow(weight, -1, others)

    def share(values: I64) -> float:
        residue = (weights @ values) * inverse % others
        guess = np.where(residue > others // 2, residue - others, residue)
        return float((guess == values[0]).mean())

    return LoneWeight(share(updates), share(errors))


def lone_rounds(owners: int, *, spread: float, rounds: int, seed: int, minimum: int = 1) -> float:
    """The share of rounds in which the gate's own weights let one owner be read off, among honest owners.

    Norms are log-normal with this ``spread``, cosines equal. Counted are rounds where the others' weights
    share a factor of at least 7 that the one owner's weight is coprime to. With a ``minimum`` the weights are
    first lowered so that each is carried by as many owners.
    """
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(rounds):
        norms = np.rint(1e8 * np.exp(rng.normal(0, spread, owners))).astype(np.int64)
        table = gate_scalars(norms, norms * norms, reference_square=4, max_weight=15)
        weights = [int(weight) for weight in shared_weights(table.weights, minimum) if weight]
        for index, own in enumerate(weights):
            common = math.gcd(*weights[:index], *weights[index + 1 :])
            if common >= 7 and math.gcd(common, own) == 1:
                hits += 1
                break
    return hits / rounds
