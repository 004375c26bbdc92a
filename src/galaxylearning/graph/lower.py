"""From an exported program to nodes: aliases resolved, writes in place made functional, assertions dropped.

Imports the compiler's front end; only ``compile_model`` imports this module, and only when it is called.
"""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind

from galaxylearning.errors import UnsupportedModel
from galaxylearning.graph.document import Argument, ElementType, Node, Ref
from galaxylearning.graph.lowered import Lowered
from galaxylearning.graph.operations import BATCH_STATISTICS, OPERATIONS, Operation
from galaxylearning.graph.tensors import DTYPE_NAMES

_EXPORT_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    NotImplementedError,
    TorchDynamoException,
)
_INT_OPS = {
    operator.add: "int.add",
    operator.sub: "int.sub",
    operator.mul: "int.mul",
    operator.floordiv: "int.floordiv",
    operator.mod: "int.mod",
}
_A = {"parameter": "a parameter", "constant": "a constant", "input": "an input"}
_IDENTITY = frozenset({"aten.lift_fresh_copy.default", "aten.detach_.default", "aten.lift_fresh.default"})
_CASTS = frozenset({"aten.to.device", "aten.to.dtype_layout", "aten.to.other"})
_ASSERTIONS = ("aten._assert", "aten.sym_constrain")

_INSTEAD = (
    (r"item|nonzero|_local_scalar|masked_select|unique|bincount", "torch.where, or masks of a fixed shape"),
    (r"fft|complex|view_as_real|stft|angle|conj", "two real channels instead of complex numbers"),
    (
        r"rand|bernoulli|normal|multinomial|rrelu|alpha_dropout",
        "nn.Dropout, the one source of chance a graph has",
    ),
    (r"grad_enabled", "tensor.detach() instead of torch.no_grad()"),
    (r"autocast", "explicit .float() casts"),
    (r"^cond$|while_loop|map_impl|scan|associative", "torch.where, or a loop of a fixed length"),
    (r"fill_|copy_|index_put|scatter|setitem", "torch.where or torch.cat to build a new tensor"),
    (r"adaptive_max_pool|max_pool.*indices|fractional", "nn.MaxPool or nn.AdaptiveAvgPool"),
    (r"embedding_bag", "nn.Embedding and a mean over the sequence"),
    (r"sort|topk|argsort", "torch.max over a dimension, or softmax"),
    (r"svd|qr|inverse|solve|eig|cholesky|det", "products of matrices"),
)


def lower(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Lowered:
    """Export ``module`` in the mode it is in, the first dimension of every input open, and lower the result.

    Raises:
        UnsupportedModel: it cannot be exported, or uses what a graph cannot say.
    """
    batch = Dim("batch")
    try:
        with _quiet():
            program = export(
                module, examples, dynamic_shapes=tuple({0: batch} for _ in examples), strict=False
            )
    except _EXPORT_ERRORS as error:
        raise _not_exported(error) from error
    return _Lowering(program).run()


class _Lowering:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.order = list(program.graph.nodes)
        self.position = {node: index for index, node in enumerate(self.order)}
        self.root: dict[fx.Node, fx.Node] = {}
        self.same: dict[fx.Node, fx.Node] = {}
        self.current: dict[fx.Node, Ref] = {}
        self.kinds: dict[fx.Node, str] = {}
        self.nodes: list[Node] = []
        self.lines: dict[str, str] = {}
        self.updated: set[str] = set()
        self.targets: dict[str, str] = {}

    def run(self) -> Lowered:
        self._placeholders()
        output = self._single_output()
        self._aliases()
        live = self._live(output)
        for node in self.order:
            if node.op == "call_function" and node in live:
                self._convert(node, live)
        used = {ref.name for node in self.nodes for ref in _refs(node) if ref.kind == "state"}
        final = self._reference(output)
        if final.kind == "state":
            used.add(final.name)
        state = {name: kind for name, kind in self.targets.items() if name in used}
        return Lowered(
            inputs=tuple(str(n.name) for n in self.order if self.kinds.get(n) == "input"),
            state=state,
            tensors={name: self._tensor(name) for name in state},
            updated=frozenset(self.updated),
            nodes=tuple(self.nodes),
            output=final,
            lines=self.lines,
        )

    # ---- what the program declares

    def _placeholders(self) -> None:
        by_name = {node.name: node for node in self.order if node.op == "placeholder"}
        kinds = {
            InputKind.USER_INPUT: "input",
            InputKind.PARAMETER: "parameter",
            InputKind.BUFFER: "buffer",
            InputKind.CONSTANT_TENSOR: "constant",
        }
        for spec in self.program.graph_signature.input_specs:
            kind = kinds.get(spec.kind)
            node = by_name.get(getattr(spec.arg, "name", ""))
            if kind is None or node is None or not isinstance(node.meta.get("val"), torch.Tensor):
                raise UnsupportedModel(
                    f"an input of kind {spec.kind.name} is not supported; pass tensors only"
                )
            self.kinds[node] = kind
            if kind == "input":
                self.current[node] = Ref("input", node.name)
            else:
                name = str(spec.target)
                self.targets[name] = kind
                self.current[node] = Ref("state", name)

    def _single_output(self) -> fx.Node:
        specs = self.program.graph_signature.output_specs
        outputs = next(node for node in self.order if node.op == "output").args[0]
        pairs = [
            (spec, node)
            for spec, node in zip(specs, outputs, strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
        ]
        if len(pairs) != 1 or len(specs) != 1 or not isinstance(pairs[0][1], fx.Node):
            raise UnsupportedModel(
                "the model must return exactly one tensor; return the logits or the prediction only"
            )
        found: fx.Node = pairs[0][1]
        return found

    def _tensor(self, name: str) -> torch.Tensor:
        held = self.program.state_dict.get(name)
        if held is None:
            held = self.program.constants[name]
        found: torch.Tensor = held.detach().clone().contiguous()
        return found

    # ---- aliases and liveness

    def _aliases(self) -> None:
        """For every tensor node: the node whose memory it shares, and the node it is the very same tensor
        as.
        """
        for node in self.order:
            self.root[node] = self.same[node] = node
            if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
                continue
            first, name = node.args[0], str(node.target)
            if name in _IDENTITY or _is_in_place(node):
                self.same[node] = self.same[first]
            # Dropout hands its argument on when it drops nothing.
            shares = self.same[node] is not node or _is_view(node) or "dropout" in name
            if shares or node.target is operator.getitem:
                self.root[node] = self.root[first]

    def _live(self, output: fx.Node) -> set[fx.Node]:
        live, roots = {output}, {self.root[output]}
        for node in reversed(self.order):
            if node.op != "call_function":
                continue
            if _is_in_place(node) and (
                self.kinds.get(self.root[node]) is not None or self.root[node] in roots
            ):
                live.add(node)
            if str(node.target) in BATCH_STATISTICS:
                live.add(node)
            if node in live and not str(node.target).startswith(_ASSERTIONS):
                live.update(node.all_input_nodes)
                roots.update(self.root[n] for n in node.all_input_nodes)
        return live

    # ---- conversion

    def _convert(self, node: fx.Node, live: set[fx.Node]) -> None:
        target, name = node.target, str(node.target)
        if name.startswith(_ASSERTIONS):
            return
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype not in DTYPE_NAMES:
                raise _unsupported(
                    f"{name} on {tensor.dtype}", node, "two real channels instead of complex numbers"
                )
        if name in _IDENTITY:
            self.current[node] = self._reference(node.args[0])
        elif name in _CASTS:
            self._cast(node)
        elif target in _INT_OPS and isinstance(value, (int, torch.SymInt)):
            self.current[node] = self._emit(
                node, _INT_OPS[target], tuple(self._argument(node, a) for a in node.args)
            )
        elif target is operator.getitem:
            self.current[node] = self._emit(
                node, "tuple.item", tuple(self._argument(node, a) for a in node.args)
            )
        elif _is_in_place(node):
            self._write(node, live)
        elif name in OPERATIONS:
            self.current[node] = self._emit(node, name, *self._arguments(node, OPERATIONS[name]))
        else:
            raise _unsupported(name, node, None)

    def _cast(self, node: fx.Node) -> None:
        given = [*node.args[1:], *node.kwargs.values()]
        dtypes = [a for a in given if isinstance(a, torch.dtype)]
        dtypes += [a.meta["val"].dtype for a in given if isinstance(a, fx.Node)]
        source = self._reference(node.args[0])
        if not dtypes:
            self.current[node] = source
            return
        if dtypes[0] not in DTYPE_NAMES:
            raise _unsupported(f"a cast to {dtypes[0]}", node, "a real type")
        self.current[node] = self._emit(node, "aten.to.dtype", (source, ElementType(DTYPE_NAMES[dtypes[0]])))

    def _write(self, node: fx.Node, live: set[fx.Node]) -> None:
        """A write in place: the same without it, if nothing else sees the written memory."""
        name = str(node.target)
        written = self.same[node]
        root = self.root[node]
        kind = self.kinds.get(root)
        if kind in _A:
            raise _unsupported(
                f"{name}, which writes to {_A[kind]}", node, "a new tensor, or a registered buffer"
            )
        here = self.position[node]
        seen = [
            other
            for other in self.order
            if self.root.get(other) is root
            and self.same[other] is not written
            and self.position[other] < here
            and any(user in live and self.position[user] > here for user in other.users)
        ]
        if seen or (kind == "buffer" and written is not root):
            raise _unsupported(
                f"{name} into part of a tensor", node, "torch.where or torch.cat to build a new tensor"
            )
        packet, _, overload = name.removeprefix("aten.").partition(".")
        functional = f"aten.{packet.removesuffix('_')}.{overload}"
        if packet == "copy_" and kind == "buffer":
            result = self._reference(node.args[1])
        elif functional in OPERATIONS:
            result = self._emit(node, functional, *self._arguments(node, OPERATIONS[functional]))
        else:
            raise _unsupported(name, node, None)
        if kind == "buffer":
            buffer = Ref("state", str(self._state_name(root)))
            self.updated.add(buffer.name)
            result = self._emit(node, "state.update", (buffer, result))
        self.current[written] = result

    def _state_name(self, placeholder: fx.Node) -> str:
        for spec in self.program.graph_signature.input_specs:
            if getattr(spec.arg, "name", "") == placeholder.name:
                return str(spec.target)
        raise KeyError(placeholder.name)

    def _emit(
        self,
        node: fx.Node,
        op: str,
        args: tuple[Argument, ...],
        kwargs: tuple[tuple[str, Argument], ...] = (),
    ) -> Ref:
        name = f"{op.split('.')[1]}_{len(self.nodes)}"
        self.nodes.append(Node(name, op, args, kwargs))
        line = _line(node)
        if line:
            self.lines[name] = line
        flag = BATCH_STATISTICS.get(op)
        if flag is not None:
            operation = OPERATIONS[op]
            given = dict(zip((p.name for p in operation.parameters), args, strict=False)) | dict(kwargs)
            held = [given.get(key) for key in ("running_mean", "running_var")]
            if given.get(flag):
                self.updated.update(ref.name for ref in held if isinstance(ref, Ref) and ref.kind == "state")
        return Ref("node", name)

    def _arguments(
        self, node: fx.Node, operation: Operation
    ) -> tuple[tuple[Argument, ...], tuple[tuple[str, Argument], ...]]:
        """The call's arguments without defaults and without what is not offered, positional as far as they
        go.
        """
        positional = [p for p in operation.parameters if not p.is_keyword_only]
        given = {p.name: a for p, a in zip(positional, node.args, strict=False)} | dict(node.kwargs)
        kept: dict[str, Argument] = {}
        for parameter in operation.parameters:
            if parameter.name not in given:
                continue
            raw = given[parameter.name]
            if not parameter.is_offered:
                if parameter.kind != "none" and raw != parameter.default:
                    raise _unsupported(f"{operation.name} with {parameter.name}", node, "the default")
                continue
            value = self._argument(node, raw)
            is_default = (
                not parameter.is_required
                and type(value) is type(parameter.default)
                and value == parameter.default
            )
            if not is_default:
                kept[parameter.name] = value
        args: list[Argument] = []
        for parameter in positional:
            if parameter.name not in kept:
                break
            args.append(kept.pop(parameter.name))
        return tuple(args), tuple(sorted(kept.items()))

    def _argument(self, node: fx.Node, raw: Any) -> Argument:
        if isinstance(raw, fx.Node):
            return self._reference(raw)
        if isinstance(raw, (list, tuple)):
            return tuple(self._argument(node, item) for item in raw)
        if raw is None or isinstance(raw, (bool, int, float, str)):
            return raw
        if isinstance(raw, torch.dtype) and raw in DTYPE_NAMES:
            return ElementType(DTYPE_NAMES[raw])
        raise _unsupported(f"{node.target} with the argument {raw!r}", node, "real numbers and tensors")

    def _reference(self, raw: Any) -> Ref:
        if not isinstance(raw, fx.Node):
            raise UnsupportedModel("the model must return a tensor")
        found = self.current.get(self.same[raw]) if self.same[raw] in self.current else self.current.get(raw)
        if found is None:
            raise _unsupported(str(raw.target), raw, None)
        return found


def _refs(node: Node) -> Iterator[Ref]:
    for argument in (*node.args, *(value for _, value in node.kwargs)):
        for item in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(item, Ref):
                yield item


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or str(node.target) in _IDENTITY:
        return False
    first = schema.arguments[0].alias_info if schema.arguments else None
    return bool(first is not None and first.is_write)


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


# ---- saying what is wrong


def _unsupported(what: str, node: fx.Node, instead: str | None) -> UnsupportedModel:
    target = node.target
    if instead is None:
        text = str(target)
        instead = next((better for pattern, better in _INSTEAD if re.search(pattern, text)), None)
    if isinstance(target, torch._ops.OpOverload) and target.namespace != "aten":
        what = f"custom operation {what}"
        instead = instead or "PyTorch's own operations"
    elif isinstance(target, torch._ops.HigherOrderOperator):
        what = f"higher-order operation {what}"
    line = _line(node)
    where = f" at {line}" if line else ""
    return UnsupportedModel(
        f"{what} is not supported{where}; use {instead or 'operations listed in docs/model-graph.md'}"
    )


def _not_exported(error: BaseException) -> UnsupportedModel:
    text = str(error)
    line = _raising_line(error) or _stack_line(text)
    where = f" at {line}" if line else ""
    first = next((part.strip() for part in text.splitlines() if part.strip()), type(error).__name__)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return UnsupportedModel(
            f"control flow or a shape that depends on data is not supported{where}; use torch.where, or "
            f"masks of a "
            f"fixed shape ({first[:200]})"
        )
    if "fake tensor" in text:
        return UnsupportedModel(
            f"the model writes to a parameter or keeps a tensor between calls{where}; use a new tensor, or a "
            f"registered buffer ({first[:200]})"
        )
    if "Constraints violated" in text or "specialized" in text.lower():
        return UnsupportedModel(
            f"the model fixes the batch size{where}; use x.shape[0] or -1 where it writes a number "
            f"({first[:200]})"
        )
    return UnsupportedModel(
        f"the model cannot be exported{where}; make its forward plain tensor code ({first[:300]})"
    )


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_OUTSIDE = tuple(str(Path(p).resolve()) for p in (Path(torch.__file__).parent, Path(__file__).parent))


def _line(node: fx.Node) -> str | None:
    return _stack_line(node.meta.get("stack_trace") or "")


def _stack_line(text: str) -> str | None:
    found = [m for m in _FRAME.finditer(text) if _is_users(m.group(1))]
    return f"{found[-1].group(1)}:{found[-1].group(2)}" if found else None


def _raising_line(error: BaseException) -> str | None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = str(Path(filename).resolve())
    return not path.startswith((*_OUTSIDE, sysconfig.get_paths()["stdlib"]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the front end's warnings and logs off the user's screen; what matters comes back as an error."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
