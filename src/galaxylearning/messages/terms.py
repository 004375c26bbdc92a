"""The terms of a job: what is asked, for what price, under which deadlines. Immutable once posted.

The canonical form is JSON with sorted keys and no white space; its BLAKE3 digest is ``termsDigest`` on chain,
which everything signed later binds. Decoding refuses any other spelling of the same terms. Every structure
checks itself when it is made, so a job file gets the same answers as a stranger's document.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import JobRefused
from galaxylearning.messages.drand import Drand
from galaxylearning.messages.parts import (
    Part,
    address,
    addresses,
    amount,
    ascending,
    hex_digest,
    require,
    text,
    within,
)
from galaxylearning.messages.plan import (
    MAX_EVALUATORS,
    Masking,
    Plan,
)
from galaxylearning.units import Digest

MAX_TERMS_BYTES: Final = 1 << 20
MAX_WINDOW_S: Final = 365 * 86_400
MAX_FEATURES: Final = 4_096
MAX_CLASSES: Final = 10_000
MAX_ROW_ELEMENTS: Final = 1 << 24
LOSSES: Final = ("cross_entropy", "bce_with_logits", "mse", "l1", "huber", "nll")
CLASS_LOSSES: Final = ("cross_entropy", "nll")
_LIKELIHOODS: Final = (*CLASS_LOSSES, "bce_with_logits")


def loss_unit(loss: str) -> str:
    """What gains and values of a job are counted in: nats, or units of a loss that is no likelihood."""
    return "nats" if loss in _LIKELIHOODS else f"units of {loss}"


class EvaluatorSeat(Part, frozen=True, forbid_unknown_fields=True):
    """One evaluator of the job and the key that models and updates are sealed to."""

    address: str
    sealing_key_digest: str
    sealing_key_blob: str

    def check(self) -> None:
        address(self.address, "evaluators.address")
        hex_digest(self.sealing_key_digest, "evaluators.sealing_key_digest")
        hex_digest(self.sealing_key_blob, "evaluators.sealing_key_blob")


class Column(Part, frozen=True, forbid_unknown_fields=True):
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
        text(self.name, "schema.column.name", 1, 200)
        path = f"schema.column {self.name[:60]!r}"
        if self.unit is not None:
            text(self.unit, f"{path}.unit", 1, 60)
        within(self.mean, f"{path}.mean", -1e300, 1e300)
        within(self.std, f"{path}.std", 0, 1e300, above=True)
        for name, bound in (("minimum", self.minimum), ("maximum", self.maximum)):
            if bound is not None:
                within(bound, f"{path}.{name}", -1e300, 1e300)
        if self.minimum is not None and self.maximum is not None:
            require(
                self.minimum <= self.maximum,
                f"{path}.minimum",
                self.minimum,
                f"at most the maximum {self.maximum:g}",
            )
        if self.kind == "category":
            classes = self.classes or ()
            require(
                1 <= len(classes) <= MAX_CLASSES,
                f"{path}.classes",
                classes,
                f"1 to {MAX_CLASSES} classes for a category",
            )
            for label in classes:
                text(label, f"{path}.classes", 1, 200)
            require(len(set(classes)) == len(classes), f"{path}.classes", classes, "each class once")
            require(
                self.minimum is None and self.maximum is None,
                f"{path}.minimum",
                self.minimum,
                "no bounds for a category",
            )
        else:
            require(self.classes is None, f"{path}.classes", self.classes, "classes only for kind 'category'")


class ArrayField(Part, frozen=True, forbid_unknown_fields=True):
    """One array input: shape of a row (the batch dimension is left out) and its element type."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float64", "int64", "int32", "uint8"]

    def check(self) -> None:
        text(self.name, "schema.arrays.name", 1, 200)
        require(len(self.shape) <= 8, "schema.arrays.shape", self.shape, "at most 8 dimensions")
        elements = 1
        for size in self.shape:
            require(
                1 <= size <= MAX_ROW_ELEMENTS,
                "schema.arrays.shape",
                size,
                f"dimensions from 1 to {MAX_ROW_ELEMENTS}",
            )
            elements *= size
        require(
            elements <= MAX_ROW_ELEMENTS,
            "schema.arrays.shape",
            elements,
            f"at most {MAX_ROW_ELEMENTS} elements a row",
        )


class Schema(Part, frozen=True, forbid_unknown_fields=True):
    """What a data set must look like: named columns, or one array; and the label."""

    features: tuple[Column, ...]
    label: Column
    arrays: tuple[ArrayField, ...] = ()

    def check(self) -> None:
        require(
            len(self.features) <= MAX_FEATURES,
            "schema.features",
            len(self.features),
            f"at most {MAX_FEATURES} columns",
        )
        require(len(self.arrays) <= 1, "schema.arrays", len(self.arrays), "at most one array")
        require(
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
        require(not repeated, "schema.features", repeated[0] if repeated else "", "each name once")

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical JSON; the registry's ``schemaDigest``."""
        return blake3_digest(_canonical(self))


class Price(Part, frozen=True, forbid_unknown_fields=True):
    """What is paid. Amounts are decimal strings in the token's smallest unit.

    ``target_gain``: the value for which the whole bounty is due, in nats (units of the loss where it is no
    likelihood) per sample of the hidden test set. Each data owner is paid for its own value, if above zero.
    """

    token: str
    bounty: str
    fee_per_seat: str
    target_gain: float
    participation_fee: str = "0"
    bond: str = "0"
    seat_stake: str = "0"

    def check(self) -> None:
        address(self.token, "price.token")
        require(amount(self.bounty, "price.bounty") > 0, "price.bounty", self.bounty, "more than 0")
        for name in ("fee_per_seat", "participation_fee", "bond", "seat_stake"):
            amount(getattr(self, name), f"price.{name}")
        within(self.target_gain, "price.target_gain", 1e-6, 1e6)


class Admission(Part, frozen=True, forbid_unknown_fields=True):
    """Who may enrol. ``allowed`` goes with "allow-list"; ``issuers`` with "credential". Both ascending.

    ``scope`` names what a credential must be about; issuers sign its keccak-256, whatever the job.
    """

    kind: Literal["open", "allow-list", "credential"] = "open"
    allowed: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    scope: str = "galaxy-learning"

    def check(self) -> None:
        text(self.scope, "admission.scope", 1, 200)
        needs = {"open": None, "allow-list": "allowed", "credential": "issuers"}[self.kind]
        for name, most in (("allowed", 10_000), ("issuers", 100)):
            values: tuple[str, ...] = getattr(self, name)
            least = 1 if name == needs else 0
            most = most if name == needs else 0
            require(
                least <= len(values) <= most,
                f"admission.{name}",
                len(values),
                f"{least} to {most} addresses with kind {self.kind!r}",
            )
            addresses(values, f"admission.{name}")


class Windows(Part, frozen=True, forbid_unknown_fields=True):
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
            within(getattr(self, name), f"windows.{name}", 1, MAX_WINDOW_S)


class Terms(Part, frozen=True, forbid_unknown_fields=True):
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
    drand: Drand | None = None
    value: Literal["path"] = "path"
    version: Literal[1] = 1

    def path(self, name: str) -> str:
        return name

    def check(self) -> None:
        text(self.title, "title", 1, 120)
        text(self.description, "description", 0, 10_000)
        address(self.requester, "requester")
        require(
            1 <= len(self.evaluators) <= MAX_EVALUATORS,
            "evaluators",
            len(self.evaluators),
            f"1 to {MAX_EVALUATORS} evaluators",
        )
        ascending(tuple(seat.address for seat in self.evaluators), "evaluators")
        for name in ("requester_key", "graph", "model", "model_digest", "test_set", "test_set_digest"):
            hex_digest(getattr(self, name), name)
        require(self.loss in LOSSES, "loss", self.loss, f"one of {', '.join(LOSSES)}")
        if self.loss in CLASS_LOSSES:
            label = self.schema.label
            require(
                label.kind == "category" and len(label.classes or ()) >= 2,
                "schema.label",
                label.kind,
                f"a category of 2 or more classes with loss {self.loss!r}",
            )
        within(self.test_rows, "test_rows", 1, 100_000_000)
        require(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63-1")
        require(
            self.plan.rule == "gate" or self.privacy == "sealed",
            "plan.rule",
            self.plan.rule,
            "'gate' unless evaluators see the updates (privacy 'sealed')",
        )
        self._check_masking()
        fee, bounty = int(self.price.participation_fee), int(self.price.bounty)
        require(
            fee * self.plan.maximum_owners <= bounty,
            "price.participation_fee",
            self.price.participation_fee,
            "at most the bounty over plan.maximum_owners",
        )

    def _check_masking(self) -> None:
        masking, seats = self.masking, len(self.evaluators)
        require(
            (masking is not None) == (self.privacy == "masked"),
            "masking",
            masking,
            "given with privacy 'masked', and only then",
        )
        if masking is None:
            return
        needed = masking.threshold + 1 + 2 * masking.faulty
        require(
            needed <= seats,
            "masking.threshold",
            masking.threshold,
            f"threshold + 1 + 2 * faulty (here {needed}) at most the {seats} evaluators",
        )
        require(self.plan.gate, "plan.gate", self.plan.gate, "a gate in masked mode: nobody sees an update")
        require(
            self.plan.projections > 0, "plan.projections", self.plan.projections, "at least 1 in masked mode"
        )
        require(
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
    def paying_rows(self) -> int:
        """How many rows of the hidden test set utility and values are measured on; the others gate."""
        return self.test_rows - self.test_rows // 2

    @property
    def quorum(self) -> int:
        """How many evaluators must agree: more than half of the seats."""
        return len(self.evaluators) // 2 + 1


_P = TypeVar("_P", bound=Part)


def _canonical(part: Part) -> bytes:
    return msgspec.json.encode(part, order="sorted")


def encode_terms(terms: Terms) -> bytes:
    """The canonical bytes.

    Raises:
        JobRefused: more than ``MAX_TERMS_BYTES``.
    """
    data = _canonical(terms)
    require(len(data) <= MAX_TERMS_BYTES, "terms", len(data), f"at most {MAX_TERMS_BYTES} bytes")
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
    require(len(data) <= MAX_TERMS_BYTES, where, len(data), f"at most {MAX_TERMS_BYTES} bytes")
    try:
        part = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JobRefused(str(error)[:300], where=where) from error
    if _canonical(part) != data:
        raise JobRefused(
            "not in canonical form; sorted keys, no white space, every field present allowed", where=where
        )
    return part
