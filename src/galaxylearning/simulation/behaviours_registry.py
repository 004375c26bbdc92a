"""Behaviours by name: those built in, those of plug-ins, and the text in which people ask for them.

``NAME[:argument,...][+NAME...]``, an argument being ``value`` or ``name=value``: ``scaled:factor=5``,
``label-noise:0.5+slow``. Plug-ins are registered by :func:`register`, or found as entry points of the group
``galaxylearning.behaviours``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from types import MappingProxyType, NoneType
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np

from galaxylearning.errors import ConfigRefused, GalaxyError
from galaxylearning.learning.vectors import F32, I64
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours_attack import Alie, InnerProduct, Mimic, MinMax, MinSum
from galaxylearning.simulation.behaviours_base import Acts, AttackView, Behaviour, Bool
from galaxylearning.simulation.behaviours_data import (
    Backdoor,
    LabelNoise,
    ShuffledLabels,
    SybilDuplicate,
    SybilSplit,
)
from galaxylearning.simulation.behaviours_free import (
    Absent,
    Honest,
    LastStep,
    Malformed,
    Noise,
    Scaled,
    SignFlip,
    Slow,
    Zero,
)

Factory: TypeAlias = Callable[..., Behaviour]

GROUP: Final = "galaxylearning.behaviours"
MAX_TEXT: Final = 500
MAX_PARTS: Final = 8
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLUS: Final = re.compile(r"\+(?=\s*[a-z])")

BUILT_IN: Final[Mapping[str, Factory]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Honest,
            Slow,
            Absent,
            Zero,
            Noise,
            LastStep,
            LabelNoise,
            ShuffledLabels,
            SignFlip,
            Scaled,
            Alie,
            InnerProduct,
            MinMax,
            MinSum,
            Mimic,
            Backdoor,
            Malformed,
            SybilSplit,
            SybilDuplicate,
        )
    }
)
_registered: dict[str, Factory] = {}


@dataclass(frozen=True, slots=True)
class Combined:
    """Several behaviours of one data owner, one after the other: ``label-noise+slow``.

    Data and updates go through all of them in order (each sees the update that the one before it made),
    delays multiply, and it is absent when any part is. At most one part acts in concert, and at most one
    enrols several identities.

    Raises:
        ConfigRefused: fewer than two parts or more than ``MAX_PARTS``, a combination in a combination, or two
            that act in concert or enrol several identities.
    """

    parts: tuple[Behaviour, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.parts) <= MAX_PARTS:
            raise ConfigRefused(f"2 to {MAX_PARTS} can be combined, not {len(self.parts)}", where="behaviour")
        if any(isinstance(part, Combined) for part in self.parts):
            raise ConfigRefused("a combination cannot be part of another", where="behaviour")
        if sum(part.acts == "together" for part in self.parts) > 1:
            raise ConfigRefused("only one part can act in concert with others", where=self.name)
        if sum(isinstance(part, (SybilSplit, SybilDuplicate)) for part in self.parts) > 1:
            raise ConfigRefused("only one part can enrol several identities", where=self.name)

    @property
    def name(self) -> str:
        """The parts' names, joined by ``+``."""
        return "+".join(part.name for part in self.parts)

    @property
    def trains(self) -> bool:
        """Whether all parts do: one that does not would throw the result away."""
        return all(part.trains for part in self.parts)

    @property
    def acts(self) -> Acts:
        """As the part does that knows most."""
        found = {part.acts for part in self.parts}
        return "together" if "together" in found else "alone" if "alone" in found else "never"

    @property
    def needs_honest(self) -> bool:
        """Whether a part does."""
        return any(part.needs_honest for part in self.parts)

    @property
    def delay(self) -> float:
        """The product."""
        return float(np.prod([part.delay for part in self.parts]))

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:
        """Through all parts in order."""
        for part in self.parts:
            rows = part.data(rows, classes=classes, rng=rng)
        return rows

    def split(self, n_rows: int, *, rng: np.random.Generator) -> Sequence[I64]:
        """As the part does that enrols several identities."""
        found = [part.split(n_rows, rng=rng) for part in self.parts]
        return max(found, key=len)

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:
        """Through all parts in order."""
        for part in self.parts:
            if part.acts != "never":
                view = _with_own(view, part.update(view, rng=rng))
        return view.own

    def absent(self, round_index: int, owners: I64, *, rng: np.random.Generator) -> Bool:
        """When any part is."""
        away = np.zeros(len(owners), np.bool_)
        for part in self.parts:
            away |= part.absent(round_index, owners, rng=rng)
        return away


def register(name: str, factory: Factory) -> None:
    """Make ``factory(**arguments)`` known as ``name``; its annotated parameters are its arguments.

    Raises:
        ConfigRefused: the name is taken, or not lower-case words joined by ``-``.
    """
    if not _NAME.fullmatch(name):
        raise ConfigRefused(f"{name!r}; lower-case words joined by '-' are allowed", where="behaviour name")
    if name in BUILT_IN or name in _registered:
        raise ConfigRefused(f"{name} is taken", where="behaviour name")
    _registered[name] = factory


def unregister(name: str) -> None:
    """Forget a registered behaviour.

    Raises:
        ConfigRefused: nothing of that name was registered.
    """
    if _registered.pop(name, None) is None:
        raise ConfigRefused(f"{name!r} was not registered", where="behaviour name")


def behaviour_names() -> tuple[str, ...]:
    """Every name that can be asked for; entry points are named, not loaded."""
    found = entry_points(group=GROUP)
    return tuple(dict.fromkeys((*BUILT_IN, *_registered, *sorted(found.names))))


def parse_behaviour(text: str) -> Behaviour:
    """The behaviour that ``NAME[:argument,...][+NAME...]`` asks for.

    Raises:
        ConfigRefused: an unknown name, argument or value; the message says what is allowed.
    """
    if len(text) > MAX_TEXT:
        raise ConfigRefused(f"{len(text)} characters; at most {MAX_TEXT} are allowed", where="behaviour")
    parts = tuple(_parse_one(part.strip()) for part in _PLUS.split(text))
    return parts[0] if len(parts) == 1 else Combined(parts)


def describe(behaviour: Behaviour) -> str:
    """The text that asks for it: its name, and the arguments that differ from their defaults."""
    if isinstance(behaviour, Combined):
        return "+".join(describe(part) for part in behaviour.parts)
    given: list[str] = []
    whole: object = behaviour
    if is_dataclass(whole) and not isinstance(whole, type):
        for one in fields(whole):
            value = getattr(whole, one.name)
            if one.default is MISSING or value != one.default:
                given.append(f"{one.name}={value:g}" if _is_short(value) else f"{one.name}={value}")
    return behaviour.name + (":" + ",".join(given) if given else "")


def _is_short(value: object) -> bool:
    """A float that ``:g`` does not round."""
    return isinstance(value, float) and float(f"{value:g}") == value


def _with_own(view: AttackView, own: F32) -> AttackView:
    return AttackView(
        view.round_index,
        view.params,
        view.owners,
        own,
        view.clip_norm,
        view.cohort_size,
        view.last_global_step,
        view.honest,
        view.honest_owners,
    )


def _parse_one(text: str) -> Behaviour:
    name, _, rest = text.partition(":")
    name = name.strip()
    factory = _factory(name)
    signature = inspect.signature(factory)
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    arguments: dict[str, object] = {}
    for number, word in enumerate(word for word in rest.split(",") if word.strip()):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            key, value = _positional(name, signature, number), key
        if key not in signature.parameters:
            raise ConfigRefused(f"no argument {key!r}; {_usage(signature)}", where=name)
        if key in arguments:
            raise ConfigRefused("is given twice", where=f"{name}.{key}")
        arguments[key] = _convert(value, hints.get(key, str), f"{name}.{key}")
    try:
        return factory(**arguments)
    except TypeError as error:
        raise ConfigRefused(f"{error}; {_usage(signature)}", where=name) from error


def _factory(name: str) -> Factory:
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in _registered:
        return _registered[name]
    for point in entry_points(group=GROUP, name=name):
        try:
            loaded = point.load()
        except (ImportError, AttributeError, GalaxyError) as error:
            raise ConfigRefused(f"the plug-in {point.value} did not load: {error}", where=name) from error
        if not callable(loaded):
            raise ConfigRefused(f"the plug-in {point.value} cannot be called", where=name)
        factory: Factory = loaded
        return factory
    known = ", ".join(behaviour_names())
    raise ConfigRefused(f"there is no {name[:60]!r}; allowed: {known}", where="behaviour")


def _positional(name: str, signature: inspect.Signature, number: int) -> str:
    names = [
        key
        for key, parameter in signature.parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if number >= len(names):
        raise ConfigRefused(
            f"too many values; {_usage(signature)} (for several data owners write @x3 after it)", where=name
        )
    return names[number]


def _usage(signature: inspect.Signature) -> str:
    found = [
        key if parameter.default is parameter.empty else f"{key}={parameter.default}"
        for key, parameter in signature.parameters.items()
    ]
    return f"allowed: {', '.join(found)}" if found else "it takes no arguments"


def _convert(text: str, hint: Any, where: str) -> object:
    """``text`` as the annotated type: int, float, bool, str, one of some words, or None."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        if text not in options:
            raise ConfigRefused(
                f"must be one of {', '.join(map(str, options))}, not {text[:60]!r}", where=where
            )
        return text
    if NoneType in options:
        if text == "none":
            return None
        (hint,) = (one for one in options if one is not NoneType)
    if hint is bool:
        if text not in ("true", "false"):
            raise ConfigRefused(f"must be true or false, not {text[:60]!r}", where=where)
        return text == "true"
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise ConfigRefused(f"must be {kind}, not {text[:60]!r}", where=where) from None
