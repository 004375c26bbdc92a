"""Write the generated part of docs/benchmarks.md from the results files; no figure in it has another source.

Run as: python -m benchmarks.render
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import GROWTH, RESULTS, Row, growth_lines, megabytes, read_rows, seconds
from benchmarks.targets import Verdict, peer_verdicts, ratio, scale_verdicts
from benchmarks.workloads import WORKLOADS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- begin figures -->", "<!-- end figures -->"

_NAMES = {
    "galaxy": "Galaxy Learning",
    "galaxy-paid": "Galaxy Learning, paid round",
    "bare": "bare arithmetic",
    "torch-loop": "plain PyTorch loop",
    "pfl": "pfl-research",
    "flower": "Flower",
}


def figures(peers: Sequence[Row], scale: Sequence[Row], overhead: Sequence[Mapping[str, Any]] = ()) -> str:
    """The generated part of the page, as Markdown."""
    parts = ["## Against peers", *_origin(peers)]
    parts += [_against(peers, work) for work in WORKLOADS if any(row.work == work for row in peers)]
    if peers:
        parts += ["### Targets", _targets(peer_verdicts(peers))]
    parts += ["## As it grows", *_origin(scale)]
    if scale:
        parts += [markdown(GROWTH, growth_lines(scale)), "### Targets", _targets(scale_verdicts(scale))]
    if overhead:
        parts += ["## What the protocol costs", _measured_on(overhead[0]["machine"]), _costs(overhead)]
    return "\n\n".join(parts)


def render(
    page: str, peers: Sequence[Row], scale: Sequence[Row], overhead: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The page with its generated part renewed.

    Raises:
        ValueError: the page lacks the marks between which it goes.
    """
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"{BEGIN} and {END} must stand in the page, in this order")
    return f"{before}{BEGIN}\n\n{figures(peers, scale, overhead)}\n\n{END}{after}"


def _origin(rows: Sequence[Row]) -> list[str]:
    """Where and when the rows were measured: one sentence for each machine and day."""
    found: dict[str, int] = {}
    for row in rows:
        machine = row.extra.get("machine")
        if not isinstance(machine, dict):
            raise ValueError(f"{row.work} {row.system}: machine is missing")
        text = _measured_on(machine)
        found[text] = max(found.get(text, 0), int(row.extra.get("repeats", 1)))
    if not found:
        return ["Not measured yet."]
    return [f"{text} Up to {repeats} runs of each program." for text, repeats in found.items()]


def _measured_on(machine: Mapping[str, Any]) -> str:
    return (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}."
    )


def _against(rows: Sequence[Row], work: str) -> str:
    lines = []
    for row in (row for row in rows if row.work == work):
        times = [
            ratio(rows, work, row.system, "galaxy", field)
            for field in ("round_seconds_best", "process_seconds", "peak_mb")
        ]
        lines.append(
            [
                _NAMES.get(row.system, row.system),
                row.version,
                seconds(row.round_seconds_best),
                seconds(row.round_seconds_median),
                seconds(row.process_seconds),
                megabytes(row.peak_mb),
                *("" if found is None else f"{found:.3g}x" for found in times),
                f"{row.load:.2f}",
            ]
        )
    header = [
        "system",
        "version",
        "best round",
        "median round",
        "process",
        "peak",
        "best round, times ours",
        "process, times ours",
        "peak, times ours",
        "load",
    ]
    spec = WORKLOADS[work]
    title = (
        f"### {work}: {spec.parameters:,} parameters, {spec.per_round} of {spec.owners} owners a round, "
        f"{spec.rounds} rounds"
    )
    return f"{title}\n\n{markdown(header, lines)}"


def _targets(verdicts: Sequence[Verdict]) -> str:
    lines = []
    for verdict in verdicts:
        asked = f"{'>=' if verdict.at_least else '<='} {verdict.asked:g}{verdict.unit}"
        if verdict.found is None:
            lines.append([verdict.name, asked, "not measured", ""])
        else:
            found = f"{verdict.found:.3g}{verdict.unit}"
            lines.append([verdict.name, asked, found, "met" if verdict.met else "missed"])
    return markdown(["target", "asked", "found", ""], lines)


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        target, found, unit = row["target"], row["violations"], row["unit"]
        asked = "" if target is None else f"<= {target:g} {unit}"
        verdict = "" if target is None else "met" if found <= target else "missed"
        lines.append(
            [row["row"], f"{found:,.4g} {unit}" if found < 1e4 else f"{found:,.0f} {unit}", asked, verdict]
        )
    return markdown(["figure", "found", "asked", ""], lines)


def overhead_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that ``benchmarks.overhead`` wrote; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column left and the others right aligned."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def main() -> None:
    """Renew the page."""
    page = PAGE.read_text(encoding="utf-8")
    renewed = render(
        page,
        read_rows(RESULTS / "peers.json"),
        read_rows(RESULTS / "scale.json"),
        overhead_rows(RESULTS / "overhead.json"),
    )
    if renewed != page:
        PAGE.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    main()
