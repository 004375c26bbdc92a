"""How a graph's operations are computed when many data owners' models run at once.

Knows operations and number formats, but neither cohorts nor plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from galaxylearning.graph.document import ModelGraph
from galaxylearning.graph.modes import draws, writes_statistics
from galaxylearning.graph.operations import RECURRENT

Convolutions: TypeAlias = Literal["grouped", "unfolded"]
Precision: TypeAlias = Literal["float32", "bfloat16"]

_CONV2D = torch.ops.aten.conv2d.default
_PRODUCTS = frozenset(
    {
        torch.ops.aten.linear.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.mm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten.baddbmm.default,
        torch.ops.aten.matmul.default,
        torch.ops.aten.conv1d.default,
        torch.ops.aten.conv3d.default,
        _CONV2D,
    }
)


def why_not_stackable(graph: ModelGraph) -> str | None:
    """Why copies of this graph cannot be trained as one batch of models, or None if they can."""
    for node in graph.nodes:
        if writes_statistics(node):
            return f"node {node.name} keeps batch statistics"
        if draws(node):
            return f"node {node.name} draws dropout, which every data owner draws alone"
        if node.op == "state.update":
            return f"node {node.name} changes a buffer"
    for entry in graph.state:
        if entry.federate == "keep_local":
            return f"buffer {entry.name} stays with its data owner"
    if len(graph.inputs) != 1:
        return f"the graph takes {len(graph.inputs)} inputs; data owners' rows have one"
    return None


def has_conv2d(graph: ModelGraph) -> bool:
    """Whether there is a convolution that :class:`Lowering` may unfold."""
    return any(node.op == "aten.conv2d.default" for node in graph.nodes)


def is_recurrent(graph: ModelGraph) -> bool:
    """Whether a recurrent layer must be taken apart."""
    return any(node.op in RECURRENT for node in graph.nodes)


class Lowering(TorchFunctionMode):
    """While active, products may run in bfloat16, and 2-D convolutions as one matrix product of patches.

    Results are float32 again after every product, so everything else (norms, softmax, losses, the
    optimiser) keeps its precision. A convolution with a model of its own for each data owner otherwise
    becomes one with as many groups as there are owners, which accelerators compute slowly. ``patch_bytes``
    counts what unfolding took so far.
    """

    def __init__(self, precision: Precision, convolutions: Convolutions) -> None:
        super().__init__()
        self._half = precision == "bfloat16"
        self._unfold = convolutions == "unfolded"
        self.patch_bytes = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        if self._half:
            args = tuple(_narrow(argument) for argument in args)
            kwargs = {key: _narrow(argument) for key, argument in (kwargs or {}).items()}
        call = self._unfolded if func is _CONV2D and self._unfold else func
        result = call(*args, **(kwargs or {}))
        return result.float() if self._half and result.dtype == torch.bfloat16 else result

    def _unfolded(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        """A 2-D convolution as patches times weights; with groups as it was."""
        if groups != 1 or input.dim() != 4:
            result: torch.Tensor = _CONV2D(input, weight, bias, stride, padding, dilation, groups)
            return result
        step, edge, spread = _pair(stride), _pair(padding), _pair(dilation)
        kernel = (weight.shape[2], weight.shape[3])
        size = [
            (input.shape[2 + i] + 2 * edge[i] - spread[i] * (kernel[i] - 1) - 1) // step[i] + 1
            for i in (0, 1)
        ]
        patches = F.unfold(input, kernel, spread, edge, step)
        self.patch_bytes += patches.numel() * patches.element_size()
        product = torch.matmul(weight.reshape(weight.shape[0], -1), patches)
        outputs = product.reshape(input.shape[0], weight.shape[0], size[0], size[1])
        return outputs if bias is None else outputs + bias[:, None, None]


def _narrow(argument: Any) -> Any:
    is_float = isinstance(argument, torch.Tensor) and argument.dtype == torch.float32
    return argument.bfloat16() if is_float else argument


def _pair(value: Any) -> tuple[int, int]:
    items = (value, value) if isinstance(value, int) else tuple(value)
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


@contextmanager
def lowered(
    precision: Precision, convolutions: Convolutions, *, is_recurrent: bool
) -> Iterator[Lowering | None]:
    """Compute like this for the duration; what holds outside is restored.

    Attention and recurrent layers are taken apart into products: the fused kernels know no batch of models.
    TF32 stays off, because ten bits of mantissa are not float32.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=not is_recurrent, allow_tf32=False))
        if is_recurrent:
            # Set one by one: the library's own context manager sets TF32 as well, and warns of it.
            switch: Callable[..., Any] = torch.backends.mkldnn.set_flags
            enabled, *_ = switch(False, _fp32_precision=None)
            stack.callback(switch, enabled, _fp32_precision=None)
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
        if precision == "float32" and convolutions == "grouped":
            yield None
        else:
            yield stack.enter_context(Lowering(precision, convolutions))
