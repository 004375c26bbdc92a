"""Plain stacks of layers, lowered without the compiler's front end, which takes seconds to load.

What comes out is, to the byte, what the front end gives for the same stack. Anything that is not exactly one
of these modules (a subclass, a hook, a shared layer, another element type) is left to the front end.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from galaxylearning.graph.document import Argument, Node, Ref
from galaxylearning.graph.lowered import Lowered

_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
}
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def lower_sequential(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Lowered | None:
    """Lower a plain ``nn.Sequential`` on one float32 input; None if it is anything else."""
    if type(module) is not nn.Sequential or len(examples) != 1 or examples[0].dtype != torch.float32:
        return None
    layers = list(_layers(module, ""))
    seen = [id(p) for _, layer in layers if layer is not None for p in layer.parameters()]
    if any(layer is None for _, layer in layers) or len(set(seen)) != len(seen):
        return None
    nodes: list[Node] = []
    tensors: dict[str, torch.Tensor] = {}
    value = Ref("input", "input")
    for prefix, layer in layers:
        if layer is None or type(layer) is nn.Identity:
            continue
        op, rest = _operation(layer, prefix)
        for name, parameter in layer.named_parameters():
            tensors[prefix + name] = parameter.detach().clone()
        short = op.split(".")[1]
        nodes.append(Node(f"{short}_{len(nodes)}", op, (value, *rest)))
        value = Ref("node", nodes[-1].name)
    if not nodes:
        return None
    state = dict.fromkeys(tensors, "parameter")
    return Lowered(("input",), state, tensors, frozenset(), tuple(nodes), value, {})


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | None]]:
    """Name and module of every layer in order; None where one cannot be lowered here."""
    hooked = any(getattr(module, hooks, None) for hooks in _HOOKS) or "forward" in module.__dict__
    if type(module) is nn.Sequential and not hooked:
        for name, child in module.named_children():
            yield from _layers(child, f"{prefix}{name}.")
        if len(module) != len(list(module.named_children())):
            yield prefix, None  # the same layer twice
    else:
        yield prefix, None if hooked or not _is_known(module) else module


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Linear:
        return set(layer.state_dict()) <= {"weight", "bias"} and all(
            parameter.dtype == torch.float32 for parameter in layer.parameters()
        )
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is nn.GELU:
        return layer.approximate == "none"
    if type(layer) is nn.Dropout:
        return not layer.inplace
    return type(layer) in _PLAIN or type(layer) is nn.Identity


def _operation(layer: nn.Module, prefix: str) -> tuple[str, tuple[Argument, ...]]:
    """The operation, and its arguments after the first."""
    if isinstance(layer, nn.Linear):
        names = ("weight",) if layer.bias is None else ("weight", "bias")
        return "aten.linear.default", tuple(Ref("state", prefix + name) for name in names)
    if isinstance(layer, nn.Flatten):
        return "aten.flatten.using_ints", (1,)
    if isinstance(layer, nn.GELU):
        return "aten.gelu.default", ()
    if isinstance(layer, nn.Dropout):
        return "aten.dropout.default", (float(layer.p), True)
    return f"aten.{_PLAIN[type(layer)]}.default", ()
