"""What lowering a module gives: the nodes of a graph, and the state they use. Imports no compiler."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.document import Node, Ref


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a graph needs of a module. ``state`` maps the names in use to their kinds."""

    inputs: tuple[str, ...]
    state: dict[str, str]
    tensors: dict[str, torch.Tensor]
    updated: frozenset[str]
    nodes: tuple[Node, ...]
    output: Ref
    lines: dict[str, str]

    def located(self, error: GraphRefused) -> str:
        """The refusal's message with the line of the user's model it comes from."""
        name = (error.where or "").rpartition(" ")[2]
        line = self.lines.get(name)
        return f"{error}, at {line}" if line else str(error)
