"""Which engine trains this graph on this machine: by what each can run, and by measurement where that leaves
a choice. Imports no tensor library unless an engine that needs one is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import numpy as np

from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.cores import usable_cores
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.engines.memory import MIB, process_rss_mib, require_budget
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph.document import ModelGraph
from galaxylearning.learning.vectors import F32, require_integer, require_number

if TYPE_CHECKING:
    from galaxylearning.graph.flat import FlatModel

Name: TypeAlias = Literal["reference", "stacked", "workers", "vmapped", "ray", "debug"]
NAMES: tuple[str, ...] = get_args(Name)

_SAMPLE_S = 0.2
"""About so long a candidate is measured, once it has warmed up."""
_HEAVY_FLOPS = 2e10
"""A round of fewer operations is over before another engine than the stacked one has started."""
_THREADED_PARAMETERS = 20_000
"""Products of smaller models take microseconds: a second thread would mostly wait for the interpreter."""
_VECTORS = 8
"""Parameter-sized vectors of one data owner's training, by Adam."""
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What every engine is built from; ``before_mib`` is what the process used before."""

    graph: ModelGraph
    weights: bytes
    cohort: Cohort
    training: Training
    budget_mib: float
    before_mib: float
    workers: int
    address: str | None
    dump: Path | None
    clip_norm: float


def check_engine(wanted: str) -> None:
    """Refuse an engine that does not exist.

    Raises:
        ConfigRefused: naming those that do.
    """
    if wanted not in ("auto", *NAMES):
        raise ConfigRefused(f"{wanted[:40]!r} given; allowed: auto, {', '.join(NAMES)}", where="engine")


def choose_engine(
    graph: ModelGraph,
    weights: bytes,
    cohort: Cohort,
    training: Training,
    *,
    wanted: str = "auto",
    budget_mib: float,
    workers: int | None = None,
    report: Callable[[str], None],
    address: str | None = None,
    dump: Path | None = None,
    clip_norm: float = 1.0,
) -> Engine:
    """The engine ``wanted``, or for ``auto`` the fastest of those that can train ``graph`` here.

    ``weights`` is the initial state as canonical safetensors. ``budget_mib`` bounds what the engine adds to
    the process, the libraries it imports included (``memory.available_mib`` is what a budget of the whole
    process leaves). ``workers`` is the number of cores to use, all unless given.
    ``address`` names a Ray cluster, ``dump`` where the debug engine writes a failure, ``clip_norm`` the norm
    that updates are clipped to. ``report`` is told in one line what was chosen and why.

    Where the training has privacy noise, only the reference can: it is taken, and ``report`` told why.

    Small dense graphs are stacked without measuring. A choice that was measured may fall otherwise next time:
    who resumes a run should ask for the engine the run began with.

    Raises:
        ConfigRefused: no such engine, it cannot train this graph here (and why), or the budget is too small.
        DataRefused, GraphRefused: as the engine.
    """
    check_engine(wanted)
    if workers is not None:
        require_integer(workers, "workers", low=1, high=1024)
    require_number(budget_mib, "budget_mib", low=0, high=1 << 30, low_open=True)
    wish = _Wish(
        graph,
        weights,
        cohort,
        training,
        budget_mib,
        process_rss_mib(),
        workers or usable_cores(),
        address,
        dump,
        clip_norm,
    )
    if training.noise is not None and wanted != "reference":
        engine = build("reference", wish)
        report(f"engine reference: {'the others' if wanted == 'auto' else wanted} cannot add privacy noise")
        return engine
    if wanted != "auto":
        engine = build(cast(Name, wanted), wish)
        report(f"engine {wanted}, as asked{_chosen(engine)}")
        return engine
    return _fastest(wish, candidates(wish), report)


def candidates(wish: _Wish) -> list[Name]:
    """Engines worth trying for this graph, the likeliest first; a single one need not be measured."""
    from galaxylearning.graph.dense import DenseProgram

    names: list[Name] = []
    is_dense = DenseProgram.of(wish.graph) is not None
    is_heavy = _round_flops(wish) >= _HEAVY_FLOPS
    if is_dense:
        names.append("stacked")
    if (is_heavy or not is_dense) and _has_accelerator():
        names.append("vmapped")
    if (is_heavy or not is_dense) and wish.workers > 1:
        names.append("workers")
    return names or ["reference"]


def build(name: Name, wish: _Wish) -> Engine:
    """The engine of that name.

    Raises:
        ConfigRefused, DataRefused, GraphRefused: as the engine.
    """
    return _BUILDERS[name](wish)


def _fastest(wish: _Wish, names: list[Name], report: Callable[[str], None]) -> Engine:
    engines: list[Engine] = []
    notes: list[str] = []
    for name in names:
        try:
            engines.append(build(name, wish))
        except ConfigRefused as refused:
            notes.append(f"{name} cannot: {refused}")
    if not engines:
        try:
            engines.append(build("reference", wish))
        except ConfigRefused as refused:
            told = "; ".join([*notes, f"reference cannot: {refused}"])
            raise ConfigRefused(f"none can train this graph here: {told}", where="engine") from None
    if len(engines) == 1:
        report("; ".join([f"engine {engines[0].name}{_chosen(engines[0])}", *notes]))
        return engines[0]
    seconds: list[float] = []
    try:
        for engine in engines:
            taken, note = _measured(engine, wish)
            seconds.append(taken)
            notes.append(note)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    best = engines[int(np.argmin(seconds))]
    for engine in engines:
        if engine is not best:
            engine.close()
    report(f"engine {best.name}{_chosen(best)}; {'; '.join(notes)}")
    return best


def _measured(engine: Engine, wish: _Wish) -> tuple[float, str]:
    """Seconds an owner, endless for an engine that refuses only now, and what to say of it."""
    try:
        taken = seconds_per_owner(engine, wish.graph, wish.weights, wish.cohort)
    except ConfigRefused as refused:
        return np.inf, f"{engine.name} cannot: {refused}"
    return taken, f"{engine.name} {1e3 * taken:.3g} ms an owner"


def seconds_per_owner(engine: Engine, graph: ModelGraph, weights: bytes, cohort: Cohort) -> float:
    """Seconds that a data owner's training takes on average, measured all over the cohort.

    One data owner warms up; then twice as many each time until about 0.2 s or the cohort are used up.
    """
    params, buffers = initial_vectors(graph, weights)
    count = 1
    while True:
        owners = np.unique(np.linspace(0, len(cohort) - 1, count).astype(np.int64))
        begun = time.perf_counter()
        for _ in engine.train(params, buffers, owners, 0):
            pass
        seconds = time.perf_counter() - begun
        if count > 1 and (seconds > _SAMPLE_S / 2 or count >= len(cohort)):
            return seconds / len(owners)
        count = 4 if count == 1 else 2 * count


def initial_vectors(graph: ModelGraph, weights: bytes) -> tuple[F32, F32]:
    """The initial parameters f32[P] and buffers f32[B] of a model, without a tensor library.

    Raises:
        GraphRefused: the weights are not this graph's.
    """
    from galaxylearning.graph.dense_weights import dense_weights_from_bytes

    arrays = dense_weights_from_bytes(graph, weights)
    trained = [entry for entry in graph.state if entry.trainable]
    loaded = [e for e in graph.state if e.kind == "buffer" and e.federate in ("mean", "sum")]
    params, buffers = (
        np.concatenate([np.empty(0, np.float32), *(arrays[entry.name].reshape(-1) for entry in entries)])
        for entries in (trained, loaded)
    )
    return params, buffers


def _round_flops(wish: _Wish) -> float:
    """About how many operations a round of all data owners takes, were the graph dense."""
    parameters = sum(entry.elements for entry in wish.graph.state if entry.trainable)
    plan = wish.training.plan
    if plan.epochs is not None:
        rows = float(plan.epochs * int(wish.cohort.offsets[-1]))
    else:
        rows = float(plan.steps or 0) * float(np.minimum(wish.cohort.counts, plan.batch_size).sum())
    return 6.0 * parameters * rows


def _has_accelerator() -> bool:
    """Whether PyTorch can use a GPU; it is not imported where there is no driver."""
    if not any(Path(file).exists() for file in _DEVICE_FILES) or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _left(wish: _Wish) -> float:
    """What the budget leaves after what was imported and built since the choice began.

    Raises:
        ConfigRefused: nothing is left.
    """
    used = max(0.0, process_rss_mib() - wish.before_mib)
    if used >= wish.budget_mib:
        raise ConfigRefused(
            f"is {wish.budget_mib:.0f} MiB; the engine's libraries alone take {used:.0f} MiB",
            where="budget_mib",
        )
    return wish.budget_mib - used


def _chosen(engine: Engine) -> str:
    told = getattr(engine, "chosen", "")
    return f" ({told})" if told else ""


# ---- one builder an engine


def _stacked(wish: _Wish) -> Engine:
    from galaxylearning.engines.stacked import StackedEngine
    from galaxylearning.graph.dense import DenseProgram, dense_weights_from_bytes

    program = DenseProgram.of(wish.graph)
    if program is None:
        reason = DenseProgram.why_not(wish.graph)
        raise ConfigRefused(f"cannot train this graph: {reason}", where="engine stacked")
    held = dense_weights_from_bytes(wish.graph, wish.weights)
    return StackedEngine(
        program,
        held,
        wish.cohort,
        wish.training,
        budget_mib=_left(wish),
        threads=wish.workers if program.parameter_count >= _THREADED_PARAMETERS else 1,
    )


def _workers(wish: _Wish) -> Engine:
    from galaxylearning.engines.workers import WorkerEngine

    return WorkerEngine(
        wish.graph, wish.weights, wish.cohort, wish.training, workers=wish.workers, budget_mib=_left(wish)
    )


def _vmapped(wish: _Wish) -> Engine:
    import torch

    from galaxylearning.engines.vmapped import VmappedEngine

    has_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if has_gpu else 0
    return VmappedEngine(
        wish.graph,
        wish.weights,
        wish.cohort,
        wish.training,
        device="cuda" if has_gpu else "cpu",
        precision="auto" if has_gpu else "float32",
        budget_mib=_left(wish),
        device_budget_mib=0.8 * free / MIB if has_gpu else None,
        clip_norm=wish.clip_norm,
    )


def _ray(wish: _Wish) -> Engine:
    from galaxylearning.engines.ray_cluster import RayEngine, Recipe

    share = _left(wish) / (wish.workers + 1)
    recipe = Recipe.of(wish.graph, wish.weights, budget_mib=share)
    return RayEngine(
        recipe, wish.cohort, wish.training, workers=wish.workers, address=wish.address, budget_mib=share
    )


def _reference(wish: _Wish) -> Engine:
    from galaxylearning.engines.reference import ReferenceEngine

    model = _flat_model(wish)
    return ReferenceEngine(model, wish.cohort, wish.training, examples=model)


def _debug(wish: _Wish) -> Engine:
    from galaxylearning.engines.debug import DebugEngine

    return DebugEngine(_flat_model(wish), wish.cohort, wish.training, dump=wish.dump)


def _flat_model(wish: _Wish) -> FlatModel:
    """The model as the reference runs it, if one data owner's training fits what is left of the budget."""
    from galaxylearning.engines.batching import shapes_of
    from galaxylearning.graph.cost import meter
    from galaxylearning.graph.flat import FlatModel
    from galaxylearning.graph.weights import weights_from_bytes, weights_size

    _, widths = shapes_of(wish.cohort.counts, wish.training.plan)
    cost = meter(wish.graph, int(widths.max()))
    needed = _VECTORS * 4 * cost.parameters + 2 * cost.state_bytes + 2 * cost.activation_bytes
    require_budget(needed / MIB, _left(wish), "training one data owner")
    tensors = weights_from_bytes(wish.graph, wish.weights, max_bytes=weights_size(wish.graph))
    return FlatModel(wish.graph, tensors)


_BUILDERS: dict[Name, Callable[[_Wish], Engine]] = {
    "stacked": _stacked,
    "workers": _workers,
    "vmapped": _vmapped,
    "ray": _ray,
    "reference": _reference,
    "debug": _debug,
}
