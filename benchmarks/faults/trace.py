"""A run as a story: what was sent to the chain, what nodes said, what went wrong, in order of time."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.faults.play import Played, signer
from benchmarks.faults.scenario import EVALUATORS, Scenario

from galaxylearning.simulation.stage import GENESIS_S


def lines(played: Played) -> Iterator[str]:
    """The whole run, a line for each thing that happened."""
    yield from _setting(played.scenario)
    names = {
        signer(name).address: name for name in (*EVALUATORS, *played.scenario.owners, "relayer", "requester")
    }
    found: list[tuple[float, str]] = []
    for sent in played.ledger.transactions:
        if sent.call.contract == "token":
            continue
        result = f"refused: {sent.refused}" if sent.refused else ", ".join(name for _, name, _ in sent.events)
        who = names.get(sent.sender, sent.sender)
        found.append((float(sent.timestamp - GENESIS_S), f"chain    {who}: {sent.call.function} -> {result}"))
    found += [
        (at_s, f"says     {name}: {progress.step} {progress.facts or ''}")
        for at_s, name, progress in played.told
    ]
    found += [(one.at_s, f"fault    {one.node}: {one.fault} at '{one.doing}'") for one in played.incidents]
    for at_s, text in sorted(found, key=lambda pair: pair[0]):
        yield f"{at_s:9.2f} s  {text}"


def _setting(scenario: Scenario) -> Iterator[str]:
    owners = ", ".join(scenario.owners)
    yield f"seed {scenario.seed}: {scenario.privacy}, {scenario.rounds} rounds, owners {owners}"
    yield f"on chain by themselves: {', '.join(sorted(scenario.direct)) or 'nobody'}"
    rates = ", ".join(f"{kind} {rate:.3f}" for kind, rate in scenario.weather.rates.items())
    yield f"faults until {scenario.weather.until_s:.0f} s: {rates}"
    for away in scenario.absences:
        yield f"{away.node} is gone from {away.at_s:.0f} s for {away.for_s:.0f} s"
    for jump in scenario.chain_jumps:
        yield f"the chain's clock jumps at {jump.at_s:.0f} s by {jump.by_s} s"
    yield "the job must settle" if scenario.must_settle else "the job may be aborted"
