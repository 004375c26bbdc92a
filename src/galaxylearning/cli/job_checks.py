"""What ``galaxy job check`` tells of a compiled job file."""

from __future__ import annotations

from typing import Any

import msgspec

from galaxylearning.cli import job_facts, output
from galaxylearning.cli.job_file import Trial, require_step
from galaxylearning.config import Settings
from galaxylearning.errors import JobRefused
from galaxylearning.messages.terms import Terms, encode_terms
from galaxylearning.nodes.seating import ANY_SEAT
from galaxylearning.nodes.windows import require_windows
from galaxylearning.protocol import calls
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.masking import few_projections
from galaxylearning.simulation.prepare import terms_without_chain
from galaxylearning.units import how_many


def checked(compiled: CompiledJob, seats: int, trial: Trial | None) -> dict[str, Any]:
    """All of it as plain values; ``escrow`` is for a committee of ``seats``.

    Raises:
        JobRefused, ConfigRefused: with so many evaluators the job could not be posted, not even on a chain
            on which everything is final at once.
    """
    job, terms = compiled.job, terms_without_chain(compiled, seats=seats)
    encode_terms(terms)
    require_step(compiled, terms)
    require_windows(terms, finality_s=0, stagger_s=Settings().stagger_ms / 1000)
    warnings = (few_projections(terms, compiled.cost.parameters), _unseated(compiled, terms))
    return {
        "title": job.title,
        "graph": compiled.graph.digest.hex(),
        "schema": job_facts.schema_facts(job.schema),
        "test_rows": len(compiled.test),
        "runs": job_facts.what_runs(compiled.graph, compiled.cost, job.plan, job.loss),
        "plan": msgspec.to_builtins(job.plan),
        "price": {
            "bounty": terms.price.bounty,
            "fee_per_seat": terms.price.fee_per_seat,
            "target_gain": job.price.target_gain,
        },
        "escrow": str(calls.escrow(terms)),
        "seats": seats,
        "twin_projections": None if terms.masking is None else terms.masking.twin_projections,
        "warning": ". ".join(one for one in warnings if one) or None,
        "trial": None
        if trial is None
        else {
            "untrained_loss": trial.untrained_loss,
            "trained_loss": trial.trained_loss,
            "steps": trial.steps,
            "suggested_target_gain": trial.gain if trial.gain > 0 else None,
        },
    }


def _unseated(compiled: CompiledJob, terms: Terms) -> str | None:
    """Why evaluators whose operators chose nothing would take no seat, if they would not."""
    try:
        ANY_SEAT.require(terms, compiled.graph, finality_s=0, stagger_s=Settings().stagger_ms / 1000)
    except JobRefused as refused:
        return f"Evaluators take no seat unless their operators allow more than by default: {refused}"
    return None


def show_checked(facts: dict[str, Any]) -> None:
    """The same for people."""
    runs, price, trial = facts["runs"], facts["price"], facts["trial"]
    rows: list[tuple[str, object]] = [
        ("test set", how_many(facts["test_rows"], "row")),
        ("model", f"{how_many(runs['parameters'], 'parameter')}, {runs['state_bytes']:,} bytes"),
        ("operations", ", ".join(f"{op} x{count}" for op, count in runs["operations"].items())),
        (
            "a batch costs",
            f"{runs['flops_forward_per_batch']:,} FLOPs forward, "
            f"{runs['activation_bytes_per_batch']:,} bytes of intermediate results",
        ),
        (
            "plan",
            f"{how_many(runs['rounds'], 'round')} of {job_facts.length(runs)}, batches of "
            f"{runs['batch_size']}, {runs['optimizer']}",
        ),
        (
            "escrow",
            f"{output.tokens(facts['escrow'])}: bounty {output.tokens(price['bounty'])} and "
            f"{output.tokens(price['fee_per_seat'])} for each of {how_many(facts['seats'], 'evaluator')}",
        ),
        (
            "target gain",
            f"{price['target_gain']:g} {runs['value_unit']} per sample. Each data owner is paid for its "
            "own value above zero; those below zero give nothing back, so that payouts may come to more than "
            "the model's gain, never to more than the bounty",
        ),
    ]
    if trial is not None:
        rows.append(
            (
                "trial",
                f"loss {trial['untrained_loss']:.4f} untrained, {trial['trained_loss']:.4f} after "
                f"{how_many(trial['steps'], 'step')} on half of the test set, on the other half",
            )
        )
        suggested = trial["suggested_target_gain"]
        rows.append(
            (
                "suggested target gain",
                "none: this training improves nothing; look at model and plan"
                if suggested is None
                else f"{suggested:.3g} {runs['value_unit']} per sample; owners together may reach more",
            )
        )
    if facts["twin_projections"] is not None:
        rows.append(
            (
                "same data twice",
                f"looked for in {how_many(facts['twin_projections'], 'projection')} of each update"
                if facts["twin_projections"]
                else "not looked for: the job is too short for it, or the model too small in masked mode",
            )
        )
    if facts["warning"] is not None:
        rows.append(("warning", facts["warning"]))
    output.print_facts(f"{facts['title']}: compiles", rows)
    columns = ("column", "role", "kind", "unit", "classes or shape")
    output.print_table("What a data set must have", columns, job_facts.column_rows(facts["schema"]))
