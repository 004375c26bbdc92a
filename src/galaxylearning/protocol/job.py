"""What a requester writes: a model, a schema, a plan, a price. And how it becomes terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, DecimalException, Inexact, localcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import GraphRefused, JobRefused
from galaxylearning.graph import Cost, FlatModel, ModelGraph, compile_model, meter
from galaxylearning.messages import terms as wire
from galaxylearning.messages.drand import Drand
from galaxylearning.messages.parts import require
from galaxylearning.messages.plan import Masking, Noise, Plan
from galaxylearning.messages.terms import CLASS_LOSSES, Admission, EvaluatorSeat, Schema, Terms, Windows
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.hidden_set import MIN_TEST_ROWS, Rows
from galaxylearning.protocol.masking import default_masking, masked_plan, masking_plan
from galaxylearning.protocol.privacy import check_protectable
from galaxylearning.protocol.rounds import BUFFERS_IN_MASKED
from galaxylearning.protocol.ruling import check_rule
from galaxylearning.protocol.updates import quantizer, server_optimizer
from galaxylearning.units import Address, Digest

EXAMPLE_ROWS: Final = 3
DEFAULT_WINDOWS: Final = Windows(
    enrol_s=86_400,
    round_s=6 * 3_600,
    anchor_s=3_600,
    commit_s=3_600,
    reveal_s=3_600,
    settle_s=86_400,
    claim_s=30 * 86_400,
)


@dataclass(frozen=True, slots=True)
class Price:
    """What is paid, in whole tokens (a string such as ``"1000"`` or ``"0.5"``, an int or a Decimal).

    ``target_gain``: the improvement for which the whole bounty is due, in units of the loss (nats where it is
    a likelihood's) per sample of the test set.
    """

    bounty: str | int | Decimal
    target_gain: float
    fee_per_seat: str | int | Decimal = "10"
    participation_fee: str | int | Decimal = "0"
    bond: str | int | Decimal = "0"
    seat_stake: str | int | Decimal = "50"

    def __post_init__(self) -> None:
        gain = self.target_gain
        is_number = isinstance(gain, int | float) and not isinstance(gain, bool)
        require(is_number, "price.target_gain", gain, "a number")

    def in_units(self, token: Address, decimals: int) -> wire.Price:
        """The price of the terms, in the token's smallest unit.

        Raises:
            JobRefused: an amount that is not a number, negative, or finer than the token.
        """
        amounts = {
            name: str(smallest_units(getattr(self, name), decimals, f"price.{name}"))
            for name in ("bounty", "fee_per_seat", "participation_fee", "bond", "seat_stake")
        }
        return wire.Price(token=token, target_gain=float(self.target_gain), **amounts)


def smallest_units(amount: str | int | Decimal, decimals: int, field_name: str) -> int:
    """Whole tokens as an integer of smallest units, exactly.

    Raises:
        JobRefused: not a number, negative, too large, or finer than the token's smallest unit.
    """
    allowed = f"a number from 0 to 10^30 with at most {decimals} decimals"
    if not isinstance(amount, str | int | Decimal) or isinstance(amount, bool):
        raise JobRefused(f"{str(amount)[:60]} given; allowed: {allowed}, as text", where=field_name)
    with localcontext(prec=100) as context:
        context.traps[Inexact] = True
        try:
            exact = Decimal(amount)
            units = exact.scaleb(decimals)
            if not exact.is_finite() or exact < 0 or exact > Decimal(10) ** 30 or units != int(units):
                raise JobRefused(f"{str(amount)[:60]!r} given; allowed: {allowed}", where=field_name)
        except (DecimalException, ValueError) as error:
            raise JobRefused(f"{str(amount)[:60]!r} given; allowed: {allowed}", where=field_name) from error
        return int(units)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A training job as its requester writes it.

    ``test_data`` names a data file (CSV, Parquet, npz) that matches the schema; it stays hidden from data
    owners. ``seed`` fixes every statistical choice of the job. The questions that are asked of updates follow
    from the chain's randomness, or with ``drand`` from that network's.

    Raises:
        JobRefused: a field of another type, or a seed out of range; names what is allowed.
    """

    title: str
    model: nn.Module
    loss: str
    schema: Schema
    plan: Plan
    price: Price
    test_data: str | Path
    description: str = ""
    privacy: str = "masked"
    masking: Masking | None = None
    admission: Admission = field(default_factory=Admission)
    windows: Windows = DEFAULT_WINDOWS
    federate: Mapping[str, str] | None = None
    drand: Drand | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (kind, allowed) in _KINDS.items():
            value = getattr(self, name)
            require(isinstance(value, kind), name, value, allowed)
        is_seed = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 1 << 63
        require(is_seed, "seed", self.seed, "a whole number from 0 to 2^63-1")


_KINDS: Final[Mapping[str, tuple[Any, str]]] = {
    "title": (str, "text"),
    "model": (nn.Module, "a torch.nn.Module"),
    "loss": (str, "text"),
    "schema": (Schema, "a galaxylearning.Schema, such as schema_of gives"),
    "plan": (Plan, "a galaxylearning.Plan"),
    "price": (Price, "a galaxylearning.Price"),
    "test_data": (str | Path, "the path of a data file"),
    "description": (str, "text"),
    "privacy": (str, "'sealed', 'masked'"),
    "masking": (Masking | None, "a galaxylearning.Masking, or None"),
    "admission": (Admission, "a galaxylearning.Admission"),
    "windows": (Windows, "a galaxylearning.Windows"),
    "federate": (Mapping | None, "a mapping of buffers' names, or None"),
    "drand": (Drand | None, "a galaxylearning.Drand, or None"),
}
"""Fields of a job: their types, and how an error names these."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledJob:
    """A job whose model became a graph and whose test set became rows; nothing of it is code."""

    job: Job
    graph: ModelGraph
    model: FlatModel
    test: Rows
    cost: Cost

    @property
    def model_bytes(self) -> bytes:
        """The initial model as it travels, sealed."""
        return self.model.state_bytes(*self.model.initial())


def compile_job(job: Job, test: Rows) -> CompiledJob:
    """Compile a job's model and check that it, its plan and its test set fit together.

    Raises:
        UnsupportedModel: the model uses something a graph cannot express.
        JobRefused: plan, noise, privacy mode, test set or model do not fit together; the field is named.
        ConfigRefused: an optimiser, range or optimiser setting is not possible.
    """
    if job.privacy not in ("sealed", "masked"):
        raise JobRefused(f"{job.privacy[:40]!r} given; allowed: 'sealed', 'masked'", where="privacy")
    if job.masking is not None and job.privacy != "masked":
        raise JobRefused("given; allowed only with privacy 'masked'", where="masking")
    if len(test) < MIN_TEST_ROWS:
        raise JobRefused(f"{len(test)} rows; at least {MIN_TEST_ROWS} are needed", where="test_data")
    check_rule(job.plan)
    server_optimizer(job.plan)
    _check_size(job.model)
    _check_loss(job)
    example = torch.from_numpy(np.ascontiguousarray(test.inputs[:EXAMPLE_ROWS]))
    graph, weights = compile_model(job.model, (example,), loss=job.loss, federate=job.federate)
    model = FlatModel(graph, weights)
    params, buffers = model.initial()
    quantizer(job.plan, params.size)
    _check_outputs(job, model, test)
    losses = model.per_sample_loss(params, buffers, (test.inputs,), test.labels)
    if not bool(np.isfinite(losses).all()):
        raise JobRefused("the untrained model's loss on the test set is not finite", where="model")
    if job.privacy == "masked":
        if buffers.size:
            raise JobRefused(BUFFERS_IN_MASKED, where="model")
        job = replace(job, plan=masked_plan(job.plan, params.size, job.masking))
    if job.plan.noise is not None:
        _check_noise(model, job.plan.noise, test.take(np.arange(1, dtype=np.int64)))
    return CompiledJob(job, graph, model, test, meter(graph, job.plan.batch_size))


def _check_size(module: nn.Module) -> None:
    """Refuse what no data owner takes by default, before copies of it fill the memory."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    allowed = OwnerPolicy().maximum_state_bytes
    if needed > allowed:
        raise JobRefused(
            f"parameters and buffers take {needed:,} bytes; data owners allow {allowed:,} unless their "
            "policy says otherwise. Take a smaller model",
            where="model",
        )


def _check_loss(job: Job) -> None:
    """Refuse a loss of classes where the label is a number."""
    label = job.schema.label
    if label.kind != "category" and job.loss in CLASS_LOSSES:
        raise JobRefused(
            f"{job.loss!r} given; the label {label.name!r} is a number; allowed: 'mse', 'l1', 'huber'",
            where="loss",
        )


def _check_outputs(job: Job, model: FlatModel, test: Rows) -> None:
    """Refuse a model with other outputs than the label needs: one for each class, or one number."""
    label, shape = job.schema.label, list(model.predict(*model.initial(), (test.inputs[:1],)).shape[1:])
    given = f"a row gives outputs of shape {shape}; the label {label.name!r}"
    if job.loss in CLASS_LOSSES:
        classes = len(label.classes or ())
        if shape[:1] != [classes]:
            raise JobRefused(f"{given} has {classes} classes, one output for each is allowed", where="model")
    elif shape != [1] and not (shape == [] and label.kind == "category"):
        raise JobRefused(
            f"{given} is one number with loss {job.loss!r}, outputs of shape [1] are allowed", where="model"
        )


def _check_noise(model: FlatModel, noise: Noise, row: Rows) -> None:
    """Refuse a model that data owners could not train under this noise."""
    try:
        check_protectable(model)
        if noise.kind == "local":
            params, buffers = model.initial()
            rng = np.random.default_rng(0)
            model.example_gradients(params, buffers, (row.inputs,), row.labels, rng=rng)
    except GraphRefused as refused:
        raise JobRefused(str(refused), where="model") from refused


def terms_of(
    compiled: CompiledJob,
    *,
    requester: Address,
    requester_key: Digest,
    evaluators: Sequence[tuple[Address, Digest]],
    token: Address,
    decimals: int,
    model_blob: Digest,
    test_blob: Digest,
    test_digest: Digest,
) -> Terms:
    """The terms under which a compiled job is posted.

    ``evaluators`` are accounts with the digests of their sealing keys; the blobs are those sealed to them.

    Raises:
        JobRefused: a field that is not allowed.
        ConfigRefused: masked mode cannot carry this model and cohort.
    """
    job = compiled.job
    seats = tuple(
        EvaluatorSeat(address=address, sealing_key_digest=key.hex(), sealing_key_blob=key.hex())
        for address, key in sorted(evaluators, key=lambda seat: int(seat[0], 16))
    )
    masking = job.masking
    if job.privacy == "masked" and masking is None:
        masking = default_masking(job.plan, parameters=compiled.model.parameter_count, seats=len(seats))
    terms = Terms(
        title=job.title,
        description=job.description,
        requester=requester,
        requester_key=requester_key.hex(),
        evaluators=seats,
        schema=job.schema,
        plan=job.plan,
        price=job.price.in_units(token, decimals),
        admission=job.admission,
        windows=job.windows,
        graph=compiled.graph.digest.hex(),
        loss=job.loss,
        model=model_blob.hex(),
        model_digest=blake3_digest(compiled.model_bytes).hex(),
        test_set=test_blob.hex(),
        test_set_digest=test_digest.hex(),
        test_rows=len(compiled.test),
        seed=job.seed,
        privacy=job.privacy,  # type: ignore[arg-type]
        masking=masking,
        drand=job.drand,
    )
    if terms.privacy == "masked":
        masking_plan(terms, compiled.model.parameter_count)
    return terms
