"""An update on its way: trained at home, clipped, quantised, encoded, and read back by who may open it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import MessageRefused, UpdateRefused
from galaxylearning.graph.model import ExampleModel, Model
from galaxylearning.learning import (
    LocalPlan,
    Quantizer,
    ServerOptimizer,
    check_range,
    clip_norm,
    decode_update,
    encode_update,
    train_local,
)
from galaxylearning.learning.checkpoint import Checkpoint, LocalState
from galaxylearning.learning.plan import MAX_STEPS
from galaxylearning.learning.private import noisy_integers, train_private
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.records import UpdateBody, decode, encode
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.gradients import example_gradients, mean_gradient
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.privacy import check_protectable, example_noise, share_variance, update_range
from galaxylearning.units import Address, Entropy

F32: TypeAlias = NDArray[np.float32]
I32: TypeAlias = NDArray[np.int32]

BUFFER_BITS = 32
BUFFER_RANGE = 1024.0
"""Buffers (BatchNorm means and variances) travel as 32-bit integers of changes within ±1024."""


HIDDEN_TIMES: Final = 4
"""The step on the hidden set trains so many times as long as a data owner does: a short one is mostly chance
once the model fits (``docs/adr/0039-the-hidden-sets-step-is-longer.md``)."""

HIDDEN_PASSES: Final = 10
"""No more passes over its rows than these, unless a data owner takes more."""


def local_plan(plan: Plan) -> LocalPlan:
    """The training part of a plan."""
    return LocalPlan(
        optimizer=plan.optimizer,
        learning_rate=plan.learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        prox_mu=plan.prox_mu,
        epochs=plan.epochs,
        steps=plan.steps,
        batch_size=plan.batch_size,
    )


def hidden_plan(plan: Plan, rows: int) -> LocalPlan:
    """How the step on ``rows`` of the hidden set is trained: as a data owner's, ``HIDDEN_TIMES`` as long.

    Not longer than ``HIDDEN_PASSES`` and ``MAX_STEPS``, unless a data owner's is. FLTrust takes the updates'
    length from it, too: there, as under every rule but the gate, it is a data owner's.
    """
    own, batches = local_plan(plan), -(-rows // plan.batch_size)
    if plan.rule != "gate" or not plan.gate:
        return own
    if own.steps is not None:
        most = min(HIDDEN_PASSES * batches, MAX_STEPS)
        return replace(own, steps=max(own.steps, min(HIDDEN_TIMES * own.steps, most)))
    epochs, most = own.epochs or 1, min(HIDDEN_PASSES, MAX_STEPS // batches)
    return replace(own, epochs=max(epochs, min(HIDDEN_TIMES * epochs, most)))


def server_optimizer(plan: Plan) -> ServerOptimizer:
    """The server optimiser of a plan."""
    return ServerOptimizer(
        plan.server_optimizer,
        learning_rate=plan.server_learning_rate,
        momentum=plan.server_momentum,
        beta2=plan.beta2,
        tau=plan.tau,
    )


def quantizer(plan: Plan, parameters: int | None = None) -> Quantizer:
    """How ``parameters`` become integers: no coordinate can exceed the norm the update is clipped to, and the
    noise that the plan adds to it. Their number is needed with central noise.

    Raises:
        ConfigRefused: the sum over the largest cohort could leave the accumulator, or the plan's noise does
            not fit its bits.
    """
    check_range(plan.bits, plan.maximum_owners, plan.max_weight)
    return Quantizer(plan.bits, update_range(plan, parameters))


def training_seed(terms: Terms, round_index: int, data_owner: Address) -> np.random.Generator:
    """The generator of one data owner's round: the same on every machine, different for every identity."""
    return np.random.default_rng([terms.seed, round_index, address_key(data_owner)])


def training_name(terms: Terms, round_index: int, data_owner: Address) -> str:
    """The name of one data owner's training in one round, over all jobs."""
    return f"{terms.digest.hex()}/{round_index}/{data_owner}"


def local_name(terms: Terms, round_index: int, data_owner: Address) -> str:
    """The name of what a training left of the buffers that stay with their data owner."""
    return f"{training_name(terms, round_index, data_owner)}/local"


def train_update(
    model: Model,
    terms: Terms,
    state: tuple[F32, F32],
    rows: Rows,
    *,
    rng: np.random.Generator,
    checkpoint: Checkpoint | None = None,
    local: LocalState | None = None,
) -> tuple[I32, I32]:
    """Train without noise: ``(parameters int32[P], buffers int32[B])``, clipped and quantised.

    Raises:
        UpdateRefused: training diverged; the step is named.
    """
    plan = local_plan(terms.plan)
    return _trained(model, terms, state, rows, plan, rng=rng, checkpoint=checkpoint, local=local)


def train_hidden(
    model: Model, terms: Terms, state: tuple[F32, F32], rows: Rows, *, rng: np.random.Generator
) -> tuple[I32, I32]:
    """What updates are compared with: ``train_update`` on rows of the hidden set, by ``hidden_plan``.

    Where that diverges, and for buffers, which move as long as one trains, it is as long as a data owner's.

    Raises:
        UpdateRefused: that diverged as well; the step is named.
    """
    again = copy.deepcopy(rng)
    try:
        step, buffers = _trained(model, terms, state, rows, hidden_plan(terms.plan, len(rows)), rng=rng)
    except UpdateRefused:
        return train_update(model, terms, state, rows, rng=again)
    return step, train_update(model, terms, state, rows, rng=again)[1] if buffers.size else buffers


def train_for_owner(
    model: ExampleModel,
    terms: Terms,
    state: tuple[F32, F32],
    rows: Rows,
    *,
    rng: np.random.Generator,
    entropy: Entropy,
    checkpoint: Checkpoint | None = None,
    local: LocalState | None = None,
) -> tuple[I32, I32]:
    """What may leave a data owner: ``train_update``, with the noise that the plan asks for, from ``entropy``.

    A long training saves where it stands in ``checkpoint``, with the ``local`` state of the model, and goes
    on from there.

    Raises:
        UpdateRefused: training diverged.
        GraphRefused: the plan wants noise on a model that it cannot protect.
    """
    noise, plan, (params, buffers) = terms.plan.noise, terms.plan, state
    if noise is None:
        return train_update(model, terms, state, rows, rng=rng, checkpoint=checkpoint, local=local)
    check_protectable(model)
    if noise.kind == "central":
        gradient = mean_gradient(model, rows)
        steps = local_plan(plan)
        result = train_local(
            gradient, params, buffers, len(rows), steps, rng=rng, checkpoint=checkpoint, local=local
        )
        scale, variance = quantizer(plan, params.size), share_variance(plan, params.size)
        ints = noisy_integers(result.update, scale, plan.clip_norm, variance, entropy=entropy)
        return ints, np.zeros(0, np.int32)
    result = train_private(
        example_gradients(model, rows),
        params,
        buffers,
        len(rows),
        local_plan(plan),
        example_noise(noise),
        rng=rng,
        entropy=entropy,
        checkpoint=checkpoint,
    )
    ints = quantizer(plan).quantize(clip_norm(result.update, plan.clip_norm))
    return ints, np.zeros(0, np.int32)


def check_trained(terms: Terms, parameters: I32, buffers: I32) -> None:
    """Whether a worker's update is one that ``train_for_owner`` can give, as far as it shows: no integer
    beyond the quantiser's levels, and without noise no longer than the clipped norm. Whoever took a worker
    over cannot send more than that.

    Raises:
        UpdateRefused: saying what is allowed.
    """
    levels = quantizer(terms.plan, parameters.size).levels
    wide = parameters.astype(np.float64)
    if wide.size and float(np.abs(wide).max()) > levels:
        raise UpdateRefused(f"at most {levels} allowed", where="an integer of the update")
    if terms.plan.noise is None:
        # Rounding may move every coordinate by half a level, and clipping in float32 by a few units of 2^-24.
        most = levels * (1 + 1e-6) + 0.5 * math.sqrt(parameters.size)
        if float(np.sqrt(np.sum(wide * wide))) > most:
            raise UpdateRefused(f"at most {terms.plan.clip_norm:g} allowed", where="the update's norm")
    if buffers.size and int(buffers.min()) < -Quantizer(BUFFER_BITS, BUFFER_RANGE).levels:
        raise UpdateRefused("outside the quantiser's range", where="a buffer of the update")


def encode_body(
    job_id: int, round_index: int, data_owner: Address, update: tuple[I32, I32], bits: int
) -> bytes:
    """The update as it is sealed."""
    parameters, buffers = update
    return encode(
        UpdateBody(
            job_id=job_id,
            round_index=round_index,
            data_owner=data_owner,
            parameters=encode_update(parameters, bits),
            buffers=encode_update(buffers, BUFFER_BITS),
        )
    )


def decode_body(
    data: bytes, *, job_id: int, round_index: int, data_owner: Address, sizes: tuple[int, int], bits: int
) -> tuple[I32, I32]:
    """Read an update back, checking that it is this owner's, for this round, and of the model's shape.

    Raises:
        MessageRefused, UpdateRefused: naming what is wrong.
    """
    body = decode(data, UpdateBody, max_bytes=body_limit(sizes, bits))
    for field, given, wanted in (
        ("job_id", body.job_id, job_id),
        ("round_index", body.round_index, round_index),
        ("data_owner", body.data_owner, data_owner),
    ):
        if given != wanted:
            raise MessageRefused(f"{given}; {wanted} allowed", where=f"UpdateBody.{field}")
    return decode_update(body.parameters, sizes[0], bits), decode_update(body.buffers, sizes[1], BUFFER_BITS)


def body_limit(sizes: tuple[int, int], bits: int) -> int:
    """The most bytes an encoded update of this model can have."""
    return sizes[0] * (2 if bits <= 16 else 4) + sizes[1] * 4 + 1024


def _trained(
    model: Model,
    terms: Terms,
    state: tuple[F32, F32],
    rows: Rows,
    plan: LocalPlan,
    *,
    rng: np.random.Generator,
    checkpoint: Checkpoint | None = None,
    local: LocalState | None = None,
) -> tuple[I32, I32]:
    params, buffers = state
    gradient = mean_gradient(model, rows)
    result = train_local(
        gradient, params, buffers, len(rows), plan, rng=rng, checkpoint=checkpoint, local=local
    )
    ints = quantizer(terms.plan, params.size).quantize(clip_norm(result.update, terms.plan.clip_norm))
    return ints, Quantizer(BUFFER_BITS, BUFFER_RANGE).quantize(result.buffers - buffers)
