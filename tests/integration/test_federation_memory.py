"""Nodes that live for many jobs keep nothing of those that are over, beside what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode

if TYPE_CHECKING:
    from tests.integration.conftest import Town


def test_a_node_lets_go_of_a_job_that_is_over(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.round_index == 1)
            held = {name: _held(node) for name, node in stage.nodes.items()}
            assert all(held.values()), held
            await stage.play()
            held = {name: _held(node) for name, node in stage.nodes.items()}
            assert not any(held.values()), held
            assert (await stage.audit()).verdict == "ok"

    anyio.run(main)


def _held(node: object) -> list[object]:
    """What a node holds of jobs."""
    assert isinstance(node, EvaluatorNode | DataOwnerNode | RelayerNode)
    view = node._view
    found: list[object] = [*view.job_ids, *view._states, *view._terms, *view._beacons, *view._anchored_in]
    found += [event for event in view.log if event.contract == "jobs"]
    if isinstance(node, EvaluatorNode):
        return [*found, *node._serving]
    if isinstance(node, DataOwnerNode):
        return [*found, *node._boards, *node._graphs, *node._told, *node._sent]
    return [*found, *node._boards]
