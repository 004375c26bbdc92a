"""What a data owner allows: a policy that is read from a file, and a decision with its reason.

Nothing is accepted by default: an empty policy refuses every job until its owner accepts that job by hand.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from galaxylearning.errors import ConfigRefused
from galaxylearning.graph import Cost
from galaxylearning.messages.explained import explained
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.matching import MatchReport
from galaxylearning.protocol.rows import rows_bytes
from galaxylearning.units import Digest, how_many

MAX_POLICY_BYTES = 1 << 16
MAX_BOUNTY_DIGITS = 78
ANYBODY = "*"
Sandbox: TypeAlias = Literal["required", "best-effort"]
_AT_LEAST = {
    "maximum_rounds": 0,
    "maximum_state_bytes": 0,
    "maximum_activation_bytes": 0,
    "maximum_flops": 0,
    "maximum_training_s": 1,
    "maximum_memory_bytes": 1 << 20,
    "maximum_output_bytes": 0,
}
_AT_MOST = {
    "maximum_training_s": 30 * 86_400,
    "maximum_memory_bytes": 1 << 46,
    "maximum_output_bytes": 1 << 46,
}


class OwnerPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs a data owner takes without being asked.

    ``requesters``, ``evaluators`` and ``datasets`` list accounts and data set names, ``"*"`` for any; every
    evaluator of a job must be listed, for in sealed mode each sees the updates. Amounts are in the
    token's smallest unit, costs per batch of the job's plan. ``accepted`` are jobs accepted by hand, by terms
    digest in hex; they pass whatever else the policy says, except the limits on cost and on epsilon.

    Whatever else it says, a policy takes no job whose schema bounds a column: only a hand does, for enrolling
    says that the values keep within the bounds.

    ``allows_buffers`` lets pass models with federated buffers (BatchNorm's running means). They leave without
    being clipped, and a graph can write rows into them.

    ``max_epsilon`` bounds what all jobs of all requesters together may tell of one data set, at ``delta``;
    with it, jobs without noise are refused.

    The worker that trains gets ``maximum_training_s`` seconds for a round and ``maximum_memory_bytes`` on top
    of what the libraries take, and may give back ``maximum_output_bytes``. With ``sandbox`` ``"required"``
    nothing is trained on a machine that cannot lock the worker; with ``"best-effort"`` it is locked as far
    as the machine can.
    """

    requesters: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = (ANYBODY,)
    datasets: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("masked", "sealed")
    minimum_bounty: str = "0"
    maximum_rounds: int = 1_000
    maximum_state_bytes: int = 1 << 30
    maximum_activation_bytes: int = 4 << 30
    maximum_flops: int = 10**13
    accepted: tuple[str, ...] = ()
    allows_buffers: bool = False
    max_epsilon: float | None = None
    delta: float = 1e-6
    maximum_training_s: int = 3600
    maximum_memory_bytes: int = 8 << 30
    maximum_output_bytes: int = 2 << 30
    sandbox: Sandbox = "required"

    def __post_init__(self) -> None:
        digits = self.minimum_bounty
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_BOUNTY_DIGITS):
            raise ConfigRefused(
                f"must be a whole number of smallest units, as text of at most {MAX_BOUNTY_DIGITS} digits",
                where="minimum_bounty",
            )
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ConfigRefused(f"must be {least} or more", where=name)
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise ConfigRefused(f"must be {most} or less", where=name)
        if self.max_epsilon is not None and not 0 < self.max_epsilon <= 1e6:
            raise ConfigRefused("must be above 0 to 1e+06, or null", where="max_epsilon")
        if not 0 < self.delta <= 0.01:
            raise ConfigRefused("must be above 0 to 0.01", where="delta")


def policy_from_json(data: bytes) -> OwnerPolicy:
    """Read a policy file.

    Raises:
        ConfigRefused: not JSON, an unknown field, or a value that is not allowed.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigRefused(f"{len(data)} bytes; at most {MAX_POLICY_BYTES} allowed", where="policy")
    try:
        return msgspec.json.decode(data, type=OwnerPolicy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigRefused(explained(error, OwnerPolicy), where="policy") from error


def refusal(
    policy: OwnerPolicy,
    terms: Terms,
    terms_digest: Digest,
    *,
    dataset: str,
    n_rows: int,
    report: MatchReport,
    privacy: str | None = None,
) -> str | None:
    """Why the policy does not let ``dataset`` of ``n_rows`` rows join a job of these terms, whatever its
    model, or None.

    ``privacy`` is why the job would exceed the data set's budget of epsilon, if it would.
    """
    if not report.is_match:
        return "the data set does not match the schema: " + "; ".join(
            f"{row.column}: {row.problem}" for row in report.problems[:5]
        )
    needed, most = rows_bytes(terms.schema, n_rows), policy.maximum_memory_bytes
    if needed > most:
        return f"its rows would take {needed} bytes in this schema; maximum_memory_bytes allows {most}"
    if privacy is not None:
        return privacy
    if terms_digest.hex() in policy.accepted:
        return None
    if ANYBODY not in policy.requesters and terms.requester not in policy.requesters:
        return "the policy does not name this requester, and the job was not accepted by hand"
    strangers = [seat.address for seat in terms.evaluators if seat.address not in policy.evaluators]
    if strangers and ANYBODY not in policy.evaluators:
        return f"the policy does not name the evaluator {strangers[0]}"
    if ANYBODY not in policy.datasets and dataset not in policy.datasets:
        return "the policy does not offer this data set"
    if terms.privacy not in policy.modes:
        return f"the policy does not allow privacy mode {terms.privacy!r}"
    if int(terms.price.bounty) < int(policy.minimum_bounty):
        return f"the bounty is below the policy's {policy.minimum_bounty}"
    if terms.plan.rounds > policy.maximum_rounds:
        return f"{terms.plan.rounds} rounds; the policy allows {policy.maximum_rounds}"
    for column in (*terms.schema.features, terms.schema.label):
        if column.minimum is not None or column.maximum is not None:
            # Many jobs with one bound each would find the largest value of a column by who enrols.
            return (
                f"{column.name[:80]} has bounds in the schema; enrolling by itself would tell of its values"
            )
    return None


def refusal_of_model(policy: OwnerPolicy, terms_digest: Digest, cost: Cost, buffers: int) -> str | None:
    """Why the policy lets no data set join a job with this model, or None.

    ``buffers`` is how many numbers federate beside the parameters.
    """
    limits = (
        ("state", cost.state_bytes, policy.maximum_state_bytes, "bytes"),
        ("activations", cost.activation_bytes, policy.maximum_activation_bytes, "bytes"),
        ("a forward pass", cost.flops_forward, policy.maximum_flops, "FLOPs"),
    )
    for what, needed, allowed, unit in limits:
        if needed > allowed:
            return f"{what} would take {needed} {unit}; the policy allows {allowed}"
    if buffers and not policy.allows_buffers and terms_digest.hex() not in policy.accepted:
        what = how_many(buffers, "federated buffer")
        return f"{what} would leave unclipped; the policy does not allow buffers"
    return None
