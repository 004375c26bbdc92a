"""The terms of a job: what is asked, for what price, under which deadlines. Immutable once posted.

The canonical form is JSON with sorted keys and no white space; its BLAKE3 digest is ``termsDigest`` on chain,
which everything signed later binds. Decoding refuses any other spelling of the same terms. Every structure
checks itself when it is made, so a job file gets the same answers as a stranger's document.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages.checked import Checked
from galaxylearning.messages.fields import (
    address_key,
    check_address,
    check_strictly_ascending,
    parse_amount,
    shown,
)
from galaxylearning.units import Address, Digest

MAX_TERMS_BYTES: Final = 1 << 20
MAX_EVALUATORS: Final = 15
MAX_ROUNDS: Final = 10_000
MAX_DATA_OWNERS: Final = 100_000
MAX_PROJECTIONS: Final = 1_024
MIN_SUM: Final = 3
MAX_WINDOW_S: Final = 365 * 86_400
MAX_FEATURES: Final = 4_096
MAX_CLASSES: Final = 10_000
MAX_ROW_ELEMENTS: Final = 1 << 24
LOSSES: Final = ("cross_entropy", "bce_with_logits", "mse", "l1", "huber", "nll")
CLASS_LOSSES: Final = ("cross_entropy", "nll")

RuleName: TypeAlias = Literal[
    "gate",
    "mean",
    "trimmed-mean",
    "median",
    "krum",
    "multi-krum",
    "bulyan",
    "geometric-median",
    "centred-clipping",
    "nnm+trimmed-mean",
    "bucketing+geometric-median",
    "fltrust",
]
"""How updates are federated where evaluators see them: the names of ``learning.rules``."""

_HEX: Final = frozenset("0123456789abcdef")


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise JobRefused(f"{shown(value)} given; allowed: {allowed}", where=field)


def _within(value: float, field: str, low: float, high: float, *, above: bool = False) -> None:
    """Refuse a number outside [low, high], or outside (low, high] when ``above``."""
    inside = low < value <= high if above else low <= value <= high
    _require(inside, field, value, f"{'above' if above else 'from'} {low:g} to {high:g}")


def _text(value: str, field: str, low: int, high: int) -> None:
    fits = low <= len(value) <= high and not any(ord(letter) < 32 and letter != "\n" for letter in value)
    _require(fits, field, value, f"{low} to {high} characters without control characters")
    _require(not any(0xD800 <= ord(letter) < 0xE000 for letter in value), field, value, "valid Unicode")


def _hex_digest(value: str, field: str) -> None:
    _require(len(value) == 64 and _HEX.issuperset(value), field, value, "64 lower-case hex digits")


def _address(value: str, field: str) -> Address:
    try:
        return check_address(value, field)
    except MessageRefused as refused:
        raise JobRefused(str(refused)) from refused


def _amount(value: str, field: str) -> int:
    try:
        return parse_amount(value, field)
    except MessageRefused as refused:
        raise JobRefused(str(refused)) from refused


def _addresses(values: tuple[str, ...], field: str) -> None:
    for position, value in enumerate(values):
        _address(value, f"{field}[{position}]")
    _ascending(values, field)


def _ascending(addresses: tuple[str, ...], field: str) -> None:
    try:
        check_strictly_ascending([address_key(address) for address in addresses], field)
    except MessageRefused as refused:
        raise JobRefused(str(refused)) from refused


class _Part(Checked, frozen=True, forbid_unknown_fields=True):
    """A part of the terms; refused with JobRefused."""

    refusal = JobRefused

    def path(self, name: str) -> str:
        return f"{type(self).__name__.lower()}.{name}"


class EvaluatorSeat(_Part, frozen=True, forbid_unknown_fields=True):
    """One evaluator of the job and the key that models and updates are sealed to."""

    address: str
    sealing_key_digest: str
    sealing_key_blob: str

    def check(self) -> None:
        _address(self.address, "evaluators.address")
        _hex_digest(self.sealing_key_digest, "evaluators.sealing_key_digest")
        _hex_digest(self.sealing_key_blob, "evaluators.sealing_key_blob")


class Column(_Part, frozen=True, forbid_unknown_fields=True):
    """One column of tabular data: ``(value - mean) / std`` is what the model sees of a number.

    ``minimum`` and ``maximum`` bound the raw value, in ``unit``; ``classes`` lists a category's labels in the
    order of their indices.
    """

    name: str
    kind: Literal["number", "category", "integer"]
    unit: str | None = None
    mean: float = 0.0
    std: float = 1.0
    minimum: float | None = None
    maximum: float | None = None
    classes: tuple[str, ...] | None = None

    def check(self) -> None:
        _text(self.name, "schema.column.name", 1, 200)
        path = f"schema.column {self.name[:60]!r}"
        if self.unit is not None:
            _text(self.unit, f"{path}.unit", 1, 60)
        _within(self.mean, f"{path}.mean", -1e300, 1e300)
        _within(self.std, f"{path}.std", 0, 1e300, above=True)
        for name, bound in (("minimum", self.minimum), ("maximum", self.maximum)):
            if bound is not None:
                _within(bound, f"{path}.{name}", -1e300, 1e300)
        if self.minimum is not None and self.maximum is not None:
            _require(
                self.minimum <= self.maximum,
                f"{path}.minimum",
                self.minimum,
                f"at most the maximum {self.maximum:g}",
            )
        if self.kind == "category":
            classes = self.classes or ()
            _require(
                1 <= len(classes) <= MAX_CLASSES,
                f"{path}.classes",
                classes,
                f"1 to {MAX_CLASSES} classes for a category",
            )
            for label in classes:
                _text(label, f"{path}.classes", 1, 200)
            _require(len(set(classes)) == len(classes), f"{path}.classes", classes, "each class once")
            _require(
                self.minimum is None and self.maximum is None,
                f"{path}.minimum",
                self.minimum,
                "no bounds for a category",
            )
        else:
            _require(
                self.classes is None, f"{path}.classes", self.classes, "classes only for kind 'category'"
            )


class ArrayField(_Part, frozen=True, forbid_unknown_fields=True):
    """One array input: shape of a row (the batch dimension is left out) and its element type."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float64", "int64", "int32", "uint8"]

    def check(self) -> None:
        _text(self.name, "schema.arrays.name", 1, 200)
        _require(len(self.shape) <= 8, "schema.arrays.shape", self.shape, "at most 8 dimensions")
        elements = 1
        for size in self.shape:
            _require(
                1 <= size <= MAX_ROW_ELEMENTS,
                "schema.arrays.shape",
                size,
                f"dimensions from 1 to {MAX_ROW_ELEMENTS}",
            )
            elements *= size
        _require(
            elements <= MAX_ROW_ELEMENTS,
            "schema.arrays.shape",
            elements,
            f"at most {MAX_ROW_ELEMENTS} elements a row",
        )


class Schema(_Part, frozen=True, forbid_unknown_fields=True):
    """What a data set must look like: named columns, or one array; and the label."""

    features: tuple[Column, ...]
    label: Column
    arrays: tuple[ArrayField, ...] = ()

    def check(self) -> None:
        _require(
            len(self.features) <= MAX_FEATURES,
            "schema.features",
            len(self.features),
            f"at most {MAX_FEATURES} columns",
        )
        _require(len(self.arrays) <= 1, "schema.arrays", len(self.arrays), "at most one array")
        _require(
            bool(self.features) != bool(self.arrays),
            "schema.features",
            len(self.features),
            "either columns or one array",
        )
        names = [column.name for column in (*self.features, self.label)] + [
            field.name for field in self.arrays
        ]
        repeated = (
            sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        )
        _require(not repeated, "schema.features", repeated[0] if repeated else "", "each name once")

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical JSON; the registry's ``schemaDigest``."""
        return blake3_digest(_canonical(self))


class Noise(_Part, frozen=True, forbid_unknown_fields=True):
    """Differential privacy of what a data owner sends.

    ``local``: every step of its training clips each example's gradient to ``example_clip`` and adds noise
    with a standard deviation of ``multiplier * example_clip``; each row is protected, whatever is made of
    the update. ``central``: every data owner adds a share of noise to its whole update, such that the sum
    over ``minimum_owners`` has one of ``multiplier * clip_norm``. ``delta`` is the one at which the job
    speaks of epsilon; a data owner counts at its own.
    """

    kind: Literal["local", "central"]
    multiplier: float
    example_clip: float | None = None
    delta: float = 1e-5

    def path(self, name: str) -> str:
        return f"plan.noise.{name}"

    def check(self) -> None:
        _within(self.multiplier, "plan.noise.multiplier", 0.05, 1e3)
        _within(self.delta, "plan.noise.delta", 0, 0.01, above=True)
        if self.kind == "local":
            _require(
                self.example_clip is not None and 0 < self.example_clip <= 1e6,
                "plan.noise.example_clip",
                self.example_clip,
                "above 0 to 1e+06 with kind 'local'",
            )
        else:
            _require(
                self.example_clip is None,
                "plan.noise.example_clip",
                self.example_clip,
                "none with kind 'central', which clips whole updates to plan.clip_norm",
            )


class Plan(_Part, frozen=True, forbid_unknown_fields=True):
    """How the model is trained, federated and valued.

    Exactly one of ``epochs`` and ``steps``. ``clip_norm`` bounds an update's norm before it is quantised to
    ``bits`` bits; ``loss_clip`` bounds a sample's loss in the utility, in nats; ``midpoints`` are the
    path integral's. The gate takes norms from products with ``projections`` random vectors of +-1 that are
    drawn once the round's updates are in; 0 means from the updates themselves, which masked mode cannot.
    ``noise`` is for differential privacy; without it there is none.
    ``rule`` is the gate or, in sealed mode, another robust rule; of a round's updates ``faulty_fraction``
    may be bad as the other rules reckon.
    """

    rounds: int
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    prox_mu: float = 0.0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    clip_norm: float = 1.0
    bits: int = 16
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    beta2: float = 0.99
    tau: float = 1e-3
    gate: bool = True
    max_weight: int = 15
    projections: int = 0
    rule: RuleName = "gate"
    faulty_fraction: float = 0.2
    novelty: bool = True
    loss_clip: float = 10.0
    midpoints: int = 5
    minimum_owners: int = 1
    maximum_owners: int = 100
    noise: Noise | None = None

    def check(self) -> None:
        _within(self.rounds, "plan.rounds", 1, MAX_ROUNDS)
        _within(self.learning_rate, "plan.learning_rate", 0, 1e3, above=True)
        for name in ("momentum", "server_momentum", "beta2"):
            value = getattr(self, name)
            _require(math.isfinite(value) and 0 <= value < 1, f"plan.{name}", value, "from 0 to below 1")
        _within(self.weight_decay, "plan.weight_decay", 0, 1e3)
        _within(self.prox_mu, "plan.prox_mu", 0, 1e6)
        _require(
            (self.epochs is None) != (self.steps is None),
            "plan.epochs",
            self.epochs,
            "exactly one of epochs and steps",
        )
        if self.epochs is not None:
            _within(self.epochs, "plan.epochs", 1, 10_000)
        if self.steps is not None:
            _within(self.steps, "plan.steps", 1, 1_000_000)
        _within(self.batch_size, "plan.batch_size", 1, 1 << 20)
        _within(self.clip_norm, "plan.clip_norm", 0, 1e6, above=True)
        _within(self.bits, "plan.bits", 8, 24)
        _within(self.server_learning_rate, "plan.server_learning_rate", 0, 1e3, above=True)
        _within(self.tau, "plan.tau", 0, 1e3, above=True)
        _within(self.max_weight, "plan.max_weight", 1, 1 << 16)
        _within(self.projections, "plan.projections", 0, MAX_PROJECTIONS)
        _within(self.faulty_fraction, "plan.faulty_fraction", 0, 0.49)
        _require(
            self.gate or self.rule == "gate", "plan.gate", self.gate, "true with another rule than 'gate'"
        )
        _within(self.loss_clip, "plan.loss_clip", 0, 1e3, above=True)
        _within(self.midpoints, "plan.midpoints", 1, 100)
        _within(self.maximum_owners, "plan.maximum_owners", 1, MAX_DATA_OWNERS)
        _within(self.minimum_owners, "plan.minimum_owners", 1, self.maximum_owners)


class Price(_Part, frozen=True, forbid_unknown_fields=True):
    """What is paid. Amounts are decimal strings in the token's smallest unit.

    ``target_gain``: the gain for which the whole bounty is due, in nats per sample of the hidden test set.
    """

    token: str
    bounty: str
    fee_per_seat: str
    target_gain: float
    participation_fee: str = "0"
    bond: str = "0"
    seat_stake: str = "0"

    def check(self) -> None:
        _address(self.token, "price.token")
        _require(_amount(self.bounty, "price.bounty") > 0, "price.bounty", self.bounty, "more than 0")
        for name in ("fee_per_seat", "participation_fee", "bond", "seat_stake"):
            _amount(getattr(self, name), f"price.{name}")
        _within(self.target_gain, "price.target_gain", 1e-6, 1e6)


class Admission(_Part, frozen=True, forbid_unknown_fields=True):
    """Who may enrol. ``allowed`` goes with "allow-list"; ``issuers`` with "credential". Both ascending.

    ``scope`` names what a credential must be about; issuers sign its keccak-256, whatever the job.
    """

    kind: Literal["open", "allow-list", "credential"] = "open"
    allowed: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    scope: str = "galaxy-learning"

    def check(self) -> None:
        _text(self.scope, "admission.scope", 1, 200)
        needs = {"open": None, "allow-list": "allowed", "credential": "issuers"}[self.kind]
        for name, most in (("allowed", 10_000), ("issuers", 100)):
            values: tuple[str, ...] = getattr(self, name)
            least = 1 if name == needs else 0
            most = most if name == needs else 0
            _require(
                least <= len(values) <= most,
                f"admission.{name}",
                len(values),
                f"{least} to {most} addresses with kind {self.kind!r}",
            )
            _addresses(values, f"admission.{name}")


class Windows(_Part, frozen=True, forbid_unknown_fields=True):
    """How long each phase may take, in seconds of chain time."""

    enrol_s: int
    round_s: int
    anchor_s: int
    commit_s: int
    reveal_s: int
    settle_s: int
    claim_s: int

    def check(self) -> None:
        for name in self.__struct_fields__:
            _within(getattr(self, name), f"windows.{name}", 1, MAX_WINDOW_S)


class Masking(_Part, frozen=True, forbid_unknown_fields=True):
    """How masked mode hides every update: ``threshold + 1`` evaluators open what the terms name.

    ``threshold`` of them together learn nothing more. Wrong answers of up to ``faulty`` evaluators are
    corrected. A sum is opened over at least ``minimum_sum`` updates. ``twin_projections`` products of every
    update with random vectors of +-1 are opened after the last round, to find one data set under two names.
    """

    threshold: int
    faulty: int = 0
    minimum_sum: int = 3
    twin_projections: int = 0

    def check(self) -> None:
        _within(self.threshold, "masking.threshold", 1, MAX_EVALUATORS - 1)
        _within(self.faulty, "masking.faulty", 0, MAX_EVALUATORS)
        _within(self.minimum_sum, "masking.minimum_sum", MIN_SUM, MAX_DATA_OWNERS)
        _within(self.twin_projections, "masking.twin_projections", 0, MAX_PROJECTIONS)


class Terms(_Part, frozen=True, forbid_unknown_fields=True):
    """Everything a data owner consents to, and everything an auditor needs to recompute the job.

    Digests are lower-case hex of BLAKE3. ``requester_key`` is the sealing key that
    the trained model is released to; ``model`` and ``test_set`` are sealed blobs, ``model_digest`` and
    ``test_set_digest`` what must be inside them; ``graph`` is the model graph's document; ``seed`` fixes
    every statistical choice.
    """

    title: str
    description: str
    requester: str
    requester_key: str
    evaluators: tuple[EvaluatorSeat, ...]
    schema: Schema
    plan: Plan
    price: Price
    admission: Admission
    windows: Windows
    graph: str
    loss: str
    model: str
    model_digest: str
    test_set: str
    test_set_digest: str
    test_rows: int
    seed: int
    privacy: Literal["sealed", "masked"] = "sealed"
    masking: Masking | None = None
    value: Literal["path"] = "path"
    version: Literal[1] = 1

    def path(self, name: str) -> str:
        return name

    def check(self) -> None:
        _text(self.title, "title", 1, 120)
        _text(self.description, "description", 0, 10_000)
        _address(self.requester, "requester")
        _require(
            1 <= len(self.evaluators) <= MAX_EVALUATORS,
            "evaluators",
            len(self.evaluators),
            f"1 to {MAX_EVALUATORS} evaluators",
        )
        _ascending(tuple(seat.address for seat in self.evaluators), "evaluators")
        for name in ("requester_key", "graph", "model", "model_digest", "test_set", "test_set_digest"):
            _hex_digest(getattr(self, name), name)
        _require(self.loss in LOSSES, "loss", self.loss, f"one of {', '.join(LOSSES)}")
        if self.loss in CLASS_LOSSES:
            label = self.schema.label
            _require(
                label.kind == "category" and len(label.classes or ()) >= 2,
                "schema.label",
                label.kind,
                f"a category of 2 or more classes with loss {self.loss!r}",
            )
        _within(self.test_rows, "test_rows", 1, 100_000_000)
        _require(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63-1")
        _require(
            self.plan.rule == "gate" or self.privacy == "sealed",
            "plan.rule",
            self.plan.rule,
            "'gate' unless evaluators see the updates (privacy 'sealed')",
        )
        self._check_masking()
        fee, bounty = int(self.price.participation_fee), int(self.price.bounty)
        _require(
            fee * self.plan.maximum_owners <= bounty,
            "price.participation_fee",
            self.price.participation_fee,
            "at most the bounty over plan.maximum_owners",
        )

    def _check_masking(self) -> None:
        masking, seats = self.masking, len(self.evaluators)
        _require(
            (masking is not None) == (self.privacy == "masked"),
            "masking",
            masking,
            "given with privacy 'masked', and only then",
        )
        if masking is None:
            return
        needed = masking.threshold + 1 + 2 * masking.faulty
        _require(
            needed <= seats,
            "masking.threshold",
            masking.threshold,
            f"threshold + 1 + 2 * faulty (here {needed}) at most the {seats} evaluators",
        )
        _require(self.plan.gate, "plan.gate", self.plan.gate, "a gate in masked mode: nobody sees an update")
        _require(
            self.plan.projections > 0, "plan.projections", self.plan.projections, "at least 1 in masked mode"
        )
        _require(
            masking.minimum_sum <= self.plan.minimum_owners,
            "plan.minimum_owners",
            self.plan.minimum_owners,
            f"at least masking.minimum_sum, {masking.minimum_sum}",
        )

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical bytes: ``termsDigest`` on chain."""
        return blake3_digest(encode_terms(self))

    @property
    def quorum(self) -> int:
        """How many evaluators must agree: more than half of the seats."""
        return len(self.evaluators) // 2 + 1


_P = TypeVar("_P", bound=_Part)


def _canonical(part: _Part) -> bytes:
    return msgspec.json.encode(part, order="sorted")


def encode_terms(terms: Terms) -> bytes:
    """The canonical bytes.

    Raises:
        JobRefused: more than ``MAX_TERMS_BYTES``.
    """
    data = _canonical(terms)
    _require(len(data) <= MAX_TERMS_BYTES, "terms", len(data), f"at most {MAX_TERMS_BYTES} bytes")
    return data


def decode_terms(data: bytes) -> Terms:
    """Terms from their canonical bytes.

    Raises:
        JobRefused: not JSON, a field missing, unknown or not allowed, or any spelling but the canonical one.
    """
    return _decode(data, Terms)


def decode_schema(data: bytes) -> Schema:
    """A schema from its canonical bytes.

    Raises:
        JobRefused: as ``decode_terms``.
    """
    return _decode(data, Schema)


def encode_schema(schema: Schema) -> bytes:
    """The canonical bytes of a schema."""
    return _canonical(schema)


def _decode(data: bytes, kind: type[_P]) -> _P:
    where = kind.__name__.lower()
    _require(len(data) <= MAX_TERMS_BYTES, where, len(data), f"at most {MAX_TERMS_BYTES} bytes")
    try:
        part = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JobRefused(str(error)[:300], where=where) from error
    if _canonical(part) != data:
        raise JobRefused(
            "not in canonical form; sorted keys, no white space, every field present allowed", where=where
        )
    return part
