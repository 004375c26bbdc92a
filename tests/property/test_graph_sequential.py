"""Plain stacks lowered directly are, to the byte, what the compiler's front end makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from galaxylearning.graph import compile as compiling
from galaxylearning.graph import compile_model
from galaxylearning.graph.sequential import lower_sequential

BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "dropout": lambda: nn.Dropout(0.25),
    "flatten": nn.Flatten,
}


@st.composite
def stacks(draw: st.DrawFn) -> nn.Sequential:
    width = 5
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        wide = draw(st.integers(1, 6))
        linear = nn.Linear(width, wide, bias=draw(st.booleans()))
        if layers:
            linear.requires_grad_(draw(st.booleans()))
        layers.append(linear)
        layers.extend(
            BETWEEN[name]() for name in draw(st.lists(st.sampled_from(sorted(BETWEEN)), max_size=3))
        )
        if draw(st.booleans()):
            layers = [nn.Sequential(*layers)]
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, 2))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stacks())
def test_a_stack_gives_the_same_bytes_either_way(stack: nn.Sequential) -> None:
    example = (torch.randn(3, 5),)
    assert lower_sequential(stack, example) is not None
    graph, weights = compile_model(stack, example, loss="cross_entropy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "lower_sequential", lambda *_: None)
        other, others = compile_model(stack, example, loss="cross_entropy")
    assert graph.to_bytes() == other.to_bytes()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(weights[name].requires_grad == others[name].requires_grad for name in weights)


class _Subclass(nn.Sequential):
    """Might do anything."""


def _hooked() -> nn.Sequential:
    stack = nn.Sequential(nn.Linear(5, 2))
    stack[0].register_forward_hook(lambda _module, _args, output: output * 2)
    return stack


def _shared() -> nn.Sequential:
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, layer)


def _tied() -> nn.Sequential:
    stack = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    stack[1].weight = stack[0].weight
    return stack


@pytest.mark.parametrize(
    "stack",
    [
        _Subclass(nn.Linear(5, 2)),
        _hooked(),
        _shared(),
        _tied(),
        nn.Sequential(nn.Linear(5, 2).double()),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 2))),
        nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Linear(5, 2), nn.GELU(approximate="tanh")),
        nn.Sequential(nn.Identity()),
        nn.Linear(5, 2),
    ],
)
def test_anything_else_is_left_to_the_front_end(stack: nn.Module) -> None:
    assert lower_sequential(stack, (torch.randn(3, 5),)) is None


def test_integers_and_several_inputs_are_left_to_the_front_end() -> None:
    stack = nn.Sequential(nn.Linear(5, 2))
    assert lower_sequential(stack, (torch.zeros(3, 5, dtype=torch.int64),)) is None
    assert lower_sequential(stack, (torch.zeros(3, 5), torch.zeros(3, 5))) is None
