"""What there is to know of a job, as plain values: terms, what would run, what leaves the machine, progress.

Amounts are decimal strings of smallest units, times Unix seconds, sizes bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from galaxylearning.cli.output import tokens
from galaxylearning.errors import Refused
from galaxylearning.graph import Cost, ModelGraph
from galaxylearning.learning.accounting import epsilon
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Schema, Terms, loss_unit
from galaxylearning.ports import GraphFacts
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.protocol.matching import some
from galaxylearning.protocol.privacy import job_epsilon, models_release
from galaxylearning.protocol.updates import body_limit
from galaxylearning.units import how_many

WHO_SEES = {
    "masked": "nobody sees one update: the evaluators open a few numbers about it, and one sum of many. "
    "Data owners see the model.",
    "sealed": "each evaluator of the job sees each update; nobody else does. Data owners see the model.",
}
"""Privacy mode -> who can see what."""
MAY_TELL = (
    "anything: without noise nothing bounds it, and a model that was made for it gives rows to whoever gets "
    "the trained model, in masked mode too"
)
"""What updates may tell of the rows where the plan adds no noise."""

EXAMPLE_SIZES = (100, 1_000, 10_000)
"""Numbers of rows for which a job's epsilon is told."""
PROTECTS = {
    "local": "each row of a data owner, from everybody who sees its update or anything made of it",
    "central": "all rows of a data owner together, from everybody who sees its update or anything made of it",
}
"""Kind of noise -> what epsilon is about."""


def _epsilon(plan: Plan, n_rows: int) -> float | None:
    """None where a data owner with so many rows could not take part, or nothing bounds what it would tell."""
    try:
        found = job_epsilon(plan, n_rows)
    except Refused:
        return None
    return found if math.isfinite(found) else None


def what_runs(graph: ModelGraph, cost: Cost, plan: Plan, loss: str) -> dict[str, Any]:
    """What a data owner's machine would do in every round."""
    return {
        "operations": dict(sorted(Counter(node.op for node in graph.nodes).items())),
        "loss": loss,
        "value_unit": loss_unit(loss),
        "parameters": cost.parameters,
        "state_bytes": cost.state_bytes,
        "activation_bytes_per_batch": cost.activation_bytes,
        "flops_forward_per_batch": cost.flops_forward,
        "rounds": plan.rounds,
        "epochs": plan.epochs,
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "optimizer": plan.optimizer,
        "learning_rate": plan.learning_rate,
        "minimum_owners": plan.minimum_owners,
        "maximum_owners": plan.maximum_owners,
    }


def what_leaves(facts: GraphFacts, terms: Terms) -> dict[str, Any]:
    """Everything that would leave a data owner's machine."""
    plan, masking, seats = terms.plan, terms.masking, len(terms.evaluators)
    parameters, buffers = facts.cost.parameters, facts.buffers
    how, most = f"sealed to {how_many(seats, 'evaluator')}", body_limit((parameters, buffers), plan.bits)
    bare = f"and {how_many(buffers, 'buffer')}, not clipped: what the graph writes there, which can be rows; "
    if masking is not None:
        most, buffers = masking_plan(terms, parameters).sent_bytes, 0
        opened = 2 + plan.projections + masking.twin_projections
        how = (
            f"under a one-time mask: {masking.threshold + 1} of {seats} evaluators open {opened} numbers of "
            f"it and one sum of at least {masking.minimum_sum} updates (or, colluding, all of it); "
            f"{masking.threshold} cannot"
        )
    return {
        "once": "a signed enrolment: account, salted commitment to the data set, digest of its schema, "
        "sealing key; and with it, that the data match the job's schema with all its classes and bounds",
        "every_round": f"one update: {parameters:,} parameters, clipped to norm {plan.clip_norm:g}, as "
        f"{plan.bits}-bit integers, {bare if buffers else ''}{how}",
        "update_bytes": most,
        "updates": plan.rounds,
        "may_tell": MAY_TELL if plan.noise is None else "of the rows no more than the plan's noise lets pass",
    }


def schema_facts(schema: Schema) -> dict[str, Any]:
    """The schema as plain values."""
    found: dict[str, Any] = msgspec.to_builtins(schema)
    return found


def terms_facts(terms: Terms, graph: ModelGraph, facts: GraphFacts) -> dict[str, Any]:
    """All that a data owner should know before accepting a job."""
    return {
        "title": terms.title,
        "description": terms.description,
        "requester": terms.requester,
        "evaluators": [seat.address for seat in terms.evaluators],
        "terms_digest": terms.digest.hex(),
        "price": msgspec.to_builtins(terms.price),
        "privacy": {"mode": terms.privacy, "who_sees": WHO_SEES[terms.privacy]},
        "admission": msgspec.to_builtins(terms.admission),
        "windows": msgspec.to_builtins(terms.windows),
        "schema": schema_facts(terms.schema),
        "test_rows": terms.test_rows,
        "runs": what_runs(graph, facts.cost, terms.plan, terms.loss),
        "leaves": what_leaves(facts, terms),
        "noise": noise_facts(terms.plan),
    }


def noise_facts(plan: Plan) -> dict[str, Any] | None:
    """What a job's noise comes to over all rounds, at its own delta; None without noise.

    With local noise it depends on how many rows a data owner has: epsilon is given for some numbers of them.
    """
    noise = plan.noise
    if noise is None:
        return None
    models = models_release(plan)
    sizes = EXAMPLE_SIZES if noise.kind == "local" else EXAMPLE_SIZES[:1]
    return {
        **msgspec.to_builtins(noise),
        "protects": PROTECTS[noise.kind],
        "epsilon_by_rows": {str(size): _epsilon(plan, size) for size in sizes},
        "epsilon_of_models": None if models is None else epsilon([(models, plan.rounds)], noise.delta),
    }


def state_facts(state: JobState, now: int) -> dict[str, Any]:
    """Where a job stands."""
    return {
        "phase": state.phase.name.lower(),
        "now": now,
        "deadline": state.deadline,
        "expires_at": state.expires_at,
        "seats_taken": len(state.seats),
        "seats": len(state.evaluators),
        "fewest_seats": state.fewest_seats,
        "minimum_owners": state.minimum_owners,
        "maximum_owners": state.maximum_owners,
        "cohort": state.cohort_size,
        "rounds_anchored": state.round_index,
        "rounds": state.rounds,
        "committed": len(state.committed),
        "revealed": len(state.revealed),
        "escrow": str(state.escrow),
        "payouts": str(state.total),
        "payees": state.payees,
        "paid": str(state.paid),
        "fees_owed": str(state.fees_owed),
        "fees_paid": str(state.fees_paid),
        "refunded": str(state.refunded),
        "refundable": str(state.refundable),
    }


def enrolling_line(facts: dict[str, Any]) -> str:
    """Whom a job waits for, and when it begins: ``state_facts`` with ``enrolled`` as a line."""
    needed = (
        f"{facts['seats_taken']} of {how_many(facts['seats'], 'evaluator')} seated "
        f"({facts['fewest_seats']} needed), {how_many(facts['enrolled'], 'data owner')} enrolled "
        f"({facts['minimum_owners']} needed, {facts['maximum_owners']} at most); begins when all are there"
    )
    if facts["deadline"] is None:
        return needed
    return f"{needed}, or in {_span(max(0, facts['deadline'] - facts['now']))} with those that are needed"


def is_settled(state: JobState) -> bool:
    """Whether it is fixed who gets what."""
    return state.phase in (Phase.SETTLED, Phase.ABORTED)


def is_over(state: JobState) -> bool:
    """Whether nothing more will happen to a job's money."""
    if state.phase is Phase.ABORTED:
        return state.refundable == 0
    return state.phase is Phase.SETTLED and state.unclaimed == 0 and state.refundable == 0


def summary(facts: dict[str, Any]) -> Iterable[tuple[str, object]]:
    """``terms_facts`` and ``state_facts`` together, as lines for people."""
    price, runs, leaves = facts["price"], facts["runs"], facts["leaves"]
    yield "title", facts["title"]
    if facts["description"]:
        yield "description", facts["description"]
    yield "requester", facts["requester"]
    yield "evaluators", ", ".join(facts["evaluators"])
    yield "terms digest", facts["terms_digest"]
    yield "phase", f"{facts['phase']}{_until(facts['deadline'], facts['now'])}"
    yield (
        "progress",
        (
            f"{facts['rounds_anchored']} of {how_many(facts['rounds'], 'round')}, "
            f"{how_many(facts['cohort'], 'data owner')}, "
            f"{facts['seats_taken']} of {how_many(len(facts['evaluators']), 'evaluator')} seated"
        ),
    )
    yield "data owners", f"{runs['minimum_owners']} needed, {runs['maximum_owners']} at most"
    yield "windows", _windows(facts["windows"])
    unit = runs["value_unit"]
    yield "bounty", f"{tokens(price['bounty'])} for a value of {price['target_gain']:g} {unit} per sample"
    yield (
        "other money",
        (
            f"participation fee {tokens(price['participation_fee'])}, bond {tokens(price['bond'])}, "
            f"fee per evaluator {tokens(price['fee_per_seat'])}"
        ),
    )
    yield (
        "paid so far",
        (
            f"{tokens(facts['paid'])} of {tokens(facts['payouts'])} to "
            f"{how_many(facts['payees'], 'data owner')}, fees {tokens(facts['fees_paid'])}, "
            f"refunded {tokens(facts['refunded'])}, of an escrow of {tokens(facts['escrow'])}"
        ),
    )
    yield "privacy", f"{facts['privacy']['mode']}: {facts['privacy']['who_sees']}"
    yield "noise", _noise(facts["noise"], runs["rounds"])
    yield "admission", facts["admission"]["kind"]
    yield (
        "what would run",
        (
            f"{length(runs)} of {runs['optimizer']} at learning rate {runs['learning_rate']:g}, batches of "
            f"{runs['batch_size']}, in each of {how_many(runs['rounds'], 'round')}; loss {runs['loss']}"
        ),
    )
    yield (
        "model",
        (
            f"{how_many(runs['parameters'], 'parameter')}, {runs['state_bytes']:,} bytes; a batch takes "
            f"{runs['flops_forward_per_batch']:,} FLOPs forward and "
            f"{runs['activation_bytes_per_batch']:,} bytes"
        ),
    )
    yield "operations", ", ".join(f"{op} x{count}" for op, count in runs["operations"].items())
    yield from leaving(leaves)


def length(runs: dict[str, Any]) -> str:
    """How long a training of ``what_runs`` is, in a round."""
    return how_many(runs["epochs"], "epoch") if runs["epochs"] else how_many(runs["steps"], "step")


def leaving(leaves: dict[str, Any]) -> Iterable[tuple[str, object]]:
    """``what_leaves`` as lines for people."""
    yield "what leaves, once", leaves["once"]
    yield (
        "what leaves, each round",
        f"{leaves['every_round']}; at most {leaves['update_bytes']:,} bytes",
    )
    yield "what that may tell", leaves["may_tell"]


def column_rows(schema: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    """The schema's columns as rows of a table: name, kind, unit, classes or shape."""
    for column in (*schema["features"], schema["label"]):
        role = "label" if column is schema["label"] else "input"
        yield column["name"], role, column["kind"], column["unit"] or "", some(column["classes"] or ())
    for field in schema["arrays"]:
        yield field["name"], "input", f"array of {field['dtype']}", "", " x ".join(map(str, field["shape"]))


def _noise(noise: dict[str, Any] | None, rounds: int) -> str:
    if noise is None:
        return "none: no differential privacy"
    clip = "" if noise["example_clip"] is None else f", examples clipped to {noise['example_clip']:g}"
    sizes = noise["epsilon_by_rows"].items()
    figures = ", ".join(
        ("unbounded" if value is None else f"{value:.3g}")
        + (f" with {how_many(int(size), 'row')}" if noise["kind"] == "local" else "")
        for size, value in sizes
    )
    models = noise["epsilon_of_models"]
    return (
        f"{noise['kind']}, multiplier {noise['multiplier']:g}{clip}; protects {noise['protects']}: epsilon "
        f"{figures} at delta {noise['delta']:g} over {how_many(rounds, 'round')}"
        + ("" if models is None else f"; {models:.3g} for who sees only models")
    )


def _windows(windows: dict[str, int]) -> str:
    """How long each phase may take, at most."""
    return (
        f"{_span(windows['enrol_s'])} to enrol; {_span(windows['round_s'])} for the updates of a round and "
        f"{_span(windows['anchor_s'])} to anchor it; {_span(windows['commit_s'])} to commit scores, "
        f"{_span(windows['reveal_s'])} to reveal them, {_span(windows['settle_s'])} to settle; "
        f"{_span(windows['claim_s'])} to claim"
    )


def _until(deadline: int | None, now: int) -> str:
    if deadline is None:
        return ""
    left = deadline - now
    if left < 0:
        return f", its window ended {_span(-left)} ago"
    return f", {_span(left)} left"


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
